"""Runs of a generator that take a second: a random Llama, a few made-up passages, and the smallest network."""

from pathlib import Path

from tiny_generator import Tiny

from seal_lightning import SEALDataModule, SEALTrainer
from seal_lightning.data import Reader
from seal_lightning.e_step.plan import Plan
from seal_lightning.generator import EndToEnd, GeneratorModule
from seal_lightning.hooks import SEALCallback
from seal_lightning.inner_loop.loop import InnerLoop
from seal_lightning.m_step.batches import MStep
from seal_lightning.models.source import ModelSource
from seal_lightning.types import Context, Query

WORDS = "lamp tarn copper moth cedar barley kelp basalt".split()


class Passages(Reader):
    """`count` passages of one sentence."""

    def __init__(self, count=6, *, prefix="t"):
        self.count, self.prefix = count, prefix

    @property
    def source(self):
        return "made-up passages"

    def read(self):
        return [
            Context(
                f"{self.prefix}{number}",
                f"Number {number}",
                f"The {WORDS[number % 8]} of {self.prefix}{number} is {WORDS[(3 * number + 1) % 8]}.",
                (Query(f"What is the {WORDS[number % 8]}?", (WORDS[(3 * number + 1) % 8],)),),
            )
            for number in range(self.count)
        ]


class Stopped(Exception):
    pass


class StopAfter(SEALCallback):
    """Raises at the `count`-th batch of the fit, as a process that dies there."""

    def __init__(self, count):
        self.left = count

    def on_train_batch_end(self, trainer, pl_module, *args):
        self.left -= 1
        if self.left == 0:
            raise Stopped


def module(generator=None, objective=None, **options):
    made = {
        "inner_loop": InnerLoop(rank=2, alpha=4, epochs=1),
        "grader": "f1",
        "m_step": MStep(learning_rate=1e-2, epochs=2, batch_size=2, schedule="constant"),
        "max_answer_tokens": 4,
        "evaluation": Plan(edits=1, repeats=1),
        **options,
    }
    return GeneratorModule(generator or Tiny(), objective or EndToEnd(), ModelSource(name="random/llama"), **made)


def data(count=6):
    return SEALDataModule(train=Passages(count), validation=Passages(3, prefix="v"), contexts_per_unit=3)


def fit(folder: Path, made, *, ckpt_path=None, rounds=2, callbacks=(), every_n_steps=1, **trainer):
    """Fit into `folder`; returns the trainer."""
    from seal_lightning.callbacks import CheckpointSelection

    saved = CheckpointSelection(every_n_steps=every_n_steps, include_untrained=False)
    run = SEALTrainer(
        max_epochs=rounds,
        default_root_dir=str(folder),
        accelerator="cpu",
        devices=1,
        logger=False,
        callbacks=[saved, *callbacks],
        **trainer,
    )
    run.fit(made, datamodule=data(), ckpt_path=ckpt_path)
    return run
