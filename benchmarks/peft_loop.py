"""The baselines of the inner loop: one adapter after another, by a good engineer and by the research code."""

import random
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from torch import nn
from transformers import Trainer, TrainingArguments

from seal_lightning.inner_loop.loop import InnerLoop
from seal_lightning.models.layers import find_targets
from seal_lightning.types import AdapterJob


def batches_of(job: AdapterJob, settings: InnerLoop, limit: int | None) -> Iterator[list[list[int]]]:
    """The job's minibatches in order; at most `limit`."""
    draw, made = random.Random(job.seed), 0
    tokens = [[int(token) for token in sequence.text.split()] for sequence in job.training_sequences]
    for _ in range(job.directives.epochs or settings.epochs):
        order = list(range(len(tokens)))
        draw.shuffle(order)
        for at in range(0, len(order), settings.batch_size):
            if made == limit:
                return
            made += 1
            yield [tokens[index] for index in order[at : at + settings.batch_size]]


def wrap(model: Any, settings: InnerLoop, **more: Any) -> Any:
    """The model with peft's LoRA around the layers that the bank would take."""
    names = [target.name for target in find_targets(model, settings.target_modules)]
    config = LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=names)  # type: ignore[arg-type]
    return get_peft_model(model, config, **more)


def train_each(
    wrapped: Any,
    jobs: Sequence[AdapterJob],
    settings: InnerLoop,
    limit: int | None = None,
    start: Mapping[str, torch.Tensor] | None = None,
) -> tuple[int, int]:
    """Train one adapter after another in `wrapped`, at most `limit` steps of each, at a constant learning rate.

    Batches are padded to their longest sequence and AdamW is the fused one. Adapters begin as peft draws them, or with
    the weights of `start`, by the names of PEFT folders.

    Returns:
        Steps and tokens.
    """
    device, steps, tokens = next(wrapped.parameters()).device, 0, 0
    for job in jobs:
        for layer in wrapped.modules():
            if hasattr(layer, "reset_lora_parameters"):
                layer.reset_lora_parameters("default", True)
        if start is not None:
            set_peft_model_state_dict(wrapped, dict(start))
        parameters = [parameter for parameter in wrapped.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=0.0, fused=True)
        for batch in batches_of(job, settings, limit):
            longest = max(map(len, batch))
            ids = torch.tensor([row + [0] * (longest - len(row)) for row in batch], device=device)
            labels = torch.tensor([row + [-100] * (longest - len(row)) for row in batch], device=device)
            # A mask that masks nothing would only cost time.
            mask = None if min(map(len, batch)) == longest else (labels >= 0).long()
            wrapped(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss.backward()
            if settings.gradient_clip:
                nn.utils.clip_grad_norm_(parameters, settings.gradient_clip)
            optimizer.step()
            optimizer.zero_grad()
            steps += 1
            tokens += sum(map(len, batch))
    return steps, tokens


def train_official(model: Any, job: AdapterJob, settings: InnerLoop, steps: int) -> float:
    """Seconds a step as the research code makes them: transformers' Trainer, every sequence padded to 2,048 tokens."""
    wrapped = wrap(model, settings)
    rows = [row for batch in batches_of(job, settings, steps) for row in batch]
    padded = [{"input_ids": (ids := row + [0] * (2048 - len(row))), "labels": ids} for row in rows]
    device = next(model.parameters()).device.type
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        arguments = TrainingArguments(
            output_dir=folder, max_steps=steps, per_device_train_batch_size=1, learning_rate=settings.learning_rate,
            report_to=[], save_strategy="no", logging_strategy="no", disable_tqdm=True, use_cpu=device == "cpu",
        )  # fmt: skip
        trainer = Trainer(model=wrapped, args=arguments, train_dataset=padded)  # type: ignore[arg-type]
        started = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - started
    wrapped.unload()
    model.requires_grad_(False).eval()
    return seconds / steps
