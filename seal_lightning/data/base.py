"""What a reader is, and the last step of every reader: ids, and rows with the same text united.

A reader turns files into contexts and says in one line (`DataError`) what is wrong with a file. Your own subclasses
`Reader` and is named in YAML by `class_path`.
"""

from __future__ import annotations

import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import replace
from difflib import get_close_matches
from hashlib import blake2b
from pathlib import Path

from seal_lightning.errors import ConfigError
from seal_lightning.files.rows import Row
from seal_lightning.stamps.arguments import Remembers
from seal_lightning.types import Context

log = logging.getLogger(__name__)


Unit = tuple[Context, ...]  # adapted to together, and kept or repeated together by the journal


def units(contexts: Sequence[Context], per_unit: int) -> list[Unit]:
    """The contexts in order, `per_unit` at a time; the last unit has what is left."""
    return [tuple(contexts[start : start + per_unit]) for start in range(0, len(contexts), per_unit)]


class Reader(Remembers, ABC):
    """Reads contexts, for example:

    >>> class Proverbs(Reader):
    ...     def read(self):
    ...         return [Context(id="proverb", title="A proverb", passage="Haste makes waste.")]
    >>> Proverbs().read()[0].title
    'A proverb'
    """

    @property
    def source(self) -> str:
        """The name of the data in error messages: the reader's path if it has one, else its class."""
        return str(getattr(self, "path", type(self).__name__))

    @abstractmethod
    def read(self) -> list[Context]:
        """Read all contexts in the order of the data, each with a unique id.

        Raises:
            DataError: A file or one of its rows cannot be used.
        """


def check_path(name: str, value: object) -> str:
    """The path, if it is a text that is not blank."""
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{name} must be a path, got {value!r}: name a file")
    return value


def check_texts(name: str, value: object) -> None:
    """Raises `ConfigError` unless the value is a list of texts that are not blank."""
    listed = value if isinstance(value, Sequence) and not isinstance(value, str) else (None,)
    if not all(isinstance(item, str) and item.strip() for item in listed):
        raise ConfigError(f"{name} must be a list of texts, got {str(value)[:60]!r}: write each in quotes")


def did_you_mean(word: str, known: Iterable[str], *, otherwise: str) -> str:
    """Advice that names the known word that is meant, or other advice if none is close."""
    near = get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else otherwise


def some(names: Sequence[str], most: int = 3) -> str:
    """The first names of a list, for a message."""
    more = f", and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def is_hidden(file: Path, folder: Path) -> bool:
    """Whether a file, or a folder above it, is hidden within `folder`."""
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


def scorable(contexts: Sequence[Context]) -> list[Context]:
    """The contexts without the queries that have no golds; the log says how many were left out."""
    kept = [replace(context, queries=tuple(q for q in context.queries if q.golds)) for context in contexts]
    asked, left = (sum(len(context.queries) for context in some) for some in (contexts, kept))
    if asked > left:
        log.warning("left out %d of %d queries, for which the data has no answer", asked - left, asked)
    return kept


def context_id(title: str, passage: str, *, digest_size: int = 4) -> str:
    """An id for a context without one: its title in a short readable form, and a digest of all its text."""
    slug = re.sub(r"[\W_]+", "-", title.lower()).strip("-")[:40].rstrip("-") or "context"
    text = f"{title}\0{passage}"
    return f"{slug}-{blake2b(text.encode(), digest_size=digest_size).hexdigest()}"


def row_sources(name: str, contexts: Sequence[Context]) -> list[str]:
    """Where each context of a file of rows comes from: `towns.jsonl#3`, or its id where the data gives it one.

    >>> row_sources("towns.jsonl", [Context(id="alba", title="Alba", passage="On a hill.")])
    ['towns.jsonl#alba']
    """
    made = [{context_id(one.title, one.passage, digest_size=size) for size in (4, 16)} for one in contexts]
    pairs = zip(contexts, made, strict=True)
    return [f"{name}#{at if one.id in ids else one.id}" for at, (one, ids) in enumerate(pairs, start=1)]


def unite(read: Iterable[tuple[Row, Context]]) -> list[Context]:
    """Contexts, each with an id; rows with the same title and passage become one, under the first one's id."""
    contexts: dict[tuple[str, str], Context] = {}
    owner: dict[str, tuple[tuple[str, str], Row]] = {}
    repeated = 0
    for row, context in read:
        key = (context.title, context.passage)
        name = context.id or context_id(*key)
        if not context.id and owner.get(name, (key,))[0] != key:  # to be expected among 70,000 passages without a title
            name = context_id(*key, digest_size=16)
        known, first = owner.setdefault(name, (key, row))
        if known != key:
            raise row.error("id", expected="a unique id", got=f"{name!r} of {first.place} again", advice="rename one")
        if (same := contexts.get(key)) is None:
            contexts[key] = replace(context, id=name)
            continue
        repeated += 1
        queries, edits = dict.fromkeys(same.queries + context.queries), dict.fromkeys(same.edits + context.edits)
        contexts[key] = replace(same, queries=tuple(queries), edits=tuple(edits))
    if repeated:
        log.info("merged %d rows that repeat the title and passage of another", repeated)
    return list(contexts.values())
