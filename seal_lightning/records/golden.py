"""What was kept beside what somebody else kept: the same edits, exact ties, and misses (`seal replay --compare`).

The authors average an edit's repeats in floating point and keep the edit with the greatest mean. Where the exact means
of two edits are equal, rounding decides: of 0.6, 0.6 and 0.0 their mean is 0.39999999999999997, of 0.4, 0.6 and 0.2 it
is 0.4. Rewards are therefore compared as fractions. A reward is a share of verdicts, or such a share rounded to the 4
digits of the authors' files, and which fraction a float stands for can be told (`exact`). An edit of theirs with
exactly the mean reward of one that was kept here in its place is a tie; any other that was not kept is a miss.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from seal_lightning.errors import DataError
from seal_lightning.files.rows import read_rows
from seal_lightning.m_step.selection import group_rollouts
from seal_lightning.records.entries import Entry
from seal_lightning.records.official import DIGITS
from seal_lightning.results.averages import by_edit
from seal_lightning.results.table import Table, to_markdown
from seal_lightning.text.plural import counted
from seal_lightning.types import EditOutcome, RolloutGroup

UNKNOWN = "a prompt that is in none of the files"
SHOWN = 5  # of many contexts
Kept = Mapping[str, Sequence[EditOutcome]]  # by entry; validation and test have none


@dataclass(frozen=True, slots=True)
class OtherChoice:
    """An edit that stands in the golden file and was not kept here.

    Attributes:
        context: Its context, or `UNKNOWN`.
        theirs: Its index among the context's edits; None where the files have no such text.
        ours: Index of the edit kept in its place; None where there is none.
        their_reward: Mean reward of theirs; None where it has none.
        our_reward: Mean reward of ours.
        tied: Every edit of the context with exactly that mean reward where the two tie; empty for a miss.
    """

    context: str
    theirs: int | None = None
    ours: int | None = None
    their_reward: float | None = None
    our_reward: float | None = None
    tied: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class GoldenComparison:
    """The kept edits beside those of a golden file.

    Attributes:
        name: The golden file.
        golden: Number of its rows.
        same: How many of them were kept.
        more: Number of kept edits that are not among them, and tie with none of them.
        ties: Rows that were not kept and tie exactly with an edit that was.
        misses: Rows that were not kept for any other reason.
    """

    name: str
    golden: int
    same: int
    more: int
    ties: tuple[OtherChoice, ...]
    misses: tuple[OtherChoice, ...]


@dataclass(slots=True)
class _Group:
    """One context of an entry: its edits with their exact rewards, those kept, and which no row has claimed yet."""

    group: RolloutGroup
    rewards: Mapping[int, Fraction]
    kept: Sequence[EditOutcome]
    left: list[EditOutcome] = field(init=False)

    def __post_init__(self) -> None:
        self.left = list(self.kept)

    def claim(self, prompt: str, text: str) -> bool:
        """Whether such an edit was kept; each is claimed once."""
        found = next((edit for edit in self.left if _key(edit) == (prompt, text)), None)
        if found is not None:
            self.left.remove(found)
        return found is not None

    def difference(self, prompt: str, text: str) -> OtherChoice:
        """What was kept in place of an edit that was not."""
        theirs = [edit for edit in self.group.outcomes if _key(edit) == (prompt, text)]
        for edit in (edit for edit in theirs if edit not in self.kept):  # else a row that stands there twice
            reward = self.rewards.get(edit.edit_index)
            tie = next((one for one in self.left if self.rewards.get(one.edit_index) == reward), None)
            if reward is not None and tie is not None:
                self.left.remove(tie)
                tied = sorted(index for index, value in self.rewards.items() if value == reward)
                return self._found(edit, tie, tuple(tied))
        return self._found(theirs[0] if theirs else None, self.left[0] if self.left else None)

    def _found(self, theirs: EditOutcome | None, ours: EditOutcome | None, tied: tuple[int, ...] = ()) -> OtherChoice:
        return OtherChoice(
            context=self.group.context_id,
            theirs=theirs.edit_index if theirs else None,
            ours=ours.edit_index if ours else None,
            their_reward=theirs.reward if theirs else None,
            our_reward=ours.reward if ours else None,
            tied=tied,
        )


def compare(golden: str, entries: Sequence[Entry], kept: Kept) -> GoldenComparison:
    """Compare what was kept with a file of `{prompt, completion}` a line; white space around a text does not count.

    Raises:
        DataError: The file cannot be used, or is about other prompts.
    """
    by_prompt: dict[str, list[_Group]] = {}
    for group in _groups(entries, kept):
        for prompt in dict.fromkeys(edit.prompt.strip() for edit in group.group.outcomes):
            by_prompt.setdefault(prompt, []).append(group)
    rows = [
        (row.text("prompt").strip(), row.text("completion", may_be_blank=True).strip())
        for row in read_rows(Path(golden).expanduser())
    ]
    others = [row for row in rows if not any(group.claim(*row) for group in by_prompt.get(row[0], ()))]
    if sum(prompt not in by_prompt for prompt, _ in rows) == len(rows):
        raise DataError(
            f"{golden}: expected prompts that stand in the files too, got others: compare with the same run"
        )
    found = [_difference(row, by_prompt.get(row[0], ())) for row in others]
    left = {id(edit) for groups in by_prompt.values() for group in groups for edit in group.left}
    return GoldenComparison(
        name=golden,
        golden=len(rows),
        same=len(rows) - len(others),
        more=len(left),
        ties=tuple(one for one in found if one.tied),
        misses=tuple(one for one in found if not one.tied),
    )


def _difference(row: tuple[str, str], groups: Sequence[_Group]) -> OtherChoice:
    """The difference in the group that has the text; in another where none has."""
    knows = [group for group in groups if any(_key(edit) == row for edit in group.group.outcomes)]
    return next((group.difference(*row) for group in [*knows, *groups]), OtherChoice(UNKNOWN))


def _groups(entries: Sequence[Entry], kept: Kept) -> Iterator[_Group]:
    for entry in entries:
        chosen = kept.get(entry.name, ())
        rewards = exact_rewards(entry)
        for group in group_rollouts(entry.rollouts):
            mine = [edit for edit in chosen if edit.context_id == group.context_id]
            yield _Group(group, rewards.get(group.context_id, {}), mine)


def _key(edit: EditOutcome) -> tuple[str, str]:
    return edit.prompt.strip(), edit.text.strip()


# -- exact rewards -----------------------------------------------------------------------------------------------------


def exact(reward: float) -> Fraction:
    """The fraction that a float stands for: a share of at most 10,000 verdicts, or a decimal of 4 digits.

    Any other reward, such as a weighted sum of terms, is the float itself.

    >>> exact(1 / 3), exact(0.4667), exact(0.1 + 0.2) == Fraction(3, 10)
    (Fraction(1, 3), Fraction(4667, 10000), False)
    """
    near = Fraction(reward).limit_denominator(10**DIGITS)
    return near if float(near) == reward else Fraction(reward)


def exact_rewards(entry: Entry) -> dict[str, dict[int, Fraction]]:
    """The exact mean reward of every edit that has one, by context and index."""
    found: dict[str, dict[int, Fraction]] = {}
    for repeats in by_edit(rollout for rollout in entry.rollouts if rollout.kind == "edit"):
        rewards = [exact(rollout.reward) for rollout in repeats if rollout.reward is not None]
        if rewards and all(rollout.status != "diverged" for rollout in repeats):
            first = repeats[0]
            found.setdefault(first.context_id, {})[first.edit_index] = sum(rewards, Fraction()) / len(rewards)
    return found


# -- output ------------------------------------------------------------------------------------------------------------


def said(found: GoldenComparison) -> str:
    """One line: how many are the same, which tie exactly, and which are missing."""
    parts = [f"kept as in {found.name}: {found.same} of {found.golden}"]
    if found.ties:
        parts.append(f"{counted(len(found.ties), 'exact tie')} ({_some(list(map(_tie, found.ties)), '; ')})")
    if found.more:
        parts.append(f"and {found.more} that {'is' if found.more == 1 else 'are'} not there")
    line = ", ".join(parts)
    return f"{line}; not kept of {_some([one.context for one in found.misses], ', ')}" if found.misses else line


def _some(names: Sequence[str], between: str) -> str:
    rest = len(names) - SHOWN
    return between.join(names[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _tie(one: OtherChoice) -> str:
    *first, last = map(str, one.tied)
    each = f"{'both' if len(one.tied) == 2 else 'all'} {_number(one.their_reward)}"
    return f'context "{one.context}": edits {", ".join(first)} and {last} {each}; theirs is edit {one.theirs}'


def render_differences(found: GoldenComparison) -> str:
    """A table in Markdown of the rows that were not kept; "" where all were."""
    header = (f"not kept as in {Path(found.name).name}", "theirs", "reward", "kept here", "reward", "")
    rows = tuple(
        (
            one.context,
            "another text" if one.theirs is None else f"edit {one.theirs}",
            _number(one.their_reward),
            "nothing more" if one.ours is None else f"edit {one.ours}",
            _number(one.our_reward),
            "exact tie" if one.tied else "miss",
        )
        for one in (*found.ties, *found.misses)
    )
    return to_markdown(Table("", header, rows)) if rows else ""


def _number(reward: float | None) -> str:
    return "–" if reward is None else f"{reward:.{DIGITS}f}"
