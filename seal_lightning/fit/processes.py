"""The processes of a trainer's runs: their ranks, the signals that stop them, and how they end together."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property

import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.callbacks import Timer

from seal_lightning.errors import Stopped
from seal_lightning.hooks import RunTrainer
from seal_lightning.processes.launched import Launched
from seal_lightning.processes.ranks import Ranks
from seal_lightning.processes.stopping import EARLY, StopSignals, requeue
from seal_lightning.processes.streams import last_words


class RunProcesses:
    """What the processes of a run have to do with each other, besides tensors.

    `patience` is the seconds without a sign of life after which another rank is given up.
    """

    def __init__(self, trainer: RunTrainer, *, patience: float) -> None:
        self.trainer = trainer
        self.patience = patience
        self.launched = Launched()
        self.signals = StopSignals()
        # Lightning's handler tells the other ranks in a collective, in which none of them need ever meet this one
        trainer._signal_connector.register_signal_handlers = lambda: None

    @cached_property
    def ranks(self) -> Ranks:
        """The ranks, once they have found each other."""

        def end(reason: str) -> None:
            """The main thread waits in a collective for a lost rank: all that is left is to say so and to end."""
            last_words(f"seal: {reason}")
            self.launched.kill()

        return Ranks(patience=self.patience, on_end=end)

    # -- stopping --------------------------------------------------------------------------------------------------

    def stop_wanted(self) -> int:
        """Why this process is to stop its E-step or M-step: the number of a signal, `EARLY`, or 0.

        `EARLY` is asked for by `max_time` and by callbacks that set `should_stop`, once `min_epochs` and `min_steps`
        are done. Lightning looks for it between batches only; an E-step has units, and finished ones are kept.
        """
        if self.signals.received:
            return self.signals.received
        wanted = self.trainer.fit_loop._can_stop_early and (self.trainer.should_stop or self.time_is_up)
        return EARLY if wanted else 0

    @property
    def time_is_up(self) -> bool:
        """Whether `max_time`, or a user's own timer, is over."""
        left = [callback.time_remaining() for callback in self.trainer.callbacks if isinstance(callback, Timer)]
        return any((seconds or 0.0) <= 0.0 for seconds in left if seconds is not None)

    def largest(self, number: int) -> int:
        """The largest of all ranks' numbers; a collective."""
        own = torch.tensor(float(number), device=self.trainer.strategy.root_device)
        return int(self.trainer.strategy.reduce(own, reduce_op="max"))

    # -- a run -----------------------------------------------------------------------------------------------------

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Within it signals are noted, ranks give signs of life, and a preempted job is put back into its queue."""
        preemption = _preemption_signal(getattr(self.trainer.strategy, "cluster_environment", None))
        try:
            with self.signals.noted(preemption=preemption), self.ranks.watched(lambda: self.signals.received):
                self.launched.working = True
                yield
        except BaseException as error:
            if isinstance(error, Stopped) and error.number == preemption and self.trainer.is_global_zero:
                requeue()
            raise
        finally:
            self.launched.working = False


def _preemption_signal(environment: object) -> signal.Signals | None:
    """The signal by which SLURM announces that it will take a job back; None where nobody requeues one."""
    if not isinstance(environment, SLURMEnvironment):
        environment = SLURMEnvironment() if SLURMEnvironment.detect() else None
    if environment is None or not environment.auto_requeue:
        return None
    return environment.requeue_signal or signal.SIGUSR1
