"""Digests of weights, written beside them, by which a file that was damaged later is found.

Code that finishes a folder with weights records them in its own result file (`adaptation.json`, `step.json`,
`selection.json`, `generator.json`) under `sha256`, and code that reads the weights compares. Other people's folders
have none, and are taken as they are. A digest finds bad luck, not malice: whoever can write the weights can also write
the record.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from seal_lightning.errors import reason_of
from seal_lightning.files.bounded import parse_json

KEY = "sha256"
RECORDS = ("adaptation.json", "step.json", "selection.json", "generator.json")


def digests_of(folder: Path) -> dict[str, str]:
    """SHA-256 of every safetensors file in a folder, by name."""
    return {path.name: _digest(path) for path in sorted(folder.glob("*.safetensors"))}


def damage(folder: Path, recorded: Mapping[str, str]) -> str:
    """What is wrong with the first file that is not as recorded, in a few words; empty if all are."""
    for name, digest in sorted(recorded.items()):
        path = folder / Path(name).name
        try:
            if _digest(path) != digest:
                return f"{path.name} is not the file that was written there"
        except OSError as error:
            return f"{path.name}: {reason_of(error)}"
    return ""


def recorded_in(folder: Path) -> dict[str, str]:
    """The digests in a folder's result file; empty without such a file, or for an older one."""
    for name in RECORDS:
        try:
            content = parse_json((folder / name).read_bytes())
        except (OSError, ValueError):
            continue
        if digests := read_record(content):
            return digests
    return {}


def read_record(content: object) -> dict[str, str]:
    """The digests in the content of a result file; empty if it has none."""
    digests = content.get(KEY) if isinstance(content, dict) else None
    if not isinstance(digests, dict):
        return {}
    return {name: digest for name, digest in digests.items() if isinstance(digest, str)}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
