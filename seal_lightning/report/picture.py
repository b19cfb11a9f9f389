"""One picture of a fit: a self-edit that changes over the rounds, above the accuracy on all held-out contexts.

An SVG with sizes of its own and a white ground, so that it can stand in a README, light or dark. Texts come from a
model and are escaped; every number in it stands in the run's tables (`results/accuracy.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap

from jinja2 import Environment, PackageLoader, StrictUndefined

from seal_lightning.files.saving import save_text
from seal_lightning.records.journal import read_validations
from seal_lightning.report.rounds import first_edit, passage_of, typical_pair
from seal_lightning.results.accuracy import AccuracyRow, rounds_table
from seal_lightning.text.escaping import visible
from seal_lightning.types import Rollout

CARDS = 3  # rounds that are shown: the first, one in the middle, the last
WIDTH, CARD, GAP = 952, 296, 16
LINES, LETTERS = 9, 41  # of an edit on a card
ABOVE, BELOW = 384, 560  # the chart's top and bottom
NAME = "picture.svg"


@dataclass(frozen=True, slots=True)
class EditCard:
    """A self-edit of the context that is shown.

    Attributes:
        left: The card's left edge.
        title: When the edit was written.
        lines: The edit's first lines.
        more: Number of lines left out.
        right: For each query, whether the adapter trained on the edit answered correctly.
    """

    left: int
    title: str
    lines: Sequence[str]
    more: int
    right: Sequence[bool]


@dataclass(frozen=True, slots=True)
class Mark:
    """An accuracy in the chart; `low` and `high` end its 95 % interval, all from the top."""

    x: float
    y: float
    low: float
    high: float
    label: str


def save_picture(run: Path, control: Path | None = None) -> Path | None:
    """Draw a fit's run folder into its `picture.svg`; None where it has not been validated before and after training.

    Args:
        run: The run folder.
        control: Run folder to compare with, drawn in grey.
    """
    validations = read_validations(run)
    if len(validations) < 2:
        return None
    save_text(run / NAME, draw(validations, {} if control is None else read_validations(control)))
    return run / NAME


def draw(validations: Mapping[int, Sequence[Rollout]], control: Mapping[int, Sequence[Rollout]]) -> str:
    """The SVG.

    Args:
        validations: Two or more validations of a fit, by the number of rounds before each.
        control: Validations of another fit; may be empty.
    """
    numbers = sorted(validations)
    shown = numbers if len(numbers) <= CARDS else [numbers[0], numbers[len(numbers) // 2], numbers[-1]]
    before, _ = typical_pair(validations[shown[0]], validations[shown[-1]])
    rows, others = _own(validations), _own(control)
    base = next(row for row in rounds_table(validations) if row.name == "base")
    top = max(0.1, *(row.high or row.accuracy for row in (*rows.values(), *others.values())))
    last = max(validations)
    lefts = [GAP + place * (WIDTH - 2 * GAP - CARD) // (len(shown) - 1) for place in range(len(shown))]  # edge to edge
    environment = Environment(
        loader=PackageLoader("seal_lightning.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("picture.svg.j2").render(
        passage=wrap(visible(passage_of(before)), 128, max_lines=2, placeholder=" …"),
        cards=[_card(left, number, validations[number], before) for left, number in zip(lefts, shown, strict=True)],
        card=CARD,
        width=WIDTH,
        contexts=base.contexts,
        queries=base.queries,
        base=_down(base.accuracy, top),
        base_label=_percent(base.accuracy),
        above=ABOVE,
        below=BELOW,
        marks=[_mark(row, _across(number, last), top) for number, row in rows.items()],
        control=[_mark(row, _across(number, last), top) for number, row in others.items()],
        rounds=[(_across(number, last), _title(number)) for number in rows],
    )


def _own(validations: Mapping[int, Sequence[Rollout]]) -> dict[int, AccuracyRow]:
    """Accuracy with own edits, by validation."""
    rows = [row for row in rounds_table(validations) if row.name.startswith("edits")] if validations else []
    return dict(zip(sorted(validations), rows, strict=True))


def _card(left: int, number: int, rollouts: Sequence[Rollout], before: Rollout) -> EditCard:
    edit = first_edit(rollouts, before.context_id)
    lines = [part for line in visible(edit.text).splitlines() for part in wrap(line, LETTERS, subsequent_indent="  ")]
    kept = lines if len(lines) <= LINES else lines[: LINES - 1]
    return EditCard(
        left=left,
        title=_title(number),
        lines=kept,
        more=len(lines) - len(kept),
        right=[score == 1 for score in edit.scores],
    )


def _title(number: int) -> str:
    return f"after round {number}" if number else "before training"


def _mark(row: AccuracyRow, x: float, top: float) -> Mark:
    low, high = (_down(row.accuracy if end is None else end, top) for end in (row.low, row.high))
    return Mark(x, _down(row.accuracy, top), low, high, _percent(row.accuracy))


def _across(number: int, last: int) -> float:
    """Where a validation lies: the first below the first card's middle, the last below the last one's."""
    first = GAP + CARD / 2
    return round(first + (WIDTH - 2 * first) * number / last, 1)


def _down(value: float, top: float) -> float:
    return round(BELOW - (BELOW - ABOVE) * value / top, 1)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
