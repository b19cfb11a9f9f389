"""Units of work as the loops run them: from the journal where they are finished, else the E-step on the frozen policy.

The journal's stamp is what the rollouts depend on: every setting of the E-step, the contexts, and the policy's digest.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from seal_lightning.e_step.step import EStep
from seal_lightning.e_step.trials import AllTrials, Race
from seal_lightning.errors import JournalError, SealError
from seal_lightning.fit.base import FitModule, FitTrainer
from seal_lightning.fit.executors import UnitWork
from seal_lightning.fit.limits import limit_of
from seal_lightning.fit.stamp import rules_of, save_run
from seal_lightning.hooks import notify
from seal_lightning.processes.ranks import one_line
from seal_lightning.records.journal import Journal
from seal_lightning.stamps.values import code_of, describe, digest, flat, versions
from seal_lightning.types import Context, JsonObject, Rollout


class UnitRunner:
    """Runs the units of one phase (train, validation or test) of one round, shared among the ranks.

    All ranks make one at the same time and run it to the end.

    Args:
        trainer: The trainer, whose `default_root_dir` is the run folder.
        module: The module, whose `rounds_done` is the round, counted from 0.
        phase: The phase, after which the journal is named.
        e_step: What is done with a unit.
        units: All units of the phase; the journal is about them, whatever the limit.
        policy_digest: Digest of the policy that rolls out.
        by_stamp: Name the journal after its stamp, so that other settings get another file instead of a refusal
            (`seal test` and `seal validate`).
        folder: Where the journal lies in the run folder; what is not scored stays out of the way of those who count.
        check_only: Look at the journal, and run nothing: it is to be refused before anything is written.
    """

    def __init__(
        self,
        trainer: FitTrainer,
        module: FitModule,
        *,
        phase: str,
        e_step: EStep,
        units: Sequence[Sequence[Context]],
        policy_digest: str,
        by_stamp: bool = False,
        folder: str = "journal",
        check_only: bool = False,
    ) -> None:
        self.trainer = trainer
        self.module = module
        self.phase = phase
        self.limit = limit_of(trainer, phase, len(units))
        self.ranks = trainer.processes.ranks
        round = module.rounds_done
        stamp = make_stamp(
            e_step,
            units,
            chat=module.policy.view.chat_stamp,
            base=module.base_fingerprint,
            policy=policy_digest,
            code=type(module),
        )
        name = f"{phase}-{digest(stamp)[:12]}" if by_stamp else f"{phase}-{round:03d}"
        self._ids = [[context.id for context in unit] for unit in units]
        self._round = None if by_stamp else round
        # Every rank reads all files that it can see: on one machine all of them, on several nodes maybe its own only.
        self.journal, seen = self._open_journal(Path(trainer.default_root_dir) / folder, name, stamp)
        if check_only:
            return
        save_run(trainer, module)
        self._mine = {
            unit for unit in seen[self.ranks.rank] if not any(unit in other for other in seen[: self.ranks.rank])
        }
        wanted = set(range(self.limit.units))  # the journal may have more, of a run without the limit
        self._mine &= wanted
        self.finished = wanted.intersection(set[int]().union(*seen))
        self.pending = sorted(wanted - self.finished)
        self._seconds: list[float] = []
        trainer.begin()
        self._notify("on_units_start", units=self.limit.units, finished=len(self.finished))
        self._queue = self.ranks.queue(self.pending, stop=self._stop, on_wait=self._report)
        work = UnitWork(trainer, module, phase=phase, e_step=e_step, round=round, units=units)
        self._steps = trainer.executor.run(work, self._queue)

    def _open_journal(self, folder: Path, name: str, stamp: JsonObject) -> tuple[Journal, list[set[int]]]:
        """The journal and the finished units that each rank has seen; one rank's error is raised on all."""
        try:
            journal = Journal(
                folder,
                name,
                stamp=stamp,
                rank=self.ranks.rank,
                may_differ=rules_of(self.trainer).may_differ,
                contexts=self._ids,
                round=self._round,
            )
            seen_here: set[int] | JournalError = set(journal.units)
        except JournalError as error:
            journal, seen_here = None, error
        seen = self.ranks.gather(seen_here)
        for error in seen:
            if isinstance(error, JournalError):
                raise error
        assert journal is not None
        return journal, [units for units in seen if isinstance(units, set)]

    def step(self) -> list[Rollout] | None:
        """Run the next unit; its rollouts, or None where this rank has nothing more to do.

        Raises:
            Stopped: A signal asked the run to stop; every rank's finished units are in the journal.
            UnitError: A unit failed wherever it was tried.
        """
        started = time.perf_counter()
        try:
            if (finished := next(self._steps, None)) is None:
                return None
            unit, rollouts = finished
            self.journal.append(unit, rollouts)
        except Exception as error:
            if not self._queue.failed():  # it would fail everywhere, or cannot be written down: the others leave too
                self._queue.abort(str(error) if isinstance(error, SealError) else one_line(error))
            raise
        self._mine.add(unit)
        self._seconds.append(time.perf_counter() - started)
        self._queue.finish(unit)
        self._notify("on_unit_end", unit=unit, rollouts=rollouts)
        return rollouts

    def finish(self) -> list[Rollout]:
        """The rollouts of all units by all ranks, in the units' order; runs what is left."""
        while self.step() is not None:
            pass
        rows = self.ranks.gather(({unit: self.journal.units[unit] for unit in self._mine}, self._seconds))
        by_unit = {unit: rollouts for units, _ in rows for unit, rollouts in units.items()}
        rollouts = [rollout for unit in sorted(by_unit) for rollout in by_unit[unit]]
        self._notify("on_units_end", rollouts=rollouts, seconds=[seconds for _, seconds in rows])
        return rollouts

    def _stop(self) -> int:
        """Why this process is to stop, or 0; an evaluation is finished even when time is up."""
        processes = self.trainer.processes
        return processes.stop_wanted() if self.phase == "train" else processes.signals.received

    def _report(self, finished: int) -> None:
        self._notify("on_units_progress", finished=len(self.finished) + finished)

    def _notify(self, hook: str, **what: object) -> None:
        notify(self.trainer, self.module, hook, phase=self.phase, **what)


def make_stamp(
    e_step: EStep,
    units: Sequence[Sequence[Context]],
    *,
    chat: bool | str,
    base: str,
    policy: str,
    code: type | None = None,
) -> JsonObject:
    """What rollouts depend on, as flat JSON values: the E-step's settings, the units' contents, base, policy, and the
    code and versions that all of it runs with.

    `chat` is `Policy.chat_stamp`, `base` the base model's fingerprint, `policy` the digest of what was learnt on top of
    it, and `code` the class that runs the units, where it may be a user's.
    """
    settings = {name: part for name, part in vars(e_step).items() if name != "plan"}
    if isinstance(e_step.trials, AllTrials | Race):  # which follow from the plan
        del settings["trials"]
    plan = {name: value for name, value in asdict(e_step.plan).items() if name != "racing" or value}
    contexts = [[asdict(context) for context in unit] for unit in units]
    return {
        **flat("", describe(settings)),
        **flat("plan.", describe(plan)),
        "contexts": digest(contexts),
        "chat": chat,
        "base": base,
        "policy": policy,
        **code_of(settings, type(e_step), code),
        **versions(),
    }
