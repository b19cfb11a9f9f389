"""What `benchmarks/generator.py` measures with one seed, in one process and one thread.

Each part adds rows to the seed's file of JSON lines as soon as it is measured; a part whose last row is there is not
repeated. Networks are kept beside it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import yaml
from generator_training import RECIPES, train

from seal_lightning.e_step.closed_book import ask_closed_book
from seal_lightning.e_step.step import EStep
from seal_lightning.generator.base import GeneratorNetwork
from seal_lightning.generator.lessons import read_for, text_of
from seal_lightning.generator.merging import Member, Way, keys_of, loras_of, make_merger, members_of
from seal_lightning.generator.policy import GeneratingPolicy
from seal_lightning.generator.reading import read_texts
from seal_lightning.generator.through_bank import fill_bank, make_bank
from seal_lightning.grading import ExactMatch, Reward
from seal_lightning.inner_loop.bank import bank_lora
from seal_lightning.inner_loop.loop import InnerLoop, TrainedBank
from seal_lightning.inner_loop.lora_bank import lora_bank
from seal_lightning.lab import ChangedTowns, KnownTowns, LabPassages
from seal_lightning.models.layers import find_targets
from seal_lightning.models.loading import load_model
from seal_lightning.models.lora import LoRA
from seal_lightning.models.source import ModelSource
from seal_lightning.policy.policy import Policy
from seal_lightning.records.journal import read_validations
from seal_lightning.results.accuracy import means_of
from seal_lightning.sampling import WrittenEdits
from seal_lightning.seeding import derive_seed
from seal_lightning.tasks import Knowledge
from seal_lightning.types import AdapterJob, Context, Prompt, Query

EDITOR = Path(__file__).resolve().parent.parent / "configs" / "quickstart.yaml"
WAYS: tuple[Way, ...] = ("sum", "concatenate", "least_squares")
BOOSTS = [(1, 1.5), (1, 2.0), (1, 3.0), (2, 1.5), (2, 2.0), (4, 1.5), (4, 2.0)]  # of the 4 layers that are adapted
FULL = 128  # a rank at which the lab's layers lose nothing
ANSWER = 4  # tokens


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many towns are held out, merged, known, and trained on; as many are changed as are known."""

    held_out: int
    merged: int
    known: int
    passages: int


class InContext(Knowledge):
    """Queries with the passages of some contexts before them.

    Args:
        shown: The passages by the id of the context that is asked about.
        as_for_edits: In the prompt for a self-edit, which the lab's model has learnt to read; else before the query.
    """

    def __init__(self, shown: Mapping[str, Sequence[Context]], *, as_for_edits: bool) -> None:
        super().__init__()
        self.shown, self.as_for_edits = shown, as_for_edits

    def query_prompt(self, query: Query, context: Context) -> Prompt:
        asked, shown = super().query_prompt(query, context), self.shown[context.id]
        passage = " ".join(one.passage for one in shown)
        if not self.as_for_edits:
            return replace(asked, user=f"{context.title}\n{passage}\n\n{asked.user}")
        prompt = self.prompt(replace(context, passage=passage))
        return replace(prompt, lead=f"{prompt.lead}\nQuestion: {query.question} Answer:")


def train_editor(run: Path, seed: int, *, held_out: int) -> float:
    """Train the text editor in a folder as `seal quickstart` does, in one thread; returns the seconds."""
    shutil.rmtree(run, ignore_errors=True)  # of a run that was cut
    options = {
        "trainer.default_root_dir": run,
        "model.seed": seed,
        "data.init_args.seed": seed,
        "data.init_args.held_out": held_out,
    }
    command = [sys.executable, "-m", "seal_lightning", "fit", "--config", str(EDITOR)]
    started = time.monotonic()
    with run.with_name(f"{run.name}.log").open("w") as log:
        subprocess.run(
            [*command, *(f"--{name}={value}" for name, value in options.items())],
            check=True,
            stdout=log,
            stderr=log,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
    return round(time.monotonic() - started, 1)


class Log:
    """The rows of a seed, on disk as they come."""

    def __init__(self, path: Path) -> None:
        self.path, self.started = path, time.monotonic()
        lines = path.read_text().splitlines() if path.exists() else []
        self.rows: list[dict[str, Any]] = [json.loads(line) for line in lines]
        self.done = {row["part"] for row in self.rows if row["row"] == "done"}
        self.rows = [row for row in self.rows if row["part"] in self.done]  # a part that was cut begins anew
        path.write_text("".join(json.dumps(row) + "\n" for row in self.rows))

    def add(self, part: str, row: str, **values: Any) -> None:
        self.rows.append({"part": part, "row": row, **values})
        with self.path.open("a") as file:
            file.write(json.dumps(self.rows[-1]) + "\n")
        shown = {name: round(fmean(value), 3) if name == "scores" else value for name, value in values.items()}
        told = ", ".join(f"{name} {value}" for name, value in shown.items())
        print(f"{self.path.stem} {time.monotonic() - self.started:5.0f} s  {part}: {row} {told}", flush=True)


class Seed:
    """The measurements of one seed.

    Args:
        folder: Where the seed's files are.
        seed: Of the towns, the networks and the adapters.
        sizes: How much is measured.
    """

    def __init__(self, folder: Path, seed: int, sizes: Sizes) -> None:
        self.folder, self.seed, self.sizes = folder, seed, sizes
        self.log = Log(folder / f"seed-{seed}.jsonl")
        self.task = Knowledge()
        self.held_out = LabPassages("validation", count=sizes.held_out, seed=seed).read()
        self.many = LabPassages("test", count=sizes.merged, seed=seed).read()
        self.known = KnownTowns(count=sizes.known).read()
        self.changed = ChangedTowns(count=sizes.known, skip=sizes.known, seed=seed).read()
        options = yaml.safe_load(EDITOR.read_text())["model"]["inner_loop"]
        self.inner_loop = InnerLoop(**options)

    @cached_property
    def policy(self) -> Policy:
        model, tokenizer, chat = load_model(ModelSource(name="lab"))
        model.requires_grad_(False).eval()
        return Policy(model, tokenizer, chat)

    def run(self) -> None:
        parts = {"editor": self.editor, "baselines": self.baselines}
        for name in RECIPES:
            parts |= {f"{part} {name}": getattr(self, part) for part in ("train", "one", "merge", "contradict")}
        parts |= {"merge the inner loop's": self.merge_trained, "contradict the inner loop's": self.contradict_trained}
        for part, measure in parts.items():
            if part not in self.log.done:
                measure(part)
                self.log.add(part, "done")
        if "end" not in self.log.done:
            self.log.add("end", "done")

    # -- asking ----------------------------------------------------------------------------------------------------

    def ask(
        self,
        contexts: Sequence[Context],
        loras: Sequence[LoRA] = (),
        jobs: Sequence[int] | None = None,
        task: Knowledge | None = None,
    ) -> list[float]:
        """The share of right answers about each context; context i is answered by adapter jobs[i], or i."""
        step = EStep(
            task or self.task, WrittenEdits(), self.inner_loop, ExactMatch(), Reward(), max_answer_tokens=ANSWER
        )
        if not loras:
            return [one.accuracy for one in ask_closed_book(step, self.policy, contexts)]
        trained = TrainedBank(lora_bank(self.policy.model, loras), ())
        numbers = list(range(len(contexts))) if jobs is None else list(jobs)
        return [one.accuracy for one in ask_closed_book(step, self.policy, contexts, jobs=numbers, trained=trained)]

    def in_turn(self, contexts: Sequence[Context], loras: Sequence[LoRA]) -> list[float]:
        """Contexts that the adapters have nothing to do with, answered by each in turn."""
        return self.ask(contexts, loras, [number % len(loras) for number in range(len(contexts))])

    # -- parts -----------------------------------------------------------------------------------------------------

    def editor(self, part: str) -> None:
        """Train the text editor as `seal quickstart` does; on the same held-out towns."""
        run = self.folder / f"editor-{self.seed}"
        seconds = train_editor(run, self.seed, held_out=self.sizes.held_out)
        found = read_validations(run)
        for kind, row in (("passage", "passage only"), ("written", "ideal edits")):
            self.log.add(part, row, scores=[one.score for one in found[0] if one.kind == kind])
        self.log.add(part, "base", scores=list(means_of(found[0], "base").values()))
        self.log.add(part, "text editor, untrained", scores=list(means_of(found[0], "edits").values()))
        trained = list(means_of(found[max(found)], "edits").values())
        self.log.add(part, "text editor, trained", scores=trained, seconds=seconds)

    def baselines(self, part: str) -> None:
        """What the model knows of the known towns, and what it reads in its context."""
        self.log.add(part, "known towns", scores=self.ask(self.known))
        self.log.add(part, "changed towns", scores=self.ask(self.changed))
        for as_for_edits, row in ((True, "in the prompt of a self-edit"), (False, "before the query")):
            for count, groups in self.groups():
                few = groups[: max(1, 30 // count)]  # long prompts take long
                self.log.add(part, f"{count} in context, {row}", **self.in_context(few, as_for_edits))
            changed = InContext({one.id: [one] for one in self.changed}, as_for_edits=as_for_edits)
            self.log.add(part, f"changed in context, {row}", scores=self.ask(self.changed, task=changed))

    def in_context(self, groups: Sequence[Sequence[Context]], as_for_edits: bool) -> dict[str, Any]:
        task = InContext({one.id: group for group in groups for one in group}, as_for_edits=as_for_edits)
        prompts = [
            self.policy.encode(self.policy.format(task.query_prompt(one.queries[0], one))) for (one, *_) in groups
        ]
        if (longest := max(map(len, prompts)) + ANSWER) > self.policy.window:
            return {"tokens": longest, "window": self.policy.window}
        return {"scores": self.ask([one for group in groups for one in group], task=task), "tokens": longest}

    def train(self, part: str) -> None:
        name = part.partition(" ")[2]
        run = self.folder / f"{name}-{self.seed}"
        shutil.rmtree(run, ignore_errors=True)
        started = time.monotonic()
        state = train(RECIPES[name], seed=self.seed, folder=run, passages=self.sizes.passages)
        torch.save(state, run.with_suffix(".pt"))
        self.log.add(part, "trained", seconds=round(time.monotonic() - started, 1))

    def network(self, name: str) -> GeneratorNetwork:
        network = RECIPES[name].generator.network(self.policy.model, seed=self.seed)
        network.load_state_dict(torch.load(self.folder / f"{name}-{self.seed}.pt", weights_only=True))
        return network.requires_grad_(False).eval()

    def generating(self, name: str) -> GeneratingPolicy:
        policy = self.policy
        return GeneratingPolicy(policy.model, policy.tokenizer, policy.chat, network=self.network(name))

    def texts(self, contexts: Sequence[Context]) -> list[str]:
        return [text_of(self.task, context) for context in contexts]

    def one(self, part: str) -> None:
        """One passage an adapter: held-out towns, known towns under adapters for others, and seconds."""
        policy = self.generating(part.partition(" ")[2])
        loras = [one.lora for one in members_of(policy, self.texts(self.held_out))]
        self.log.add(part, "held-out towns", scores=self.ask(self.held_out, loras))
        self.log.add(part, "known towns", scores=self.in_turn(self.known, loras))
        for row, size in (("seconds together", len(self.held_out)), ("seconds one by one", 1)):
            self.log.add(part, row, **self.seconds(policy, size))

    def seconds(self, policy: GeneratingPolicy, size: int) -> dict[str, float]:
        """Seconds a passage until its adapter is in a bank: generated, or trained on the passage or an ideal edit."""
        contexts = self.held_out if size > 1 else self.held_out[:6]
        parts = [contexts[start : start + size] for start in range(0, len(contexts), size)]
        spent: dict[str, float] = {}
        for name, make in (
            ("generated", lambda some: self.fill(policy, some)),
            ("trained on the passage", lambda some: self.trained(some, written=False)),
            ("trained on an ideal edit", lambda some: self.trained(some, written=True)),
        ):
            runs = []
            for _ in range(3):  # the fastest: what else the machine does is not to be measured
                started = time.perf_counter()
                for some in parts:
                    make(some)
                runs.append((time.perf_counter() - started) / len(contexts))
            spent[name] = round(min(runs), 5)
        return spent

    @torch.no_grad()
    def fill(self, policy: GeneratingPolicy, contexts: Sequence[Context]) -> None:
        adapters = policy.network(read_for(policy, self.texts(contexts)))
        fill_bank(make_bank(policy.network.settings, policy.model, slots=len(contexts), trainable=False), adapters)

    def trained(self, contexts: Sequence[Context], *, written: bool) -> list[LoRA]:
        """The inner loop's adapters, trained on passages or on ideal edits."""
        jobs = [
            AdapterJob(
                self.task.parse(one.edits[0], one).training_sequences if written else self.task.passage_sequences(one),
                derive_seed("benchmark", self.seed, one.id),
            )
            for one in contexts
        ]
        bank = self.inner_loop.adapt(self.policy, jobs).bank
        return [bank_lora(bank, job) for job in range(len(jobs))]

    def groups(self) -> Iterator[tuple[int, list[list[Context]]]]:
        """The towns to merge, in groups of 1, of 10, and all."""
        for count in dict.fromkeys((1, min(10, len(self.many)), len(self.many))):
            yield count, [self.many[start : start + count] for start in range(0, len(self.many), count)]

    def merge(self, part: str) -> None:
        policy = self.generating(part.partition(" ")[2])
        self.merged(part, members_of(policy, self.texts(self.many)), policy.network)

    def merge_trained(self, part: str) -> None:
        """The inner loop's adapters merged, with what their layers see of the passage as keys."""
        targets = find_targets(self.policy.model, self.inner_loop.target_modules)
        reading = read_texts(self.policy, self.texts(self.many), targets=targets)
        for written, row in ((False, "passages"), (True, "ideal edits")):
            loras = self.trained(self.many, written=written)
            members = [Member(lora, keys=keys) for lora, keys in zip(loras, keys_of(reading), strict=True)]
            self.merged(part, members, None, f", {row}")

    def merged(self, part: str, members: Sequence[Member], network: GeneratorNetwork | None, suffix: str = "") -> None:
        numbers = {context.id: number for number, context in enumerate(self.many)}
        for count, groups in self.groups():
            for way in WAYS if count > 1 else ("concatenate",):
                mergers = [make_merger(way, network=network, rank=FULL) for _ in groups]
                started = time.perf_counter()
                for merger, group in zip(mergers, groups, strict=True):
                    for context in group:
                        merger.add(context.id, members[numbers[context.id]])
                loras = [merger.merged().lora for merger in mergers]
                seconds = round((time.perf_counter() - started) / len(groups), 4)
                jobs = [number for number, group in enumerate(groups) for _ in group]
                scores = self.ask([context for group in groups for context in group], loras, jobs)
                known = self.in_turn(self.known, loras)
                self.log.add(part, f"{count} {way}{suffix}", scores=scores, known=fmean(known), seconds=seconds)

    def contradict(self, part: str) -> None:
        """Changed facts of known towns, with and without the largest changes boosted, and what boosting costs."""
        policy = self.generating(part.partition(" ")[2])
        network = policy.network
        with torch.no_grad():
            changed = network(read_for(policy, self.texts(self.changed)))
            held_out = network(read_for(policy, self.texts(self.held_out)))
        for layers, factor in [(0, 1.0), *BOOSTS]:
            pairs = [changed, held_out]
            if layers:
                pairs = [network.boosted(one, layers=min(layers, len(one)), factor=factor) for one in pairs]
            of_changed, of_held_out = (loras_of(one, scale=network.scale) for one in pairs)
            scores = self.ask(self.changed, of_changed)
            new, known = self.ask(self.held_out, of_held_out), self.in_turn(self.known, of_changed)
            row = f"{layers} layers x {factor}"
            self.log.add(part, row, scores=scores, held_out=fmean(new), known=fmean(known))

    def contradict_trained(self, part: str) -> None:
        """Changed facts of known towns in the inner loop's adapters."""
        for written, row in ((False, "passages"), (True, "ideal edits")):
            loras = self.trained(self.changed, written=written)
            known = self.in_turn(self.known, loras)
            self.log.add(part, row, scores=self.ask(self.changed, loras), known=fmean(known))
