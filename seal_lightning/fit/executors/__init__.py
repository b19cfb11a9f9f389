"""Where units of work run: in processes of this machine (default), or on a Ray cluster's workers."""

from seal_lightning.fit.executors.base import Executor, LocalExecutor, UnitWork
from seal_lightning.fit.executors.processes import ProcessExecutor
from seal_lightning.fit.executors.ray import RayExecutor

__all__ = ["Executor", "LocalExecutor", "ProcessExecutor", "RayExecutor", "UnitWork"]
