"""What is wrong with a configuration, in one line: the option, what was expected, what was given, what to do.

jsonargparse names the right option but wraps it in lists of types and Python objects; here its messages are cut down to
the useful part. Config files are checked before anything heavy is imported. Nothing here parses options.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import itertools
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from seal_lightning.errors import ConfigError, SealError
from seal_lightning.options.config_files import read_config
from seal_lightning.text.escaping import visible

TYPE_NAMES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "NoneType": "null",
    "list": "a list",
    "tuple": "a list",
    "Iterable": "a list",
    "dict": "a mapping",
}
_TYPE = re.compile(r"Expected an? (?:<class '(?:[\w.]*\.)?(\w+)'>|typing\.Literal\[(.*?)\]|(tuple with \d+ elements))")
_BOOLEANS = ("true", "false", "yes", "no", "on", "off")
_EXAMPLES = ("trainer.max_epochs 2", "output NAME", "log_level info")
_NOISE = ("Does not validate", "Subtypes:", "Errors:", "Given value", "Parser key", "Expected a path but", "Unable to")


@dataclass(frozen=True)
class Given:
    """What the user gave to a command."""

    command: str = ""
    args: Sequence[str] = ()
    files: Sequence[tuple[str, Mapping[str, object]]] = ()  # config files, by name and with their contents
    options: Sequence[str] = ()  # that the command has
    switches: Sequence[str] = ()  # options that take no value

    def where(self, key: str) -> str:
        """An option as the user gave it: `--key` on the command line, `key in FILE` in a file, else `key`."""
        names = (f"--{key}", f"--{key}.class_path")
        if any(arg == name or arg.startswith((f"{name}=", f"{name}+=")) for arg in self.args for name in names):
            return f"--{key}"
        parts = key.split(".")
        holders = [path for path, content in self.files if _holds(content, parts)]
        return f"{key} in {holders[-1]}" if holders else key


def read_config_files(args: Sequence[str]) -> list[tuple[str, Mapping[str, object]]]:
    """The config files that `args` name, with their contents.

    Raises:
        ConfigError: A file cannot be read, is neither YAML nor JSON, is not a mapping, or repeats a key.
    """
    files = []
    for place, arg in enumerate(args):
        if arg in ("-c", "--config") and place + 1 < len(args):
            path = args[place + 1]
        elif arg.startswith("--config="):
            path = arg.partition("=")[2]
        else:
            continue
        content = read_config("--config", path)
        if not isinstance(content, Mapping):
            got = "an empty file" if content is None else TYPE_NAMES.get(type(content).__name__, "something else")
            raise ConfigError(f"--config {path}: expected options such as `trainer: {{max_epochs: 1}}`, got {got}")
        files.append((path, content))
    return files


def given_options(args: Sequence[str], files: Sequence[tuple[str, Mapping[str, object]]]) -> list[str]:
    """The full names of the options that a command line and its config files set.

    >>> given_options(["--keep=2", "--model.seed", "1"], [("a.yaml", {"model": {"grader": {"class_path": "x.Y"}}})])
    ['keep', 'model.seed', 'model.grader.class_path']
    """
    named = [arg[2:].partition("=")[0].rstrip("+") for arg in args if arg.startswith("--")]
    return named + [option for _, content in files for option, _ in flat_options(content)]


def check_switches(given: Given) -> None:
    """Raises `ConfigError` where a switch is followed by true or false, which would be taken for a file.

    >>> check_switches(Given(args=["notes.md", "--merged", "true"], switches=["merged"]))
    Traceback (most recent call last):
    seal_lightning.errors.ConfigError: --merged takes no value, got true: write --merged alone, or leave it out
    """
    for arg, following in itertools.pairwise([*given.args, ""]):
        name, equals, value = arg.partition("=")
        if not (name.startswith("--") and name[2:] in given.switches):
            continue
        if equals or following.lower() in _BOOLEANS:
            raise ConfigError(f"{name} takes no value, got {value or following}: write {name} alone, or leave it out")


def explain(message: str, given: Given = Given()) -> str:
    """A message of jsonargparse as one line."""
    message = visible(message)  # so that a carriage return in a value does not end a line
    if match := re.match(r"unrecognized arguments: (.*)", message, re.DOTALL):
        return _unknown_argument(match[1].split(), given)
    if match := re.search(r"argument (?:-\w/)?(--\S+): expected one argument", message):
        return f"{match[1]}: expected a value, got none; write {match[1]} VALUE"
    if match := re.match(r"Subcommand '\w+' does not accept option '([^']+)'", message):
        return _unknown_option(match[1], given)
    body = message.split("Given value type:")[0]
    key, got = _got(message, _join(re.findall(r'Parser key "([\w.]+)"', body)))
    return _option_error(key, got, _innermost(body), given)


def locate(text: str, config: Mapping[str, object]) -> str:
    """`edits must be ..., got 0` with the option's full name, if only one option of `config` can be meant."""
    match = re.match(r"([\w.]+) (?:and [\w.]+ )?must .*?\bgot ([^:;,]+)", text)
    if not match:
        return text
    name, got = match.groups()
    full = [
        key
        for key, value in flat_options(config)
        if f".{key}".endswith(f".{name}") and got.strip() in (str(value), repr(value))
    ]
    return full[0] + text[len(name) :] if len(full) == 1 else text


@contextmanager
def located(config: Mapping[str, object]) -> Iterator[None]:
    """Name the option of `config` from whose value an object could not be made.

    Raises:
        ConfigError: A constructor raised an error; other errors of ours pass unchanged.
    """
    try:
        yield
    except (ValueError, TypeError) as error:
        if isinstance(error, SealError) and not isinstance(error, ConfigError):
            raise
        text = str(error) if isinstance(error, ConfigError) else explain(str(error))
        raise ConfigError(locate(text, config)) from error


def one_line(text: str, longest: int = 600) -> str:
    """The text on one line, shortened if it is too long."""
    flat = re.sub(r"\s+", " ", text).strip()
    return flat if len(flat) <= longest else flat[: longest - 3] + "..."


# -- messages ----------------------------------------------------------------------------------------------------------


def _option_error(key: str, got: str, body: str, given: Given) -> str:
    """The message about an option, from what jsonargparse says about its value."""
    where = given.where(key) if key else "configuration"
    subtypes = " ".join(re.findall(r"Subtypes: (.*)", body))
    bases = [base for base in re.findall(r"<class '([\w.]+)'>", subtypes) if _known_classes(base)]
    if match := re.search(r"Option '([^']+)' is not accepted", body):
        kinds = [kind for base in bases for kind in _known_classes(base)]
        choices = [f"{key}.{name}" for kind in kinds for name in inspect.signature(kind).parameters if name != "kwargs"]
        return _unknown_option(f"{key}.{match[1]}".removeprefix("."), replace(given, options=choices or given.options))
    if re.search(r"instantiatable class, but [\w.]+ is abstract", body):
        statements = [line.strip() for line in body.splitlines()]
        if inner := [word for line in statements if "Got value" in line for word in _types(line)]:
            return f"{where}: expected {_or(inner)}, got {got}"  # a mapping's values
        return f"{where}: expected a class_path {_which(bases)}, got none; set {key}.class_path first"
    if re.search(r"Expected a dot import path string|Unexpected import path format", body):
        return f"{where}: expected a class_path {_which(bases)}, got {got}"
    if match := re.search(r"Problem with given class_path '([^']+)':(.*?)(?=\n\s*- |\Z)", body, re.DOTALL):
        return f"{where}: class_path {match[1]} cannot be used: {one_line(match[2], 200)}"
    if match := re.search(r"does not correspond to (a subclass of \w+)", body):
        return f"{where}: expected {match[1]}, got {got}"
    lines = [line.strip().removeprefix("- ") for line in body.splitlines()]
    lines = [line for line in lines if line and not line.startswith(_NOISE)]
    if others := [line for line in lines if not _TYPE.search(line)]:
        is_ours = not key or re.match(r"[\w.]+ must ", others[0])
        return others[0] if is_ours else f"{where}: {one_line(others[0])}"
    types = list(dict.fromkeys(word for line in lines for word in _types(line)))
    if any(word.isdigit() for word in types):  # a list of numbers, which says more
        types = [word for word in types if word != "a whole number"]
    if types:
        return f"{where}: expected {_or(types)}, got {got}"
    if "Unable to load config" in body:
        return f"{where}: expected a mapping or a file with one, got {got}; set its parts, as in --{key}.NAME VALUE"
    return f"{where}: {one_line(body)}"


def _unknown_argument(words: Sequence[str], given: Given) -> str:
    word = words[0]
    if not word.startswith("-"):
        before = next((arg for arg, following in itertools.pairwise(given.args) if following == word), "")
        if before.startswith("--") and before[2:] in given.switches:
            return f"{before} takes no value, got {word!r}: write {before} alone, or leave it out"
        example = next((text for text in _EXAMPLES if text.partition(" ")[0] in given.options), "NAME VALUE")
        return f"unexpected argument {word!r}; options are written --{example}"
    return _unknown_option(word.partition("=")[0].lstrip("-").rstrip("+"), given)


def _unknown_option(key: str, given: Given) -> str:
    """Names the option and the nearest one, by its whole name or else by its last part."""
    if key in given.options:  # another class has it
        return f"{given.where(key)}: the chosen class has no such option (see seal {given.command} --help)"
    near = difflib.get_close_matches(key, given.options, n=1, cutoff=0.75)
    if not near:
        last = key.rpartition(".")[2]
        ends = {option.rpartition(".")[2]: option for option in given.options}
        near = [ends[end] for end in difflib.get_close_matches(last, list(ends), n=1, cutoff=0.8)]
    where = given.where(key)
    advice = f"did you mean {'--' if where.startswith('--') else ''}{near[0]}?" if near else "check the spelling"
    return f"{where}: unknown option; {advice} (seal {given.command} --help lists every option)"


def _got(message: str, key: str) -> tuple[str, str]:
    """The option, with the part that a nested argument adds, and the value that was given."""
    if match := re.search(r"NestedArg\(key='([^']*)', val=(.*)\)\s*$", message, re.DOTALL):
        nested = match[1].removeprefix("init_args.")
        if nested != "class_path" and not f".{key}".endswith(f".{nested}") and "is not accepted" not in message:
            key = f"{key}.{nested}"
        return key, one_line(match[2], 80)
    values = re.findall(r"Got value: (.*)", message) or re.findall(r"Given value: (.*)", message)
    values = values or re.findall(r"load config ['\"](.*)['\"]", message)
    return key, (repr(values[-1].strip()[:80]) if values else "something else")


def _types(line: str) -> Iterator[str]:
    if match := _TYPE.search(line):
        name, literals, words = match.groups()
        if literals is not None:
            yield from (str(value) for value in ast.literal_eval(f"[{literals}]"))
        else:
            yield TYPE_NAMES.get(name, f"a {name}") if name else words.replace("tuple", "a list")


def _join(keys: Sequence[str]) -> str:
    """The full name from outer and inner keys, where an inner key may be a full name already."""
    full = ""
    for key in keys:
        full = key if f"{key}.".startswith(f"{full}.") or not full else f"{full}.{key}"
    return full


def _innermost(body: str) -> str:
    """The part about the last key: the lines below it that are indented further."""
    if body.count('Parser key "') < 2:
        return body
    before, _, after = body.rpartition('Parser key "')
    indent = len(before) - before.rfind("\n")  # of the lines below, with their line break
    inner = itertools.takewhile(lambda line: not line[:indent].strip(" -"), after.splitlines()[1:])
    return "\n".join(inner) or body


def _or(words: Sequence[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _known_classes(base: str) -> list[type]:
    """The imported concrete classes below a base class."""
    module, _, name = base.rpartition(".")
    kind = getattr(sys.modules.get(module), name, None)
    if not isinstance(kind, type) or kind.__module__ == "builtins":
        return []
    below = [kind, *(sub for child in kind.__subclasses__() for sub in _known_classes(_path(child)))]
    return [
        sub
        for sub in dict.fromkeys(below)
        if not sub.__name__.startswith("_")  # nor abstract, even without the metaclass that enforces it
        and not any(getattr(getattr(sub, name, None), "__isabstractmethod__", False) for name in dir(sub))
    ]


def _which(bases: Sequence[str]) -> str:
    """`such as seal_lightning.tasks.Knowledge` (its shortest spelling), or `of a Callback` if no class is ours."""
    ours = [_path(kind) for base in bases if base.startswith("seal_lightning.") for kind in _known_classes(base)]
    if ours:
        return "such as " + _or([_short(path) for path in ours])
    return f"of a {bases[0].rpartition('.')[2]}" if bases else "of a class"


def _short(path: str) -> str:
    """As `seal_lightning.tasks.Knowledge`, where the room offers the class."""
    room, name = ".".join(path.split(".")[:2]), path.rpartition(".")[2]
    return f"{room}.{name}" if hasattr(sys.modules.get(room), name) else path


def _path(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _holds(content: object, parts: Sequence[str]) -> bool:
    if not parts:
        return True
    if not isinstance(content, Mapping):
        return False
    return _holds(content.get("init_args"), parts) or (parts[0] in content and _holds(content[parts[0]], parts[1:]))


def flat_options(config: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    """(option, value) of a nested configuration; `init_args` is not part of an option's name."""
    if not isinstance(config, Mapping):
        yield prefix, config
        return
    for key, value in config.items():
        yield from flat_options(value, prefix if key == "init_args" else f"{prefix}.{key}".lstrip("."))
