"""How much is learnt from 1, 4, 16 and 64 self-edits a passage, and who should write them? Budget curves in the lab.

    python benchmarks/budget.py --out FOLDER [--seeds 5] [--first-seed N] [--jobs 2] [--json FILE] [--small]

One adapter of the untrained model is trained on all edits of a passage together, so that the texts alone differ. Three
writers: the untrained policy with its one prompt, the policy after the two rounds of `configs/quickstart.yaml`, and the
untrained policy with an ensemble of four prompts that take turns. The lab's model can read no others: it is trained on
one instruction, and answers the package's further kinds with lines that are none. Its ensemble therefore varies what
stands around the passage.

Each budget is learnt in two ways: every text as it was written, and each training sequence once, as `seal adapt` does.
Questions are asked as edits ask them, and in words that no edit has. A seed changes towns, sampling and adapters. Each
runs in a process of its own with one thread, writes FOLDER/seed-N.jsonl as it goes, and goes on where it was cut; the
tables are made of all seeds that are finished, and `--seeds 0` only prints them. Intervals are 95 % bootstrap intervals
that draw seeds first and then towns within a seed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import yaml
from generator_seed import ANSWER, EDITOR, Log, train_editor
from seeds import interval, mean_of

from seal_lightning.e_step.closed_book import ask_closed_book
from seal_lightning.e_step.plan import Plan
from seal_lightning.e_step.step import EStep
from seal_lightning.grading import ExactMatch, Reward
from seal_lightning.inner_loop.loop import InnerLoop
from seal_lightning.lab import LabPassages
from seal_lightning.models.loading import load_model
from seal_lightning.models.source import ModelSource
from seal_lightning.policy.loading import load_policy
from seal_lightning.policy.policy import Policy
from seal_lightning.results.diversity import diversity, mean_diversity
from seal_lightning.sampling import LocalSampler, WrittenEdits
from seal_lightning.seeding import derive_seed
from seal_lightning.tasks import EDIT_KINDS, EditKind, Knowledge
from seal_lightning.types import AdapterJob, Context, TrainingSequence

SOURCE = ModelSource(name="lab")
WAYS = ("as written", "each once")
WORDINGS = ("ask", "name")
KNOWN = EDIT_KINDS["implications"]
TITLED = "Title: {title}\nPassage: {passage}"
ENSEMBLE = [
    EditKind(instruction=TITLED, lead=KNOWN.lead, name="no instruction"),
    EditKind(instruction=f"Study the passage below. {TITLED}", lead=KNOWN.lead, name="short instruction"),
    EditKind(instruction=f"{TITLED}\nPassage: {{passage}}", lead=KNOWN.lead, name="passage twice"),
    KNOWN,
]
WRITERS = {"untrained": Knowledge(), "trained": Knowledge(), "ensemble": Knowledge(kinds=list(ENSEMBLE))}


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many passages are learnt, and from how many edits."""

    passages: int
    budgets: tuple[int, ...]


WHOLE, SMALL = Sizes(passages=5, budgets=(1, 4, 16, 64)), Sizes(passages=2, budgets=(1, 2))


class BudgetSeed:
    """The measurements of one seed.

    Args:
        folder: Where the seed's files are.
        seed: Of towns, sampling and adapters.
        sizes: How much is measured.
    """

    def __init__(self, folder: Path, seed: int, sizes: Sizes) -> None:
        self.folder, self.seed, self.sizes = folder, seed, sizes
        self.log = Log(folder / f"seed-{seed}.jsonl")
        options = yaml.safe_load(EDITOR.read_text())["model"]
        self.inner_loop = InnerLoop(**options["inner_loop"])
        self.sampler = LocalSampler(**options["sampler"]["init_args"], batch_size=128)
        self.contexts = {
            wording: LabPassages("test", count=sizes.passages, seed=seed, wording=wording).read()
            for wording in WORDINGS
        }

    @cached_property
    def policy(self) -> Policy:
        model, tokenizer, chat = load_model(SOURCE)
        return Policy(model.requires_grad_(False).eval(), tokenizer, chat)

    def run(self) -> None:
        parts = {"editor": self.editor, **{f"texts {name}": self.texts for name in WRITERS}}
        parts |= {f"budget {budget}": self.budget for budget in self.sizes.budgets}
        for part, measure in parts.items():
            if part not in self.log.done:
                measure(part, part.partition(" ")[2])
                self.log.add(part, "done")
        if "end" not in self.log.done:
            self.log.add("end", "done")

    def step(self, task: Knowledge, *, edits: int = 1) -> EStep:
        plan = Plan(edits=edits, repeats=1)
        parts = (task, self.sampler, self.inner_loop, ExactMatch(), Reward())
        return EStep(*parts, plan=plan, seed=self.seed, max_answer_tokens=ANSWER)

    def editor(self, part: str, _: str) -> None:
        seconds = train_editor(self.folder / f"editor-{self.seed}", self.seed, held_out=self.sizes.passages)
        self.log.add(part, "trained", seconds=seconds)

    def texts(self, part: str, writer: str) -> None:
        """All edits of one writer, in a file beside the rows."""
        run = str(self.folder / f"editor-{self.seed}")
        policy = load_policy(SOURCE, run, "cpu") if writer == "trained" else self.policy
        step = self.step(WRITERS[writer], edits=max(self.sizes.budgets))
        written: dict[str, list[str]] = {}
        for rollout in step.write_edits(policy, self.contexts["ask"], round=0):
            written.setdefault(rollout.context_id, []).append(rollout.text)
        self.file(writer).write_text(json.dumps(written, indent=1))
        for budget in self.sizes.budgets:
            found = mean_diversity(each for some in written.values() if (each := diversity(some[:budget])))
            if found:
                figures = {name: getattr(found, name) for name in ("compression", "distinct", "similarity")}
                self.log.add(part, str(budget), **figures)

    def file(self, writer: str) -> Path:
        return self.folder / f"seed-{self.seed}.{writer}.json"

    def budget(self, part: str, budget: str) -> None:
        """One adapter for each writer, way and passage, all trained in one bank, asked in both wordings."""
        cells = [(writer, way) for writer in WRITERS for way in WAYS]
        contexts = self.contexts["ask"]
        jobs = [job for writer, way in cells for job in self.jobs(writer, way, int(budget))]
        trained = replace(self.inner_loop, max_adapters=len(jobs)).adapt(self.policy, jobs)
        scores = {
            wording: self.ask([*self.contexts[wording]] * len(cells), trained=trained, jobs=range(len(jobs)))
            for wording in WORDINGS
        }
        for number, (writer, way) in enumerate(cells):
            some = slice(number * len(contexts), (number + 1) * len(contexts))
            tokens = fmean(stats.trained_tokens for stats in trained.stats[some]) / self.inner_loop.epochs
            figures = {"scores": scores["ask"][some], "in other words": scores["name"][some], "tokens": tokens}
            self.log.add(part, f"{writer}, {way}", **figures)
        if budget == str(self.sizes.budgets[0]):
            base = {wording: self.ask(self.contexts[wording]) for wording in WORDINGS}
            self.log.add(part, "no adapter", scores=base["ask"], **{"in other words": base["name"]}, tokens=0.0)

    def ask(self, contexts: Sequence[Context], **adapters: Any) -> list[float]:
        step = replace(self.step(Knowledge()), sampler=WrittenEdits())
        return [one.accuracy for one in ask_closed_book(step, self.policy, contexts, **adapters)]

    def jobs(self, writer: str, way: str, budget: int) -> Iterator[AdapterJob]:
        """The adapters of all passages."""
        written = json.loads(self.file(writer).read_text())
        for context in self.contexts["ask"]:
            sequences = list(self.sequences(WRITERS[writer], context, written[context.id][:budget]))
            learnt = sequences if way == "as written" else dict.fromkeys(sequences)
            yield AdapterJob(tuple(learnt), derive_seed("budget", self.seed, context.id, writer, budget))

    def sequences(self, task: Knowledge, context: Context, texts: Sequence[str]) -> Iterator[TrainingSequence]:
        """What a passage's edits come to: each edit's lines, and the passage beside them."""
        for index, text in enumerate(texts):
            edit = task.for_edit(index).read_edit(text, context)
            yield from edit.training_sequences or task.passage_sequences(context)


def run_seed(folder: Path, seed: int, sizes: Sizes) -> None:
    """In a process of its own."""
    torch.set_num_threads(1)
    BudgetSeed(folder, seed, sizes).run()


# -- tables ------------------------------------------------------------------------------------------------------------

Rows = Mapping[tuple[str, str], Mapping[str, Any]]  # by part and row


def read(folder: Path) -> dict[int, Rows]:
    """The rows of every seed that is finished."""
    found = {}
    for path in sorted(folder.glob("seed-*.jsonl")):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        if any(row["part"] == "end" for row in rows):
            found[int(path.stem.partition("-")[2])] = {(row["part"], row["row"]): row for row in rows}
    return found


def figures_of(seeds: Sequence[Rows], part: str, row: str, key: str = "scores") -> dict[str, float]:
    """Mean and interval of an accuracy."""
    scores = [seed[part, row][key] for seed in seeds]
    low, high = interval(scores)
    return {"mean": mean_of(scores), "low": low, "high": high}


def curves(seeds: Sequence[Rows]) -> list[dict[str, Any]]:
    """A row for each way, writer and budget."""
    budgets = sorted({int(part.split()[1]) for part, _ in seeds[0] if part.startswith("budget")})
    rows = []
    for way in WAYS:
        for writer in WRITERS:
            for budget in budgets:
                part, row = f"budget {budget}", f"{writer}, {way}"
                texts = [seed[f"texts {writer}", str(budget)] for seed in seeds if budget > 1]
                names = ("compression", "distinct", "similarity")
                rows.append(
                    {
                        "way": way,
                        "writer": writer,
                        "edits": budget,
                        "tokens": fmean(seed[part, row]["tokens"] for seed in seeds),
                        "accuracy": figures_of(seeds, part, row),
                        "in other words": figures_of(seeds, part, row, "in other words"),
                        **{name: fmean(each[name] for each in texts) if texts else None for name in names},
                    }
                )
    return rows


def differences(seeds: Sequence[Rows], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """How far the trained writer is ahead of the others, paired by passage."""
    found = []
    for row in rows:
        if row["writer"] != "trained":
            part, way = f"budget {row['edits']}", row["way"]
            pairs = [[seed[part, f"{name}, {way}"]["scores"] for name in ("trained", row["writer"])] for seed in seeds]
            ahead = [[one - other for one, other in zip(*pair, strict=True)] for pair in pairs]
            low, high = interval(ahead)
            over = {"way": way, "over": row["writer"], "edits": row["edits"]}
            found.append({**over, "mean": mean_of(ahead), "low": low, "high": high})
    return found


def share(found: Mapping[str, float]) -> str:
    return f"{100 * found['mean']:.1f} ({100 * found['low']:.1f} – {100 * found['high']:.1f})"


def print_tables(rows: Sequence[Mapping[str, Any]], ahead: Sequence[Mapping[str, Any]]) -> None:
    head = ("learnt", "writer", "edits", "tokens", "accuracy", "in other words", "compression", "distinct", "alike")
    print(f"| {' | '.join(head)} |")
    print("|" + "---|" * len(head))
    for row in rows:
        diverse = ("compression", "{:.2f}"), ("distinct", "{:.0%}"), ("similarity", "{:.2f}")
        cells = (
            row["way"],
            row["writer"],
            str(row["edits"]),
            f"{row['tokens']:,.0f}",
            share(row["accuracy"]),
            share(row["in other words"]),
            *(form.format(row[name]) if row[name] is not None else "–" for name, form in diverse),
        )
        print(f"| {' | '.join(cells)} |")
    print("\nThe trained writer ahead of the others, in points:\n")
    for one in ahead:
        points = f"{100 * one['mean']:+.1f} ({100 * one['low']:+.1f} to {100 * one['high']:+.1f})"
        print(f"- {one['way']}, {one['edits']} edits, over {one['over']}: {points}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the rows")
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--first-seed", type=int, default=31)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at a time")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--small", action="store_true", help="a try with little of everything")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    sizes = SMALL if options.small else WHOLE
    if options.seeds:
        with ProcessPoolExecutor(options.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
            seeds = range(options.first_seed, options.first_seed + options.seeds)
            for done in [pool.submit(run_seed, options.out, seed, sizes) for seed in seeds]:
                done.result()
    found = read(options.out)
    if not found:
        raise SystemExit(f"{options.out}: no seed is finished: give --seeds")
    rows = curves(list(found.values()))
    ahead = differences(list(found.values()), rows)
    base = {
        name: figures_of(list(found.values()), f"budget {rows[0]['edits']}", "no adapter", key)
        for name, key in (("accuracy", "scores"), ("in other words", "in other words"))
    }
    print(f"{len(found)} seeds; without an adapter {share(base['accuracy'])}\n")
    print_tables(rows, ahead)
    if options.json:
        result = {"seeds": list(found), "no adapter": base, "curves": rows, "trained ahead": ahead}
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
