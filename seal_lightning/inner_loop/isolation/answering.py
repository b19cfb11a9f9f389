"""How rows share the passes of generation, and which way is exact on a model.

The reference is plain: one row, read as a whole and without a cache. A way is exact where the logits of every next
token are those of the reference, also after rows have left the batch.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import torch
from transformers import PreTrainedModel

from seal_lightning.inner_loop.isolation import probing
from seal_lightning.inner_loop.isolation.rows import CachedRows, RecomputedRows, Rows
from seal_lightning.models.kernels import planless_attention

_LENGTHS = (5, 17, 5, 17, 5, 17)
_SLOTS = (0, 1, 1, 0, 0, 1)
_SAME = (2, 4)  # rows with the same prompt
_STEPS = 5  # tokens that each row is continued by
_LEAVES = 2  # after so many the first row of a batch leaves it


@dataclass(frozen=True, slots=True)
class AnsweringWay:
    """How rows share the passes of generation.

    Attributes:
        rows: How rows are read: `padded` on the left, only of `equal` lengths, or each `alone`, all with a cache; or
            `recomputed` for every token.
        mixed: Whether rows of different adapters share a batch.
    """

    rows: Literal["padded", "equal", "alone", "recomputed", "recomputed alone"] = "padded"
    mixed: bool = True

    def __str__(self) -> str:
        names = {
            "padded": "padded on the left",
            "equal": "only with rows of the same length",
            "alone": "one row at a time",
            "recomputed": "without a cache, which takes much longer",
            "recomputed alone": "one row at a time and without a cache, which takes much longer",
        }
        return names[self.rows] + ("" if self.mixed or self.alone else ", one adapter at a time")

    @property
    def alone(self) -> bool:
        """Whether every row is a batch of its own."""
        return "alone" in self.rows

    def start(self, model: PreTrainedModel, prompts: Sequence[Sequence[int]], *, shared: bool = False) -> Rows:
        """Rows that continue the prompts; one that several share may be read once if they have no adapters."""
        if "recomputed" in self.rows:
            return RecomputedRows(model, prompts)
        return CachedRows(model, prompts, shared=shared)

    def groups(
        self, prompts: Sequence[Sequence[int]], rows: Sequence[int], owners: Sequence[Hashable]
    ) -> list[list[int]]:
        """Those of `rows` that may share a batch, each group in the order given.

        Args:
            prompts: All prompts.
            rows: Numbers of some of them.
            owners: The adapter of every prompt.
        """
        if self.alone:
            return [[row] for row in rows]
        if self.mixed and self.rows != "equal":
            return [list(rows)]

        def apart(row: int) -> tuple[Hashable, ...]:
            return (0 if self.mixed else owners[row], len(prompts[row]) if self.rows == "equal" else 0)

        first = {key: place for place, key in reversed(list(enumerate(map(apart, rows))))}
        ordered = sorted(rows, key=lambda row: first[apart(row)])
        return [list(group) for _, group in groupby(ordered, key=apart)]


PADDED = AnsweringWay("padded")
ALONE = AnsweringWay("recomputed alone", mixed=False)
WAYS = (
    PADDED,
    AnsweringWay("equal"),
    AnsweringWay("padded", mixed=False),
    AnsweringWay("equal", mixed=False),
    AnsweringWay("alone", mixed=False),
    AnsweringWay("recomputed"),
    AnsweringWay("recomputed", mixed=False),
    ALONE,
)


def answering_way(model: PreTrainedModel, targets: Sequence[str] = (), *, longest: int = 0) -> AnsweringWay:
    """The fastest way in which every row goes on as it would alone.

    Args:
        model: Causal language model in evaluation mode.
        targets: Names of the layers with adapters; none for the model as it is.
        longest: Tokens of the longest row, its continuation included.

    Raises:
        ModelError: The model is not causal, or cannot be run.
    """
    with planless_attention(next(model.parameters()).device):  # as it will be
        return probing.fastest_exact(
            model,
            [way for way in WAYS if _in_reach(model, way, longest) and (targets or way.mixed or way.alone)],
            doing="continue texts",
            targets=targets,
            probe=lambda draw: _AnsweringProbe(model, targets, seed=draw).difference,
            slow=lambda way: way.alone or "recomputed" in way.rows,
        )


def _in_reach(model: PreTrainedModel, way: AnsweringWay, longest: int) -> bool:
    """What a probe of a few tokens cannot tell."""
    config = model.config.get_text_config()
    if way.alone:
        return True
    if way.rows == "padded" and longest >= (probing.sparse_from(config) or longest + 1):
        return False
    return longest <= (probing.rotary_limit(config) or longest)


class _AnsweringProbe:
    """Six rows of two adapters, and the logits of each one's next tokens alone."""

    @torch.no_grad()
    def __init__(self, model: PreTrainedModel, targets: Sequence[str], *, seed: int = 0) -> None:
        self.model = model
        self.tolerated = probing.tolerance(model)
        self.bank = probing.probe_bank(model, targets, trainable=False) if targets else None
        whole = probing.draw_rows(model, [length + _STEPS for length in _LENGTHS], least=_STEPS + 1, seed=seed)
        whole[_SAME[1]][:-_STEPS] = whole[_SAME[0]][:-_STEPS]  # one prompt, two continuations
        self.prompts = [row[:-_STEPS] for row in whole]
        self.forced = [row[-_STEPS:] for row in whole]
        with probing.runnable(model, doing="continue texts"), self._attached():
            self.reference = [self._alone(number, row) for number, row in enumerate(whole)]
        if not all(bool(logits.isfinite().all()) for logits in self.reference):
            raise probing.refused(model, "continue texts", "its logits for a few random tokens are not finite numbers")
        probing.check_causal(model, whole[1], self.tolerated, doing="continue texts")

    @torch.no_grad()
    def difference(self, way: AnsweringWay) -> str:
        with self._attached():
            for numbers in way.groups(self.prompts, range(len(self.prompts)), _SLOTS):
                if fault := self._continue(way, numbers):
                    return fault
        return ""

    def _alone(self, number: int, row: Sequence[int]) -> torch.Tensor:
        """Logits after the prompt and after each forced token but the last, (steps, V)."""
        with self._routed([number]):
            ids = torch.tensor([row], device=next(self.model.parameters()).device)
            logits = self.model(input_ids=ids, use_cache=False).logits[0].float()
        return logits[len(self.prompts[number]) - 1 :][:_STEPS]

    def _continue(self, way: AnsweringWay, numbers: list[int]) -> str:
        rows = way.start(self.model, [self.prompts[number] for number in numbers], shared=self.bank is None)
        for step in range(_STEPS):
            with self._routed(numbers):
                logits = rows.logits()
            for place, number in enumerate(numbers):
                if not probing.same(logits[place], self.reference[number][step], self.tolerated):
                    far = float((logits[place] - self.reference[number][step]).abs().max())
                    return f"the logits of token {step + 1} differ by {far:.2g}"
            rows.append(torch.tensor([self.forced[number][step] for number in numbers], device=logits.device))
            if step + 1 == _LEAVES and len(numbers) > 1 and rows.may_leave:
                rows.going[0] = False
                numbers = [numbers[place] for place in rows.shrink()]
        return ""

    def _attached(self) -> AbstractContextManager[None]:
        return self.bank.attached() if self.bank else nullcontext()

    def _routed(self, numbers: Sequence[int]) -> AbstractContextManager[None]:
        slots = torch.tensor([_SLOTS[number] for number in numbers])
        return self.bank.routing(slots) if self.bank else nullcontext()
