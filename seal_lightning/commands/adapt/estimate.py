"""The estimate of `seal adapt --dry_run`: tokens, time and memory, from a short trial.

The trial writes about one unit of passages, trains a few steps and asks a batch of questions; the rest is counting. A
single sequence or question takes nearly as long as a batch, so the batches of the trial are as large as the real ones.
Edits are assumed to be as long as those of the trial.
"""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle, islice
from statistics import fmean
from typing import TypeVar

import torch

from seal_lightning.commands.adapt.edits import EditChoice
from seal_lightning.commands.adapt.generated import TOGETHER
from seal_lightning.data.documents import Document
from seal_lightning.e_step.open_book import ask_open_book
from seal_lightning.e_step.plan import Plan
from seal_lightning.e_step.step import EStep
from seal_lightning.errors import NoMemoryError
from seal_lightning.generator.lessons import text_of
from seal_lightning.generator.merging import members_of
from seal_lightning.generator.policy import GeneratingPolicy
from seal_lightning.generator.reading import batches
from seal_lightning.inner_loop.loop import InnerLoop
from seal_lightning.inner_loop.whole import bytes_to_train, whole_training
from seal_lightning.models.layers import find_targets, parameters_of
from seal_lightning.policy.policy import Policy
from seal_lightning.progress.clock import Clock
from seal_lightning.progress.screen import duration
from seal_lightning.results.table import Table, to_markdown
from seal_lightning.sampling import LocalAnswerer, LocalSampler
from seal_lightning.seeding import derive_seed
from seal_lightning.text.plural import counted
from seal_lightning.types import AdapterJob, Context, Query, TrainingSequence

_Value = TypeVar("_Value")
STEPS = 3  # the first sets things up and is not timed
OUTSIDE_EDITS = 2  # from an editor elsewhere, which may charge for them


@dataclass(frozen=True, slots=True)
class Speeds:
    """How fast writing and answering were.

    Attributes:
        edit_tokens: Mean tokens of an edit.
        per_written: Seconds a written token.
        texts: Edits written at the same time.
        per_answer: Seconds an answer.
        answer_tokens: Mean tokens of an answer.
        answers: Answers given at the same time.
        sequences: Training sequences of an edit, or of a passage if passages are learnt themselves.
    """

    edit_tokens: float
    per_written: float
    texts: int
    per_answer: float
    answer_tokens: float
    answers: int
    sequences: tuple[TrainingSequence, ...]


@dataclass(slots=True)
class Estimate:
    """The estimate at work.

    Args:
        e_step: The E-step that writes, trains and asks.
        policy: The frozen policy.
        documents: The documents that are to be learnt.
        choice: How edits are made.
        loops: One for each way in which adapters are trained at the end: one a document, one for all.
        contexts_per_unit: Passages that are worked on together.
        generated: In how many ways a generator writes adapters instead: one a document, one for all.
        whole: Whether all weights are trained on all documents instead of a LoRA.
        unrelated: Answers to unrelated questions, in all.
        known: Unchanged documents, which only the adapter of all documents learns again.

    Attributes:
        rows: What is done, how often, with how many tokens, in how many seconds.
        trained: What the trial trained, in words.
    """

    e_step: EStep
    policy: Policy
    documents: Sequence[Document]
    choice: EditChoice
    loops: Sequence[InnerLoop]
    contexts_per_unit: int
    generated: int = 0
    whole: bool = False
    unrelated: int = 0
    known: Sequence[Document] = ()
    rows: list[tuple[str, str, float, float]] = field(default_factory=list)
    trained: list[str] = field(default_factory=list)

    def text(self) -> str:
        """The table, and what it rests on."""
        queries = sum(len(document.context.queries) for document in self.documents)
        answers, asked = queries * (1 + len(self.loops) + self.generated), self._asked_for_rewards()
        answers += sum(len(document.context.queries) for document in self.known)  # to the adapter of all
        trial = self._try_out(asked or answers)
        if self.choice.learn == "edits" and self.documents:
            self._writing(trial)
        if asked:
            self._rewards(trial, asked)
        for loop in self.loops:
            self._final_adapters(trial, loop)
        if self.generated:
            self._generated_adapters()
        if answers:
            self._add_answers("scores before and after", answers, trial)
            self._open_book(trial)
        if self.unrelated:
            self._add_answers("unrelated questions", self.unrelated, trial)
        self.rows.append(("together", "", sum(row[2] for row in self.rows), sum(row[3] for row in self.rows)))
        rows = [(name, amount, f"{tokens:,.0f}", _said(seconds)) for name, amount, tokens, seconds in self.rows]
        text = to_markdown(Table("", ("", "amount", "tokens", "time"), tuple(rows)))
        return f"{text}\n\n{self._assumed(trial)}\n{self._memory()}"

    @property
    def _passages(self) -> list[Context]:
        return _passages(self.documents)

    @property
    def _read(self) -> int:
        """Tokens of all passages."""
        return sum(self.policy.count(passage.passage) for passage in self._passages)

    @property
    def _adapters_a_passage(self) -> int:
        return self.choice.plan.edits * self.choice.plan.repeats

    def _asked_for_rewards(self) -> int:
        """Answers that the rewards of the edits take."""
        if not self.choice.rewarded or self.choice.plan.score_by != "queries":
            return 0
        own = self.choice.own.query_writer.count if self.choice.own else 0
        queries = sum(len(passage.queries) or own for passage in self._passages)
        return queries * (self._adapters_a_passage + 1)

    # -- the trial -----------------------------------------------------------------------------------------------------

    def _try_out(self, answers: int) -> Speeds:
        """Write about the first passages, and answer questions, of which the run will answer so many in all."""
        e_step, policy, passages = self.e_step, self.policy, self._passages or _passages(self.known)
        edit_tokens, per_written, texts, sequences = 0.0, 0.0, 0, e_step.task.passage_sequences(passages[0])
        if self.choice.learn == "edits" and self.documents:
            here = isinstance(e_step.sampler, LocalSampler)
            few = replace(e_step, plan=Plan(edits=min(OUTSIDE_EDITS, self.choice.plan.edits), repeats=1))
            some = passages[: self.contexts_per_unit] if here else passages[:1]
            edits, seconds = _timed(lambda: (e_step if here else few).write_edits(policy, some, round=0))
            counts = [edit.tokens.get("edit", 0) for edit in edits]
            edit_tokens, per_written, texts = fmean(counts), seconds / max(1, sum(counts)), len(counts)
            sequences = e_step.task.parse(edits[0].text, passages[0]).training_sequences or sequences
        known = [document.context for document in (*self.documents, *self.known)]
        queries = [(context, query) for context in known for query in context.queries]
        # a stand-in if there are none
        queries = queries or [(passages[0], Query(f"What is {known[0].title or 'this'}?", ("",)))]
        asked = [[query] for query in islice(cycle(queries), min(self._answered_together(queries), answers))]
        replies, answering = _timed(
            lambda: e_step.ask(policy, asked, clock=Clock(lambda progress: None)) if asked else []
        )
        return Speeds(
            edit_tokens=edit_tokens,
            per_written=per_written,
            texts=texts,
            per_answer=answering / max(1, len(asked)),
            answer_tokens=sum(reply.tokens for reply in replies) / max(1, len(asked)),
            answers=len(asked),
            sequences=sequences,
        )

    def _answered_together(self, queries: Sequence[tuple[Context, Query]]) -> int:
        answerer, policy = self.e_step.answerer, self.policy
        if not isinstance(answerer, LocalAnswerer):
            return 1
        prompts = [prompt for context, query in queries for prompt in self.e_step.task.query_prompts(query, context)]
        ids = [policy.encode(policy.format(prompt)) for prompt in prompts]
        return answerer.together(policy, ids, max_new_tokens=self.e_step.max_answer_tokens)

    def _train_a_little(self, loop: InnerLoop, trial: Speeds, *, adapters: int, per_adapter: int) -> float:
        """Seconds a token of a few steps, without the first step if there are others.

        As many of the run's `adapters` train side by side as in the run; `per_adapter` sequences limit a batch.
        """
        together = max(1, min(adapters, loop.slots(self.policy.model)))
        batch = max(1, min(loop.batch_size, per_adapter))
        self.trained.append(f"{counted(together, 'adapter')} with batches of {batch}")
        learnt = tuple(islice(cycle(trial.sequences), batch * STEPS))
        jobs = [AdapterJob(learnt, seed=derive_seed("estimate", number)) for number in range(together)]
        moments = [time.perf_counter()]

        def note(count: int) -> None:
            _wait()
            moments.append(time.perf_counter())

        trained = replace(loop, epochs=1).adapt(self.policy, jobs, on_step=note, until=[STEPS] * together)
        timed = moments[1:] if len(moments) > 2 else moments
        tokens = sum(stats.trained_tokens for stats in trained.stats) * (len(timed) - 1) / max(1, len(moments) - 1)
        return (timed[-1] - timed[0]) / max(1.0, tokens)

    def _train_all_a_little(self, loop: InnerLoop, trial: Speeds, *, sequences: int) -> float:
        """Seconds a token of a few steps of all weights, which change; nan where there is no memory for them."""
        batch = max(1, min(loop.batch_size, sequences))
        job = AdapterJob(tuple(islice(cycle(trial.sequences), batch * STEPS)), seed=0)
        moments = [time.perf_counter()]

        def note(count: int) -> None:
            _wait()
            moments.append(time.perf_counter())

        try:
            training = whole_training(replace(loop, epochs=1), self.policy, job)
            tokens = training.run(None, every=STEPS, keep=lambda state: None, on_step=note).trained_tokens
        except NoMemoryError as error:
            self.trained.append(f"all weights, for which there is no memory here ({error})")
            return math.nan
        self.trained.append(f"all weights with batches of {batch}")
        steps = len(moments) - 2  # `note` is called before the first step, too, and that one is not timed
        return (moments[-1] - moments[2]) / max(1.0, tokens * (steps - 1) / steps) if steps > 1 else math.nan

    # -- the counting --------------------------------------------------------------------------------------------------

    def _writing(self, trial: Speeds) -> None:
        tasks, edits, passages = self.e_step.task.by_edit, self.choice.plan.edits, self._passages
        written = len(passages) * edits * trial.edit_tokens
        read = 0
        for number, task in enumerate(tasks):  # of so many edits in turn
            asked = len(range(number, edits, len(tasks)))
            prompts = (self.policy.format(task.prompt(passage)) for passage in (passages if asked else ()))
            read += asked * sum(len(self.policy.encode(prompt)) for prompt in prompts)
        amount = f"{len(passages)} passages x {edits}"
        self.rows.append(("self-edits", amount, read + written, written * trial.per_written))

    def _rewards(self, trial: Speeds, asked: int) -> None:
        loop, each, passages = self.e_step.inner_loop, self._adapters_a_passage, len(self._passages)
        adapters = min(self.contexts_per_unit, passages) * each
        speed = self._train_a_little(loop, trial, adapters=adapters, per_adapter=len(trial.sequences))
        tokens = (passages * each * trial.edit_tokens + each * self._read) * loop.epochs
        self.rows.append(("their rewards: training", f"{passages * each} adapters", tokens, tokens * speed))
        self._add_answers("their rewards: answers", asked, trial)

    def _final_adapters(self, trial: Speeds, loop: InnerLoop) -> None:
        each, again = loop is self.e_step.inner_loop, _passages(self.known)
        passages = len(self._passages) + (0 if each else len(again))
        kept = (self.choice.keep or self.choice.plan.edits) if self.choice.learn == "edits" else 0
        sequences = len(trial.sequences) * (kept or 1) * (len(self.documents[0].passages) if each else passages)
        adapters = len(self.documents) if each else 1
        read = self._read + (0 if each else sum(self.policy.count(passage.passage) for passage in again))
        tokens = (read + passages * kept * trial.edit_tokens) * loop.epochs
        if self.whole:
            speed = self._train_all_a_little(loop, trial, sequences=sequences)
            self.rows.append(("all weights", "one for all", tokens, tokens * speed))
            return
        speed = self._train_a_little(loop, trial, adapters=adapters, per_adapter=sequences)
        amount = "one for each document" if each else "one for all"
        self.rows.append(("final adapters", amount, tokens, tokens * speed))

    def _generated_adapters(self) -> None:
        policy, task = self.policy, self.e_step.task
        assert isinstance(policy, GeneratingPolicy), "the command has loaded the generator"
        texts = [text_of(task, document.context) for document in self.documents]
        tokens, some = sum(policy.count(text) for text in texts), next(batches(policy, texts))
        _, seconds = _timed(lambda: members_of(policy, some))
        whole = seconds * len(texts) / len(some)
        self.rows.append(("adapters, generated", counted(len(texts), "document"), tokens, self.generated * whole))

    def _add_answers(self, name: str, answers: int, trial: Speeds) -> None:
        self.rows.append((name, f"{answers:,} answers", answers * trial.answer_tokens, answers * trial.per_answer))

    def _open_book(self, trial: Speeds) -> None:
        """Answers with the document in view, from those about the first document."""
        asked = [document.context for document in self.documents if document.context.queries]
        if not asked or self.e_step.task.asks_with_context:
            return
        some = replace(asked[0], queries=asked[0].queries[: max(1, trial.answers)])
        _, seconds = _timed(lambda: ask_open_book(self.e_step, self.policy, [some]))
        read = [self.policy.count(context.passage) for context in asked]
        tokens = sum(len(context.queries) * count for context, count in zip(asked, read, strict=True))
        per_token = seconds / max(1, len(some.queries) * read[0])
        answers = sum(len(context.queries) for context in asked)
        amount = f"{answers:,} answers"
        self.rows.append(("with the document in view", amount, tokens, tokens * per_token))

    def _assumed(self, trial: Speeds) -> str:
        """What the times assume."""
        written = f"edits of {trial.edit_tokens:.0f} tokens, written {trial.texts} at a time; " if trial.texts else ""
        answered = f"; answers {trial.answers} at a time" if trial.answers else ""
        trained = " and ".join(dict.fromkeys(self.trained))
        made = (
            "adapters as fast as the first ones" if self.generated else f"training as fast as a few steps of {trained}"
        )
        return f"assumed: {written}{made}{answered}"

    def _memory(self) -> str:
        model, loop = self.policy.model, self.e_step.inner_loop
        weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
        if isinstance(self.policy, GeneratingPolicy):
            settings, slots, each = self.policy.network.settings, TOGETHER, 4
            targets, rank, beside = settings.targets(model), settings.rank, ""
        else:
            slots, each, rank = loop.slots(model), 16, loop.rank
            targets, beside = find_targets(model, loop.target_modules), " with their optimizer"
        adapters = slots * each * parameters_of(targets, rank)
        beside_adapters = f"{_size(adapters)} for {slots} adapters at a time{beside}"
        if self.whole:
            beside_adapters = f"{_size(bytes_to_train(model))} to train them all (gradients, AdamW, float32 copies)"
        cuda = self.policy.device.type == "cuda"
        peak = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return (
            f"memory: {_size(weights)} of weights, {beside_adapters}, "
            f"{_size(peak)} at most in the trial {'on the GPU' if cuda else 'of the whole process'}"
        )


def _said(seconds: float) -> str:
    return "unknown" if math.isnan(seconds) else duration(seconds)


def _passages(documents: Sequence[Document]) -> list[Context]:
    return [passage for document in documents for passage in document.passages]


def _timed(work: Callable[[], _Value]) -> tuple[_Value, float]:
    started = time.perf_counter()
    done = work()
    _wait()
    return done, time.perf_counter() - started


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _size(count: float) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
