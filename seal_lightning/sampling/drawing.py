"""How a next token is drawn: one uniform number a row and token, and the inverse of the cumulative distribution.

A row's numbers come from a generator of its own, so what it draws depends on its seed and its logits alone: not on the
rows beside it, on those that have left, or on how many are continued together. Probabilities are summed as whole
numbers. Such sums are exact in any order, on a GPU as on a CPU, so that over a vocabulary of any size no word without
probability, and none outside of the nucleus, can be hit by a rounding error.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from seal_lightning.models.transfer import sent
from seal_lightning.sampling.generation import Choose

_ONE = 2.0**50  # the weight of a probability of 1: sums of float64's whole numbers are exact up to 2**53
_IN_CACHE = 1 << 18  # logits whose sums stay in a processor's cache
_AHEAD = 64  # tokens of a row whose numbers are drawn at once


class Uniforms:
    """Uniform numbers in [0, 1) for the tokens of rows, each row's from its own seed.

    Args:
        seeds: Seed of each row.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._ahead = torch.empty(len(seeds), _AHEAD, dtype=torch.float64)
        self._taken = 0

    def take(self, rows: Sequence[int]) -> torch.Tensor:
        """For the next token of these rows, (b,), on the CPU; a row that was left out once does not come back."""
        place = self._taken % _AHEAD
        if not place:
            for row in rows:
                self._ahead[row].uniform_(generator=self._generators[row])
        self._taken += 1
        return self._ahead[list(rows), place]


def drawing(seeds: Sequence[int], *, temperature: float = 1.0, top_p: float = 1.0) -> Choose:
    """Draws the tokens of a batch whose rows have these seeds."""
    uniforms = Uniforms(seeds)

    def choose(logits: torch.Tensor, rows: Sequence[int], texts: Sequence[Sequence[int]]) -> torch.Tensor:
        return draw(logits, sent(uniforms.take(rows), logits.device), temperature=temperature, top_p=top_p)

    return choose


def draw(logits: torch.Tensor, uniforms: torch.Tensor, *, temperature: float = 1.0, top_p: float = 1.0) -> torch.Tensor:
    """One token for each row, (b,), at its place between 0 and 1 in the cumulative distribution of the vocabulary.

    Args:
        logits: (b, V), float32. From a row that holds nan comes any token.
        uniforms: In [0, 1), one a row (b,), float64.
        temperature: Above 0; what the logits are divided by.
        top_p: In (0, 1]; draws from the most likely tokens that have this much probability together, and from those
            that are as likely as the last of them.
    """
    at_once = len(logits) if logits.device.type != "cpu" else max(1, _IN_CACHE // logits.shape[-1])
    options = {"temperature": temperature, "top_p": top_p}
    parts = zip(logits.split(at_once), uniforms.split(at_once), strict=True)
    return torch.cat([_draw(some, numbers, **options) for some, numbers in parts])


def _draw(logits: torch.Tensor, uniforms: torch.Tensor, *, temperature: float, top_p: float) -> torch.Tensor:
    if temperature != 1:  # the largest is 0 first: a low temperature makes infinite ones of others, which is right
        logits = (logits - logits.amax(dim=-1, keepdim=True)).div_(temperature)
    chances = logits.softmax(dim=-1)
    weights = _weights(chances)
    if top_p < 1:
        weights *= weights >= _least_of_nucleus(chances, top_p)
    sums = weights.cumsum(dim=-1)
    total = sums[:, -1:]
    place = (uniforms[:, None] * total).long().minimum(total - 1)
    # the first token whose sum is above the place: its weight is not 0, or the sum before it would be above too
    return torch.searchsorted(sums, place, right=True)[:, 0].clamp_(max=logits.shape[-1] - 1)


def _weights(chances: torch.Tensor) -> torch.Tensor:
    """Probabilities as whole numbers; those below 1e-15 become 0."""
    return (chances * _ONE).long()


def _least_of_nucleus(chances: torch.Tensor, top_p: float) -> torch.Tensor:
    """The weight of the least likely token of the nucleus of each row, (b, 1)."""
    rising = _weights(_sorted(chances))
    sums = rising.cumsum(dim=-1)
    outside = (sums[:, -1:] * (1 - top_p)).long()  # the unlikely ones with no more than this are left out
    return rising.gather(-1, torch.searchsorted(sums, outside, right=True).clamp_(max=rising.shape[-1] - 1))


def _sorted(chances: torch.Tensor) -> torch.Tensor:
    """Each row in rising order."""
    if chances.device.type == "cpu":  # torch's sort carries places along, and takes 30 times as long
        return torch.from_numpy(np.sort(chances.numpy(), axis=-1))
    return chances.sort(dim=-1).values
