"""Tasks: what a context is, how the policy is asked for a self-edit, and how the edit is read."""

from seal_lightning.tasks.arc import ArcTask
from seal_lightning.tasks.base import Task
from seal_lightning.tasks.classification import Classification
from seal_lightning.tasks.directives import DirectiveLimits
from seal_lightning.tasks.edit_kinds import EDIT_KINDS, EditKind
from seal_lightning.tasks.knowledge import Knowledge

__all__ = ["EDIT_KINDS", "ArcTask", "Classification", "DirectiveLimits", "EditKind", "Knowledge", "Task"]
