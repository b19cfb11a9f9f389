"""One adapter the plain way, to hold the bank against: peft, torch's AdamW, one sequence a pass, no cache.

Nothing here uses the project's bank, packing, loss or generation; only the meaning of a job (its order,
batch size, learning rates) is written down a second time. Used by docs/families.py and by the tests of exactness.
"""

from __future__ import annotations

import inspect
import math
import random
from collections.abc import Sequence
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from seal_lightning.inner_loop.loop import InnerLoop
from seal_lightning.types import AdapterJob, TrainingSequence


def fresh_adapter(model: Any, layers: Sequence[str], *, rank: int, alpha: float, seed: int) -> Any:
    """A peft model whose A is drawn layer by layer from `seed`, uniform in ±1/√inputs, and whose B is zero.

    Raises:
        ValueError: peft refuses one of the layers, or puts adapters elsewhere.
    """
    turned = any(isinstance(module, Conv1D) for module in model.modules())
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(layers), fan_in_fan_out=turned)  # type: ignore[arg-type]
    adapted = get_peft_model(model, config).eval()
    got = {name.rsplit(".lora_A.", 1)[0] for name, _ in adapted.named_parameters() if ".lora_A." in name}
    if wrong := sorted(got ^ {f"base_model.model.{name}" for name in layers}):
        raise ValueError(f"peft and the bank do not adapt the same layers: {wrong[0]}")
    generator = torch.Generator().manual_seed(seed)
    for name in layers:
        weight = adapted.get_submodule(f"base_model.model.{name}.lora_A.default").weight
        bound = weight.shape[1] ** -0.5
        weight.data.copy_(torch.empty(weight.shape).uniform_(-bound, bound, generator=generator))
    return adapted


def train(adapted: Any, tokenizer: Any, loop: InnerLoop, job: AdapterJob) -> float:
    """Train a peft model on one job as the inner loop is documented to; returns the last epoch's mean step loss.

    Sources of a distillation are read as `Prompt.user` and `lead`, as a base model reads them.
    """
    ask = job.directives
    epochs, size = ask.epochs or loop.epochs, ask.batch_size or loop.batch_size
    peak, schedule = ask.learning_rate or loop.learning_rate, ask.schedule or loop.schedule
    rows = [encode(sequence, tokenizer) for sequence in job.training_sequences]
    parameters = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=peak, weight_decay=0.0)
    shuffle = random.Random(job.seed)
    batches = []
    for _ in range(epochs):
        order = list(range(len(rows)))
        shuffle.shuffle(order)
        batches += [order[at : at + size] for at in range(0, len(order), size)]
    losses = []
    for step, batch in enumerate(batches):
        share = {"linear": 1 - step / len(batches), "cosine": (1 + math.cos(math.pi * step / len(batches))) / 2}
        for group in optimizer.param_groups:
            group["lr"] = peak * share.get(schedule, 1.0)
        targets = sum(len(tokens) - max(1, prompt) for tokens, prompt in (rows[index] for index in batch))
        weights = {loop.objective: 1.0} if isinstance(loop.objective, str) else loop.objective
        learners = [job.training_sequences[index] for index in batch] if "distill" in weights else []
        taught = sum(len(teacher(adapted, sequence, tokenizer)) for sequence in learners)
        loss = 0.0
        for index in batch:
            (tokens, prompt), sequence = rows[index], job.training_sequences[index]
            first = max(1, prompt)
            found = logits(adapted, tokens)
            expected = torch.tensor(tokens[first:], device=found.device)
            part = functional.cross_entropy(found[first - 1 : -1], expected, reduction="sum") / targets
            part = part * weights.get("sft", 0.0)
            if "distill" in weights:
                last = tokens[: len(tokens) - 1]  # without the EOS
                said = teacher(adapted, sequence, tokenizer)
                mine = found[len(last) - len(said) - 1 : len(last) - 1].log_softmax(-1)
                apart = functional.kl_div(mine, said, log_target=True, reduction="sum")
                part = part + apart * weights["distill"] / taught
            part.backward()
            loss += part.item()
        if loop.gradient_clip:
            torch.nn.utils.clip_grad_norm_(parameters, loop.gradient_clip)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss)
    last = losses[-(len(batches) // epochs) :]
    return sum(last) / len(last)


def told(sequence: TrainingSequence, tokenizer: Any) -> list[int]:
    """The tokens of a sequence that a teacher is asked about: its text without the heading."""
    return list(tokenizer(sequence.text.removeprefix(sequence.heading))["input_ids"])


@torch.no_grad()
def teacher(adapted: Any, sequence: TrainingSequence, tokenizer: Any) -> torch.Tensor:
    """What the model without its adapter says in place of them behind the source, log probabilities (n, V).

    The first token of a sequence that begins with them is left out: nothing comes before it.
    """
    assert sequence.source is not None, "a distillation has a source"
    asked, own = sequence.source.user + sequence.source.lead + sequence.prompt, told(sequence, tokenizer)
    with adapted.disable_adapter():
        said = logits(adapted, [*tokenizer(asked)["input_ids"], *own])
    return said[-len(own) - 1 + (not (sequence.heading or sequence.prompt)) : -1].log_softmax(-1)


def encode(sequence: TrainingSequence, tokenizer: Any) -> tuple[list[int], int]:
    """Tokens of one sequence with its EOS, and how many of them are the prompt; for byte tokenizers."""
    prompt = tokenizer(sequence.prompt)["input_ids"] if sequence.prompt else []
    return [*prompt, *tokenizer(sequence.text)["input_ids"], tokenizer.eos_token_id], len(prompt)


def logits(model: Any, tokens: Sequence[int]) -> torch.Tensor:
    """Of one sequence alone, (T, V): no padding, no mask, no cache."""
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    cached = "use_cache" in inspect.signature(plain.forward).parameters
    ids = torch.tensor([list(tokens)], device=next(model.parameters()).device)
    return model(input_ids=ids, **({"use_cache": False} if cached else {})).logits[0]


def trained_weights(adapted: Any) -> dict[str, torch.Tensor]:
    """A and B by the names that PEFT folders have."""
    return {
        name.replace(".default", ""): parameter.detach()
        for name, parameter in adapted.named_parameters()
        if "lora_" in name
    }


@torch.no_grad()
def continued(model: Any, prompt: Sequence[int], *, tokens: int) -> list[int]:
    """The most likely `tokens` tokens after a prompt; everything is computed anew for each of them."""
    row = list(prompt)
    for _ in range(tokens):
        row.append(int(logits(model, row)[-1].argmax()))
    return row[len(prompt) :]
