"""What a round's E-step logs: rewards, shares of edits, how different and how long edits are, what was spent.

Rewards are over usable edits with their repeats averaged; what a metric does not apply to leaves it out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import fmean

from seal_lightning.m_step.selection import without_merit
from seal_lightning.results.diversity import diversity_by_context, mean_diversity
from seal_lightning.results.edits import (
    NEARLY,
    diverged_edits,
    rewards_of,
    share_spent,
    terms_of,
    total_thoughts,
)
from seal_lightning.results.left_out import QUERIES, total_left_out
from seal_lightning.results.usage import total_usage
from seal_lightning.types import EditOutcome, Rollout, RolloutGroup


def e_step_metrics(
    rollouts: Sequence[Rollout], groups: Sequence[RolloutGroup], kept: Sequence[EditOutcome], seconds: float
) -> dict[str, float]:
    """What a round's E-step logs; what was thought and what diverged only where something was."""
    rewards = rewards_of(groups)
    edits = {(rollout.context_id, rollout.edit_index) for rollout in rollouts if rollout.kind == "edit"}
    diverged = diverged_edits(rollouts)
    inner = sum(rollout.seconds.get("inner loop", 0.0) for rollout in rollouts)
    steps = sum(rollout.steps for rollout in rollouts)
    usage = total_usage(rollouts)
    return {
        "round": float(rollouts[0].round if rollouts else 0),
        "reward/mean": rewards.mean,
        "reward/best": rewards.best,
        "reward/std_within_context": rewards.within,
        "e_step/rejected_frac": fmean(rollout.status == "rejected" for rollout in rollouts if rollout.repeat == 0),
        **({"e_step/diverged_frac": diverged / len(edits)} if diverged else {}),
        "e_step/kept": float(len(kept)),
        "e_step/kept_without_merit": float(len(without_merit(kept))),
        **edit_metrics(rollouts, groups, kept),
        "e_step/seconds": seconds,
        "e_step/adapter_steps_per_s": steps / inner if inner else 0.0,
        **{f"thoughts/{name}": float(count) for name, count in total_thoughts(rollouts).items()},
        **({"racing/spent_frac": spent} if (spent := share_spent(rollouts)) is not None else {}),
        **term_metrics(rollouts),
        **{f"left_out/{name}": float(count) for name, count in _without_reasons(total_left_out(rollouts)).items()},
        **({f"endpoint/{name}": value for name, value in usage.as_dict().items()}),
    }


def edit_metrics(
    rollouts: Sequence[Rollout], groups: Sequence[RolloutGroup], kept: Sequence[EditOutcome]
) -> dict[str, float]:
    """Shares of a round's self-edits, how different those of a context are, and how long they are.

    A success is an edit whose mean gain is above 0, among all edits, rejected ones too; it is left out where no query
    tells. Diversity is that of `seal_lightning.results.diversity`, a mean over contexts. Lengths are means over edits,
    in characters and in the policy's tokens.
    """
    outcomes = [outcome for group in groups for outcome in group.outcomes]
    first = [rollout for rollout in rollouts if rollout.kind == "edit" and rollout.repeat == 0]
    metrics: dict[str, float] = {}
    if outcomes:
        metrics["e_step/kept_frac"] = len(kept) / len(outcomes)
    if outcomes and any(rollout.questions for rollout in rollouts):
        won = [outcome for outcome in outcomes if outcome.reward is not None and outcome.gain > NEARLY]
        metrics["e_step/success_frac"] = len(won) / len(outcomes)
    if (diversity := mean_diversity(diversity_by_context(rollouts).values())) is not None:
        metrics |= {f"diversity/{name}": value for name, value in asdict(diversity).items()}
    if any(rollout.text for rollout in first):
        metrics["edits/characters"] = fmean(len(rollout.text) for rollout in first)
        metrics["edits/tokens"] = fmean(rollout.tokens.get("edit", 0) for rollout in first)
    return metrics


def _without_reasons(counts: Mapping[str, int]) -> dict[str, int]:
    """Own queries that were dropped as one figure."""
    queries = sum(count for name, count in counts.items() if name.startswith(QUERIES))
    rest = {name: count for name, count in counts.items() if not name.startswith(QUERIES)}
    return {**rest, "queries": queries} if queries else rest


def term_metrics(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Mean and spread of each of the reward's terms, where it has several."""
    terms = terms_of([rollout for rollout in rollouts if rollout.kind == "edit"])
    return {
        name: value
        for term, (mean, spread) in (terms.items() if len(terms) > 1 else ())
        for name, value in ((f"reward_terms/{term}", mean), (f"reward_terms/{term}_std", spread))
    }
