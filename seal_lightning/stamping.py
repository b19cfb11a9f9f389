"""What results depend on, as flat JSON values by name: settings, the code of outside classes, versions, digests.

Stamps are compared key by key, so that a refusal can name the setting that differs. A class of this package is told by
its class path and settings, since its version is in the stamp too; a class from elsewhere also by a digest of its
source.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import math
import platform
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

from seal_lightning.masking import safe_to_save

# Libraries that enter figures: models, training and sampling, tokens, and what graders read answers with.
LIBRARIES = ("seal-lightning", "torch", "transformers", "peft", "lightning", "tokenizers", "numpy")
LIBRARIES += ("rapidfuzz", "regex", "snowballstemmer")
VERSIONS = "versions."  # how the keys of versions begin
CODE = "code."  # how those of outside classes do
SHOWN = 6  # differences named in one line
_PACKAGE = __name__.partition(".")[0]
_KNOWN = {_PACKAGE, "torch", "transformers", "peft", "lightning", "tokenizers", "numpy", *sys.stdlib_module_names}


def digest(value: Any) -> str:
    """Of a JSON value, the same in every process."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).hexdigest()


def flat(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings by dotted names."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(f"{prefix}{key}.", value) if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def versions() -> dict[str, str]:
    """Those of `LIBRARIES` and Python, by key; without a build's label such as `+cu128`, since devices may change."""
    found = {}
    for name in LIBRARIES:
        try:
            found[f"{VERSIONS}{name}"] = version(name).partition("+")[0]
        except PackageNotFoundError:  # run from its source, without an installation
            found[f"{VERSIONS}{name}"] = "not installed"
    return {**found, f"{VERSIONS}python": ".".join(platform.python_version_tuple()[:2])}


# -- settings ----------------------------------------------------------------------------------------------------------


def describe(value: Any, *, private: bool = False) -> Any:
    """The settings of an object as JSON: its class path and public attributes, without secrets; the same everywhere.

    Args:
        value: The object.
        private: Of outside classes also plain private attributes, in which some keep their settings. For objects that
            have not been used yet: what counts calls differs later.
    """
    return safe_to_save(_describe(value, private, ()))


def _describe(value: Any, private: bool, above: tuple[int, ...]) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)  # NaN would differ from itself
    if id(value) in above:
        return "..."  # it holds itself
    above = (*above, id(value))
    if isinstance(value, Mapping):
        return {str(key): _describe(item, private, above) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_describe(item, private, above) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((_describe(item, private, above) for item in value), key=repr)
    if hasattr(value, "__qualname__"):  # a class or a function
        return f"{getattr(value, '__module__', '')}.{value.__qualname__}"
    if isinstance(value, Enum):
        return str(value)
    attributes = _attributes(value)
    if attributes is None:  # a path, a dtype, a pattern: what it prints, unless that is a memory address
        attributes = {} if " at 0x" in repr(value) else {"value": repr(value)}
    elif private and _is_outside(type(value).__module__):
        hidden = {name: item for name, item in vars(value).items() if name.startswith("_") and _is_plain(item)}
        attributes = {**attributes, **hidden}
    described = {key: _describe(item, private, above) for key, item in attributes.items()}
    return {"class": _path(type(value)), **described}


def _attributes(value: Any) -> dict[str, Any] | None:
    """The public attributes of an object; None where it has none of its own."""
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if hasattr(value, "__dict__"):
        return {name: item for name, item in vars(value).items() if not name.startswith("_")}
    return None


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    return value is None or isinstance(value, bool | int | float | str)


def _path(kind: Any) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


# -- code --------------------------------------------------------------------------------------------------------------


def code_of(*values: Any) -> dict[str, str]:
    """Digests of the source of every outside class and function among objects and their parts, by key.

    Those of installed libraries count where they extend a class of this package. The source is that of the class's
    module and of the user's modules that this one imports at its top; of a class in a script or notebook, its own. It
    is read once a process, as the code is.
    """
    found: dict[str, str] = {}
    for part in _parts(values, set()):
        owner = part if inspect.isclass(part) or inspect.isfunction(part) else type(part)
        bases = owner.__mro__ if inspect.isclass(owner) else (owner,)
        outside = [one for one in bases if _is_outside(one.__module__)]
        ours = any(one.__module__.partition(".")[0] == _PACKAGE for one in bases)
        if outside and (ours or not _is_installed(owner.__module__)):
            found[f"{CODE}{_path(owner)}"] = digest([_source_digest(one) for one in outside])
    return dict(sorted(found.items()))


def _parts(value: Any, seen: set[int]) -> Iterator[Any]:
    """An object and everything that it is made of."""
    if id(value) in seen or value is None or isinstance(value, bool | int | float | str | bytes):
        return
    seen.add(id(value))
    yield value
    if isinstance(value, Mapping):
        inner: Iterable[Any] = value.values()
    elif isinstance(value, list | tuple | set | frozenset):
        inner = value
    elif inspect.isclass(value) or inspect.isfunction(value) or isinstance(value, ModuleType):
        inner = ()
    else:
        inner = (_attributes(value) or {}).values()
    for item in inner:
        yield from _parts(item, seen)


def _is_outside(module: str) -> bool:
    return module.partition(".")[0] not in _KNOWN


def _source_digest(owner: Any) -> str:
    if owner.__module__ != "__main__" and (files := _files_of(owner.__module__)):
        return digest(files)
    try:
        return digest(inspect.getsource(owner))
    except (OSError, TypeError):
        return "without source"


@cache
def _files_of(name: str) -> tuple[str, ...]:
    """Digests of a module's source and of the modules of its own surroundings that it imports, in a fixed order."""
    found: dict[str, str] = {}
    waiting = [name]
    while waiting:
        current = waiting.pop()
        path = _source_file(current)
        if path is None or current in found:
            continue
        content = path.read_bytes()
        found[current] = hashlib.blake2b(content, digest_size=16).hexdigest()
        waiting += [one for one in _imports(current, content) if not _is_installed(one)]
    return tuple(found[one] for one in sorted(found))


def _source_file(module: str) -> Path | None:
    file = getattr(sys.modules.get(module), "__file__", None)
    path = Path(file) if file else None
    return path if path is not None and path.suffix == ".py" and path.is_file() else None


def _is_installed(module: str) -> bool:
    """Whether a module is a library's, which is told by versions where it enters figures."""
    path = _source_file(module)
    if path is None or not _is_outside(module):
        return module != "__main__"
    return any(one in path.resolve().parents for one in _libraries())


def _libraries() -> set[Path]:
    named = {sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")}
    return {Path(one).resolve() for one in named} | {Path(one).resolve() for one in sys.path if "-packages" in one}


def _imports(module: str, content: bytes) -> list[str]:
    """The loaded modules that a source imports at its top, outside functions."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):
        return []
    package = getattr(sys.modules.get(module), "__package__", None) or ""
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return sorted(name for name in names if name in sys.modules)


# -- differences -------------------------------------------------------------------------------------------------------


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The keys in which two stamps differ."""
    return sorted(key for key in {*old, *new} if old.get(key) != new.get(key) or (key in old) != (key in new))


def show_differences(old: Mapping[str, Any], new: Mapping[str, Any], keys: Iterable[str]) -> str:
    """`key: was this, is that` for the first few; of an object of another class, the class alone."""
    keys = list(keys)
    replaced = [key.removesuffix("class") for key in keys if key.endswith(".class")]
    shown = [key for key in keys if not any(key.startswith(one) and key != f"{one}class" for one in replaced)]
    parts = [_difference(key, old.get(key), new.get(key)) for key in shown[:SHOWN]]
    return "; ".join(parts + ([f"and {len(shown) - SHOWN} more"] if len(shown) > SHOWN else []))


def _difference(key: str, was: Any, now: Any) -> str:
    if key.startswith(CODE) and was and now:
        return f"the source of {key.removeprefix(CODE)} has changed"
    return f"{key.removesuffix('.class')}: was {short(was)}, is {short(now)}"


def short(value: Any) -> str:
    """A JSON value in at most 60 characters."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
