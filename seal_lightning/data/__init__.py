"""Data: the readers of context files, and the data module that hands their contexts out in units."""

from typing import TYPE_CHECKING

from seal_lightning.data.arc import ArcFiles, ArcKit
from seal_lightning.data.base import Reader, units
from seal_lightning.data.dataset_rows import DatasetRows
from seal_lightning.data.detect import read_contexts
from seal_lightning.data.json_files import Jsonl, PassagePair, SealJson
from seal_lightning.data.squad import Squad
from seal_lightning.data.synthetic_arc import SyntheticArc
from seal_lightning.data.text_folder import TextFolder

if TYPE_CHECKING:
    from seal_lightning.data.datamodule import SEALDataModule

__all__ = [
    "ArcFiles",
    "ArcKit",
    "DatasetRows",
    "Jsonl",
    "PassagePair",
    "Reader",
    "SEALDataModule",
    "SealJson",
    "Squad",
    "SyntheticArc",
    "TextFolder",
    "read_contexts",
    "units",
]


def __getattr__(name: str) -> object:
    """The data module imports Lightning, which takes seconds, so it is loaded only when asked for."""
    if name == "SEALDataModule":
        from seal_lightning.data.datamodule import SEALDataModule

        return SEALDataModule
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
