"""Rollouts that were written down earlier: read from journals and official runs, graded and rewarded anew, compared.

What `seal replay` works on. A journal of several ranks is one entry; different rounds are different entries, since
their edits come from different policies and must not meet in one group.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from seal_lightning.e_step.race_rule import Racing, Training, race
from seal_lightning.errors import DataError, JournalError
from seal_lightning.files.bounded import read_bytes
from seal_lightning.files.contained import contained
from seal_lightning.files.rows import read_rows
from seal_lightning.grading import Answer, Grader, Reward, Verdict, checked
from seal_lightning.grading.agreement import RIGHT, kappa
from seal_lightning.m_step.selection import best_of, group_rollouts
from seal_lightning.records.lines import Edits, add_units, read_content
from seal_lightning.records.official import OfficialRun, read_run
from seal_lightning.results.averages import Bounds, interval
from seal_lightning.text.thoughts import cut_thoughts
from seal_lightning.types import EditOutcome, Rollout, RolloutGroup, Usage

JOURNAL = re.compile(r"(.*?)(\.rank-\d+)?\.(jsonl|ndjson)(\.gz)?")
UNKNOWN = "a prompt that is in none of the files"

Kept = Mapping[str, Sequence[EditOutcome]]  # by entry; validation and test have none


class NothingFinished(DataError):
    """A folder or journal in which no unit is finished yet."""


@dataclass(frozen=True, slots=True)
class Entry:
    """The rollouts of one round.

    Attributes:
        source: What the user named.
        name: Of the journal or run; in the tables.
        rollouts: By unit, context, edit and repeat.
        files: What was read.
        teaches: Whether a fit learns from such rollouts: never from those of validation and test.
        run: The official run, where it is one.
        kept: The edits that the filter has kept; None where that is not written down, as before a round's end.
    """

    source: str
    name: str
    rollouts: tuple[Rollout, ...]
    files: tuple[Path, ...]
    teaches: bool = True
    run: OfficialRun | None = None
    kept: Edits | None = None

    def outcomes(self) -> list[EditOutcome] | None:
        """The edits that were kept, each with its repeats averaged; None where that is not written down."""
        if self.kept is None:
            return None
        return chosen(group_rollouts(self.rollouts), self.kept)


@dataclass(frozen=True, slots=True)
class Regrading:
    """How a grader compares with the scores that it replaces, over distinct answers.

    Attributes:
        answers: Distinct (question, accepted answers, answer).
        agreement: Share on which both say right, or both wrong.
        kappa: Cohen's; 0 is what chance gives. None where both always say the same.
        usage: What the grader asked endpoints for.
    """

    answers: int
    agreement: float
    kappa: float | None
    usage: Usage


@dataclass(frozen=True, slots=True)
class RaceFigures:
    """What a race over recorded repeats would have kept and spent, beside the full E-step.

    Attributes:
        name: Of the entry.
        kept: Edits that the full E-step keeps.
        same: How many of them the race keeps too.
        interval: Bounds of the 95 % interval of the share of the same, over contexts.
        as_good: How many kept by the race have the score of the last one that the full E-step keeps, or a better one.
        trainings: That the race made.
        of: Those of the full E-step.
        spent: Share of the full E-step's trained tokens, or of its trainings where tokens are not recorded.
    """

    name: str
    kept: int
    same: int
    interval: Bounds
    as_good: int
    trainings: int
    of: int
    spent: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was kept beside what a golden file says.

    Attributes:
        name: Of the golden file.
        golden: Its rows.
        same: How many of them were kept.
        more: Edits that were kept and are not among them.
        differing: The contexts of the rows that were not kept.
    """

    name: str
    golden: int
    same: int
    more: int
    differing: tuple[str, ...]


def chosen(groups: Iterable[RolloutGroup], kept: Edits) -> list[EditOutcome]:
    """The outcomes of the edits that were kept, in the order in which the filter gave them."""
    outcomes = {(one.context_id, one.edit_index): one for group in groups for one in group.outcomes}
    return [outcomes[edit] for edit in kept if edit in outcomes]


def read_entries(source: str) -> list[Entry]:
    """Read a run folder, its journal folder, one journal in it (`RUN/journal/train-000`), a file of one, or a run file.

    Raises:
        DataError: Nothing is there, or something in it cannot be used.
    """
    place = Path(source).expanduser()
    journals = _journals(place)
    if journals is None:
        run = read_run(place)
        return [Entry(source, re.sub(r"\.json(\.gz)?$", "", place.name), run.rollouts, (place,), run=run)]
    entries = [entry for name, files in journals.items() for entry in _journal_entries(source, name, files)]
    if not entries:
        got = "none: give `seal fit` more time"
        raise NothingFinished(f"{source}: expected a journal with a finished unit, got {got}")
    return entries


def _journals(place: Path) -> dict[str, list[Path]] | None:
    """The files of each journal that `place` means, by the journal's name; None where it is for `read_run`."""
    if place.is_dir():
        folder = place / "journal" if (place / "journal").is_dir() else place
        inside = [path for path in sorted(folder.iterdir()) if JOURNAL.fullmatch(path.name)]
        files = [contained(place, path.relative_to(place)) for path in inside]
        if not files:
            got = "one without journals (*.jsonl)"
            raise NothingFinished(f"{place}: expected a run folder, got {got}: name a run's folder")
    elif place.exists():
        files = [place] if JOURNAL.fullmatch(place.name) else []
    else:
        siblings = sorted(place.parent.iterdir()) if place.parent.is_dir() else []
        files = [path for path in siblings if _name(path) == place.name]
    journals: dict[str, list[Path]] = {}
    for path in files:
        journals.setdefault(_name(path), []).append(path)
    return journals or None


def _name(path: Path) -> str:
    """Of the journal that a file belongs to; "" where it belongs to none."""
    found = JOURNAL.fullmatch(path.name)
    return found[1] if found else ""


def _journal_entries(source: str, name: str, files: Sequence[Path]) -> list[Entry]:
    units: dict[int, list[Rollout]] = {}
    kept: dict[int, Edits] = {}
    for file in files:
        try:
            content = read_content(file, read_bytes(file))
            add_units(units, file, content.units)
            kept = {**content.kept, **kept}  # the first rank's line counts
        except JournalError as error:
            raise DataError(str(error)) from error  # the user's file, not a run of ours
    rollouts = [rollout for unit in sorted(units) for rollout in units[unit]]
    by_round: dict[int, list[Rollout]] = {}
    for rollout in rollouts:
        by_round.setdefault(rollout.round, []).append(rollout)
    for found in by_round.values():
        edits = [rollout for rollout in found if rollout.kind == "edit"]
        if edits and all(rollout.dropped for rollout in edits):
            got = "a round without any: read the whole journal"
            raise DataError(f"{files[0]}: expected self-edits that a race did not drop, got {got}")
    return [
        Entry(
            source,
            name if len(by_round) == 1 else f"{name} round {number}",
            tuple(found),
            tuple(files),
            teaches=not name.startswith(("validation-", "test-")),
            kept=kept.get(number),
        )
        for number, found in sorted(by_round.items())
    ]


def regrade(
    entries: Sequence[Entry], grader: Grader, *, on_done: Callable[[int], None] = lambda count: None
) -> tuple[list[Entry], Regrading]:
    """Grade every answer anew, each distinct one once; scores, baselines and gains follow, rewards do not.

    Raises:
        DataError: There are no answers.
        GradingError: One could not be graded.
    """
    former: dict[Answer, list[float]] = {}
    for entry in entries:
        for rollout in entry.rollouts:
            for answer, score in _graded(rollout):
                former.setdefault(answer, []).append(score)
    if not former:
        raise DataError(f"{entries[0].source}: expected answers to grade, got none: leave --grader out")
    verdicts = dict(zip(former, checked(grader, grader.verdicts(list(former), on_done=on_done)), strict=True))
    regraded = [
        replace(entry, rollouts=tuple(_rescored(rollout, verdicts) for rollout in entry.rollouts)) for entry in entries
    ]
    pairs = [(fmean(scores) >= RIGHT, verdicts[answer].score >= RIGHT) for answer, scores in former.items()]
    usage = sum((verdict.usage for verdict in verdicts.values()), Usage())
    return regraded, Regrading(len(pairs), *_agreement(pairs), usage)


def _graded(rollout: Rollout) -> list[tuple[Answer, float]]:
    """The answers before and after, where there are any, with their scores."""
    return [
        (answer, score)
        for texts, scores in (
            (rollout.baseline_answers, rollout.baseline_scores),
            (rollout.answers, rollout.scores),
        )
        for answer, score in zip(_answers(rollout, texts), scores, strict=True)
    ]


def _answers(rollout: Rollout, texts: Sequence[str]) -> list[Answer]:
    if not texts:
        return []
    said = [cut_thoughts(text).text for text in texts]  # other programs' files may hold thoughts
    return [Answer(*asked) for asked in zip(rollout.questions, rollout.golds, said, strict=True)]


def _rescored(rollout: Rollout, verdicts: Mapping[Answer, Verdict]) -> Rollout:
    before = tuple(verdicts[answer].score for answer in _answers(rollout, rollout.baseline_answers))
    after = tuple(verdicts[answer].score for answer in _answers(rollout, rollout.answers))
    if not before:
        return rollout
    baseline = fmean(before)
    score = fmean(after) if after else baseline  # where nothing was trained, the policy answers as before
    return replace(rollout, baseline_scores=before, scores=after, baseline=baseline, score=score, gain=score - baseline)


def _agreement(pairs: Sequence[tuple[bool, bool]]) -> tuple[float, float | None]:
    equal = fmean(one == other for one, other in pairs)
    return equal, kappa(equal, fmean(one for one, _ in pairs), fmean(other for _, other in pairs))


def reward_anew(entry: Entry, reward: Reward) -> Entry:
    """The entry with another reward, and its terms, for every rollout that has one.

    Raises:
        DataError: A rollout lacks what a term is made of.
    """
    return replace(entry, rollouts=tuple(_rewarded(rollout, reward) for rollout in entry.rollouts))


def _rewarded(rollout: Rollout, reward: Reward) -> Rollout:
    if rollout.reward is None:
        return rollout
    terms = reward.measure(rollout)
    return replace(rollout, terms=terms, reward=reward.total(terms))


def race_anew(entry: Entry, racing: Racing) -> RaceFigures:
    """Race over the recorded repeats as an E-step would have; it sees a repeat when it would have trained it.

    Both keep edits by their scores, whatever the rewards are.

    Raises:
        DataError: There are no repeats to race for, or not all of them are there.
    """
    edits: dict[str, dict[int, list[Rollout]]] = {}
    for rollout in entry.rollouts:
        if rollout.kind == "edit" and rollout.reward is not None and rollout.scores:
            edits.setdefault(rollout.context_id, {}).setdefault(rollout.edit_index, []).append(rollout)
    fields = [list(of_context.values()) for of_context in edits.values()]
    counts = {len(repeats) for of_context in fields for repeats in of_context}
    if len(counts) != 1 or counts == {1} or any(rollout.dropped for rollout in entry.rollouts):
        got = "a race" if any(rollout.dropped for rollout in entry.rollouts) else " or ".join(map(str, sorted(counts)))
        raise DataError(
            f"{entry.name}: expected the same 2 or more repeats of every edit, got {got or 'none'}: "
            "race over a run without racing"
        )
    repeats, trainings = counts.pop(), 0

    def train(chosen: Sequence[Training]) -> list[tuple[float, ...]]:
        nonlocal trainings
        trainings += len(chosen)
        return [fields[context][edit][repeat].scores for context, edit, repeat in chosen]

    costs = [[fmean(one.tokens.get("trained", 1) for one in edit) for edit in of_context] for of_context in fields]
    queries = [len(of_context[0][0].scores) for of_context in fields]
    heats = race(racing, costs, queries, repeats=repeats, train=train)
    scored = [replace(one, reward=one.score) for of_context in fields for edit in of_context for one in edit]
    full = [[one.edit_index for one in best_of(group, k=racing.keep)] for group in group_rollouts(scored)]
    same, kept, as_good = [], [], 0
    for heat, of_context, best in zip(heats, fields, full, strict=True):
        chosen = [of_context[edit] for edit in heat.survivors(racing.keep)]
        same.append(len({edit[0].edit_index for edit in chosen} & set(best)))
        kept.append(len(best))
        score = {edit[0].edit_index: round(fmean(one.score for one in edit), 9) for edit in of_context}
        as_good += sum(score[edit[0].edit_index] >= min(score[index] for index in best) for edit in chosen)
    spent = sum(float(heat.seen @ heat.costs) for heat in heats) / (repeats * sum(map(sum, costs)))
    bounds = interval([one / of for one, of in zip(same, kept, strict=True)])
    of = repeats * sum(map(len, costs))
    return RaceFigures(entry.name, sum(kept), sum(same), bounds, as_good, trainings, of, spent)


def compare(golden: str, entries: Sequence[Entry], kept: Kept) -> Comparison:
    """Compare what was kept with a file of `{prompt, completion}` a line; white space around a text does not count.

    Raises:
        DataError: The file cannot be used, or is about other prompts.
    """
    contexts = {r.prompt.strip(): r.context_id for entry in entries for r in entry.rollouts if r.kind == "edit"}
    left = Counter((edit.prompt.strip(), edit.text.strip()) for edits in kept.values() for edit in edits)
    rows = read_rows(Path(golden).expanduser())
    differing = []
    for row in rows:
        prompt, text = row.text("prompt").strip(), row.text("completion", may_be_blank=True).strip()
        if left[prompt, text]:
            left[prompt, text] -= 1
        else:
            differing.append(contexts.get(prompt, UNKNOWN))
    if differing.count(UNKNOWN) == len(rows):
        raise DataError(
            f"{golden}: expected prompts that stand in the files too, got others: compare with the same run"
        )
    return Comparison(golden, len(rows), len(rows) - len(differing), left.total(), tuple(differing))
