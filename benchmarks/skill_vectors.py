"""Does what the M-step learnt help adapters that were trained without it? In the lab, closed-book on test towns.

    OMP_NUM_THREADS=1 python benchmarks/skill_vectors.py --folder DIR [--seeds 5] [--first-seed 41] [option ...]

Every seed makes a run of the quickstart (with these options), whose policy is a LoRA: the skill vector. Two self-edits
for each of twelve test towns are written by the base and two by the trained policy, beside the ideal one. Compared are,
on the same edits:

    adapter             trained on the plain base, and asked there
    + vector x 0.5, 1   the same adapters with the vector added after training (seal adapt --skill)
    on the policy       trained and asked on the policy, as a fit does and seal adapt --policy

and without any adapter the base and the policy. Intervals are 95 % bootstrap intervals that draw seeds first and then
towns. What is measured is kept in DIR; broken off, it goes on from there.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from layers import CONFIG, lab_policy, lab_step
from seeds import Scores, print_gain, print_table

from seal_lightning.commands.adapt.skill import read_skill
from seal_lightning.commands.quickstart import start_fit
from seal_lightning.e_step.closed_book import ask_closed_book
from seal_lightning.e_step.step import EStep
from seal_lightning.inner_loop.bank import bank_lora
from seal_lightning.inner_loop.loop import TrainedBank
from seal_lightning.inner_loop.lora_bank import lora_bank
from seal_lightning.lab import LabPassages
from seal_lightning.models.lora import stack
from seal_lightning.models.source import ModelSource
from seal_lightning.policy.loading import load_policy
from seal_lightning.policy.policy import Policy
from seal_lightning.sampling import LocalSampler
from seal_lightning.seeding import derive_seed
from seal_lightning.types import AdapterJob, Context

TOWNS, SCALES = 12, (0.5, 1.0)
Edits = dict[str, list[tuple[Context, str]]]  # by who wrote them


def edits_of(step: EStep, policy: Policy, contexts: Sequence[Context]) -> list[tuple[Context, str]]:
    by_id = {context.id: context for context in contexts}
    return [(by_id[one.context_id], one.text) for one in step.write_edits(policy, contexts, round=0)]


def jobs_of(step: EStep, edits: Sequence[tuple[Context, str]]) -> list[AdapterJob]:
    """An adapter for each edit; one that cannot be used trains nothing, and answers as the model without it."""
    parsed = [step.task.parse(text, context) for context, text in edits]
    return [
        AdapterJob(edit.training_sequences, seed=derive_seed("skill vectors", step.seed, number))
        for number, edit in enumerate(parsed)
    ]


def asked(step: EStep, policy: Policy, edits: Sequence[tuple[Context, str]], trained: TrainedBank) -> list[float]:
    """The accuracy on every town, averaged over its edits."""
    contexts = [context for context, _ in edits]
    answers = ask_closed_book(step, policy, contexts, jobs=list(range(len(edits))), trained=trained)
    by_town: dict[str, list[float]] = {}
    for context, answered in zip(contexts, answers, strict=True):
        by_town.setdefault(context.id, []).append(answered.accuracy)
    return [fmean(scores) for scores in by_town.values()]


def measure(run: Path, seed: int) -> Scores:
    """All rows of one seed."""
    base, contexts = lab_policy(), LabPassages("test", count=TOWNS, seed=seed).read()
    policy = load_policy(ModelSource(name="lab"), str(run), "cpu")
    step = lab_step(seed, LocalSampler(top_p=0.98, max_new_tokens=192))
    edits: Edits = {
        "ideal edits": [(context, context.edits[0]) for context in contexts],
        "untrained edits": edits_of(step, base, contexts),
        "trained edits": edits_of(step, policy, contexts),
    }
    scores: Scores = {}
    for name, model in (("base", base), ("policy", policy)):
        scores[name] = [one.accuracy for one in ask_closed_book(step, model, contexts)]
    for name, written in edits.items():
        jobs = jobs_of(step, written)
        trained = step.inner_loop.adapt(base, jobs)
        scores[f"{name}: adapter"] = asked(step, base, written, trained)
        loras = [bank_lora(trained.bank, job) for job in range(len(jobs))]
        for scale in SCALES:
            vector = read_skill(str(run), scale, base).lora
            both = TrainedBank(lora_bank(base.model, [stack([lora, vector]) for lora in loras]), trained.stats)
            scores[f"{name}: + vector x {scale:g}"] = asked(step, base, written, both)
        scores[f"{name}: on the policy"] = asked(step, policy, written, step.inner_loop.adapt(policy, jobs))
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where runs and measurements are kept")
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--first-seed", type=int, default=41)
    options, others = parser.parse_known_args()
    seeds, found = range(options.first_seed, options.first_seed + options.seeds), []
    for seed in seeds:
        run, path = options.folder / f"run-{seed}", options.folder / f"{seed}.json"
        if not path.exists():
            if not (run / "policy").is_dir():
                seeded = ["--model.seed", str(seed), "--data.seed", str(seed), *others]
                start_fit(run, *seeded, config=CONFIG, quiet=True).wait()
            path.write_text(json.dumps(measure(run, seed)))
            print(f"seed {seed}", flush=True)
        found.append(json.loads(path.read_text()))
    print_table(found, seeds, rows=found[0], head=("asked", "accuracy"))
    for row in found[0]:
        if "vector" in row or "policy" in row.partition(": ")[2]:
            print_gain(row, found, row, over=f"{row.partition(':')[0]}: adapter")


if __name__ == "__main__":
    main()
