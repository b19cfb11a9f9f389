"""The adapters that stay: trained, asked about their documents, and written as PEFT folders.

    lessons -> jobs -> trained, with checkpoints -> asked closed-book -> a folder each, complete or not there at all

Adapters that train together are written together; a group whose folders are all there is not trained again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from seal_lightning.commands.adapt.card import model_card, usage_of
from seal_lightning.commands.adapt.edits import Lesson
from seal_lightning.commands.adapt.scores import Measured, score_of
from seal_lightning.commands.adapt.training import train
from seal_lightning.commands.adapt.verdict import Training, Writing, judge
from seal_lightning.data.documents import Document
from seal_lightning.e_step.closed_book import Answered, ask_closed_book
from seal_lightning.e_step.step import EStep
from seal_lightning.errors import ConfigError, ModelError, NoMemoryError
from seal_lightning.files.bounded import parse_json
from seal_lightning.files.digests import KEY, damage, digests_of, read_record, recorded_in
from seal_lightning.files.saving import save_text, whole
from seal_lightning.grading import name_of
from seal_lightning.inner_loop.export import bank_lora
from seal_lightning.inner_loop.loop import InnerLoop, TrainedBank
from seal_lightning.inner_loop.plans import JobStats
from seal_lightning.models.layers import parts_without_adapter
from seal_lightning.models.lora import LoRA, save_lora, stack
from seal_lightning.models.lora_files import read_lora
from seal_lightning.models.origins import Origin
from seal_lightning.models.source import ModelSource
from seal_lightning.models.whole import save_whole, whole_state
from seal_lightning.policy.policy import Policy
from seal_lightning.progress.screen import Screen
from seal_lightning.results.left_out import ANSWERS, LONGEST, SKIPPED, TRUNCATED, added, render_left_out
from seal_lightning.sampling import LocalSampler, Sampler
from seal_lightning.seeding import derive_seed
from seal_lightning.stamps.values import describe, digest
from seal_lightning.types import AdapterJob, Directives

log = logging.getLogger(__name__)

RESULT = "adaptation.json"
MERGED = "merged"
ALL = "all"


@dataclass(frozen=True, slots=True)
class Adapted:
    """One adapter.

    Attributes:
        name: Of its folder.
        lessons: What it learns, one a document.
        job: Its training.
        inner_loop: The settings of that.
    """

    name: str
    lessons: tuple[Lesson, ...]
    job: AdapterJob
    inner_loop: InnerLoop

    @property
    def stamp(self) -> str:
        """Digest of everything that its training depends on, apart from the policy."""
        return digest([asdict(self.job), asdict(self.inner_loop)])


@dataclass(frozen=True, slots=True)
class Workplace:
    """What adapters are made with, and where they are put.

    Attributes:
        e_step: Asks and grades.
        policy: Frozen.
        output: The folder of the command.
        stamp: Of the policy.
        every_steps: Optimizer steps between two checkpoints.
        merged: Write whole weights too.
        source: The base model as it was loaded.
        base: The base model as cards name it.
        data_licence: Of the documents, for the cards.
        unread: Files beside the documents that were left out.
        screen: Shows progress.
        check_stop: Raises where a signal asked the command to stop.
    """

    e_step: EStep
    policy: Policy
    output: Path
    stamp: str
    every_steps: int
    merged: bool
    source: ModelSource
    base: Origin
    data_licence: str | None
    unread: int
    screen: Screen
    check_stop: Callable[[], None]


def one_each(lessons: Sequence[Lesson], inner_loop: InnerLoop, *, seed: int) -> list[Adapted]:
    """An adapter for each document."""
    return [
        Adapted(name, (lesson,), _job([lesson], lesson.directives, lesson.seed or _seed(name, seed)), inner_loop)
        for lesson in lessons
        for name in [folder_name(lesson.document.id)]
    ]


def one_for_all(lessons: Sequence[Lesson], inner_loop: InnerLoop, *, seed: int) -> Adapted:
    """One adapter for all documents: continued pre-training (arXiv 2506.10943, section 4.2)."""
    return Adapted(ALL, tuple(lessons), _job(lessons, Directives(), _seed(ALL, seed)), inner_loop)


def _job(lessons: Sequence[Lesson], directives: Directives, seed: int) -> AdapterJob:
    sequences = tuple(sequence for lesson in lessons for sequence in lesson.training_sequences)
    return AdapterJob(sequences, seed=seed, directives=directives)


def _seed(name: str, seed: int) -> int:
    return derive_seed("adapt", seed, name)


def folder_name(document: str) -> str:
    """Of a document with this id: the id where that is a plain name, and never anything that leads elsewhere."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", document) and document != ALL:
        return document
    plain = re.sub(r"[^A-Za-z0-9]+", "-", document).strip("-")[:40] or "document"
    return f"{plain}-{hashlib.blake2b(document.encode(), digest_size=4).hexdigest()}"


# -- making ------------------------------------------------------------------------------------------------------------


def make(place: Workplace, adapters: Sequence[Adapted], before: Measured) -> list[Measured | None]:
    """Train, measure and write adapters, as many at a time as fit; what they answer, in their order.

    One that diverged is not written: it is None here, and the others go on.

    Args:
        place: What with and where.
        adapters: With the same settings.
        before: What the policy answers without an adapter.

    Raises:
        ConfigError: A folder holds an adapter that was trained otherwise.
        NoMemoryError: There is none for a single adapter.
    """
    if not adapters:
        return []
    size = adapters[0].inner_loop.slots(place.policy.model)
    groups = deque(adapters[start : start + size] for start in range(0, len(adapters), size))
    found: list[Measured | None] = []
    while groups:
        group = groups.popleft()
        done: Sequence[Measured | None] | None = [_finished(place, adapted) for adapted in group]
        if any(one is None for one in done):
            place.check_stop()
            done = _within_memory(place, group, before)
        if done is None:
            groups.extendleft([group[len(group) // 2 :], group[: len(group) // 2]])
        else:
            found += done
    return found


def _within_memory(place: Workplace, group: Sequence[Adapted], before: Measured) -> list[Measured | None] | None:
    """What the adapters answer; None where they have to be made in two halves."""
    try:
        return _train_and_measure(place, group, before)
    except NoMemoryError as error:
        if len(group) == 1:
            raise
        log.warning("%s; in two halves of %d from now on", error, len(group) // 2)
    return None


def check(place: Workplace, adapters: Sequence[Adapted]) -> None:
    """Raise what `make` would of adapters that were trained otherwise, before anything is written."""
    for adapted in adapters:
        path = place.output / "adapters" / adapted.name / RESULT
        try:
            content = parse_json(path.read_text(encoding="utf-8"))
            stamps = (content["policy"], content["stamp"])
        except (OSError, ValueError, KeyError, TypeError):
            continue  # there is none, or it cannot be read, which comes up when it is needed
        if stamps != (place.stamp, adapted.stamp):
            raise _of_other_settings(path.parent)


def _of_other_settings(folder: Path) -> ConfigError:
    return ConfigError(
        f"{folder}: expected an adapter of these settings, got one of others: choose another --output, or move it away"
    )


def missing_of(output: Path, names: Sequence[str]) -> str:
    """What was cut or skipped in the training of finished adapters, and of their answers, in one line."""
    return render_left_out(added([one.get("left_out", {}) for one in _results(output, names)]))


def training_of(output: Path, adapters: Sequence[Adapted]) -> Training:
    """What the trainings of finished adapters came to together: the fewest steps, mean losses, all that was cut."""
    results = _results(output, [adapted.name for adapted in adapters])
    losses = [found for one in results if (found := one.get("own_text"))]
    means = [fmean(loss[when] for loss in losses) if losses else None for when in ("before", "after")]
    return Training(
        min(one["steps"] for one in results),
        *means,
        option=option_of(adapters[0]),
        counts=added([one.get("left_out", {}) for one in results]),
    )


def writing_of(lessons: Sequence[Lesson]) -> Writing:
    """What came of the self-edits of some documents."""
    reasons = sum((Counter(lesson.rejected) for lesson in lessons), Counter[str]())
    most = next((reason for reason, _ in reasons.most_common(1)), "")
    return Writing(sum(lesson.sampled for lesson in lessons), reasons.total(), most)


def option_of(adapted: Adapted) -> str:
    """The option that holds the settings of its training."""
    return "together" if adapted.name == ALL else "model.inner_loop"


def _results(output: Path, names: Sequence[str]) -> list[Mapping[str, Any]]:
    return [parse_json((output / "adapters" / name / RESULT).read_text(encoding="utf-8")) for name in names]


def _train_and_measure(place: Workplace, group: Sequence[Adapted], before: Measured) -> list[Measured | None]:
    inner_loop, jobs = group[0].inner_loop, [adapted.job for adapted in group]
    stamp = "-".join([place.stamp, str(place.every_steps), *(adapted.stamp for adapted in group)])
    state = place.output / "training" / f"{group[0].name}.safetensors"
    label = "one adapter for all" if group[0].name == ALL else f"{len(group)} adapters"
    with place.screen.bar(f"{label}, training steps", inner_loop.total_steps(jobs)) as advance:
        trained = train(
            inner_loop,
            place.policy,
            jobs,
            state=state,
            stamp=stamp,
            every_steps=place.every_steps,
            on_step=advance,
            check_stop=place.check_stop,
        )
    reasons = _diverged(place, trained, jobs, inner_loop)
    asked = [
        (job, lesson.document) for job, adapted in enumerate(group) if job not in reasons for lesson in adapted.lessons
    ]
    with place.screen.bar(f"{label}, measured", 1), place.screen.phases() as report:
        contexts = [document.context for _, document in asked]
        jobs_asked = [job for job, _ in asked]
        scored = ask_closed_book(
            place.e_step,
            place.policy,
            contexts,
            jobs=jobs_asked,
            trained=trained,
            report=report,
            on_diverged=lambda place: reasons.update({jobs_asked[place]: "the logits of its answers are not finite"}),
        )
    measured: list[Measured | None] = []
    for job, adapted in enumerate(group):
        if job in reasons:
            option = option_of(adapted)
            place.screen.line(
                f"{adapted.name}: not written, since its training diverged ({reasons[job]}): lower "
                f"{option}.learning_rate and start again in another --output"
            )
            measured.append(None)
            continue
        mine = {d.id: one for (owner, d), one in zip(asked, scored, strict=True) if owner == job and one.answers}
        losses = inner_loop.losses(place.policy, trained, job, jobs[job])
        _write(place, adapted, bank_lora(trained.bank, job), trained.stats[job], before, mine, losses=losses)
        measured.append(mine)
    state.unlink(missing_ok=True)
    return measured


def _diverged(
    place: Workplace, trained: TrainedBank, jobs: Sequence[AdapterJob], inner_loop: InnerLoop
) -> dict[int, str]:
    """Why adapters must not be written, by job."""
    return {
        job: trained.stats[job].diverged or "what it makes of its own training text is not finite"
        for job, learnt in enumerate(jobs)
        if not inner_loop.is_sound(place.policy, trained, job, learnt)
    }


def asked_stamp(e_step: EStep, documents: Sequence[Document]) -> str:
    """Digest of what documents are asked, and of how answers are made and graded."""
    parts = {
        "task": e_step.task,
        "answerer": e_step.answerer,
        "grader": e_step.grader,
        "most": e_step.max_answer_tokens,
    }
    asked = [[document.id, *map(asdict, document.context.queries)] for document in documents]
    return digest([describe(parts), asked])


# -- folders -----------------------------------------------------------------------------------------------------------


def _finished(place: Workplace, adapted: Adapted) -> Measured | None:
    """What an adapter answers that is there already; None where some of it is missing, or other things are asked.

    What is damaged counts as missing, with a line in the log.
    """
    path = place.output / "adapters" / adapted.name / RESULT
    if not path.parent.is_dir():
        return None
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
        stamps = (content["policy"], content["stamp"])
        measured = {row["document"]: Answered.from_dict(row) for row in content["measured"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        log.warning("%s: cannot be read (%s), its adapter is trained again", path, " ".join(str(error).split())[:120])
        return None
    if stamps != (place.stamp, adapted.stamp):
        raise _of_other_settings(path.parent)
    if fault := _damage(place, adapted.name, content):
        log.warning("%s: damaged (%s), it is trained again", path.parent, fault)
        return None
    if place.merged and not (place.output / MERGED / adapted.name).is_dir():
        return None
    asked = asked_stamp(place.e_step, [lesson.document for lesson in adapted.lessons])
    return measured if content.get("asked") == asked else None


def _damage(place: Workplace, name: str, content: Mapping[str, Any]) -> str:
    """What is wrong with an adapter's weights, or its merged model's where that is wanted; empty if nothing is."""
    folder, merged = place.output / "adapters" / name, place.output / MERGED / name
    if fault := damage(folder, read_record(content)):
        return fault
    try:
        read_lora(folder)  # recorded or not, they have to load
    except ModelError as error:
        return str(error)
    return damage(merged, recorded_in(merged)) if place.merged and merged.is_dir() else ""


def _write(
    place: Workplace,
    adapted: Adapted,
    lora: LoRA,
    stats: JobStats,
    before: Measured,
    measured: Measured,
    *,
    losses: tuple[float, float] | None,
) -> None:
    """Write the folder of an adapter, which is there only once everything is in it, with the digests of its weights."""
    learned = place.policy.learned()
    added_up = stack([learned, lora]) if learned else lora
    missing = added(
        [
            {TRUNCATED: stats.truncated, SKIPPED: stats.skipped},
            {LONGEST: adapted.inner_loop.longest(place.policy, adapted.job) if stats.truncated else 0},
            {ANSWERS: sum(one.cut for one in measured.values())},
        ]
    )
    without = parts_without_adapter(place.policy.model)
    result: dict[str, Any] = {
        "policy": place.stamp,
        "stamp": adapted.stamp,
        "asked": asked_stamp(place.e_step, [lesson.document for lesson in adapted.lessons]),
        "steps": stats.steps,
        "trained_tokens": stats.trained_tokens,
        "left_out": missing,
        "without_adapter": without,
        "loss": None if math.isnan(stats.loss) else stats.loss,
        "own_text": dict(zip(("before", "after"), losses, strict=True)) if losses else {},  # mean loss of a token
        "files_left_out": place.unread,
        "measured": list(_rows(adapted, before, measured)),
    }
    training = Training(stats.steps, *(losses or (None, None)), option=option_of(adapted), counts=missing)
    result["learnt"] = asdict(judge(before, measured, training, writing_of(adapted.lessons)))
    names = list(measured)
    scores = {"before": score_of(before, names), "after": score_of(measured, names)} if names else {}
    card = partial(
        model_card,
        adapted.name,
        base=place.base,
        lessons=adapted.lessons,
        editor=_editor(place.e_step.sampler),
        policy_rank=learned.rank if learned else None,
        chosen=any(lesson.rewards for lesson in adapted.lessons),
        sequences=len(adapted.job.training_sequences),
        inner_loop=adapted.inner_loop,
        stats=stats,
        missing=missing,
        scores=scores,
        data_licence=place.data_licence,
        seed=adapted.job.seed,
        grader=name_of(place.e_step.grader),
        unread=place.unread if adapted.name == ALL else 0,
        without=without,
    )
    with_code = partial(usage_of, place.policy, place.source, place.base, place.e_step, _asked_first(adapted.lessons))
    with redirect_stdout(sys.stderr):  # what libraries say while they save
        if place.merged:
            with whole(place.output / MERGED / adapted.name) as folder:
                _save_merged(place.policy, lora, folder)
                code = with_code(place=f"{MERGED}/{adapted.name}", merged=True)
                save_text(folder / "README.md", card(merged=True, usage=code))
                save_text(folder / RESULT, json.dumps({KEY: digests_of(folder)}, indent=1) + "\n")
        with whole(place.output / "adapters" / adapted.name) as folder:  # last: it says that all is there
            save_lora(added_up, folder, model=place.policy.model)
            code = with_code(place=f"adapters/{adapted.name}", merged=False)
            save_text(folder / "README.md", card(merged=False, usage=code))
            result[KEY] = digests_of(folder)
            save_text(folder / RESULT, json.dumps(result, ensure_ascii=False, indent=1) + "\n")


def _asked_first(lessons: Sequence[Lesson]) -> Lesson:
    """The first that has queries, or the first."""
    return next((lesson for lesson in lessons if lesson.document.context.queries), lessons[0])


def _editor(sampler: Sampler) -> str:
    return "the model itself" if isinstance(sampler, LocalSampler) else type(sampler).__name__


def _rows(adapted: Adapted, before: Measured, after: Measured) -> Iterator[dict[str, Any]]:
    for lesson in adapted.lessons:
        document = lesson.document
        if document.id in after:
            yield {
                "document": document.id,
                "title": document.context.title,
                "questions": [query.question for query in document.context.queries],
                "golds": [query.golds for query in document.context.queries],
                "before": asdict(before[document.id]),
                **asdict(after[document.id]),
            }


def _save_merged(policy: Policy, lora: LoRA, folder: Path) -> None:
    save_whole(policy.model, folder, whole_state(policy.model, lora))
    policy.tokenizer.save_pretrained(folder)
