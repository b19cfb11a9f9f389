"""What is left of a fit, validation or test when it ends: its table in the run folder, and why it was shorter.

The table is `fit.md` and `fit.json`, and so on. Commands and runs from Python write the same files; the commands also
print the table, and the sentences about what the trainer's flags left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from seal_lightning.fit.base import FitTrainer
from seal_lightning.fit.limits import PHASES, Limit, limits_said
from seal_lightning.fit.loop import SEALFitLoop
from seal_lightning.fit.module import SEALModule
from seal_lightning.fit.stamp import told_changes
from seal_lightning.records.journal import read_fit, read_validations
from seal_lightning.results.accuracy import ResultFile, accuracy_table, rounds_table
from seal_lightning.results.left_out import MISSING, render_left_out, total_left_out
from seal_lightning.types import Rollout

# The name of a command's files; predictions are not scored.
FILES = {"fit": "fit", "validate": "validation", "test": "test"}


def save_table(trainer: FitTrainer, module: SEALModule, command: str) -> str:
    """Write the table of what a command has measured into the run folder; by the first process alone.

    Returns:
        The table as Markdown, and what the task has to add; empty where nothing was measured, as by a fit without
        validation data.
    """
    run = Path(trainer.default_root_dir)
    if not trainer.is_global_zero or command not in FILES:
        return ""
    if command == "fit":
        validations: Mapping[int, Sequence[Rollout]] = read_validations(run)
        if not validations:
            return ""
        rows, every, changed = rounds_table(validations), read_fit(run), told_changes(run)
    else:
        validations, every, changed = {module.rounds_done: module.evaluated}, module.evaluated, ""
        rows = accuracy_table(module.evaluated)
    missing = render_left_out(total_left_out(every))
    notes = (changed, limits_said(module.limits), f"{MISSING} {missing}." if missing else "")
    results = ResultFile(rows, module.e_step.task.tables(validations), [note for note in notes if note])
    results.save(run / FILES[command])
    return results.markdown()


def dev_run_said(limits: Mapping[str, Limit], *, trained: int) -> str:
    """What a `fast_dev_run` has tried; a phase may have fewer units than the flag allows."""
    done = [f"{PHASES[phase]} {limit.units} of {limit.total} units" for phase, limit in limits.items() if limit.total]
    if "train" in limits:
        done.insert(1, f"M-step {trained} {'batch' if trained == 1 else 'batches'}")
    return f"fast_dev_run: {', '.join(done)}; nothing was saved"


def early_end_said(trainer: FitTrainer) -> str:
    """Why a fit ended before its rounds were over, and how to go on; empty where they are over."""
    loop, run = trainer.fit_loop, Path(trainer.default_root_dir)
    assert isinstance(loop, SEALFitLoop)
    rounds = loop.rounds_done
    for flag in ("max_epochs", "max_steps", "limit_train_batches") if not rounds and not loop.ended_early else ():
        if (value := getattr(trainer, flag)) == 0:
            return f"no round was run: trainer.{flag}={value}"
    if loop.ended_early:
        where = f"within round {rounds + 1}, of which everything that was finished is kept"
    elif trainer.should_stop and rounds != loop.max_epochs:
        where = f"after round {rounds}"
    else:
        return ""
    why = "trainer.max_time is over" if trainer.processes.time_is_up else _asked(trainer)
    longer = " --trainer.max_time LONGER" if trainer.processes.time_is_up else ""
    said = f"ended early, {where}: {why}"
    if not (trainer.checkpoints / "last.ckpt").exists():
        return said
    return f"{said}; go on: seal fit --config {run / 'config.yaml'} --ckpt_path last{longer}"


def _asked(trainer: FitTrainer) -> str:
    """What stopped the fit, in the words of the callback that did where it has any."""
    reasons = [getattr(callback, "stopping_reason_message", None) for callback in trainer.callbacks]
    named = next((" ".join(str(reason).split()) for reason in reasons if reason), "")
    return named.rstrip(".") or "a callback set trainer.should_stop"
