"""Data: the readers of context files, and the data module that hands their contexts out in units."""

from seal_lightning.data.base import Reader
from seal_lightning.data.datamodule import SEALDataModule, units
from seal_lightning.data.detect import read_contexts
from seal_lightning.data.jsonl import Jsonl
from seal_lightning.data.passage_pair import PassagePair
from seal_lightning.data.seal_json import SealJson
from seal_lightning.data.squad import Squad
from seal_lightning.data.text_folder import TextFolder

__all__ = [
    "Jsonl",
    "PassagePair",
    "Reader",
    "SEALDataModule",
    "SealJson",
    "Squad",
    "TextFolder",
    "read_contexts",
    "units",
]
