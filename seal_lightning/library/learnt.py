"""What of a library can be asked about, and why the rest cannot; no model is needed to tell."""

from __future__ import annotations

from pathlib import Path

from seal_lightning.errors import ConfigError
from seal_lightning.library.manifest import LibraryEntry, Manifest


def learnt(manifest: Manifest) -> list[LibraryEntry]:
    """The documents that can be asked about: those with an adapter, or that the adapter of all documents has learnt."""
    of_all = manifest.together
    shared = set(of_all.documents) if of_all and of_all.status == "ready" else set()
    return [
        entry
        for entry in manifest.documents
        if (entry.status == "ready" and entry.adapter is not None) or entry.id in shared
    ]


def check_ready(folder: Path, manifest: Manifest) -> None:
    """Raise `ConfigError` where nothing in a library can be asked about yet."""
    if learnt(manifest):
        return
    failed = next((entry.reason for entry in manifest.documents if entry.status == "failed"), "")
    why = f" (the first failed: {failed})" if failed else ""
    raise ConfigError(
        f"{folder}: expected documents that are learnt, got {len(manifest.documents)} of which none is ready{why}: run "
        "seal adapt with --resume"
    )


def unavailable(manifest: Manifest, named: str) -> ConfigError:
    """Why no document of this name can be asked about: it is pending, has failed, was retired or is unknown."""
    for entry in manifest.documents:
        if named in names_of(entry):
            why = {"pending": "is not learnt yet: run seal adapt with --resume"}.get(
                entry.status, f"has no adapter, because {entry.reason or 'its training failed'}: train it again"
            )
            return ConfigError(f"--document {named}: expected a document that is learnt, and it {why}")
    for old in reversed(manifest.retired):
        if named in (old.id, old.title, old.source, (old.adapter or "").rpartition("/")[2]):
            by = f"replaced by {old.by}: ask about that" if old.by else f"{old.why}: name another"
            return ConfigError(f"--document {named}: expected a document of the library, and its adapter was {by}")
    known = ", ".join(repr(entry.title or entry.id) for entry in manifest.documents[:5])
    return ConfigError(
        f"--document {named}: expected a document of the library ({known or 'which is empty'}), got none by that name: "
        "/documents or --documents lists them"
    )


def names_of(entry: LibraryEntry) -> tuple[str, ...]:
    """What a document can be called: its id, title, source, or adapter."""
    return entry.id, entry.title, entry.source, (entry.adapter or "").rpartition("/")[2] or entry.id
