"""What experiment trackers can take besides numbers (settings, tables, files): one class for each kind of logger.

`tracker_of(logger)` finds the class that fits. A logger that has none of its own gets the settings only. What is told a
tracker, and when, is up to `callbacks/tracking.py`; `surviving.py` sees to it that none of them ends a run.
"""

from seal_lightning.trackers.base import Tracker
from seal_lightning.trackers.mlflow_tracker import MLflowTracker
from seal_lightning.trackers.tensorboard_tracker import TensorBoardTracker
from seal_lightning.trackers.trackio_tracker import TrackioLogger, TrackioTracker
from seal_lightning.trackers.wandb_tracker import WandbTracker

TRACKERS: tuple[type[Tracker], ...] = (TensorBoardTracker, WandbTracker, MLflowTracker, TrackioTracker, Tracker)


def tracker_of(logger: object, kinds: tuple[type[Tracker], ...] = TRACKERS) -> Tracker:
    """The first of `kinds` that is for this logger, and the plain one where there is none."""
    return next((kind for kind in kinds if isinstance(logger, kind.logger_class)), Tracker)(logger)


__all__ = [
    "TRACKERS",
    "MLflowTracker",
    "TensorBoardTracker",
    "Tracker",
    "TrackioLogger",
    "TrackioTracker",
    "WandbTracker",
    "tracker_of",
]
