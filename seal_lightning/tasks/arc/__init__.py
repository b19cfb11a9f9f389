"""ARC: few-shot puzzles of grids, to which the model adapts with tools and settings of its own choice (section 4.1)."""

from seal_lightning.tasks.arc.answers import GridMatch
from seal_lightning.tasks.arc.edit import ArcLimits
from seal_lightning.tasks.arc.task import ArcTask

__all__ = ["ArcLimits", "ArcTask", "GridMatch"]
