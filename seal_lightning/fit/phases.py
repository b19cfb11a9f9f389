"""Validation, test and prediction of a module: which units of work they have, what is checked before, how they run.

Lightning asks every rank as many times as there are units; each time, the rank takes the next unit that is left.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch

from seal_lightning.data.base import Unit, units
from seal_lightning.e_step.plan import Plan
from seal_lightning.e_step.predictions import Prediction, UnitRows, WritingStep, predict
from seal_lightning.e_step.step import EStep
from seal_lightning.fit.base import FitModule
from seal_lightning.fit.limits import Limit, limit_of
from seal_lightning.fit.units import UnitRunner
from seal_lightning.models.layers import find_targets
from seal_lightning.models.partitioned import is_partitioned
from seal_lightning.records.journal import read_rollouts
from seal_lightning.sampling import ServerAnswerer, ServerSampler
from seal_lightning.types import Context, Rollout

# The phases of Lightning's stages.
PHASES_OF = {"fit": ("train", "validation"), "validate": ("validation",), "test": ("test",), "predict": ("predict",)}


class Phases:
    """The phases of a command besides the E-step of a fit."""

    def __init__(self, module: FitModule) -> None:
        self.module = module
        self._runner: UnitRunner | None = None

    @property
    def runner(self) -> UnitRunner:
        """The units of the phase that goes on."""
        assert self._runner is not None, "open() begins a phase"
        return self._runner

    # -- what there is to do ---------------------------------------------------------------------------------------

    def units(self, phase: str) -> list[Unit]:
        """All units of a phase, whatever its limit."""
        data = self.module.datamodule
        return units(getattr(data, f"{phase}_contexts"), data.contexts_per_unit)

    def contexts(self, phase: str, *, queries: bool = True) -> list[Context]:
        """The contexts that the trainer's limit leaves of a phase, with their queries or without."""
        every = self.units(phase)
        chosen = every[: limit_of(self.module.trainer, phase, len(every)).units]
        contexts = [context for unit in chosen for context in unit]
        return contexts if queries else [replace(context, queries=()) for context in contexts]

    def limits(self, stage: str) -> dict[str, Limit]:
        """How much is done of each phase of one of Lightning's stages."""
        return {phase: limit_of(self.module.trainer, phase, len(self.units(phase))) for phase in PHASES_OF[stage]}

    def most_units(self, stage: str) -> int:
        """The units of the longest phase of one of Lightning's stages, whatever its limit."""
        return max(len(self.units(phase)) for phase in PHASES_OF[stage])

    # -- before it -------------------------------------------------------------------------------------------------

    def check(self, contexts: Sequence[Context], *, rounds: int, adapts: bool = True) -> None:
        """Raise `ConfigError` unless servers, model and contexts fit each other, after `rounds` of the policy."""
        module = self.module
        self._check_servers(rounds=rounds)
        if not any(map(is_partitioned, module.policy.module.parameters())):  # else the replica's first unit is a probe
            with adapters_can_train(), module.policy.frozen() as policy:
                module.e_step.check_model(policy, adapts=adapts)
        module.e_step.check_fits(module.policy.view, contexts)

    def _check_servers(self, *, rounds: int) -> None:
        """A server that is to hold the policy must load what becomes of it after `rounds`, with an inner adapter."""
        module, tuning = self.module, self.module.tuning
        rank = tuning.rank * (min(rounds, 1) if tuning.round_start == "continue" else rounds)
        loop, learned, policy = module.e_step.inner_loop, module.policy.layers, module.policy.view
        on_wait = module.trainer.processes.signals.check
        for sampler in {module.e_step.sampler, module.evaluation.sampler}:
            if isinstance(sampler, ServerSampler):
                sampler.server.check(policy, rank=rank, layers=learned, on_wait=on_wait)
        if isinstance(module.e_step.answerer, ServerAnswerer):
            layers = [*learned, *(target.name for target in find_targets(policy.model, loop.target_modules))]
            module.e_step.answerer.server.check(policy, rank=rank + loop.rank, layers=layers, on_wait=on_wait)

    # -- running it ------------------------------------------------------------------------------------------------

    def open(self, phase: str) -> None:
        """Begin a validation, test or prediction."""
        module, trainer = self.module, self.module.trainer
        module.evaluated = []
        first = not module.rounds_done and trainer.validate_first  # which is about to come as a whole
        folder = "sanity" if trainer.sanity_checking and not first else "journal"
        self._runner = UnitRunner(
            trainer,
            module,
            phase=phase,
            e_step=self._predicting() if phase == "predict" else self._evaluating(),
            units=self.units(phase),
            policy_digest=module.policy.digest(),
            by_stamp=not trainer.training and trainer.state.fn != "fit",
            folder="predictions" if phase == "predict" else folder,
        )

    def _evaluating(self) -> EStep:
        """The E-step of an evaluation; passages written by people are measured once in a fit."""
        evaluation = self.module.evaluation
        again = self.module.trainer.state.fn == "fit" and self.module.rounds_done > 0
        return replace(evaluation, plan=replace(evaluation.plan, written=False)) if again else evaluation

    def _predicting(self) -> EStep:
        """The E-step of a prediction, which scores nothing, and so compares nothing either."""
        step = self.module.evaluation if self.module.answers_queries else self.module.e_step
        kind, repeats = (self.module.answering, step.plan.repeats) if self.module.answers_queries else (WritingStep, 1)
        plan = Plan(edits=step.plan.edits, repeats=repeats)
        return kind(**{**vars(self.module.parts), "plan": plan, "sampler": step.sampler})

    def step(self) -> list[Rollout]:
        """Run the next unit that is left; its rollouts, none where there is none."""
        with adapters_can_train():
            return self.runner.step() or []

    def close(self) -> None:
        """Finish the phase: `module.evaluated` are all ranks' rollouts, in the order of the data."""
        with adapters_can_train():
            self.module.evaluated = self.runner.finish()

    # -- predictions -----------------------------------------------------------------------------------------------

    def predicted_unit(self, unit: int) -> UnitRows:
        """Rollouts of the next unit, for callbacks that write predictions; of `unit` where an earlier start did it."""
        if unit in self.runner.finished:
            return UnitRows(self.runner.journal.units.get(unit, ()) if self.module.global_rank == 0 else ())
        return UnitRows(self.step())

    def predictions(self) -> list[list[Prediction | Rollout]]:
        """What `trainer.predict` returns: edits as rollouts, or answers as predictions, a list for each unit."""
        chosen = self.units("predict")[: self.runner.limit.units]
        of_context: dict[str, list[Prediction | Rollout]] = {context.id: [] for unit in chosen for context in unit}
        if self.module.answers_queries:
            for row in predict(self.module.e_step.task, self.contexts("predict"), self.module.evaluated):
                of_context[row.context.id].append(row)
        else:
            for rollout in self.module.evaluated:
                of_context[rollout.context_id].append(rollout)
        return [[row for context in unit for row in of_context[context.id]] for unit in chosen]

    def predicted_so_far(self) -> list[Rollout]:
        """Rollouts of the units that are finished, by all ranks whose journals can be seen here."""
        return read_rollouts(self.runner.journal.folder, self.runner.journal.name) if self._runner else []


@contextmanager
def adapters_can_train() -> Iterator[None]:
    """Lightning evaluates without gradients, or in inference mode; within it adapters are trained meanwhile."""
    with torch.inference_mode(False), torch.enable_grad():
        yield
