"""Digests of the code of classes and functions from outside this package: what a user's own grader or task does.

A class of this package is told by its version. One from elsewhere is told by the source of its module, of the modules
of the same place that this one imports, anywhere in it, and so on; of its bases; and of the objects that it holds. One
of a script or notebook is told by its own source and by what of the script it uses, since the rest says how the run is
started. Code is read once a process, as it runs, and again after a reload.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import sys
import textwrap
import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cache, partial
from pathlib import Path
from types import FunctionType, MethodType, ModuleType
from typing import Any

from seal_lightning.text.masking import safe_to_save

CODE = "code."  # how the keys of outside classes begin
_PACKAGE = __name__.partition(".")[0]
_KNOWN = {_PACKAGE, "torch", "transformers", "peft", "lightning", "tokenizers", "numpy", *sys.stdlib_module_names}
_INSTALLED = {"site-packages", "dist-packages"}
_STDLIB = Path(json.__file__).resolve().parent.parent
# What objects of outside classes held privately when they were first seen: later, caches would be among it.
_first_seen: dict[int, tuple[weakref.ref[Any], tuple[Any, ...]]] = {}
# By module: what it and those beside it were loaded by when they were read, and their digests.
_read: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {}


def code_of(*values: Any) -> dict[str, str]:
    """Digests of the source of every outside class and function among objects and their parts, by key.

    Those of installed libraries count where they extend a class of this package.
    """
    found: dict[str, str] = {}
    for owner in _owners(values, set()):
        bases = owner.__mro__ if inspect.isclass(owner) else (owner,)
        outside = [one for one in bases if is_outside(one.__module__)]
        ours = any(one.__module__.partition(".")[0] == _PACKAGE for one in bases)
        if outside and (ours or not _is_installed(owner.__module__)):
            key = f"{CODE}{owner.__module__}.{owner.__qualname__}"
            content = digest([_source_digest(one) for one in outside])
            found[key] = content if found.get(key, content) == content else digest([found[key], content])
    return dict(sorted(found.items()))


def digest(value: Any) -> str:
    """Of a JSON value, the same in every process."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).hexdigest()


def is_outside(module: str) -> bool:
    """Whether a module is neither of this package nor of a library whose version is told, or of Python."""
    return module.partition(".")[0] not in _KNOWN


def attributes_of(value: Any) -> dict[str, Any] | None:
    """The public attributes of an object; None where it has none of its own."""
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if hasattr(value, "__dict__"):
        return {name: item for name, item in vars(value).items() if not name.startswith("_")}
    return None


# -- parts -------------------------------------------------------------------------------------------------------------


def _owners(value: Any, seen: set[int]) -> Iterator[Any]:
    """The classes and functions of an object and of everything that it is made of."""
    if id(value) in seen or value is None or isinstance(value, bool | int | float | str | bytes):
        return
    seen.add(id(value))
    yield value if inspect.isclass(value) or inspect.isfunction(value) else type(value)
    for item in _inner(value):
        yield from _owners(item, seen)
    if _is_own(value):
        yield from _private_owners(value, seen)


def _inner(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return value.values()
    if isinstance(value, list | tuple | set | frozenset):
        return value
    if isinstance(value, partial):
        return value.func, value.args, value.keywords
    if isinstance(value, MethodType):
        return value.__func__, value.__self__
    if isinstance(value, FunctionType):
        held = [cell.cell_contents for cell in value.__closure__ or () if not _is_empty(cell)]
        return [*held, value.__defaults__, value.__kwdefaults__, getattr(value, "__wrapped__", None)]
    if inspect.isclass(value) or isinstance(value, ModuleType):
        return ()
    return (attributes_of(value) or {}).values()


def _is_empty(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - a name that is bound later raises
    except ValueError:
        return True
    return False


def _is_own(value: Any) -> bool:
    """Whether an object is of a class of the user's, which keeps what it was given under private names, too."""
    module = type(value).__module__
    return not inspect.isclass(value) and is_outside(module) and not _is_installed(module)


def _private_owners(value: Any, seen: set[int]) -> tuple[Any, ...]:
    key = id(value)
    known = _first_seen.get(key)
    if known is not None and known[0]() is value:
        return known[1]
    slots = [name for kind in type(value).__mro__ for name in _names(getattr(kind, "__slots__", ()))]
    names = [*getattr(value, "__dict__", ()), *slots]
    held = [getattr(value, name, None) for name in names if name.startswith("_") and not name.startswith("__")]
    try:
        alive = weakref.ref(value, lambda _: _first_seen.pop(key, None))
    except TypeError:  # slots without one for weak references
        return tuple(owner for item in held for owner in _owners(item, seen))
    _first_seen[key] = alive, ()  # where it holds itself
    found = tuple(owner for item in held for owner in _owners(item, {id(value)}))
    _first_seen[key] = alive, found
    return found


def _names(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


# -- sources -----------------------------------------------------------------------------------------------------------


def _source_digest(owner: Any) -> str:
    if owner.__module__ != "__main__" and (files := _files_of(owner.__module__)):
        return digest(files)
    used = _used_by(owner)
    return digest(used if len(used) > 1 else used[0]) if used else "without source"


def _files_of(name: str) -> tuple[str, ...]:
    """Digests of a module's source and of the modules of its own surroundings that it imports, in a fixed order.

    They are read anew where one of these modules was, with `importlib.reload` or a notebook's `%autoreload`.
    """
    known = _read.get(name)
    if known is None or any(_spec_of(module) is not spec for module, spec in known[0].items()):
        found = _read_files(name)
        loaded = {module: spec for module in found if (spec := _spec_of(module)) is not None}
        known = _read[name] = loaded, tuple(found[one] for one in sorted(found))
    return known[1]


def _spec_of(module: str) -> Any:
    """What a module was loaded by, another object after every load; None where it is not loaded."""
    return getattr(sys.modules.get(module), "__spec__", None)


def _read_files(name: str) -> dict[str, str]:
    found: dict[str, str] = {}
    waiting = [name]
    while waiting:
        current = waiting.pop()
        path = _source_file(current)
        if path is None or current in found:
            continue
        content = path.read_bytes()
        found[current] = hashlib.blake2b(content, digest_size=16).hexdigest()
        beside = [one for one in _imports(current, content) if _is_beside(one, name)]
        waiting += [one for module in beside for one in (module, module.rpartition(".")[0]) if one]
    return found


def _is_beside(module: str, owner: str) -> bool:
    """Whether a module is of the same place as another: the user's, or of the same package where that is installed."""
    same = module.partition(".")[0] == owner.partition(".")[0]
    return is_outside(module) and (same or not _is_installed(module))


@cache
def _source_file(module: str) -> Path | None:
    """The source of a module, which is not imported for that; None where there is none."""
    loaded = sys.modules.get(module)
    file = getattr(loaded, "__file__", None) if loaded is not None else _file_to_be(module)
    path = Path(file) if file else None
    return path if path is not None and path.suffix == ".py" and path.is_file() else None


def _file_to_be(module: str) -> str | None:
    """What a module would be loaded from, by the finders of this process."""
    package = module.rpartition(".")[0]
    if package:
        above = _source_file(package)
        loaded = getattr(sys.modules.get(package), "__path__", None)
        places = list(loaded) if loaded else [str(above.parent)] if above and above.name == "__init__.py" else None
        if places is None:
            return None
    else:
        places = None
    for finder in sys.meta_path:
        try:
            spec = finder.find_spec(module, places)
        except (ImportError, AttributeError, ValueError):
            continue
        if spec is not None:
            return spec.origin if spec.has_location else None
    return None


def _is_installed(module: str) -> bool:
    """Whether a module is a library's, which is told by versions where it enters figures."""
    path = _source_file(module) if is_outside(module) else None
    if path is None:
        return module != "__main__"
    place = path.resolve()
    return _STDLIB in place.parents or bool(_INSTALLED & set(place.parts))


def _imports(module: str, content: bytes) -> list[str]:
    """The modules that a source imports, anywhere in it; among them names that turn out to be none."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):
        return []
    return sorted(one for one in _imported(tree, _package_of(module)) if is_outside(one))


def _package_of(module: str) -> str:
    loaded = getattr(sys.modules.get(module), "__package__", None)
    if loaded is not None:
        return loaded
    path = _source_file(module)
    return module if path is not None and path.name == "__init__.py" else module.rpartition(".")[0]


def _imported(tree: ast.AST, package: str) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return names - {""}


# -- scripts and notebooks ---------------------------------------------------------------------------------------------


def _used_by(owner: Any) -> list[Any]:
    """The source of a class or function, and of what of its script it uses: definitions, plain values, modules."""
    around = _globals_of(owner)
    found: dict[str, Any] = {}
    waiting = [(owner.__qualname__, owner)]
    while waiting:
        name, value = waiting.pop()
        if name in found:
            continue
        found[name] = None
        if _is_plain(value):
            found[name] = safe_to_save({name: value})
        elif isinstance(value, ModuleType):
            found[name] = [] if _is_installed(value.__name__) else list(_files_of(value.__name__))
        elif getattr(value, "__module__", None) != owner.__module__:
            module = getattr(value, "__module__", None)
            told = isinstance(module, str) and is_outside(module) and not _is_installed(module)
            found[name] = list(_files_of(str(module))) if told else []
        elif (text := _text_of(value)) is not None:
            found[name] = text
            waiting += [(one, around[one]) for one in _names_in(text) if one in around]
    kept = {name: value for name, value in found.items() if value}
    return [kept[name] for name in sorted(kept)]


def _globals_of(owner: Any) -> Mapping[str, Any]:
    return vars(sys.modules[owner.__module__]) if owner.__module__ in sys.modules else {}


def _text_of(value: Any) -> str | None:
    """The source of a class or function; of an object, that of its class."""
    try:
        return inspect.getsource(value if inspect.isclass(value) or inspect.isfunction(value) else type(value))
    except (OSError, TypeError):
        return None


def _names_in(text: str) -> list[str]:
    try:
        tree = ast.parse(textwrap.dedent(text))
    except (SyntaxError, ValueError):
        return []
    return sorted({node.id for node in ast.walk(tree) if isinstance(node, ast.Name)})


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    return value is None or isinstance(value, bool | int | float | str)
