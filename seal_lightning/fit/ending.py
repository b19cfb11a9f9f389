"""The table of a fit, validation or test, as a run folder keeps it: `fit.md` and `fit.json`, and so on.

Commands and runs from Python write the same files; the commands also print the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from seal_lightning.fit.ending_words import limits_said
from seal_lightning.fit.stamp import told_changes
from seal_lightning.records.journal import read_fit, read_validations
from seal_lightning.results.accuracy import accuracy_table, rounds_table
from seal_lightning.results.left_out import MISSING, render_left_out, total_left_out
from seal_lightning.results.result_file import ResultFile
from seal_lightning.types import Rollout

# The name of a command's files; predictions are not scored.
FILES = {"fit": "fit", "validate": "validation", "test": "test"}


def save_table(trainer: Any, module: Any, command: str) -> str:
    """Write the table of what a command has measured; by the first process alone.

    Args:
        trainer: Its `default_root_dir` is the run folder.
        module: The `SEALModule`, whose `evaluated` are the rollouts of a validation or test.
        command: fit, validate or test.

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
