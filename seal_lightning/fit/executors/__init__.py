"""Where units of work run: in the training processes themselves (default), or on a Ray cluster's workers."""

from seal_lightning.fit.executors.base import Executor, LocalExecutor, UnitWork
from seal_lightning.fit.executors.ray import RayExecutor

__all__ = ["Executor", "LocalExecutor", "RayExecutor", "UnitWork"]
