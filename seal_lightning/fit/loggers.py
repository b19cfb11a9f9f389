"""When a run begins: once every check has passed, and not before, something is written into its folder.

Lightning starts its loggers (which make folders, files, runs on servers) before data and model are looked at. Here they
wait: what is told them meanwhile is passed on when the run begins. A run that is refused has left nothing anywhere.
What a run of wandb records is up to `seal_lightning/trackers/wandb_tracker.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import Logger, WandbLogger

from seal_lightning.errors import reason_of
from seal_lightning.trackers import tracker_of
from seal_lightning.trackers.surviving import protect, surviving, unprotect

log = logging.getLogger(__name__)
Call = tuple[str, tuple[Any, ...], dict[str, Any]]


class Loggers:
    """The loggers of one run, which wait until it begins."""

    def __init__(self, loggers: Sequence[Logger]) -> None:
        # as Lightning does: wandb wants to be first, to see what TensorBoard writes
        self._waiting = sorted(loggers, key=lambda logger: not isinstance(logger, WandbLogger))
        self._begun: list[Logger] = []
        for logger in self._waiting:
            hold_back(logger)

    def begin(self) -> None:
        """Start them, and tell them what they have missed; from now on, one that fails ends no run."""
        while self._waiting:
            logger = self._waiting.pop(0)
            calls = let_go(logger)
            protect(logger)
            self._begun.append(logger)
            with surviving(logger):
                if isinstance(logger, WandbLogger):
                    start_wandb(logger)
                tracker_of(logger).open()
                for name, args, options in calls:
                    getattr(logger, name)(*args, **options)

    def end(self) -> None:
        """The run has ended, perhaps before it began: they are as they were."""
        while self._waiting:
            let_go(self._waiting.pop())
        while self._begun:
            unprotect(self._begun.pop())


def hold_back(logger: Any) -> None:
    """Make a logger wait: nothing starts it but somebody who asks for its `experiment` on purpose."""
    logger.__class__ = _waiting(type(logger))
    logger._asked, logger._calls = False, []


def let_go(logger: Any) -> list[Call]:
    """End the waiting; returns what the logger was told meanwhile."""
    calls = logger._calls
    logger.__class__ = type(logger).__bases__[0]
    del logger._asked, logger._calls
    return calls


def _waiting(kind: Any) -> type[Logger]:
    """A class of loggers, as they are while they wait."""

    class Waiting(kind):
        _asked: bool
        _calls: list[Call]

        @property
        def experiment(self) -> Any:
            if not self._asked:  # the first to ask is Lightning, to start whatever has one
                self._asked = True
                raise AttributeError("experiment")
            return super().experiment

        def log_hyperparams(self, *args: Any, **options: Any) -> None:
            self._calls.append(("log_hyperparams", args, options))

        def log_graph(self, *args: Any, **options: Any) -> None:
            self._calls.append(("log_graph", args, options))

        def save(self) -> None:
            self._calls.append(("save", (), {}))

    Waiting.__name__ = kind.__name__
    return Waiting


@rank_zero_only
def start_wandb(logger: WandbLogger) -> None:
    """Start the logger's run: offline if nobody is logged in or the server cannot be reached. Asks nobody for a key."""
    import wandb
    from wandb.errors import CommError

    options = logger._wandb_init  # of `wandb.init`, which Lightning calls
    if options.get("anonymous", "") is None:
        del options["anonymous"]  # deprecated, and wandb warns that it has no effect
    is_asked_for = logger._offline or options.get("mode") or wandb.Settings().mode in ("offline", "disabled")
    if not is_asked_for and wandb.run is None and not wandb.login(prompt=False, verify=False):
        _go_offline(logger, "nobody is logged in (wandb login, or WANDB_API_KEY)")
    try:
        _ = logger.experiment
    except CommError as error:
        _go_offline(logger, reason_of(error)[:200])
        _ = logger.experiment


def _go_offline(logger: WandbLogger, reason: str) -> None:
    logger._wandb_init["mode"] = "offline"
    folder = Path(logger.save_dir or ".") / "wandb"
    log.warning("WandbLogger: %s: recorded offline; send it later with: wandb sync %s/offline-run-*", reason, folder)
