"""The E-step on one unit of work: sample self-edits, adapt, answer closed-book, score (arXiv 2506.10943, section 3.1).

    contexts -> baseline answers (once a context) -> self-edits -> adapters, many at once -> answers -> rollouts

A unit is a fixed group of contexts; what happens to it depends on the configuration and the policy alone, never on who
runs it or when. Nothing here knows Lightning or a distribution strategy: the policy is a plain, frozen module. Journal,
filter and the M-step come later.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any

from seal_lightning.errors import ConfigError, ModelError
from seal_lightning.grading import Grader, Reward
from seal_lightning.inner_loop import InnerLoop, TrainedBank
from seal_lightning.policy import Policy
from seal_lightning.sampling import Sampler, SampleRequest
from seal_lightning.sampling.generation import batches, generate
from seal_lightning.seeding import derive_seed
from seal_lightning.tasks import Task
from seal_lightning.types import AdapterJob, Context, Directives, Kind, Rollout, SelfEdit


@dataclass(frozen=True)
class Plan:
    """How much is tried on each context.

    Args:
        edits: Self-edits a context (paper: 5 for knowledge, 15 for ARC).
        repeats: Adapters trained for each self-edit, with different seeds; their rewards are averaged (paper: 3).
        passage_only: Also train one adapter on the passage alone, the paper's baseline for evaluation.
        written: Also train one on the first self-edit that the data carries for a context, where it does: the paper's
            comparison with a stronger model's edits. In a fit only before the first round, since they do not change.
    """

    edits: int = 5
    repeats: int = 3
    passage_only: bool = False
    written: bool = False

    def __post_init__(self) -> None:
        for name in ("edits", "repeats"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a unit is: `done` of `total` in `phase` (baseline, sampling, inner loop, answering)."""

    phase: str
    done: int
    total: int


Report = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One self-edit and repeat on its way to becoming a rollout."""

    context: Context
    kind: Kind
    edit_index: int
    repeat: int
    seed: int
    prompt: str
    edit: SelfEdit
    tokens: dict[str, int]


@dataclass(frozen=True, slots=True)
class _Outcome:
    answers: tuple[str, ...]
    steps: int
    trained_tokens: int
    answer_tokens: int


@dataclass(slots=True)
class _Clock:
    """Seconds by phase, and who to tell about progress."""

    report: Report
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        started, done = time.perf_counter(), 0
        self.report(Progress(name, 0, total))

        def advance(count: int) -> None:
            nonlocal done
            done += count
            self.report(Progress(name, done, total))

        yield advance
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


@dataclass(frozen=True)
class EStep:
    """The parts of the E-step; `run` is its verb.

    Attributes:
        task: What a context is and how an edit is prompted, parsed and asked about.
        sampler: Where self-edits come from.
        inner_loop: How adapters are trained.
        grader: Scores one answer in [0, 1].
        reward: Turns an edit's score and the baseline into the reward.
        seed: The run's seed.
        max_answer_tokens: Longest closed-book answer (paper: 64).
        answer_batch: Queries answered together.
    """

    task: Task
    sampler: Sampler
    inner_loop: InnerLoop
    grader: Grader
    reward: Reward
    seed: int = 0
    max_answer_tokens: int = 64
    answer_batch: int = 64

    def run(
        self, policy: Policy, contexts: Sequence[Context], *, plan: Plan, round: int, report: Report = lambda p: None
    ) -> list[Rollout]:
        """Roll out one unit.

        Args:
            policy: Frozen and in evaluation mode.
            contexts: The unit, each with its queries.
            plan: How many edits and repeats.
            round: Counted from 0; enters the seeds.
            report: Told about progress within the unit.

        Returns:
            One rollout for every (context, edit, repeat), in that order; rejected edits are among them.
        """
        clock = _Clock(report)
        baselines = self._baselines(policy, contexts, clock)
        attempts = self._attempts(policy, contexts, plan, round, clock)
        outcomes = self._adapt_and_answer(policy, attempts, clock)
        # seconds are shared evenly: adapters of a unit train together
        seconds = {phase: spent / max(1, len(attempts)) for phase, spent in clock.seconds.items()}
        return [
            self._rollout(attempt, outcome, baselines[attempt.context.id], round, seconds)
            for attempt, outcome in zip(attempts, outcomes, strict=True)
        ]

    def write_edits(
        self, policy: Policy, contexts: Sequence[Context], *, plan: Plan, round: int, report: Report = lambda p: None
    ) -> list[Rollout]:
        """Sample and parse self-edits without adapting; the rollouts carry no answers and no reward."""
        attempts = self._attempts(policy, contexts, plan, round, _Clock(report))
        return [self._rollout(attempt, None, (), round, {}) for attempt in attempts]

    def check_fits(self, policy: Policy, contexts: Sequence[Context]) -> None:
        """Fail early where a context's prompt or queries leave no room for an answer in the model's window.

        Raises:
            ModelError: Names the first such context, its tokens and the window.
        """
        for context in contexts:
            texts = [self.task.prompt(context), *(self.task.query_prompt(query, context) for query in context.queries)]
            longest = max(len(policy.encode(policy.format(text))) for text in texts)
            if longest + self.max_answer_tokens > policy.window:
                raise ModelError(
                    f"context {context.id!r} ({context.title!r}): its longest prompt has {longest} tokens, which with "
                    f"{self.max_answer_tokens} for the answer exceeds the model's window of {policy.window}; shorten "
                    "or split the passage, or use a model with a longer window"
                )

    def _baselines(self, policy: Policy, contexts: Sequence[Context], clock: _Clock) -> dict[str, tuple[str, ...]]:
        """What the policy answers without any adapter, once a context."""
        asked = [(context, None) for context in contexts]
        with clock.phase("baseline", sum(len(context.queries) for context in contexts)) as advance:
            answers, _ = self._answer(policy, asked, None, advance)
        return {context.id: answer for context, answer in zip(contexts, answers, strict=True)}

    def _attempts(
        self, policy: Policy, contexts: Sequence[Context], plan: Plan, round: int, clock: _Clock
    ) -> list[_Attempt]:
        requests = [
            SampleRequest(
                prompt=policy.format(self.task.prompt(context)),
                context=context,
                index=index,
                seed=derive_seed("edit", self.seed, round, context.id, index),
            )
            for context in contexts
            for index in range(plan.edits)
        ]
        with clock.phase("sampling", len(requests)) as advance:
            samples = self.sampler.sample(policy, requests, on_done=advance)
        attempts: list[_Attempt] = []
        for request, sample in zip(requests, samples, strict=True):
            if request.index == 0:
                attempts += self._references(request.context, plan, round)
            edit = self.task.parse(sample.text, request.context)
            tokens = {"prompt": sample.prompt_tokens, "edit": sample.tokens}
            for repeat in range(plan.repeats):
                seed = derive_seed("adapter", self.seed, round, request.context.id, request.index, repeat)
                attempts.append(
                    _Attempt(request.context, "edit", request.index, repeat, seed, request.prompt, edit, tokens)
                )
        return attempts

    def _references(self, context: Context, plan: Plan, round: int) -> list[_Attempt]:
        """What the self-edits are compared with: the passage alone, and an edit that was written beforehand."""
        edits: dict[Kind, SelfEdit] = {}
        if plan.passage_only:
            edits["passage"] = SelfEdit(text="", training_sequences=self.task.passage_sequences(context))
        if plan.written and context.edits:
            edits["written"] = self.task.parse(context.edits[0], context)
        return [
            _Attempt(context, kind, -1, 0, derive_seed("adapter", self.seed, round, context.id, kind, 0), "", edit, {})
            for kind, edit in edits.items()
        ]

    def _adapt_and_answer(self, policy: Policy, attempts: Sequence[_Attempt], clock: _Clock) -> list[_Outcome | None]:
        outcomes: list[_Outcome | None] = [None] * len(attempts)
        usable = [index for index, attempt in enumerate(attempts) if attempt.edit.status == "ok"]
        if not usable:
            return outcomes
        jobs = [_job(attempts[index]) for index in usable]
        with clock.phase("inner loop", self.inner_loop.total_steps(jobs)) as advance:
            trained = self.inner_loop.adapt(policy.model, policy.tokenizer, jobs, on_step=advance)
        asked = [(attempts[index].context, job) for job, index in enumerate(usable)]
        with clock.phase("answering", sum(len(context.queries) for context, _ in asked)) as advance:
            answers, counts = self._answer(policy, asked, trained, advance)
        for job, (index, stats) in enumerate(zip(usable, trained.stats, strict=True)):
            outcomes[index] = _Outcome(answers[job], stats.steps, stats.trained_tokens, counts[job])
        return outcomes

    def _answer(
        self,
        policy: Policy,
        asked: Sequence[tuple[Context, int | None]],
        trained: TrainedBank | None,
        advance: Callable[[int], None],
    ) -> tuple[list[tuple[str, ...]], list[int]]:
        """Answer all queries of every (context, job); returns the answers and the tokens spent for each."""
        rows = [
            (number, job, context, query) for number, (context, job) in enumerate(asked) for query in context.queries
        ]
        prompts = [
            policy.encode(policy.format(self.task.query_prompt(query, context))) for _, _, context, query in rows
        ]
        texts: dict[int, str] = {}
        counts = [0] * len(asked)
        for batch in batches(
            policy, prompts, size=self.answer_batch, max_new_tokens=self.max_answer_tokens, by_length=trained is None
        ):
            ids = [prompts[row] for row in batch]
            jobs = [rows[row][1] for row in batch]
            new = _generate(policy, ids, jobs, trained, max_new_tokens=self.max_answer_tokens)
            for row, tokens in zip(batch, new, strict=True):
                texts[row] = self.task.read_answer(policy.tokenizer.decode(tokens, skip_special_tokens=True))
                counts[rows[row][0]] += len(tokens)
            advance(len(batch))
        answers: list[list[str]] = [[] for _ in asked]
        for row, (number, *_) in enumerate(rows):
            answers[number].append(texts[row])
        return [tuple(row) for row in answers], counts

    def _rollout(
        self,
        attempt: _Attempt,
        outcome: _Outcome | None,
        baseline_answers: tuple[str, ...],
        round: int,
        seconds: dict[str, float],
    ) -> Rollout:
        queries = attempt.context.queries
        before = self._scores(attempt.context, baseline_answers)
        after = self._scores(attempt.context, outcome.answers) if outcome else ()
        baseline = fmean(before) if before else 0.0
        score = fmean(after) if after else baseline  # nothing was trained: the policy answers as before
        counts = {"trained": outcome.trained_tokens, "answers": outcome.answer_tokens} if outcome else {}
        return Rollout(
            round=round,
            context_id=attempt.context.id,
            edit_index=attempt.edit_index,
            repeat=attempt.repeat,
            seed=attempt.seed,
            prompt=attempt.prompt,
            text=attempt.edit.text,
            status=attempt.edit.status,
            reason=attempt.edit.reason,
            kind=attempt.kind,
            asked=attempt.edit.asked,
            applied=_given(attempt.edit.applied),
            questions=tuple(query.question for query in queries),
            golds=tuple(query.golds for query in queries),
            baseline_answers=baseline_answers,
            answers=outcome.answers if outcome else (),
            baseline_scores=before,
            scores=after,
            baseline=baseline,
            score=score,
            gain=score - baseline,
            reward=self.reward.value(score=score, baseline=baseline) if after else None,
            steps=outcome.steps if outcome else 0,
            tokens={**attempt.tokens, **counts},
            seconds=seconds,
        )

    def _scores(self, context: Context, answers: Sequence[str]) -> tuple[float, ...]:
        if not answers:
            return ()
        return tuple(
            self.grader.grade(question=query.question, golds=query.golds, answer=answer)
            for query, answer in zip(context.queries, answers, strict=True)
        )


def _job(attempt: _Attempt) -> AdapterJob:
    return AdapterJob(attempt.edit.training_sequences, seed=attempt.seed, directives=attempt.edit.applied)


def _given(directives: Directives) -> dict[str, Any]:
    return {name: value for name, value in asdict(directives).items() if value is not None}


def _generate(
    policy: Policy,
    prompts: list[list[int]],
    jobs: Sequence[int | None],
    trained: TrainedBank | None,
    *,
    max_new_tokens: int,
) -> list[list[int]]:
    if trained is None:
        return generate(policy, prompts, max_new_tokens=max_new_tokens)
    with trained.answering(jobs) as adapters:
        return generate(policy, prompts, max_new_tokens=max_new_tokens, on_keep=adapters.keep)
