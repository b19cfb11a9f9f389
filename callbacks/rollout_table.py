"""A table of the best and worst self-edits of a round, as a Markdown file."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from seal_lightning.errors import ConfigError
from seal_lightning.files.saving import save_text
from seal_lightning.hooks import SEALCallback
from seal_lightning.m_step.selection import without_merit
from seal_lightning.results.edits import diverged_edits
from seal_lightning.results.left_out import MISSING, render_left_out, total_left_out
from seal_lightning.results.rollout_tables import best_and_worst, diversity_table, kinds_table
from seal_lightning.results.table import to_markdown
from seal_lightning.results.usage import render_usage, total_usage
from seal_lightning.text.escaping import markdown_cell
from seal_lightning.types import EditOutcome, Rollout, RolloutGroup


class RolloutTable(SEALCallback):
    """Writes `tables/round-NNN.md` in the run folder.

    Args:
        rows: How many of the best and how many of the worst edits.
        max_chars: Longest edit text shown.
    """

    def __init__(self, *, rows: int = 5, max_chars: int = 300) -> None:
        if rows < 1 or max_chars < 1:
            raise ConfigError(f"table.rows and table.max_chars must be at least 1, got {rows} and {max_chars}")
        self.rows = rows
        self.max_chars = max_chars

    def on_e_step_end(
        self,
        trainer: Trainer,
        module: Any,
        *,
        rollouts: Sequence[Rollout],
        groups: Sequence[RolloutGroup],
        kept: Sequence[EditOutcome],
    ) -> None:
        if not trainer.is_global_zero:
            return
        text = self.render(rollouts, groups, kept, round=module.rounds_done)
        path = Path(trainer.default_root_dir) / "tables" / f"round-{module.rounds_done:03d}.md"
        save_text(path, text)

    def render(
        self,
        rollouts: Sequence[Rollout],
        groups: Sequence[RolloutGroup],
        kept: Sequence[EditOutcome],
        *,
        round: int,
    ) -> str:
        """The table as Markdown; model text is escaped."""
        rejected = [rollout for rollout in rollouts if rollout.status == "rejected" and rollout.repeat == 0]
        diverged = [rollout for rollout in rollouts if rollout.status == "diverged" and rollout.kind == "edit"]
        scored = sum(outcome.reward is not None for group in groups for outcome in group.outcomes)
        lost = f", {diverged_edits(rollouts)} diverged" if diverged else ""
        poor = f" ({count} of them without merit)" if (count := len(without_merit(kept))) else ""
        missing = render_left_out(total_left_out(rollouts))
        tables = [kinds_table(rollouts, kept), *best_and_worst(groups, kept, count=self.rows)]
        tables = [table for table in (*tables, diversity_table(rollouts).first(self.rows)) if table.rows]
        parts = [
            f"# Round {round + 1}: {scored} scored edits, {len(rejected)} rejected{lost}, {len(kept)} kept{poor}",
            f"{MISSING} {missing}." if missing else "",
            render_usage(total_usage(rollouts)),
            *(f"## {one.title}\n\n{to_markdown(replace(one, title=''), cell=self._cell)}" for one in tables),
            self._reasons("Rejected", rejected),
            self._reasons("Diverged", diverged),
        ]
        return "\n\n".join(part for part in parts if part) + "\n"

    def _reasons(self, title: str, rollouts: Sequence[Rollout]) -> str:
        rows = [
            f"- {self._cell(rollout.context_id)}, edit {rollout.edit_index}: {self._cell(rollout.reason)}"
            for rollout in rollouts[: self.rows]
        ]
        return "\n".join([f"## {title}", "", *rows]) if rows else ""

    def _cell(self, text: str) -> str:
        return markdown_cell(text, self.max_chars)
