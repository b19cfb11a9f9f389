"""Starts the run of Lightning's `WandbLogger`: offline if nobody is logged in or the server cannot be reached.

Nobody is ever asked for a key. What the run records is up to `seal_lightning/trackers/wandb_tracker.py`; this lies in
`fit/`, since going offline takes Lightning's private options of `wandb.init`.
"""

from __future__ import annotations

import logging
from pathlib import Path

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import WandbLogger

from seal_lightning.errors import reason_of

log = logging.getLogger(__name__)


@rank_zero_only
def start_wandb(logger: WandbLogger) -> None:
    """Start the logger's run, online if possible."""
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
