"""A library of the lab's three towns with adapters drawn at random: nothing is trained, so it is there at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from seal_lightning.data.documents import read_sources
from seal_lightning.library.manifest import (
    Base,
    LibraryEntry,
    Manifest,
    Retired,
    StoredDocument,
    Together,
    write_document,
    write_manifest,
)
from seal_lightning.models.layers import find_targets
from seal_lightning.models.loading import fingerprint, load_model
from seal_lightning.models.lora import LoRA, save_lora
from seal_lightning.models.source import ModelSource
from seal_lightning.types import JsonObject

TOWNS = "configs/debug/towns.jsonl"
ASKED_WITH: JsonObject = {
    "source": {"name": "lab"},
    "task": {"class_path": "seal_lightning.Knowledge", "init_args": {}},
    "max_answer_tokens": 4,
    "policy": None,
}


def random_lora(model: torch.nn.Module, seed: int, *, rank: int = 2) -> LoRA:
    """A LoRA on all linear layers that changes what the lab's model says."""
    draw = torch.Generator().manual_seed(seed)
    state: dict[str, torch.Tensor] = {}
    for target in find_targets(model, "all-linear"):  # type: ignore[arg-type]
        name = f"base_model.model.{target.name}"
        state[f"{name}.lora_A.weight"] = torch.randn(rank, target.inputs, generator=draw) * target.inputs**-0.5
        state[f"{name}.lora_B.weight"] = torch.randn(target.outputs, rank, generator=draw) * 1.0
    return LoRA(state, 1.0)


def make_library(
    folder: Path, *, together: bool = True, asked_with: Mapping[str, object] = {}, towns: str = TOWNS
) -> Manifest:
    """Write a library: three documents that are ready, one that is pending and one that was replaced.

    Args:
        folder: Created if missing.
        together: Whether there is an adapter of all documents.
        asked_with: What differs from `ASKED_WITH`.
        towns: The documents.
    """
    model = load_model(ModelSource(name="lab"))[0]
    (folder / "documents").mkdir(parents=True, exist_ok=True)
    entries = []
    for number, document in enumerate(read_sources([towns]).documents):
        name, context = f"town-{number}", document.context
        save_lora(random_lora(model, number), folder / "adapters" / name, model=model)
        stored = StoredDocument(document.id, context.title, context.passage, context.queries)
        write_document(folder, f"documents/{name}.json", stored)
        places = (f"adapters/{name}", f"documents/{name}.json")
        entries.append(
            LibraryEntry(document.id, f"towns.jsonl#{number + 1}", context.title, "d", "s", *places, status="ready")
        )
    write_document(folder, "documents/late.json", StoredDocument("late", "A late letter", "Nobody has read it."))
    late = LibraryEntry("late", "late.md", "A late letter", "d", "s", None, "documents/late.json")
    if together:
        save_lora(random_lora(model, 99), folder / "adapters" / "all", model=model)
    manifest = Manifest(
        base=Base("lab", None, fingerprint(model)),
        tokenizer="lab",
        asked_with={**ASKED_WITH, **asked_with},  # type: ignore[dict-item]
        documents=(*entries, late),
        together=Together("adapters/all", tuple(entry.id for entry in entries), "ready") if together else None,
        retired=(
            Retired(
                id="old",
                source="old.md",
                title="An old letter",
                adapter="retired/old",
                text=None,
                why="replaced",
                by="late",
                at="2025-01-01T00:00:00Z",
            ),
        ),
    )
    write_manifest(folder, manifest)
    return manifest
