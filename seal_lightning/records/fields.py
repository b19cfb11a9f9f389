"""What the fields of a rollout's line may hold: each the type that figures are computed with, and no wild numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import get_args

from seal_lightning.stamps.values import short
from seal_lightning.types import Kind, Status

TUPLES = ("questions", "baseline_answers", "answers", "baseline_scores", "scores")
_LARGEST = 1e100  # sums and means have to be finite
_NEEDED = ("unit", "of", "round", "edit_index", "repeat", "seed", "context_id", "prompt", "text", "status")
_NEEDED += ("baseline", "score", "gain", "reward", *TUPLES, "golds")


def fault_of(row: object) -> str:
    """Why a row is not a rollout of a unit, in a few words; empty where it is one. Unknown fields are fine."""
    if not isinstance(row, dict):
        return f"expected a rollout, got {short(row)}"
    if "stamp" in row:
        return "expected a rollout, got a second stamp, so two runs have written into this file"
    for name in _NEEDED:
        if name not in row:
            return f"field {name} is missing"
    for name, value in row.items():
        for is_right, expected in (*_OF_ALL, *_CHECKS.get(name, ())):
            if not is_right(value):
                return f"field {name} cannot be {short(value)}: it must be {expected}"
    if row.get("part", 0) >= row["of"]:
        return f"field part must be below of, which is {row['of']}, got {row['part']}"
    # Answers and scores are there for every query, or not at all (a rejected edit).
    for name in ("golds", "baseline_answers", "baseline_scores", "answers", "scores"):
        if len(row[name]) not in (len(row["questions"]), 0):
            return f"field {name} must be as long as questions"
    is_scored = row["baseline_scores"] or row["scores"]  # else answered, and scored by nobody
    if is_scored and len(row["answers"]) != len(row["scores"]):
        return "fields answers and scores must be equally long"
    return ""


def is_text(value: object) -> bool:
    return isinstance(value, str)


def is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _at_least(least: int) -> Callable[[object], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= least


def _list_of(is_right: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, list) and all(map(is_right, value))


def _object_of(is_right: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, dict) and all(map(is_right, value.values()))


def _numbers_in(value: object) -> Iterator[float]:
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _numbers_in(inner)
    elif isinstance(value, int | float):
        yield value


_Check = tuple[Callable[[object], bool], str]  # and what the value must be
_TEXT: _Check = (is_text, "a text")
_SCORES: _Check = (_list_of(_is_share), "a list of numbers from 0 to 1")
_TEXTS: _Check = (_list_of(is_text), "a list of texts")
_BY_NAME: _Check = (_object_of(_is_number), "numbers by name")
_OF_ALL: tuple[_Check, ...] = (
    (lambda value: all(not isinstance(each, float) or math.isfinite(each) for each in _numbers_in(value)), "finite"),
    (lambda value: all(abs(each) < _LARGEST for each in _numbers_in(value)), f"below {_LARGEST:g}"),
)
_CHECKS: dict[str, tuple[_Check, ...]] = {
    "seed": ((is_whole, "a whole number"),),
    **{
        name: ((_at_least(least), f"{least} or more"),)
        for name, least in dict(unit=0, of=1, part=0, round=0, repeat=0, edit_index=-1, steps=0).items()
    },
    **dict.fromkeys(
        ("context_id", "prompt", "text", "reason", "dropped", "title", "passage_digest", "edit_kind"), (_TEXT,)
    ),
    **{
        name: (_TEXT, (allowed.__contains__, f"one of {', '.join(allowed)}"))
        for name, allowed in {"status": get_args(Status), "kind": get_args(Kind)}.items()
    },
    **dict.fromkeys(("baseline", "score"), ((_is_share, "from 0 to 1"),)),
    "gain": ((_is_number, "a number"),),
    "similarity": ((lambda value: value is None or _is_share(value), "a number from 0 to 1"),),
    **dict.fromkeys(("reward", "retention"), ((lambda value: value is None or _is_number(value), "a number"),)),
    **{name: (_SCORES if name.endswith("scores") else _TEXTS,) for name in TUPLES},
    "golds": ((_list_of(_list_of(is_text)), "lists of texts"),),
    **dict.fromkeys(("asked", "applied"), ((_object_of(lambda value: True), "an object"),)),
    **dict.fromkeys(("terms", "thoughts", "tokens", "seconds", "left_out"), (_BY_NAME,)),
    "usage": ((_object_of(_object_of(_is_number)), "counts"),),
}
