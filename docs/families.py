"""Writes docs/reference/families.md: which families of models are exact, and by which way.

    python docs/families.py                     measure all families (some minutes) and write the page
    python docs/families.py bloom gpt_oss       measure these and print their rows

Every family is a tiny model with random weights (`random/<family>`). What the bank makes of three adapters at once is
compared with plain peft, one adapter, one sequence and one prompt at a time (docs/plain_peft.py): the adapters after
training, greedy answers, and the logits of the exported folder and of merged weights. tests/adapters/test_families.py
measures the same and holds the outcomes as a table.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import plain_peft
import torch
from peft import PeftModel
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as PEFT_DEFAULTS

from seal_lightning.adapters import adapter_state, merge_lora, read_lora
from seal_lightning.adapters.bank import find_targets
from seal_lightning.errors import ConfigError, ModelError
from seal_lightning.inner_loop import InnerLoop, TrainedBank
from seal_lightning.isolation import answering_way, training_way
from seal_lightning.policy import Policy
from seal_lightning.sampling.generation import generate_all
from seal_lightning.tiny import build_tiny
from seal_lightning.types import AdapterJob, Directives, TrainingSequence

LOOP = InnerLoop(rank=4, alpha=8, target_modules="all-linear", learning_rate=1e-2, epochs=2, batch_size=2)
TOLERANCE = 1e-3  # of the largest B
SAME_LOGITS = 1e-4
NEW = 8  # tokens of an answer
TEXT = "The lamp of the tarn burned until dawn and oil ran out in the copper mill."


def jobs() -> list[AdapterJob]:
    """Three adapters that share steps with each other, in sequences of 2 to 40 tokens; some with a prompt."""

    def sequences(*shapes: tuple[int, int, int]) -> tuple[TrainingSequence, ...]:
        return tuple(TrainingSequence(TEXT[at : at + n], prompt=TEXT[at + n :][:m]) for at, n, m in shapes)

    return [
        AdapterJob(sequences((0, 39, 0), (7, 2, 0), (3, 16, 0), (20, 8, 5)), seed=11),
        AdapterJob(
            sequences((30, 8, 0), (12, 20, 9), (41, 1, 0)), seed=12, directives=Directives(learning_rate=2e-2)
        ),
        AdapterJob(sequences((25, 30, 0), (2, 3, 14)), seed=13, directives=Directives(epochs=3, schedule="constant")),
    ]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was found for one family: a way where it is exact, a reason where it was refused, else what differs."""

    training: str
    answering: str
    export: str


def ways(model: Any) -> tuple[str, str]:
    """The ways in which adapters are trained together and answer on this model."""
    layers = [target.name for target in find_targets(model, "all-linear")]
    return str(training_way(model, layers, longest=41)), str(answering_way(model, layers))


def measure(family: str) -> Outcome:
    """Hold everything that the bank does with a family against plain peft."""
    model, tokenizer = build_tiny(family)
    model.requires_grad_(False)
    try:
        training, answering = ways(model)
        trained = LOOP.adapt(model, tokenizer, jobs())
    except (ModelError, ConfigError) as error:
        return Outcome(*[f"refused: {error}"] * 3)
    wrong = _training_differs(family, LOOP, trained)
    if not wrong and model.config.model_type in PEFT_DEFAULTS:
        loop = InnerLoop(**{**vars(LOOP), "target_modules": "default"})
        wrong = _training_differs(family, loop, loop.adapt(model, tokenizer, jobs()), which="default layers: ")
    return Outcome(
        wrong or training,
        _or_refused(_answers_differ, family, trained) or answering,
        _export_differs(family, trained) or "equal",
    )


def _or_refused(check: Callable[..., str], *arguments: Any) -> str:
    try:
        return check(*arguments)
    except (ModelError, ConfigError) as error:
        return f"refused: {error}"


def _training_differs(family: str, loop: InnerLoop, trained: TrainedBank, which: str = "") -> str:
    """How far the trained adapters are from each trained alone; empty where that is float noise."""
    layers = [target.name for target in trained.bank.targets]
    for number, job in enumerate(jobs()):
        model, tokenizer = build_tiny(family)
        alone = plain_peft.fresh_adapter(model, layers, rank=loop.rank, alpha=loop.alpha, seed=job.seed)
        loss = plain_peft.train(alone, tokenizer, loop, job)
        expected, state = plain_peft.trained_weights(alone), adapter_state(trained.bank, number)
        if state.keys() != expected.keys():
            return f"{which}other layers: {sorted(state.keys() ^ expected.keys())[0]}"
        largest = max(value.abs().max().item() for name, value in expected.items() if ".lora_B." in name)
        off = max((state[name] - expected[name]).abs().max().item() for name in state) / largest
        if not off <= TOLERANCE:
            return f"{which}differs by {off:.2g} of the largest B"
        if not abs(trained.stats[number].loss - loss) <= TOLERANCE * loss:
            return f"{which}loss {trained.stats[number].loss:.5f}, alone {loss:.5f}"
        if largest < 1e-3:
            return f"{which}nothing was learnt: the largest B is {largest:.2g}"
    return ""


@torch.no_grad()
def _answers_differ(family: str, trained: TrainedBank) -> str:
    """How many answers of a mixed batch are not those of each prompt alone; empty where all are."""
    policy = Policy(trained.bank.model, build_tiny(family)[1], chat=False)
    prompts = [policy.encode(TEXT[at : at + n]) for at, n in ((0, 40), (5, 3), (11, 17), (2, 9), (30, 1), (9, 9))]
    asked = [2, 0, None, 1, 0, 2]
    alone = {job: _adapted(family, trained, job) for job in set(asked)}
    for who in ([None] * len(asked), asked):
        free = [plain_peft.continued(alone[job], p, tokens=NEW) for job, p in zip(who, prompts, strict=True)]
        for stop in (None, _stop(free)):  # with it rows leave the batch one after another
            ends = {stop, policy.tokenizer.eos_token_id}
            expected = [list(takewhile(lambda token: token not in ends, row)) for row in free]
            policy.model.generation_config.eos_token_id = stop
            written = generate_all(policy, prompts, size=64, max_new_tokens=NEW, adapters=trained, jobs=who)
            texts = [policy.tokenizer.decode(row, skip_special_tokens=True) for row in expected]
            found = [text for text, _ in written]
            if wrong := sum(text != other for text, other in zip(found, texts, strict=True)):
                kind = "with adapters" if any(job is not None for job in who) else "without adapters"
                return f"{wrong} of {len(prompts)} answers {kind} differ" + (" where rows end" if stop else "")
    return ""


def _stop(rows: list[list[int]]) -> int:
    """A token at which some rows end early and others do not."""
    tokens = {token for row in rows for token in row}
    return max(tokens, key=lambda token: (sum(token in row[1:] for row in rows) % len(rows), token))


def _adapted(family: str, trained: TrainedBank, job: int | None) -> Any:
    """A plain peft model with one adapter of the bank; the plain model for None."""
    model = build_tiny(family)[0]
    if job is None:
        return model
    layers = [target.name for target in trained.bank.targets]
    adapted = plain_peft.fresh_adapter(model, layers, rank=LOOP.rank, alpha=LOOP.alpha, seed=0)
    weights, state = plain_peft.trained_weights(adapted), adapter_state(trained.bank, job)
    for name, weight in weights.items():
        weight.copy_(state[name])
    return adapted


@torch.no_grad()
def _export_differs(family: str, trained: TrainedBank) -> str:
    """How far the logits of the saved folder, and of weights with it merged in, are from the bank's."""
    tokens = build_tiny(family)[1](TEXT)["input_ids"][:40]
    plain = plain_peft.logits(trained.bank.model, tokens)
    with trained.answering([1]):
        expected = plain_peft.logits(trained.bank.model, tokens)
    if not (plain - expected).abs().max().item() > 1e-3:
        return "the adapter does nothing"
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        trained.save(1, folder)
        loaded = PeftModel.from_pretrained(build_tiny(family)[0], folder).eval()
        merged = build_tiny(family)[0]
        merge_lora(merged, read_lora(folder))
    keys = [str(one.message) for one in said if "missing" in str(one.message) or "unexpected" in str(one.message)]
    if keys:
        return f"loading it warns: {keys[0][:80]}"
    for what, model in (("folder", loaded), ("merged weights", merged)):
        off = (plain_peft.logits(model, tokens) - expected).abs().max().item()
        if not off <= SAME_LOGITS:
            return f"{what}: logits differ by {off:.2g}"
    return ""


def main(arguments: list[str]) -> int:
    import time
    import traceback
    from seal_lightning.tiny import FAMILIES
    for family in arguments or FAMILIES:
        t = time.time()
        try:
            o = measure(family)
            print(f"{family:20s} train: {o.training} | answer: {o.answering} | export: {o.export}  ({time.time()-t:.1f}s)", flush=True)
        except Exception as e:
            tb = traceback.extract_tb(e.__traceback__)
            print(f"{family:20s} CRASH {type(e).__name__}: {str(e)[:160]!r} at {[f'{f.filename[-40:]}:{f.lineno}' for f in tb[-3:]]} in {[f.name for f in tb if 'families.py' in f.filename]}  ({time.time()-t:.1f}s)", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
