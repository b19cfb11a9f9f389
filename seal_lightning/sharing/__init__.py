"""Model cards for what `seal fit`, `seal adapt` and `seal continual` write: data first, text last, code to use it."""

from seal_lightning.sharing.card import (
    Card,
    Result,
    Source,
    add_results,
    base_of_source,
    index_card,
    licence_of,
    render,
    settings_table,
    source_of,
)
from seal_lightning.sharing.usage import Asking, at, usage

__all__ = [
    "Asking",
    "Card",
    "Result",
    "Source",
    "add_results",
    "at",
    "base_of_source",
    "index_card",
    "licence_of",
    "render",
    "settings_table",
    "source_of",
    "usage",
]
