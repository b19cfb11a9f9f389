"""Trains one form of generator in the lab, as `seal fit` does: for `benchmarks/generator.py`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

from seal_lightning.fit.trainer import SEALTrainer
from seal_lightning.generator.base import Generator
from seal_lightning.generator.fast_weights import FastWeights
from seal_lightning.generator.module import GeneratorModule
from seal_lightning.generator.objectives import EndToEnd, Objective
from seal_lightning.generator.perceiver import Perceiver
from seal_lightning.lab import LabDataModule
from seal_lightning.m_step.batches import MStep
from seal_lightning.models.source import ModelSource


@dataclass(frozen=True, slots=True)
class Recipe:
    """A form of generator, and how it is trained: so many rounds, each with an M-step."""

    generator: Generator
    m_step: MStep
    objective: Objective = field(default_factory=EndToEnd)
    rounds: int = 1


RECIPES = {
    "FastWeights": Recipe(
        FastWeights(rank=32, alpha=32.0, target_modules=["down_proj"]),
        MStep(learning_rate=1e-2, epochs=7, batch_size=32, schedule="cosine", warmup=0.1),
    ),
    "FastWeights-others": Recipe(  # trained to leave alone what its passage does not tell
        FastWeights(rank=32, alpha=32.0, target_modules=["down_proj"]),
        MStep(learning_rate=1e-2, epochs=14, batch_size=32, schedule="cosine", warmup=0.1),
        EndToEnd(others=1.0),
    ),
    "Perceiver": Recipe(
        Perceiver(rank=8, alpha=8.0, target_modules=["down_proj"]),
        MStep(learning_rate=3e-3, epochs=16, batch_size=32, schedule="cosine", warmup=0.1),
    ),
}


def train(recipe: Recipe, *, seed: int, folder: Path, passages: int) -> dict[str, torch.Tensor]:
    """Train on so many training towns of the lab; the network's weights."""
    module = GeneratorModule(
        recipe.generator,
        recipe.objective,
        ModelSource(name="lab"),
        grader="exact_match",
        m_step=recipe.m_step,
        max_answer_tokens=4,
        seed=seed,
    )
    trainer = SEALTrainer(
        default_root_dir=str(folder), max_epochs=recipe.rounds, accelerator="cpu", devices=1, logger=False
    )
    data = LabDataModule(passages=passages, held_out=12, seed=seed)
    trainer.fit(module, datamodule=data)
    return module.policy.adapter_state()
