"""One stream: contexts learnt one after another, and after each of them all earlier queries again (section 5).

    for each context: self-edit -> its adapter -> added to the policy -> queries of all contexts so far, and others

Self-edits are in the stream's journal. Every step is a folder that is there as a whole or not at all: the adapter that
was added as a PEFT folder, and `step.json` with what was answered. A stream that was stopped or killed adds the saved
adapters again in the same order and goes on, to the same result.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from seal_lightning.commands.continual.card import stream_card
from seal_lightning.commands.continual.countermeasure import Countermeasure, Learnt
from seal_lightning.commands.continual.updates import Updates
from seal_lightning.commands.standalone import check_record, open_journal, rules
from seal_lightning.e_step.closed_book import Answered, ask_closed_book
from seal_lightning.e_step.step import EStep, Plan
from seal_lightning.errors import ConfigError, JournalError, ModelError
from seal_lightning.files.bounded import parse_json
from seal_lightning.files.digests import KEY, digests_of, recorded_in
from seal_lightning.files.saving import save_text, whole
from seal_lightning.fit.units import make_stamp
from seal_lightning.inner_loop.export import bank_lora
from seal_lightning.m_step.selection import best_of, group_rollouts
from seal_lightning.models.finite import all_finite
from seal_lightning.models.loading import ModelSource
from seal_lightning.models.lora import LoRA, save_lora
from seal_lightning.models.lora_files import read_lora
from seal_lightning.models.origins import CARD
from seal_lightning.progress.clock import Report
from seal_lightning.records.journal import is_begun, read_rollouts
from seal_lightning.results.left_out import ANSWERS, DIVERGED, LONGEST, SKIPPED, TRUNCATED, added, total_left_out
from seal_lightning.results.retention import Stream
from seal_lightning.seeding import derive_seed
from seal_lightning.stamps.run import Record, Rules, save_record
from seal_lightning.stamps.values import code_of, describe
from seal_lightning.types import AdapterJob, Context, Rollout

log = logging.getLogger(__name__)

RECORD = "step.json"
JOURNAL = "self-edits"
END = "adapter"  # folder of the sum of all updates


@dataclass(frozen=True, slots=True)
class Route:
    """The contexts of a stream in their order, and the seed of everything random in it."""

    name: str
    contexts: tuple[Context, ...]
    seed: int

    @property
    def folder(self) -> str:
        return self.name.replace(",", "").replace(" ", "-")


@dataclass(frozen=True, slots=True)
class Step:
    """What was answered after a step; step 0 learns nothing.

    Attributes:
        chosen: The place among the step's rollouts of the one that was learnt; None where none could be.
        answered: On the contexts so far (at step 0 on all), in the stream's order.
        unrelated: On the unrelated contexts.
        left_out: What was cut or skipped in training the update, and of the answers.
    """

    chosen: int | None
    answered: tuple[Answered, ...]
    unrelated: tuple[Answered, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class StreamRunner:
    """Runs streams with the same settings.

    Attributes:
        e_step: Its parts write, train and ask.
        plan: Self-edits a context, and their repeats where there are several to choose from.
        updates: The policy, and how it grows.
        unrelated: Contexts whose queries are asked after every step.
        origin: What else the result depends on, such as the base model, as JSON values.
        advance: Told about every finished step; may raise where the run is to stop.
        report: Told about the phases of a step.
        rules: What a resumed stream may differ in.
        source: The base model, for the card of the end's adapter; None writes none.
    """

    e_step: EStep
    plan: Plan
    updates: Updates
    unrelated: Sequence[Context]
    origin: Mapping[str, Any] = field(default_factory=dict)
    advance: Callable[[int], None] = lambda count: None
    report: Report = lambda progress: None
    rules: Rules = field(default_factory=rules)
    source: ModelSource | None = None

    def check(self, route: Route, countermeasure: Countermeasure, folder: Path) -> Record:
        """The record that a stream in `folder` goes on with. Raises as `run`, and writes nothing."""
        begun = is_begun(folder, f"{JOURNAL}.rank-*.jsonl") or any(folder.glob(f"step-*/{RECORD}"))
        stamp = self.stamp(route, countermeasure)
        record = check_record(folder, stamp, begun=begun, rules=self.rules)
        if begun:
            open_journal(folder, JOURNAL, stamp=stamp, may_differ=self.rules.may_differ)
        return record

    def run(self, route: Route, countermeasure: Countermeasure, folder: Path) -> Stream:
        """Run a stream to its end, from wherever it stands in `folder`.

        Raises:
            StaleJournalError: The folder holds a stream with other settings.
            SavingError: A step cannot be written.
            RetryableError: A grader or an endpoint failed; finished steps are kept.
        """
        return _Run(self, route, countermeasure, folder).finish()

    def stamp(self, route: Route, countermeasure: Countermeasure) -> dict[str, Any]:
        """What a stream depends on."""
        policy = self.updates.policy
        units = [route.contexts, self.unrelated]
        found = make_stamp(
            replace(self.e_step, seed=route.seed), self.plan, units, chat=policy.chat_stamp, base="", policy=""
        )
        combine = type(self.updates).__name__
        measure = {"countermeasure": describe(countermeasure), **code_of(countermeasure)}
        return {**found, **self.origin, "combine": combine, **measure}


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

    def finish(self) -> Stream:
        self.updates.clear()
        self.countermeasure.begin(self.policy, seed=derive_seed("countermeasure", self.route.seed))
        steps: list[Step] = []
        changed = False  # an update, since the steps after it were run
        for number in range(len(self.route.contexts) + 1):
            place = self.folder / f"step-{number:03d}"
            found = self._finished(place, changed=changed)
            if found is None:
                before = recorded_in(place)
                step = self._step(number, place)
                changed = changed or recorded_in(place) != before
            else:
                step, lora = found
                if lora is not None:
                    self.updates.add(lora)
            if number:
                self.learnt.append(self._learnt(number, step.chosen))
            steps.append(step)
            self.runner.advance(1)
        self._save_end(steps)
        return stream_of(self.route, steps)

    def _finished(self, place: Path, *, changed: bool) -> tuple[Step, LoRA | None] | None:
        """A step that is there, and its update; None where there is none, or it has to be run again."""
        try:
            if (step := read_step(place)) is None:
                return None
            lora = None if step.chosen is None else read_lora(place)
        except (JournalError, ModelError) as error:
            log.warning("%s: damaged, it is run again (%s)", place, error)
            return None
        if changed:
            log.warning("%s: an earlier step has other weights now, it is run again", place)
            return None
        return step, lora

    def _step(self, number: int, place: Path) -> Step:
        chosen, missing, lora = None, {}, None
        if number:
            context = self.route.contexts[number - 1]
            rollouts = self._rollouts(number, context)
            chosen = choose(rollouts)
            if chosen is not None:
                lora, missing = self._train(rollouts[chosen], context)
                if lora is None:
                    chosen = None  # as where no edit could be used
                else:
                    self.updates.add(lora)
        contexts = self.route.contexts[:number] if number else self.route.contexts
        asked = [*contexts, *self.runner.unrelated]
        answered = ask_closed_book(self.e_step, self.policy, asked, report=self.runner.report)
        missing = added([missing, {ANSWERS: sum(one.cut for one in answered)}])
        step = Step(chosen, tuple(answered[: len(contexts)]), tuple(answered[len(contexts) :]), missing)
        write_step(place, step, [context.id for context in asked], lora=lora, model=self.policy.model)
        return step

    def _rollouts(self, number: int, context: Context) -> Sequence[Rollout]:
        """The step's self-edits, scored where there are several; from the journal where they are there."""
        if number not in self.journal.units:
            plan = self.runner.plan
            verb = self.e_step.run if plan.edits > 1 else self.e_step.write_edits
            found = verb(self.policy, [context], plan=plan, round=number, report=self.runner.report)
            self.journal.append(number, found)
        return self.journal.units[number]

    def _train(self, rollout: Rollout, context: Context) -> tuple[LoRA | None, dict[str, int]]:
        """The update that is to be added for a self-edit, and what was cut or skipped in its training.

        None where it is not finite: the policy goes on without it.
        """
        edit = self.e_step.task.parse(rollout.text, context)
        seed = derive_seed("countermeasure", self.route.seed, len(self.learnt) + 1)
        sequences = self.countermeasure.sequences(edit.training_sequences, self.learnt, seed=seed)
        regulariser = self.countermeasure.regulariser(self.policy, self.learnt, seed=seed)
        loop, job = self.e_step.inner_loop, AdapterJob(sequences, seed=rollout.seed, directives=edit.applied)
        trained = loop.adapt(self.policy, [job], regulariser=regulariser)
        (stats,) = trained.stats
        longest = loop.longest(self.policy, job) if stats.truncated else 0
        missing = {TRUNCATED: stats.truncated, SKIPPED: stats.skipped, LONGEST: longest}
        if loop.is_sound(self.policy, trained, 0, job):
            lora = self.countermeasure.finish(bank_lora(trained.bank, 0), self.learnt, policy=self.policy)
            if all_finite(lora.state.values()):
                return lora, missing
        log.warning(
            "%s, %s: its adapter diverged (%s), so nothing is learnt from it: lower model.inner_loop.learning_rate",
            self.route.name,
            context.id,
            stats.diverged or "what it makes of its own training text is not finite",
        )
        return None, {**missing, DIVERGED: 1}

    def _learnt(self, number: int, chosen: int | None) -> Learnt:
        context = self.route.contexts[number - 1]
        if chosen is None:
            return Learnt(context, (), None)
        edit = self.e_step.task.parse(self.journal.units[number][chosen].text, context)
        return Learnt(context, edit.training_sequences, self.updates.added[-1])

    def _save_end(self, steps: Sequence[Step]) -> None:
        """The sum of all updates as one PEFT folder for the base model, with what the policy had learnt before."""
        if (lora := self.policy.learned()) is None:
            return
        with whole(self.folder / END) as folder:
            save_lora(lora, folder, model=self.policy.model)
            self.policy.tokenizer.save_pretrained(folder)
            if self.runner.source is not None:
                save_text(folder / CARD, self._card(self.runner.source, steps))

    def _card(self, source: ModelSource, steps: Sequence[Step]) -> str:
        return stream_card(
            source,
            self.policy,
            self.e_step,
            self.route.contexts,
            place=f"{Path(*self.folder.parts[-3:]) / END}",
            before=steps[0].answered,
            after=steps[-1].answered,
            measure=type(self.countermeasure).__name__,
            seed=self.route.seed,
        )


def left_out_of(folder: Path) -> dict[str, int]:
    """What was cut, skipped or dropped in the stream of a folder."""
    steps = [step for place in sorted(folder.glob("step-*")) if (step := read_step(place)) is not None]
    return added([total_left_out(read_rollouts(folder, JOURNAL)), *[step.left_out for step in steps]])


def choose(rollouts: Sequence[Rollout]) -> int | None:
    """The place of the rollout to learn from: the best by reward where they have one, else the only usable one."""
    if any(rollout.reward is not None for rollout in rollouts):
        best = best_of(group_rollouts(rollouts)[0])  # none where each edit has diverged in a repeat
        return next(
            (place for place, one in enumerate(rollouts) if best and one.edit_index == best[0].edit_index), None
        )
    return next((place for place, rollout in enumerate(rollouts) if rollout.status == "ok"), None)


def stream_of(route: Route, steps: Sequence[Step]) -> Stream:
    """The rows of a stream."""
    return Stream(
        name=route.name,
        contexts=tuple(context.id for context in route.contexts),
        rows=tuple(tuple(one.accuracy for one in step.answered) for step in steps),
        unrelated=tuple(fmean(one.accuracy for one in step.unrelated) for step in steps if step.unrelated),
    )


def check_queries(contexts: Sequence[Context], *, name: str) -> None:
    """Raises `ConfigError` where a context has no query to be asked, or one that nobody knows the answer to."""
    if missing := [context for context in contexts if not context.is_scorable]:
        what = "with answers to all of them" if missing[0].queries else "with queries"
        raise ConfigError(
            f"{name}: expected contexts {what}, got {len(missing)} of {len(contexts)} without (first: "
            f"{missing[0].id}): add queries, or remove them"
        )


# -- steps on disk -----------------------------------------------------------------------------------------------------


def write_step(place: Path, step: Step, asked: Sequence[str], *, lora: LoRA | None = None, model: Any = None) -> None:
    """Write a finished step, and return once it and its adapter are on disk.

    Args:
        place: Its folder.
        step: What was answered.
        asked: Ids of the contexts, for those who read the file.
        lora: The update.
        model: What that is for.

    Raises:
        SavingError: It cannot be written.
    """
    with whole(place) as folder:
        folder.mkdir()
        if lora is not None:
            save_lora(lora, folder, model=model)
        content = {**asdict(step), "contexts": asked, KEY: digests_of(folder)}
        save_text(folder / RECORD, json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def read_step(place: Path) -> Step | None:
    """A finished step; None where there is none.

    Raises:
        JournalError: It cannot be read.
    """
    path = place / RECORD
    if not path.is_file():
        return None
    try:
        content = parse_json(path.read_bytes())
        answered, unrelated = (tuple(map(Answered.from_dict, content[name])) for name in ("answered", "unrelated"))
        return Step(_place(content["chosen"]), answered, unrelated, _counts(content.get("left_out", {})))
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:100]
        raise JournalError(f"{path}: expected a step of seal continual, got {reason}: remove its folder") from error


def _place(chosen: Any) -> int | None:
    if chosen is not None and (isinstance(chosen, bool) or not isinstance(chosen, int) or chosen < 0):
        raise ValueError(f"chosen {chosen!r}, which is a place or null")
    return chosen


def _counts(found: Any) -> dict[str, int]:
    if not isinstance(found, dict) or not all(isinstance(count, int) for count in found.values()):
        raise ValueError("left_out, which is counts by name")
    return found
