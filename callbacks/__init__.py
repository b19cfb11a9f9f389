"""Callbacks of seal-lightning; import them as `seal_lightning.callbacks`."""

from seal_lightning.callbacks.checkpoint_selection import CheckpointSelection
from seal_lightning.callbacks.progress import EStepProgress
from seal_lightning.callbacks.random_filter import RandomFilter
from seal_lightning.callbacks.rest_em import ReSTEMFilter
from seal_lightning.callbacks.retention import Retention
from seal_lightning.callbacks.rollout_table import RolloutTable
from seal_lightning.callbacks.tracking import Trackers

__all__ = [
    "CheckpointSelection",
    "EStepProgress",
    "RandomFilter",
    "ReSTEMFilter",
    "Retention",
    "RolloutTable",
    "Trackers",
]
