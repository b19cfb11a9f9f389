"""The adapters that stay: trained or generated, asked about their documents, and written.

    jobs -> trained, as many at a time as fit, with checkpoints -> asked closed-book -> a folder each

Adapters that are made together are written together; a group whose folders are all there is not made again.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from seal_lightning.commands.adapt.folders import finished, write
from seal_lightning.commands.adapt.generated import TOGETHER, generate
from seal_lightning.commands.adapt.jobs import ALL, Adapter, AdapterAnswers, Answers, Workplace, sent
from seal_lightning.commands.adapt.keeping import Keeper
from seal_lightning.commands.adapt.plan import plan_groups, read_plan, save_plan
from seal_lightning.commands.adapt.sharing import Sharing
from seal_lightning.commands.adapt.skill import with_skill
from seal_lightning.commands.adapt.training import train
from seal_lightning.e_step.closed_book import Answered, ask_closed_book
from seal_lightning.errors import NoMemoryError, Stopped
from seal_lightning.inner_loop.bank import bank_lora
from seal_lightning.inner_loop.loop import TrainedBank
from seal_lightning.policy.policy import Policy
from seal_lightning.processes.worker import stop_wanted
from seal_lightning.progress.screen import Notes
from seal_lightning.text.plural import counted

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Results:
    """What came of a group of adapters.

    Attributes:
        outcomes: What each of them answers, or why it was not written.
        lines: What is to be told.
    """

    outcomes: list[Answers | str]
    lines: Sequence[str] = ()


def make(
    place: Workplace, kinds: Mapping[str, Sequence[Adapter]], sharing: Sharing[Results], keeper: Keeper
) -> dict[str, list[Answers | None]]:
    """Train, measure and write adapters, as many at a time as fit; what those of each kind answer, in their order.

    One that diverged is not written: it is None here, and the others go on.

    Args:
        place: What making an adapter takes.
        kinds: Adapters with the same settings, by the name of their kind.
        sharing: The processes that make them.
        keeper: Writes down what is finished.

    Raises:
        ConfigError: A folder holds an adapter that was trained with other settings.
        NoMemoryError: The memory does not suffice for a single adapter.
    """
    known = outcomes_before(place, [adapter for adapters in kinds.values() for adapter in adapters], keeper)
    groups = _planned(place, kinds, known)
    left = [number for number, group in enumerate(groups) if any(adapter.name not in known for adapter in group)]

    def here(number: int) -> Results | None:
        try:
            return Results(_made(place, groups[number]))
        except Stopped:
            return None

    shared = sharing.share(
        left, here, work=partial(_made_elsewhere, place=sent(place)), item=lambda number: groups[number], name=str
    )
    for number, results in shared:
        made = list(zip(groups[number], results.outcomes, strict=True))
        known |= {adapter.name: outcome for adapter, outcome in made}
        keeper.note(place, made)
        for line in results.lines:
            place.screen.line(line)
    place.check_stop()
    return {kind: [answers_or_none(known[adapter.name]) for adapter in adapters] for kind, adapters in kinds.items()}


def answers_or_none(outcome: Answers | str) -> Answers | None:
    """What an adapter answers; None for one that was not written."""
    return None if isinstance(outcome, str) else outcome


def outcomes_before(place: Workplace, adapters: Sequence[Adapter], keeper: Keeper) -> dict[str, Answers | str]:
    """What came of adapters in earlier runs, by name; without those that are to be made."""
    found = []
    for adapter in adapters:
        if reason := keeper.failure(adapter):
            place.screen.line(f"{adapter.name}: not written in an earlier run, because {reason}")
        if (outcome := reason or finished(place, adapter)) is not None:
            found.append((adapter, outcome))
    keeper.note(place, found)
    return {adapter.name: outcome for adapter, outcome in found}


def _planned(
    place: Workplace, kinds: Mapping[str, Sequence[Adapter]], known: Collection[str]
) -> list[Sequence[Adapter]]:
    """Adapters that train together, as planned in the run that began with them."""
    by_name = {adapter.name: adapter for adapters in kinds.values() for adapter in adapters}
    sizes = [
        (_together(place, adapters), [(adapter.name, adapter.stamp) for adapter in adapters])
        for adapters in kinds.values()
    ]
    before = read_plan(place.output)
    plan = plan_groups(before, sizes, known)
    save_plan(place.output, plan, known=before)
    return [[by_name[name] for name, _ in group] for group in plan.groups]


def _together(place: Workplace, adapters: Sequence[Adapter]) -> int:
    """How many adapters train at the same time."""
    loop = adapters[0].inner_loop if adapters else None
    return loop.slots(place.policy.model) if loop else TOGETHER


def _made(place: Workplace, group: Sequence[Adapter]) -> list[Answers | str]:
    """Make a group, or the halves of one that does not fit into memory; what each answers, or why it is not there."""
    try:
        return _make_and_measure(place, group)
    except NoMemoryError as error:
        if len(group) == 1:
            raise
        half = len(group) // 2
        log.warning("%s; from now on in two halves of %d", error, half)
    return _made(place, group[:half]) + _made(place, group[half:])


def _made_elsewhere(policy: Policy, group: Sequence[Adapter], *, place: Mapping[str, Any]) -> Results | None:
    """Make a group in a worker; None where the command is to stop."""
    screen = Notes()

    def check_stop() -> None:
        if stop_wanted():
            raise Stopped(signal.SIGTERM)

    try:
        outcomes = _made(Workplace(**place, policy=policy, screen=screen, check_stop=check_stop), group)
    except Stopped:
        return None
    return Results(outcomes, screen.lines)


def _make_and_measure(place: Workplace, group: Sequence[Adapter]) -> list[Answers | str]:
    label = "one adapter for all" if group[0].name == ALL else counted(len(group), "adapter")
    state = place.output / "training" / f"{group[0].name}.safetensors"
    trained = _trained(place, group, label, state)
    alone: list[Answers] = [{} for _ in group]
    if place.skill is not None:
        diverged = {number: stats.diverged for number, stats in enumerate(trained.stats) if stats.diverged}
        with place.screen.bar(f"{label}, measured without the skill vector", 1):
            alone = [measured.after for measured in _ask(place, trained, group, diverged, unrelated=False)]
        trained = with_skill(trained, place.skill, place.policy)
    reasons = {  # why adapters must not be written, by their number in the group
        number: stats.diverged or "its outputs on its own text are not finite"
        for number, stats in enumerate(trained.stats)
        if not group[number].measure.is_sound(place.policy, trained, number, group[number].job)
    }
    with place.screen.bar(f"{label}, measured", 1):
        found = _ask(place, trained, group, reasons)
    for number, adapter in enumerate(group):
        if number in reasons:
            place.screen.line(f"{adapter.name}: not written, because {_diverged(adapter, reasons[number])}")
            continue
        if finished(place, adapter) is not None:  # it is the same, and keeps its files
            continue
        losses = adapter.measure.losses(place.policy, trained, number, adapter.job)
        lora, stats = bank_lora(trained.bank, number), trained.stats[number]
        write(place, adapter, lora, stats, replace(found[number], alone=alone[number]), losses)
    state.unlink(missing_ok=True)
    return [
        _diverged(adapter, reasons[number]) if number in reasons else found[number].after
        for number, adapter in enumerate(group)
    ]


def _diverged(adapter: Adapter, reason: str) -> str:
    if adapter.inner_loop is None:
        return f"{reason}: take another generator, or train without one"
    return f"its training diverged ({reason}): lower {adapter.option}.learning_rate and start again in another --output"


def _trained(place: Workplace, group: Sequence[Adapter], label: str, state: Path) -> TrainedBank:
    """The adapters of a group, by the inner loop or by the generator."""
    loop, jobs = group[0].inner_loop, [adapter.job for adapter in group]
    if loop is None:
        with place.screen.bar(f"{label}, written", 1):
            return generate(place, group)
    with place.screen.bar(f"{label}, training steps", loop.total_steps(jobs)) as advance:
        return train(
            loop,
            place.policy,
            jobs,
            state=state,
            stamp="-".join([place.stamp, str(place.every_steps), *(adapter.stamp for adapter in group)]),
            every_steps=place.every_steps,
            on_step=advance,
            check_stop=place.check_stop,
        )


def _ask(
    place: Workplace, trained: TrainedBank, group: Sequence[Adapter], reasons: dict[int, str], *, unrelated: bool = True
) -> list[AdapterAnswers]:
    """What each adapter answers on its documents and on unrelated questions, all in one batch.

    One whose logits are not finite is added to `reasons`.
    """
    able = [(number, adapter) for number, adapter in enumerate(group) if number not in reasons]
    asked = [(number, lesson.document.context) for number, adapter in able for lesson in adapter.lessons]
    others = [(number, one) for number, adapter in able if unrelated for one in place.unrelated_to(adapter)]
    numbers = [number for number, _ in (*asked, *others)]
    with place.screen.phases() as report:
        scored = ask_closed_book(
            place.e_step,
            place.policy,
            [context for _, context in (*asked, *others)],
            jobs=numbers,
            trained=trained,
            report=report,
            on_diverged=lambda place: reasons.update({numbers[place]: "the logits of its answers are not finite"}),
        )
    after, beside = ([dict[str, Answered]() for _ in group] for _ in range(2))
    for kind, pairs, given in ((after, asked, scored[: len(asked)]), (beside, others, scored[len(asked) :])):
        for (number, context), answered in zip(pairs, given, strict=True):
            if answered.answers:
                kind[number][context.id] = answered
    return [AdapterAnswers(*both) for both in zip(after, beside, strict=True)]
