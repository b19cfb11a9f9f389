"""Imports between rooms go down, nothing imports in a circle, and Lightning's private names stay in fit/.

The rules are functions from source text to complaints, so that each of them is also shown to complain. The rooms and
their order are in `docs/rooms.py`. Imports inside functions and under TYPE_CHECKING count like any other, but for those
of Lightning's types under TYPE_CHECKING.
"""

import ast
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib.util import find_spec
from pathlib import Path

import pytest
import rooms

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "seal_lightning"
HEIGHT = {room: height for height, room in enumerate(rooms.ROOMS)}
LIGHTNING = {"lightning", "lightning_fabric", "pytorch_lightning"}
# Below fit/, Lightning is imported where a class of the user's own would subclass it, and nowhere else.
LIGHTNING_BELOW_FIT = re.compile(r"data\.datamodule|hooks|trackers\.\w+|callbacks\.\w+")
ROOT_CALLBACK = re.compile(r"(?<![\w./-])callbacks(\.[A-Za-z_]\w*)+")
FREE_NAMES = {"__version__"}  # what any room may take from seal_lightning itself


@dataclass(frozen=True, slots=True)
class Import:
    """One imported name: `from source import name`, or `import source` with an empty name."""

    line: int
    source: str
    name: str = ""
    is_typing: bool = False  # under TYPE_CHECKING

    @property
    def root(self) -> str:
        return self.source.partition(".")[0]


def imports(text: str, module: str, *, is_package: bool = False) -> Iterator[Import]:
    """Every import of a source, at any depth, under TYPE_CHECKING too; relative ones are made absolute."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    tree = ast.parse(text)
    blocks = [n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    typing = {node for block in blocks for statement in block.body for node in ast.walk(statement)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Import(node.lineno, alias.name, is_typing=node in typing) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            yield from (Import(node.lineno, source, alias.name, node in typing) for alias in node.names)


def room_of(module: str) -> str:
    """`seal_lightning.inner_loop.bank` -> `inner_loop`; the package itself -> `__init__`."""
    return [*module.split("."), "__init__"][1]


def imported_room(item: Import) -> str | None:
    """The room that an import reaches, or None where it reaches none or a free name."""
    if item.root != PACKAGE or (item.source == PACKAGE and item.name in FREE_NAMES):
        return None
    if item.source != PACKAGE:
        return room_of(item.source)
    return item.name if item.name in HEIGHT else "__init__"


def room_complaints(text: str, module: str, *, is_package: bool = False) -> list[str]:
    """Imports that go up or reach what is not in the list, and Lightning where it is not expected."""
    here = room_of(module)
    if here not in HEIGHT:
        return [f"{module} is in no room: add '{here}' to docs/rooms.py"]
    complaints = []
    for item in imports(text, module, is_package=is_package):
        room = imported_room(item)
        if room is not None and HEIGHT.get(room, len(HEIGHT)) > HEIGHT[here]:
            complaints.append(f"{module}:{item.line} imports {room}, which is above {here}")
        if item.root in LIGHTNING and not item.is_typing and not _may_use_lightning(module):
            complaints.append(f"{module}:{item.line} imports {item.root}, which begins at fit/")
    return complaints


def _may_use_lightning(module: str) -> bool:
    below_package = module.partition(".")[2]
    return HEIGHT[room_of(module)] >= HEIGHT["fit"] or bool(LIGHTNING_BELOW_FIT.fullmatch(below_package))


def find_cycle(sources: Mapping[str, tuple[str, bool]]) -> list[str]:
    """Modules that import each other in a circle, or nothing; `sources` are (text, is_package) by module."""
    graph = {}
    for module, (text, is_package) in sources.items():
        items = list(imports(text, module, is_package=is_package))
        named = {f"{item.source}.{item.name}" for item in items} & sources.keys()
        whole = {item.source for item in items if f"{item.source}.{item.name}" not in named} & sources.keys()
        graph[module] = sorted(({*named, *whole}) - {module, PACKAGE})
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


@cache
def private_lightning_names() -> frozenset[str]:
    """Names with one underscore that Lightning's classes and modules define, but for those that torch has too."""
    defined = re.compile(r"^\s*(?:def|class)\s+(_[A-Za-z]\w*)|\bself\.(_[a-z]\w*)\s*(?::[^=\n]+)?=", re.MULTILINE)

    def names(folder: Path, pattern: str) -> set[str]:
        texts = [path.read_text(encoding="utf-8") for path in folder.rglob(pattern)]
        return {function or attribute for text in texts for function, attribute in defined.findall(text)}

    return frozenset(names(_folder("lightning") / "pytorch", "*.py") - names(_folder("torch") / "nn/modules", "*.py"))


def _folder(package: str) -> Path:
    spec = find_spec(package)
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent


def private_lightning_complaints(text: str, module: str, *, is_package: bool = False) -> list[str]:
    """Private names of Lightning that are imported or used outside fit/.

    An attribute of `self` or `super()` counts in a class with a base from Lightning or from fit/; any other attribute
    counts unless the file defines the name itself.
    """
    if room_of(module) == "fit":
        return []
    items = list(imports(text, module, is_package=is_package))
    complaints = [
        f"{module}:{item.line} imports {item.source} {item.name}, private to Lightning"
        for item in items
        if item.root in LIGHTNING and any(re.match(r"_(?!_)", part) for part in [*item.source.split("."), item.name])
    ]
    tree = ast.parse(text)
    own = _own_names(tree)
    inherited = _selves(tree, {item.name for item in items if item.root in LIGHTNING or imported_room(item) == "fit"})
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in private_lightning_names():
            is_self = isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"}
            if node in inherited or not (is_self or node.attr in own):
                complaints.append(f"{module}:{node.lineno} uses {node.attr}, private to Lightning")
    return complaints


def _own_names(tree: ast.Module) -> set[str]:
    """Names that a file defines: functions, classes, and what is assigned to or declared."""
    defined = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    stored = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)}
    declared = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return defined | stored | declared


def _selves(tree: ast.Module, bases: set[str]) -> set[ast.Attribute]:
    """Attributes of `self` and `super()` in classes with one of these bases, but for what the class defines itself."""
    used = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base).split("[")[0] in bases for base in node.bases):
            own = _own_names(ast.Module(node.body, []))
            for attribute in (inner for inner in ast.walk(node) if isinstance(inner, ast.Attribute)):
                owner = ast.unparse(attribute.value)
                if owner == "super()" or (owner == "self" and attribute.attr not in own):
                    used.add(attribute)
    return used


def root_callbacks_complaints(text: str, name: str) -> list[str]:
    """`callbacks` as a root: a second import of the same file would give a second class object."""
    if not name.endswith(".py"):
        lines = enumerate(text.splitlines(), start=1)
        return [f"{name}:{number} names {match[0]}" for number, line in lines if (match := ROOT_CALLBACK.search(line))]
    complaints = [
        f"{name}:{item.line} imports {item.source}"
        for item in imports(text, "somewhere.module")  # relative imports are not roots
        if item.root == "callbacks"
    ]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and ROOT_CALLBACK.fullmatch(node.value):
            complaints.append(f"{name}:{node.lineno} names {node.value}")
    return complaints


def package_sources() -> list[tuple[str, Path]]:
    """(module name, file) of every module of the package, callbacks/ and configs/ included."""
    pairs = [(PACKAGE, path) for path in sorted((ROOT / PACKAGE).rglob("*.py"))]
    for outside in ("callbacks", "configs"):
        pairs += [(f"{PACKAGE}.{outside}", path) for path in sorted((ROOT / outside).rglob("*.py"))]
    return [(_module_name(prefix, path), path) for prefix, path in pairs]


def _module_name(prefix: str, path: Path) -> str:
    folder = ROOT / prefix.rpartition(".")[2]
    parts = path.relative_to(folder).with_suffix("").parts
    return ".".join([prefix, *parts]).removesuffix(".__init__")


SOURCES = package_sources()
TEXTS = {module: (path.read_text(encoding="utf-8"), path.name == "__init__.py") for module, path in SOURCES}


@pytest.mark.parametrize("module", TEXTS)
def test_imports_go_down(module: str) -> None:
    text, is_package = TEXTS[module]
    assert room_complaints(text, module, is_package=is_package) == []
    assert private_lightning_complaints(text, module, is_package=is_package) == []


def test_no_files_import_each_other_in_a_circle() -> None:
    assert find_cycle(TEXTS) == []


def test_the_list_has_every_room_and_no_other() -> None:
    assert {room_of(module) for module in TEXTS} == rooms.ROOMS.keys()


@pytest.mark.parametrize("page", rooms.PAGES)
def test_pages_show_the_rooms(page: str) -> None:
    """Where this fails: `python docs/rooms.py`."""
    text = (ROOT / page).read_text(encoding="utf-8")
    assert rooms.filled(text, rooms.PAGES[page]()) == text


def test_callbacks_is_never_a_root() -> None:
    folders = [PACKAGE, "callbacks", "configs", "tests", "benchmarks", "docs"]
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.*")]
    files = [path for path in files if path.suffix in {".py", ".yaml", ".yml"}]
    for path in set(files) - {Path(__file__).resolve()}:  # this file spells the forbidden forms out
        assert root_callbacks_complaints(path.read_text(encoding="utf-8"), path.name) == []


def test_every_package_is_listed_in_pyproject() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    assert listed == sorted({m if p.name == "__init__.py" else m.rpartition(".")[0] for m, p in SOURCES})


@pytest.mark.parametrize(
    ("module", "text", "complaint"),
    [
        ("types", "from . import __version__\nfrom seal_lightning import __version__", None),
        ("types", "import seal_lightning.errors", "types:1 imports errors, which is above types"),
        ("types", "from seal_lightning.tasks import Task", "imports tasks"),
        ("tasks.knowledge", "from ..policy import Policy", "imports policy"),
        ("tasks.knowledge", "from .base import Task\nfrom ..types import Prompt", None),
        ("policy.tuned", "def f():\n    from . import policy\n    from .. import e_step", ":3 imports e_step"),
        ("e_step.step", "if TYPE_CHECKING:\n    from seal_lightning.fit.trainer import SEALTrainer", ":2 imports fit"),
        ("e_step.step", "import lightning.pytorch as pl", "imports lightning, which begins at fit/"),
        ("policy.at_work", "if TYPE_CHECKING:\n    from lightning.pytorch import Trainer", None),
        ("e_step.step", "from seal_lightning import ReSTEMFilter", "imports __init__"),
        ("callbacks.rest_em", "import torch\nfrom lightning.pytorch import Callback\nfrom ..hooks import f", None),
        ("callbacks.rest_em", "from seal_lightning.fit.loop import SEALFitLoop", "imports fit"),
        ("data.datamodule", "from lightning.pytorch import LightningDataModule", None),
        ("data.base", "from lightning.pytorch import LightningDataModule", "imports lightning"),
        ("fit.loop", "from lightning.pytorch import Trainer\nimport seal_lightning.callbacks.rest_em", None),
        ("fit.loop", "from seal_lightning.commands.fit import SEALCLI", "imports commands"),
        ("helpers", "", "is in no room"),
        ("cli", "from seal_lightning.helpers import f", "imports helpers"),
    ],
)
def test_room_rule(module: str, text: str, complaint: str | None) -> None:
    complaints = room_complaints(text, f"{PACKAGE}.{module}")
    assert (complaint in "".join(complaints)) if complaint else complaints == []


def test_relative_imports_of_a_package_file() -> None:
    assert room_complaints("from .base import Task", f"{PACKAGE}.tasks", is_package=True) == []
    assert room_complaints("from ..policy import Policy", f"{PACKAGE}.tasks", is_package=True) == [
        "seal_lightning.tasks:1 imports policy, which is above tasks"
    ]


@pytest.mark.parametrize(
    ("texts", "cycle"),
    [
        ({"a.x": "from . import y", "a.y": "import os"}, set()),
        ({"a.x": "from . import y", "a.y": "def f():\n    from seal_lightning.a.x import g"}, {"a.x", "a.y"}),
        ({"a": "from .x import f", "a.x": "from seal_lightning.a import g"}, {"a", "a.x"}),
        ({"a": "from .x import f", "a.x": "from . import y", "a.y": ""}, set()),
        ({"x": "import seal_lightning.y", "y": "from .z import f", "z": "from .x import g"}, {"x", "y", "z"}),
    ],
)
def test_cycle_rule(texts: dict[str, str], cycle: set[str]) -> None:
    sources = {f"{PACKAGE}.{module}": (text, module == "a") for module, text in texts.items()}
    assert {module.removeprefix(f"{PACKAGE}.") for module in find_cycle(sources)} == cycle


@pytest.mark.parametrize(
    ("module", "text", "count"),
    [
        ("fit.loop", "from lightning.pytorch.loops.fit_loop import _FitLoop\ntrainer._logger_connector", 0),
        ("commands.fit", "from lightning.pytorch.loops.fit_loop import _FitLoop", 1),
        ("commands.fit", "from pytorch_lightning.loops import _Loop, _FitLoop", 2),
        ("trackers.base", "import lightning.fabric._private", 1),
        ("commands.fit", "from lightning.pytorch import Trainer, __version__", 0),
        ("commands.fit", "from functools import _private", 0),
        ("callbacks.progress", "def f(trainer):\n    trainer._logger_connector.log_metrics({})", 1),
        ("commands.fit", "call._call_callback_hooks(trainer, 'on_fit_end')", 1),
        ("commands.fit", "from lightning.pytorch.cli import LightningCLI\ncli._parser('fit')", 1),
        ("cli", "from lightning.pytorch.cli import LightningCLI\nclass C(LightningCLI):\n    a = self._parser()", 1),
        ("cli", "from ..fit.parser import P\nclass C(P):\n    def _run(self):\n        super()._run_subcommand()", 1),
        ("cli", "class Own:\n    def f(self):\n        return self._parser()", 0),
        ("cli", "def _parser(): ...\nOwn()._parser()", 0),
        ("models.beside", "module._parameters.get('weight')", 0),
    ],
)
def test_private_lightning_rule(module: str, text: str, count: int) -> None:
    assert len(private_lightning_complaints(text, f"{PACKAGE}.{module}")) == count


@pytest.mark.parametrize(
    ("name", "text", "count"),
    [
        ("a.py", "import callbacks", 1),
        ("a.py", "from callbacks.rest_em import ReSTEM", 1),
        ("a.py", "from .callbacks import ReSTEM\nfrom lightning.pytorch.callbacks import Callback", 0),
        ("a.py", "path = 'callbacks.ReSTEM'", 1),
        ("a.py", "path = 'seal_lightning.callbacks.ReSTEM'", 0),
        ("a.yaml", "callbacks:\n  - class_path: callbacks.rest_em.ReSTEM", 1),
        ("a.yaml", "callbacks:\n  - class_path: seal_lightning.callbacks.ReSTEM", 0),
    ],
)
def test_root_callbacks_rule(name: str, text: str, count: int) -> None:
    assert len(root_callbacks_complaints(text, name)) == count
