"""What results depend on, as flat JSON values by name: settings, the code of outside classes, versions, digests.

Stamps are compared key by key, so that a refusal can name the setting that differs. A class of this package is told by
its class path and settings, since its version is in the stamp too; a class from elsewhere also by a digest of its
source (`code.py`).
"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Iterable, Mapping
from enum import Enum
from importlib.metadata import PackageNotFoundError, version

from seal_lightning.stamps.code import CODE, attributes_of, code_of, digest, is_outside, is_plain
from seal_lightning.text.redaction import safe_to_save
from seal_lightning.types import Json, JsonObject

__all__ = ["CODE", "VERSIONS", "changed_keys", "code_of", "describe", "digest", "flat", "show_differences", "versions"]

# Libraries that affect figures: models, training and sampling, tokens, and what graders read answers with.
LIBRARIES = ("seal-lightning", "torch", "transformers", "peft", "lightning", "tokenizers", "numpy")
LIBRARIES += ("rapidfuzz", "regex", "snowballstemmer")
VERSIONS = "versions."  # how the keys of versions begin
SHOWN = 6  # differences named in one line


def flat(prefix: str, values: Mapping[str, Json] | Json) -> JsonObject:
    """Nested settings by dotted names, each after a prefix that ends in a dot."""
    if not isinstance(values, Mapping):
        return {prefix.removesuffix("."): values}
    named: JsonObject = {}
    for key, value in values.items():
        named |= flat(f"{prefix}{key}.", value)
    return named


def versions() -> dict[str, str]:
    """Those of `LIBRARIES` and Python, by key; without a build's label such as `+cu128`, since devices may change."""
    return {
        **{f"{VERSIONS}{name}": _version(name).partition("+")[0] for name in LIBRARIES},
        f"{VERSIONS}python": ".".join(platform.python_version_tuple()[:2]),
    }


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:  # run from its source, without an installation
        return "not installed"


# -- settings ----------------------------------------------------------------------------------------------------------


def describe(value: object, *, private: bool = False) -> Json:
    """The settings of an object as JSON: its class path and public attributes, without secrets; the same everywhere.

    Args:
        value: The object.
        private: Whether to include plain private attributes of outside classes, in which some keep their settings. Only
            for objects that have not been used yet: an attribute that counts calls differs later.
    """
    return safe_to_save(_describe(value, private, ()))


def _describe(value: object, private: bool, above: tuple[int, ...]) -> Json:
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
    if (name := getattr(value, "__qualname__", None)) is not None:  # a class or a function
        return f"{getattr(value, '__module__', '')}.{name}"
    if isinstance(value, Enum):
        return str(value)
    attributes = attributes_of(value)
    if attributes is None:  # a path, a dtype, a pattern: what it prints, unless that is a memory address
        attributes = {} if " at 0x" in repr(value) else {"value": repr(value)}
    elif private and is_outside(type(value).__module__):
        hidden = {name: item for name, item in vars(value).items() if name.startswith("_") and is_plain(item)}
        attributes = {**attributes, **hidden}
    described = {key: _describe(item, private, above) for key, item in attributes.items()}
    return {"class": f"{type(value).__module__}.{type(value).__qualname__}", **described}


# -- differences -------------------------------------------------------------------------------------------------------


def changed_keys(old: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    """The keys in which two stamps differ."""
    return sorted(key for key in {*old, *new} if old.get(key) != new.get(key) or (key in old) != (key in new))


def show_differences(old: Mapping[str, object], new: Mapping[str, object], keys: Iterable[str]) -> str:
    """`key: was this, is that` for the first few keys; for an object of another class, the class alone."""
    keys = list(keys)
    replaced = [key.removesuffix("class") for key in keys if key.endswith(".class")]
    shown = [key for key in keys if not any(key.startswith(start) and key != f"{start}class" for start in replaced)]
    parts = [_difference(key, old, new) for key in shown[:SHOWN]]
    return "; ".join(parts + ([f"and {len(shown) - SHOWN} more"] if len(shown) > SHOWN else []))


def _difference(key: str, old: Mapping[str, object], new: Mapping[str, object]) -> str:
    if key.startswith(CODE) and old.get(key) and new.get(key):
        return f"the source of {key.removeprefix(CODE)} has changed"
    was, now = (short(stamp[key]) if key in stamp else "not there" for stamp in (old, new))
    return f"{key.removesuffix('.class')}: was {was}, is {now}"


def short(value: object) -> str:
    """A JSON value in at most 60 characters."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
