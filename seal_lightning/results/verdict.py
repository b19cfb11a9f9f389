"""Whether the rounds of a fit beat the policy that it began with: how that is judged, written down and said.

The best policy has the best value of the monitored metric, and the untrained one is a candidate. Where the metric is an
accuracy of the validation, each candidate is compared with the untrained policy context by context, and what an
interval of the mean difference does not tell from 0 is noise. The facts lie in the run folder as `selection.json`; last
words, log, report and refusals are made of them here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from seal_lightning.errors import DataError
from seal_lightning.files.bounded import read_json
from seal_lightning.files.saving import save_text
from seal_lightning.results.accuracy import KIND_OF, Difference
from seal_lightning.results.averages import FEWEST
from seal_lightning.text.plural import counted

FILE = "selection.json"
ACCURACIES = {f"val/{name}": name for name in KIND_OF}  # metrics that are means over contexts
Mode = Literal["max", "min"]
Verdict = Literal["nothing", "not compared", "untrained", "beats", "noise", "by value"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A policy that may be the best one.

    Attributes:
        round: How many rounds it has learnt from; 0 is the untrained policy.
        value: Value of the monitored metric; None where it was not measured.
        learnt: Number of edits that its last round has learnt from; 0 where it is the policy before.
        difference: Difference to the untrained policy in the metric, over the same contexts; None where the metric is
            not a mean over contexts, or one of the two was not measured.
    """

    round: int
    value: float | None
    learnt: int = 0
    difference: Difference | None = None


@dataclass(frozen=True, slots=True)
class Selection:
    """What a fit has to choose from so far, and what it has chosen.

    Attributes:
        monitor: Name of the metric.
        mode: Whether larger or smaller is better.
        best: The round of the best policy, 0 where that is the untrained one; None where there is none.
        candidates: Policies in the order of their rounds.
        left_out: Why the untrained policy is not among them; empty where it is.
    """

    monitor: str
    mode: Mode
    best: int | None = None
    candidates: tuple[Candidate, ...] = ()
    left_out: str = ""

    def candidate(self, round: int | None) -> Candidate | None:
        return next((one for one in self.candidates if one.round == round), None)

    @property
    def untrained(self) -> Candidate | None:
        """The untrained policy, where it was measured."""
        return self.candidate(0)

    @property
    def rounds(self) -> tuple[Candidate, ...]:
        return tuple(one for one in self.candidates if one.round)

    @property
    def chosen(self) -> Candidate | None:
        return self.candidate(self.best)

    @property
    def sign(self) -> int:
        return 1 if self.mode == "max" else -1

    def is_better(self, value: float, than: float) -> bool:
        return self.sign * value > self.sign * than

    @property
    def verdict(self) -> Verdict:
        """What can be said of the best policy."""
        if self.best is None:
            return "nothing"
        if self.best == 0:
            return "untrained"
        if self.untrained is None or self.chosen is None:
            return "not compared"
        difference = self.chosen.difference
        if difference is None:
            return "by value"
        return "beats" if difference.is_clear else "noise"


# -- on disk -----------------------------------------------------------------------------------------------------------


def to_dict(selection: Selection) -> dict[str, object]:
    """The selection as JSON and checkpoints hold it, with its verdict for readers."""
    return {**asdict(selection), "verdict": selection.verdict}


def from_dict(content: Any) -> Selection:
    """The selection in a JSON value. Raises `ValueError` where there is none in it."""
    try:
        candidates = tuple(
            Candidate(
                int(one["round"]),
                None if one["value"] is None else float(one["value"]),
                int(one["learnt"]),
                None if one["difference"] is None else _difference(one["difference"]),
            )
            for one in content["candidates"]
        )
        best = content["best"]
        mode: Mode = "min" if content["mode"] == "min" else "max"
        return Selection(
            str(content["monitor"]), mode, None if best is None else int(best), candidates, str(content["left_out"])
        )
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError("expected what a fit has chosen from, got other fields") from error


def _difference(content: Mapping[str, float | None]) -> Difference:
    low, high = (None if (end := content[name]) is None else float(end) for name in ("low", "high"))
    return Difference(float(content["mean"] or 0.0), low, high, int(content["contexts"] or 0))


def save(run: Path, selection: Selection) -> None:
    """Write `selection.json` in the run folder. Raises `SavingError` where that cannot be."""
    save_text(run / FILE, json.dumps(_finite(to_dict(selection)), indent=1) + "\n")


def _finite(value: object) -> object:
    """JSON has no nan: such a value is a text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list | tuple) else value


def read(run: Path) -> Selection | None:
    """What the fit in a folder has chosen; None where it has not come so far, or the file is damaged."""
    try:
        return from_dict(read_json(run / FILE)) if (run / FILE).is_file() else None
    except (OSError, ValueError, DataError):
        return None


def why_no_policy(folder: Path) -> str:
    """Why a run, or its folder `policy`, holds no policy, in one sentence; empty where that is not known."""
    for run in (folder, folder.parent):
        found = read(run) if folder in (run, run / "policy") else None
        if found is not None and found.verdict in ("untrained", "nothing"):
            return f"no round of that run beat its untrained policy, so that none was exported ({run / FILE})"
    return ""


# -- in words ----------------------------------------------------------------------------------------------------------


def said(selection: Selection) -> tuple[str, str]:
    """What became of a fit, as a sentence without its full stop, and advice where it needs any."""
    monitor = selection.monitor
    match selection.verdict:
        case "nothing":
            return f"no round has a finite {monitor}, so none is the best", "see what the metric is made of"
        case "untrained":
            return _no_round(selection), ""
        case "beats":
            return f"beats the untrained policy: {_compared(selection)}", ""
        case "noise":
            return (
                f"better than the untrained policy within noise: {_compared(selection)}",
                "validate on more contexts before relying on it",
            )
        case "by value":
            return (
                f"better than the untrained policy by its value alone: {_compared(selection)}",
                f"{monitor} is not measured context by context, so what is noise was not judged",
            )
        case _:
            return f"not compared with the untrained policy: {selection.left_out or 'it was not measured'}", ""


def said_of_round(selection: Selection, candidate: Candidate) -> str:
    """One line about a round, for the log."""
    if candidate.value is None:
        return f"round {candidate.round}: {selection.monitor} was not measured"
    value = f"round {candidate.round}: {selection.monitor} {candidate.value:.3f}"
    place = "the best policy so far" if candidate.round == selection.best else "not the best policy"
    if selection.untrained is None or selection.untrained.value is None:
        return f"{value}, {place}"
    return f"{value} against {selection.untrained.value:.3f} untrained ({_step(selection, candidate)}), {place}"


def _no_round(selection: Selection) -> str:
    untrained = selection.untrained
    measured = [one for one in selection.rounds if one.value is not None and math.isfinite(one.value)]
    best = max(measured, key=lambda one: selection.sign * (one.value or 0.0), default=None)
    if all(one.learnt == 0 for one in selection.rounds):
        return "no round changed the untrained policy: no self-edit was kept that teaches anything"
    if untrained is None or untrained.value is None or best is None:
        return "no round beat the untrained policy: none that learnt was measured"
    return (
        f"no round beat the untrained policy ({selection.monitor} {untrained.value:.3f}): the best of them is round "
        f"{best.round} with {best.value:.3f} ({_step(selection, best)})"
    )


def _compared(selection: Selection) -> str:
    best, untrained = selection.chosen, selection.untrained
    assert best is not None and untrained is not None and best.value is not None, "both were measured"
    return f"{selection.monitor} {best.value:.3f} against {untrained.value:.3f} ({_step(selection, best)})"


def _step(selection: Selection, candidate: Candidate) -> str:
    """The difference to the untrained policy, with its interval where there is one."""
    found = candidate.difference
    if found is None:
        before = selection.untrained
        assert before is not None and before.value is not None and candidate.value is not None
        return f"{candidate.value - before.value:+.3f}"
    contexts = counted(found.contexts, "context")
    if found.low is None:
        return f"{found.mean:+.3f}, paired over {contexts}, too few to tell from noise: {FEWEST} are needed"
    return f"{found.mean:+.3f}, 95 % interval {found.low:+.3f} to {found.high:+.3f}, paired over {contexts}"
