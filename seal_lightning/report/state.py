"""Where a run is: begun, stopped or finished, and how far it has come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from seal_lightning.report.read import Run
from seal_lightning.report.settings import lookup
from seal_lightning.results.accuracy import AccuracyRow
from seal_lightning.results.averages import by_context
from seal_lightning.text.plural import counted
from seal_lightning.types import Rollout

State = Literal["finished", "unfinished", "begun", "published"]


def state_of(run: Run, accuracy: Sequence[AccuracyRow]) -> State:
    if run.recorded:
        return "published"
    if not run.begun:
        return "begun"
    if not run.validations:
        ended = max((one.round for one in run.selection.candidates), default=0) if run.selection else run.exported
        exported = bool(ended) and ended >= _planned(run)
        contexts = max((len(by_context(rollouts)) for rollouts in run.rounds.values()), default=0)
        adapted = run.concluded or len(run.adapters) >= contexts > 0  # older folders say nothing where none was asked
        streams = sum(matrix.sequences for matrix in run.matrices)
        over = exported or adapted or streams >= max(_streams(run), 1) or (run.results and not run.rounds)
        return "finished" if over else "unfinished"
    saved = run.results.accuracy if run.results else ()
    tabled = sum(row.name.startswith("edits") for row in saved)
    every = lookup(run.config, "trainer.check_val_every_n_epoch")
    pending = max(run.rounds, default=-1) + 1 - max(run.validations, default=0)
    over = pending < (every if isinstance(every, int) and every else 1)
    complete = bool(saved) and tabled == sum(row.name.startswith("edits") for row in accuracy)
    return "finished" if complete and over else "unfinished"


def _planned(run: Run) -> int:
    """Rounds that the configuration asks for; 0 where it does not say."""
    rounds = lookup(run.config, "trainer.max_epochs")
    return rounds if isinstance(rounds, int) else 0


def _streams(run: Run) -> int:
    """Streams that the configuration of `seal continual` asks for; 0 where it is not one."""
    orders, seeds, measures = (lookup(run.config, name) for name in ("orders", "seeds", "countermeasures"))
    if not (isinstance(orders, int) and isinstance(seeds, int) and isinstance(measures, list)):
        return 0
    return orders * seeds * (len(measures) + 1)


def progress_of(run: Run, state: State) -> str:
    if state == "published":
        return "published"
    if state == "begun":
        return "begun: no unit of work is finished yet"
    if state == "finished" and run.adapters:
        return f"finished: {counted(len(run.adapters), 'adapter')}"
    if state == "finished":
        return f"finished: {counted(len(run.rounds), 'round')}" if run.rounds else "finished"
    if run.matrices and _streams(run):
        return f"not finished: {sum(matrix.sequences for matrix in run.matrices)} of {_streams(run)} streams"
    if not run.rounds and not run.validations:
        return "not finished"
    of = f" of {_planned(run)}" if _planned(run) else ""
    last_round, last_validation = max(run.rounds, default=-1), max(run.validations, default=-1)
    if last_validation > last_round:
        name = f"validation after round {last_validation}" if last_validation else "validation before training"
        return f"not finished: {name}{of}, {_contexts(run.validations, last_validation)}"
    return f"not finished: round {last_round + 1}{of}, E-step, {_contexts(run.rounds, last_round)}"


def _contexts(phases: Mapping[int, Sequence[Rollout]], number: int) -> str:
    """How many contexts of a phase are finished, of how many the earlier ones had."""
    counts = {key: len(by_context(rollouts)) for key, rollouts in phases.items()}
    return f"{counts[number]} of {max(counts.values())} contexts" if len(counts) > 1 else f"{counts[number]} contexts"
