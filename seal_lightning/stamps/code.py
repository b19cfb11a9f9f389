"""Digests of the code of classes and functions from outside this package: what a user's own grader or task does.

A class of this package is identified by its version. One from elsewhere is identified by the source of its module and
of the modules of the same place that this one imports, directly or not; of its bases; and of the objects that it holds.
One of a script or notebook is identified by its own source and by what it uses of the script, since the rest only says
how the run is started. Code is read once a process, as it runs, and again after a reload.
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
from itertools import chain
from pathlib import Path
from types import CellType, FunctionType, MethodType, ModuleType
from typing import TypeAlias

from seal_lightning.text.redaction import safe_to_save
from seal_lightning.types import Json

CODE = "code."  # how the keys of outside classes begin
_PACKAGE = __name__.partition(".")[0]
_KNOWN = {_PACKAGE, "torch", "transformers", "peft", "lightning", "tokenizers", "numpy", *sys.stdlib_module_names}
_INSTALLED = {"site-packages", "dist-packages"}
_STDLIB = Path(json.__file__).resolve().parent.parent
Definition: TypeAlias = type | FunctionType
# The classes that objects of outside classes held privately when first seen: later, caches would be among them.
_first_seen: dict[int, tuple[weakref.ref[object], tuple[Definition, ...]]] = {}
# By module: what it and those beside it were loaded by when they were read, and their digests.
_read: dict[str, tuple[dict[str, object], tuple[str, ...]]] = {}


def code_of(*values: object) -> dict[str, str]:
    """Digests of the source of every outside class and function among objects and their parts, by key.

    Those of installed libraries count where they extend a class of this package.
    """
    digests: dict[str, str] = {}
    for owner in _owners(values, set()):
        bases = owner.__mro__ if inspect.isclass(owner) else (owner,)
        outside = [base for base in bases if is_outside(base.__module__)]
        ours = any(base.__module__.partition(".")[0] == _PACKAGE for base in bases)
        if outside and (ours or not _is_installed(owner.__module__)):
            key = f"{CODE}{owner.__module__}.{owner.__qualname__}"
            content = digest([_source_digest(base) for base in outside])
            digests[key] = content if digests.get(key, content) == content else digest([digests[key], content])
    return dict(sorted(digests.items()))


def digest(value: object) -> str:
    """The digest of a JSON value, the same in every process."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).hexdigest()


def is_outside(module: str) -> bool:
    """Whether a module belongs neither to this package, nor to Python or a library whose version is in the stamp."""
    return module.partition(".")[0] not in _KNOWN


def attributes_of(value: object) -> dict[str, object] | None:
    """The public attributes of an object; None if it has no attributes of its own."""
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    if hasattr(value, "__dict__"):
        return {name: item for name, item in vars(value).items() if not name.startswith("_")}
    return None


def is_plain(value: object) -> bool:
    """Whether a value consists of texts, numbers, truth values and None, in lists and dictionaries."""
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    if isinstance(value, dict):
        return all(map(is_plain, value.values()))
    return value is None or isinstance(value, bool | int | float | str)


# -- parts -------------------------------------------------------------------------------------------------------------


def _owners(value: object, seen: set[int]) -> Iterator[Definition]:
    """The classes and functions of an object and of everything that it is made of."""
    if id(value) in seen or value is None or isinstance(value, bool | int | float | str | bytes):
        return
    seen.add(id(value))
    yield value if inspect.isclass(value) or inspect.isfunction(value) else type(value)
    for item in _inner(value):
        yield from _owners(item, seen)
    module = type(value).__module__
    if not inspect.isclass(value) and is_outside(module) and not _is_installed(module):  # a class of the user's
        yield from _private_owners(value, seen)


def _inner(value: object) -> Iterable[object]:
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


def _is_empty(cell: CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - a name that is bound later raises
    except ValueError:
        return True
    return False


def _private_owners(value: object, seen: set[int]) -> tuple[Definition, ...]:
    """Those of what an object keeps under private names, such as what it was given."""
    key = id(value)
    known = _first_seen.get(key)
    if known is not None and known[0]() is value:
        return known[1]
    slots = [getattr(kind, "__slots__", ()) for kind in type(value).__mro__]
    names = [*getattr(value, "__dict__", ()), *chain.from_iterable((s,) if isinstance(s, str) else s for s in slots)]
    held = [getattr(value, name, None) for name in names if name.startswith("_") and not name.startswith("__")]
    try:
        alive = weakref.ref(value, lambda _: _first_seen.pop(key, None))
    except TypeError:  # slots without one for weak references
        return tuple(owner for item in held for owner in _owners(item, seen))
    _first_seen[key] = alive, ()  # in case it holds itself
    owners = tuple(owner for item in held for owner in _owners(item, {id(value)}))
    _first_seen[key] = alive, owners
    return owners


# -- sources -----------------------------------------------------------------------------------------------------------


def _source_digest(owner: Definition) -> str:
    if owner.__module__ != "__main__" and (files := _files_of(owner.__module__)):
        return digest(files)
    used = _used_by(owner)
    return digest(used if len(used) > 1 else used[0]) if used else "without source"


def _files_of(name: str) -> tuple[str, ...]:
    """Digests of a module's source and of the modules of its own surroundings that it imports, in a fixed order.

    They are read again when one of these modules was loaded again, by `importlib.reload` or a notebook's `%autoreload`.
    """
    known = _read.get(name)
    if known is None or any(_spec_of(module) is not spec for module, spec in known[0].items()):
        digests = _read_files(name)
        loaded = {module: spec for module in digests if (spec := _spec_of(module)) is not None}
        known = _read[name] = loaded, tuple(digests[module] for module in sorted(digests))
    return known[1]


def _spec_of(module: str) -> object:
    """What a module was loaded by, another object after every load; None if it is not loaded."""
    return getattr(sys.modules.get(module), "__spec__", None)


def _read_files(name: str) -> dict[str, str]:
    digests: dict[str, str] = {}
    waiting = [name]
    while waiting:
        current = waiting.pop()
        path = _source_file(current)
        if path is None or current in digests:
            continue
        content = path.read_bytes()
        digests[current] = hashlib.blake2b(content, digest_size=16).hexdigest()
        for module in _imports(current, content):
            beside = module.partition(".")[0] == name.partition(".")[0] or not _is_installed(module)
            if is_outside(module) and beside:  # the user's, or of the same package if that is installed
                waiting += filter(None, (module, module.rpartition(".")[0]))
    return digests


@cache
def _source_file(module: str) -> Path | None:
    """The source of a module, which is not imported for that; None if there is none."""
    loaded = sys.modules.get(module)
    file = getattr(loaded, "__file__", None) if loaded is not None else _file_to_be(module)
    path = Path(file) if file else None
    return path if path is not None and path.suffix == ".py" and path.is_file() else None


def _file_to_be(module: str) -> str | None:
    """What a module would be loaded from, by the finders of this process."""
    package, places = module.rpartition(".")[0], None
    if package:
        above = _source_file(package)
        loaded = getattr(sys.modules.get(package), "__path__", None)
        places = list(loaded) if loaded else [str(above.parent)] if above and above.name == "__init__.py" else None
        if places is None:
            return None
    for finder in sys.meta_path:
        try:
            spec = finder.find_spec(module, places)
        except (ImportError, AttributeError, ValueError):
            continue
        if spec is not None:
            return spec.origin if spec.has_location else None
    return None


def _is_installed(module: str) -> bool:
    """Whether a module is a library's, which is identified by its version if it affects figures."""
    path = _source_file(module) if is_outside(module) else None
    if path is None:
        return module != "__main__"
    place = path.resolve()
    return _STDLIB in place.parents or bool(_INSTALLED & set(place.parts))


def _imports(module: str, content: bytes) -> set[str]:
    """The modules that a source imports, anywhere in it; some of these names may turn out not to be modules."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):
        return set()
    package = _package_of(module).split(".")
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return names - {""}


def _package_of(module: str) -> str:
    loaded = getattr(sys.modules.get(module), "__package__", None)
    if loaded is not None:
        return loaded
    path = _source_file(module)
    return module if path is not None and path.name == "__init__.py" else module.rpartition(".")[0]


# -- scripts and notebooks ---------------------------------------------------------------------------------------------


def _used_by(owner: Definition) -> list[Json]:
    """The source of a class or function, and of what it uses of its script: definitions, plain values, modules."""
    around = vars(sys.modules[owner.__module__]) if owner.__module__ in sys.modules else {}
    used: dict[str, Json] = {}
    waiting: list[tuple[str, object]] = [(owner.__qualname__, owner)]
    while waiting:
        name, value = waiting.pop()
        if name in used:
            continue
        module = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
        if is_plain(value):
            used[name] = safe_to_save({name: value})
        elif isinstance(value, ModuleType) or module != owner.__module__:
            used[name] = _files_of_users(module, is_module=isinstance(value, ModuleType))
        else:
            used[name] = text = _text_of(value)
            waiting += [(name, around[name]) for name in _names_in(text) if name in around]
    return [used[name] for name in sorted(used) if used[name]]


def _files_of_users(module: object, *, is_module: bool) -> list[Json]:
    """Digests of a module's files, if it is the user's."""
    if not isinstance(module, str) or _is_installed(module) or not (is_module or is_outside(module)):
        return []
    return list(_files_of(module))


def _text_of(value: object) -> str:
    """The source of a class or function, or of an object's class; empty if there is none."""
    try:
        return inspect.getsource(value if inspect.isclass(value) or inspect.isfunction(value) else type(value))
    except (OSError, TypeError):
        return ""


def _names_in(text: str) -> list[str]:
    try:
        tree = ast.parse(textwrap.dedent(text))
    except (SyntaxError, ValueError):
        return []
    return sorted({node.id for node in ast.walk(tree) if isinstance(node, ast.Name)})
