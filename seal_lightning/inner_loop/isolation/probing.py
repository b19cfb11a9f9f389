"""What both probes share: tokens to try, adapters to try them with, when two results are the same, and a memory."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from transformers import PretrainedConfig, PreTrainedModel

from seal_lightning.errors import ModelError
from seal_lightning.inner_loop.bank import AdapterBank
from seal_lightning.models.coverage import plain_ids, window
from seal_lightning.models.memory import is_out_of_memory
from seal_lightning.models.products import own_forward

log = logging.getLogger(__name__)

Way = TypeVar("Way", bound=Hashable)

# What a model raises that cannot be run in some way.
FAILURES = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError)

# Largest difference, as a share of the largest value, that the order of additions explains.
TOLERANCE = {torch.float32: 2e-4, torch.float64: 1e-6, torch.float16: 2e-2}
COARSE = 6e-2  # bfloat16, and quantised layers that compute in it
COARSE_FROM = 1e-2

_LIMITS = re.compile(r"(window|window_size|chunk_size|local_attention)$")
_SPARSE = re.compile(r"compress_rate|index_topk|index_block|keep_window|chunk_length")
_SHORT = 64  # tokens of a window that the probe can afford to exceed
_SEEN = 8  # tokens that all rows of the probes have more than
_DRAWN = 0.1  # scale of the probe's adapters: clearly visible, and far from overflow


def tolerance(model: PreTrainedModel) -> float:
    """The largest difference between equal results in the model's precision, as a share of the largest value."""
    dtypes = {parameter.dtype for parameter in model.parameters()}
    return max(TOLERANCE.get(dtype, COARSE) for dtype in dtypes)


def same(mine: torch.Tensor, reference: torch.Tensor, tolerated: float) -> bool:
    """Whether the results differ by less than that share of the reference's largest value."""
    return bool((mine - reference).abs().max() <= tolerated * reference.abs().max())


def window_of(config: PretrainedConfig) -> int | None:
    """The smallest window of attention that a configuration names, in tokens; None without one."""
    values = config.to_dict()
    if values.get("use_sliding_window") is False:
        values.pop("sliding_window", None)
    found = [value for name, value in values.items() if _LIMITS.search(name) and type(value) is int and value > 0]
    return min(found, default=None)


def sparse_from(config: PretrainedConfig) -> int | None:
    """The length from which attention sums tokens up, or chooses among them, where the probe's rows are too short.

    Both go by the place in the row as it lies in memory, whatever mask and position ids say.
    """
    found = [number for name, value in config.to_dict().items() if _SPARSE.search(name) for number in _numbers(value)]
    return min((number for number in found if number > _SEEN), default=None)


def _numbers(value: object) -> Iterator[int]:
    for one in value.values() if isinstance(value, Mapping) else [value]:
        if type(one) is int:
            yield one


def rotary_limit(config: PretrainedConfig) -> int | None:
    """The length beyond which a row changes the positions of all rows beside it; None where none does.

    Rotary embeddings of the types `dynamic` and `longrope` choose their frequencies by the longest row.
    """
    return min(_rotary_limits(getattr(config, "rope_parameters", None), config), default=None)


def _rotary_limits(parameters: object, config: PretrainedConfig) -> Iterator[int]:
    if not isinstance(parameters, Mapping):
        return
    if parameters.get("rope_type") in ("dynamic", "longrope"):
        yield parameters.get("original_max_position_embeddings") or config.max_position_embeddings
    for nested in parameters.values():
        yield from _rotary_limits(nested, config)


def draw_rows(model: PreTrainedModel, lengths: Sequence[int], *, least: int = 2, seed: int = 0) -> list[list[int]]:
    """Random token ids, a row for each length; without ids that the configuration gives a meaning (an image's place).

    Rows are longer by a window of attention that is short enough for it. Where the model's own window is too short for
    the longest, all are shorter in proportion, but not below `least`: rows of one length would hide what padding does.
    """
    attended = window_of(model.config.get_text_config()) or 0
    longer = attended if attended <= _SHORT else 0
    limit = window(model)
    room = limit - min(8, limit // 4)
    longest = max(lengths) + longer
    plain = plain_ids(model)
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for length in lengths:
        length = max(least, (length + longer) * min(longest, room) // longest)
        drawn = torch.randint(len(plain), (length,), generator=generator)
        rows.append([plain[number] for number in drawn.tolist()])
    return rows


def probe_bank(model: PreTrainedModel, targets: Sequence[str], *, trainable: bool) -> AdapterBank:
    """Two adapters that both change what the model says, each in its own way."""
    bank = AdapterBank(model, slots=2, rank=4, alpha=4.0, target_modules=targets, trainable=trainable)
    generator = torch.Generator().manual_seed(0)
    for slot in range(2):
        bank.reset(slot, seed=slot)
    with torch.no_grad():
        for target in bank.targets:
            drawn = torch.randn(bank.B[target.name].shape, generator=generator)
            bank.B[target.name].copy_(drawn * _DRAWN)
    return bank


@contextmanager
def runnable(model: PreTrainedModel, *, doing: str) -> Iterator[None]:
    """Turn what a model raises if it cannot even be run one row at a time into a `ModelError`."""
    try:
        yield
    except (RuntimeError, TypeError, AttributeError, AssertionError) as error:
        if is_out_of_memory(error):
            raise
        raise refused(model, doing, " ".join(str(error).split())[:200]) from error


def check_causal(model: PreTrainedModel, row: Sequence[int], tolerated: float, *, doing: str) -> None:
    """Raises `ModelError` if what comes later in a row changes what the model said before."""
    device = next(model.parameters()).device
    with torch.no_grad():
        whole, start = (
            model(input_ids=torch.tensor([ids], device=device), use_cache=False).logits[0].float()
            for ids in (row, row[: len(row) // 2])
        )
    if not same(whole[: len(start)], start, tolerated):
        raise refused(model, doing, "it is not causal: what comes later in a text changes what it said before")


@contextmanager
def undisturbed(model: PreTrainedModel) -> Iterator[None]:
    """Keep a bank out of a probe that is attached at this moment: it routes other rows."""
    hooks = {module: module._forward_hooks.copy() for module in model.modules() if module._forward_hooks}
    for module in hooks:
        module._forward_hooks.clear()
    try:
        with own_forward(model):
            yield
    finally:
        for module, before in hooks.items():
            module._forward_hooks.update(before)


# What was found out about a model lasts as long as the model does, by what it depends on.
_found: WeakKeyDictionary[Any, dict[Any, dict[Any, str]]] = WeakKeyDictionary()


def fastest_exact(
    model: PreTrainedModel,
    ways: Sequence[Way],
    *,
    doing: str,
    targets: Sequence[str],
    probe: Callable[[int], Callable[[Way], str]],
    slow: Callable[[Way], bool],
) -> Way:
    """The first way without a fault; what is found out of each is remembered, and the way is said in the log.

    Args:
        model: The model, on its device and with its attention.
        ways: All ways, from the fastest to the surest.
        doing: The task that they are ways of doing, for the log and the error.
        targets: Names of the layers with adapters.
        probe: For the number of a draw of tokens, a function that returns the fault of a way, "" if it is exact.
        slow: Whether a way is worth a warning.

    Raises:
        ModelError: No way is exact.
    """
    parameter = next(model.parameters())
    attention = model.config.get_text_config()._attn_implementation
    key = (doing, tuple(targets), parameter.device, parameter.dtype, attention)
    faults = _found.setdefault(model, {}).setdefault(key, {})
    fault_on = cache(probe)
    for way in ways:
        if way not in faults:
            draws = 1 if tolerance(model) < COARSE_FROM else 3  # where rounding may send a token to another expert
            with undisturbed(model):
                faults[way] = _fault_of(lambda draw, way=way: fault_on(draw)(way), draws=draws)
            if not faults[way]:
                why = "".join(f"; not {other}: {faults[other]}" for other in ways if faults.get(other))
                level = logging.WARNING if slow(way) else logging.INFO
                log.log(level, "%s can %s %s%s", type(model).__name__, doing, way, why)
        if not faults[way]:
            return way
    raise refused(model, doing, faults[ways[-1]])


def _fault_of(attempt: Callable[[int], str], *, draws: int) -> str:
    """The fault of a way, "" if it has none; a way that raises does not work.

    A way that mixes rows up fails on each of the draws; a fault that one draw lacks was rounding.
    """
    fault = ""
    for number in range(draws):
        try:
            fault = attempt(number)
        except ModelError:  # refused whatever the way
            raise
        except FAILURES as error:
            if is_out_of_memory(error):
                raise
            fault = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        if not fault:
            break
    return fault


def refused(model: PreTrainedModel, doing: str, why: str) -> ModelError:
    """The model by name, and what cannot be done with it."""
    name = getattr(model.config, "_name_or_path", "") or type(model).__name__
    precise = next(model.parameters()).dtype in (torch.float32, torch.float64)
    return ModelError(
        f"model.source.name={name}: {type(model).__name__} cannot {doing}: {why}; use a causal language model of "
        f"docs/reference/families.md, or another model.source.attention{'' if precise else ' or dtype'}"
    )
