"""What was cut, skipped or dropped on the way of a run, counted and told in one line: nothing is lost without a word.

A rollout carries its own counts (`Rollout.left_out`); tables, logs, model cards and the report add them up here.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from seal_lightning.results.averages import by_edit
from seal_lightning.text.plural import counted, plural
from seal_lightning.types import Rollout

log = logging.getLogger(__name__)

MISSING = "Cut or left out:"  # how a note below a table begins
TRUNCATED = "truncated"  # training sequences that lost their end to the longest length
SKIPPED = "skipped"  # training sequences of which nothing could be learnt
LONGEST = "longest"  # tokens of the longest truncated one
EDITS = "edits"  # self-edits that end where the sampler's limit is
PIECES = "pieces"  # of self-edits beyond the task's limit
ANSWERS = "answers"  # that end where the limit is
DIVERGED = "diverged"  # adapters that came out not finite
QUERIES = "queries: "  # own queries that were dropped, by reason

_SAY = {
    TRUNCATED: "training {sequences} truncated{longest}: raise inner_loop.max_length (at most to the model's "
    "window), or take shorter passages",
    SKIPPED: "training {sequences} skipped, with nothing to learn in what is left of {them}",
    EDITS: "{self-edits} cut at the sampler's max_new_tokens",
    PIECES: "{pieces} of self-edits beyond task.max_sequences left out",
    ANSWERS: "{answers} cut at max_answer_tokens",
    DIVERGED: "{adapters} diverged, which {count} as the policy without {them}: lower inner_loop.learning_rate",
}


def total_left_out(rollouts: Iterable[Rollout]) -> dict[str, int]:
    """The counts of some rollouts together; what belongs to an edit counts once, however often it is trained."""
    parts: list[Mapping[str, int]] = []
    for repeats in by_edit(rollouts):
        for name in dict.fromkeys(name for rollout in repeats for name in rollout.left_out):
            counts = [rollout.left_out.get(name, 0) for rollout in repeats]
            each = name in (ANSWERS, DIVERGED) or name.startswith(QUERIES)  # what every repeat has of its own
            parts.append({name: sum(counts) if each else max(counts)})
    return added(parts)


def added(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Counts added up; of the longest sequence the longest."""
    total: dict[str, int] = {}
    for one in counts:
        for name, count in one.items():
            total[name] = max(total.get(name, 0), count) if name == LONGEST else total.get(name, 0) + count
    return {name: count for name, count in total.items() if count}


def render_left_out(counts: Mapping[str, int]) -> str:
    """One line; "" where nothing is missing.

    >>> render_left_out({"truncated": 1, "longest": 4100, "answers": 2})[:57]
    '1 training sequence truncated (the longest has 4,100 token'
    >>> render_left_out({"answers": 2, "queries: answer too long": 3, "queries: repeats another": 1})
    '2 answers cut at max_answer_tokens; 4 own queries dropped (3 answer too long, 1 repeats another)'
    """
    parts = [f"{counts[name]:,} {_say(name, counts)}" for name in _SAY if counts.get(name)]
    reasons = {name.removeprefix(QUERIES): count for name, count in counts.items() if name.startswith(QUERIES)}
    if reasons:
        listed = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items(), key=lambda one: -one[1]))
        parts.append(f"{counted(sum(reasons.values()), 'own query')} dropped ({listed})")
    return "; ".join(parts)


def tell_left_out(when: str, rollouts: Iterable[Rollout], *, only: bool = True) -> None:
    """Log what is missing from a phase's rollouts: as a warning where training sequences are, else for information.

    Args:
        when: The phase, as the line begins.
        rollouts: Its.
        only: Off on ranks that are to keep silent.
    """
    counts = total_left_out(rollouts)
    if counts and only:
        training = any(counts.get(name) for name in (TRUNCATED, SKIPPED, DIVERGED))  # models often write to a limit
        level = logging.WARNING if training else logging.INFO
        log.log(level, "%s: %s", when, render_left_out(counts))


def _say(name: str, counts: Mapping[str, int]) -> str:
    one = counts[name] == 1
    nouns = ("sequence", "self-edit", "piece", "answer", "adapter")
    words = {plural(noun): noun if one else plural(noun) for noun in nouns}
    longest = f" (the longest has {counts[LONGEST]:,} tokens)" if counts.get(LONGEST) else ""
    return _SAY[name].format_map(
        {**words, "count": "counts" if one else "count", "them": "it" if one else "them", "longest": longest}
    )
