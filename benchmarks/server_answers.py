"""Greedy answers of adapters through a server that loads them, against the same adapters' answers here.

    python benchmarks/server_answers.py VAL.json --model MODEL --base_url http://127.0.0.1:8000/v1 --served NAME

MODEL is what the server holds, as a folder or on the hub. An adapter is trained on each of the first `--contexts`
passages, and asked their questions closed-book, here and there. `--policy FOLDER`, a `policy` that `seal fit` saved,
lies below them, so that the server gets the stack of both. Without an adapter the model itself is asked too. Printed
are the share of equal answers and where the others part. The server has to run in the same dtype: a near tie falls
differently in another.
"""

import argparse
import json
import logging
import time
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from statistics import fmean

import torch

from seal_lightning.data.detect import read_contexts
from seal_lightning.endpoints import Endpoint
from seal_lightning.inner_loop.loop import InnerLoop, TrainedBank
from seal_lightning.models.loading import load_model
from seal_lightning.models.lora import LoRA, merge_lora
from seal_lightning.models.lora_files import read_lora
from seal_lightning.models.source import ModelSource
from seal_lightning.policy.policy import Policy
from seal_lightning.sampling import AdapterServer, Answerer, Asked, LocalAnswerer, ServerAnswerer
from seal_lightning.tasks import Knowledge
from seal_lightning.types import AdapterJob, Context

Texts = list[tuple[str, str]]  # a question and what was answered


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="passages with questions, in any form that --data.train takes")
    parser.add_argument("--model", required=True)
    parser.add_argument("--base_url", required=True)
    parser.add_argument("--served", required=True, help="the model's name on the server")
    parser.add_argument("--kind", default="vllm", choices=["vllm", "sglang"])
    parser.add_argument("--policy", type=Path, help="PEFT folder of what rounds have taught the model")
    parser.add_argument("--contexts", type=int, default=24)
    parser.add_argument("--max_loaded", type=int, default=4, help="adapters that the server holds at one time")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--targets", default="all-linear")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--learning_rate", type=float, default=2e-3)
    parser.add_argument("--max_new_tokens", type=int, default=32)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--shown", type=int, default=10, help="answers that differ and are printed")
    parser.add_argument("--json", type=Path, help="also write all answers to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.basicConfig(level=logging.WARNING)
    policy = load_policy(options)
    contexts = read_contexts(options.data)[: options.contexts]
    trained = train(policy, contexts, options)
    server = AdapterServer(
        Endpoint(options.served, base_url=options.base_url, cache=None),
        kind=options.kind,
        max_loaded=options.max_loaded,
    )
    ways = {"here": LocalAnswerer(), "there": ServerAnswerer(server)}
    answers: dict[str, dict[str, Texts]] = {}
    for name, bank in {"without an adapter": None, "with adapters": trained}.items():
        answers[name] = {
            way: answer(policy, contexts, bank, answerer, options.max_new_tokens) for way, answerer in ways.items()
        }
        compare(name, answers[name]["here"], answers[name]["there"], options.shown)
    changed = fmean(
        bare != adapted for (_, bare), (_, adapted) in zip(*(answers[name]["here"] for name in answers), strict=True)
    )
    print(f"adapters change {changed:.1%} of the answers")
    if options.json:
        options.json.write_text(json.dumps(answers, ensure_ascii=False, indent=1) + "\n")


def load_policy(options: argparse.Namespace) -> Policy:
    """The model with what rounds have taught it merged into its weights, as at a round's end."""
    model, tokenizer, chat = load_model(ModelSource(options.model, dtype=options.dtype))
    learned: LoRA | None = read_lora(options.policy) if options.policy else None
    if learned:
        merge_lora(model, learned)
    return Policy(model.eval().requires_grad_(False), tokenizer, chat, learned=lambda: learned)


def train(policy: Policy, contexts: Sequence[Context], options: argparse.Namespace) -> TrainedBank:
    """An adapter on each passage."""
    inner_loop = InnerLoop(
        rank=options.rank,
        alpha=2.0 * options.rank,
        target_modules=options.targets,
        learning_rate=options.learning_rate,
        epochs=options.epochs,
    )
    task = Knowledge()
    jobs = [AdapterJob(task.passage_sequences(context), seed=number) for number, context in enumerate(contexts)]
    started = time.perf_counter()
    trained = inner_loop.adapt(policy, jobs)
    print(f"{len(jobs)} adapters trained in {time.perf_counter() - started:.0f} s")
    return trained


def answer(
    policy: Policy, contexts: Sequence[Context], trained: TrainedBank | None, answerer: Answerer, max_new_tokens: int
) -> Texts:
    """Every question of every context with what its adapter says, or the model itself without a bank."""
    task = Knowledge()
    asked = [
        Asked(job if trained else None, tuple(task.query_prompt(query, context) for query in context.queries))
        for job, context in enumerate(contexts)
    ]
    started = time.perf_counter()
    replies = answerer.answer(policy, asked, trained, max_new_tokens=max_new_tokens)
    texts = [text for reply in replies for text in reply.texts]
    print(f"{type(answerer).__name__}: {len(texts)} answers in {time.perf_counter() - started:.0f} s")
    questions = [query.question for context in contexts for query in context.queries]
    return list(zip(questions, texts, strict=True))


def compare(name: str, here: Texts, there: Texts, shown: int) -> None:
    """Print the share of equal answers, whole and as read, and where the first that differ part."""
    read = Knowledge().read_answer
    pairs = [(question, mine, other) for (question, mine), (_, other) in zip(here, there, strict=True)]
    equal = sum(mine == other for _, mine, other in pairs)
    alike = sum(read(mine) == read(other) for _, mine, other in pairs)
    print(
        f"{name}: {equal} of {len(pairs)} answers equal ({equal / len(pairs):.1%}), "
        f"{alike} ({alike / len(pairs):.1%}) as they are read"
    )
    for question, mine, other in [pair for pair in pairs if pair[1] != pair[2]][:shown]:
        same = sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(mine, other, strict=False)))
        print(f"  {question}\n    both: {mine[:same]!r}\n    here: {mine[same:]!r}\n    there: {other[same:]!r}")


if __name__ == "__main__":
    main()
