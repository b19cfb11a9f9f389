"""One stream: contexts are learnt one after another, and after each of them all earlier queries are asked (section 5).

    for each context: self-edit -> its adapter -> added to the policy -> queries of all contexts so far, and others

Self-edits are in the stream's journal, finished steps in folders of their own (`steps.py`). A stream that was stopped
or killed adds the saved adapters again in the same order and resumes, with the same result.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean

from seal_lightning.commands.continual.card import stream_card
from seal_lightning.commands.continual.countermeasure import Countermeasure, Learnt
from seal_lightning.commands.continual.steps import RECORD, StreamStep, read_step, write_step
from seal_lightning.commands.continual.updates import Updates
from seal_lightning.commands.standalone import check_record, open_journal, rules
from seal_lightning.e_step.closed_book import ask_closed_book
from seal_lightning.e_step.step import EStep
from seal_lightning.errors import ConfigError, JournalError, ModelError
from seal_lightning.files.digests import recorded_in
from seal_lightning.files.saving import save_text, whole
from seal_lightning.fit.units import make_stamp
from seal_lightning.inner_loop.bank import bank_lora
from seal_lightning.m_step.selection import best_of, group_rollouts
from seal_lightning.models.finite import all_finite
from seal_lightning.models.lora import LoRA, save_lora
from seal_lightning.models.lora_files import read_lora
from seal_lightning.models.origins import CARD
from seal_lightning.models.source import ModelSource
from seal_lightning.progress.clock import Report
from seal_lightning.records.journal import is_begun, read_rollouts
from seal_lightning.results.left_out import ANSWERS, DIVERGED, LONGEST, SKIPPED, TRUNCATED, added, total_left_out
from seal_lightning.results.retention import ContextStream
from seal_lightning.seeding import derive_seed
from seal_lightning.stamps.run import Record, Rules, save_record
from seal_lightning.stamps.values import code_of, describe
from seal_lightning.types import AdapterJob, Context, Json, JsonObject, Rollout

log = logging.getLogger(__name__)

JOURNAL = "self-edits"
END = "adapter"  # the folder with the sum of all updates


@dataclass(frozen=True, slots=True)
class Route:
    """The contexts of a stream in their order, and the seed of everything random in it."""

    name: str
    contexts: tuple[Context, ...]
    seed: int

    @property
    def folder(self) -> str:
        return self.name.replace(",", "").replace(" ", "-")


@dataclass(frozen=True)
class StreamRunner:
    """Runs streams with the same settings.

    Attributes:
        e_step: Writes, trains and asks; its plan has the self-edits for each context, and the repeats to choose by.
        updates: The policy, and how it grows.
        unrelated: Contexts whose queries are asked after every step.
        origin: What else the result depends on, such as the base model, as JSON values.
        source: The base model, for the card of the last adapter.
        advance: Called after every finished step; may raise to stop the run.
        report: Called with the progress within a step.
        rules: What may differ on a resume.
    """

    e_step: EStep
    updates: Updates
    unrelated: Sequence[Context]
    origin: Mapping[str, Json]
    source: ModelSource
    advance: Callable[[int], None] = lambda count: None
    report: Report = lambda progress: None
    rules: Rules = field(default_factory=rules)

    def check(self, route: Route, countermeasure: Countermeasure, folder: Path) -> Record:
        """The record with which a stream in `folder` resumes. Raises as `run`, and writes nothing."""
        begun = is_begun(folder, f"{JOURNAL}.rank-*.jsonl") or any(folder.glob(f"step-*/{RECORD}"))
        stamp = self.stamp(route, countermeasure)
        record = check_record(folder, stamp, begun=begun, rules=self.rules)
        if begun:
            open_journal(folder, JOURNAL, stamp=stamp, may_differ=self.rules.may_differ)
        return record

    def run(self, route: Route, countermeasure: Countermeasure, folder: Path) -> ContextStream:
        """Run a stream to its end, from where it stands in `folder`.

        Raises:
            StaleJournalError: The folder holds a stream with other settings.
            SavingError: A step cannot be written.
            RetryableError: A grader or an endpoint failed; finished steps are kept.
        """
        return _Run(self, route, countermeasure, folder).finish()

    def stamp(self, route: Route, countermeasure: Countermeasure) -> JsonObject:
        """What a stream depends on."""
        policy = self.updates.policy
        units = [route.contexts, self.unrelated]
        e_step = replace(self.e_step, seed=route.seed)
        stamp = make_stamp(e_step, units, chat=policy.chat_stamp, base="", policy="")
        measure = {"countermeasure": describe(countermeasure), **code_of(countermeasure)}
        return {**stamp, **self.origin, "combine": type(self.updates).__name__, **measure}


class _Run:
    """One stream at work."""

    def __init__(self, runner: StreamRunner, route: Route, countermeasure: Countermeasure, folder: Path) -> None:
        self.runner, self.route, self.countermeasure, self.folder = runner, route, countermeasure, folder
        stamp = runner.stamp(route, countermeasure)
        save_record(folder, runner.check(route, countermeasure, folder))
        self.journal = open_journal(folder, JOURNAL, stamp=stamp, may_differ=runner.rules.may_differ)
        self.e_step = replace(runner.e_step, seed=route.seed)
        self.updates, self.policy = runner.updates, runner.updates.policy
        self.learnt: list[Learnt] = []

    def finish(self) -> ContextStream:
        self.updates.clear()
        self.countermeasure.begin(self.policy, seed=derive_seed("countermeasure", self.route.seed))
        steps: list[StreamStep] = []
        changed = False  # whether an update differs from the one that later steps were run with
        for number in range(len(self.route.contexts) + 1):
            place = self.folder / f"step-{number:03d}"
            known = self._finished(place, changed=changed)
            if known is None:
                before = recorded_in(place)
                step = self._step(number, place)
                changed = changed or recorded_in(place) != before
            else:
                step, lora = known
                if lora is not None:
                    self.updates.add(lora)
            if number:
                self.learnt.append(self._learnt(number, step.chosen))
            steps.append(step)
            self.runner.advance(1)
        self._save_end(steps)
        return ContextStream(
            name=self.route.name,
            contexts=tuple(context.id for context in self.route.contexts),
            rows=tuple(tuple(answers.accuracy for answers in step.answered) for step in steps),
            unrelated=tuple(fmean(answers.accuracy for answers in step.unrelated) for step in steps if step.unrelated),
            shares=tuple(step.share for step in steps),
        )

    def _finished(self, place: Path, *, changed: bool) -> tuple[StreamStep, LoRA | None] | None:
        """A finished step and its update; None if there is none, or it has to be run again."""
        try:
            if (step := read_step(place)) is None:
                return None
            lora = None if step.chosen is None else read_lora(place)
        except (JournalError, ModelError) as error:
            log.warning("%s: damaged, so it is run again (%s)", place, error)
            return None
        if changed:
            log.warning("%s: run again, because an earlier step has other weights now", place)
            return None
        return step, lora

    def _step(self, number: int, place: Path) -> StreamStep:
        chosen, missing, lora, share = None, {}, None, None
        if number:
            context = self.route.contexts[number - 1]
            if number not in self.journal.units:  # scored if there are several
                verb = self.e_step.run if self.e_step.plan.edits > 1 else self.e_step.write_edits
                self.journal.append(number, verb(self.policy, [context], round=number, report=self.runner.report))
            rollouts = self.journal.units[number]
            if (chosen := choose(rollouts)) is not None:
                lora, missing, share = self._train(rollouts[chosen], context)
                if lora is None:
                    chosen = None  # as if no edit were usable
                else:
                    self.updates.add(lora)
        contexts = self.route.contexts[:number] if number else self.route.contexts
        asked = [*contexts, *self.runner.unrelated]
        answered = ask_closed_book(self.e_step, self.policy, asked, report=self.runner.report)
        missing = added([missing, {ANSWERS: sum(answers.cut for answers in answered)}])
        step = StreamStep(chosen, tuple(answered[: len(contexts)]), tuple(answered[len(contexts) :]), missing, share)
        write_step(place, step, [context.id for context in asked], lora=lora, model=self.policy.model)
        return step

    def _train(self, rollout: Rollout, context: Context) -> tuple[LoRA | None, dict[str, int], float | None]:
        """The update for a self-edit, what was cut or skipped in its training, and the share that was left of it.

        The update is None where it is not finite: the stream goes on without it.
        """
        edit = self.e_step.task.for_edit(rollout.edit_index).parse(rollout.text, context)
        seed = derive_seed("countermeasure", self.route.seed, len(self.learnt) + 1)
        sequences = self.countermeasure.sequences(edit.training_sequences, self.learnt, seed=seed)
        regulariser = self.countermeasure.regulariser(self.policy, self.learnt, seed=seed)
        loop, job = self.e_step.inner_loop, AdapterJob(sequences, seed=rollout.seed, directives=edit.applied)
        trained = loop.adapt(self.policy, [job], regulariser=regulariser)
        (stats,) = trained.stats
        longest = loop.longest(self.policy, job) if stats.truncated else 0
        missing = {TRUNCATED: stats.truncated, SKIPPED: stats.skipped, LONGEST: longest}
        if loop.is_sound(self.policy, trained, 0, job):
            new = bank_lora(trained.bank, 0)
            lora = self.countermeasure.finish(new, self.learnt, policy=self.policy, e_step=self.e_step)
            if all_finite(lora.state.values()):
                return lora, missing, lora.scale / new.scale if lora.state is new.state else None
        log.warning(
            "%s, %s: nothing is learnt from it, because its adapter diverged (%s): lower "
            "model.inner_loop.learning_rate",
            self.route.name,
            context.id,
            stats.diverged or "its outputs on its own training text are not finite",
        )
        return None, {**missing, DIVERGED: 1}, None

    def _learnt(self, number: int, chosen: int | None) -> Learnt:
        context = self.route.contexts[number - 1]
        if chosen is None:
            return Learnt(context, (), None)
        rollout = self.journal.units[number][chosen]
        edit = self.e_step.task.for_edit(rollout.edit_index).parse(rollout.text, context)
        return Learnt(context, edit.training_sequences, self.updates.added[-1])

    def _save_end(self, steps: Sequence[StreamStep]) -> None:
        """The sum of all updates as one PEFT folder for the base model, with what the policy had learnt before."""
        if (lora := self.policy.learned()) is None:
            return
        card = stream_card(
            self.runner.source,
            self.policy,
            self.e_step,
            self.route.contexts,
            place=f"{Path(*self.folder.parts[-3:]) / END}",
            steps=steps,
            settings={"countermeasure": type(self.countermeasure).__name__, "seed": self.route.seed},
        )
        with whole(self.folder / END) as folder:
            save_lora(lora, folder, model=self.policy.model)
            self.policy.tokenizer.save_pretrained(folder)
            save_text(folder / CARD, card)


def left_out_of(folder: Path) -> dict[str, int]:
    """Counts of what was cut, skipped or dropped in the stream of a folder."""
    steps = [step for place in sorted(folder.glob("step-*")) if (step := read_step(place)) is not None]
    return added([total_left_out(read_rollouts(folder, JOURNAL)), *[step.left_out for step in steps]])


def choose(rollouts: Sequence[Rollout]) -> int | None:
    """The place of the rollout to learn from: the best by reward if there are rewards, else the first usable one."""
    if any(rollout.reward is not None for rollout in rollouts):
        best = [outcome.edit_index for outcome in best_of(group_rollouts(rollouts)[0])]  # none if all have diverged
        return next((place for place, rollout in enumerate(rollouts) if rollout.edit_index in best), None)
    return next((place for place, rollout in enumerate(rollouts) if rollout.status == "ok"), None)


def check_queries(contexts: Sequence[Context], *, name: str) -> None:
    """Raises `ConfigError` where a context has no query, or one without an answer."""
    if missing := [context for context in contexts if not context.is_scorable]:
        what = "with answers to all of them" if missing[0].queries else "with queries"
        raise ConfigError(
            f"{name}: expected contexts {what}, but {len(missing)} of {len(contexts)} lack them (first: "
            f"{missing[0].id}): add queries, or remove the contexts"
        )
