"""The M-step of a round as the module runs it: what is taught, the references, the batches, and what came of them."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import torch
from torch.utils.data import DataLoader

from seal_lightning.errors import CheckpointError
from seal_lightning.fit.base import FitModule
from seal_lightning.fit.checkpoint_file import Checkpoint
from seal_lightning.hooks import the_filter
from seal_lightning.m_step.batches import TaughtExamples, encode_taught, make_loader, tell_truncated
from seal_lightning.m_step.objectives import Figures, Taught, name_of
from seal_lightning.m_step.references import References, joined, reference_logps, with_references
from seal_lightning.policy.at_work import policy_at_work
from seal_lightning.text.plural import counted
from seal_lightning.types import RolloutGroup


class Course:
    """What a module learns in a round's M-step, and how that goes."""

    def __init__(self, module: FitModule) -> None:
        self.module = module
        self.saved: References | None = None  # of the M-step at hand, for its checkpoints
        self._told: list[tuple[int, Figures]] = []  # of this rank's batches, by number

    # -- what is taught ------------------------------------------------------------------------------------------------

    def taught(self, groups: Sequence[RolloutGroup]) -> list[Taught]:
        """What a round teaches, the same on all ranks; a collective."""
        module, goal = self.module, self.module.m_step.goal
        if not goal.compares:
            return goal.taught(groups, module.kept)
        compared = the_filter(module.trainer.callbacks).compared(groups)
        taught = module.trainer.processes.ranks.gather(goal.taught(compared, module.kept))[0]
        contexts = {one.context_id for group in groups for one in group.outcomes}
        edits = sum(len(one.outcomes) for one in taught)
        lacking = contexts - {edit.context_id for one in taught for edit in one.outcomes}
        pairs = f" in {counted(len(taught), 'comparison')}" if edits > len(taught) else ""
        module.m_step_told = (
            f"{name_of(goal)} learns from {counted(edits, 'edit')}{pairs}, {len(lacking)} of "
            f"{counted(len(contexts), 'context')} teach nothing"
        )
        return taught

    def loader(self, taught: Sequence[Taught]) -> DataLoader:
        """The batches of an M-step that begins, or goes on after `batch_start` batches; a collective."""
        module, trainer, settings = self.module, self.module.trainer, self.module.m_step
        view, self._told = module.policy.view, []
        examples = encode_taught(view, taught, settings=settings)
        module.m_step_truncated = tell_truncated(examples, settings, only=module.global_rank == 0)
        if settings.goal.needs_reference:
            self.saved = self._references(examples)
            examples = with_references(examples, self.saved)
        return make_loader(
            examples,
            pad=view.tokenizer.pad_token_id,
            settings=settings,
            seed=module.seed,
            round=module.current_epoch,
            start=module.batch_start,
            rank=module.global_rank,
            shares=trainer.shares,
        )

    # -- references ----------------------------------------------------------------------------------------------------

    def _references(self, examples: Sequence[TaughtExamples]) -> References:
        """Those of the checkpoint within whose M-step the run goes on, or the policy's own before its first step."""
        module, processes = self.module, self.module.trainer.processes
        if module.batch_start:
            if self.saved is None or len(self.saved) != len(examples):
                raise CheckpointError(
                    "the checkpoint was taken within an M-step, and lacks the references of what the round teaches: "
                    "move checkpoints/last.ckpt away (the round's E-step is in the journal). Nothing was overwritten"
                )
            return self.saved
        size, ranks = module.m_step.batch_size, processes.ranks
        module.policy.open_replica()  # weights that are spread over the ranks are asked in a copy, each rank its own
        try:
            with policy_at_work(module.trainer, module) as policy:
                own = reference_logps(policy, examples, batch_size=size, rank=ranks.rank, ranks=ranks.size)
        finally:
            module.policy.close_replica()
        return joined(ranks.gather(own), batch_size=size)

    def save(self, checkpoint: Checkpoint) -> None:
        """Put the references of an M-step at hand into a checkpoint: later the round's start may be gone."""
        if self.saved is not None:
            checkpoint["seal"]["references"] = self.saved

    def load(self, checkpoint: Checkpoint) -> None:
        self.saved = checkpoint["seal"].get("references")

    # -- figures -------------------------------------------------------------------------------------------------------

    def note(self, number: int | None, loss: torch.Tensor, figures: Figures) -> None:
        """Remember what a batch gave, unless it counts for nothing; nothing is waited for."""
        if number is not None:
            self._told.append((number, {"loss": loss.detach(), **figures}))

    def end(self) -> dict[str, float]:
        """The means over the batches of the last epoch, of all ranks, for the log; the M-step is over. A collective."""
        module, self.saved = self.module, None
        names = list(self._told[0][1]) if self._told else []
        own = [(number, torch.stack([figures[name] for name in names]).tolist()) for number, figures in self._told]
        last = module.batches - module.batches // module.m_step.epochs  # a resumed M-step may have seen that much alone
        gathered = module.trainer.processes.ranks.gather(own)
        rows = [row for share in gathered for number, row in share if number >= last]
        means = [fmean(column) for column in zip(*rows, strict=True)]
        return {f"m_step/mean_{name}": mean for name, mean in zip(names, means, strict=bool(rows))}
