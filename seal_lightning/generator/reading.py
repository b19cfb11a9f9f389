"""What a frozen model makes of texts while it reads them: the inputs of its layers, which a generator reads in turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from seal_lightning.errors import ConfigError
from seal_lightning.inner_loop.capacity import PASS_ON_CPU
from seal_lightning.models.layers import Target
from seal_lightning.policy.policy import Policy


@dataclass(frozen=True, slots=True)
class TextStates:
    """Texts as a model has read them, each in one row or, where it is longer than the window, in several.

    Attributes:
        mask: (R, T), True where there is a token; rows are padded at their end.
        owners: (R,), the number of the text that each row is a piece of.
        texts: How many texts there are, N.
        inputs: By name of a target layer, what goes into it, (R, T, inputs), without gradient.
        hidden: (layers + 1, R, T, d), the states between the layers, from the embedding to the end, without gradient;
            None where they were not asked for.
    """

    mask: torch.Tensor
    owners: torch.Tensor
    texts: int
    inputs: dict[str, torch.Tensor]
    hidden: torch.Tensor | None = None

    def side_by_side(self, layers: Sequence[int]) -> torch.Tensor:
        """The states between some layers, each with a root mean square of 1, (R, T, layers * d)."""
        assert self.hidden is not None, "the states between the layers were not asked for"
        return torch.cat([rms_norm(self.hidden[layer]) for layer in layers], dim=-1)


def rms_norm(states: torch.Tensor) -> torch.Tensor:
    """States (..., d) in float32, their root mean square 1."""
    return nn.functional.rms_norm(states.float(), states.shape[-1:], eps=1e-6)


def checked_layers(layers: Sequence[int], depth: int) -> list[int]:
    """Numbers of the states between a model's layers, counted from 0. Raises `ConfigError` for one it has not."""
    for layer in layers:
        if not -depth - 1 <= layer <= depth:
            raise ConfigError(
                f"model.generator.layers must be between {-depth - 1} and {depth}, the states between the model's "
                f"{depth} layers, got {layer}"
            )
    return [layer % (depth + 1) for layer in layers]


def tokens_of(policy: Policy, text: str) -> list[int]:
    """The token ids of a text as a training sequence has them."""
    return policy.encoder.sequence(text, prompt="", ended=True)[0]


def batches(policy: Policy, texts: Sequence[str]) -> Iterator[list[str]]:
    """Texts as many at a time as a forward pass takes: what all layers make of a token is large."""
    batch: list[str] = []
    longest = 0
    for text in texts:
        tokens = len(tokens_of(policy, text))
        longest = max(longest, tokens)
        if batch and longest * (len(batch) + 1) > PASS_ON_CPU:
            yield batch
            batch, longest = [], tokens
        batch.append(text)
    if batch:
        yield batch


@torch.no_grad()
def read_texts(policy: Policy, texts: Sequence[str], *, targets: Sequence[Target], hidden: bool = False) -> TextStates:
    """Let the policy's frozen model read texts; one longer than its window is read in pieces of that length.

    Args:
        policy: Frozen and in evaluation mode.
        texts: At least one, none of them empty.
        targets: The layers whose inputs are wanted.
        hidden: Whether the states between the layers are wanted too.
    """
    window, rows, owners = policy.window, [], []
    for number, text in enumerate(texts):
        tokens = tokens_of(policy, text)
        for start in range(0, len(tokens), window):
            rows.append(tokens[start : start + window])
            owners.append(number)
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[row[-1]] * (longest - len(row))] for row in rows], device=policy.device)
    lengths = torch.tensor(list(map(len, rows)), device=policy.device)
    seen: dict[str, torch.Tensor] = {}
    with ExitStack() as hooks:
        for target in targets:
            handle = target.module.register_forward_pre_hook(partial(_keep, seen, target.name))
            hooks.callback(handle.remove)
        # padding stands behind the tokens, where a causal model does not look
        result = policy.model.base_model(input_ids=ids, use_cache=False, output_hidden_states=hidden)
    return TextStates(
        mask=torch.arange(longest, device=policy.device) < lengths[:, None],
        owners=torch.tensor(owners, device=policy.device),
        texts=len(texts),
        inputs=seen,
        hidden=torch.stack(result.hidden_states) if hidden else None,
    )


def _keep(seen: dict[str, torch.Tensor], name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
    seen[name] = args[0].detach()
