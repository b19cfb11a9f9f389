"""Whether numbers are finite: weights and logits that are nan or infinite must not become a policy or a score.

What diverged while adapting to one self-edit is data, a rollout with the status `diverged` and a reason; here is what
is asked of tensors, and the one line about weights that were loaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from seal_lightning.errors import ModelError


def check_finite(tensors: Mapping[str, torch.Tensor], what: str, *, advice: str) -> None:
    """Refuse weights that were read from somewhere and are not all finite numbers.

    Args:
        tensors: By name; those of whole numbers (packed weights) are taken as they are.
        what: Name of what they belong to, for the message.
        advice: Advice for the message.

    Raises:
        ModelError: Some values are not finite; the message names the first such tensor and its value.
    """
    if all_finite(tensors.values()):
        return
    name, tensor = next((name, tensor) for name, tensor in tensors.items() if not all_finite([tensor]))
    value = "nan" if bool(tensor.detach().float().isnan().any()) else "an infinite value"
    raise ModelError(f"{what}: expected finite numbers, got {value} in {name}: {advice}")


@torch.no_grad()
def all_finite(tensors: Iterable[torch.Tensor]) -> bool:
    """Whether all values of all tensors are finite; without copies of them, and with one wait for a device."""
    flags = [flag for tensor in tensors if (flag := _flag(tensor.detach())) is not None]
    return not flags or bool(torch.stack([flag.to(flags[0].device) for flag in flags]).all())


def rows_finite(logits: torch.Tensor) -> torch.Tensor:
    """Whether a choice can be made from each row of logits (b, V): none is nan, and the largest is finite, (b,)."""
    return logits.amax(dim=-1).isfinite()  # nan is the largest of all; models may rule tokens out by minus infinity


def _flag(tensor: torch.Tensor) -> torch.Tensor | None:
    if not tensor.is_floating_point() or tensor.is_meta or not tensor.numel():
        return None
    if tensor.element_size() == 1:  # floats of 8 bits have no reductions
        tensor = tensor.float()
    low, high = tensor.aminmax()
    return low.isfinite() & high.isfinite()


def read_numbers(values: torch.Tensor) -> list[float]:
    """The values of a small tensor, read from its device in one go: the host waits here for everything queued."""
    return values.flatten().double().tolist()
