"""What comes with the package, by name: the configurations of `configs/` and the data and tables beside them.

`--config knowledge/smollm2` and `configs/prices.yaml` are found in an installed package as in a checkout. A file of the
same name in the working folder comes first; names inside of files are not looked up.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from seal_lightning.errors import ConfigError

ROOT = Path(str(files("seal_lightning.configs")))  # configs/ of a checkout
PREFIX = "configs/"  # as the folder is called in a checkout, and in the documentation
ENDINGS = ("", ".yaml", ".json")
NO_CONFIGURATIONS = ("prices", "gpu_prices")  # tables that an option reads
_FLAGS = ("-c", "--config")


def names() -> list[str]:
    """The configurations, as `--config` takes them: `knowledge/smollm2`."""
    known = {path.relative_to(ROOT).with_suffix("").as_posix() for path in ROOT.rglob("*.yaml")}
    return sorted(known.difference(NO_CONFIGURATIONS))


def find_file(path: Path) -> Path:
    """The path itself, or the package's file if there is nothing at the path and it names a file of `configs/`.

    >>> find_file(Path("configs/prices.yaml")).is_file(), find_file(Path("other/prices.yaml")).as_posix()
    (True, 'other/prices.yaml')
    """
    name = path.as_posix()
    if path.exists() or not name.startswith(PREFIX):
        return path
    shipped = _file(name.removeprefix(PREFIX), ("",))
    return shipped or path


def with_shipped_configs(args: Sequence[str]) -> list[str]:
    """A command line in which every `--config NAME` without such a file here is the path of that configuration.

    Raises:
        ConfigError: There is neither a file nor a configuration of that name.
    """
    given = list(args)
    for place, arg in enumerate(given):
        if arg == "--":
            break
        if place and given[place - 1] in _FLAGS:
            given[place] = find_config(arg)
        elif arg.startswith("--config="):
            given[place] = f"--config={find_config(arg.partition('=')[2])}"
    return given


def shipped_text(name: str) -> str:
    """The content of a file of the package, not of the working folder. Raises `ConfigError` if there is none."""
    if path := _file(name.removeprefix(PREFIX), ENDINGS):
        return path.read_text(encoding="utf-8")
    raise ConfigError(f"seal configs {name}: nothing of that name comes with seal-lightning; {_advice(name)}")


def find_config(name: str) -> str:
    """The path of a configuration: that of the file itself, or of the one that comes with the package.

    Args:
        name: A path, or a name with or without its ending: `knowledge/smollm2`, `configs/debug/random.yaml`.

    Raises:
        ConfigError: There is neither.
    """
    path = Path(name).expanduser()
    if (path.exists() and not path.is_dir()) or name.startswith("-"):
        return name
    if shipped := _file(name.removeprefix(PREFIX), ENDINGS):
        return str(shipped)
    if path.is_dir():
        return name  # the error will say that it is a folder
    raise ConfigError(f"--config {name}: cannot be read (No such file or directory); {_advice(name)}")


def _advice(name: str) -> str:
    wanted, every = Path(name.removeprefix(PREFIX)).with_suffix("").as_posix(), names()
    last = wanted.rpartition("/")[2]
    alike = [other for other in every if difflib.get_close_matches(last, other.split("/"), cutoff=0.8)]
    near = [other for other in alike if last in other.split("/")] or alike
    near = near[:6] or difflib.get_close_matches(wanted, every, cutoff=0.8)
    if not near:
        return "check the path (seal configs lists what comes with seal-lightning)"
    listed = " or ".join(filter(None, (", ".join(near[:-1]), near[-1])))
    return f"did you mean {listed}? (seal configs lists what comes with seal-lightning)"


def _file(name: str, endings: Sequence[str]) -> Path | None:
    """A file below the folder of configurations, and never one outside it."""
    parts = Path(name).parts
    if not parts or ".." in parts or Path(name).is_absolute():
        return None
    tried = (ROOT / f"{name}{ending}" for ending in endings)
    return next((path for path in tried if path.is_file() and path.suffix != ".py"), None)
