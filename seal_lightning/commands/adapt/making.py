"""The adapters that stay: trained, asked about their documents, and written.

    jobs -> trained, as many at a time as fit, with checkpoints -> asked closed-book -> a folder each

Adapters that train together are written together; a group whose folders are all there is not trained again.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence

from seal_lightning.commands.adapt.folders import finished, write
from seal_lightning.commands.adapt.jobs import ALL, Adapter, Answers, Workplace
from seal_lightning.commands.adapt.training import train
from seal_lightning.e_step.closed_book import Answered, ask_closed_book
from seal_lightning.errors import NoMemoryError
from seal_lightning.inner_loop.bank import bank_lora
from seal_lightning.inner_loop.loop import TrainedBank

log = logging.getLogger(__name__)


def make(place: Workplace, adapters: Sequence[Adapter]) -> list[Answers | None]:
    """Train, measure and write adapters with the same settings, as many at a time as fit; what they answer, in order.

    One that diverged is not written: it is None here, and the others go on.

    Raises:
        ConfigError: A folder holds an adapter that was trained with other settings.
        NoMemoryError: The memory does not suffice for a single adapter.
    """
    size = adapters[0].inner_loop.slots(place.policy.model) if adapters else 1
    groups = deque(adapters[start : start + size] for start in range(0, len(adapters), size))
    made: list[Answers | None] = []
    while groups:
        group = groups.popleft()
        answers: Sequence[Answers | None] = [finished(place, adapter) for adapter in group]
        if any(known is None for known in answers):
            place.check_stop()
            try:
                answers = _train_and_measure(place, group)
            except NoMemoryError as error:
                if len(group) == 1:
                    raise
                half = len(group) // 2
                log.warning("%s; from now on in two halves of %d", error, half)
                groups.extendleft([group[half:], group[:half]])
                continue
        made += answers
    return made


def _train_and_measure(place: Workplace, group: Sequence[Adapter]) -> list[Answers | None]:
    label = "one adapter for all" if group[0].name == ALL else f"{len(group)} adapters"
    state = place.output / "training" / f"{group[0].name}.safetensors"
    loop, jobs = group[0].inner_loop, [adapter.job for adapter in group]
    with place.screen.bar(f"{label}, training steps", loop.total_steps(jobs)) as advance:
        trained = train(
            loop,
            place.policy,
            jobs,
            state=state,
            stamp="-".join([place.stamp, str(place.every_steps), *(adapter.stamp for adapter in group)]),
            every_steps=place.every_steps,
            on_step=advance,
            check_stop=place.check_stop,
        )
    reasons = {  # why adapters must not be written, by their number in the group
        number: stats.diverged or "its outputs on its own training text are not finite"
        for number, stats in enumerate(trained.stats)
        if not loop.is_sound(place.policy, trained, number, jobs[number])
    }
    with place.screen.bar(f"{label}, measured", 1):
        answers = _ask(place, trained, group, reasons)
    for number, adapter in enumerate(group):
        if number in reasons:
            place.screen.line(
                f"{adapter.name}: not written, because its training diverged ({reasons[number]}): lower "
                f"{adapter.option}.learning_rate and start again in another --output"
            )
            continue
        losses = loop.losses(place.policy, trained, number, adapter.job)
        write(place, adapter, bank_lora(trained.bank, number), trained.stats[number], answers[number], losses)
    state.unlink(missing_ok=True)
    return [None if number in reasons else answers[number] for number in range(len(group))]


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
