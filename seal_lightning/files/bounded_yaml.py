"""YAML that somebody else wrote, read within bounds: size, depth, what aliases repeat, digits of a number.

500 bytes of YAML can stand for a billion values: an alias repeats what an anchor named, and nothing in YAML limits how
often. So the text is surveyed first, event by event and without building anything; only what keeps within the bounds is
loaded, with a safe loader, which makes no Python objects. The survey also says which keys stand twice, and which
have nothing behind them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import yaml

from seal_lightning.files.bounded import DEPTH, DIGITS

CHARACTERS = 4_000_000  # of a text, and of what it says once its aliases are written out
VALUES = 200_000  # texts, numbers, lists and mappings, those that aliases repeat counted each time
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp")
SAFE = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's, where PyYAML was built with it


class BeyondBounds(yaml.MarkedYAMLError):
    """Valid YAML so far, but too large, too deep, or without an end."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a mapping, with the keys and list positions that lead to it, and its line (1-based)."""

    path: tuple[str | int, ...]
    line: int

    @property
    def name(self) -> str:
        return str(self.path[-1])


@dataclass(frozen=True, slots=True)
class Survey:
    """What stands in a YAML text that keeps within the bounds.

    Attributes:
        repeated: Keys that stand twice in one mapping, of which the last would win silently.
        empty: Keys with nothing behind them (`model:`), which YAML reads as null; `model: null` is not among them.
        sections: Whether the text is a mapping.
    """

    repeated: tuple[Key, ...] = ()
    empty: tuple[Key, ...] = ()
    sections: bool = False


@dataclass(slots=True)
class _Open:
    """A list or mapping whose end has not been seen, and what is in it so far."""

    path: tuple[str | int, ...]
    is_mapping: bool
    anchor: str | None
    values: int = 1
    characters: int = 0
    height: int = 1
    key: str | None = None  # of a mapping: the key whose value comes next
    count: int = 0
    seen: set[str] = field(default_factory=set)

    def place(self) -> tuple[str | int, ...]:
        return (*self.path, (self.key or "") if self.is_mapping else self.count)


def load_yaml(text: str, *, loader: Any = SAFE) -> Any:
    """The value of a YAML or JSON text.

    Args:
        text: One document.
        loader: A safe loader: this one, a class derived from it, or `yaml.BaseLoader`.

    Raises:
        yaml.YAMLError: It is no YAML, or breaks a bound; a `MarkedYAMLError` where the place is known.
    """
    survey(text)
    return guarded(lambda: yaml.load(text, Loader=loader))


def survey(text: str) -> Survey:
    """Walk over a YAML text without building anything. Raises as `load_yaml`.

    >>> survey("a: &a [1, 2]\\nb:\\nc: null\\na: *a").empty[0].name
    'b'
    """
    if len(text) > CHARACTERS:
        raise BeyondBounds(problem=f"{len(text):,} characters of at most {CHARACTERS:,}")
    return guarded(lambda: _Surveyor().walk(text))


def guarded(load: Callable[[], Any]) -> Any:
    """What `load` gives; every way in which PyYAML fails on a text becomes a `yaml.YAMLError`."""
    try:
        return load()
    except yaml.YAMLError:
        raise
    except RecursionError:
        raise yaml.YAMLError(f"lists and mappings nested more than {DEPTH} deep") from None
    except MemoryError:
        raise yaml.YAMLError("more than fits into memory") from None
    except (
        ValueError,
        OverflowError,
        TypeError,
        AttributeError,
        LookupError,
    ) as error:  # a day 45, "\UFFFFFFFF", !!int x
        raise yaml.YAMLError(" ".join(str(error).split()) or type(error).__name__) from None


def place_of(error: yaml.YAMLError) -> tuple[int, str]:
    """The line (1-based, 0 where it is not known), and what is wrong there in a few words."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    return (mark.line + 1 if mark else 0), " ".join(str(problem).split())[:120]


class _Surveyor:
    """Counts what the events of a text would build."""

    def __init__(self) -> None:
        self.open: list[_Open] = []
        self.anchors: dict[str, tuple[int, int, int]] = {}  # values, characters, height
        self.repeated: list[Key] = []
        self.empty: list[Key] = []
        self.sections = False
        self.values = self.characters = 0  # of the whole text so far
        self.resolver = yaml.SafeLoader("")

    def walk(self, text: str) -> Survey:
        for event in yaml.parse(text, Loader=SAFE):
            if isinstance(event, yaml.CollectionStartEvent):
                self._start(event)
            elif isinstance(event, yaml.CollectionEndEvent):
                self._end(event)
            elif isinstance(event, yaml.AliasEvent):
                self._alias(event)
            elif isinstance(event, yaml.ScalarEvent):
                self._scalar(event)
        return Survey(tuple(self.repeated), tuple(self.empty), self.sections)

    def _start(self, event: Any) -> None:
        if len(self.open) >= DEPTH:
            raise _broken(event, f"lists and mappings nested more than {DEPTH} deep")
        path = self.open[-1].place() if self.open else ()
        self.sections |= not self.open and isinstance(event, yaml.MappingStartEvent)
        self.open.append(_Open(path, isinstance(event, yaml.MappingStartEvent), event.anchor))
        if event.anchor:
            self.anchors.pop(event.anchor, None)  # until it is whole, an alias to it would never end

    def _end(self, event: Any) -> None:
        done = self.open.pop()
        if done.anchor:
            self.anchors[done.anchor] = (done.values, done.characters, done.height)
        if self.open:
            # its own count is told to its parent at once, by what was in it all along
            self.open[-1].values += done.values
            self.open[-1].characters += done.characters
            self.open[-1].height = max(self.open[-1].height, done.height + 1)
            self._took_place("", event, nested=True)
        self._count(event, 1, 0)

    def _alias(self, event: Any) -> None:
        known = self.anchors.get(event.anchor)
        if known is None:
            raise _broken(event, f"the alias *{event.anchor} stands for nothing, or for what it is in itself")
        values, characters, height = known
        if len(self.open) + height > DEPTH:
            raise _broken(event, f"lists and mappings nested more than {DEPTH} deep")
        self._add(values, characters, height)
        self._count(event, values, characters)
        self._took_place(f"*{event.anchor}", event)

    def _scalar(self, event: Any) -> None:
        text = event.value
        if len(text) > DIGITS and self._is_number(event):
            raise _broken(event, f"a number of more than {DIGITS} digits")
        if event.anchor:
            self.anchors[event.anchor] = (1, len(text), 0)
        self._add(1, len(text), 0)
        self._count(event, 1, len(text))
        is_empty = not text and not event.style and event.tag is None and event.anchor is None
        self._took_place(text, event, is_empty=is_empty)

    def _is_number(self, event: Any) -> bool:
        if event.tag is not None:
            return event.tag in _NUMBERS
        plain, _ = event.implicit
        return plain and self.resolver.resolve(yaml.ScalarNode, event.value, (True, False)) in _NUMBERS

    def _add(self, values: int, characters: int, height: int) -> None:
        if self.open:
            inner = self.open[-1]
            inner.values += values
            inner.characters += characters
            inner.height = max(inner.height, height + 1)

    def _count(self, event: Any, values: int, characters: int) -> None:
        self.values += values
        self.characters += characters
        if self.values > VALUES:
            raise _broken(event, f"more than {VALUES:,} values, those that aliases repeat counted each time")
        if self.characters > CHARACTERS:
            raise _broken(event, f"more than {CHARACTERS:,} characters, those that aliases repeat counted each time")

    def _took_place(self, text: str, event: Any, *, nested: bool = False, is_empty: bool = False) -> None:
        """Note a key or value of the mapping or list that is open."""
        if not self.open:
            return
        inner = self.open[-1]
        if not inner.is_mapping:
            inner.count += 1
        elif inner.key is None:
            inner.key = "" if nested else text
            if not nested and text != "<<":
                key = Key((*inner.path, text), event.start_mark.line + 1)
                if text in inner.seen:
                    self.repeated.append(key)
                inner.seen.add(text)
        else:
            if is_empty:
                self.empty.append(Key(inner.place(), event.start_mark.line + 1))
            inner.key = None


def _broken(event: Any, problem: str) -> BeyondBounds:
    return BeyondBounds(problem=problem, problem_mark=event.start_mark)
