"""Train the adapters that stay, with checkpoints: a long training that was killed resumes where it was last saved.

The inner loop stops at fixed steps and resumes exactly (`InnerLoop.adapt`, `start` and `until`), so a training that was
killed ends with the same bits as one that was not.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from seal_lightning.errors import misread
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
        inner_loop: Settings of the training.
        policy: The policy, frozen and in evaluation mode.
        jobs: One job an adapter.
        state: Checkpoint file; the caller removes it once the adapters are saved.
        stamp: Digest of everything that the training depends on; a checkpoint with another one is ignored.
        every_steps: Optimizer steps of each adapter between two checkpoints. It is part of the result where several
            adapters train together, because it decides beside which others an adapter trains.
        on_step: Called with the optimizer steps made since the last call, or before a resume.
        check_stop: Called when a checkpoint is on disk; may raise.
    """
    states = _load(state, stamp, len(jobs))
    steps = [known.step if known else 0 for known in states]
    on_step(sum(steps))
    done = max(steps, default=0) // every_steps * every_steps
    diverged: dict[int, JobStats] = {}  # these are not trained any further
    while True:
        stop = done + every_steps
        stops = [0 if job in diverged else stop for job in range(len(jobs))]
        trained = inner_loop.adapt(policy, jobs, on_step=on_step, start=states, until=stops)
        diverged |= {job: stats for job, stats in enumerate(trained.stats) if stats.diverged}
        if all(reached is None or reached.step < stop for reached in trained.states):
            return replace(trained, stats=tuple(diverged.get(job, stats) for job, stats in enumerate(trained.stats)))
        states, done = list(trained.states), stop
        _save(state, stamp, states)
        check_stop()


def _save(path: Path, stamp: str, states: Sequence[AdapterState | None]) -> None:
    tensors: dict[str, torch.Tensor] = {}
    where: list[dict[str, float] | None] = []
    for number, state in enumerate(states):
        where.append({"step": state.step, "loss": state.loss, "rank": state.slot.rank} if state else None)
        if state:
            optimizer = {f"optimizer.{name}": tensor for name, tensor in state.slot.optimizer.items()}
            parts = {"parameters": state.slot.parameters, **optimizer}
            tensors |= {f"{number}.{name}": tensor.contiguous() for name, tensor in parts.items()}
    save_tensors(tensors, path, metadata={"stamp": stamp, "states": json.dumps(where)})


def _load(path: Path, stamp: str, count: int) -> list[AdapterState | None]:
    """The states of all jobs of a training with this stamp; empty without such a checkpoint."""
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
            raise ValueError("it has other jobs, or numbers that are not finite")
        return [place and _state(number, place, tensors) for number, place in enumerate(where)]
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s: cannot be read (%s), so the training starts over", path, misread(error))
        return []


def _state(number: int, where: Mapping[str, float], tensors: Mapping[str, torch.Tensor]) -> AdapterState:
    prefix = f"{number}.optimizer."
    optimizer = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    slot = SlotState(tensors[f"{number}.parameters"], int(where["rank"]), optimizer)
    return AdapterState(int(where["step"]), slot, float(where["loss"]))
