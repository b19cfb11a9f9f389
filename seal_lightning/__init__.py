"""Self-adapting language models (SEAL, arXiv 2506.10943) as a Lightning trainer plugin.

    from seal_lightning import SEALDataModule, SEALModule, SEALTrainer

    trainer = SEALTrainer(max_epochs=2, default_root_dir="runs/mine")
    trainer.fit(SEALModule(), datamodule=SEALDataModule(train="passages.jsonl"))

The names below are the public ones; everything else may change without notice. Each is imported when it is first asked
for, so that `import seal_lightning` brings no torch.
"""

from __future__ import annotations

import ast
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # where each name lies: for type checkers, and for `_homes`
    from seal_lightning.callbacks import (
        CheckpointSelection,
        EStepProgress,
        RandomFilter,
        ReSTEMFilter,
        Retention,
        RolloutTable,
        Trackers,
    )
    from seal_lightning.commands.continual import Countermeasure
    from seal_lightning.data import Reader, SEALDataModule
    from seal_lightning.e_step.plan import Plan
    from seal_lightning.e_step.step import EStep
    from seal_lightning.endpoints.endpoint import Endpoint
    from seal_lightning.errors import ConfigError, DataError, ModelError, RetryableError, SealError
    from seal_lightning.fit.executors import Executor, LocalExecutor, ProcessExecutor, RayExecutor
    from seal_lightning.fit.module import SEALModule
    from seal_lightning.fit.trainer import SEALTrainer
    from seal_lightning.grading import (
        F1,
        Answer,
        Calibrated,
        Contains,
        ExactMatch,
        Grader,
        Judge,
        Recall,
        Reward,
        RewardTerm,
        Verdict,
        Weighted,
    )
    from seal_lightning.hooks import EditFilter, SEALCallback
    from seal_lightning.inner_loop.loop import InnerLoop
    from seal_lightning.inner_loop.objectives import InnerObjective
    from seal_lightning.library.asking import Library, LibraryAnswer
    from seal_lightning.library.router import BM25, Embeddings, Match, RoutedQuestion, Router
    from seal_lightning.m_step.batches import MStep
    from seal_lightning.m_step.objectives import EditTokens, MStepObjective, Taught
    from seal_lightning.m_step.selection import best_of, group_rollouts
    from seal_lightning.m_step.training import FineTuning
    from seal_lightning.models.loading import load_model
    from seal_lightning.models.source import ModelSource
    from seal_lightning.policy.policy import Policy
    from seal_lightning.policy.tuned import PolicyTuning, TunedPolicy
    from seal_lightning.records.journal import read_fit, read_rollouts, read_validations
    from seal_lightning.results.table import Table
    from seal_lightning.round import run_round
    from seal_lightning.sampling import (
        Answerer,
        Answers,
        Asked,
        EndpointSampler,
        LocalAnswerer,
        LocalSampler,
        Sample,
        Sampler,
        SampleRequest,
    )
    from seal_lightning.seeding import derive_seed
    from seal_lightning.tasks import ArcTask, Knowledge, Task
    from seal_lightning.trackers import Tracker
    from seal_lightning.types import (
        AdapterJob,
        Context,
        Directives,
        EditOutcome,
        Prompt,
        Query,
        Rollout,
        RolloutGroup,
        SelfEdit,
        TrainingSequence,
    )

__version__ = "0.1.0"

# fmt: off
__all__ = [  # noqa: RUF022, by subject
    # a run
    "SEALModule", "SEALTrainer", "SEALDataModule", "Reader",
    "Executor", "LocalExecutor", "ProcessExecutor", "RayExecutor",
    # one round, step by step
    "run_round", "ModelSource", "load_model", "Policy", "TunedPolicy", "PolicyTuning", "EStep", "Plan", "InnerLoop",
    "MStep", "FineTuning", "best_of", "group_rollouts", "derive_seed",
    # what passes between the steps
    "Context", "Query", "Prompt", "SelfEdit", "TrainingSequence", "Directives", "AdapterJob", "Rollout",
    "EditOutcome", "RolloutGroup",
    # tasks, samplers, answerers
    "Task", "Knowledge", "ArcTask", "Sampler", "Sample", "SampleRequest", "LocalSampler", "EndpointSampler",
    "Answerer", "Asked", "Answers", "LocalAnswerer", "Endpoint",
    # objectives of the inner loop and of the M-step
    "InnerObjective", "MStepObjective", "Taught", "EditTokens",
    # graders and rewards
    "Grader", "Answer", "Verdict", "Calibrated", "Contains", "ExactMatch", "F1", "Judge", "Recall", "Reward",
    "RewardTerm", "Weighted",
    # callbacks and trackers
    "SEALCallback", "EditFilter", "ReSTEMFilter", "RandomFilter", "CheckpointSelection", "EStepProgress",
    "Retention", "RolloutTable", "Trackers", "Tracker",
    # documents that were learnt, and which one a question is about
    "Library", "LibraryAnswer", "Router", "BM25", "Embeddings", "RoutedQuestion", "Match",
    # learning passages one after another
    "Countermeasure",
    # after a run
    "read_fit", "read_validations", "read_rollouts", "Table",
    # errors
    "SealError", "ConfigError", "DataError", "ModelError", "RetryableError",
    "__version__",
]
# fmt: on


@cache
def _homes() -> dict[str, str]:
    """The module of each name, read from the imports above, so that no third list is needed."""
    (block,) = (node for node in ast.parse(Path(__file__).read_text(encoding="utf-8")).body if isinstance(node, ast.If))
    imports = (node for node in block.body if isinstance(node, ast.ImportFrom))
    return {alias.name: str(node.module) for node in imports for alias in node.names}


def __getattr__(name: str) -> object:
    if name not in _homes():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_homes()[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
