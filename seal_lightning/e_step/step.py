"""The E-step on one unit of work: sample self-edits, adapt, answer closed-book, score (arXiv 2506.10943, section 3.1).

    contexts -> baseline answers (once a context) -> self-edits -> adapters, many at once -> answers -> rollouts

A unit is a fixed group of contexts; what happens to it depends on the configuration and the policy alone, never on who
runs it, when, or together with which others. Nothing here knows Lightning or a distribution strategy: the policy is a
plain, frozen module. Journal, filter and the M-step come later.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import ClassVar

from seal_lightning.e_step.carriers import Attempt, Grades, Queries, Replies, Tried, UnitRun, queries_of
from seal_lightning.e_step.plan import Plan
from seal_lightning.e_step.replies import read_replies
from seal_lightning.e_step.rollouts import rollouts_of
from seal_lightning.e_step.trials import AllTrials, Race, Trials
from seal_lightning.e_step.verdicts import grade_unit
from seal_lightning.errors import ConfigError, ModelError
from seal_lightning.grading import Grader, Reward
from seal_lightning.inner_loop.isolation import answering_way, training_way
from seal_lightning.inner_loop.loop import InnerLoop, TrainedBank
from seal_lightning.inner_loop.plans import trained_layers
from seal_lightning.models.layers import find_targets
from seal_lightning.policy.policy import Policy
from seal_lightning.progress.clock import Clock, Report, silent
from seal_lightning.sampling import (
    Answerer,
    Asked,
    LocalAnswerer,
    LocalSampler,
    PolicyWriter,
    Sample,
    Sampler,
    SampleRequest,
)
from seal_lightning.sampling.sampler import written_sample
from seal_lightning.seeding import derive_seed
from seal_lightning.tasks import Task
from seal_lightning.text.escaping import shortened
from seal_lightning.types import Context, Kind, Prompt, Query, Rollout, SelfEdit, Usage, Written


@dataclass(frozen=True)
class EStep:
    """The parts of the E-step; `run` is its verb.

    Attributes:
        task: What a context is and how an edit is prompted, parsed and asked about.
        sampler: Where self-edits come from.
        inner_loop: How adapters are trained.
        grader: Scores one answer in [0, 1].
        reward: Turns a scored rollout into its reward.
        plan: How much is tried; an E-step for a race, a rubric or own queries is made by `variants.step_for`.
        seed: The run's seed.
        max_answer_tokens: Longest closed-book answer (paper: 64).
        answerer: Who answers with the adapters.
        trials: How the compute for trials is spent.
    """

    task: Task
    sampler: Sampler
    inner_loop: InnerLoop
    grader: Grader
    reward: Reward
    plan: Plan = Plan()
    seed: int = 0
    max_answer_tokens: int = 64
    answerer: Answerer = field(default_factory=LocalAnswerer)
    trials: Trials = field(default_factory=AllTrials)
    adapts: ClassVar[bool] = True  # whether `roll_out` trains adapters

    def __post_init__(self) -> None:
        plan, is_plain = self.plan, type(self) is EStep  # a class that extends it does what it says
        ignored = {
            "racing": bool(plan.racing) and isinstance(self.trials, AllTrials),
            "score_by": is_plain and plan.score_by == "rubric",
            "queries": is_plain and plan.queries == "own",
        }
        for name in (name for name, is_ignored in ignored.items() if is_ignored):
            got = getattr(plan, name)
            raise ConfigError(
                f"{name} of a plan must be {getattr(Plan(), name)!r} in a plain EStep, got {got!r}: make "
                "the E-step for it by seal_lightning.e_step.variants.step_for(plan, e_step)"
            )

    def run(self, policy: Policy, contexts: Sequence[Context], *, round: int, report: Report = silent) -> list[Rollout]:
        """Roll out one unit.

        Args:
            policy: Frozen and in evaluation mode.
            contexts: The unit, each with its queries.
            round: Counted from 0; enters the seeds.
            report: Told about progress within the unit.

        Returns:
            One rollout for every (context, edit, repeat), in that order, rejected edits included; of a race, one for
            every repeat that was trained and for every edit.

        Raises:
            RetryableError: A grader or an endpoint failed.
        """
        return self.roll_out(self.begin(policy, [contexts], round, report))

    def run_together(
        self, policy: Policy, units: Sequence[Sequence[Context]], *, round: int, report: Report = silent
    ) -> list[list[Rollout]]:
        """Roll out several units at once: what `run` makes of each, to float tolerance, in less time on a GPU.

        Args:
            policy: Frozen and in evaluation mode.
            units: The contexts of each, as `run` takes them.
            round: Counted from 0; enters the seeds.
            report: Told about progress; phases are those of all units together.

        Returns:
            The rollouts of each unit.

        Raises:
            RetryableError: A grader or an endpoint failed.
        """
        if not self.takes_several(units):
            return [self.run(policy, unit, round=round, report=report) for unit in units]
        rollouts = self.roll_out(self.begin(policy, units, round, report))
        return [[one for one in rollouts if one.context_id in ids] for ids in map(_ids, units)]

    def takes_several(self, units: Sequence[Sequence[Context]]) -> bool:
        """Whether the units can share their batches: parts of a user's own may look at all contexts they are given."""
        plain = type(self).run is EStep.run and type(self.trials) in (AllTrials, Race)
        return plain and len(set().union(*map(_ids, units))) == sum(map(len, units))

    def write_edits(
        self, policy: Policy, contexts: Sequence[Context], *, round: int, report: Report = silent
    ) -> list[Rollout]:
        """Sample and parse self-edits without adapting; the rollouts carry no answers and no reward."""
        step = replace(self, plan=Plan(edits=self.plan.edits, repeats=1))  # nothing else of it is about writing
        unit = step.begin(policy, [contexts], round, report)
        attempts = step.attempts(unit)
        return rollouts_of(unit, Tried(attempts, [None] * len(attempts)), [Grades()] * len(attempts), self.reward)

    def check_model(self, policy: Policy, *, adapts: bool = True) -> None:
        """Probe how the policy is trained and continued, so that a model which cannot be is refused before any work.

        Args:
            policy: Frozen and in evaluation mode.
            adapts: Off where edits are only written.

        Raises:
            ConfigError: The inner loop's layers are not in the model.
            ModelError: The model cannot be trained, or cannot be continued.
        """
        if isinstance(self.sampler, LocalSampler):
            answering_way(policy.model)
        if not adapts:
            return
        layers = [target.name for target in find_targets(policy.model, self.inner_loop.target_modules)]
        training_way(policy.model, layers)
        trained_layers(policy.model, self.inner_loop.target_modules, self.inner_loop.layers, None)
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
            ConfigError: The inner loop's objective has a teacher, for whom the task has nothing to read.
            ModelError: Names the first such context, its tokens and the window.
        """
        for context in contexts[:1]:
            self.inner_loop.check_sources(self.task.passage_sequences(context))
        window = min(self.sampler.window(policy), self.answerer.window(policy))  # a server's may be shorter
        for context in contexts:
            longest = max((len(policy.encode(policy.format(text))) for text in self.prompts(context)), default=0)
            if longest + self.max_answer_tokens > window:
                name, title = shortened(context.id, 60), shortened(context.title, 60)
                raise ModelError(
                    f"context {name!r} ({title!r}): its longest prompt has {longest} tokens, which with "
                    f"{self.max_answer_tokens} for the answer exceeds the model's window of {window}; "
                    f"{advice(context)}, or use a model with a longer window"
                )

    def prompts(self, context: Context) -> list[Prompt]:
        """Everything that the policy is asked about a context; what rules write is not asked for."""
        asked = (self.task.query_prompts(query, context) for query in context.queries)
        written = [task.prompt(context) for task in self.task.by_edit if not task.by_rule]
        return [*written, *chain(*asked)]

    def ask(
        self,
        policy: Policy,
        queries: Sequence[Queries],
        *,
        jobs: Sequence[int | None] | None = None,
        trained: TrainedBank | None = None,
        prompts: Callable[[Query, Context], Sequence[Prompt]] | None = None,
        clock: Clock,
        phase: str = "answering",
    ) -> list[Replies]:
        """Let adapters, or the policy alone, answer queries closed-book.

        Args:
            policy: Frozen and in evaluation mode.
            queries: Some for each of several adapters (or for the policy alone), each with its context.
            jobs: The adapters that are asked, as jobs of `trained`; without them the policy itself is.
            trained: The bank that holds the adapters.
            prompts: Every way in which a query is asked; the task's own where unset.
            clock: Told about progress.
            phase: Its name there.

        Returns:
            The replies to each of `queries`, in their order.
        """
        prompts = prompts or self.task.query_prompts
        ways = [[prompts(query, context) for context, query in some] for some in queries]
        asked = [Asked(job, tuple(chain(*some))) for job, some in zip(jobs or [None] * len(ways), ways, strict=True)]
        with clock.phase(phase, sum(len(asking.prompts) for asking in asked)) as advance:
            answers = self.answerer.answer(
                policy, asked, trained, max_new_tokens=self.max_answer_tokens, on_done=advance
            )
        return read_replies(self.task, queries, ways, answers)

    # -- the steps of `run`, for E-steps that do otherwise -----------------------------------------------------------

    def roll_out(self, unit: UnitRun) -> list[Rollout]:
        """All steps, of one unit or of several: the rollouts of all contexts, in their order."""
        baselines = self.baselines(unit)
        attempts = self.attempts(unit)
        tried = self.trials.run(self, unit, attempts)
        grades = grade_unit(self.grader, unit, baselines, tried, policy=PolicyWriter(unit.policy))
        return rollouts_of(unit, tried, grades, self.reward, baselines=baselines)

    def begin(self, policy: Policy, units: Sequence[Sequence[Context]], round: int, report: Report) -> UnitRun:
        """Units whose work begins."""
        others: dict[str, Queries] = {}  # the same in every round
        for contexts in units if self.plan.carry_over_queries else ():
            for context in contexts:
                rest = [pair for other in contexts if other.id != context.id for pair in queries_of(other)]
                draw = random.Random(derive_seed("retention", self.seed, context.id))
                others[context.id] = draw.sample(rest, min(self.plan.carry_over_queries, len(rest)))
        return UnitRun(policy, units, round, Clock(report), others)

    def baselines(self, unit: UnitRun) -> dict[str, Replies]:
        """What the policy answers without any adapter, by context id."""
        queries = [queries_of(context) for context in unit.contexts]
        replies = self.ask(unit.policy, queries, clock=unit.clock, phase="baseline")
        return {context.id: given for context, given in zip(unit.contexts, replies, strict=True)}

    def attempts(self, unit: UnitRun) -> list[Attempt]:
        """Write the self-edits of a unit; every repeat of each is an attempt, and so is what they are compared with."""
        samples = self._sample(unit)
        attempts: list[Attempt] = []
        for context in unit.contexts:
            attempts += self.references(context, unit.round)
            for request, sample in samples[context.id]:
                attempts += self._written(request, sample, unit.round)
        return attempts

    def _sample(self, unit: UnitRun) -> dict[str, list[tuple[SampleRequest, Sample]]]:
        """The requested edits by context."""
        requests = [request for context in unit.contexts for request in self._requests(unit, context)]
        texts = [self.task.written_by_rule(request.context, request.index) for request in requests]
        asked = [request for request, text in zip(requests, texts, strict=True) if text is None]
        with unit.clock.phase("sampling", len(asked)) as advance:
            sampled = iter(self.sampler.sample(unit.policy, asked, on_done=advance) if asked else [])
        by_context: dict[str, list[tuple[SampleRequest, Sample]]] = {context.id: [] for context in unit.contexts}
        for request, text in zip(requests, texts, strict=True):
            by_rule = None if text is None else written_sample(unit.policy, request, Written(text))
            by_context[request.context.id].append((request, by_rule or next(sampled)))
        return by_context

    def _requests(self, unit: UnitRun, context: Context) -> Iterator[SampleRequest]:
        """A request for each edit of a context; the task's kinds take turns."""
        messages = [task.prompt(context) for task in self.task.by_edit]
        prompts = [unit.policy.format(message) for message in messages]
        for index in range(self.plan.edits):
            yield SampleRequest(
                prompt=prompts[index % len(prompts)],
                context=context,
                index=index,
                seed=derive_seed("edit", self.seed, unit.round, context.id, index),
                message=messages[index % len(messages)],
                schema=self.task.for_edit(index).edit_schema,
            )

    def _written(self, request: SampleRequest, sample: Sample, round: int) -> Iterator[Attempt]:
        """The attempts of one written edit, with what it cost."""
        task = self.task.for_edit(request.index)
        edit = task.read_edit(sample.text, request.context)
        tokens = {"prompt": sample.prompt_tokens, "edit": sample.tokens}
        for attempt in self.repeats(request.context, request.index, edit, round):
            usage = Usage() if attempt.repeat else sample.usage
            written = replace(attempt, prompt=request.prompt, tokens=tokens, usage=usage, is_cut=sample.cut)
            yield replace(written, edit_kind=task.edit_kind)

    def repeats(self, context: Context, index: int, edit: SelfEdit, round: int) -> Iterator[Attempt]:
        """The attempts of one edit, each with the seed of its adapter."""
        for repeat in range(self.plan.repeats):
            seed = attempt_seed(self.seed, round, context.id, index, repeat)
            yield Attempt(context, "edit", index, repeat, seed, "", edit)

    def references(self, context: Context, round: int) -> list[Attempt]:
        """What the self-edits are compared with: the passage alone, and an edit that was written beforehand."""
        edits: dict[Kind, SelfEdit] = {}
        if self.plan.passage_only:
            edits["passage"] = SelfEdit(text="", training_sequences=self.task.passage_sequences(context))
        if self.plan.written and context.edits:
            edits["written"] = self.task.read_edit(context.edits[0], context)
        return [
            Attempt(context, kind, -1, 0, derive_seed("adapter", self.seed, round, context.id, kind, 0), "", edit)
            for kind, edit in edits.items()
        ]


def attempt_seed(seed: int, round: int, context_id: str, edit: int, repeat: int = 0) -> int:
    """The seed of one repeat of an edit in a run of that seed."""
    return derive_seed("adapter", seed, round, context_id, edit, repeat)


def _ids(contexts: Sequence[Context]) -> set[str]:
    return {context.id for context in contexts}
