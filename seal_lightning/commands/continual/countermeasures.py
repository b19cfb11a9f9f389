"""The countermeasures that come with `seal continual`; their defaults were chosen on streams other than those shown.

By what they act on: the training data (replay), the training (KL to the base, orthogonal and null-space updates), or
the update at its end (bounded norm, consolidation, and the gate of `gate.py`).
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import torch
from torch.nn.functional import pad

from seal_lightning.commands.continual.countermeasure import Countermeasure, Learnt, Sequences, check_above_0
from seal_lightning.commands.continual.gate import Gate
from seal_lightning.commands.continual.regularisers import (
    DriftPenalty,
    Protection,
    inputs_of,
    main_directions,
    predictions,
)
from seal_lightning.data import Reader
from seal_lightning.data.detect import reader_for
from seal_lightning.e_step.step import EStep
from seal_lightning.errors import ConfigError, DataError, check_count
from seal_lightning.inner_loop.encoding import encode_sequence
from seal_lightning.inner_loop.slots import Regulariser
from seal_lightning.models.layers import find_targets
from seal_lightning.models.lora import LoRA, stack
from seal_lightning.policy.policy import Policy
from seal_lightning.sampling import LocalSampler, SampleRequest
from seal_lightning.seeding import derive_seed
from seal_lightning.types import Context

log = logging.getLogger(__name__)


class Replay(Countermeasure):
    """Trains on earlier self-edits again, beside the new one (experience replay, arXiv 1902.10486).

    Args:
        share: Earlier training sequences for each new one, drawn anew at every step; all if there are fewer. The source
            takes as many as there are new ones.
        label: Name in tables and folders.
    """

    short = "replay"

    def __init__(self, *, share: float = 1.0, label: str | None = None) -> None:
        super().__init__(label=label)
        self.share = check_above_0("replay: share", share, advice=1.0)

    def sequences(self, own: Sequences, earlier: Sequence[Learnt], *, seed: int) -> Sequences:
        known = list(chain.from_iterable(learnt.sequences for learnt in earlier))
        count = min(len(known), round(self.share * len(own)))
        return (*own, *random.Random(derive_seed("replay", seed)).sample(known, count))


class KLToBase(Countermeasure):
    """Penalises predictions on generic text that drift from those of the policy before the stream.

    The idea is learning without forgetting (arXiv 1606.09282), on text that no context is about.

    Args:
        weight: Weight of the mean divergence per token (nats), beside the loss.
        texts: Generic text: the passages of a file, a folder or a reader. null has the policy write it before the
            stream, from nothing (pseudo-rehearsal).
        count: Largest number of texts.
        tokens: Longest text in tokens.
        batch: Texts in each step.
        label: Name in tables and folders.

    Raises:
        DataError: The texts cannot be read, or all are empty.
    """

    short = "kl"

    def __init__(
        self,
        *,
        weight: float = 1.0,
        texts: str | Reader | Path | None = None,
        count: int = 32,
        tokens: int = 64,
        batch: int = 1,
        label: str | None = None,
    ) -> None:
        super().__init__(label=label)
        self.weight = check_above_0("kl: weight", weight, advice=1.0)
        self.texts = texts
        self.count = check_count("kl: count", count)
        self.tokens = check_count("kl: tokens", tokens)
        self.batch = check_count("kl: batch", batch)
        passages = [] if texts is None else passages_of(texts)
        self._read = passages[: self.count]
        if len(passages) > self.count:
            log.info("kl: takes the first %d of %d generic texts (count)", self.count, len(passages))
        self._encoded: list[list[int]] = []
        self._before: list[torch.Tensor] = []

    def begin(self, policy: Policy, *, seed: int) -> None:
        self._encoded = [text for text in self._generic(policy, seed) if text]
        if not self._encoded:
            raise ConfigError("kl: expected generic text, got texts without a token: name others")
        self._before = predictions(policy, self._encoded)

    def _generic(self, policy: Policy, seed: int) -> list[list[int]]:
        """Token ids of the generic texts."""
        texts = self._read
        if self.texts is None:
            # an empty prompt, as at the beginning of a text; some tokenizers need one token to start from
            start = "" if policy.encode("") else policy.tokenizer.bos_token or policy.tokenizer.eos_token
            nothing = Context(id="", title="", passage="")
            requests = [
                SampleRequest(start, nothing, number, derive_seed("generic text", seed, number))
                for number in range(self.count)
            ]
            sampler = LocalSampler(top_p=1.0, max_new_tokens=self.tokens)
            texts = [sample.text for sample in sampler.sample(policy, requests)]
        encoded = [policy.encoder.sequence(text, ended=False)[0] for text in texts]
        if self.texts is not None and (longer := sum(len(ids) > self.tokens for ids in encoded)):
            log.info("kl: cut %d of %d generic texts after %d tokens (tokens)", longer, len(texts), self.tokens)
        return [ids[: self.tokens] for ids in encoded]

    def regulariser(self, policy: Policy, earlier: Sequence[Learnt], *, seed: int) -> Regulariser:
        return DriftPenalty(policy, self._encoded, self._before, weight=self.weight, batch=self.batch, seed=seed)


class Orthogonal(Countermeasure):
    """Keeps A's rows orthogonal to those of earlier updates: it learns in input directions that none of them reads.

    O-LoRA's penalty (arXiv 2310.14152) tends to this as its weight grows; here no weight has to be chosen.

    Args:
        most: Share of a layer's input directions that may be closed; if earlier updates read more, the weakest are
            reopened.
        label: Name in tables and folders.
    """

    short = "orthogonal"

    def __init__(self, *, most: float = 0.75, label: str | None = None) -> None:
        super().__init__(label=label)
        self.most = check_above_0("orthogonal: most", most, largest=1)

    def regulariser(self, policy: Policy, earlier: Sequence[Learnt], *, seed: int) -> Regulariser | None:
        loras = [learnt.lora for learnt in earlier if learnt.lora]
        if not loras:
            return None
        together = stack(loras)
        read = {layer: together.matrices(layer)[0].to(policy.device) for layer in together.layers}
        return Protection({layer: main_directions(rows, energy=1.0, most=self.most) for layer, rows in read.items()})


class NullSpace(Countermeasure):
    """Keeps A's rows off the main directions of what the layers see in earlier self-edits.

    It works like gradient projection memory (arXiv 2103.09762) and AlphaEdit (arXiv 2410.02355), on the inputs of each
    adapted layer under the policy as it is now.

    Args:
        energy: Share of these inputs' squared norm that the closed directions hold.
        most: Share of a layer's input directions that may be closed.
        tokens: Largest number of tokens of earlier self-edits to look at; a sample if there are more.
        label: Name in tables and folders.
    """

    short = "null-space"

    def __init__(
        self, *, energy: float = 0.95, most: float = 0.75, tokens: int = 4096, label: str | None = None
    ) -> None:
        super().__init__(label=label)
        self.energy = check_above_0("null-space: energy", energy, largest=1)
        self.most = check_above_0("null-space: most", most, largest=1)
        self.tokens = check_count("null-space: tokens", tokens)

    def regulariser(self, policy: Policy, earlier: Sequence[Learnt], *, seed: int) -> Regulariser | None:
        layers = {layer for learnt in earlier if learnt.lora for layer in learnt.lora.layers}
        if not layers:
            return None
        targets = [target for target in find_targets(policy.model, "all-linear") if target.name in layers]
        sequences = chain.from_iterable(learnt.sequences for learnt in earlier)
        encoded = [encode_sequence(policy, sequence, ended=False) for sequence in sequences]
        texts = [one.tokens[: one.told_to] for one in encoded]
        random.Random(derive_seed("null space", seed)).shuffle(texts)
        chosen, left = [], self.tokens
        for text in texts:
            if left > 0 and text:
                chosen.append(text[:left])
                left -= len(text)
        seen = inputs_of(policy, targets, chosen)
        return Protection({n: main_directions(rows, energy=self.energy, most=self.most) for n, rows in seen.items()})


class BoundedNorm(Countermeasure):
    """Shrinks updates: in no layer may they exceed a share of the weight that they are added to.

    Args:
        largest: The largest share, a ratio of Frobenius norms.
        label: Name in tables and folders.
    """

    short = "norm"

    def __init__(self, *, largest: float = 0.06, label: str | None = None) -> None:
        super().__init__(label=label)
        self.largest = check_above_0("norm: largest", largest, advice=0.06)

    def finish(self, new: LoRA, earlier: Sequence[Learnt], *, policy: Policy, e_step: EStep) -> LoRA:
        state = dict(new.state)
        for layer in new.layers:
            size = torch.linalg.matrix_norm(new.delta(layer))
            bound = self.largest * torch.linalg.matrix_norm(policy.model.get_submodule(layer).weight.float()).cpu()
            share = (bound / size.clamp_min(1e-30)).clamp(max=1.0)
            state[f"base_model.model.{layer}.lora_B.weight"] = share * new.matrices(layer)[1].float()
        return LoRA(state, new.scale)


class Consolidation(Countermeasure):
    """Keeps the sum of all updates at a low rank: after every step, only its strongest directions stay.

    Args:
        rank: Rank of the sum in each layer; null takes the rank of one adapter.
        label: Name in tables and folders.
    """

    short = "consolidation"

    def __init__(self, *, rank: int | None = None, label: str | None = None) -> None:
        super().__init__(label=label)
        self.rank = rank if rank is None else check_count("consolidation: rank", rank)

    def finish(self, new: LoRA, earlier: Sequence[Learnt], *, policy: Policy, e_step: EStep) -> LoRA:
        known = [learnt.lora for learnt in earlier if learnt.lora]
        rank = self.rank or new.rank
        wanted = truncated(stack([*known, new]), rank)
        if not known:
            return wanted
        before = truncated(stack(known), rank)  # its rank is that low already, but it is stored with a higher one
        return stack([wanted, LoRA(before.state, -before.scale)])


SHORT: dict[str, type[Countermeasure]] = {
    kind.short: kind
    for kind in (Countermeasure, Replay, KLToBase, Orthogonal, NullSpace, BoundedNorm, Consolidation, Gate)
}


def passages_of(texts: str | Reader | Path) -> list[str]:
    """Titles and passages of contexts, without empty ones.

    Raises:
        DataError: The texts cannot be read, or all are empty.
    """
    reader = reader_for(texts)
    contexts = reader.read()
    passages = [text for context in contexts if (text := f"{context.title}\n{context.passage}".strip())]
    if not passages:
        raise DataError(f"kl: texts: expected passages in {reader.source}, got {len(contexts)} empty ones: name others")
    return passages


def truncated(lora: LoRA, rank: int) -> LoRA:
    """The best approximation of a LoRA with this rank in every layer, by its singular values."""
    state: dict[str, torch.Tensor] = {}
    for layer in lora.layers:
        lora_A, lora_B = lora.matrices(layer)
        q_B, r_B = torch.linalg.qr(lora_B.double())
        q_A, r_A = torch.linalg.qr(lora_A.double().T)
        left, values, right = torch.linalg.svd(r_B @ r_A.T)
        keep = min(rank, len(values))
        root = (lora.scale * values[:keep]).sqrt()
        more, prefix = rank - keep, f"base_model.model.{layer}"  # zeros, so that all layers have one rank
        state[f"{prefix}.lora_B.weight"] = pad((q_B @ left[:, :keep] * root).float(), (0, more))
        state[f"{prefix}.lora_A.weight"] = pad((root[:, None] * (right[:keep] @ q_A.T)).float(), (0, 0, 0, more))
    return LoRA(state, 1.0)
