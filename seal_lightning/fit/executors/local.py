"""Units of work in the training processes themselves: each rank takes the next one as it becomes free."""

from collections.abc import Iterator

from seal_lightning.errors import RetryableError, SealError
from seal_lightning.fit.executors.base import Executor, UnitWork
from seal_lightning.hooks import notify
from seal_lightning.policy.at_work import policy_at_work
from seal_lightning.processes.ranks import UnitQueue
from seal_lightning.progress.clock import Interrupted, Progress, interruptible
from seal_lightning.types import Rollout


class LocalExecutor(Executor):
    """The E-step on the trainer's own policy. A unit that fails on one rank is tried once more on another."""

    def run(self, work: UnitWork, queue: UnitQueue) -> Iterator[tuple[int, list[Rollout]]]:
        if queue.units:
            work.module.policy.open_replica()
        while (unit := queue.take()) is not None:
            try:
                rollouts = self._roll_out(work, unit, queue)
            except Interrupted:
                queue.put_back(unit)
                continue  # to the queue, which stops all ranks
            except Exception as error:
                if isinstance(error, SealError) and not isinstance(error, RetryableError):
                    raise  # the configuration or the data: no other rank would do better
                queue.fail(unit, error, contexts=work.ids(unit))
                continue
            yield unit, rollouts
        work.module.policy.close_replica()

    def _roll_out(self, work: UnitWork, unit: int, queue: UnitQueue) -> list[Rollout]:
        profiler = work.trainer.profiler  # type: ignore[attr-defined]

        def report(progress: Progress) -> None:
            if progress.event == "end":
                profiler.stop(f"[SEAL]{progress.phase}")
            notify(work.trainer, work.module, "on_unit_progress", phase=work.phase, progress=progress)
            if progress.event == "begin":  # last: who raises above begins nothing
                profiler.start(f"[SEAL]{progress.phase}")

        with policy_at_work(work.trainer, work.module) as policy:
            told = interruptible(report, stopping=queue.stopping)
            return work.e_step.run(policy, work.units[unit], round=work.round, report=told)
