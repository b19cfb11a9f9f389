"""Many contexts' adapters as one for the model, to which contexts are added and from which they are removed.

    members_of(policy, texts) -> a merger's add and remove -> merged() -> a LoRA, for a PEFT folder or a bank

There are four ways. What an adapter was made by matters to the first alone; the others take the inner loop's, too.

    SumOfCodes       the codes are added, and one adapter is made of their sum
    SumOfMatrices    B summed, A averaged
    Concatenation    the ranks one after another: exactly the sum of the changes of the weights
    LeastSquares     what each context's adapter does with that context's own tokens, as well as one change can do it

Nothing is trained here. Which way holds up with how many contexts is measured by `benchmarks/generator.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from seal_lightning.errors import ConfigError, DataError, check_count
from seal_lightning.generator.base import Adapters, GeneratorNetwork
from seal_lightning.generator.lessons import read_for
from seal_lightning.generator.policy import GeneratingPolicy
from seal_lightning.generator.reading import TextStates
from seal_lightning.models.lora import LoRA, stack

Way = Literal["sum", "concatenate", "least_squares"]


@dataclass(frozen=True, slots=True)
class Member:
    """What a context adds to a merged adapter.

    Attributes:
        lora: Its own adapter.
        code: What the generator wrote about it, (D,); None if its adapter is not a generator's.
        keys: By layer, the inputs that its adapter is to act on as it does alone, (T, inputs); None if unknown.
    """

    lora: LoRA
    code: torch.Tensor | None = None
    keys: Mapping[str, torch.Tensor] | None = None


@dataclass(frozen=True, slots=True)
class MergedAdapter:
    """Many contexts in one adapter, and the share of its norm that was lost where its rank was reduced."""

    lora: LoRA
    lost: float = 0.0


class Merger(ABC):
    """Contexts by name, and the adapter of all of them."""

    def __init__(self) -> None:
        self.members: dict[str, Member] = {}

    def add(self, name: str, member: Member) -> None:
        """Add a context. Raises `DataError` if there is one of that name, or if it lacks what this way needs."""
        if name in self.members:
            raise DataError(f"merged adapter: {name} is there already: remove it first, or choose another name")
        self.check(name, member)
        self.members[name] = member

    def remove(self, name: str) -> Member:
        """Take a context out. Raises `DataError` if it is not there."""
        if name not in self.members:
            raise DataError(f"merged adapter: expected a context that was added, got {name}: check the name")
        return self.members.pop(name)

    def check(self, name: str, member: Member) -> None:
        """Raise `DataError` if a member lacks something; by default nothing is needed."""
        del name, member

    def merged(self) -> MergedAdapter:
        """The adapter of all members. Raises `DataError` if there is none."""
        if not self.members:
            raise DataError("merged adapter: expected at least one, got none: add one first")
        return self.merge(list(self.members.values()))

    @abstractmethod
    def merge(self, members: Sequence[Member]) -> MergedAdapter:
        """The adapter of these members, at least one."""


class SumOfCodes(Merger):
    """One adapter of the sum of the codes, for a generator whose codes add up, as those of `FastWeights` do.

    Args:
        network: The generator that wrote the codes.
    """

    def __init__(self, network: GeneratorNetwork) -> None:
        super().__init__()
        self.network = network

    def check(self, name: str, member: Member) -> None:
        if member.code is None:
            raise DataError(f"{name}: expected a generator's code, got an adapter alone: merge by concatenation")

    @torch.no_grad()
    def merge(self, members: Sequence[Member]) -> MergedAdapter:
        codes = torch.stack([member.code for member in members if member.code is not None])
        total = codes.double().sum(0, keepdim=True).to(codes.dtype)
        (lora,) = loras_of(self.network.adapters(total), scale=self.network.scale)
        return MergedAdapter(lora)


class SumOfMatrices(Merger):
    """The sum of the matrices B, and the mean of the matrices A.

    That is the sum of the changes where all contexts share A. Elsewhere it multiplies one context's B with another's
    A, too; those products are what it costs that the rank stays that of one context.
    """

    def check(self, name: str, member: Member) -> None:
        for other in self.members.values():
            if (member.lora.layers, member.lora.rank) != (other.lora.layers, other.lora.rank):
                raise DataError(
                    f"{name}: expected an adapter of rank {other.lora.rank} for the layers of those before, got rank "
                    f"{member.lora.rank} for {len(member.lora.layers)} layers: merge by concatenation"
                )

    @torch.no_grad()
    def merge(self, members: Sequence[Member]) -> MergedAdapter:
        state: dict[str, torch.Tensor] = {}
        for name in members[0].lora.state:
            parts = torch.stack([member.lora.state[name].double() for member in members])
            if ".lora_B." in name:
                scales = parts.new_tensor([member.lora.scale for member in members])
                state[name] = (parts * scales[:, None, None]).sum(0).float()
            else:
                state[name] = parts.mean(0).float()
        return MergedAdapter(LoRA(state, 1.0))


class Concatenation(Merger):
    """The ranks of all adapters one after another, whose change is the sum of theirs.

    Args:
        rank: Where they come to more than this, the nearest adapter of this rank takes their place; None for no limit.
    """

    def __init__(self, *, rank: int | None = None) -> None:
        super().__init__()
        self.rank = None if rank is None else check_count("rank", rank)

    @torch.no_grad()
    def merge(self, members: Sequence[Member]) -> MergedAdapter:
        return reduced(stack([member.lora for member in members]), self.rank)


class LeastSquares(Merger):
    """The change ΔW that comes closest to Σ‖ΔW K_i - ΔW_i K_i‖², K_i the keys of context i (MALMEN, 2311.04661).

    In closed form it is ΔW = (Σ ΔW_i G_i) (Σ G_i + λ)⁻¹ with G_i = K_i K_iᵀ: the concatenation of all, with
    A_i G_i (Σ G_i + λ)⁻¹ in place of each A_i. The sums are kept in float64.

    Args:
        rank: As for `Concatenation`.
        ridge: λ as a share of the mean eigenvalue of ΣG_i.
    """

    def __init__(self, *, rank: int | None = None, ridge: float = 1e-2) -> None:
        super().__init__()
        self.rank = None if rank is None else check_count("rank", rank)
        if not ridge > 0:
            raise ConfigError(f"ridge must be above 0, got {ridge}")
        self.ridge = ridge
        self._sums: dict[str, torch.Tensor] = {}  # by layer, ΣG_i (inputs, inputs)

    def check(self, name: str, member: Member) -> None:
        missing = [layer for layer in member.lora.layers if layer not in (member.keys or {})]
        if missing:
            raise DataError(
                f"{name}: expected keys for every layer, got none for {missing[0]}: give the layer's inputs"
            )

    def add(self, name: str, member: Member) -> None:
        super().add(name, member)
        for layer, gram in _grams(member).items():
            self._sums[layer] = self._sums[layer] + gram if layer in self._sums else gram

    def remove(self, name: str) -> Member:
        member = super().remove(name)
        for layer, gram in _grams(member).items():
            self._sums[layer] = self._sums[layer] - gram
        return member

    @torch.no_grad()
    def merge(self, members: Sequence[Member]) -> MergedAdapter:
        shifted = {layer: _with_ridge(total, self.ridge) for layer, total in self._sums.items()}
        factors = {layer: torch.linalg.cholesky(total) for layer, total in shifted.items()}
        return reduced(stack([_solved(member, factors) for member in members]), self.rank)


def _grams(member: Member) -> dict[str, torch.Tensor]:
    """By layer, KᵀK of keys K (T, inputs), in float64."""
    assert member.keys is not None
    return {layer: keys.double().T @ keys.double() for layer, keys in member.keys.items()}


def _with_ridge(total: torch.Tensor, share: float) -> torch.Tensor:
    ridge = share * total.diagonal().mean().clamp_min(torch.finfo(total.dtype).tiny)
    return total + ridge * torch.eye(len(total), dtype=total.dtype, device=total.device)


def _solved(member: Member, factors: Mapping[str, torch.Tensor]) -> LoRA:
    """A member's adapter with A G (ΣG + λ)⁻¹ in place of A."""
    assert member.keys is not None
    state = dict(member.lora.state)
    for layer in member.lora.layers:
        A, _ = member.lora.matrices(layer)
        keys = member.keys[layer].double()
        beheld = (A.double() @ keys.T) @ keys  # (r, inputs), A G
        name = f"base_model.model.{layer}.lora_A.weight"
        state[name] = torch.cholesky_solve(beheld.T, factors[layer]).T.to(A.dtype)
    return LoRA(state, member.lora.scale)


def make_merger(
    way: Way, *, network: GeneratorNetwork | None, rank: int | None = None, ridge: float | None = None
) -> Merger:
    """A merger by the name of its way.

    Args:
        way: `sum` adds codes where they add up, else matrices; `concatenate`; or `least_squares`.
        network: The generator; None if the adapters are the inner loop's.
        rank: See `Concatenation`; the sums keep the rank of one context.
        ridge: See `LeastSquares`.

    Raises:
        ConfigError: There is no such way.
    """
    if way == "sum":
        return SumOfCodes(network) if network is not None and network.settings.reads_pieces else SumOfMatrices()
    if way == "concatenate":
        return Concatenation(rank=rank)
    if way == "least_squares":
        return LeastSquares(rank=rank) if ridge is None else LeastSquares(rank=rank, ridge=ridge)
    raise ConfigError(f"merge must be one of {', '.join(get_args(Way))}, got {way!r}: use one of them")


@torch.no_grad()
def reduced(lora: LoRA, rank: int | None) -> MergedAdapter:
    """The nearest LoRA of at most this rank, by the singular values of each layer's change.

    It is the LoRA itself where that has no more. A layer whose inputs or outputs are no more than `rank` loses nothing.
    """
    if rank is None or lora.rank <= rank:
        return MergedAdapter(lora)
    state: dict[str, torch.Tensor] = {}
    lost = whole = 0.0
    for layer in lora.layers:
        A, B, values = _truncated(*lora.matrices(layer), rank=rank)
        lost, whole = lost + float(values[rank:].square().sum()), whole + float(values.square().sum())
        state[f"base_model.model.{layer}.lora_A.weight"] = A
        state[f"base_model.model.{layer}.lora_B.weight"] = B
    return MergedAdapter(LoRA(state, lora.scale), (lost / whole) ** 0.5 if whole else 0.0)


def _truncated(A: torch.Tensor, B: torch.Tensor, *, rank: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A (rank, in) and B (out, rank) nearest to a product B A of higher rank, and all its singular values."""
    left, left_core = torch.linalg.qr(B.double())
    right, right_core = torch.linalg.qr(A.double().T)
    U, values, V = torch.linalg.svd(left_core @ right_core.T, full_matrices=False)
    roots = values[:rank].sqrt()
    missing = rank - len(roots)  # of a layer with fewer inputs or outputs: zeros, because servers want one rank
    narrow_A = torch.nn.functional.pad(roots[:, None] * (right @ V.T[:, :rank]).T, (0, 0, 0, missing))
    narrow_B = torch.nn.functional.pad((left @ U[:, :rank]) * roots, (0, missing))
    return narrow_A.to(A.dtype).contiguous(), narrow_B.to(B.dtype).contiguous(), values


@torch.no_grad()
def members_of(policy: GeneratingPolicy, texts: Sequence[str]) -> list[Member]:
    """What a generator makes of texts, as members to merge; their keys are the layers' inputs at their tokens."""
    reading = read_for(policy, texts)
    codes = policy.network.codes(reading)
    loras = loras_of(policy.network.adapters(codes), scale=policy.network.scale)
    return [Member(lora, code, keys) for lora, code, keys in zip(loras, codes, keys_of(reading), strict=True)]


def keys_of(reading: TextStates) -> list[dict[str, torch.Tensor]]:
    """For each text, the inputs of the layers at its tokens, (T, inputs), on the CPU as adapters are."""
    own = [(reading.owners == number)[:, None] & reading.mask for number in range(reading.texts)]
    return [{name: inputs[mask].cpu() for name, inputs in reading.inputs.items()} for mask in own]


def loras_of(adapters: Adapters, *, scale: float) -> list[LoRA]:
    """Adapters by peft's names, on the CPU, one LoRA each."""
    count = len(next(iter(adapters.values()))[0])
    states: list[dict[str, torch.Tensor]] = [{} for _ in range(count)]
    for name, (A, B) in adapters.items():
        for number, state in enumerate(states):
            state[f"base_model.model.{name}.lora_A.weight"] = A[number].detach().cpu().contiguous()
            state[f"base_model.model.{name}.lora_B.weight"] = B[number].detach().T.cpu().contiguous()
    return [LoRA(state, scale) for state in states]
