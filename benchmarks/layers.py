"""What do adapters of some layers alone learn? In the lab, with ideal edits and with those of the untrained policy.

    OMP_NUM_THREADS=1 python benchmarks/layers.py --folder DIR [--seeds 5] [--first-seed 41]

Every choice of layers trains on the same edits of the same held-out towns, with the settings of the quickstart; a seed
changes the towns, the sampling and the adapters. `known` is the accuracy that adapters of ideal edits leave on towns
that the model knew before (12 of them, asked with the first four adapters of a seed). Intervals are 95 % bootstrap
intervals that draw seeds first and then contexts. What is measured is kept in DIR; broken off, it goes on from there.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from seeds import Scores, print_table

from seal_lightning.e_step.closed_book import ask_closed_book
from seal_lightning.e_step.plan import Plan
from seal_lightning.e_step.step import EStep
from seal_lightning.grading import ExactMatch, Reward
from seal_lightning.inner_loop.loop import InnerLoop
from seal_lightning.lab import KnownTowns, LabPassages
from seal_lightning.models.loading import load_model
from seal_lightning.models.source import ModelSource
from seal_lightning.policy.policy import Policy
from seal_lightning.sampling import LocalSampler, WrittenEdits
from seal_lightning.tasks import Knowledge
from seal_lightning.types import AdapterJob, Context

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "quickstart.yaml"
TOWNS, EDITS, KNOWN, ASKED = 12, 2, 12, 4


def lab_policy() -> Policy:
    model, tokenizer, chat = load_model(ModelSource(name="lab"))
    model.requires_grad_(False).eval()
    return Policy(model, tokenizer, chat)


def lab_step(seed: int, sampler: Any) -> EStep:
    """The E-step of the quickstart, for one seed."""
    options = yaml.safe_load(CONFIG.read_text())["model"]
    return EStep(
        Knowledge(),
        sampler,
        InnerLoop(**options["inner_loop"]),
        ExactMatch(),
        Reward(),
        Plan(edits=EDITS, repeats=1),
        seed=seed,
        max_answer_tokens=options["max_answer_tokens"],
    )


def with_edits(policy: Policy, seed: int) -> list[Context]:
    """The held-out towns of a seed, each with its ideal edit and those that the untrained policy samples."""
    options = yaml.safe_load(CONFIG.read_text())["model"]["sampler"]["init_args"]
    contexts = LabPassages("validation", count=TOWNS, seed=seed).read()
    rollouts = lab_step(seed, LocalSampler(**options)).write_edits(policy, contexts, round=0)
    sampled = {context.id: tuple(r.text for r in rollouts if r.context_id == context.id) for context in contexts}
    return [replace(context, edits=(*context.edits[:1], *sampled[context.id])) for context in contexts]


def measure(policy: Policy, seed: int, layers: str, contexts: list[Context]) -> Scores:
    """The scores of every context, by row."""
    step = lab_step(seed, WrittenEdits())
    loop = replace(step.inner_loop, layers=layers)
    step = replace(step, inner_loop=loop, plan=Plan(edits=1 + EDITS, repeats=1))
    rollouts = step.run(policy, contexts, round=0)
    ideal = [one for one in rollouts if one.edit_index == 0]
    by_context = [[r.score for r in rollouts if r.context_id == c.id and r.edit_index > 0] for c in contexts]
    known = KnownTowns(count=KNOWN).read()
    edits = [step.task.parse(context.edits[0], context) for context in contexts[:ASKED]]
    jobs = [AdapterJob(e.training_sequences, seed=r.seed) for e, r in zip(edits, ideal, strict=False)]
    trained = loop.adapt(policy, jobs)
    left = [ask_closed_book(step, policy, known, jobs=[job] * len(known), trained=trained) for job in range(ASKED)]
    return {
        "base": [one.baseline for one in ideal],
        "ideal": [one.score for one in ideal],
        "untrained": [sum(scores) / len(scores) for scores in by_context],
        "known": [one.accuracy for answered in left for one in answered],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the measurements are kept")
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--first-seed", type=int, default=41)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    policy = lab_policy()
    depth = policy.model.config.num_hidden_layers
    choices = ["all", "attention", "mlp", "first half", "last half", *map(str, range(depth)), "q_proj, v_proj"]
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    found: dict[str, list[Scores]] = {choice: [] for choice in choices}
    for seed in seeds:
        contexts: list[Context] = []
        for choice in choices:
            path = options.folder / f"{seed}-{choice.replace(', ', '+').replace(' ', '-')}.json"
            if not path.exists():
                contexts = contexts or with_edits(policy, seed)
                path.write_text(json.dumps(measure(policy, seed, choice, contexts)))
                print(f"seed {seed}: {choice}", flush=True)
            found[choice].append(json.loads(path.read_text()))
    for row in ("ideal", "untrained", "known"):
        print(f"\n{row}")
        scores = [{choice: found[choice][number][row] for choice in choices} for number in range(len(seeds))]
        print_table(scores, seeds, rows=choices, head=("layers", row))


if __name__ == "__main__":
    main()
