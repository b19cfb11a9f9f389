"""What adapters are trained towards, in the lab: next tokens, the frozen model with the passage before it, or both.

    python benchmarks/inner_objectives.py --seeds 5 --first-seed 51 [--folder DIR] [any option of seal fit]

Every objective gets fits of `configs/quickstart.yaml` with it; a seed changes the towns, the sampling and the adapters.
`known` is the accuracy on towns that the model knew before, which have nothing to do with the passages, when adapters
of the first held-out passages' self-edits are at work: of the untrained policy, and of the best one. Intervals are 95 %
bootstrap intervals that draw seeds first and then contexts.
"""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import yaml
from seeds import Scores, print_gain, print_table, read_options, sweep

from seal_lightning.e_step.closed_book import ask_closed_book
from seal_lightning.e_step.step import EStep
from seal_lightning.grading import ExactMatch, Reward
from seal_lightning.inner_loop.loop import InnerLoop
from seal_lightning.lab import KnownTowns, LabDataModule
from seal_lightning.models.source import ModelSource
from seal_lightning.policy.loading import load_policy
from seal_lightning.records.journal import read_fit, read_validations
from seal_lightning.results.accuracy import means_of
from seal_lightning.results.usage import total_seconds, total_tokens
from seal_lightning.sampling import WrittenEdits
from seal_lightning.tasks import Knowledge
from seal_lightning.types import AdapterJob, Context, Rollout

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "quickstart.yaml"
OBJECTIVES = {"sft": "sft", "distill": "distill", "both": "{sft: 0.5, distill: 0.5}"}
KNOWN, ASKED = 16, 6  # known towns, and the passages whose adapters are asked about them


def scores_of(run: Path) -> Scores:
    """The results of a fit by row: a score a held-out passage, or for `known` one for each adapter and town."""
    found = read_validations(run)
    scores: Scores = {"base": list(means_of(found[0], "base").values())}
    scores["passage"] = [rollout.score for rollout in found[0] if rollout.kind == "passage"]
    for name, round in (("before", 0), ("after", max(found))):
        scores[name] = list(means_of(found[round], "edits").values())
    path = run / "known.json"
    if not path.exists():
        path.write_text(json.dumps(known_of(run, found)))
    return {**scores, **json.loads(path.read_text())}


def known_of(run: Path, found: dict[int, list[Rollout]]) -> Scores:
    """What is left of the known towns: without an adapter, and with those of some self-edits."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    passages = LabDataModule(**config["data"]["init_args"]).held_out_passages()
    loop, known = InnerLoop(**config["model"]["inner_loop"]), KnownTowns(count=KNOWN).read()
    step = EStep(Knowledge(), WrittenEdits(), loop, ExactMatch(), Reward(), max_answer_tokens=4)
    left: Scores = {}
    for name, round, folder in (("before", 0, None), ("after", max(found), run / "policy")):
        policy = load_policy(ModelSource(name="lab"), str(folder) if folder else None, "cpu")
        if folder is None:
            left["known towns of the base"] = [one.accuracy for one in ask_closed_book(step, policy, known)]
        first = [one for one in found[round] if one.kind == "edit" and one.edit_index == 0 and one.status == "ok"]
        jobs = [_job(step, passages[one.context_id].context(one.context_id), one) for one in first[:ASKED]]
        trained = loop.adapt(policy, jobs)
        answered = [
            ask_closed_book(step, policy, known, jobs=[job] * len(known), trained=trained) for job in range(len(jobs))
        ]
        left[f"known {name}"] = [one.accuracy for some in answered for one in some]
    return left


def _job(step: EStep, context: Context, rollout: Rollout) -> AdapterJob:
    edit = step.task.read_edit(rollout.text, context)
    return AdapterJob(edit.training_sequences, seed=rollout.seed)


def cost_of(runs: Sequence[Path]) -> str:
    """Seconds of the inner loop in a fit's E-steps, and tokens that were trained and that a teacher read."""
    fits = [read_fit(run) for run in runs]
    seconds = fmean(total_seconds(rollouts).get("inner loop", 0.0) for rollouts in fits)
    tokens = [total_tokens(rollouts) for rollouts in fits]
    trained, teacher = (fmean(one.get(name, 0) for one in tokens) for name in ("trained", "teacher"))
    return f"inner loop {seconds:.1f} s a fit, {trained:,.0f} tokens trained, {teacher:,.0f} read by a teacher"


def main() -> None:
    options, others = read_options(__doc__, seeds=5)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="seal-objectives-"))
    runs: dict[str, list[Path]] = {}
    for name, objective in OBJECTIVES.items():
        asked = ["--model.inner_loop.objective", objective, *others]
        sweep(
            folder / name, options.seeds, *asked, config=CONFIG, seeded=("model.seed", "data.seed"), jobs=options.jobs
        )
        runs[name] = [next((folder / name).glob(f"*seed={seed}")) for seed in options.seeds]
    rows: list[Scores] = [{} for _ in options.seeds]
    for name, some in runs.items():
        for own, run in zip(rows, some, strict=True):
            found = scores_of(run)
            own |= {row: found.pop(row) for row in ("base", "known towns of the base")}
            own |= {f"{name}: {row}": values for row, values in found.items()}
    names = list(dict.fromkeys(row for own in rows for row in own))
    means = print_table(rows, options.seeds, rows=names, head=("held-out passages", "mean"))
    gains = {name: print_gain(name, rows, f"{name}: after", over=f"{name}: before") for name in runs}
    for name in ("distill", "both"):
        gains[f"{name} over sft"] = print_gain(f"{name} over sft", rows, f"{name}: after", over="sft: after")
    for name, some in runs.items():
        print(f"{name}: {cost_of(some)}")
    if options.json:
        options.json.write_text(json.dumps({"means": means, "gains": gains, "scores": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
