"""A table of the best and worst self-edits of a round, as a Markdown file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from seal_lightning.errors import ConfigError
from seal_lightning.files.saving import save_text
from seal_lightning.hooks import SEALCallback
from seal_lightning.m_step.selection import without_merit
from seal_lightning.results.accuracy import render_usage, total_usage
from seal_lightning.results.edits import diverged_edits
from seal_lightning.results.left_out import MISSING, render_left_out, total_left_out
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
        scored = [outcome for group in groups for outcome in group.outcomes if outcome.reward is not None]
        ranked = sorted(scored, key=lambda outcome: -(outcome.reward or 0.0))
        chosen = {(outcome.context_id, outcome.edit_index) for outcome in kept}
        head = ["| context | edit | reward | score | gain | kept | text |", "|---|---|---|---|---|---|---|"]
        best = [self._row(outcome, chosen) for outcome in ranked[: self.rows]]
        worst = [self._row(outcome, chosen) for outcome in ranked[len(best) :][-self.rows :]]
        rejected = [rollout for rollout in rollouts if rollout.status == "rejected" and rollout.repeat == 0]
        diverged = [rollout for rollout in rollouts if rollout.status == "diverged" and rollout.kind == "edit"]
        lost = f", {diverged_edits(rollouts)} diverged" if diverged else ""
        poor = f" ({count} of them without merit)" if (count := len(without_merit(kept))) else ""
        counts = f"{len(scored)} scored edits, {len(rejected)} rejected{lost}, {len(kept)} kept{poor}"
        lines = [f"# Round {round + 1}: {counts}", ""]
        lines += [f"{MISSING} {missing}.", ""] if (missing := render_left_out(total_left_out(rollouts))) else []
        lines += [usage, ""] if (usage := render_usage(total_usage(rollouts))) else []
        lines += ["## Best", "", *head, *best, ""]
        lines += ["## Worst", "", *head, *worst, ""] if worst else []
        lines += ["## Rejected", "", *self._reasons(rejected), ""] if rejected else []
        lines += ["## Diverged", "", *self._reasons(diverged), ""] if diverged else []
        return "\n".join(lines)

    def _reasons(self, rollouts: Sequence[Rollout]) -> list[str]:
        return [
            f"- {self._cell(rollout.context_id)}, edit {rollout.edit_index}: {self._cell(rollout.reason)}"
            for rollout in rollouts[: self.rows]
        ]

    def _row(self, outcome: EditOutcome, chosen: set[tuple[str, int]]) -> str:
        kept = "yes" if (outcome.context_id, outcome.edit_index) in chosen else ""
        numbers = f"{outcome.reward:.3f} | {outcome.score:.3f} | {outcome.gain:+.3f}"
        name, text = self._cell(outcome.context_id), self._cell(outcome.text)
        return f"| {name} | {outcome.edit_index} | {numbers} | {kept} | {text} |"

    def _cell(self, text: str) -> str:
        return markdown_cell(text, self.max_chars)
