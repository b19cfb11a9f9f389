"""Imports flow down only, private Lightning names stay in one file, and every package is in pyproject.toml.

The rules are functions from source text to complaints, so that each of them is also shown to complain.
"""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "seal_lightning"

# One entry for every module or sub-package of seal_lightning. A new one gets its floor here, and CONTRIBUTING.md says
# what a floor is for.
FLOORS = {
    0: "types errors seeding selection journal evaluation allocator stopping streams bounded journal_lines run_stamp "
    "stamping saving redaction masking foreign escaping thoughts figures retention tables left_out digests "
    "contained extras pairing verdict outside_code remembering settings_of shipped",
    1: "grading tasks data endpoints official questions recorded racing bounded_yaml ownership diversity",
    2: "tiny model checkpoints tiny_families chat encoding policy partitioned packing head_loss adapters sampling "
    "ranks bank_training inner_loop isolation phases served finite memory watch template_limits origins",
    3: "e_step m_step scoring raced closed_book predictions",
    4: "hooks fit_stamp training_checkpoint rollouts executors loop strategies screen launched beginning flags limits "
    "trackers",
    5: "cli command_line config_errors config_files quickstart offline grade replay standalone adapt continual "
    "callbacks configs lab report typical __main__ __init__ predicted run_config trust sweep callback_groups "
    "ending_words selection_words trainer default_callbacks given_objects python_config result_tables module monitored "
    "restoring model_class working_folder cards hub logger_options show_configs texts_as_given run_folders "
    "help_order help_texts",
}
FLOOR_OF = {part: floor for floor, parts in FLOORS.items() for part in parts.split()}
FREE_ATTRIBUTES = {"__version__"}  # what any floor may take from seal_lightning itself
LIGHTNING = {"lightning", "lightning_fabric", "pytorch_lightning"}
PRIVATE_NAMES_ALLOWED_IN = f"{PACKAGE}.loop"
ROOT_CALLBACK = re.compile(r"(?<![\w./-])callbacks(\.[A-Za-z_]\w*)+")


@dataclass(frozen=True, slots=True)
class Import:
    """One imported name: `from source import name`, or `import source` with an empty name."""

    line: int
    source: str
    name: str = ""

    @property
    def root(self) -> str:
        return self.source.partition(".")[0]


def imports(text: str, module: str, *, is_package: bool = False) -> Iterator[Import]:
    """Every import of a source, at any depth, under TYPE_CHECKING too; relative ones are made absolute."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (Import(node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            yield from (Import(node.lineno, source, alias.name) for alias in node.names)


def part_of(module: str) -> str:
    """`seal_lightning.inner_loop.bank` -> `adapters`; the package itself -> `__init__`."""
    return [*module.split("."), "__init__"][1]


def imported_part(item: Import) -> str | None:
    """The part of seal_lightning that an import reaches, or None where it reaches none or a free attribute."""
    if item.root != PACKAGE:
        return None
    if item.source != PACKAGE:
        return part_of(item.source)
    if item.name in FREE_ATTRIBUTES:
        return None
    return item.name if item.name in FLOOR_OF else "__init__"


def floor_complaints(text: str, module: str, *, is_package: bool = False) -> list[str]:
    """Imports that go up, reach a part without a floor, or bring a floor what it does without.

    Floor 0 has the standard library only; Lightning begins at floor 4, but for the data module.
    """
    here = part_of(module)
    if here not in FLOOR_OF:
        return [f"{module} has no floor: add '{here}' to FLOOR_OF"]
    complaints = []
    for item in imports(text, module, is_package=is_package):
        part = imported_part(item)
        if part is not None and part not in FLOOR_OF:
            complaints.append(f"{module}:{item.line} imports {item.source}, which has no floor")
        elif part is not None and FLOOR_OF[part] > FLOOR_OF[here]:
            complaints.append(f"{module}:{item.line} (floor {FLOOR_OF[here]}) imports {part} (floor {FLOOR_OF[part]})")
        elif FLOOR_OF[here] == 0 and item.root != PACKAGE and item.root not in sys.stdlib_module_names:
            complaints.append(f"{module}:{item.line} (floor 0) imports {item.root}, not of the standard library")
        elif FLOOR_OF[here] < 4 and here != "data" and item.root in LIGHTNING:
            complaints.append(f"{module}:{item.line} (floor {FLOOR_OF[here]}) imports {item.root}, kept to floor 4")
    return complaints


def private_lightning_complaints(text: str, module: str, *, is_package: bool = False) -> list[str]:
    """Private names or modules of Lightning, imported anywhere but in the loop."""
    if module == PRIVATE_NAMES_ALLOWED_IN:
        return []
    return [
        f"{module}:{item.line} imports {item.source} {item.name}, private to Lightning"
        for item in imports(text, module, is_package=is_package)
        if item.root in LIGHTNING and any(re.match(r"_(?!_)", part) for part in [*item.source.split("."), item.name])
    ]


def root_callbacks_complaints(text: str, name: str) -> list[str]:
    """`callbacks` as a root: a second import of the same file would give a second class object."""
    if not name.endswith(".py"):
        lines = enumerate(text.splitlines(), start=1)
        return [f"{name}:{number} names {found[0]}" for number, line in lines if (found := ROOT_CALLBACK.search(line))]
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


@pytest.mark.parametrize(("module", "path"), SOURCES, ids=[module for module, _ in SOURCES])
def test_imports_go_down(module: str, path: Path) -> None:
    text, is_package = path.read_text(encoding="utf-8"), path.name == "__init__.py"
    assert floor_complaints(text, module, is_package=is_package) == []
    assert private_lightning_complaints(text, module, is_package=is_package) == []


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
        ("types", "import seal_lightning.errors\nfrom .errors import DataError\nfrom . import __version__", None),
        ("seeding", "import hashlib\nfrom collections.abc import Sequence", None),
        ("seeding", "import numpy as np", "floor 0) imports numpy"),
        ("journal", "def f():\n    import torch", ":2 (floor 0) imports torch"),
        ("types", "from seal_lightning.tasks import Task", "(floor 0) imports tasks (floor 1)"),
        ("tasks.knowledge", "from ..policy import Policy", "(floor 1) imports policy (floor 2)"),
        ("tasks.knowledge", "from .base import Task\nfrom ..types import Prompt", None),
        ("policy", "from . import e_step", "(floor 2) imports e_step (floor 3)"),
        ("e_step", "from seal_lightning.fit.module import SEALModule", "(floor 3) imports module (floor 5)"),
        ("e_step", "if TYPE_CHECKING:\n    from seal_lightning.fit.trainer import SEALTrainer", ":2 (floor 3) imports"),
        ("e_step", "import lightning.pytorch as pl", "(floor 3) imports lightning, kept to floor 4"),
        ("data.datamodule", "from lightning.pytorch import LightningDataModule", None),
        ("loop", "import seal_lightning.callbacks.rest_em", "(floor 4) imports callbacks (floor 5)"),
        ("loop", "from seal_lightning import ReSTEM", "(floor 4) imports __init__ (floor 5)"),
        ("callbacks.rest_em", "from seal_lightning.fit.loop import SEALFitLoop\nimport torch", None),
        ("helpers", "", "has no floor"),
        ("cli", "from seal_lightning.helpers import f", "has no floor"),
    ],
)
def test_floor_rule(module: str, text: str, complaint: str | None) -> None:
    found = floor_complaints(text, f"{PACKAGE}.{module}")
    assert (complaint in "".join(found)) if complaint else found == []


def test_relative_imports_of_a_package_file() -> None:
    assert floor_complaints("from .base import Task", f"{PACKAGE}.tasks", is_package=True) == []
    assert floor_complaints("from ..policy import Policy", f"{PACKAGE}.tasks", is_package=True) == [
        "seal_lightning.tasks:1 (floor 1) imports policy (floor 2)"
    ]


@pytest.mark.parametrize(
    ("module", "text", "count"),
    [
        ("loop", "from lightning.pytorch.loops.fit_loop import _FitLoop", 0),
        ("trainer", "from lightning.pytorch.loops.fit_loop import _FitLoop", 1),
        ("trainer", "from pytorch_lightning.loops import _Loop, _FitLoop", 2),
        ("strategies", "import lightning.fabric._private", 1),
        ("trainer", "from lightning.pytorch import Trainer, __version__", 0),
        ("trainer", "from functools import _private", 0),
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
