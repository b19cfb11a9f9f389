"""One round of SEAL, from top to bottom (arXiv 2506.10943, section 3.1). `seal fit` is this, on Lightning.

    E-step: contexts -> self-edits -> an adapter each -> closed-book answers -> rewards
    filter: the self-edits worth imitating are kept
    M-step: the policy is fine-tuned to write them

Lightning adds devices, ranks, journals, checkpoints and validation; what is learnt is the same, on a CPU to the last
bit. Begin here to read the code, or to write an outer loop of your own: each of the four parts is a value that you pass
in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from seal_lightning.data.base import units
from seal_lightning.e_step.step import EStep
from seal_lightning.m_step.selection import group_rollouts
from seal_lightning.m_step.training import FineTuning
from seal_lightning.policy.tuned import TunedPolicy
from seal_lightning.types import Context, EditOutcome, Rollout, RolloutGroup

Groups = Sequence[RolloutGroup]
Keep = Callable[[Groups], Sequence[EditOutcome]]
Compare = Callable[[Groups], Groups]


def run_round(
    policy: TunedPolicy,
    contexts: Sequence[Context],
    *,
    e_step: EStep,
    keep: Keep,
    m_step: FineTuning,
    round: int,
    contexts_per_unit: int = 4,
    compare: Compare = list,
) -> tuple[list[Rollout], list[EditOutcome]]:
    """Let the policy write self-edits about all contexts, and learn from the best of them.

    Args:
        policy: Changed in place.
        contexts: What the self-edits are about, with queries to score them.
        e_step: Writes and scores the edits.
        keep: Chooses among the edits of each context, such as the `select` of a filter.
        m_step: Fine-tunes the policy; the same one in every round.
        round: Counted from 0; enters all seeds.
        contexts_per_unit: Contexts whose adapters are trained together.
        compare: What an objective that compares edits sees of their rewards, such as the `compared` of a filter.

    Returns:
        A rollout for every edit and repeat, and the kept edits.
    """
    rollouts: list[Rollout] = []
    with policy.frozen() as frozen:
        for unit in units(contexts, contexts_per_unit):
            rollouts += e_step.run(frozen, unit, round=round)
    groups = group_rollouts(rollouts)
    kept = list(keep(groups))
    if m_step.train(policy, kept, groups=compare(groups), round=round):
        policy.end_round(round)
    return rollouts, kept
