"""The self-edit of ARC: one flat JSON object that says how to train, and holds no training data (SEAL, section 4.1).

    {"basic": true, "size": false, "chained": false, "repeated": false,
     "loss": "outputs", "learning_rate": 0.0001, "epochs": 2}

Finding the object is tolerant, its values are taken strictly: anything else is rejected for one of a few fixed reasons.
How many steps an edit may take depends on the puzzle and is left to the task.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from seal_lightning.tasks.arc.augmentations import FAMILIES
from seal_lightning.tasks.directives import PAIRS_DECODER, check_limits, recordable, whole_within, within
from seal_lightning.types import JsonObject

Loss = Literal["outputs", "all"]
Reason = Literal[
    "no JSON object",  # none that names a field of a self-edit
    "broken JSON",  # it names one, but is cut off, no JSON or not flat
    "repeated field",
    "unknown field",
    "missing field",
    "a family is not a boolean",
    "unknown loss",
    "learning_rate is not a positive number",
    "epochs is not a whole number of 1 or more",
]
REASONS: tuple[Reason, ...] = get_args(Reason)
LOSSES: tuple[Loss, ...] = get_args(Loss)

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        **{family: {"type": "boolean"} for family in FAMILIES},
        "loss": {"enum": list(LOSSES)},
        "learning_rate": {"type": "number", "exclusiveMinimum": 0},
        "epochs": {"type": "integer", "minimum": 1},
    },
    "required": [*FAMILIES, "loss", "learning_rate", "epochs"],
    "additionalProperties": False,
}
_FIELDS: Sequence[str] = SCHEMA["required"]
_NAMED = re.compile(rf"\b(?:{'|'.join(_FIELDS)})\b")


@dataclass(frozen=True)  # options have no slots: jsonargparse asks for their vars()
class ArcLimits:
    """Lowest and highest value that is applied when a self-edit asks for it; what lies beyond is moved to the limit.

    Args:
        learning_rate: Limits of the peak learning rate.
        epochs: Limits of the passes over the training sequences.
    """

    learning_rate: tuple[float, float] = (1e-5, 5e-3)
    epochs: tuple[int, int] = (1, 20)

    def __post_init__(self) -> None:
        check_limits("learning_rate", self.learning_rate)
        check_limits("epochs", self.epochs)

    def schema(self) -> JsonObject:
        """`SCHEMA` with these limits, for a sampler that keeps to it: nothing that it lets through is moved.

        A learning rate gets at most two digits more than the lowest one needs: a model can write zeros for ever.
        """
        step = float(f"1e{math.floor(math.log10(self.learning_rate[0])) - 2}")
        (lowest, highest), (fewest, most) = self.learning_rate, self.epochs
        ranges = {
            "learning_rate": {"type": "number", "minimum": lowest, "maximum": highest, "multipleOf": step},
            "epochs": {"type": "integer", "minimum": fewest, "maximum": most},
        }
        return {**SCHEMA, "properties": {**SCHEMA["properties"], **ranges}}


@dataclass(frozen=True, slots=True)
class ArcEdit:
    """How to train on a puzzle.

    Attributes:
        families: Names of `FAMILIES` in their order: the augmentations of the training puzzles.
        loss: On the tokens of output grids only, or on `all`.
        learning_rate: The peak.
        epochs: Passes over the training sequences.
    """

    families: tuple[str, ...]
    loss: Loss
    learning_rate: float
    epochs: int


def write_edit(edit: ArcEdit) -> str:
    """The self-edit as the policy would write it."""
    chosen = {family: family in edit.families for family in FAMILIES}
    return json.dumps({**chosen, "loss": edit.loss, "learning_rate": edit.learning_rate, "epochs": edit.epochs})


def read_edit(text: str, limits: ArcLimits) -> tuple[ArcEdit | None, JsonObject, Reason | Literal[""]]:
    """Read what the policy wrote: the edit within the limits, the fields as asked, and why there is no edit.

    Fences, words around the object and objects around it do not matter. Of several objects that name a field the last
    readable one counts, since models think aloud before they decide. Values are what `SCHEMA` says; 2.0 is a whole
    number as in JSON Schema, and a number of more than 300 digits is none. Never raises, and takes time in proportion
    to the text.
    """
    found = _last_object(text)
    if isinstance(found, str):
        return None, {}, found
    asked, values = recordable(found), dict(found)
    reason = "repeated field" if len(values) < len(found) else _fault(values)
    if reason:
        return None, asked, reason
    rate, epochs = within(values["learning_rate"], limits.learning_rate), whole_within(values["epochs"], limits.epochs)
    assert rate is not None and epochs is not None
    families = tuple(family for family in FAMILIES if values[family])
    return ArcEdit(families, values["loss"], rate, epochs), asked, ""


def _last_object(text: str) -> list[tuple[str, Any]] | Reason:
    """The fields of the last object that names one of ours."""
    reason: Reason = "no JSON object"
    for piece in reversed(text.split("{")[1:]):  # being flat, it ends before another one begins
        body, end, _ = piece.partition("}")
        if not _NAMED.search(body):
            continue
        try:
            fields = PAIRS_DECODER.decode(f"{{{body}{end}")
        except (ValueError, RecursionError):
            reason = "broken JSON"
        else:
            if any(name in _FIELDS for name, _ in fields):
                return fields
    return reason


def _fault(values: Mapping[str, Any]) -> Reason | Literal[""]:
    """Why these fields are no self-edit; empty for one."""
    if not values.keys() <= set(_FIELDS):
        return "unknown field"
    if len(values) < len(_FIELDS):
        return "missing field"
    if not all(isinstance(values[family], bool) for family in FAMILIES):
        return "a family is not a boolean"
    if values["loss"] not in LOSSES:
        return "unknown loss"
    if not _is_number(values["learning_rate"]) or values["learning_rate"] <= 0:
        return "learning_rate is not a positive number"
    if not _is_number(values["epochs"]) or values["epochs"] != int(values["epochs"]) or values["epochs"] < 1:
        return "epochs is not a whole number of 1 or more"
    return ""


def _is_number(value: object) -> bool:
    """The decoder leaves what is too large or no number at all as text."""
    return isinstance(value, int | float) and not isinstance(value, bool)
