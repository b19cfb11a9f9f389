"""The self-edits of all documents: from the journal where a passage is unchanged, else written; then what is learnt.

passages -> planned units -> edits of the same passage copied, the others written -> rollouts -> lessons
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from jsonargparse import Namespace

from seal_lightning.commands.adapt.edits import EditChoice, Lesson, kept_edits, lessons, write_edits
from seal_lightning.commands.adapt.jobs import Workplace
from seal_lightning.commands.adapt.keeping import passage_digest
from seal_lightning.commands.adapt.plan import FILE as PLAN
from seal_lightning.commands.adapt.plan import WorkPlan, plan_units, read_plan, save_plan
from seal_lightning.commands.adapt.record import written_with
from seal_lightning.commands.adapt.sharing import Sharing
from seal_lightning.commands.standalone import open_journal, rules
from seal_lightning.data.documents import Document
from seal_lightning.errors import JournalError
from seal_lightning.progress.screen import Screen
from seal_lightning.records.journal import Journal, is_begun
from seal_lightning.results.left_out import render_left_out, total_left_out
from seal_lightning.results.usage import render_usage, total_usage
from seal_lightning.text.plural import counted
from seal_lightning.types import Rollout


def written_lessons(
    options: Namespace,
    place: Workplace,
    documents: Sequence[Document],
    choice: EditChoice,
    sharing: Sharing[list[list[Rollout]]],
) -> list[Lesson]:
    """What is to be learnt from each document, once the edits about its passages are written.

    Raises:
        JournalError: The plan of what is in the journal is missing.
        StaleJournalError: The journal is of other settings.
        RetryableError: A grader or an endpoint failed; finished units are in the journal.
    """
    rollouts = _write(options, place, documents, choice, sharing) if choice.learn == "edits" else []
    learnt = lessons(place.e_step.task, documents, rollouts, choice)
    if choice.learn == "edits":
        _tell(place.screen, learnt, rollouts)
    return learnt


# -- steps -------------------------------------------------------------------------------------------------------------


def _write(
    options: Namespace,
    place: Workplace,
    documents: Sequence[Document],
    choice: EditChoice,
    sharing: Sharing[list[list[Rollout]]],
) -> list[Rollout]:
    """The self-edits of all passages, from the journal or anew."""
    passages = [passage for document in documents for passage in document.passages]
    known = read_plan(place.output)
    if not known.units and is_begun(place.output / "journal", "adapt.rank-*.jsonl"):
        raise JournalError(
            f"{place.output / PLAN}: expected the plan of the units in {place.output / 'journal'}, got nothing there: "
            "restore it from a copy, or move the folder journal away to write the edits again"
        )
    stamp = written_with(place, choice.e_step)
    stamp |= {"rewarded": choice.rewarded, "contexts_per_unit": options.contexts_per_unit}
    journal = open_journal(
        place.output / "journal",
        "adapt",
        stamp=stamp,
        may_differ=rules(other_versions=options.allow_other_versions).may_differ,
        contexts=[[name for name, _ in unit.passages] for unit in known.units],
    )
    named = {(passage.id, passage_digest(passage, asked=choice.rewarded)): passage for passage in passages}
    plan = plan_units(known, list(named), journal.units, per_unit=options.contexts_per_unit)
    save_plan(place.output, plan, known=known)
    _copy(plan, journal)
    work = {number: [named[one] for one in plan.units[number].passages] for number in plan.pending(journal.units)}
    done = len({*plan.unit_of(journal.units).values()})
    screen, check_stop = place.screen, place.check_stop
    write_edits(place.policy, work, choice, journal, done=done, screen=screen, sharing=sharing, check_stop=check_stop)
    units = plan.unit_of(journal.units)
    rollouts = [rollout for one in named for rollout in journal.units[units[one]] if rollout.context_id == one[0]]
    journal.keep(kept_edits(passages, rollouts, choice), round=0)
    return rollouts


def _copy(plan: WorkPlan, journal: Journal) -> None:
    """Take over the edits of passages that are the same in another version of their document, free of charge."""
    for number in plan.pending(journal.units):
        unit = plan.units[number]
        if unit.copies is None:
            continue
        ((name, content),) = unit.passages
        before = {own: earlier for earlier, own in plan.units[unit.copies].passages}[content]
        known = [rollout for rollout in journal.units[unit.copies] if rollout.context_id == before]
        journal.append(
            number, [replace(rollout, context_id=name, steps=0, tokens={}, seconds={}, usage={}) for rollout in known]
        )


def _tell(screen: Screen, learnt: Sequence[Lesson], rollouts: Sequence[Rollout]) -> None:
    """Say what came of the writing."""
    edits = [rollout for rollout in rollouts if rollout.repeat == 0]
    rejected = sum(rollout.status == "rejected" for rollout in edits) / max(1, len(edits))
    rewards = [reward for lesson in learnt for reward in lesson.rewards]
    mean = f", kept at a mean reward of {sum(rewards) / len(rewards):.3f}" if rewards else ", none rewarded"
    kept = counted(sum(lesson.edits for lesson in learnt), "edit")
    screen.line(f"{counted(len(rollouts), 'rollout')}, {rejected:.0%} rejected; {kept}{mean}")
    if unwritten := sum(lesson.unwritten for lesson in learnt):
        screen.line(f"{counted(unwritten, 'passage')} without a usable edit, learnt in place of one")
    if missing := render_left_out(total_left_out(rollouts)):
        screen.line(f"cut or left out: {missing}")
    if usage := render_usage(total_usage(rollouts)):
        screen.line(usage)
