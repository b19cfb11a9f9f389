"""Racing: train the adapters that decide which edits are kept, and leave out the others (part of SEAL's E-step).

The full E-step trains every edit as often as it has repeats. Here one training after another is chosen by what is known
so far, until a share of that compute is spent:

    observed answers -> how further repeats would go -> which edits would be kept -> the training that tells most of it

A query's answer after one more repeat is right with a probability that has a beta prior: its mean is the share of right
answers to that query by other edits of the context, its strength comes from how well repeats agree in the unit. From it
follows exactly how probable each total of an edit is, and each edit among the best. A training is worth what it is
expected to add to the sum of the largest of these probabilities (the knowledge gradient of Frazier, Powell and Dayanik,
2008, for the choice of a subset), per token. Choices use nothing that was not observed. Edits without a chance get no
further repeat, and contexts that are decided none at all. Left out: races across units, and over epochs.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, comb, exp, isfinite, lgamma

import numpy as np

from seal_lightning.errors import ConfigError, check_count

Training = tuple[int, int, int]  # number of the context, of the edit, and the repeat
Scores = Sequence[Sequence[float] | None]  # of each training's answers, in [0, 1]; None where the adapter diverged

STRENGTHS = (3.0, 0.3, 1.0, 10.0)  # of the prior, in repeats; the first is taken until repeats tell more
NEIGHBOURS = 2.0  # how many edits the mean of all queries counts for, beside what others answered to the same query
UNLIKELY = 1e-7


@dataclass(frozen=True)
class Racing:
    """Spend repeats where they decide which edits are kept; the others are dropped.

    Args:
        budget: Share of the full E-step's inner loop, in trained tokens, that is spent at most; a few more trainings
            are made only where an edit would be kept that was never trained.
        keep: How many edits of a context remain, as many as the filter keeps (`filter.k`).
        together: Adapters that train at the same time for each context of a unit, on average; above 1 they are of
            several edits of a context, below it some contexts wait. With less, every choice knows more; with more, a
            machine is better filled, and only then half of the training takes less time.
    """

    budget: float = 0.5
    keep: int = 1
    together: float = 3.0

    def __post_init__(self) -> None:
        if not 0 < self.budget <= 1:
            raise ConfigError(f"racing.budget must be above 0 and at most 1, got {self.budget}")
        if not (self.together > 0 and isfinite(self.together)):
            raise ConfigError(f"racing.together must be above 0 and finite, got {self.together}")
        check_count("racing.keep", self.keep)

    def check(self, *, edits: int, repeats: int) -> None:
        """Whether there is something to race for.

        Raises:
            ConfigError: The budget does not suffice for one training of what is kept, or there is but one repeat.
        """
        if repeats < 2:
            raise ConfigError(f"racing needs 2 or more repeats to save anything, got {repeats}: set racing to null")
        if self.keep > self.budget * edits * repeats:
            raise ConfigError(
                f"racing.budget must allow one training of each of the {self.keep} edits that are kept, got "
                f"{self.budget} of {edits} x {repeats}: raise it"
            )


@dataclass(slots=True)
class Heat:
    """The race of one context.

    Attributes:
        costs: Cost of one training of each edit, in any unit.
        repeats: Repeats of the full E-step.
        right: Sums of the answers' scores by edit and query, (edits, queries).
        seen: Repeats trained so far by edit, (edits,).
        chances: Chance of each edit to be among those that the full E-step keeps, (edits,).
        value: Expected number of edits that both keep.
        out: Edits that can no longer be kept, because one of their trainings diverged.
    """

    costs: Sequence[float]
    repeats: int
    right: np.ndarray
    seen: np.ndarray
    chances: np.ndarray
    value: float = 0.0
    offers: list[tuple[float, int]] = field(
        default_factory=list
    )  # what a training promises per cost, and of which edit
    out: set[int] = field(default_factory=set)

    def leaders(self, keep: int) -> list[int]:
        """The `keep` edits with the best chances."""
        return self._best(range(len(self.costs)), keep)

    def survivors(self, keep: int) -> list[int]:
        """The same among those that were trained, in their order."""
        return sorted(self._best([edit for edit in range(len(self.costs)) if self.seen[edit]], keep))

    def _best(self, edits: Iterable[int], keep: int) -> list[int]:
        live = [edit for edit in edits if edit not in self.out]
        return sorted(live, key=lambda edit: (-round(float(self.chances[edit]), 9), edit))[:keep]


def run_races(
    races: Sequence[Generator[list[Training], Scores, list[Heat]]],
    train: Callable[[Mapping[int, Sequence[Training]]], Mapping[int, Scores]],
) -> list[list[Heat]]:
    """Run the races of several units at once: each goes as it would alone, and what they train next, trains together.

    Args:
        races: One for each unit.
        train: Function that trains adapters, given by number of the race, and returns their scores.

    Returns:
        The race of each context, by race.
    """
    ended: dict[int, list[Heat]] = {}
    known: Mapping[int, Scores] = {}
    while len(ended) < len(races):
        chosen: dict[int, Sequence[Training]] = {}
        for number in sorted(known or range(len(races))):
            try:
                chosen[number] = races[number].send(known[number]) if known else next(races[number])
            except StopIteration as end:
                ended[number] = end.value
        known = train(chosen) if chosen else known
    return [ended[number] for number in range(len(races))]


def race(
    racing: Racing, costs: Sequence[Sequence[float]], queries: Sequence[int], *, repeats: int
) -> Generator[list[Training], Scores, list[Heat]]:
    """Race the edits of the contexts of a unit: yields what to train next, is sent the scores of its answers.

    Args:
        racing: The rules: how much may be spent, and how many edits remain.
        costs: Cost of one training, by context and edit.
        queries: Queries of each context.
        repeats: Repeats of the full E-step.

    Returns:
        The race of each context.
    """
    heats = [
        Heat(each, repeats, np.zeros((len(each), count)), np.zeros(len(each), int), np.full(len(each), 1 / len(each)))
        for each, count in zip(costs, queries, strict=True)
    ]
    left = racing.budget * repeats * sum(map(sum, costs))
    changed = list(range(len(heats)))
    while True:
        average, strength = _average(heats), _strength(heats)
        for number in changed:
            _look_ahead(heats[number], keep=racing.keep, average=average, strength=strength)
        chosen = _stage(heats, racing, left)
        if not chosen:
            return heats
        left -= sum(heats[number].costs[edit] for number, edit, _ in chosen)
        for (number, edit, _), scores in zip(chosen, (yield chosen), strict=True):
            if scores is None:
                heats[number].out.add(edit)
            else:
                heats[number].right[edit] += scores
                heats[number].seen[edit] += 1
        changed = [number for number, _, _ in chosen]


def _stage(heats: Sequence[Heat], racing: Racing, left: float) -> list[Training]:
    """The trainings to make together, where they promise most: one of an edit, and not too many of a context."""
    # An edit can lead without a training, because the others are bad: one has to remain for it.
    untried = [
        (number, edit, 0)
        for number, heat in enumerate(heats)
        for edit in heat.leaders(racing.keep)
        if not heat.seen[edit]
    ]
    left -= sum(heats[number].costs[edit] for number, edit, _ in untried)
    own, most = ceil(racing.together), ceil(racing.together * len(heats))
    offers = [(promise, number, edit) for number, heat in enumerate(heats) for promise, edit in heat.offers[:own]]
    chosen: list[Training] = []
    for _, number, edit in sorted(offers, key=lambda offer: -offer[0]):
        heat = heats[number]
        if heat.costs[edit] <= left and len(chosen) < most:
            left -= heat.costs[edit]
            chosen.append((number, edit, int(heat.seen[edit])))
    return chosen or untried


def _look_ahead(heat: Heat, *, keep: int, average: float, strength: float) -> None:
    """What is to be expected of the context now, and after each training that could come next."""
    edits, queries = heat.right.shape
    offers: dict[int, float] = {}
    totals = np.zeros((edits, heat.repeats * queries + 1))  # pmf of each edit's right answers over all repeats
    outcomes: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}
    a, b = _beliefs(heat, average, strength)
    for edit in range(edits):
        if edit in heat.out:
            totals[edit, 0] = 1.0
            continue
        more, known = heat.repeats - int(heat.seen[edit]), round(float(heat.right[edit].sum()))
        for ahead in sorted({1, more} - {0}):
            split = _totals(a[edit], b[edit], ahead, more)  # (right in the next `ahead`, right in all further ones)
            totals[edit, known : known + split.shape[1]] = split.sum(0)
            likely = split[split.sum(1) > UNLIKELY]
            after = np.zeros((len(likely), totals.shape[1]))
            after[:, known : known + split.shape[1]] = likely / likely.sum(1, keepdims=True)
            outcomes[edit, ahead] = likely.sum(1), after
        if not more:
            totals[edit, known] = 1.0
    rivals = _rivals(totals, keep)
    heat.chances = _chances(totals, rivals, 0, totals[:1])[0]
    heat.chances[sorted(heat.out)] = 0.0
    heat.value = float(np.sort(heat.chances)[-keep:].sum())
    for (edit, ahead), (weights, after) in outcomes.items():
        values = np.sort(_chances(totals, rivals, edit, after), axis=1)[:, -keep:].sum(1)
        promise = (float(weights @ values) - heat.value) / (ahead * heat.costs[edit])
        if promise > max(offers.get(edit, 0.0), UNLIKELY / heat.costs[edit]):
            offers[edit] = promise
    heat.offers = sorted(((promise, edit) for edit, promise in offers.items()), key=lambda offer: -offer[0])


def _rivals(totals: np.ndarray, keep: int) -> np.ndarray:
    """How probable it is that fewer than `keep` edits are better, from the pmfs of all edits' totals, (E, L).

    Returns:
        (keep, E, E, L): exactly so many edits are better than edit i with a total of l, edit j not counted.
    """
    edits, levels = totals.shape
    later = 1.0 - np.cumsum(totals, axis=1)  # of a later edit only a larger total is better
    earlier = later + totals  # of an earlier one the same total is better too
    rivals = np.zeros((keep, edits, edits, levels))
    rivals[0] = 1.0
    for other in range(edits):
        wins = np.repeat(np.where(np.arange(edits)[:, None] > other, earlier[other], later[other])[:, None], edits, 1)
        wins[other], wins[:, other] = 0.0, 0.0  # not against itself, and not where it does not count
        rivals[1:] = rivals[1:] * (1 - wins) + rivals[:-1] * wins
        rivals[0] *= 1 - wins
    return rivals


def _chances(totals: np.ndarray, rivals: np.ndarray, edit: int, after: np.ndarray) -> np.ndarray:
    """The chance of each edit to be among the best, ties to the first, if `edit` has one of the pmfs `after`, (W, L).

    Returns:
        (W, E).
    """
    numbers = np.arange(len(totals))[:, None]
    later = 1.0 - np.cumsum(after, axis=1)
    there = totals * rivals[:-1, :, edit].sum(0)  # fewer others are better: `edit` may be too
    last = totals * rivals[-1, :, edit]  # as many as may be are better already
    chances = there.sum(1) + np.where(numbers > edit, last @ (1 - later - after).T, last @ (1 - later).T).T
    chances[:, edit] = after @ rivals[:, edit, edit].sum(0)
    return chances


def _beliefs(heat: Heat, average: float, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Beta distributions of how often each edit answers each query right, (edits, queries) twice."""
    others, seen = heat.right.sum(0) - heat.right, (heat.seen.sum() - heat.seen)[:, None]
    prior = strength * (others + NEIGHBOURS * average) / (seen + NEIGHBOURS)
    return heat.right + prior, heat.seen[:, None] - heat.right + strength - prior


def _average(heats: Sequence[Heat]) -> float:
    """Share of right answers so far; one half before there are any."""
    right = sum(float(heat.right.sum()) for heat in heats)
    answers = sum(int(heat.seen.sum()) * heat.right.shape[1] for heat in heats)
    return (right + 0.5) / (answers + 1)


def _strength(heats: Sequence[Heat]) -> float:
    """The strength that makes the repeats seen so far most likely."""
    average = _average(heats)

    def likelihood(strength: float) -> float:
        total = 0.0
        for heat in heats:
            a, b = _beliefs(heat, average, strength)
            for edit in np.flatnonzero(heat.seen > 1):
                n, prior = int(heat.seen[edit]), a[edit] - heat.right[edit]
                for after, before in zip(a[edit], prior, strict=True):
                    total += lgamma(after) - lgamma(before)
                for after, before in zip(b[edit], strength - prior, strict=True):
                    total += lgamma(after) - lgamma(before)
                total += len(prior) * (lgamma(strength) - lgamma(strength + n))
        return total

    return max(STRENGTHS, key=likelihood)


def _totals(a: np.ndarray, b: np.ndarray, ahead: int, more: int) -> np.ndarray:
    """Joint pmf of the right answers in the next `ahead` repeats and in all `more` of an edit, over its queries."""
    pmf = np.zeros((ahead * len(a) + 1, more * len(a) + 1))
    pmf[0, 0] = 1.0
    for right, wrong in zip(a, b, strict=True):
        after = np.zeros_like(pmf)
        for near, chance in enumerate(_beta_binomial(ahead, right, wrong)):
            for far, further in enumerate(_beta_binomial(more - ahead, right + near, wrong + ahead - near)):
                shifted = pmf[: len(pmf) - near, : pmf.shape[1] - near - far]
                after[near:, near + far :] += chance * further * shifted
        pmf = after
    return pmf


def _beta_binomial(count: int, a: float, b: float) -> list[float]:
    """Chances of 0 to `count` right answers."""
    whole = lgamma(a) + lgamma(b) - lgamma(a + b)
    return [
        comb(count, right) * exp(lgamma(a + right) + lgamma(b + count - right) - lgamma(a + b + count) - whole)
        for right in range(count + 1)
    ]
