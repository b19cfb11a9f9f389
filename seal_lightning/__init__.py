"""Self-adapting language models (SEAL, arXiv 2506.10943) as a Lightning trainer plugin.

    from seal_lightning import SEALDataModule, SEALModule, SEALTrainer

    trainer = SEALTrainer(max_epochs=2, default_root_dir="runs/mine")
    trainer.fit(SEALModule(), datamodule=SEALDataModule(train="passages.jsonl"))

The names of `__all__` are imported when they are first asked for, so that `import seal_lightning` brings no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seal_lightning.callbacks import CheckpointSelection, EStepProgress, RandomFilter, ReSTEMFilter, RolloutTable
    from seal_lightning.data import Reader, SEALDataModule
    from seal_lightning.e_step.plan import Plan
    from seal_lightning.errors import SealError
    from seal_lightning.fit.module import SEALModule
    from seal_lightning.fit.trainer import SEALTrainer
    from seal_lightning.grading import F1, Calibrated, Contains, ExactMatch, Grader, Judge, Recall
    from seal_lightning.hooks import EditFilter, SEALCallback
    from seal_lightning.inner_loop.loop import InnerLoop
    from seal_lightning.m_step.batches import MStep
    from seal_lightning.models.source import ModelSource
    from seal_lightning.policy.tuned import PolicyTuning
    from seal_lightning.sampling import LocalSampler, Sampler
    from seal_lightning.tasks import Knowledge, Task
    from seal_lightning.tasks.arc import ArcTask

__version__ = "0.1.0"

# Where each public name is defined.
_HOMES = {
    "callbacks": ("CheckpointSelection", "EStepProgress", "RandomFilter", "ReSTEMFilter", "RolloutTable"),
    "data": ("Reader", "SEALDataModule"),
    "e_step.plan": ("Plan",),
    "errors": ("SealError",),
    "grading": ("Calibrated", "Contains", "ExactMatch", "F1", "Grader", "Judge", "Recall"),
    "hooks": ("EditFilter", "SEALCallback"),
    "inner_loop.loop": ("InnerLoop",),
    "m_step.batches": ("MStep",),
    "models.source": ("ModelSource",),
    "fit.module": ("SEALModule",),
    "policy.tuned": ("PolicyTuning",),
    "sampling": ("LocalSampler", "Sampler"),
    "tasks": ("Knowledge", "Task"),
    "tasks.arc": ("ArcTask",),
    "fit.trainer": ("SEALTrainer",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "F1",
    "ArcTask",
    "Calibrated",
    "CheckpointSelection",
    "Contains",
    "EStepProgress",
    "EditFilter",
    "ExactMatch",
    "Grader",
    "InnerLoop",
    "Judge",
    "Knowledge",
    "LocalSampler",
    "MStep",
    "ModelSource",
    "Plan",
    "PolicyTuning",
    "RandomFilter",
    "ReSTEMFilter",
    "Reader",
    "Recall",
    "RolloutTable",
    "SEALCallback",
    "SEALDataModule",
    "SEALModule",
    "SEALTrainer",
    "Sampler",
    "SealError",
    "Task",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__} - {"Any", "TYPE_CHECKING", "annotations", "import_module"})
