"""Train the adapters that stay, with checkpoints: a long training that is killed goes on where it was last saved.

The inner loop stops at fixed steps and goes on exactly (`InnerLoop.adapt`, `start` and `until`), so a training that was
killed ends with the same bits as one that was not.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from seal_lightning.files.bounded import parse_json
from seal_lightning.files.served import save_tensors
from seal_lightning.inner_loop.bank import SlotState
from seal_lightning.inner_loop.loop import InnerLoop, TrainedBank
from seal_lightning.inner_loop.plans import JobStats
from seal_lightning.inner_loop.slots import AdapterState
from seal_lightning.models.finite import all_finite
from seal_lightning.policy.policy import Policy
from seal_lightning.types import AdapterJob

log = logging.getLogger(__name__)


def train(
    inner_loop: InnerLoop,
    policy: Policy,
    jobs: Sequence[AdapterJob],
    *,
    state: Path,
    stamp: str,
    every_steps: int,
    on_step: Callable[[int], None],
    check_stop: Callable[[], None],
) -> TrainedBank:
    """Train an adapter for each job, from where `state` left off.

    Args:
        inner_loop: Its settings.
        policy: Frozen and in evaluation mode.
        jobs: What is trained.
        state: File for where the training stands; the caller removes it once the adapters are saved.
        stamp: Of everything that the training depends on; a state with another one is not gone on from.
        every_steps: Optimizer steps of each adapter between two writes. Part of the result where several adapters train
            together: it decides beside which ones they sum.
        on_step: Told how many optimizer steps were made (or had been made before) since the last call.
        check_stop: Called when the state is on disk; may raise.
    """
    states = _load(state, stamp, len(jobs))
    steps = [one.step if one else 0 for one in states]
    on_step(sum(steps))
    done = max(steps, default=0) // every_steps * every_steps
    diverged: dict[int, JobStats] = {}  # not trained any further
    while True:
        stop = done + every_steps
        stops = [0 if job in diverged else stop for job in range(len(jobs))]
        trained = inner_loop.adapt(policy, jobs, on_step=on_step, start=states, until=stops)
        diverged |= {job: stats for job, stats in enumerate(trained.stats) if stats.diverged}
        if all(one is None or one.step < stop for one in trained.states):
            return replace(trained, stats=tuple(diverged.get(job, stats) for job, stats in enumerate(trained.stats)))
        states, done = list(trained.states), stop
        _save(state, stamp, states)
        check_stop()


def _save(path: Path, stamp: str, states: Sequence[AdapterState | None]) -> None:
    tensors: dict[str, torch.Tensor] = {}
    where: list[dict[str, float] | None] = []
    for number, one in enumerate(states):
        where.append({"step": one.step, "loss": one.loss, "rank": one.slot.rank} if one else None)
        if one:
            parts = {"parameters": one.slot.parameters, **{f"optimizer.{k}": v for k, v in one.slot.optimizer.items()}}
            tensors |= {f"{number}.{name}": tensor.contiguous() for name, tensor in parts.items()}
    save_tensors(tensors, path, metadata={"stamp": stamp, "states": json.dumps(where)})


def _load(path: Path, stamp: str, count: int) -> list[AdapterState | None]:
    """The states of a training of this stamp, of all its jobs; none where there is no such file."""
    if not path.is_file():
        return []
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("stamp") != stamp:
                return []
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        where = parse_json(metadata["states"])
        if len(where) != count or not all_finite(tensors.values()):
            raise ValueError("other jobs, or numbers that are not finite")
        return [one and _state(number, one, tensors) for number, one in enumerate(where)]
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s: cannot be read (%s), the training starts anew", path, error)
        return []


def _state(number: int, where: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> AdapterState:
    prefix = f"{number}.optimizer."
    optimizer = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    slot = SlotState(tensors[f"{number}.parameters"], int(where["rank"]), optimizer)
    return AdapterState(int(where["step"]), slot, float(where["loss"]))
