"""The E-step of a generator: an edit has no text, and its adapter comes from the network instead of the inner loop.

    contexts -> baseline answers -> codes, with noise where something is explored -> adapters -> answers -> rollouts

Nothing in the base is ever changed: an adapter acts while it answers, in the bank, and is gone afterwards. One that is
not finite is a diverged edit: it earns no reward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from seal_lightning.e_step.carriers import Attempt, Trial, Tried, UnitRun
from seal_lightning.e_step.plan import Plan
from seal_lightning.e_step.predictions import AnsweringStep
from seal_lightning.e_step.step import EStep
from seal_lightning.e_step.trials import AllTrials, TrialParts, answered, in_shares
from seal_lightning.errors import ConfigError, ModelError, NoMemoryError
from seal_lightning.generator.base import GeneratorNetwork, flat_rows, not_finite
from seal_lightning.generator.lessons import read_for, text_of
from seal_lightning.generator.policy import GeneratingPolicy
from seal_lightning.generator.reading import batches, tokens_of
from seal_lightning.generator.through_bank import make_bank
from seal_lightning.inner_loop.isolation import answering_way, training_way
from seal_lightning.inner_loop.loop import TrainedBank
from seal_lightning.inner_loop.plans import JobStats
from seal_lightning.models.memory import attempt
from seal_lightning.policy.policy import Policy
from seal_lightning.tasks import Task
from seal_lightning.text.escaping import shortened
from seal_lightning.types import Context, Prompt, SelfEdit

TOGETHER = 64  # adapters that are generated, and answer, together


@dataclass(frozen=True, slots=True)
class GeneratedTrials:
    """Lets the network write the adapter of each edit; what edits are compared with is trained by the inner loop.

    Attributes:
        task: What a context is.
        noise: Standard deviation of the Gaussian around the code, drawn from the attempt's seed.
    """

    task: Task
    noise: float = 0.0

    def run(self, parts: TrialParts, unit: UnitRun, attempts: Sequence[Attempt]) -> Tried:
        """Generate the adapters of all edits and let them answer."""
        edits = [number for number, attempt in enumerate(attempts) if attempt.kind == "edit"]
        others = [number for number, attempt in enumerate(attempts) if attempt.kind != "edit"]
        tried = AllTrials().run(parts, unit, [attempts[number] for number in others])
        trials: dict[int, Trial | None] = dict(zip(others, tried.trials, strict=True))
        for share in in_shares(edits, TOGETHER) if edits else []:
            some = [attempts[number] for number in share]
            with unit.clock.phase("generating", len(some)) as advance:
                contexts, seeds = [one.context for one in some], [one.seed for one in some]
                work = partial(generate_bank, generating(unit.policy), self.task, contexts, seeds, noise=self.noise)
                trained, reason = attempt(work)
                if trained is None:
                    raise NoMemoryError(
                        f"there is no memory for the adapters of {len(some)} contexts ({reason}): lower e_step.edits, "
                        "data.contexts_per_unit or model.generator.rank"
                    )
                advance(len(some))
            trials |= zip(share, answered(parts, unit, some, trained), strict=True)
        return Tried(attempts, [trials[number] for number in range(len(attempts))])


@torch.no_grad()
def generate_bank(
    policy: GeneratingPolicy,
    task: Task,
    contexts: Sequence[Context],
    seeds: Sequence[int] = (),
    *,
    noise: float = 0.0,
) -> TrainedBank:
    """A bank with a generated adapter for each of some contexts; one that is not finite has diverged.

    Args:
        policy: The base model with its generator.
        task: What a context is.
        contexts: At least one; the same one may come again.
        seeds: Seeds of the noise around each code; none without noise.
        noise: Standard deviation of the noise.
    """
    network = policy.network
    by_id = {context.id: context for context in contexts}
    texts = [text_of(task, context) for context in by_id.values()]
    each = torch.cat([network.codes(read_for(policy, batch)) for batch in batches(policy, texts)])
    place = {name: number for number, name in enumerate(by_id)}
    codes = each[[place[context.id] for context in contexts]]
    if noise:
        codes = codes + noise * torch.stack([drawn_noise(seed, codes) for seed in seeds])
    return bank_of(network, policy, codes)


def bank_of(network: GeneratorNetwork, policy: Policy, codes: torch.Tensor) -> TrainedBank:
    """A bank that answers with the adapters of codes (N, D)."""
    bank = make_bank(network.settings, policy.model, slots=len(codes), trainable=False)
    rows = flat_rows(network.adapters(codes), list(bank.A), bank.width)
    wrong = not_finite(rows)
    for slot, row in enumerate(rows):
        bank.fill(slot, torch.zeros_like(row) if slot in wrong else row, rank=bank.rank)
    return TrainedBank(bank, tuple(JobStats(0, 0, 0, 0, diverged=wrong.get(slot, "")) for slot in range(len(rows))))


def drawn_noise(seed: int, codes: torch.Tensor) -> torch.Tensor:
    """The standard normal numbers (D,) of a seed, the same on any device, for codes (N, D)."""
    drawn = torch.randn(codes.shape[1], generator=torch.Generator().manual_seed(seed))
    return drawn.to(codes)


def generating(policy: Policy) -> GeneratingPolicy:
    """The policy of a generator's run."""
    assert isinstance(policy, GeneratingPolicy), "a generator's E-step needs a policy with one"
    return policy


@dataclass(frozen=True)
class GeneratorStep(EStep):
    """An E-step whose edits are adapters that a generator writes."""

    def attempts(self, unit: UnitRun) -> list[Attempt]:
        """An attempt for each adapter to generate, and what they are compared with; nothing is sampled."""
        attempts: list[Attempt] = []
        for context in unit.contexts:
            attempts += self.references(context, unit.round)
            for index in range(self.plan.edits):
                attempts += self.repeats(context, index, SelfEdit(text=""), unit.round)
        return attempts

    def check_model(self, policy: Policy, *, adapts: bool = True) -> None:
        """As of any E-step, for the layers that the network changes, too."""
        super().check_model(policy, adapts=adapts)
        layers = list(generating(policy).network.sizes)
        training_way(policy.model, layers)
        answering_way(policy.model, layers)

    def prompts(self, context: Context) -> list[Prompt]:
        """The queries alone: nobody is asked for a text."""
        return [prompt for query in context.queries for prompt in self.task.query_prompts(query, context)]

    def check_fits(
        self,
        policy: Policy,
        contexts: Sequence[Context],
        *,
        advice: Callable[[Context], str] = lambda context: "shorten or split the passage",
    ) -> None:
        """As of any E-step, and that each context has a text which the generator can read.

        Raises:
            ConfigError: A context has no text.
            ModelError: A prompt is too long, or a text for a generator that reads it at once.
        """
        super().check_fits(policy, contexts, advice=advice)
        settings = generating(policy).network.settings
        for context in contexts:
            text, name = text_of(self.task, context), shortened(context.id, 60)
            if not text.strip():
                raise ConfigError(f"context {name!r} has no passage, from which a generator would write its adapter")
            if settings.reads_pieces:
                continue
            if (tokens := len(tokens_of(policy, text))) > policy.window:
                raise ModelError(
                    f"context {name!r}: its text has {tokens} tokens, more than the model's window of "
                    f"{policy.window}, and {type(settings).__name__} reads a text at once; {advice(context)}, or use "
                    "FastWeights, which reads it in pieces"
                )


def generating_step(parts: EStep, *, noise: float = 0.0, plan: Plan | None = None) -> GeneratorStep:
    """An E-step with the same parts, whose edits are generated.

    Args:
        parts: The parts.
        noise: See `GeneratedTrials`.
        plan: Edits and repeats a context; None for those of the parts.
    """
    shared: dict[str, Any] = {name: value for name, value in vars(parts).items() if name != "trials"}
    if plan is not None:
        shared["plan"] = plan
    return GeneratorStep(**shared, trials=GeneratedTrials(parts.task, noise))


class AnsweringGeneratorStep(AnsweringStep, GeneratorStep):
    """The same where nothing is scored."""
