"""How the sequences of an inner step share forward passes, and which way is exact on a model.

The reference is plain: one sequence in a pass, its loss from the model's whole logits. A way is exact where it gives
every token the same loss and every adapter the same gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import torch
from transformers import PreTrainedModel

from seal_lightning.inner_loop.attention import PackedRow, has_lengths, packed_attention, replaceable
from seal_lightning.inner_loop.bank import AdapterBank
from seal_lightning.inner_loop.isolation import probing
from seal_lightning.inner_loop.loss import HeadLoss
from seal_lightning.inner_loop.packing import (
    PackedSequence,
    TrainingBatch,
    pack,
    pack_in_groups,
    pad,
    split,
    split_padded,
)
from seal_lightning.models.coverage import window
from seal_lightning.models.kernels import planless_attention

# Weighted losses (S,) of a batch's targets: `HeadLoss`, or what is called like it.
BatchLoss = Callable[[TrainingBatch], torch.Tensor]

_LENGTHS = (9, 6, 14)
_SLOTS = (0, 0, 1)


@dataclass(frozen=True, slots=True)
class TrainingWay:
    """How sequences share forward passes.

    Attributes:
        rows: Rows that lie `unpadded` end to end, with torch's attention over any lengths; `packed` in groups of one
            length, with attention of our own; `packed by transformers` with the mask that transformers makes of
            restarting positions; `padded` to one length; or each `alone`.
        mixed: Whether sequences of different adapters share a pass.
    """

    rows: Literal["unpadded", "packed", "packed by transformers", "padded", "alone"] = "packed"
    mixed: bool = True

    def __str__(self) -> str:
        if self.rows == "alone":
            return "one sequence a pass"
        return self.rows if self.mixed else f"{self.rows}, one adapter a pass"

    def passes(self, sequences: Sequence[PackedSequence], *, max_tokens: int) -> list[TrainingBatch]:
        """The batches of one step, each of at most `max_tokens` tokens; a single longer sequence goes over."""
        if self.rows == "alone":
            return [pad([sequence]) for sequence in sequences]
        deal, lay_out = _LAID_OUT[self.rows]
        ordered = sorted(sequences, key=lambda sequence: sequence.slot)
        adapters = [list(group) for _, group in groupby(ordered, key=lambda sequence: sequence.slot)]
        shared = [list(sequences)] if self.mixed else adapters
        return [lay_out(part) for group in shared for part in deal(group, max_tokens=max_tokens)]

    def room(self, model: PreTrainedModel, max_tokens: int) -> int:
        """Tokens of a pass on this model: rows that transformers masks stay in its window, some masks end there."""
        return min(max_tokens, window(model)) if self.rows == "packed by transformers" else max_tokens

    def backward(self, bank: AdapterBank, loss: BatchLoss, batch: TrainingBatch) -> torch.Tensor:
        """Add the gradients of one pass to the attached bank's; returns the weighted losses, (S,)."""
        with self._reading(bank.model, batch), bank.routing(batch.groups):
            losses = loss(batch)
            with torch.autocast(bank.device.type, enabled=False):  # it is for the forward pass alone
                losses.sum().backward()
        return losses.detach()

    @torch.no_grad()
    def states(self, model: PreTrainedModel, head_loss: HeadLoss, batch: TrainingBatch) -> torch.Tensor:
        """What the model without adapters predicts the batch's targets from, (S, d)."""
        with self._reading(model, batch):
            return head_loss.states(batch)

    @contextmanager
    def _reading(self, model: PreTrainedModel, batch: TrainingBatch) -> Iterator[None]:
        shapes = [(len(group.slots), group.length) for group in batch.groups]
        row = PackedRow(shapes, batch.starts if self.rows == "unpadded" else None)
        ours = packed_attention(model, row) if self.rows in _OURS else nullcontext()
        with ours, planless_attention(model.device):
            yield


_OURS = ("unpadded", "packed")
_LAID_OUT = {
    "unpadded": (split, pack),
    "packed": (split, pack_in_groups),
    "packed by transformers": (split, pack),
    "padded": (split_padded, pad),
}
ALONE = TrainingWay("alone", mixed=False)
WAYS = (
    TrainingWay("unpadded"),
    TrainingWay("packed"),
    TrainingWay("packed by transformers"),
    TrainingWay("padded"),
    TrainingWay("packed", mixed=False),
    TrainingWay("packed by transformers", mixed=False),
    TrainingWay("padded", mixed=False),
    ALONE,
)


def training_way(model: PreTrainedModel, targets: Sequence[str], *, longest: int = 0) -> TrainingWay:
    """The fastest way in which adapters on these layers become what each becomes alone.

    Args:
        model: Frozen causal language model in evaluation mode.
        targets: Names of the layers with adapters.
        longest: Tokens of the longest sequence.

    Raises:
        ModelError: No way is exact, or the model cannot be trained at all.
    """
    return probing.fastest_exact(
        model,
        [way for way in WAYS if _in_reach(model, way, longest)],
        doing="train adapters",
        targets=targets,
        probe=lambda draw: _TrainingProbe(model, targets, seed=draw).difference,
        slow=lambda way: way.rows == "alone",
    )


def _in_reach(model: PreTrainedModel, way: TrainingWay, longest: int) -> bool:
    """What a probe of a few tokens cannot tell."""
    config = model.config.get_text_config()
    if way.rows == "alone":
        return True
    if longest > (probing.rotary_limit(config) or longest):
        return False
    if way.rows == "unpadded" and not has_lengths(model.device, model.dtype):
        return False
    if way.rows not in ("padded", "alone") and probing.sparse_from(config) is not None:
        return False
    return way.rows not in _OURS or (replaceable(model) and longest <= (probing.window_of(config) or longest))


class _TrainingProbe:
    """Three sequences of two adapters, and what each gives alone."""

    @torch.enable_grad()
    def __init__(self, model: PreTrainedModel, targets: Sequence[str], *, seed: int = 0) -> None:
        self.model = model
        self.tolerated = probing.tolerance(model)
        rows = probing.draw_rows(model, _LENGTHS, seed=seed)
        self.sequences = [
            PackedSequence(slot, tokens, prompt, 1.0)
            for slot, tokens, prompt in zip(_SLOTS, rows, (0, 3, 0), strict=True)
        ]
        with probing.runnable(model, doing="train adapters"):
            self.bank = probing.probe_bank(model, targets, trainable=True)
            self.losses, self.gradients = self._run(ALONE, HeadLoss(model, adapted=set(self.bank.A), whole=True))
        if not bool(self.losses.isfinite().all() and self.gradients.isfinite().all()):
            raise probing.refused(model, "train adapters", "the loss of a few random tokens is not a finite number")
        probing.check_causal(model, rows[2], self.tolerated, doing="train adapters")

    @torch.enable_grad()
    def difference(self, way: TrainingWay) -> str:
        """How a way differs from one sequence per pass; empty if it does not."""
        losses, gradients = self._run(way, HeadLoss(self.model, adapted=set(self.bank.A)))
        if not probing.same(losses, self.losses, self.tolerated):
            return f"losses differ by {float((losses - self.losses).abs().max()):.2g}"
        alike = _alike_in_norm if self.tolerated > probing.COARSE_FROM else _alike_in_each
        start = 0
        for target in self.bank.targets:
            end = start + (target.inputs + target.outputs) * self.bank.width
            if not alike(gradients, self.gradients, slice(start, end), self.tolerated):
                return f"gradients of {target.name} differ"
            start = end
        return ""

    def _run(self, way: TrainingWay, head_loss: HeadLoss) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss of each adapter (2,) and its gradients (2, parameters)."""
        assert self.bank.gradients is not None, "the probe's bank is made for training"
        self.bank.clear_gradients()
        losses = torch.zeros(2)
        with self.bank.attached():
            for batch in way.passes(self.sequences, max_tokens=1 << 20):
                values = way.backward(self.bank, head_loss, batch.to(self.bank.device))
                losses.index_add_(0, batch.owners, values.cpu())
        return losses, self.bank.gradients.clone()


def _alike_in_each(mine: torch.Tensor, reference: torch.Tensor, layer: slice, tolerated: float) -> bool:
    """Whether every entry of a layer's gradients (adapters, entries) is within rounding of the reference."""
    largest, own = reference.abs().amax(dim=1, keepdim=True), reference[:, layer]
    allowed = 2 * tolerated * own.abs().amax(dim=1, keepdim=True) + 0.02 * tolerated * largest
    return bool(((mine[:, layer] - own).abs() <= allowed).all())


def _alike_in_norm(mine: torch.Tensor, reference: torch.Tensor, layer: slice, tolerated: float) -> bool:
    """The same where rounding is coarse: single entries tell nothing there, since they are what large ones leave over.

    In bfloat16 another shape of the same products changes a layer's gradient by up to a quarter of its norm, all of
    them together by a twelfth (SmolLM2-135M on a processor with AMX), and a mask that is left out by two thirds of it.
    """
    whole, own = reference.norm(dim=1), reference[:, layer].norm(dim=1)
    in_layer = (mine[:, layer] - reference[:, layer]).norm(dim=1) <= 6 * tolerated * own + 0.02 * tolerated * whole
    return bool((in_layer & ((mine - reference).norm(dim=1) <= 3 * tolerated * whole)).all())
