"""Closed-book answers by many adapters in one batch against one adapter after another.

    python benchmarks/answering.py --model lab --adapters 64 --queries 9 [--json FILE]

Both ways use the same trained bank, prompts and generation code; they must give the same tokens.
"""

import argparse
import json
import random
import statistics
import time
from types import SimpleNamespace

import torch
from shapes import Digits, add_options, draw_jobs, machine, make_model, settings_of

from seal_lightning.policy.policy import Policy
from seal_lightning.sampling.generation import batches, generate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--adapters", type=int, default=64)
    parser.add_argument("--queries", type=int, default=9, help="of each adapter")
    parser.add_argument("--new_tokens", type=int, default=8)
    parser.add_argument("--batch", type=int, help="queries answered together (model.answer_batch); all by default")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = make_model(options.model, getattr(torch, options.dtype), options.device)
    model.generation_config.eos_token_id = None
    policy = Policy(model, SimpleNamespace(pad_token_id=0, eos_token_id=None), chat=False)
    jobs = draw_jobs(options.adapters, vocabulary=model.config.vocab_size, epochs=1, seed=options.seed)
    trained = settings_of(options, None).adapt(Policy(model, Digits(), chat=False), jobs)
    draw = random.Random(options.seed)
    owners = [job for job in range(options.adapters) for _ in range(options.queries)]
    prompts = [[draw.randrange(3, model.config.vocab_size) for _ in range(draw.randint(16, 28))] for _ in owners]

    def answer(rows: list[int]) -> list[list[int]]:
        with trained.answering([owners[row] for row in rows]) as adapters:
            wanted = [prompts[row] for row in rows]
            return generate(policy, wanted, max_new_tokens=options.new_tokens, on_keep=adapters.keep)

    def together() -> list[list[int]]:
        sizes = {"size": options.batch or len(prompts), "max_new_tokens": options.new_tokens, "by_length": False}
        return [text for rows in batches(policy, prompts, **sizes) for text in answer(rows)]

    def one_by_one() -> list[list[int]]:
        mine = [[row for row, owner in enumerate(owners) if owner == job] for job in range(options.adapters)]
        return [text for rows in mine for text in answer(rows)]

    seconds = {together: [], one_by_one: []}
    texts = {}
    for _ in range(options.repeats):
        for way in seconds:
            started = time.perf_counter()
            texts[way] = way()
            seconds[way].append(time.perf_counter() - started)
    medians = {way.__name__: statistics.median(found) for way, found in seconds.items()}
    ratio = medians["one_by_one"] / medians["together"]
    same = statistics.fmean(a == b for a, b in zip(texts[together], texts[one_by_one], strict=True))
    print(f"{options.model}: {options.adapters} adapters x {options.queries} queries x {options.new_tokens} tokens; "
          f"{machine(options.device)}")  # fmt: skip
    print(f"together {medians['together']:.2f} s, one adapter after another {medians['one_by_one']:.2f} s: "
          f"{ratio:.1f} times faster; {same:.1%} equal answers")  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(options.device), **medians, "ratio": ratio}) + "\n")


if __name__ == "__main__":
    main()
