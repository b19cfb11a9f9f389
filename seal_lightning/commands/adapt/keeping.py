"""A folder of `seal adapt` kept current: which documents are unchanged, and what is retired and why.

    manifest and documents -> what changed -> manifest, with what is retired -> moved -> manifest -> texts

Whatever a process is killed within, the next one goes on from the manifest: what it calls retired and is not yet in
`retired/` is moved there before anything new takes its name. Nothing is deleted.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

from seal_lightning.commands.adapt.edits import Lesson
from seal_lightning.commands.adapt.folders import RESULT
from seal_lightning.commands.adapt.jobs import ALL, Adapter, Answers, Workplace, folder_name
from seal_lightning.data.documents import Document
from seal_lightning.errors import DataError
from seal_lightning.files.saving import move
from seal_lightning.library.manifest import (
    ADAPTERS,
    DOCUMENTS,
    MANIFEST,
    RETIRED,
    WEIGHTS,
    Base,
    LibraryEntry,
    Manifest,
    Retired,
    Scores,
    Status,
    StoredDocument,
    Together,
    read_document,
    read_manifest,
    write_document,
    write_manifest,
)
from seal_lightning.stamps.values import digest
from seal_lightning.text.plural import counted
from seal_lightning.types import Context, JsonObject

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a library is to hold.

    Attributes:
        base: The base model.
        tokenizer: Name of its tokenizer.
        asked_with: What it takes to ask as training does.
        settings: Digest of the settings that the adapters depend on.
        documents: The documents.
        digests: Digest of each document, by id.
        each: Whether each document is to have an adapter of its own.
        together: Folder of the adapter of all documents; None where there is to be none.
    """

    base: Base
    tokenizer: str
    asked_with: JsonObject
    settings: str
    documents: Sequence[Document]
    digests: Mapping[str, str]
    each: bool
    together: str | None


@dataclass(frozen=True, slots=True)
class Changes:
    """The documents against those of a manifest.

    Attributes:
        kept: Ids of those that are unchanged.
        pending: Ids of those among them whose adapter is still to be made.
        moved: How many of them come from another place.
        changed: Ids of those that take the place of another.
        new: Ids of the others.
        gone: The entries of the documents that were removed or replaced, with the id of what replaced each.
        retrained: Whether there was an adapter of all documents that is now outdated.
    """

    kept: frozenset[str]
    pending: frozenset[str]
    moved: int
    changed: frozenset[str]
    new: frozenset[str]
    gone: tuple[tuple[LibraryEntry, str | None], ...]
    retrained: bool

    def line(self) -> str:
        """What is unchanged, changed, new and removed, in words."""
        parts = {
            "unchanged": len(self.kept - self.pending),
            "not finished": len(self.pending),
            "changed": len(self.changed),
            "new": len(self.new),
        }
        said = [f"{number} {what}" for what, number in parts.items() if number] or ["none"]
        renamed = f" ({self.moved} renamed)" if self.moved else ""
        removed = sum(by is None for _, by in self.gone)
        moved = "adapter" if removed == 1 else "adapters"
        rest = f"; {removed} removed ({moved} moved to {RETIRED}/)" if removed else ""
        total = counted(len(self.kept) + len(self.changed) + len(self.new), "document")
        return f"{total}: {', '.join(said)}{renamed}{rest}"


def passage_digest(passage: Context, *, asked: bool) -> str:
    """Digest of all that edits about a passage depend on of it but for its id; with its queries if they choose."""
    queries = [[query.question, *query.golds] for query in passage.queries] if asked else []
    return digest([passage.title, passage.passage, queries, list(passage.edits)])


def document_digest(document: Document, *, asked: bool) -> str:
    """Digest of all that a document's adapter depends on of it, in the same way."""
    passages = [passage_digest(passage, asked=asked) for passage in document.passages]
    return digest([document.context.title, document.context.passage, passages])


def changes_of(manifest: Manifest, documents: Sequence[Document], digests: Mapping[str, str], *, each: bool) -> Changes:
    """What is different from a manifest.

    Args:
        manifest: What a folder holds.
        documents: What it is to hold.
        digests: Digest of each document, by id.
        each: Whether each document is to have an adapter of its own.
    """
    before, sources = {entry.id: entry for entry in manifest.documents}, {one.id: one.source for one in documents}
    kept = {name for name in sources if name in before and before[name].digest == digests[name]}
    others = {one.source: one.id for one in reversed(documents) if one.id not in kept}
    gone = [
        (entry, entry.id if entry.id in sources else others.get(entry.source))
        for entry in manifest.documents
        if entry.id not in kept
    ]
    changed = frozenset(by for _, by in gone if by is not None)
    known = manifest.together.documents if manifest.together else ()
    return Changes(
        kept=frozenset(kept),
        pending=frozenset(name for name in kept if _is_pending(before[name], each=each)),
        moved=sum(before[name].source != sources[name] for name in kept),
        changed=changed,
        new=frozenset(sources.keys() - kept - changed),
        gone=tuple(gone),
        retrained=manifest.together is not None and (set(known) != sources.keys() or sources.keys() != kept),
    )


def _is_pending(entry: LibraryEntry, *, each: bool) -> bool:
    return entry.status == "pending" or (each and entry.status == "ready" and entry.adapter is None)


def to_do(
    output: Path, documents: Sequence[Document], digests: Mapping[str, str], *, each: bool, together: bool
) -> tuple[list[Document], bool, str]:
    """Which documents are to be learnt, whether the adapter of all of them is to be made, and what has changed.

    Args:
        output: A folder, which may have a manifest.
        documents: What it is to hold.
        digests: Digest of each document, by id.
        each: Whether each document is to have an adapter of its own.
        together: Whether all of them are to have one.
    """
    if not (output / MANIFEST).exists():
        return list(documents), together, ""
    manifest = read_manifest(output)
    changes = changes_of(manifest, documents, digests, each=each)
    left = [one for one in documents if one.id not in changes.kept - changes.pending]
    known = manifest.together
    return left, together and (known is None or known.status == "pending" or changes.retrained), changes.line()


# -- the folder --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Keeper:
    """Keeps the manifest of a folder, which this process owns.

    Attributes:
        output: The folder.
        manifest: What it holds.
        each: Whether each document is to have an adapter of its own.
        changes: What has changed since the manifest was last written; None in a new folder.
    """

    output: Path
    manifest: Manifest
    each: bool
    changes: Changes | None = None

    def lines(self) -> list[str]:
        """What has changed since the run before, in words; nothing in a new folder."""
        if self.changes is None:
            return []
        again = "one adapter for all: trained again on all documents, the one before moved to retired/"
        return [self.changes.line(), *([again] if self.changes.retrained and self.manifest.together else [])]

    def order(self, lessons: Sequence[Lesson]) -> list[Lesson]:
        """What the adapter of all documents learns, in the order in which it did if the documents are the same."""
        together = self.manifest.together
        places = {name: place for place, name in enumerate(together.documents)} if together else {}
        return sorted(lessons, key=lambda lesson: places.get(lesson.document.id, 0))

    def failure(self, adapter: Adapter) -> str:
        """Why the adapter of documents that are unchanged failed in an earlier run; empty if it did not."""
        known = self.manifest.together if adapter.name == ALL else self._entries()[_document(adapter)]
        return known.reason if known and known.status == "failed" else ""

    def note(self, place: Workplace, made: Sequence[tuple[Adapter, Answers | str]]) -> None:
        """Write down which adapters are there, with what they answer, or why they are not.

        Raises:
            SavingError: The manifest cannot be written.
        """
        before, entries = self.manifest, self._entries()
        for adapter, outcome in made:
            reason, answers = (outcome, {}) if isinstance(outcome, str) else ("", outcome)
            status: Status = "failed" if reason else "ready"
            path = place.folder(adapter).relative_to(place.output).as_posix()
            if adapter.name == ALL:
                self._note_together(status, reason)
            for lesson in adapter.lessons if adapter.name != ALL or not self.each else ():
                entry = entries[lesson.document.id]
                if adapter.name == ALL and entry.adapter:  # of an earlier run
                    continue
                own, updated = None if reason or adapter.name == ALL else path, "" if reason else entry.updated or now()
                noted = replace(entry, adapter=own, status=status, reason=reason, updated=updated)
                entries[entry.id] = replace(noted, scores=_scores(place, entry, answers))
        self.manifest = replace(self.manifest, documents=tuple(entries.values()))
        if self.manifest != before:
            write_manifest(self.output, self.manifest)

    def _note_together(self, status: Status, reason: str) -> None:
        known = self.manifest.together
        assert known is not None, "the manifest was begun with it"
        updated = "" if reason else known.updated or now()
        self.manifest = replace(self.manifest, together=replace(known, status=status, reason=reason, updated=updated))

    def _entries(self) -> dict[str, LibraryEntry]:
        return {entry.id: entry for entry in self.manifest.documents}


def begin(output: Path, wanted: Wanted) -> Keeper:
    """Make a folder's manifest say what it is to hold, and retire the rest.

    What a process that was killed here has left undone is done by the next one.

    Raises:
        ConfigError, DataError: The manifest that is there cannot be used.
        SavingError: The folder cannot be written.
    """
    known = _settled(output, read_manifest(output)) if (output / MANIFEST).exists() else None
    empty = Manifest(wanted.base, wanted.tokenizer, wanted.asked_with, ())
    changes = changes_of(known or empty, wanted.documents, wanted.digests, each=wanted.each)
    together = _together(known, changes, wanted)
    gone = [_retired(output, entry, by) for entry, by in changes.gone]
    if known and known.together and known.together != together and (output / known.together.adapter).is_dir():
        why = "retrained" if wanted.together else "outdated"
        gone.append(Retired(ALL, "", "", known.together.adapter, None, why, None, now()))
    entries = _entries(known, changes, wanted)
    gone += _unknown(output, entries, together, gone)
    retired = (*(known.retired if known else ()), *gone)
    manifest = replace(empty, documents=tuple(entries), together=together, retired=retired)
    if manifest != known:
        write_manifest(output, manifest)
    manifest = _settled(output, manifest)
    for entry, document in zip(entries, wanted.documents, strict=True):
        _write_text(output, entry.text, document)
    return Keeper(output, manifest, wanted.each, changes if known else None)


def now() -> str:
    """The time, in ISO 8601 and UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


# -- steps -------------------------------------------------------------------------------------------------------------


def _entries(known: Manifest | None, changes: Changes, wanted: Wanted) -> list[LibraryEntry]:
    before = {entry.id: entry for entry in known.documents} if known else {}
    entries = []
    for document in wanted.documents:
        name, title, source = document.id, document.context.title, document.source or document.id
        scores = Scores(len(document.context.queries))
        if name in changes.kept:
            entry = replace(before[name], source=source)
            entry = replace(entry, scores=scores) if entry.scores.queries != scores.queries else entry
            entry = replace(entry, status="pending", updated="") if name in changes.pending else entry
        else:
            text = f"{DOCUMENTS}/{folder_name(name)}.json"
            own = wanted.digests[name], wanted.settings
            entry = LibraryEntry(name, source, title, *own, None, text, scores=scores)
        entries.append(entry)
    return entries


def _together(known: Manifest | None, changes: Changes, wanted: Wanted) -> Together | None:
    """The adapter of all documents: as it is, or anew."""
    earlier = known.together if known else None
    if earlier is not None and not changes.retrained and wanted.together in (None, earlier.adapter):
        return earlier
    if wanted.together is None:
        return None
    return Together(wanted.together, tuple(document.id for document in wanted.documents))


def _retired(output: Path, entry: LibraryEntry, by: str | None) -> Retired:
    place = f"{ADAPTERS}/{folder_name(entry.id)}"  # whether the manifest knows that it was finished or not
    adapter = place if (output / place).is_dir() else None
    return Retired(entry.id, entry.source, entry.title, adapter, entry.text, "replaced" if by else "removed", by, now())


def _unknown(
    output: Path, entries: Sequence[LibraryEntry], together: Together | None, gone: Sequence[Retired]
) -> list[Retired]:
    """The adapters that are there without a word in the manifest, whose file was lost or is an old copy."""
    expected = {f"{ADAPTERS}/{folder_name(entry.id)}" for entry in entries} | {one.adapter for one in gone}
    expected |= {together.adapter} if together else set()
    found = [path.parent.relative_to(output).as_posix() for path in output.glob(f"*/*/{RESULT}")]
    unknown = sorted(path for path in found if path.split("/")[0] in (ADAPTERS, WEIGHTS) and path not in expected)
    if unknown:
        moved = f"{counted(len(unknown), 'adapter')} of no current document, moved to {RETIRED}/"
        log.warning("%s: does not name %s: %s", output / MANIFEST, moved, ", ".join(unknown))
    texts = {path: f"{DOCUMENTS}/{_stem(path)}.json" for path in unknown}
    there = {path: text if (output / text).is_file() else None for path, text in texts.items()}
    return [Retired(_stem(path), "", "", path, there[path], "removed", None, now()) for path in unknown]


def _settled(output: Path, manifest: Manifest) -> Manifest:
    """The manifest once everything that it calls retired is in `retired/`."""
    retired: list[Retired] = []
    used = {_stem(path) for one in manifest.retired for path in (one.adapter, one.text) if path and _is_moved(path)}
    for one in manifest.retired:
        if all(_is_moved(path) for path in (one.adapter, one.text) if path):
            retired.append(one)
            continue
        stem = _stem(one.adapter or one.text or one.id)
        names = (name for number in count(1) if (name := f"{stem}-{number}") not in used)
        name = next(name for name in names if not any(a.exists() and b.exists() for a, b in _moves(output, one, name)))
        for source, target in _moves(output, one, name):
            if source.exists():
                move(source, target)
        used.add(name)
        adapter, text = one.adapter and f"{RETIRED}/{name}", one.text and f"{RETIRED}/{name}.json"
        retired.append(replace(one, adapter=adapter, text=text))
    settled = replace(manifest, retired=tuple(retired))
    if settled != manifest:
        write_manifest(output, settled)
    return settled


def _moves(output: Path, one: Retired, name: str) -> Iterator[tuple[Path, Path]]:
    """Where what is retired lies, and where it is to lie under a name that nothing else has there."""
    target = output / RETIRED / name
    if one.adapter:
        yield output / one.adapter, target
        yield output / "merged" / one.adapter.rpartition("/")[2], target / "merged"
    if one.text:
        yield output / one.text, target.with_name(f"{name}.json")


def _is_moved(path: str) -> bool:
    return path.startswith(f"{RETIRED}/")


def _stem(path: str) -> str:
    """The name that a document's adapter and text have in common."""
    return path.rpartition("/")[2].removesuffix(".json")


def _write_text(output: Path, path: str, document: Document) -> None:
    context = document.context
    stored = StoredDocument(context.id, context.title, context.passage, context.queries)
    try:
        if read_document(output, path) == stored:
            return
    except DataError:
        pass  # missing or damaged
    write_document(output, path, stored)


def _document(adapter: Adapter) -> str:
    (lesson,) = adapter.lessons
    return lesson.document.id


def _scores(place: Workplace, entry: LibraryEntry, answers: Answers) -> Scores:
    given = {"before": place.before, "after": answers, "open_book": place.open_book}
    known = {name: some[entry.id].accuracy for name, some in given.items() if entry.id in some}
    return replace(entry.scores, **{name: known.get(name) for name in given})
