"""What a run is refused for before any work: flags of Lightning's trainer, and objects and metrics that cannot work.

What every flag does is in `docs/flags.md`. Lightning checks the rest itself, when the trainer is made. SEAL has no
training loader to take: a round makes its training data itself, from the contexts of the data module.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import TypeVar

from lightning.pytorch import Callback, LightningDataModule
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy, Strategy

from seal_lightning.data import SEALDataModule
from seal_lightning.e_step.plan import Plan
from seal_lightning.errors import ConfigError, check_count
from seal_lightning.fit.strategies import ZeROStrategy
from seal_lightning.grading import Reward
from seal_lightning.hooks import EditFilter, RunModule, RunTrainer, the_filter
from seal_lightning.m_step.objectives import OBJECTIVES, MStepObjective
from seal_lightning.processes.watch import PATIENCE
from seal_lightning.results.verdict import ACCURACIES
from seal_lightning.stamps.code import is_outside

SPLITS = {"fit": "train", "validate": "validation", "test": "test", "predict": "predict"}
# The metrics that a round logs, and the prefixes of those named after reward terms, endpoints' usage and what was cut.
ROUND = (
    "round epoch step reward/mean reward/best reward/std_within_context m_step/loss m_step/loss_step m_step/loss_epoch "
    "e_step/rejected_frac e_step/diverged_frac e_step/kept e_step/kept_without_merit e_step/kept_frac "
    "e_step/success_frac e_step/seconds e_step/adapter_steps_per_s edits/characters edits/tokens "
    "diversity/compression diversity/distinct diversity/similarity"
).split()
ROUND += [f"m_step/{name}" for kind in OBJECTIVES.values() for name in kind.figures]
FAMILIES = ("m_step/mean_", "reward_terms/", "left_out/", "endpoint/", "thoughts/", "racing/")
_Module = TypeVar("_Module", bound=RunModule)


# -- flags -------------------------------------------------------------------------------------------------------------


def check_flags(flags: Mapping[str, object]) -> None:
    """Look at a trainer's flags, by their names; what is missing has its default.

    Raises:
        ConfigError: One of them would be ignored, or stop the run in its middle.
    """
    interval = flags.get("val_check_interval")
    if interval is not None and not (isinstance(interval, float) and interval == 1.0):
        raise ConfigError(
            f"trainer.val_check_interval must be 1.0 or null, got {interval!r}: a policy is validated once its round "
            "is over and merged; use trainer.check_val_every_n_epoch, which counts rounds"
        )
    check_count("trainer.check_val_every_n_epoch", flags.get("check_val_every_n_epoch", 1), advice="it counts rounds")
    check_count("trainer.accumulate_grad_batches", flags.get("accumulate_grad_batches", 1))
    check_count("trainer.num_sanity_val_steps", flags.get("num_sanity_val_steps") or 0, least=-1)
    check_count("trainer.log_every_n_steps", flags.get("log_every_n_steps") or 0, least=0)
    if flags.get("model_registry") is not None:
        raise ConfigError(
            f"trainer.model_registry must be null, got {flags['model_registry']!r}: nothing is uploaded to Lightning's "
            "registry; policy/ in the run folder is what can be shared"
        )
    patience = flags.get("give_up_after", PATIENCE)
    if not isinstance(patience, int | float) or not 1 <= patience < math.inf:
        raise ConfigError(f"trainer.give_up_after must be 1 or more seconds, got {patience}: try {PATIENCE:g}")


def check_slurm(environment: Mapping[str, str]) -> None:
    """Check that Lightning can tell the tasks of a SLURM job apart, which it otherwise refuses with its own error.

    Raises:
        ConfigError: There are several, and nothing says how many a node has.
    """
    tasks = environment.get("SLURM_NTASKS", "1")
    interactive = environment.get("SLURM_JOB_NAME") in ("bash", "interactive")
    if tasks in ("", "0", "1") or interactive or "SLURM_NTASKS_PER_NODE" in environment:
        return
    raise ConfigError(
        f"SLURM_NTASKS={tasks}: expected --ntasks-per-node in the job, by which the tasks of a node are told apart, "
        "got --ntasks alone: write #SBATCH --ntasks-per-node and start with srun; for one process in this shell, "
        "unset SLURM_NTASKS"
    )


def check_strategy(strategy: Strategy, *, sampler: bool, devices: int) -> None:
    """Raise `ConfigError` unless SEAL can share out its work; `sampler` is the flag `use_distributed_sampler`."""
    if sampler and devices > 1:
        raise ConfigError(
            "trainer.use_distributed_sampler must be false on several devices, got true: SEAL shares out units and "
            "batches itself"
        )
    other = (DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy)
    if isinstance(strategy, other) and not isinstance(strategy, ZeROStrategy):
        raise ConfigError(
            f"trainer.strategy must be auto, ddp or seal_lightning.fit.strategies.ZeROStrategy, got "
            f"{type(strategy).__name__}: for DeepSpeed add --config configs/deepspeed/zero2.yaml"
        )


# -- objects -----------------------------------------------------------------------------------------------------------


def checked(
    trainer: RunTrainer, command: str, kind: type[_Module], *, model: object, loaders: object, datamodule: object
) -> tuple[_Module, SEALDataModule]:
    """The module and the data module of a command; those of the run before where they are not given again.

    A data module may stand where Lightning takes loaders.

    Raises:
        ConfigError: One is missing or of another kind, or the filter of a fit is, or what a callback monitors.
    """
    if datamodule is None and isinstance(loaders, LightningDataModule):
        loaders, datamodule = None, loaders
    model = model if model is not None else trainer.lightning_module
    datamodule = datamodule if datamodule is not None else trainer.datamodule
    call = f"trainer.{command}(module, datamodule=SEALDataModule({SPLITS[command]}=...))"
    if not isinstance(model, kind):
        raise ConfigError(f"trainer.{command}: expected a {kind.__name__}, got {_name(model)}: call {call}")
    if loaders is not None:
        raise ConfigError(
            f"trainer.{command}: expected a SEALDataModule, got loaders: SEAL reads contexts, give them as {call}"
        )
    if not isinstance(datamodule, SEALDataModule):
        raise ConfigError(f"trainer.{command}: expected a SEALDataModule, got {_name(datamodule)}: call {call}")
    if command == "fit":
        the_filter(trainer.callbacks)
        validated = bool(datamodule.sources["validation"]) and trainer.limit_val_batches != 0
        check_monitors(trainer.callbacks, model, validated=validated)
    return model, datamodule


def _name(value: object) -> str:
    return "none" if value is None else value.__name__ if isinstance(value, type) else f"a {type(value).__name__}"


# -- metrics -----------------------------------------------------------------------------------------------------------


def check_monitors(callbacks: Iterable[Callback], module: object, *, validated: bool) -> None:
    """Refuse a callback that monitors what no round of the fit would log: it would be found out after a round.

    A callback or module from outside this package may log metrics of any name, so then nothing is checked.

    Raises:
        ConfigError: A callback monitors a metric that is never logged.
    """
    callbacks = list(callbacks)
    if any(is_outside(kind.__module__) for own in (module, *callbacks) for kind in type(own).__mro__):
        return
    known = [*ACCURACIES, *ROUND]
    for callback in callbacks:
        monitor = getattr(callback, "monitor", None)
        if not isinstance(monitor, str) or monitor.startswith(FAMILIES):
            continue
        name = type(callback).__name__
        if monitor not in known:
            near = get_close_matches(monitor, known, n=1, cutoff=0.0)
            raise ConfigError(f"{name}: nothing in this run logs monitor={monitor!r}: did you mean {near[0]!r}?")
        if monitor in ACCURACIES and not validated and isinstance(callback, EarlyStopping) and callback.strict:
            raise ConfigError(
                f"{name}: monitor={monitor!r} needs validation, and this run has none: give data.validation with "
                "trainer.limit_val_batches above 0, or monitor 'reward/mean'"
            )


# -- plans -------------------------------------------------------------------------------------------------------------


def check_filter(plan: Plan, chosen: EditFilter, reward: Reward, objective: MStepObjective) -> None:
    """Check that a filter can keep something, finds it among the edits that the plan's race leaves, and teaches it.

    Raises:
        ConfigError: No reward can pass it, the race leaves other or fewer edits than it needs, or the objective of the
            M-step has nothing to compare.
    """
    if isinstance(above := getattr(chosen, "above", None), int | float):
        reward.check_above(above)
    k = getattr(chosen, "k", None)
    scored = plan.edits if plan.racing is None else min(plan.racing.keep, plan.edits)
    objective.check(k=k if isinstance(k, int) else None, scored=scored)
    if plan.racing is None:
        return
    if not chosen.by_reward:
        raise ConfigError(
            f"{type(chosen).__name__} draws among all edits, and a race leaves the best ones: set e_step.racing to null"
        )
    if isinstance(k, int) and plan.racing.keep < min(k, plan.edits):
        raise ConfigError(
            f"e_step.racing.keep must be at least filter.k, which is {k}, got {plan.racing.keep}: raise it"
        )


def measured_alike(evaluation: Plan, e_step: Plan, reward: Reward) -> Plan:
    """The evaluation plan, checked: it must measure every reward term, on the queries of the data.

    Raises:
        ConfigError: The plans do not fit the reward, or the evaluation does not use the data's queries.
    """
    if not evaluation.needs_queries:
        raise ConfigError(
            "evaluation.score_by must be queries and evaluation.queries must be data, got "
            f"{evaluation.score_by} and {evaluation.queries}: figures must come from the data's queries; to train on "
            "generated ones, set e_step.queries"
        )
    if evaluation.racing:
        raise ConfigError(
            "evaluation.racing must be null, got a race: edits that it drops would not be measured; set e_step.racing"
        )
    if e_step.racing:
        if others := reward.names(lambda term: not term.follows_score):
            raise ConfigError(
                "reward must be made of terms that follow the score, such as score and gain, where e_step.racing is "
                f"set, got {others[0]}: remove it, or set e_step.racing to null"
            )
        if sum(reward.weights.values()) <= 0:
            raise ConfigError(
                "reward must have weights that add up to more than 0 where e_step.racing is set, got "
                f"{sum(reward.weights.values()):g}: raise them"
            )
    if e_step.score_by == "rubric" and (reading := reward.names(lambda term: term.needs_answers)):
        raise ConfigError(
            "reward must be made of terms that need no answers, such as score, length and format, where "
            f"e_step.score_by is rubric, got {reading[0]}: remove it, or set e_step.score_by to queries"
        )
    others = reward.names(lambda term: term.needs_carry_over)
    if not others:
        return evaluation
    if not e_step.carry_over_queries:
        raise ConfigError(
            f"e_step.carry_over_queries must be at least 1 where the reward has a {others[0]} term, got 0: try 4"
        )
    return replace(evaluation, carry_over_queries=evaluation.carry_over_queries or e_step.carry_over_queries)
