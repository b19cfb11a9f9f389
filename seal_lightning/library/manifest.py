"""The manifest of a library: which documents it holds, which adapter each has, and which adapters were retired.

    manifest.json           written whole, by the process that owns the folder alone
    documents/NAME.json     a document's text and queries, for who asks; never uploaded, never beside an adapter
    adapters/, weights/     what answers
    retired/                adapters that no longer do, out of the way of servers that look into `adapters/`

A library may be anybody's: everything is checked here, and no path of a manifest leads out of its folder.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, TypeVar, get_args

from seal_lightning.errors import ConfigError, DataError
from seal_lightning.files.bounded import read_json
from seal_lightning.files.contained import contained
from seal_lightning.files.rows import Row, describe
from seal_lightning.files.saving import save_text
from seal_lightning.types import JsonObject, Query

FORMAT = 1
MANIFEST = "manifest.json"
ADAPTERS, WEIGHTS, DOCUMENTS, RETIRED = "adapters", "weights", "documents", "retired"  # folders of a library
Status = Literal["ready", "pending", "failed"]
Why = Literal["removed", "replaced", "retrained", "outdated"]
Word = TypeVar("Word", bound=str)
_RESUME = "copy the folder again, or move this file away and run seal adapt with --resume"


@dataclass(frozen=True, slots=True)
class Base:
    """The base model.

    Attributes:
        name: As adapters name it: on the hub, or the folder as it was named.
        revision: Branch, tag or commit of a model on the hub, where one is known.
        fingerprint: Digest of its weights.
    """

    name: str
    revision: str | None
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Scores:
    """Accuracies on a document's queries, each of 0 to 1; None where it was not measured.

    Attributes:
        queries: How many there are.
        before: Without an adapter.
        after: With the document's own adapter, or that of all documents where it has none.
        open_book: Without an adapter, with the document in the prompt.
    """

    queries: int
    before: float | None = None
    after: float | None = None
    open_book: float | None = None


@dataclass(frozen=True, slots=True)
class LibraryEntry:
    """One document.

    Attributes:
        id: Its id, which changes with its text unless the data gives it one.
        source: Where it comes from, below what was named: `notes/may.md`, `rows.jsonl#3`.
        title: Its title.
        digest: Digest of its title, text and queries.
        settings: Digest of the settings that its adapter depends on.
        adapter: Folder of its own adapter, `adapters/NAME`; None where it has none (yet).
        text: File of its text, `documents/NAME.json`.
        status: `ready` once what it is to have is there, `failed` where its adapter diverged.
        reason: Why it failed.
        scores: On its queries.
        updated: When its adapter was finished, in ISO 8601 and UTC; empty before.
    """

    id: str
    source: str
    title: str
    digest: str
    settings: str
    adapter: str | None
    text: str
    status: Status = "pending"
    reason: str = ""
    scores: Scores = field(default=Scores(0))
    updated: str = ""


@dataclass(frozen=True, slots=True)
class Together:
    """The adapter, or the weights, of all documents; `all` in the file.

    Attributes:
        adapter: Its folder, `adapters/all` or `weights/all`.
        documents: The ids of what it has learnt.
        status: As for a document.
        way: What is done when a document changes: it is trained again on all of them.
        reason: Why it failed.
        updated: When it was finished.
    """

    adapter: str
    documents: tuple[str, ...]
    status: Status = "pending"
    way: Literal["retrained"] = "retrained"
    reason: str = ""
    updated: str = ""


@dataclass(frozen=True, slots=True)
class Retired:
    """An adapter that answers no longer, with its document.

    Attributes:
        id: The id of its document, or `all`.
        source: Where the document came from.
        title: The document's title.
        adapter: Where the adapter lies, `retired/NAME`; its earlier place until it is moved; None where it had none.
        text: File of the document's text, in the same way; None for the adapter of all documents.
        why: Whether the document was removed or replaced; or, of the adapter of all documents, whether it was trained
            again or is outdated, because they changed and no such adapter was asked for.
        by: Id of the document that replaced it.
        at: When, in ISO 8601 and UTC.
    """

    id: str
    source: str
    title: str
    adapter: str | None
    text: str | None
    why: Why
    by: str | None
    at: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a library holds.

    Attributes:
        base: The base model.
        tokenizer: Name of its tokenizer, as others load it.
        asked_with: What it takes to ask as training did: `source` (the options of `model.source`), `task` (class and
            arguments), `max_answer_tokens`, `chat`, and the names of `policy`, `generator` and `skill` or null.
        documents: The current documents, in the order in which they were read.
        together: The adapter of all of them; None where there is to be none.
        retired: Earlier adapters, oldest first.
    """

    base: Base
    tokenizer: str
    asked_with: JsonObject
    documents: tuple[LibraryEntry, ...]
    together: Together | None = None
    retired: tuple[Retired, ...] = ()


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A document as `documents/NAME.json` keeps it."""

    id: str
    title: str
    text: str
    queries: tuple[Query, ...] = ()


# -- writing -----------------------------------------------------------------------------------------------------------


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json`, whole or not at all; a reader sees the old one or the new one.

    Raises:
        SavingError: The disk does not take it.
    """
    content: JsonObject = {
        "format": FORMAT,
        "base": asdict(manifest.base),
        "tokenizer": manifest.tokenizer,
        "asked_with": manifest.asked_with,
        "documents": [asdict(entry) for entry in manifest.documents],
        "all": None if manifest.together is None else asdict(manifest.together),
        "retired": [asdict(adapter) for adapter in manifest.retired],
    }
    save_text(folder / MANIFEST, json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def write_document(folder: Path, text: str, document: StoredDocument) -> None:
    """Write a document's file, which an entry's `text` names. Raises as `write_manifest`."""
    save_text(folder / text, json.dumps(asdict(document), ensure_ascii=False, indent=1) + "\n")


# -- reading -----------------------------------------------------------------------------------------------------------


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a library.

    Raises:
        ConfigError: The folder is missing, or holds no library.
        DataError: The manifest is damaged, of another format, or leads out of the folder.
    """
    path = contained(folder, MANIFEST)
    if not path.is_file():
        got = "a folder without manifest.json" if folder.is_dir() else "nothing there"
        raise ConfigError(f"{folder}: expected a folder of seal adapt, got {got}: check the path, or run seal adapt")
    row = _row(path, read_json(path))
    if (found := row.values.get("format")) != FORMAT:
        raise row.error(
            "format", expected=str(FORMAT), got=describe(found), advice="read it with the version that wrote it"
        )
    base, together = _inner(row, "base"), row.values.get("all")
    return Manifest(
        base=Base(base.text("name"), _optional(base, "revision"), base.text("fingerprint")),
        tokenizer=row.text("tokenizer"),
        asked_with=dict(_inner(row, "asked_with").values),
        documents=tuple(_entry(folder, one) for one in row.rows("documents")),
        together=None if together is None else _together(folder, _inner(row, "all")),
        retired=tuple(_retired(folder, one) for one in row.rows("retired")),
    )


def read_document(folder: Path, text: str) -> StoredDocument:
    """A document of a library, of which an entry's `text` is the file.

    Raises:
        DataError: The file is missing or damaged.
    """
    path = contained(folder, text)
    row = _row(path, read_json(path))
    queries = tuple(Query(one.text("question"), one.texts("golds")) for one in row.rows("queries"))
    return StoredDocument(row.text("id"), row.title(), row.text("text", may_be_blank=True), queries)


def _row(path: Path, content: object) -> Row:
    if not isinstance(content, Mapping):
        raise DataError(f"{path}: expected an object, got {describe(content)}: {_RESUME}")
    return Row(path, "top level", content)


def _inner(row: Row, name: str) -> Row:
    value = row.values.get(name)
    if not isinstance(value, Mapping):
        raise row.error(name, expected="an object", got=row.got(name), advice=_RESUME)
    return Row(row.file, row.place, value, f"{row.within}{name}.")


def _entry(folder: Path, row: Row) -> LibraryEntry:
    return LibraryEntry(
        id=row.text("id"),
        source=row.text("source"),
        title=row.title(),
        digest=row.text("digest"),
        settings=row.text("settings"),
        adapter=_path_or_none(folder, row, "adapter", ADAPTERS),
        text=_path(folder, row, "text", DOCUMENTS),
        status=_word(row, "status", get_args(Status)),
        reason=row.text("reason", may_be_blank=True),
        scores=_scores(_inner(row, "scores")),
        updated=row.text("updated", may_be_blank=True),
    )


def _scores(row: Row) -> Scores:
    queries = row.values.get("queries")
    if isinstance(queries, bool) or not isinstance(queries, int) or queries < 0:
        raise row.error("queries", expected="a whole number", got=row.got("queries"), advice=_RESUME)
    return Scores(queries, *(_share(row, name) for name in ("before", "after", "open_book")))


def _share(row: Row, name: str) -> float | None:
    value = row.values.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise row.error(name, expected="a number or null", got=row.got(name), advice=_RESUME)
    return float(value)


def _together(folder: Path, row: Row) -> Together:
    return Together(
        adapter=_path(folder, row, "adapter", ADAPTERS, WEIGHTS),
        documents=row.texts("documents"),
        status=_word(row, "status", get_args(Status)),
        way=_word(row, "way", ("retrained",)),
        reason=row.text("reason", may_be_blank=True),
        updated=row.text("updated", may_be_blank=True),
    )


def _retired(folder: Path, row: Row) -> Retired:
    return Retired(
        id=row.text("id"),
        source=row.text("source", may_be_blank=True),
        title=row.title(),
        adapter=_path_or_none(folder, row, "adapter", RETIRED, ADAPTERS, WEIGHTS),
        text=_path_or_none(folder, row, "text", RETIRED, DOCUMENTS),
        why=_word(row, "why", get_args(Why)),
        by=_optional(row, "by"),
        at=row.text("at"),
    )


def _optional(row: Row, name: str) -> str | None:
    return None if row.values.get(name) is None else row.text(name)


def _word(row: Row, name: str, known: tuple[Word, ...]) -> Word:
    value = row.values.get(name)
    if value not in known:
        raise row.error(name, expected=" or ".join(known), got=row.got(name), advice=_RESUME)
    return known[known.index(value)]


def _path_or_none(folder: Path, row: Row, name: str, *inside: str) -> str | None:
    return None if row.values.get(name) is None else _path(folder, row, name, *inside)


def _path(folder: Path, row: Row, name: str, *inside: str) -> str:
    """A path `INSIDE/NAME` of the library, which leads nowhere else."""
    value = row.text(name)
    parts = value.split("/")
    if len(parts) != 2 or parts[0] not in inside or parts[1] in ("", ".", "..") or "\0" in value:
        raise row.error(name, expected=f"{' or '.join(inside)}/NAME", got=row.got(name), advice=_RESUME)
    contained(folder, value)
    return value
