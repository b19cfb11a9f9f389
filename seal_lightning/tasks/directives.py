"""Directives: the training choices that a self-edit may carry as a small JSON object at its end.

In the paper the ARC self-edit is made of them (arXiv 2506.10943, section 3.2); here they may go with knowledge edits
too. What was asked for is recorded as written, what is applied stays within limits, and anything unusable is ignored.
Schedules are not offered to the policy.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args

from seal_lightning.errors import ConfigError
from seal_lightning.tasks.layer_choice import Sort, read_choice
from seal_lightning.types import Directives, Json, JsonObject

NAMES = ("epochs", "learning_rate", "batch_size")
Aimed = Literal["sft", "distill"]
LAYERS = "layers"
OBJECTIVE = "objective"
_TAIL = 4000  # characters at the end of an edit that are searched: more than any such object needs
_FENCE_BEFORE = re.compile(r"```[ \t]*+\w*+\s*+\Z")
_FENCE_AFTER = re.compile(r"\A\s*```")
_AIMS = {"sft": "the words as you wrote them", "distill": "what you would say with the passage before you"}
_SORTS = {"depth": '"0-3", "first half"', "kinds": '"attention", "mlp"'}


@cache
def _shard_of(names: tuple[str, ...]) -> re.Pattern[str]:
    """What was to become an object with one of the names."""
    return re.compile(rf"\{{[^{{}}]{{0,200}}?\b(?:{'|'.join(names)})\b[^{{}}]*\}}?")


@dataclass(frozen=True, slots=True)
class DirectiveLimits:
    """Lowest and highest value that is applied when the policy asks for it; what lies beyond is moved to the limit.

    Args:
        epochs: Limits of the passes over the training sequences.
        learning_rate: Limits of the peak learning rate.
        batch_size: Limits of the sequences per step.
        layers: How the policy may name the layers that are trained: by `depth` (0-3, first half), by `kinds`
            (attention, mlp, q_proj), or both; none does not ask for them.
        objective: What the policy may have an adapter trained towards, of `sft` (its own words) and `distill` (what the
            model says with the passage before it); none does not ask for it.
    """

    epochs: tuple[int, int] = (1, 20)
    learning_rate: tuple[float, float] = (1e-5, 5e-3)
    batch_size: tuple[int, int] = (1, 8)
    layers: tuple[Sort, ...] = ()
    objective: tuple[Aimed, ...] = ()

    def __post_init__(self) -> None:
        for name in NAMES:
            check_limits(name, getattr(self, name))
        if unknown := [sort for sort in self.layers if sort not in _SORTS]:
            raise ConfigError(f"layers must be some of {', '.join(_SORTS)}, got {unknown[0]!r}: try [depth, kinds]")
        if unknown := [name for name in self.objective if name not in get_args(Aimed)]:
            allowed = ", ".join(get_args(Aimed))
            raise ConfigError(f"objective must be some of {allowed}, got {unknown[0]!r}: try [{allowed}]")

    def request(self) -> str:
        """The paragraph that asks the policy for directives."""
        ranges = ", ".join(f"{name} ({getattr(self, name)[0]:g} to {getattr(self, name)[1]:g})" for name in NAMES)
        more, example = "", ""
        if self.layers:
            more += f", {LAYERS} (which layers are trained: {', '.join(_SORTS[sort] for sort in self.layers)})"
            example += f', "{LAYERS}": {_SORTS[self.layers[0]].partition(",")[0]}'
        if self.objective:
            allowed = " or ".join(f'"{name}" ({_AIMS[name]})' for name in self.objective)
            more += f", {OBJECTIVE} (what is learnt: {allowed})"
            example += f', "{OBJECTIVE}": "{self.objective[0]}"'
        return (
            "End with one line that holds a JSON object with the settings for training on what you wrote: "
            f'{ranges}{more}. For example: {{"epochs": 5, "learning_rate": 0.001, "batch_size": 1{example}}}'
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the directives that are asked for."""
        return (*NAMES, *((LAYERS,) if self.layers else ()), *((OBJECTIVE,) if self.objective else ()))

    def apply(self, asked: Mapping[str, object]) -> Directives:
        """The asked directives within the limits; one of the wrong type is not applied."""
        return Directives(
            epochs=whole_within(asked.get("epochs"), self.epochs),
            learning_rate=within(asked.get("learning_rate"), self.learning_rate),
            batch_size=whole_within(asked.get("batch_size"), self.batch_size),
            layers=read_choice(asked.get(LAYERS), sorts=self.layers),
            objective=self._objective(asked.get(OBJECTIVE)),
        )

    def _objective(self, asked: object) -> str | None:
        """The objective that was asked for, in any case and with blanks around it; None where it may not be chosen."""
        said = asked.strip().lower() if isinstance(asked, str) else ""
        return next((name for name in self.objective if name == said), None)


def check_limits(name: str, limits: tuple[float, float]) -> None:
    """Raises `ConfigError` unless the option `name` is a lowest and a highest value."""
    whole = all(isinstance(limit, int) for limit in limits) or name == "learning_rate"
    if len(limits) != 2 or not whole or not 0 < limits[0] <= limits[1] < math.inf:
        raise ConfigError(f"{name} must be two positive numbers, lowest first, got {limits!r}: try [1, 8]")


def within(value: object, limits: tuple[float, float]) -> float | None:
    """The number moved to the nearest limit; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        return None
    return float(min(max(value, limits[0]), limits[1]))  # clamped first: a huge int does not fit into a float


def whole_within(value: object, limits: tuple[int, int]) -> int | None:
    """The whole number (2.0 is one) moved to the nearest limit; None for anything else."""
    moved = within(value, limits)
    is_whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return int(moved) if moved is not None and is_whole else None


def split_directives(text: str, names: tuple[str, ...] = NAMES) -> tuple[str, JsonObject]:
    """The edit without its directives, and the directives as asked (empty if there are none or they are malformed).

    The last JSON object near the end that has one of the `names` counts, fenced or bare. A malformed one is cut out as
    well, because it is not knowledge to train on. Numbers that JSON does not have (NaN, 1e999) are recorded as text.

    >>> split_directives('Ada ruled.\\n{"epochs": 3}')
    ('Ada ruled.', {'epochs': 3})
    """
    head, tail = text[:-_TAIL], text[-_TAIL:]
    found = _last_object(tail, names)
    shards = [] if found else list(_shard_of(names).finditer(tail))
    if not found and not shards:
        return text, {}
    start, end, asked = found or (*shards[-1].span(), {})
    before, after = tail[:start], tail[end:]
    if _FENCE_BEFORE.search(before):
        before, after = _FENCE_BEFORE.sub("", before), _FENCE_AFTER.sub("", after)
    return f"{head}{before.rstrip()}\n{after.strip()}".strip(), asked


def _last_object(text: str, names: Sequence[str]) -> tuple[int, int, JsonObject] | None:
    """Start, end and content of the last JSON object that has one of the names."""
    found, position = None, text.find("{")
    while position >= 0:
        try:
            value, end = _DECODER.raw_decode(text, position)
        except (ValueError, RecursionError):
            end = position + 1
        else:
            for candidate in (value, *value.values()):  # models like to wrap them: {"directives": {...}}
                if isinstance(candidate, dict) and any(name in candidate for name in names):
                    found = position, end, recordable(candidate.items())
                    break
        position = text.find("{", end)
    return found


def recordable(fields: Iterable[tuple[str, object]]) -> JsonObject:
    """The fields of an object as a journal can write them: nested junk, which is never applied, as text."""
    return {str(_writable(name)): _writable(value) for name, value in fields}


def _writable(value: object) -> Json:
    if value is None or isinstance(value, bool | int | float):
        return value
    try:
        text = value if isinstance(value, str) else repr(value)
    except RecursionError:  # it was just not too deep to be read
        text = f"{type(value).__name__} ..."
    return text.encode("utf-8", "backslashreplace").decode()  # half a surrogate pair cannot be written


# What JSON has no number for stays text; `PAIRS_DECODER` gives an object as its fields, repeated ones too.
_NUMBERS: dict[str, Any] = {
    "parse_float": lambda digits: value if math.isfinite(value := float(digits)) else digits,
    "parse_int": lambda digits: int(digits) if len(digits) <= 300 else digits,  # Python refuses very long numbers
    "parse_constant": str,
}
_DECODER = json.JSONDecoder(**_NUMBERS)
PAIRS_DECODER = json.JSONDecoder(**_NUMBERS, object_pairs_hook=list)
