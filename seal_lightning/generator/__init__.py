"""Edits as weights: a network reads what the frozen model makes of a passage, and writes an adapter of the bank.

The other form of a self-edit, beside texts that an inner loop trains on. The public names are settings by class_path:
architectures (`FastWeights`, `Perceiver`, `MLPGenerator`), objectives, and the module that trains a generator.
"""

from seal_lightning.generator.class_head import ClassHead
from seal_lightning.generator.fast_weights import FastWeights
from seal_lightning.generator.mlp import MLPGenerator
from seal_lightning.generator.module import GeneratorModule
from seal_lightning.generator.objectives import Distill, EndToEnd
from seal_lightning.generator.perceiver import Perceiver
from seal_lightning.generator.reinforce import Reinforce

__all__ = [
    "ClassHead",
    "Distill",
    "EndToEnd",
    "FastWeights",
    "GeneratorModule",
    "MLPGenerator",
    "Perceiver",
    "Reinforce",
]
