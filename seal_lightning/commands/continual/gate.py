"""A gate before the policy: an update that costs too much of what was learnt earlier is scaled down or refused.

The idea is STABLE's (arXiv 2510.16089): accept an update whole, scaled, or not at all, by what it does to earlier
knowledge, measured as accuracy, bits or divergence.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from statistics import fmean
from typing import Literal, get_args

import torch

from seal_lightning.commands.continual.countermeasure import Countermeasure, Learnt, check_above_0
from seal_lightning.commands.continual.regularisers import log_probabilities, predictions
from seal_lightning.commands.continual.updates import Stacked
from seal_lightning.e_step.closed_book import ask_closed_book
from seal_lightning.e_step.step import EStep
from seal_lightning.errors import ConfigError, check_count
from seal_lightning.inner_loop.encoding import encode_sequence
from seal_lightning.models.lora import LoRA
from seal_lightning.policy.policy import Policy
from seal_lightning.seeding import derive_seed

log = logging.getLogger(__name__)

Measure = Literal["accuracy", "bits", "kl"]
BUDGETS: dict[Measure, float] = {"accuracy": 0.1, "bits": 0.6, "kl": 1.5}
_BITS = 1 / torch.log(torch.tensor(2.0)).item()  # in a nat

Cost = Callable[[Policy], float]


class Gate(Countermeasure):
    """Adds an update only as far as it costs no more of what was learnt earlier than a budget.

    The largest of the `scales` within the budget is taken; if none is, the update is refused. What was refused is not
    counted as learnt. The first update of a stream passes.

    Args:
        measure: What is lost of the contexts learnt so far: `kl`, the divergence of predictions on their training
            sequences, `bits`, the rise of the loss on these, both in bits a token, or `accuracy` on their queries.
        budget: Most that one update may cost; null is 0.1 of accuracy, 0.6 bits a token of the loss, 1.5 of divergence.
        scales: Shares of the update that are tried, largest first.
        count: Largest number of earlier contexts or training sequences that are looked at, drawn anew at every step.
        label: Name in tables and folders.
    """

    short = "gate"

    def __init__(
        self,
        *,
        measure: Measure = "kl",
        budget: float | None = None,
        scales: Sequence[float] = (1.0, 0.7, 0.5, 0.35, 0.25),
        count: int = 64,
        label: str | None = None,
    ) -> None:
        super().__init__(label=label)
        if measure not in BUDGETS:
            raise ConfigError(f"gate: measure must be one of {', '.join(get_args(Measure))}, got {measure!r}")
        self.measure: Measure = measure
        self.budget = BUDGETS[measure] if budget is None else check_above_0("gate: budget", budget, advice=0.1)
        self.scales = tuple(check_above_0("gate: scales", scale, largest=1) for scale in scales)
        if not self.scales or list(self.scales) != sorted(self.scales, reverse=True):
            raise ConfigError(f"gate: scales must be numbers up to 1, largest first, got {scales}: try [1.0, 0.5]")
        self.count = check_count("gate: count", count)

    def finish(self, new: LoRA, earlier: Sequence[Learnt], *, policy: Policy, e_step: EStep) -> LoRA:
        known = [one for one in earlier if one.lora is not None and one.lora.scale]
        if not known:
            return new
        draw = random.Random(derive_seed("gate", e_step.seed, len(earlier)))
        cost = (self._accuracy if self.measure == "accuracy" else self._loss)(known, policy, e_step, draw)
        costs = []
        for scale in self.scales:
            scaled = LoRA(new.state, scale * new.scale)
            with added(policy, scaled) as changed:
                lost = cost(changed)
            costs.append(f"{lost:.3f} at {scale:g}")
            if lost <= self.budget:
                log.info("%s: added at %g (%s: %s)", self.label, scale, self.measure, ", ".join(costs))
                return scaled
        log.info("%s: refused (%s: %s, budget %g)", self.label, self.measure, ", ".join(costs), self.budget)
        return LoRA(new.state, 0.0)

    def _accuracy(self, known: Sequence[Learnt], policy: Policy, e_step: EStep, draw: random.Random) -> Cost:
        contexts = [one.context for one in draw.sample(known, min(self.count, len(known)))]

        def accuracy(policy: Policy) -> float:
            return fmean(one.accuracy for one in ask_closed_book(e_step, policy, contexts))

        before = accuracy(policy)
        return lambda changed: before - accuracy(changed)

    def _loss(self, known: Sequence[Learnt], policy: Policy, e_step: EStep, draw: random.Random) -> Cost:
        """What a change costs in bits a token of earlier training sequences: of the loss, or of divergence."""
        sequences = list(chain.from_iterable(one.sequences for one in known))
        chosen = draw.sample(sequences, min(self.count, len(sequences)))
        limit = min(e_step.inner_loop.max_length, policy.window)
        encoded = [encode_sequence(policy, one, ended=False) for one in chosen]
        told = [(one.tokens[: min(one.told_to, limit)], max(one.prompt, 1)) for one in encoded]
        texts = [(ids, prompt) for ids, prompt in told if len(ids) > prompt]
        if self.measure == "bits":
            loss = bits(policy, texts)
            return lambda changed: bits(changed, texts) - loss
        before = predictions(policy, [ids for ids, _ in texts])
        return lambda changed: divergence(changed, texts, before)


@contextmanager
def added(policy: Policy, lora: LoRA) -> Iterator[Policy]:
    """The policy with an update, which is taken back at the end to the last bit."""
    changed = Stacked(policy)
    changed.add(lora)
    try:
        yield changed.policy
    finally:
        changed.clear()


Texts = Sequence[tuple[Sequence[int], int]]  # token ids, and how many of them are given


@torch.no_grad()
def bits(policy: Policy, texts: Texts) -> float:
    """Loss in bits a token; 0 where there are no texts."""
    total, count = 0.0, 0
    for ids, start in texts:
        row = torch.tensor([ids], device=policy.device)
        found = log_probabilities(policy, input_ids=row)[start - 1 : -1]
        total -= float(found.gather(1, row[0, start:, None]).sum())
        count += len(found)
    return _BITS * total / max(count, 1)


@torch.no_grad()
def divergence(policy: Policy, texts: Texts, before: Sequence[torch.Tensor]) -> float:
    """KL divergence of next tokens from those `before`, (T, V) each, in bits a token; 0 where there are no texts."""
    total, count = 0.0, 0
    for (ids, start), old in zip(texts, before, strict=True):
        new = log_probabilities(policy, input_ids=torch.tensor([ids], device=policy.device))[start - 1 : -1]
        known = old[start - 1 : -1].to(new.device, torch.float32)
        total += float(torch.nn.functional.kl_div(new, known, log_target=True, reduction="sum"))
        count += len(new)
    return _BITS * total / max(count, 1)
