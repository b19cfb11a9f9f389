"""The table of a fit, validation or test, as a run folder keeps it: `fit.md` and `fit.json`, and so on.

Commands and runs from Python write the same files; the commands also print the table.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from seal_lightning.files.saving import save_text
from seal_lightning.fit.ending_words import limits_said
from seal_lightning.fit.stamp import told_changes
from seal_lightning.records.journal import read_fit, read_validations
from seal_lightning.results.accuracy import Row, accuracy_table, render_table, rounds_table
from seal_lightning.results.left_out import MISSING, render_left_out, total_left_out
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
    below = (
        module.e_step.task.tables(validations),
        changed,
        limits_said(module.limits),
        f"{MISSING} {missing}." if missing else "",
    )
    return _save(run / FILES[command], rows, below)


def _save(path: Path, rows: Sequence[Row], below: Sequence[str]) -> str:
    """The accuracy table, and below it what the task has to add, and what was changed, limited, cut or left out."""
    parts = (render_table(rows), *below)
    text = "\n\n".join(part for part in parts if part)
    save_text(path.with_name(f"{path.name}.md"), text + "\n")
    save_text(path.with_name(f"{path.name}.json"), json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    return text
