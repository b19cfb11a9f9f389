"""What a command says of a run that the trainer's flags made shorter than its data and settings are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seal_lightning.fit.limits import Limit

LIMITED = "Limited:"  # what a figure over a part of the data is marked with, in tables and reports
NAMES = {"train": "E-step", "validation": "validation", "test": "test", "predict": "prediction"}


def limits_said(limits: Mapping[str, Limit]) -> str:
    """`Limited: validation 3 of 12 units (trainer.limit_val_batches=3).`; empty where everything is done."""
    partial = [f"{NAMES[phase]} {limit}" for phase, limit in limits.items() if limit.is_partial]
    return f"{LIMITED} {', '.join(partial)}." if partial else ""


def dev_run_said(limits: Mapping[str, Limit], *, trained: int) -> str:
    """What a `fast_dev_run` has tried; its phases may be shorter than it would let them be."""
    done = [f"{NAMES[phase]} {limit.units} of {limit.total} units" for phase, limit in limits.items() if limit.total]
    if "train" in limits:
        done.insert(1, f"M-step {trained} {'batch' if trained == 1 else 'batches'}")
    return f"fast_dev_run: {', '.join(done)}; nothing was saved"


def early_end_said(trainer: Any) -> str:
    """That a fit ended before its rounds were over, by what, and how it goes on; empty where they are over."""
    loop, run = trainer.fit_loop, Path(trainer.default_root_dir)
    rounds = loop.epoch_progress.current.processed
    if not rounds and not loop.ended_early and (why := _nothing_to_do(trainer)):
        return f"no round was run: {why}"
    if loop.ended_early:
        where = f"within round {rounds + 1}, of which everything that was finished is kept"
    elif trainer.should_stop and rounds != loop.max_epochs:
        where = f"after round {rounds}"
    else:
        return ""
    why = "trainer.max_time is over" if trainer.time_is_up else _asked(trainer)
    longer = " --trainer.max_time LONGER" if trainer.time_is_up else ""
    said = f"ended early, {where}: {why}"
    if not (trainer.checkpoints / "last.ckpt").exists():
        return said
    return f"{said}; go on: seal fit --config {run / 'config.yaml'} --ckpt_path last{longer}"


def _nothing_to_do(trainer: Any) -> str:
    flags = {
        "max_epochs": trainer.max_epochs,
        "max_steps": trainer.max_steps,
        "limit_train_batches": trainer.limit_train_batches,
    }
    return next((f"trainer.{name}={value}" for name, value in flags.items() if value == 0), "")


def _asked(trainer: Any) -> str:
    """The callback that stopped the fit, where it is one that says why."""
    reasons = [getattr(callback, "stopping_reason_message", None) for callback in trainer.callbacks]
    named = next((" ".join(str(reason).split()) for reason in reasons if reason), "")
    return named.rstrip(".") or "a callback set trainer.should_stop"
