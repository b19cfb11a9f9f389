"""Writes docs/reference/: commands, classes, configurations and the Python API, from the code and its docstrings.

    python docs/reference.py            write the pages anew
    python docs/reference.py --check    say which of them are out of date, and write nothing

Options come from the parsers that `seal COMMAND --help` prints, so that a new command or option needs no line here;
what a class or function is for comes from its docstring. A test compares the pages with the code. Left out: the words
of other packages (of Lightning's trainer options the names and defaults stand here, not their description).
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import importlib
import inspect
import pkgutil
import re
import sys
import textwrap
import typing
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

from docstring_parser import Docstring, DocstringStyle
from docstring_parser import parse as parse_docstring
from jsonargparse import Namespace
from lightning.pytorch import LightningModule, Trainer

import seal_lightning
from seal_lightning.cli import main
from seal_lightning.commands.continual import Countermeasure
from seal_lightning.commands.names import COMMANDS
from seal_lightning.data import Reader, SEALDataModule
from seal_lightning.fit.executors import Executor
from seal_lightning.fit.module import SEALModule
from seal_lightning.fit.strategies import ZeROStrategy
from seal_lightning.fit.trainer import SEALTrainer
from seal_lightning.generator.base import Generator
from seal_lightning.generator.objectives import Objective
from seal_lightning.grading import Grader, RewardTerm
from seal_lightning.hooks import EditFilter, SEALCallback
from seal_lightning.sampling import Answerer, Sampler
from seal_lightning.tasks import Task

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs" / "reference"
GENERATED = "<!-- Written by docs/reference.py from the code; change that, and run it again. -->\n"

# What users name by class_path: where it goes in a configuration, and what it is a subclass of.
KINDS: dict[str, tuple[str, type]] = {
    "Tasks": ("model.task", Task),
    "Generators": ("model.generator", Generator),
    "Objectives": ("model.objective", Objective),
    "Samplers": ("model.sampler` or `model.evaluation_sampler", Sampler),
    "Answerers": ("model.answerer", Answerer),
    "Graders": ("model.grader", Grader),
    "Reward terms": ("model.reward", RewardTerm),
    "Readers": ("data.train`, `data.validation`, `data.test` or `data.predict", Reader),
    "Data modules": ("data", SEALDataModule),
    "Filters": ("filter", EditFilter),
    "Callbacks": ("trainer.callbacks", SEALCallback),
    "Countermeasures": ("countermeasures` of `seal continual", Countermeasure),
    "Executors": ("trainer.executor", Executor),
    "Strategies": ("trainer.strategy", ZeROStrategy),
}
OUTSIDE_PACKAGES = ("seal_lightning.callbacks", "seal_lightning.fit.strategies")  # what pkgutil does not find
# Options that come from other packages, in our words.
OWN_WORDS = {
    "config": "YAML or JSON with any of these options; several are merged in order.",
    "seed_everything": "Not needed: everything random follows `model.seed`.",
    "ckpt_path": "A checkpoint: `last`, `best` or a file.",
}
NOT_SHOWN = ("--help", "--print_config")  # of every command


# -- what the code says ------------------------------------------------------------------------------------------------


@cache
def parser_of(command: str, *options: str) -> argparse.ArgumentParser:
    """The parser that `seal COMMAND OPTIONS --help` prints."""
    found: list[argparse.ArgumentParser] = []
    asked = mock.patch("seal_lightning.cli.help_text", lambda command: None)  # and not the file with its texts
    with asked, mock.patch.object(argparse.ArgumentParser, "print_help", lambda self, file=None: found.append(self)):
        main([command, *options, "--help"])
    (parser,) = found
    return parser


def docstring(thing: Any) -> Docstring:
    return parse_docstring(inspect.getdoc(thing) or "", style=DocstringStyle.GOOGLE)


def described(thing: Any) -> str:
    """A docstring without its sections, as Markdown: what is indented there is a block of code."""
    found = docstring(thing)
    gap = "\n\n" if found.blank_after_short_description else "\n"
    text = gap.join(part for part in (found.short_description, found.long_description) if part)
    return re.sub(
        r"((?:^ {4}.*\n?)+)",
        lambda block: f"\n```text\n{textwrap.dedent(block[1]).rstrip()}\n```\n\n",
        text,
        flags=re.M,
    ).strip()


@cache
def classes(base: type) -> dict[str, type]:
    """The public concrete classes of the package below `base`, by class path."""
    packages = [f"seal_lightning.{info.name}" for info in pkgutil.iter_modules(seal_lightning.__path__) if info.ispkg]
    found: dict[str, type] = {}
    for name in sorted({*packages, *OUTSIDE_PACKAGES}):
        module = importlib.import_module(name)
        for public in getattr(module, "__all__", []) if hasattr(module, "__path__") else names_in(module):
            thing = getattr(module, public)
            usable = inspect.isclass(thing) and not inspect.isabstract(thing) and not thing.__module__.endswith(".base")
            if usable and issubclass(thing, base):
                found.setdefault(f"{name}.{public}", thing)
    return {path: thing for path, thing in found.items() if path == shortest(thing, found)}


def shortest(thing: type, found: dict[str, type]) -> str:
    return min((path for path, other in found.items() if other is thing), key=lambda path: (len(path), path))


def names_in(module: ModuleType) -> list[str]:
    """The public classes and functions that a module defines, in their order there."""
    tree = ast.parse(inspect.getsource(module))
    defined = [node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    return [name for name in defined if not name.startswith("_")]


# -- Markdown ----------------------------------------------------------------------------------------------------------


def cell(text: object) -> str:
    """As one cell of a table."""
    return " ".join(str(text).split()).replace("``", "`").replace("|", "\\|")


def table(header: str, rows: list[tuple[object, ...]]) -> str:
    if not rows:
        return ""
    columns = header.split("|")
    lines = ["| " + " | ".join(name.strip() for name in columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join([*lines, *("| " + " | ".join(map(cell, row)) + " |" for row in rows)]) + "\n"


def code(value: object) -> str:
    return f"`{value}`" if str(value) else ""


def type_text(hint: Any) -> str:
    """A type as one writes it: without modules, `null` for None, the values of a literal."""
    if hint is inspect.Parameter.empty:
        return ""
    if hint is type(None):
        return "null"
    if typing.get_origin(hint) is typing.Literal:
        return ", ".join(map(str, typing.get_args(hint)))
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Union or type(hint).__name__ == "UnionType":
        return " or ".join(type_text(one) for one in arguments)
    name = getattr(hint, "__name__", str(hint))
    inner = [one for one in arguments if one is not Ellipsis]
    return f"{name} of {', '.join(map(type_text, inner))}" if inner else name


def value_text(value: Any) -> str:
    """A default as YAML has it; settings that are classes of their own stand among the options."""
    if value is inspect.Parameter.empty or value == argparse.SUPPRESS or callable(value):
        return ""
    if isinstance(value, Namespace):
        return value.class_path
    if isinstance(value, Path):
        return value.name if value.is_absolute() else value.as_posix()
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if dataclasses.is_dataclass(value):
        changed = {
            field.name: getattr(value, field.name)
            for field in dataclasses.fields(value)
            if getattr(value, field.name) != field.default
        }
        return ", ".join(f"{name}: {value_text(one)}" for name, one in changed.items())
    return str(value)


# -- commands ----------------------------------------------------------------------------------------------------------

Option = tuple[str, str, str, str]  # name, type, default, text


def options(command: str) -> dict[str, list[Option]]:
    """The options of a command by the heading under which `--help` lists them."""
    ours = {param.arg_name for param in docstring(SEALTrainer).params}
    lightning = set(inspect.signature(Trainer.__init__).parameters) - ours
    groups: dict[str, list[Option]] = {}
    for group in parser_of(command)._action_groups:
        for action in group._group_actions:
            found = _option(action)
            if found is None:
                continue
            theirs = found[0].startswith("--trainer.") and found[0].removeprefix("--trainer.") in lightning
            heading = "Lightning's own options of the trainer" if theirs else str(group.title or "options")
            groups.setdefault(heading, []).append((*found[:3], "" if theirs else found[3]))
    return groups


def _option(action: argparse.Action) -> Option | None:
    """None for what every parser has (--help) and for groups, whose options stand below."""
    name = action.option_strings[-1] if action.option_strings else str(action.metavar)
    name = next((one for one in action.option_strings if one.startswith("--") and not one.endswith("+")), name)
    whole_group = type(action).__name__ == "_ActionConfigLoad"
    if whole_group or action.help == argparse.SUPPRESS or name in NOT_SHOWN or name.endswith(".help"):
        return None
    hint = getattr(action, "_typehint", None) or action.type
    kind = type_text(hint) if hint else ""
    if not kind and action.choices:
        kind = ", ".join(map(str, action.choices))
    if action.nargs == 0:
        kind = "a switch"
    text = str(action.help or "")
    if type(action).__name__ != "_StoreAction":  # argparse's own, with words of ours
        text = OWN_WORDS.get(str(action.dest), "" if text.startswith("One or more arguments") else text)
    return name, kind, value_text(action.default), text.replace("%%", "%")


def command_page() -> str:
    parts = [
        GENERATED,
        "# Commands\n",
        "`seal COMMAND --help` prints the same, `--print_config` the whole configuration as YAML. An option with dots "
        "is a level of YAML for each: `--model.inner_loop.rank 16` is `model: {inner_loop: {rank: 16}}`. Where a type "
        "is a class, [classes](classes.md) has those that come with the package, and `--model.task.edit facts` sets an "
        "option of the class that is chosen.\n",
    ]
    like_fit = options("fit")
    for command, text in ((name, row.about) for name, row in COMMANDS.items()):
        parser = parser_of(command)
        usage = re.sub(r"\s+", " ", parser.format_usage().removeprefix("usage: ")).strip()
        parts += [f"## seal {command}\n", f"{text[0].upper()}{text[1:]}.\n", f"```text\n{usage}\n```\n"]
        description = " ".join((parser.description or "").split())
        if description and description.rstrip(".") != text.rstrip("."):
            parts.append(f"{description}\n")
        groups = options(command)
        if command != "fit":
            known = {row for rows in like_fit.values() for row in rows}
            shared = [title for title, rows in groups.items() if set(rows) <= known]
            if {row for rows in groups.values() for row in rows} == known:
                parts.append("The options are those of `seal fit`.\n")
            elif shared:
                parts.append(f"As in `seal fit`: {'; '.join(shared)}.\n")
            groups = {title: rows for title, rows in groups.items() if title not in shared}
        for title, rows in groups.items():
            if title not in ("options", "positional arguments"):
                parts.append(f"**{title}**\n")
            if title.startswith("Lightning"):
                parts.append(table("option|default", [(code(name), code(default)) for name, _, default, _ in rows]))
            else:
                parts.append(
                    table("option|type|default|", [(code(n), kind, code(d), text) for n, kind, d, text in rows])
                )
        if parser.epilog:
            parts.append(f"{parser.epilog}\n")
    return "\n".join(parts)


# -- classes -----------------------------------------------------------------------------------------------------------


def parameters(thing: type) -> Iterator[tuple[str, str, str, str]]:
    """Name, type, default and text of what `init_args` may hold, of the class and what it inherits the options from."""
    signature = inspect.signature(thing)
    texts: dict[str, str] = {}
    for base in reversed(thing.__mro__):
        if base.__module__.startswith("seal_lightning"):
            texts |= {param.arg_name: param.description or "" for param in docstring(base).params}
    hints = _hints(thing)
    for name, parameter in signature.parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        required = parameter.default is inspect.Parameter.empty
        default = "required" if required else code(value_text(parameter.default))
        yield name, type_text(hints.get(name, inspect.Parameter.empty)), default, texts.get(name, "")


def settings() -> dict[str, type]:
    """Classes of options within the options of classes, such as an endpoint; by the path to import them from."""
    direct = list(typing.get_type_hints(SEALModule.__init__).values())
    within = [hint for one in direct if dataclasses.is_dataclass(one) for hint in _hints(one).values()]
    hints = [hint for hint in (*direct, *within) if typing.get_args(hint)]  # the options of others are the command's
    for _, base in KINDS.values():
        for thing in classes(base).values():
            hints += _hints(thing).values()
    found: dict[str, type] = {}
    while hints:
        hint = hints.pop()
        hints += typing.get_args(hint)
        bases = tuple(base for _, base in KINDS.values())
        if not inspect.isclass(hint) or not hint.__module__.startswith("seal_lightning") or issubclass(hint, bases):
            continue
        package = hint.__module__.rpartition(".")[0]
        public = getattr(importlib.import_module(package), hint.__name__, None) is hint
        path = f"{package if public else hint.__module__}.{hint.__name__}"
        if path not in found:
            found[path] = hint
            hints += _hints(hint).values()
    return dict(sorted(found.items()))


def _hints(thing: type) -> dict[str, Any]:
    owner = next((base for base in thing.__mro__ if "__init__" in vars(base)), thing)
    return {} if owner is object else typing.get_type_hints(owner.__init__)


def class_entry(path: str, thing: type) -> list[str]:
    rows = [(code(name), kind, default, text) for name, kind, default, text in parameters(thing)]
    return [f"### {path}\n", described(thing) + "\n", table("option|type|default|", rows)]


def class_page() -> str:
    parts = [
        GENERATED,
        "# Classes\n",
        "What a configuration names by `class_path`, with its options (`init_args`). A class of your own goes in the "
        "same places: [own task](../howto/own-task.md), [own grader](../howto/own-grader.md), "
        "[everything else](../extending.md).\n",
    ]
    for title, (place, base) in KINDS.items():
        found = classes(base)
        others = [kind for kind, (_, other) in KINDS.items() if other is not base and issubclass(other, base)]
        mine = {
            path: thing
            for path, thing in found.items()
            if not any(issubclass(thing, KINDS[kind][1]) for kind in others)
        }
        parts += [f"## {title}\n", f"For `{place}`; subclasses of `{base.__module__}.{base.__name__}`.\n"]
        for path, thing in mine.items():
            parts += class_entry(path, thing)
    parts += ["## Settings\n", "Options of options: a mapping with these names, without a `class_path`.\n"]
    for path, thing in settings().items():
        parts += class_entry(path, thing)
    return "\n".join(part for part in parts if part)


# -- configurations ----------------------------------------------------------------------------------------------------


def config_page() -> str:
    parts = [
        GENERATED,
        "# Configurations\n",
        "The files under `configs/`, each with the command that its first line has.\n",
    ]
    for path in sorted((ROOT / "configs").rglob("*.yaml")):
        lines = path.read_text(encoding="utf-8").splitlines()
        comments: list[str] = []
        for line in lines:
            if not line.startswith("#"):
                break
            comments.append(line.removeprefix("#").strip())
        launch = comments[0] if re.match(r"(env |torchrun |seal )", comments[0]) else ""
        parts.append(f"## {path.relative_to(ROOT).as_posix()}\n")
        if launch:
            command, _, remark = launch.partition("  ")
            parts.append(f"```text\n{command}\n```\n")
            comments = [remark.strip(), *comments[1:]]
        parts.append(" ".join(line for line in comments if line) + "\n")
    return "\n".join(parts)


# -- the Python API ----------------------------------------------------------------------------------------------------


def sections(thing: Any) -> str:
    """The sections of a docstring (Args, Attributes, Returns, Raises) as a list."""
    found = docstring(thing)
    lines = [f"- `{param.arg_name}`: {cell(param.description or '')}" for param in found.params]
    if found.returns and found.returns.description:
        lines.append(f"- returns: {cell(found.returns.description)}")
    lines += [f"- raises `{error.type_name}`: {cell(error.description or '')}" for error in found.raises]
    return "\n".join(lines).replace("\\|", "|")


def signature_of(node: ast.FunctionDef) -> str:
    """As it stands in the source, without `self`."""
    arguments = re.sub(r"^(self|cls)(, )?", "", ast.unparse(node.args))
    return f"({arguments})" + (f" -> {ast.unparse(node.returns)}" if node.returns else "")


def api_entry(path: str, thing: Any) -> Iterator[str]:
    """A public class or function: its signature, what it is for, and the methods that have a docstring."""
    node = ast.parse(textwrap.dedent(inspect.getsource(thing))).body[0]
    assert isinstance(node, ast.ClassDef | ast.FunctionDef)
    yield f"### {path}\n"
    yield f"```python\n{_headline(node)}\n```\n"
    yield described(thing) + "\n"
    if text := sections(thing):
        yield text + "\n"
    if isinstance(node, ast.ClassDef) and not issubclass(thing, LightningModule | Trainer):  # those call themselves
        yield from _methods(node, thing)


def _headline(node: ast.ClassDef | ast.FunctionDef) -> str:
    if isinstance(node, ast.FunctionDef):
        return f"def {node.name}{signature_of(node)}"
    bases = f"({', '.join(map(ast.unparse, node.bases))})" if node.bases else ""
    inits = [one for one in node.body if isinstance(one, ast.FunctionDef) and one.name == "__init__"]
    fields = [ast.unparse(one) for one in node.body if isinstance(one, ast.AnnAssign)]
    fields = [one for one in fields if not one.startswith("_") and "ClassVar" not in one]
    inner = [f"    def __init__{signature_of(inits[0])}"] if inits else [f"    {field}" for field in fields]
    return "\n".join([f"class {node.name}{bases}:", *inner]) if inner else f"class {node.name}{bases}: ..."


def _methods(node: ast.ClassDef, thing: type) -> Iterator[str]:
    for one in node.body:
        if not isinstance(one, ast.FunctionDef) or one.name.startswith("_") or not ast.get_docstring(one):
            continue
        kinds = {ast.unparse(decorator) for decorator in one.decorator_list}
        call = "" if kinds & {"property", "cached_property"} else signature_of(one)
        text = sections(getattr(thing, one.name)) if call else ""
        yield f"`{node.name}.{one.name}{call}`\n" if call else f"`{node.name}.{one.name}`\n"
        yield (described(getattr(thing, one.name)) if call else ast.get_docstring(one) or "") + "\n"
        if text:
            yield text + "\n"


def public_names() -> dict[str, list[str]]:
    """The names of `seal_lightning`, by the comments above them in its list."""
    lines = inspect.getsource(seal_lightning).partition("__all__ = [")[2].partition("]")[0].splitlines()[1:]
    groups: dict[str, list[str]] = {}
    for line in map(str.strip, lines):
        if line.startswith("#"):
            groups[line.removeprefix("#").strip()] = []
        else:
            list(groups.values())[-1].extend(name for name in re.findall(r'"(\w+)"', line) if name != "__version__")
    return groups


def api_page() -> str:
    parts = [
        GENERATED,
        "# Python API\n",
        "The names of `seal_lightning`, each imported when it is first asked for. Names that are neither here nor on "
        "[classes](classes.md) may change without notice.\n",
    ]
    for group, names in public_names().items():
        parts.append(f"## {group[0].upper()}{group[1:]}\n")
        for name in names:
            parts += api_entry(f"seal_lightning.{name}", getattr(seal_lightning, name))
    return "\n".join(parts)


# -- pages -------------------------------------------------------------------------------------------------------------

MAKERS: dict[str, Callable[[], str]] = {
    "commands.md": command_page,
    "classes.md": class_page,
    "configurations.md": config_page,
    "python.md": api_page,
}


def stale(names: list[str] | None = None) -> list[str]:
    """The pages that differ from what the code says."""
    return [name for name in names or MAKERS if not (PAGES / name).exists() or (PAGES / name).read_text() != page(name)]


def page(name: str) -> str:
    return re.sub(r"\n{3,}", "\n\n", MAKERS[name]()).rstrip() + "\n"


def run(arguments: list[str]) -> int:
    if arguments == ["--check"]:
        found = stale()
        print("\n".join(f"docs/reference/{name} is out of date: python docs/reference.py" for name in found), end="")
        return 1 if found else 0
    PAGES.mkdir(exist_ok=True)
    for name in MAKERS:
        (PAGES / name).write_text(page(name), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
