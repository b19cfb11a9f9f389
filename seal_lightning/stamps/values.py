"""What results depend on, as flat JSON values by name: settings, the code of outside classes, versions, digests.

Stamps are compared key by key, so that a refusal can name the setting that differs. A class of this package is told by
its class path and settings, since its version is in the stamp too; a class from elsewhere also by a digest of its
source (`outside_code.py`).
"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Iterable, Mapping
from enum import Enum
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from seal_lightning.stamps.code import CODE, attributes_of, code_of, digest, is_outside
from seal_lightning.text.masking import safe_to_save

__all__ = ["CODE", "VERSIONS", "changed_keys", "code_of", "describe", "digest", "flat", "show_differences", "versions"]

# Libraries that enter figures: models, training and sampling, tokens, and what graders read answers with.
LIBRARIES = ("seal-lightning", "torch", "transformers", "peft", "lightning", "tokenizers", "numpy")
LIBRARIES += ("rapidfuzz", "regex", "snowballstemmer")
VERSIONS = "versions."  # how the keys of versions begin
SHOWN = 6  # differences named in one line


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
    attributes = attributes_of(value)
    if attributes is None:  # a path, a dtype, a pattern: what it prints, unless that is a memory address
        attributes = {} if " at 0x" in repr(value) else {"value": repr(value)}
    elif private and is_outside(type(value).__module__):
        hidden = {name: item for name, item in vars(value).items() if name.startswith("_") and _is_plain(item)}
        attributes = {**attributes, **hidden}
    described = {key: _describe(item, private, above) for key, item in attributes.items()}
    return {"class": _path(type(value)), **described}


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    return value is None or isinstance(value, bool | int | float | str)


def _path(kind: Any) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


# -- differences -------------------------------------------------------------------------------------------------------


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The keys in which two stamps differ."""
    return sorted(key for key in {*old, *new} if old.get(key) != new.get(key) or (key in old) != (key in new))


def show_differences(old: Mapping[str, Any], new: Mapping[str, Any], keys: Iterable[str]) -> str:
    """`key: was this, is that` for the first few; of an object of another class, the class alone."""
    keys = list(keys)
    replaced = [key.removesuffix("class") for key in keys if key.endswith(".class")]
    shown = [key for key in keys if not any(key.startswith(one) and key != f"{one}class" for one in replaced)]
    parts = [_difference(key, old, new) for key in shown[:SHOWN]]
    return "; ".join(parts + ([f"and {len(shown) - SHOWN} more"] if len(shown) > SHOWN else []))


def _difference(key: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    if key.startswith(CODE) and old.get(key) and new.get(key):
        return f"the source of {key.removeprefix(CODE)} has changed"
    was, now = (short(stamp[key]) if key in stamp else "not there" for stamp in (old, new))
    return f"{key.removesuffix('.class')}: was {was}, is {now}"


def short(value: Any) -> str:
    """A JSON value in at most 60 characters."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
