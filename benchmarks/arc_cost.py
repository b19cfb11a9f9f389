"""What `seal fit --config configs/arc/llama3.2-1b.yaml` costs on a GPU: counted without the model, nothing is run.

    python benchmarks/arc_cost.py [--tflops 93] [--decode 40] [--gpu H100]

Every valid self-edit of one to four epochs is built for the puzzles that the configuration takes, as the run builds it.
A cell is a token, as are a line end, `Input` and `:`. A trained token costs 4 FLOP a parameter of the frozen model (no
gradient of its weights) and 6 a parameter of the adapter; `--tflops` is what the GPU reaches on such steps. A decoding
step of a unit's edits or answers takes `--decode` milliseconds, and each unit makes as many as it may. Left out are the
M-step, about 1 % of the FLOP, and loading. Needs the extra `arc`.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import fmean

import torch
import yaml
from transformers import LlamaConfig, LlamaForCausalLM

from seal_lightning.data import ArcKit, SEALDataModule
from seal_lightning.errors import ConfigError
from seal_lightning.report.gpu_prices import read_gpu_prices
from seal_lightning.tasks.arc import ArcTask
from seal_lightning.tasks.arc.augmentations import FAMILIES
from seal_lightning.tasks.arc.edit import ArcEdit, write_edit
from seal_lightning.types import Context

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
CONFIG, PRICES = CONFIGS / "arc" / "llama3.2-1b.yaml", CONFIGS / "gpu_prices.yaml"
# Llama-3.2-1B-Instruct, from its config.json on the hub.
MODEL = LlamaConfig(hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
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
        model = LlamaForCausalLM(MODEL)
    frozen = sum(parameter.numel() for parameter in model.parameters())
    layers = [layer for name, layer in model.named_modules() if name.rpartition(".")[2] in targets]
    adapter = sum(rank * sum(layer.weight.shape) for layer in layers if isinstance(layer, torch.nn.Linear))
    print(f"parameters: {frozen / 1e9:.2f} billion, {adapter / 1e6:.0f} million of an adapter")
    return 4.0 * frozen + 6.0 * adapter


def main() -> None:
    options = read_options()
    config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    model, data = config["model"], config["data"]
    task, loop = ArcTask(**model["task"]["init_args"]), model["inner_loop"]
    limits = {name: data[name] for name in ("shuffle_seed", "limit_train", "limit_validation")}
    readers = {split: ArcKit(**data[split]["init_args"]) for split in ("train", "validation")}
    module = SEALDataModule(**readers, **limits)
    module.setup("fit")
    train = [work_of(task, context) for context in module.train_contexts]
    held_out = [work_of(task, context) for context in module.validation_contexts]
    rounds = config["trainer"]["max_epochs"]
    edits = rounds * model["e_step"]["edits"]  # of a puzzle, in all rounds
    tried = (rounds + 1) * model["evaluation"]["edits"]  # of a held-out one, in all validations
    print(
        f"{len(train)} puzzles x {edits} edits, {len(held_out)} held-out ones x {tried} and 2 baselines: "
        f"{len(train) * edits + len(held_out) * (tried + 2)} adapters"
    )
    baselines = sum(work.alone * loop["epochs"] + work.example for work in held_out)
    steps = model["sampler"]["init_args"]["max_new_tokens"] + model["max_answer_tokens"]
    decoding = steps * (rounds * len(train) + (rounds + 1) * len(held_out)) * options.decode / 1000
    flop = flop_of_token(loop["rank"], loop["target_modules"])
    print("| every edit is | million tokens | PFLOP | GPU hours | dollars |\n|---|---|---|---|---|")
    for name in ("example", "mean", "most"):
        tokens = baselines + sum(edits * getattr(work, name) for work in train)
        tokens += sum(tried * getattr(work, name) for work in held_out)
        hours = (tokens * flop / (options.tflops * 1e12) + decoding) / 3600
        counted = f"{tokens / 1e6:.0f} | {tokens * flop / 1e15:.0f}"
        print(f"| {name} | {counted} | {hours:.1f} | {hours * options.dollars:.2f} |")


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tflops", type=float, default=93.0, help="10^12 FLOP a second on these steps")
    parser.add_argument("--decode", type=float, default=40.0, help="milliseconds of a decoding step")
    parser.add_argument("--gpu", default="H100", help="whose price an hour, of configs/gpu_prices.yaml")
    options = parser.parse_args()
    try:
        options.dollars = float(read_gpu_prices(str(PRICES)).an_hour(options.gpu) or 0)
    except ConfigError as error:
        parser.error(f"--gpu {options.gpu}: {error}")
    return options


if __name__ == "__main__":
    main()
