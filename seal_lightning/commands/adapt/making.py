"""The adapters that stay: trained, asked about their documents, and written.

    jobs -> trained, as many at a time as fit, with checkpoints -> asked closed-book -> a folder each

Adapters that train together are written together; a group whose folders are all there is not trained again.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from functools import partial

from seal_lightning.commands.adapt.baseline import Answers
from seal_lightning.commands.adapt.folders import finished, write
from seal_lightning.commands.adapt.jobs import ALL, Adapter
from seal_lightning.commands.adapt.training import train
from seal_lightning.commands.adapt.workplace import Workplace
from seal_lightning.e_step.closed_book import Answered, ask_closed_book
from seal_lightning.errors import NoMemoryError
from seal_lightning.inner_loop.bank import bank_lora
from seal_lightning.inner_loop.loop import TrainedBank

log = logging.getLogger(__name__)


def make(place: Workplace, adapters: Sequence[Adapter], before: Answers) -> list[Answers | None]:
    """Train, measure and write adapters, as many at a time as fit; what they answer, in their order.

    One that diverged is not written: it is None here, and the others go on.

    Args:
        place: What the work is done with, and where.
        adapters: Adapters with the same settings.
        before: What the policy answers without an adapter.

    Raises:
        ConfigError: A folder holds an adapter that was trained with other settings.
        NoMemoryError: The memory does not suffice for a single adapter.
    """
    size = adapters[0].inner_loop.slots(place.policy.model) if adapters else 1
    groups = deque(adapters[start : start + size] for start in range(0, len(adapters), size))
    made: list[Answers | None] = []
    while groups:
        group = groups.popleft()
        answers: Sequence[Answers | None] | None = [finished(place, adapter) for adapter in group]
        if any(known is None for known in answers):
            place.check_stop()
            answers = _within_memory(place, group, before)
        if answers is None:
            groups.extendleft([group[len(group) // 2 :], group[: len(group) // 2]])
        else:
            made += answers
    return made


def _within_memory(place: Workplace, group: Sequence[Adapter], before: Answers) -> list[Answers | None] | None:
    """What the adapters answer; None where they have to be made in two halves."""
    try:
        return _train_and_measure(place, group, before)
    except NoMemoryError as error:
        if len(group) == 1:
            raise
        log.warning("%s; from now on in two halves of %d", error, len(group) // 2)
    return None


def _train_and_measure(place: Workplace, group: Sequence[Adapter], before: Answers) -> list[Answers | None]:
    label = "one adapter for all" if group[0].name == ALL else f"{len(group)} adapters"
    state = place.output / "training" / f"{group[0].name}.safetensors"
    with place.screen.bar(f"{label}, training steps", _steps(group)) as advance:
        trained = train(
            group[0].inner_loop,
            place.policy,
            [adapter.job for adapter in group],
            state=state,
            stamp="-".join([place.stamp, str(place.every_steps), *(adapter.stamp for adapter in group)]),
            every_steps=place.every_steps,
            on_step=advance,
            check_stop=place.check_stop,
        )
    reasons = _diverged(place, trained, group)
    with place.screen.bar(f"{label}, measured", 1):
        answers = _ask(place, trained, group, reasons)
    for number, adapter in enumerate(group):
        if number in reasons:
            place.screen.line(
                f"{adapter.name}: not written, because its training diverged ({reasons[number]}): lower "
                f"{adapter.option}.learning_rate and start again in another --output"
            )
            continue
        losses = adapter.inner_loop.losses(place.policy, trained, number, adapter.job)
        lora = bank_lora(trained.bank, number)
        write(place, adapter, lora, trained.stats[number], before, answers[number], losses=losses)
    state.unlink(missing_ok=True)
    return [None if number in reasons else answers[number] for number in range(len(group))]


def _steps(group: Sequence[Adapter]) -> int:
    return group[0].inner_loop.total_steps([adapter.job for adapter in group])


def _diverged(place: Workplace, trained: TrainedBank, group: Sequence[Adapter]) -> dict[int, str]:
    """Why adapters must not be written, by their number in the group."""
    sound = partial(group[0].inner_loop.is_sound, place.policy, trained)
    return {
        number: trained.stats[number].diverged or "its outputs on its own training text are not finite"
        for number, adapter in enumerate(group)
        if not sound(number, adapter.job)
    }


def _ask(
    place: Workplace, trained: TrainedBank, group: Sequence[Adapter], reasons: dict[int, str]
) -> list[dict[str, Answered]]:
    """What each adapter answers on its documents; one whose logits are not finite is added to `reasons`."""
    pairs = [(n, lesson.document) for n, adapter in enumerate(group) if n not in reasons for lesson in adapter.lessons]
    numbers = [number for number, _ in pairs]
    with place.screen.phases() as report:
        scored = ask_closed_book(
            place.e_step,
            place.policy,
            [document.context for _, document in pairs],
            jobs=numbers,
            trained=trained,
            report=report,
            on_diverged=lambda place: reasons.update({numbers[place]: "the logits of its answers are not finite"}),
        )
    answers: list[dict[str, Answered]] = [{} for _ in group]
    for (number, document), answered in zip(pairs, scored, strict=True):
        if answered.answers:
            answers[number][document.id] = answered
    return answers
