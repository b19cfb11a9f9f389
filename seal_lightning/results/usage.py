"""What rollouts have cost: tokens, seconds, requests to endpoints. A cost stands once, so that sums are totals.

The exceptions are the `prompt` and `edit` tokens of a self-edit, which the rollout of every repeat states again:
`total_tokens` counts them once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from seal_lightning.results.averages import by_edit
from seal_lightning.types import Rollout, Usage

ONCE_AN_EDIT = ("prompt", "edit")
SPENT_ON = {"sampling": "edit", "inner loop": "trained", "answering": "answers"}  # the tokens that a phase is spent on


def total_tokens(rollouts: Iterable[Rollout]) -> dict[str, int]:
    """Tokens in all, by purpose."""
    total: Counter[str] = Counter()
    for first, *others in by_edit(rollouts):
        total.update(first.tokens)
        for repeat in others:
            total.update({name: count for name, count in repeat.tokens.items() if name not in ONCE_AN_EDIT})
    return dict(total)


def usage_by_purpose(rollouts: Iterable[Rollout]) -> dict[str, Usage]:
    """What endpoints were asked for, and what they charged, by purpose."""
    total: dict[str, Usage] = {}
    for rollout in rollouts:
        for purpose, used in rollout.usage.items():
            total[purpose] = total.get(purpose, Usage()) + Usage.from_dict(used)
    return total


def total_usage(rollouts: Iterable[Rollout]) -> Usage:
    """What endpoints were asked for, and what they charged, in all."""
    return sum(usage_by_purpose(rollouts).values(), Usage())


def render_usage(usage: Usage) -> str:
    """One line: requests, tokens, dollars; "" where no endpoint was asked."""
    if not usage.requests and not usage.cached:
        return ""
    dollars = "no price known" if usage.dollars is None else f"${usage.dollars:.6f}"
    if not usage.requests:
        dollars = "$0"
    return (
        f"endpoints: {usage.requests} requests and {usage.cached} from the cache, {usage.prompt_tokens} prompt and "
        f"{usage.completion_tokens} completion tokens, {dollars}"
    )


def total_seconds(rollouts: Iterable[Rollout]) -> dict[str, float]:
    """Seconds by phase."""
    total: dict[str, float] = {}
    for rollout in rollouts:
        for phase, spent in rollout.seconds.items():
            total[phase] = total.get(phase, 0.0) + spent
    return total


def share_seconds(rollouts: Sequence[Rollout], seconds: Mapping[str, float]) -> list[Rollout]:
    """The rollouts of a unit of work, with the seconds that its phases have taken shared out among them.

    All adapters of a unit train together, so what each took is not measured. A phase is shared by the tokens that it
    was spent on; where nothing is counted, as of the baseline, it is shared evenly.
    """
    shared = [dict(rollout.seconds) for rollout in rollouts]
    for phase, spent in seconds.items():
        tokens = [rollout.tokens.get(SPENT_ON.get(phase, ""), 0) for rollout in rollouts]
        total = sum(tokens)
        for own, count in zip(shared, tokens, strict=True):
            own[phase] = spent * (count / total if total else 1 / len(tokens))
    return [replace(rollout, seconds=own) for rollout, own in zip(rollouts, shared, strict=True)]
