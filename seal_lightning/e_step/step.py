"""The E-step on one unit of work: sample self-edits, adapt, answer closed-book, score (arXiv 2506.10943, section 3.1).

    contexts -> baseline answers (once a context) -> self-edits -> adapters, many at once -> answers -> rollouts

A unit is a fixed group of contexts; what happens to it depends on the configuration and the policy alone, never on who
runs it or when. Nothing here knows Lightning or a distribution strategy: the policy is a plain, frozen module. Journal,
filter and the M-step come later.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Literal

from seal_lightning.e_step.own_queries import OwnQueries, Questioner
from seal_lightning.e_step.race import Raced, RaceWork, States, run_race
from seal_lightning.e_step.race_rule import Racing
from seal_lightning.e_step.scoring import (
    Attempt,
    Grades,
    Queries,
    Replies,
    Trial,
    count_thoughts,
    grade_own,
    grade_trials,
    mark_edits,
    own_queries,
    rewarded,
    to_rollout,
    usage_by_purpose,
)
from seal_lightning.errors import ConfigError, ModelError, NoMemoryError
from seal_lightning.grading import Grader, Reward, Rubric
from seal_lightning.inner_loop.isolation import answering_way, training_way
from seal_lightning.inner_loop.loop import InnerLoop, TrainedBank
from seal_lightning.inner_loop.slots import AdapterState, JobStats
from seal_lightning.models.layers import find_targets
from seal_lightning.policy.policy import Policy
from seal_lightning.progress.clock import Clock, Report
from seal_lightning.results.left_out import ANSWERS, DIVERGED, LONGEST, QUERIES, SKIPPED, TRUNCATED
from seal_lightning.sampling import (
    Answerer,
    Answers,
    Asked,
    LocalAnswerer,
    LocalSampler,
    PolicyWriter,
    Sampler,
    SampleRequest,
)
from seal_lightning.seeding import derive_seed
from seal_lightning.tasks import Task
from seal_lightning.text.escaping import shortened
from seal_lightning.text.thoughts import cut_thoughts
from seal_lightning.types import AdapterJob, Context, Kind, Prompt, Rollout, SelfEdit, Usage

log = logging.getLogger(__name__)

NO_OWN_QUERY = "no own query passed the filters"
# What a plan must be where a rubric marks the edits: there is nothing to repeat, to compare with or to ask.
RUBRIC_ONLY = {
    "repeats": 1,
    "passage_only": False,
    "written": False,
    "queries": "data",
    "retention_queries": 0,
    "racing": None,
}


@dataclass(frozen=True)
class Plan:
    """How much is tried on each context.

    Args:
        edits: Self-edits a context (paper: 5 for knowledge, 15 for ARC).
        repeats: Adapters trained for each self-edit, with different seeds; their rewards are averaged (paper: 3).
        passage_only: Also train one adapter on the passage alone, the paper's baseline for evaluation.
        written: Also train one on the first self-edit that the data carries for a context, where it does: the paper's
            comparison with a stronger model's edits. In a fit only before the first round, since they do not change.
        score_by: `queries` adapts and asks; `rubric` marks the edit itself without adapting (`model.rubric`).
        queries: `data` asks those of the data; `own` has a model write them from the passage (`model.questioner`).
        retention_queries: Ask each adapter this many queries of the unit's other contexts too; the change of accuracy
            on them is the rollout's `retention`, 0 where the unit has no other.
        racing: Train only what decides which edits are kept; null trains every repeat of every edit.
    """

    edits: int = 5
    repeats: int = 3
    passage_only: bool = False
    written: bool = False
    score_by: Literal["queries", "rubric"] = "queries"
    queries: Literal["data", "own"] = "data"
    retention_queries: int = 0
    racing: Racing | None = None

    def __post_init__(self) -> None:
        for name, least in (("edits", 1), ("repeats", 1), ("retention_queries", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}, got {getattr(self, name)}")
        for name, allowed in {"score_by": ("queries", "rubric"), "queries": ("data", "own")}.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name} must be {' or '.join(allowed)}, got {getattr(self, name)!r}")
        if self.score_by == "rubric":
            for name, allowed in RUBRIC_ONLY.items():
                if getattr(self, name) != allowed:
                    raise ConfigError(
                        f"{name} must be {allowed} where score_by is rubric, which asks and adapts nothing, got "
                        f"{getattr(self, name)}"
                    )
        if self.racing:
            self.racing.check(edits=self.edits, repeats=self.repeats)

    @property
    def needs_queries(self) -> bool:
        """Whether the data has to bring queries."""
        return self.score_by == "queries" and self.queries == "data"


@dataclass(frozen=True)
class EStep:
    """The parts of the E-step; `run` is its verb.

    Attributes:
        task: What a context is and how an edit is prompted, parsed and asked about.
        sampler: Where self-edits come from.
        inner_loop: How adapters are trained.
        grader: Scores one answer in [0, 1].
        reward: Turns a scored rollout into its reward.
        seed: The run's seed.
        max_answer_tokens: Longest closed-book answer (paper: 64).
        answerer: Who answers with the adapters.
        rubric: Marks edits where the plan has no inner loop.
        questioner: Writes queries where the plan does not take those of the data.
    """

    task: Task
    sampler: Sampler
    inner_loop: InnerLoop
    grader: Grader
    reward: Reward
    seed: int = 0
    max_answer_tokens: int = 64
    answerer: Answerer = field(default_factory=LocalAnswerer)
    rubric: Rubric = field(default_factory=Rubric)
    questioner: Questioner = field(default_factory=Questioner)

    def run(
        self, policy: Policy, contexts: Sequence[Context], *, plan: Plan, round: int, report: Report = lambda p: None
    ) -> list[Rollout]:
        """Roll out one unit.

        Args:
            policy: Frozen and in evaluation mode.
            contexts: The unit, each with its queries.
            plan: How many edits and repeats, and how they are scored.
            round: Counted from 0; enters the seeds.
            report: Told about progress within the unit.

        Returns:
            One rollout for every (context, edit, repeat), in that order; rejected edits are among them. In a race, one
            for every repeat that was trained and for every edit.

        Raises:
            RetryableError: A grader or an endpoint failed.
        """
        clock, writer = Clock(report), PolicyWriter(policy)
        asked: dict[str, OwnQueries] = {}
        raced = Raced()
        if plan.queries == "own":
            contexts, asked = self._own_queries(writer, contexts, clock)
        if plan.score_by == "rubric":
            baselines: dict[str, tuple[Context, Replies]] = {}
            attempts = self._attempts(policy, contexts, plan, round, clock)
            trials: list[Trial | None] = [None] * len(attempts)
            grades = mark_edits(self.rubric, attempts, policy=writer, clock=clock)
        else:
            baselines = self._baselines(policy, contexts, clock)
            attempts = self._attempts(policy, contexts, plan, round, clock)
            others = self._others(contexts, plan)
            if plan.racing:
                raced = self._race(policy, attempts, others, plan, clock)
                attempts, trials = list(raced.attempts), list(raced.trials)
            else:
                trials, _ = self._try(policy, attempts, others, clock)
            grades = grade_trials(
                self.grader,
                attempts,
                trials,
                baselines=baselines,
                others=others,
                policy=writer,
                clock=clock,
                graded=raced.graded,
            )
        # seconds are shared evenly: adapters of a unit train together
        seconds = {phase: spent / max(1, len(attempts)) for phase, spent in clock.seconds.items()}
        rollouts: list[Rollout] = []
        for number, (attempt, trial, graded) in enumerate(zip(attempts, trials, grades, strict=True)):
            context = attempt.context
            first = not rollouts or rollouts[-1].context_id != context.id
            baseline = baselines[context.id][1] if baselines else None
            own = asked.get(context.id, OwnQueries(()))
            rollout = to_rollout(
                attempt,
                trial,
                graded,
                baseline_answers=baseline.answers if baseline else (),
                round=round,
                seconds=seconds,
                usage=usage_by_purpose(attempt, graded, first=first, questions=own.usage),
                dropped=raced.dropped.get(number, ""),
                thoughts=count_thoughts(attempt, trial, baseline=baseline if first else None),
                left_out=_of_context(own, baseline) if first else {},
            )
            rollouts.append(rewarded(rollout, graded, self.reward))
        return rollouts

    def write_edits(
        self, policy: Policy, contexts: Sequence[Context], *, plan: Plan, round: int, report: Report = lambda p: None
    ) -> list[Rollout]:
        """Sample and parse self-edits without adapting; the rollouts carry no answers and no reward."""
        plan = Plan(edits=plan.edits, repeats=1)  # nothing else of it is about writing
        attempts = self._attempts(policy, contexts, plan, round, Clock(report))
        return [
            to_rollout(
                attempt,
                None,
                Grades(),
                baseline_answers=(),
                round=round,
                seconds={},
                usage=usage_by_purpose(attempt, Grades(), first=False),
                thoughts=count_thoughts(attempt, None, baseline=None),
            )
            for attempt in attempts
        ]

    def check_model(self, policy: Policy, *, adapts: bool = True) -> None:
        """Probe how the policy is trained and continued, so that a model which cannot be is refused before any work.

        Args:
            policy: Frozen and in evaluation mode.
            adapts: Off where edits are only written.

        Raises:
            ConfigError: The inner loop's layers are not in the model.
            ModelError: It cannot be trained, or cannot be continued.
        """
        if isinstance(self.sampler, LocalSampler):
            answering_way(policy.model)
        if not adapts:
            return
        layers = [target.name for target in find_targets(policy.model, self.inner_loop.target_modules)]
        training_way(policy.model, layers)
        if isinstance(self.answerer, LocalAnswerer):
            answering_way(policy.model, layers)

    def check_fits(
        self,
        policy: Policy,
        contexts: Sequence[Context],
        *,
        advice: Callable[[Context], str] = lambda context: "shorten or split the passage",
    ) -> None:
        """Fail early where a context's prompt or queries leave no room for an answer in the model's window.

        Args:
            policy: Tokenizes.
            contexts: All of them.
            advice: What to do about a context that does not fit, where a command has an option for that.

        Raises:
            ModelError: Names the first such context, its tokens and the window.
        """
        window = min(self.sampler.window(policy), self.answerer.window(policy))  # a server's may be shorter
        for context in contexts:
            asked = (self.task.query_prompts(query, context) for query in context.queries)
            texts = [self.task.prompt(context), *chain(*asked)]
            longest = max(len(policy.encode(policy.format(text))) for text in texts)
            if longest + self.max_answer_tokens > window:
                name, title = shortened(context.id, 60), shortened(context.title, 60)
                raise ModelError(
                    f"context {name!r} ({title!r}): its longest prompt has {longest} tokens, which with "
                    f"{self.max_answer_tokens} for the answer exceeds the model's window of {window}; "
                    f"{advice(context)}, or use a model with a longer window"
                )

    def ask(
        self,
        policy: Policy,
        queries: Sequence[Queries],
        *,
        jobs: Sequence[int | None] | None = None,
        trained: TrainedBank | None = None,
        clock: Clock,
        phase: str = "answering",
    ) -> list[Replies]:
        """Ask queries closed-book and read the answers.

        Args:
            policy: Frozen and in evaluation mode.
            queries: Some for each of several adapters (or for the policy alone), each with its context.
            jobs: Which adapters are asked, jobs of `trained`; without them the policy itself is.
            trained: The bank that holds the adapters.
            clock: Told about progress.
            phase: What it is called there.

        Returns:
            The replies to each of `queries`, in their order.
        """
        ways = [[self.task.query_prompts(query, context) for context, query in mine] for mine in queries]
        asked = [
            Asked(job, tuple(chain(*prompts))) for job, prompts in zip(jobs or [None] * len(ways), ways, strict=True)
        ]
        with clock.phase(phase, sum(len(one.prompts) for one in asked)) as advance:
            answers = self.answerer.answer(
                policy, asked, trained, max_new_tokens=self.max_answer_tokens, on_done=advance
            )
        replies = [self._reply(*one) for one in zip(queries, ways, answers, strict=True)]
        _tell_thoughts(replies, texts=sum(len(one.texts) for one in answers))
        return replies

    def _reply(self, queries: Queries, ways: Sequence[Sequence[Prompt]], answers: Answers) -> Replies:
        """One answer to each query, without what was thought before it."""
        said = [cut_thoughts(text) for text in answers.texts]
        read = self._read(queries, ways, [one.text for one in said])
        return Replies(
            read,
            answers.tokens,
            cut=_cut_answers(read, ways, answers),
            thoughts=sum(one.thoughts > 0 for one in said),
            unfinished=sum(one.unfinished for one in said),
            finite=answers.finite,
        )

    # -- what is asked and tried -----------------------------------------------------------------------------------

    def _own_queries(
        self, writer: PolicyWriter, contexts: Sequence[Context], clock: Clock
    ) -> tuple[list[Context], dict[str, OwnQueries]]:
        """The contexts with queries that a model wrote in place of those of the data, and what came of that."""
        with clock.phase("questions", len(contexts)) as advance:
            made = self.questioner.make(contexts, policy=writer, grader=self.grader, on_wait=lambda: advance(0))
            advance(len(contexts))
        asked = [replace(context, queries=one.queries) for context, one in zip(contexts, made, strict=True)]
        return asked, {context.id: one for context, one in zip(contexts, made, strict=True)}

    def _baselines(
        self, policy: Policy, contexts: Sequence[Context], clock: Clock
    ) -> dict[str, tuple[Context, Replies]]:
        """What the policy answers without any adapter, once a context."""
        queries = [own_queries(context) for context in contexts]
        replies = self.ask(policy, queries, clock=clock, phase="baseline")
        return {context.id: (context, one) for context, one in zip(contexts, replies, strict=True)}

    def _attempts(
        self, policy: Policy, contexts: Sequence[Context], plan: Plan, round: int, clock: Clock
    ) -> list[Attempt]:
        messages = {context.id: self.task.prompt(context) for context in contexts}
        requests = [
            SampleRequest(
                prompt=policy.format(messages[context.id]),
                context=context,
                index=index,
                seed=derive_seed("edit", self.seed, round, context.id, index),
                message=messages[context.id],
                schema=self.task.edit_schema,
            )
            for context in contexts
            if context.queries or plan.queries == "data"  # an edit that nothing can score need not be written
            for index in range(plan.edits)
        ]
        with clock.phase("sampling", len(requests)) as advance:
            samples = dict(zip(requests, self.sampler.sample(policy, requests, on_done=advance), strict=True))
        attempts: list[Attempt] = []
        for context in contexts:
            mine = [(request, sample) for request, sample in samples.items() if request.context is context]
            attempts += self._references(context, plan, round) if mine else _unasked(context, plan)
            for request, sample in mine:
                edit = self.task.read_edit(sample.text, context)
                tokens = {"prompt": sample.prompt_tokens, "edit": sample.tokens}
                for repeat in range(plan.repeats):
                    seed = derive_seed("adapter", self.seed, round, context.id, request.index, repeat)
                    usage = Usage() if repeat else sample.usage
                    attempts.append(
                        Attempt(
                            context,
                            "edit",
                            request.index,
                            repeat,
                            seed,
                            request.prompt,
                            edit,
                            tokens,
                            usage,
                            sample.cut,
                        )
                    )
        return attempts

    def _references(self, context: Context, plan: Plan, round: int) -> list[Attempt]:
        """What the self-edits are compared with: the passage alone, and an edit that was written beforehand."""
        edits: dict[Kind, SelfEdit] = {}
        if plan.passage_only:
            edits["passage"] = SelfEdit(text="", training_sequences=self.task.passage_sequences(context))
        if plan.written and context.edits:
            edits["written"] = self.task.read_edit(context.edits[0], context)
        return [
            Attempt(context, kind, -1, 0, derive_seed("adapter", self.seed, round, context.id, kind, 0), "", edit, {})
            for kind, edit in edits.items()
        ]

    def _others(self, contexts: Sequence[Context], plan: Plan) -> dict[str, Queries]:
        """By context, queries of the unit's other contexts on which retention is measured; alike in every round."""
        others: dict[str, Queries] = {}
        for context in contexts if plan.retention_queries else ():
            rest = [pair for other in contexts if other.id != context.id for pair in own_queries(other)]
            draw = random.Random(derive_seed("retention", self.seed, context.id))
            others[context.id] = draw.sample(rest, min(plan.retention_queries, len(rest)))
        return others

    def _read(self, queries: Queries, ways: Sequence[Sequence[Prompt]], texts: Sequence[str]) -> tuple[str, ...]:
        """One answer to each query from what was generated after all of its prompts."""
        left = iter(texts)
        return tuple(
            self.task.read_answers(list(islice(left, len(prompts))), query, context)
            for prompts, (context, query) in zip(ways, queries, strict=True)
        )

    def _try(
        self,
        policy: Policy,
        attempts: Sequence[Attempt],
        others: Mapping[str, Queries],
        clock: Clock,
        start: States = (),
        until: Sequence[int] | None = None,
    ) -> tuple[list[Trial | None], States]:
        """Train an adapter for every usable edit, and let it answer; None for the others.

        Where all edits are usable, trainings can go on from a `start` and stop at `until` (see `InnerLoop.adapt`); how
        they stand then is returned too.
        """
        trials: list[Trial | None] = [None] * len(attempts)
        usable = [index for index, attempt in enumerate(attempts) if attempt.edit.status == "ok"]
        made, states = self._adapt(policy, [attempts[index] for index in usable], others, clock, start, until)
        for index, trial in zip(usable, made, strict=True):
            trials[index] = trial
        _tell_diverged(made)
        return trials, states

    def _adapt(
        self,
        policy: Policy,
        attempts: Sequence[Attempt],
        others: Mapping[str, Queries],
        clock: Clock,
        start: States,
        until: Sequence[int] | None,
    ) -> tuple[list[Trial], States]:
        """Train an adapter for each attempt and let it answer; in two halves where the memory does not suffice."""
        if not attempts:
            return [], ()
        try:
            return self._adapt_together(policy, attempts, others, clock, start, until)
        except NoMemoryError:
            if len(attempts) == 1:
                raise
        half = len(attempts) // 2
        log.warning("out of memory: the adapters of %d and %d self-edits by turns", half, len(attempts) - half)
        trials: list[Trial] = []
        states: list[AdapterState | None] = []
        for part in (slice(0, half), slice(half, None)):
            stops = None if until is None else until[part]
            made, after = self._adapt(policy, attempts[part], others, clock, start[part], stops)
            trials += made
            states += after
        return trials, states

    def _adapt_together(
        self,
        policy: Policy,
        attempts: Sequence[Attempt],
        others: Mapping[str, Queries],
        clock: Clock,
        start: States,
        until: Sequence[int] | None,
    ) -> tuple[list[Trial], States]:
        jobs = [_job(attempt) for attempt in attempts]
        with clock.phase("inner loop", self.inner_loop.total_steps(jobs)) as advance:
            trained = self.inner_loop.adapt(policy, jobs, on_step=advance, start=start, until=until)
        sound = [job for job, stats in enumerate(trained.stats) if not stats.diverged]
        queries = [
            [*own_queries(context), *others.get(context.id, ())] for context in (attempts[job].context for job in sound)
        ]
        replies = dict(zip(sound, self.ask(policy, queries, jobs=sound, trained=trained, clock=clock), strict=True))
        trials = [
            self._trial(policy, attempt, stats, replies.get(job))
            for job, (attempt, stats) in enumerate(zip(attempts, trained.stats, strict=True))
        ]
        return trials, trained.states

    def _trial(self, policy: Policy, attempt: Attempt, stats: JobStats, replies: Replies | None) -> Trial:
        missing = {
            TRUNCATED: stats.truncated,
            SKIPPED: stats.skipped,
            LONGEST: self.inner_loop.longest(policy, _job(attempt)) if stats.truncated else 0,
        }
        if replies is None or not replies.finite:
            return Trial(
                (),
                (),
                stats.steps,
                stats.trained_tokens,
                replies.tokens if replies else 0,
                left_out={**missing, DIVERGED: 1},
                diverged=stats.diverged or f"the logits of its answers are not finite after step {stats.steps}",
            )
        own = len(attempt.context.queries)
        return Trial(
            replies.answers[:own],
            replies.answers[own:],
            stats.steps,
            stats.trained_tokens,
            replies.tokens,
            thoughts=replies.thoughts,
            unfinished=replies.unfinished,
            left_out={**missing, ANSWERS: replies.cut},
        )

    def _race(
        self, policy: Policy, attempts: Sequence[Attempt], others: Mapping[str, Queries], plan: Plan, clock: Clock
    ) -> Raced:
        """Train only what the plan's race asks for."""
        assert plan.racing is not None
        work = RaceWork(
            plan.racing,
            plan.repeats,
            adapt=lambda some, start, until: self._try(policy, some, others, clock, start=start, until=until),
            grade=lambda some, trials: grade_own(self.grader, some, trials, policy=PolicyWriter(policy), clock=clock),
            tokens=lambda one: self.inner_loop.trained_tokens(policy, _job(one)),
            steps=lambda one: self.inner_loop.total_steps([_job(one)]),
        )
        return run_race(attempts, work)


def _tell_diverged(trials: Sequence[Trial]) -> None:
    if diverged := [trial.diverged for trial in trials if trial.diverged]:
        log.warning(
            "%d of %d adapters diverged and are thrown away (the first: %s): lower model.inner_loop.learning_rate, or "
            "the bounds of the directives",
            len(diverged),
            len(trials),
            diverged[0],
        )


def _tell_thoughts(replies: Sequence[Replies], *, texts: int) -> None:
    unfinished = sum(one.unfinished for one in replies)
    if unfinished:
        log.warning(
            "%d of %d answers are empty, since they end within a thought: raise model.max_answer_tokens, or switch "
            "thinking off (model.source.template_args)",
            unfinished,
            texts,
        )
    if thoughts := sum(one.thoughts for one in replies) - unfinished:
        log.info("thoughts were cut out of %d of %d answers", thoughts, texts)


def _of_context(own: OwnQueries, baseline: Replies | None) -> dict[str, int]:
    """What is missing from a context's queries, and from the answers before adapting."""
    found = {f"{QUERIES}{reason}": count for reason, count in own.dropped.items()}
    return found | {ANSWERS: baseline.cut} if baseline else found


def _cut_answers(read: Sequence[str], ways: Sequence[Sequence[Prompt]], answers: Answers) -> int:
    """How many answers lost their end: those that go on to where a text was cut, in one of the ways to ask.

    A model that writes on after its answer is cut too, which takes nothing away.
    """
    texts = iter(zip(answers.texts, answers.cut, strict=True)) if answers.cut else iter(())
    count = 0
    for answer, prompts in zip(read, ways, strict=True):
        mine = list(islice(texts, len(prompts)))
        count += any([cut and text.rstrip().endswith(answer.rstrip()) for text, cut in mine])
    return count


def _unasked(context: Context, plan: Plan) -> list[Attempt]:
    """The attempts on a context of which no query is left."""
    edit = SelfEdit(text="", reason=NO_OWN_QUERY)
    return [
        Attempt(context, "edit", index, repeat, 0, "", edit, {})
        for index in range(plan.edits)
        for repeat in range(plan.repeats)
    ]


def _job(attempt: Attempt) -> AdapterJob:
    return AdapterJob(attempt.edit.training_sequences, seed=attempt.seed, directives=attempt.edit.applied)
