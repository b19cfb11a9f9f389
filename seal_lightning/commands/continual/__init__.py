"""`seal continual`: contexts are learnt one after another; what is left of earlier ones, and what helps (section 5).

    data -> orders and seeds -> streams, plain and with each countermeasure -> retention matrices -> one table

Your own countermeasure subclasses `Countermeasure`. Left out: streams side by side on several devices.
"""

from seal_lightning.commands.continual.countermeasure import Countermeasure, Learnt, Sequences
from seal_lightning.commands.continual.countermeasures import (
    BoundedNorm,
    Consolidation,
    KLToBase,
    NullSpace,
    Orthogonal,
    Replay,
)
from seal_lightning.commands.continual.gate import Gate

__all__ = [
    "BoundedNorm",
    "Consolidation",
    "Countermeasure",
    "Gate",
    "KLToBase",
    "Learnt",
    "NullSpace",
    "Orthogonal",
    "Replay",
    "Sequences",
]
