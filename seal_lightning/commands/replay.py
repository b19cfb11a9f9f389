"""`seal replay FILES`: tables, rewards and kept edits from journals and published runs, without a model.

    files -> entries, one a round -> graded anew -> rewarded anew -> kept edits -> tables, and the files asked for

A step in the middle is taken only where it is asked for; otherwise what a run wrote down stands. Validation and test
are shown, but no filter chooses from them.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace
from rich.progress import TextColumn, TimeElapsedColumn

from seal_lightning.data.detect import read_contexts
from seal_lightning.e_step.race_rule import Racing
from seal_lightning.errors import ConfigError
from seal_lightning.grading import Grader, Reward, resolve
from seal_lightning.grading.reward import RewardOption
from seal_lightning.m_step.selection import ABOVE, best_of, group_rollouts
from seal_lightning.options.mistakes import read_config_files
from seal_lightning.options.parser import Parser, write_file
from seal_lightning.progress.screen import watched
from seal_lightning.records.anew import (
    RaceFigures,
    Regrading,
    race_anew,
    regrade,
    reward_anew,
)
from seal_lightning.records.continued import ContinuedRun, read_continued, render_continued
from seal_lightning.records.entries import Entry, chosen, is_run_file, read_entries
from seal_lightning.records.golden import GoldenComparison, Kept, compare, render_differences, said
from seal_lightning.records.official import DIGITS, published_figures, to_official
from seal_lightning.results.edits import Figures, figures_of, render_figures
from seal_lightning.text.escaping import visible_json
from seal_lightning.types import EditOutcome

if TYPE_CHECKING:
    from seal_lightning.hooks import EditFilter

DESCRIPTION = """\
Tables, rewards and kept edits from journals and published runs, without a model. A FILE is a run folder, its journal
folder, one journal in it (RUN/journal/train-000), a single .jsonl of one, an official run_*.json, or an official
evaluation of continued pre-training; files may be packed (.gz). Repeats of an edit are averaged first, then edits of a
context, then contexts; "±", "over edits" and "within edits" are standard deviations of a sample. "improved" is the
share of edits that score above the baseline, "solved" the share that answer everything right; a rejected edit does
neither and scores as the baseline.
"""
NEED_ROLLOUTS = ("grader", "reward", "filter", "sft", "compare", "to_official", "racing")  # options
SHOWN = 5  # of many names
UNKNOWN = "what was kept of {name} is not written down, as before a round's filter has chosen: choose with --filter"


@dataclass(frozen=True, slots=True)
class Report:
    """What is printed, or given as JSON.

    Attributes:
        continued: Evaluations of continued pre-training, which have a table of their own.
        figures: The rows of the tables, by name.
        published: For official runs that carry figures: each beside what the answers give.
        unknown: Entries that a fit learns from, but of which it is not written down what was kept.
        regrading: Where a grader was given.
        comparison: Where a golden file was given.
        racing: Where a race was asked for: of each entry that a fit learns from.
        written: What went into which file.
    """

    continued: Sequence[ContinuedRun]
    figures: Mapping[str, Figures]
    published: Mapping[str, Mapping[str, tuple[float, float]]]
    unknown: Sequence[str]
    regrading: Regrading | None
    comparison: GoldenComparison | None
    racing: Sequence[RaceFigures]
    written: Sequence[str]


def main(args: Sequence[str]) -> None:
    """Run the command.

    Raises:
        ConfigError: An option has a value that cannot work.
        DataError: A file cannot be used.
        GradingError: The grader failed.
    """
    options = _options(args)
    grader = None if options.grader is None else resolve(options.grader)
    reward = None if options.reward is None else Reward(options.reward)
    reward = reward or (Reward() if grader else None)
    continued, entries = _read(options)
    published = {entry.name: published_figures(entry.run) for entry in entries if entry.run}
    published |= {run.name: run.published for run in continued}
    regrading = None
    if grader:
        with watched("", TextColumn("graded {task.completed:,} answers"), TimeElapsedColumn()) as advance:
            entries, regrading = regrade(entries, grader, on_done=advance)
    if reward:
        entries = [reward_anew(entry, reward) for entry in entries]
    chooser = getattr(options, "filter", None)
    if reward and any(entry.teaches for entry in entries):
        usual = None if all(entry.run for entry in entries) else ABOVE
        reward.check_above(usual if chooser is None else getattr(chooser, "above", None))
    kept = _kept(entries, chooser, anew=reward is not None)
    report = Report(
        continued=continued,
        figures=_figures(entries, kept),
        published={name: figures for name, figures in published.items() if figures},
        unknown=[entry.name for entry in entries if entry.teaches and entry.name not in kept],
        regrading=regrading,
        comparison=compare(options.compare, entries, kept) if options.compare else None,
        racing=[race_anew(entry, options.racing) for entry in entries if entry.teaches] if options.racing else [],
        written=[*_write_kept(options, entries, kept), *_write_official(options, entries)],
    )
    as_json = visible_json(json.dumps(asdict(report), ensure_ascii=False)) if options.json else ""
    print(as_json or "\n\n".join(_sections(report)))


# -- options -----------------------------------------------------------------------------------------------------------


def _options(args: Sequence[str]) -> Namespace:
    parser = Parser(
        "replay", description=DESCRIPTION, usage="seal replay FILE ... [--config FILE ...] [--KEY VALUE ...]"
    )
    parser.add_argument("files", nargs="*", metavar="FILE", type=str, help="Journals and official runs.")
    parser.add_argument("--config", action="config", help="YAML with these options, such as grader, reward and filter.")
    parser.add_argument(
        "--grader", type=Grader | str | None, help="Grade every answer anew: a short name or a class_path."
    )
    parser.add_argument("--reward", type=RewardOption | None, help="Reward anew; by score where only graded anew.")
    parser.add_argument("--sft", type=str | None, help="Write what the filter keeps: {prompt, completion}.")
    parser.add_argument("--compare", type=str | None, help="Such a file, to compare with what is kept.")
    parser.add_argument("--to-official", "--to_official", type=str | None, help="Write an official run file.")
    parser.add_argument("--contexts", type=str | None, help="Data with the titles and passages, for --to-official.")
    parser.add_argument(
        "--racing",
        type=Racing | None,
        help="Also race over the recorded repeats, and compare with what the full E-step keeps.",
    )
    parser.add_argument("--json", action="store_true", help="Print one JSON object instead of tables.")
    asked = {"--help", "-h", "--print_config"} & set(args) or any(arg.startswith("--filter") for arg in args)
    if asked or any("filter" in content for _, content in read_config_files(args)):
        _add_filter(parser)
    options = parser.read(args)
    if not options.files:
        raise ConfigError(
            "FILE is not set: name a run folder, a journal, or an official run_*.json (seal replay --help)"
        )
    return options


def _add_filter(parser: Parser) -> None:
    """Only where it is asked for: filters are callbacks, and Lightning takes seconds to import."""
    with redirect_stdout(sys.stderr):  # what libraries say while they are imported
        import seal_lightning.callbacks  # noqa: F401 - short class names
        from seal_lightning.hooks import EditFilter
    parser.add_subclass_arguments(
        EditFilter,
        "filter",
        help="Chooses what is kept, as in `seal fit`: the best edit of each context with a reward above 0, unless told "
        "otherwise.",
    )
    parser.set_defaults({"filter": {"class_path": "seal_lightning.callbacks.ReSTEMFilter"}})


# -- steps -------------------------------------------------------------------------------------------------------------


def _read(options: Namespace) -> tuple[list[ContinuedRun], list[Entry]]:
    """The evaluations of continued pre-training, and the entries: each by a name of its own.

    Raises:
        ConfigError: An option needs rollouts, and there are none.
    """
    continued: list[tuple[str, ContinuedRun]] = []
    entries: list[Entry] = []
    for source in dict.fromkeys(options.files):
        if is_run_file(source) and (run := read_continued(Path(source).expanduser())):
            continued.append((source, run))
        else:
            entries += read_entries(source)
    given = [name for name in NEED_ROLLOUTS if getattr(options, name, None) is not None]
    if continued and not entries and given:
        raise ConfigError(
            f"--{given[0].replace('_', '-')}: expected rollouts, got evaluations of continued pre-training alone, "
            "which hold answers without their edits and questions: add a journal or an official run_*.json"
        )
    count = Counter([entry.name for entry in entries] + [run.name for _, run in continued])
    named = [run if count[run.name] == 1 else replace(run, name=source) for source, run in continued]
    return named, [
        entry if count[entry.name] == 1 else replace(entry, name=f"{entry.source}: {entry.name}") for entry in entries
    ]


def _kept(entries: Sequence[Entry], chooser: EditFilter | None, *, anew: bool) -> Kept:
    """The edits that each round keeps: those that the filter asked for chooses, else what the journal says.

    Scores that were made anew ask for a choice too, and so do published files, which say nothing of it.
    """
    kept: dict[str, Sequence[EditOutcome]] = {}
    for entry in entries:
        if not entry.teaches:
            continue
        groups = group_rollouts(entry.rollouts)
        if chooser is not None:
            kept[entry.name] = chooser.select(groups)
        elif entry.run or anew:
            above = None if entry.run else ABOVE  # the authors' runs by their own rule
            kept[entry.name] = [outcome for group in groups for outcome in best_of(group, above=above)]
        elif entry.kept is not None:
            kept[entry.name] = chosen(groups, entry.kept)
    return kept


def _figures(entries: Sequence[Entry], kept: Kept) -> dict[str, Figures]:
    """A row for the self-edits of each entry, and one for each other kind of adapter there."""
    rows = {}
    for entry in entries:
        for kind in sorted({rollout.kind for rollout in entry.rollouts}):
            row = figures_of([rollout for rollout in entry.rollouts if rollout.kind == kind])
            if kind != "edit":
                rows[f"{entry.name}, {kind}"] = row
            else:
                rows[entry.name] = replace(row, kept=len(kept[entry.name])) if entry.name in kept else row
    return rows


# -- files -------------------------------------------------------------------------------------------------------------


def _write_kept(options: Namespace, entries: Sequence[Entry], kept: Kept) -> Iterator[str]:
    if not options.sft:
        return
    if unknown := [entry.name for entry in entries if entry.teaches and entry.name not in kept]:
        raise ConfigError(f"--sft {options.sft}: {UNKNOWN.format(name=', '.join(unknown))}")
    if not kept:
        raise ConfigError(f"--sft {options.sft}: expected rollouts to learn from, got validation and test only")
    if not any(edit.text for found in kept.values() for edit in found):
        raise ConfigError(
            f"--sft {options.sft}: expected edits with texts to imitate, got none: a generator writes adapters"
        )
    rows = [{"prompt": edit.prompt, "completion": edit.text} for found in kept.values() for edit in found]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_file("--sft", options.sft, text, unlike=_sources(options, entries))
    yield f"{options.sft}: {len(rows)} kept edits"


def _write_official(options: Namespace, entries: Sequence[Entry]) -> Iterator[str]:
    if not options.to_official:
        return
    entry = _only(entries)
    contexts = entry.run.contexts if entry.run else read_contexts(options.contexts) if options.contexts else ()
    header = entry.run.header if entry.run else {"exp_name": entry.name}
    content = to_official(entry.rollouts, contexts=contexts, header=header)
    text = json.dumps(content, ensure_ascii=False, indent=1) + "\n"
    write_file("--to-official", options.to_official, text, unlike=_sources(options, entries))
    missing = sum(not article["context"] for article in content["articles"])
    note = f", {missing} by their ids and without passages (name the data with --contexts)" if missing else ""
    dropped = len({(rollout.context_id, rollout.edit_index) for rollout in entry.rollouts if rollout.dropped})
    note += f", {dropped} dropped by a race left out" if dropped else ""
    yield f"{options.to_official}: {len(content['articles'])} contexts of {entry.name}{note}"


def _only(entries: Sequence[Entry]) -> Entry:
    """The one entry that can be exported; of several, the one that a fit learns from."""
    with_edits = [entry for entry in entries if any(rollout.kind == "edit" for rollout in entry.rollouts)]
    found = [entry for entry in with_edits if entry.teaches] or with_edits
    if len(found) != 1:
        names = ", ".join(entry.name for entry in found[:SHOWN]) or "none"
        raise ConfigError(
            f"--to-official: expected one round with self-edits, got {names}: name one, as RUN/journal/NAME"
        )
    return found[0]


def _sources(options: Namespace, entries: Sequence[Entry]) -> list[Path]:
    """Everything that was read."""
    named = [Path(name).expanduser() for name in (options.compare, options.contexts) if name]
    return named + [path for entry in entries for path in entry.files]


# -- output ------------------------------------------------------------------------------------------------------------


def _sections(report: Report) -> Iterator[str]:
    if report.continued:
        yield render_continued(report.continued)
    if report.figures:
        yield render_figures(report.figures)
    if report.comparison and (table := render_differences(report.comparison)):
        yield table
    lines = [_published_line(name, figures) for name, figures in report.published.items()]
    lines += [UNKNOWN.format(name=", ".join(report.unknown))] if report.unknown else []
    if anew := report.regrading:
        kappa = "" if anew.kappa is None else f", κ {anew.kappa:.3f}"
        used = "; ".join(f"{name} {value:g}" for name, value in anew.usage.as_dict().items())
        line = f"graded anew: {anew.answers:,} distinct answers, {anew.agreement:.1%} as before{kappa}"
        lines.append(f"{line} ({used})" if used else line)
    if report.comparison:
        lines.append(said(report.comparison))
    lines += map(_racing_line, report.racing)
    if lines := [*lines, *(f"written: {line}" for line in report.written)]:
        yield "\n".join(lines)


def _published_line(name: str, figures: Mapping[str, tuple[float, float]]) -> str:
    others = [
        f"{figure} {value:.{DIGITS}f} (published: {published:.{DIGITS}f})"
        for figure, (published, value) in figures.items()
        if round(published, DIGITS) != value
    ]
    found = f"{name}: {len(figures) - len(others)} of {len(figures)} published figures reproduced to {DIGITS} digits"
    return "; ".join([found, *others])


def _racing_line(found: RaceFigures) -> str:
    low, high = found.interval
    around = "" if low is None or high is None else f", 95 % interval {low:.1%} to {high:.1%}"
    return (
        f"{found.name}, raced: {found.same} of {found.kept} kept edits are the same "
        f"({found.same / found.kept:.1%}{around}), {found.as_good} are as good, "
        f"{found.trainings} of {found.of} trainings, {found.spent:.1%} of the compute"
    )
