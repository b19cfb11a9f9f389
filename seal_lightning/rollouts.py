"""Units of work as the loops run them: from the journal where they are finished, else the E-step on the frozen policy.

The journal's stamp is what the rollouts depend on: every setting of the E-step, the contexts, and the policy's digest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from seal_lightning.e_step import Plan
from seal_lightning.hooks import notify
from seal_lightning.journal import Journal
from seal_lightning.policy import Policy
from seal_lightning.types import Context, Rollout


class UnitRunner:
    """Runs the units of one phase (train, validation or test) of one round.

    Args:
        trainer: Its `default_root_dir` is the run folder; the journal lies in `journal/` there.
        module: The `SEALModule`.
        phase: Enters the journal's name.
        plan: Edits and repeats.
        units: All units of the phase.
        round: Counted from 0.
        policy_digest: Of the policy that rolls out.
        by_stamp: Name the journal after its stamp, so that other settings get another file instead of a refusal
            (`seal test` and `seal validate`).
    """

    def __init__(
        self,
        trainer: Trainer,
        module: Any,
        *,
        phase: str,
        plan: Plan,
        units: Sequence[Sequence[Context]],
        round: int,
        policy_digest: str,
        by_stamp: bool = False,
    ) -> None:
        self.trainer = trainer
        self.module = module
        self.phase = phase
        self.plan = plan
        self.units = units
        self.round = round
        stamp = make_stamp(module, plan, units, policy_digest)
        name = f"{phase}-{_digest(stamp)[:12]}" if by_stamp else f"{phase}-{round:03d}"
        self.journal = Journal(Path(trainer.default_root_dir) / "journal", name, stamp=stamp, rank=trainer.global_rank)
        finished = len(self.journal.units)
        notify(trainer, module, "on_units_start", phase=phase, units=len(units), finished=finished)

    def run(self, unit: int) -> list[Rollout]:
        """The rollouts of one unit. Raises `SIGTERMException` instead of starting a unit after SIGTERM."""
        rollouts = list(self.journal.units.get(unit, ()))
        if not rollouts:
            if self.trainer.received_sigterm:
                raise SIGTERMException
            rollouts = self._roll_out(self.units[unit])
            self.journal.append(unit, rollouts)
        notify(self.trainer, self.module, "on_unit_end", phase=self.phase, unit=unit, rollouts=rollouts)
        return rollouts

    def end(self, rollouts: Sequence[Rollout]) -> None:
        """Tell the callbacks that the phase is over."""
        notify(self.trainer, self.module, "on_units_end", phase=self.phase, rollouts=rollouts)

    def _roll_out(self, contexts: Sequence[Context]) -> list[Rollout]:
        def report(progress: Any) -> None:
            notify(self.trainer, self.module, "on_unit_progress", phase=self.phase, progress=progress)

        with policy_at_work(self.trainer, self.module) as policy:
            return self.module.e_step.run(policy, contexts, plan=self.plan, round=self.round, report=report)


@contextmanager
def policy_at_work(trainer: Trainer, module: Any) -> Iterator[Policy]:
    """The module's policy, frozen, under the trainer's precision.

    New tensors stay float32: Lightning's true half precision would halve them too, but noise, learning rates and
    adapters need their bits.
    """
    with trainer.precision_plugin.forward_context(), module.policy.frozen() as policy:
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)
        try:
            yield policy
        finally:
            torch.set_default_dtype(before)


def make_stamp(module: Any, plan: Plan, units: Sequence[Sequence[Context]], policy_digest: str) -> dict[str, Any]:
    """What rollouts depend on, as flat JSON values: the E-step's settings, the units' contents, base and policy."""
    contexts = [[asdict(context) for context in unit] for unit in units]
    return {
        **_flat("", describe(vars(module.e_step))),
        **_flat("plan.", asdict(plan)),
        "contexts": _digest(contexts),
        "chat": module.policy.policy.chat,
        "base": module.base_fingerprint,
        "policy": policy_digest,
    }


def _flat(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings by dotted names, so that a refusal can name the one that differs."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(f"{prefix}{key}.", value) if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def describe(value: Any) -> Any:
    """The settings of an object as JSON: its class path and public attributes; the same in every process."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [describe(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((describe(item) for item in value), key=repr)
    if hasattr(value, "__qualname__"):  # a class or a function
        return f"{getattr(value, '__module__', '')}.{value.__qualname__}"
    if isinstance(value, Enum):
        return str(value)
    if is_dataclass(value):
        attributes = {field.name: getattr(value, field.name) for field in fields(value)}
    elif hasattr(value, "__dict__"):
        attributes = {name: item for name, item in vars(value).items() if not name.startswith("_")}
    else:  # a path, a dtype, a pattern: what it prints, unless that is a memory address
        attributes = {} if " at 0x" in repr(value) else {"value": repr(value)}
    kind = type(value)
    return {
        "class": f"{kind.__module__}.{kind.__qualname__}",
        **{key: describe(item) for key, item in attributes.items()},
    }


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
