"""The configuration of a run as a reader sees it: dotted keys, and values as on the command line."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping


def lookup(config: Mapping[str, object], key: str) -> object:
    """The value of a dotted key; None where there is none."""
    value: object = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def flat(config: object, prefix: str = "") -> dict[str, object]:
    """The values of a configuration by dotted keys; `class_path` and `init_args` are no keys of their own."""
    if not isinstance(config, Mapping):
        return {prefix: config}
    found: dict[str, object] = {}
    for name, value in config.items():
        inner = prefix if name in ("class_path", "init_args") else f"{prefix}.{name}".lstrip(".")
        found |= flat(value, inner or str(name))
    return found


def plain(value: object) -> str:
    """A value of a configuration as it is written on the command line."""
    if isinstance(value, list):
        return ", ".join(map(plain, value))
    if isinstance(value, Mapping):
        return plain(value["class_path"]) if "class_path" in value else json.dumps(value, default=str)
    if isinstance(value, str):
        return re.sub(r"^seal_lightning\.(?:\w+\.)*(?=[A-Z]\w*$)", "", value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)
