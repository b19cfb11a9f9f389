"""YAML that somebody else wrote, read within bounds: size, depth, what aliases repeat, digits of a number.

500 bytes of YAML can stand for a billion values: an alias repeats what an anchor named, and nothing in YAML limits how
often. So the text is surveyed first: its events are counted, then its nodes, in which an alias is one and the same node
again. Only a text within the bounds is loaded, with a safe loader, which makes no Python objects. The survey also says
which keys occur twice, and which have nothing behind them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias, TypeVar

import yaml

from seal_lightning.files.bounded import DEPTH, DIGITS

CHARACTERS = 4_000_000  # of a text, and of its content once its aliases are written out
VALUES = 200_000  # texts, numbers, lists and mappings, counting what aliases repeat each time
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp")
_NULL = "tag:yaml.org,2002:null"
_TOO_DEEP = f"lists and mappings nested more than {DEPTH} deep"
_EACH_TIME = "counting what aliases repeat each time"
SAFE = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's, if PyYAML was built with it
KeyPath: TypeAlias = tuple[str | int, ...]
T = TypeVar("T")


class BeyondBounds(yaml.MarkedYAMLError):
    """Valid YAML so far, but too large, too deep, or without an end."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a mapping, with the keys and list positions that lead to it, and its line (1-based)."""

    path: KeyPath
    line: int

    @property
    def name(self) -> str:
        return str(self.path[-1])


@dataclass(frozen=True, slots=True)
class Survey:
    """What a YAML text within the bounds contains.

    Attributes:
        repeated: Keys that occur twice in one mapping, where the last would win silently.
        empty: Keys with nothing behind them (`model:`), which YAML reads as null; `model: null` is not among them.
        sections: Whether the text is a mapping.
    """

    repeated: tuple[Key, ...] = ()
    empty: tuple[Key, ...] = ()
    sections: bool = False


def load_yaml(text: str, *, loader: type[yaml.BaseLoader | yaml.SafeLoader | yaml.CSafeLoader] = SAFE) -> Any:
    """The value of a YAML or JSON text.

    Args:
        text: One document.
        loader: A safe loader: this one, a class derived from it, or `yaml.BaseLoader`.

    Raises:
        yaml.YAMLError: It is not YAML, or breaks a bound; a `MarkedYAMLError` where the place is known.
    """
    survey(text)
    return guarded(lambda: yaml.load(text, Loader=loader))


def survey(text: str) -> Survey:
    """Walk over a YAML text without making its values. Raises as `load_yaml`.

    >>> survey("a: &a [1, 2]\\nb:\\nc: null\\na: *a").empty[0].name
    'b'
    """
    if len(text) > CHARACTERS:
        raise BeyondBounds(problem=f"{len(text):,} characters of at most {CHARACTERS:,}")
    return guarded(lambda: _surveyed(text))


def guarded(load: Callable[[], T]) -> T:
    """What `load` returns; every way in which PyYAML fails on a text becomes a `yaml.YAMLError`."""
    try:
        return load()
    except yaml.YAMLError:
        raise
    except RecursionError:
        raise yaml.YAMLError(_TOO_DEEP) from None
    except MemoryError:
        raise yaml.YAMLError("more than fits into memory") from None
    except (ValueError, OverflowError, TypeError, AttributeError, LookupError) as error:  # a day 45, !!int x
        raise yaml.YAMLError(" ".join(str(error).split()) or type(error).__name__) from None


def place_of(error: yaml.YAMLError) -> tuple[int, str]:
    """The line (1-based, 0 if it is not known), and what is wrong there in a few words."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    return (mark.line + 1 if mark else 0), " ".join(str(problem).split())[:120]


def _surveyed(text: str) -> Survey:
    """Nodes are made by recursion, so the depth is checked before; so is their number, since each takes memory."""
    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=SAFE)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEPTH:
            raise _broken(event, _TOO_DEEP)
        if count > 2 * VALUES + 4:  # a list has two events, and so has the text with its document
            raise _broken(event, f"more than {VALUES:,} values")
    root = yaml.compose(text, Loader=SAFE)
    surveyor = _Surveyor()
    if root is not None:
        surveyor.size(root, ())
    return Survey(tuple(surveyor.repeated), tuple(surveyor.empty), isinstance(root, yaml.MappingNode))


class _Size(NamedTuple):
    values: int
    characters: int
    height: int


class _Surveyor:
    """Adds up what the nodes of a text would make."""

    def __init__(self) -> None:
        self.repeated: list[Key] = []
        self.empty: list[Key] = []
        self._sizes: dict[yaml.Node, _Size | None] = {}  # None while a node is open

    def size(self, node: yaml.Node, path: KeyPath) -> _Size:
        if node not in self._sizes:
            self._sizes[node] = None
            self._sizes[node] = self._measured(node, path)
        if (size := self._sizes[node]) is None:
            raise _broken(node, "an alias stands for what it is in itself")
        if len(path) + size.height > DEPTH:
            raise _broken(node, _TOO_DEEP)
        if size.values > VALUES:
            raise _broken(node, f"more than {VALUES:,} values, {_EACH_TIME}")
        if size.characters > CHARACTERS:
            raise _broken(node, f"more than {CHARACTERS:,} characters, {_EACH_TIME}")
        return size

    def _measured(self, node: yaml.Node, path: KeyPath) -> _Size:
        if isinstance(node, yaml.ScalarNode):
            if len(node.value) > DIGITS and node.tag in _NUMBERS:
                raise _broken(node, f"a number of more than {DIGITS} digits")
            return _Size(1, len(node.value), 0)
        sizes = []
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                self._note(key, value, path, seen)
                sizes += self.size(key, path), self.size(value, _below(path, key))
        else:
            for place, item in enumerate(node.value):
                sizes.append(self.size(item, (*path, place)))
        values, characters, heights = zip(*sizes, strict=True) if sizes else ((), (), ())
        return _Size(1 + sum(values), sum(characters), 1 + max(heights, default=0))

    def _note(self, key: yaml.Node, value: yaml.Node, path: KeyPath, seen: set[str]) -> None:
        line = key.start_mark.line + 1
        if isinstance(key, yaml.ScalarNode) and key.value != "<<":
            if key.value in seen:
                self.repeated.append(Key((*path, key.value), line))
            seen.add(key.value)
        if isinstance(value, yaml.ScalarNode) and not value.value and not value.style and value.tag == _NULL:
            self.empty.append(Key(_below(path, key), line))


def _below(path: KeyPath, key: yaml.Node) -> KeyPath:
    return (*path, key.value if isinstance(key, yaml.ScalarNode) else "")


def _broken(place: yaml.Event | yaml.Node, problem: str) -> BeyondBounds:
    return BeyondBounds(problem=problem, problem_mark=place.start_mark)
