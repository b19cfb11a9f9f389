"""The countermeasures that come with `seal continual`; the defaults were chosen on other streams than those shown.

By what they act on: the training data (replay), the training (KL to the base, orthogonal and null-space updates), or
the update at its end (bounded norm, consolidation).
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import torch

from seal_lightning.commands.continual.countermeasure import Countermeasure, Learnt, Sequences
from seal_lightning.commands.continual.regularisers import (
    DriftPenalty,
    Protection,
    inputs_of,
    main_directions,
    predictions,
)
from seal_lightning.data import Reader
from seal_lightning.data.detect import reader_for
from seal_lightning.errors import ConfigError, DataError, check_count
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
        share: Earlier training sequences for each new one, drawn anew at every step; all where there are fewer. As many
            as new ones is what the source takes.
        label: What tables and folders call it.
    """

    short = "replay"

    def __init__(self, *, share: float = 1.0, label: str | None = None) -> None:
        super().__init__(label=label)
        if not share > 0:
            raise ConfigError(f"replay: share must be above 0, got {share}: try 1.0")
        self.share = share

    def sequences(self, own: Sequences, earlier: Sequence[Learnt], *, seed: int) -> Sequences:
        known = list(chain.from_iterable(one.sequences for one in earlier))
        count = min(len(known), round(self.share * len(own)))
        return (*own, *random.Random(derive_seed("replay", seed)).sample(known, count))


class KLToBase(Countermeasure):
    """Penalises drift of the predictions on generic text from those of the policy before the stream.

    The learning-without-forgetting idea (arXiv 1606.09282) on text that no context is about.

    Args:
        weight: Of the mean divergence a token (nats), beside the loss.
        texts: Generic text: a file, a folder or a reader, whose passages count. null has the policy write it before the
            stream, from nothing (pseudo-rehearsal).
        count: Texts at most.
        tokens: Of a text at most.
        batch: Texts in a step.
        label: What tables and folders call it.

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
        if not weight > 0:
            raise ConfigError(f"kl: weight must be above 0, got {weight}: try 1.0")
        self.weight = weight
        self.texts = texts
        self.count = check_count("kl: count", count)
        self.tokens = check_count("kl: tokens", tokens)
        self.batch = check_count("kl: batch", batch)
        found = [] if texts is None else passages_of(texts)
        self._read = found[: self.count]
        if len(found) > self.count:
            log.info("kl: the first %d of %d generic texts are taken (count)", self.count, len(found))
        self._encoded: list[list[int]] = []
        self._before: list[torch.Tensor] = []

    def begin(self, policy: Policy, *, seed: int) -> None:
        self._encoded = [text for text in self._generic(policy, seed) if text]
        if not self._encoded:
            raise ConfigError("kl: expected generic text, got no token of any: name other texts")
        self._before = predictions(policy, self._encoded)

    def _generic(self, policy: Policy, seed: int) -> list[list[int]]:
        """Token ids of the generic texts."""
        texts = self._read
        if self.texts is None:
            # nothing, as a text begins; a tokenizer that puts nothing there needs one token to go on from
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
            log.info("kl: %d of %d generic texts are cut after %d tokens (tokens)", longer, len(texts), self.tokens)
        return [ids[: self.tokens] for ids in encoded]

    def regulariser(self, policy: Policy, earlier: Sequence[Learnt], *, seed: int) -> Regulariser:
        return DriftPenalty(policy, self._encoded, self._before, weight=self.weight, batch=self.batch, seed=seed)


class Orthogonal(Countermeasure):
    """Learns in directions of each layer's input that no earlier update reads: A's rows are kept orthogonal to theirs.

    What O-LoRA's penalty (arXiv 2310.14152) tends to as its weight grows, and so without a weight to choose.

    Args:
        most: Share of a layer's input directions that may be closed; where earlier updates read more, the weakest are
            open again.
        label: What tables and folders call it.
    """

    short = "orthogonal"

    def __init__(self, *, most: float = 0.75, label: str | None = None) -> None:
        super().__init__(label=label)
        self.most = check_share("orthogonal: most", most)

    def regulariser(self, policy: Policy, earlier: Sequence[Learnt], *, seed: int) -> Regulariser | None:
        loras = [one.lora for one in earlier if one.lora]
        if not loras:
            return None
        state = stack(loras).state
        found = {}
        for name, lora_A in state.items():
            if ".lora_A." in name:
                layer = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
                limit = max(1, int(self.most * lora_A.shape[1]))
                found[layer] = main_directions(lora_A.to(policy.device), energy=1.0, most=limit)
        return Protection(found)


class NullSpace(Countermeasure):
    """Learns nothing that acts on what the layers see in earlier self-edits: A's rows stay off its main directions.

    As gradient projection memory (arXiv 2103.09762) and AlphaEdit (arXiv 2410.02355) do, on the inputs of each adapted
    layer under the policy as it is now.

    Args:
        energy: Share of the squared norm of these inputs that the closed directions hold.
        most: Share of a layer's input directions that may be closed.
        tokens: Tokens of earlier self-edits that are looked at, at most; a sample where there are more.
        label: What tables and folders call it.
    """

    short = "null-space"

    def __init__(
        self, *, energy: float = 0.95, most: float = 0.75, tokens: int = 4096, label: str | None = None
    ) -> None:
        super().__init__(label=label)
        self.energy = check_share("null-space: energy", energy)
        self.most = check_share("null-space: most", most)
        self.tokens = check_count("null-space: tokens", tokens)

    def regulariser(self, policy: Policy, earlier: Sequence[Learnt], *, seed: int) -> Regulariser | None:
        layers = {layer for one in earlier if one.lora for layer in one.lora.layers}
        if not layers:
            return None
        targets = [target for target in find_targets(policy.model, "all-linear") if target.name in layers]
        texts = [
            policy.encoder.sequence(sequence.text, prompt=sequence.prompt, ended=False)[0]
            for one in earlier
            for sequence in one.sequences
        ]
        random.Random(derive_seed("null space", seed)).shuffle(texts)
        chosen, left = [], self.tokens
        for text in texts:
            if left > 0 and text:
                chosen.append(text[:left])
                left -= len(text)
        return Protection(
            {
                name: main_directions(rows, energy=self.energy, most=max(1, int(self.most * rows.shape[1])))
                for name, rows in inputs_of(policy, targets, chosen).items()
            }
        )


class BoundedNorm(Countermeasure):
    """Makes updates smaller: in no layer larger than a share of the weight that they are added to.

    Args:
        largest: That share, of Frobenius norms.
        label: What tables and folders call it.
    """

    short = "norm"

    def __init__(self, *, largest: float = 0.06, label: str | None = None) -> None:
        super().__init__(label=label)
        if not largest > 0:
            raise ConfigError(f"norm: largest must be above 0, got {largest}: try 0.06")
        self.largest = largest

    def finish(self, new: LoRA, earlier: Sequence[Learnt], *, policy: Policy) -> LoRA:
        state = dict(new.state)
        for layer in new.layers:
            lora_A, lora_B = (new.state[f"base_model.model.{layer}.lora_{part}.weight"].float() for part in "AB")
            weight = policy.model.get_submodule(layer).weight
            size = new.scale * torch.linalg.matrix_norm(lora_B @ lora_A)
            bound = self.largest * torch.linalg.matrix_norm(weight.float()).cpu()
            state[f"base_model.model.{layer}.lora_B.weight"] = lora_B * (bound / size.clamp_min(1e-30)).clamp(max=1.0)
        return LoRA(state, new.scale)


class Consolidation(Countermeasure):
    """Keeps the sum of all updates at a low rank: after every step its strongest directions, the rest is dropped.

    Args:
        rank: Of the sum in each layer; null takes that of one adapter.
        label: What tables and folders call it.
    """

    short = "consolidation"

    def __init__(self, *, rank: int | None = None, label: str | None = None) -> None:
        super().__init__(label=label)
        self.rank = rank if rank is None else check_count("consolidation: rank", rank)

    def finish(self, new: LoRA, earlier: Sequence[Learnt], *, policy: Policy) -> LoRA:
        known = [one.lora for one in earlier if one.lora]
        rank = self.rank or rank_of(new)
        wanted = truncated(stack([*known, new]), rank)
        if not known:
            return wanted
        before = truncated(stack(known), rank)  # of that rank already, but written with more
        return stack([wanted, LoRA(before.state, -before.scale)])


SHORT: dict[str, type[Countermeasure]] = {
    kind.short: kind for kind in (Countermeasure, Replay, KLToBase, Orthogonal, NullSpace, BoundedNorm, Consolidation)
}


def passages_of(texts: str | Reader | Path) -> list[str]:
    """Titles and passages of contexts, without empty ones.

    Raises:
        DataError: They cannot be read, or all are empty.
    """
    reader = reader_for(texts)
    read = reader.read()
    if not (found := [text for one in read if (text := f"{one.title}\n{one.passage}".strip())]):
        raise DataError(f"kl: texts: expected passages in {reader.source}, got {len(read)} empty ones: name others")
    return found


def truncated(lora: LoRA, rank: int) -> LoRA:
    """The best approximation of a LoRA with this rank in every layer, by its singular values."""
    state: dict[str, torch.Tensor] = {}
    for layer in lora.layers:
        name_A, name_B = (f"base_model.model.{layer}.lora_{part}.weight" for part in "AB")
        q_B, r_B = torch.linalg.qr(lora.state[name_B].double())
        q_A, r_A = torch.linalg.qr(lora.state[name_A].double().T)
        left, values, right = torch.linalg.svd(r_B @ r_A.T)
        keep = min(rank, len(values))
        root = (lora.scale * values[:keep]).sqrt()
        state[name_B] = _padded((q_B @ left[:, :keep] * root).float(), rank, dim=1)
        state[name_A] = _padded((root[:, None] * (right[:keep] @ q_A.T)).float(), rank, dim=0)
    return LoRA(state, 1.0)


def rank_of(lora: LoRA) -> int:
    """The rank that all its layers have."""
    return next(tensor.shape[0] for name, tensor in lora.state.items() if ".lora_A." in name)


def _padded(tensor: torch.Tensor, size: int, *, dim: int) -> torch.Tensor:
    """With zeros up to a size: one rank in all layers."""
    shape = list(tensor.shape)
    shape[dim] = size - shape[dim]
    return torch.cat([tensor, tensor.new_zeros(shape)], dim=dim).contiguous()


def check_share(name: str, value: float) -> float:
    """The value, if it is a share of something."""
    if not 0 < value <= 1:
        raise ConfigError(f"{name} must be above 0 and at most 1, got {value}: try 0.9")
    return value
