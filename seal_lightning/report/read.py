"""What a report is about, read from where a run left it: journals, configurations, tables, logged metrics, matrices.

A run may be finished, running, killed or only begun; what is not there is empty. Nothing is computed here, and nothing
that a run wrote is run: its configuration is data, and a filter or task that it names is not imported.
"""

from __future__ import annotations

import csv
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from seal_lightning.errors import DataError
from seal_lightning.files.bounded import check_plain, parse_json, read_bytes
from seal_lightning.files.bounded_yaml import load_yaml, place_of
from seal_lightning.files.contained import contained
from seal_lightning.m_step.selection import best_of, group_rollouts
from seal_lightning.records.entries import Entry, NothingFinished, read_entries
from seal_lightning.records.journal import unfinished_units
from seal_lightning.records.lines import Edits
from seal_lightning.report.adapted import AdapterReport, read_adapter
from seal_lightning.results.accuracy import ResultFile, json_object, read_results
from seal_lightning.results.retention import FILE as RETENTION
from seal_lightning.results.retention import RetentionMatrix, read_matrices
from seal_lightning.results.verdict import FILE as SELECTION
from seal_lightning.results.verdict import Selection
from seal_lightning.results.verdict import read as read_selection
from seal_lightning.stamps.run import FILE as RECORD
from seal_lightning.stamps.run import Record, read_record
from seal_lightning.text.redaction import without_secrets
from seal_lightning.types import Rollout

TABLES = ("fit", "test", "validation")
FILES = ("config*.yaml", "settings*.yaml", *(f"{name}.{kind}" for name in TABLES for kind in ("json", "md")), RETENTION)
FILES += (
    "adapt.md",
    RECORD,
    "policy/selection.json",
    SELECTION,
    "adapters/*/adaptation.json",
    "weights/*/adaptation.json",
    "csv/version_*/metrics.csv",
)  # of a run, beside its journals
OF_A_FIT = re.compile(r"(train|validation)-(\d{3})")
SWEEP = "sweep.json"  # the state of a sweep, beside its runs
BESIDE = (SWEEP, "sweep.md", "sweep.svg", "report.html", "report.md")  # no runs, and RUNS/* names them too
MOST = 200_000  # characters of a configuration or table that are read


@dataclass(frozen=True, slots=True)
class Run:
    """A run as it lies on disk.

    Attributes:
        name: Name in the report: the last part of what the user named, or all of it where several runs end alike.
        source: What the user named.
        rounds: Rollouts of every E-step, by the number of rounds before it; `seal adapt` counts as one.
        kept: Edits that the filter kept in each round; rounds that do not say are missing.
        validations: Rollouts of every validation of a fit, by the number of rounds before it.
        others: Rollouts of `seal test` and the like, by the journal's name.
        config: The whole configuration; empty where there is none.
        settings: Settings that differ from the defaults; None where they were not written down.
        metrics: Rows that the CSV logger wrote, oldest first.
        results: What a finished fit, test or validation saved; None where none has finished.
        matrices: Retention matrices.
        unfinished: Number of units that a crash left torn.
        adapters: Adapters that `seal adapt` has finished.
        concluded: Whether `seal adapt` has finished, when it writes its table.
        exported: Round of the policy that a fit exported last; 0 where there is none.
        selection: Policies that a fit chose the best from; None where they were not written down.
        written: When the last unit was written, in seconds since the epoch; None where there is none.
        recorded: Whether it is a published file rather than a run.
        record: What its figures depend on, and what of it changed on the way; None where that was not written down.
    """

    name: str
    source: str
    rounds: Mapping[int, Sequence[Rollout]] = field(default_factory=dict)
    kept: Mapping[int, Edits] = field(default_factory=dict)
    validations: Mapping[int, Sequence[Rollout]] = field(default_factory=dict)
    others: Mapping[str, Sequence[Rollout]] = field(default_factory=dict)
    config: Mapping[str, object] = field(default_factory=dict)
    settings: Mapping[str, object] | None = None
    metrics: Sequence[Mapping[str, float]] = ()
    results: ResultFile | None = None
    matrices: Sequence[RetentionMatrix] = ()
    unfinished: int = 0
    adapters: Sequence[AdapterReport] = ()
    concluded: bool = False
    exported: int = 0
    selection: Selection | None = None
    written: float | None = None
    recorded: bool = False
    record: Record | None = None

    @property
    def begun(self) -> bool:
        """Whether there is anything to report."""
        return bool(self.rounds or self.validations or self.others or self.matrices or self.adapters)


def read(source: str) -> Run:
    """Read a run folder, a journal, an official `run_*.json` or a file of retention matrices.

    Raises:
        DataError: Nothing is there, or something in it cannot be used.
    """
    place = Path(source).expanduser()
    _check_files(place)
    name = Path(os.path.realpath(place)).name or source  # which takes links that lead in a circle, too
    if place.is_file() and place.suffix == ".json" and {"matrices", "mean_over_sequences"} & json_object(place).keys():
        return Run(name, source, matrices=read_matrices(place), recorded=True)
    matrices = read_matrices(place / RETENTION) if (place / RETENTION).is_file() else []
    config, settings = _configuration(place)
    try:
        entries = read_entries(source)
    except NothingFinished:
        if not (config or matrices or (place / "journal").is_dir()):
            raise
        entries = []
    trained = _of_a_fit("train", entries)
    files = [file for entry in entries for file in entry.files]
    tables = [place / f"{command}.json" for command in TABLES]
    exported = json_object(place / "policy" / "selection.json").get("round")
    return Run(
        name=name,
        source=source,
        rounds={number: entry.rollouts for number, entry in trained.items()},
        kept={number: kept for number, entry in trained.items() if (kept := _kept(entry)) is not None},
        validations={number: entry.rollouts for number, entry in _of_a_fit("validation", entries).items()},
        others={e.name: e.rollouts for e in entries if not e.teaches and not OF_A_FIT.fullmatch(e.name)},
        config=config or next((_header(entry) for entry in entries if entry.run), {}),
        settings=settings,
        metrics=list(_metrics(place)),
        results=next((results for path in tables if (results := read_results(path))), None),
        matrices=matrices,
        unfinished=sum(unfinished_units(f, read_bytes(f)) for e in entries if not e.run for f in set(e.files)),
        adapters=[
            read_adapter(path)
            for folder in ("adapters", "weights")
            for path in sorted((place / folder).glob("*/adaptation.json"))
        ],
        concluded=(place / "adapt.md").is_file(),
        exported=exported if isinstance(exported, int) else 0,
        selection=read_selection(place),
        written=max((file.stat().st_mtime for file in files), default=None),
        recorded=any(entry.run for entry in entries),
        record=read_record(place),
    )


def _check_files(run: Path) -> None:
    """Raises `DataError` where a file of the run is a link to one elsewhere, or one that never ends."""
    for path in (path for pattern in FILES for path in sorted(run.glob(pattern))):
        check_plain(contained(run, path.relative_to(run)))


# -- runs within runs --------------------------------------------------------------------------------------------------


def read_all(sources: Sequence[str]) -> list[Run]:
    """Read every source, each once, and the runs that lie in it; a folder of runs may be none itself.

    Raises:
        DataError: Nothing is there, or something in it cannot be used.
    """
    found: dict[Path, Run] = {}
    for source in sources:
        place = Path(source).expanduser()
        if len(sources) > 1 and place.name in BESIDE and (place.parent / SWEEP).is_file():
            continue
        inside = _inside(place)
        try:
            found.setdefault(place.resolve(), read(source))
        except DataError:
            if not inside or _is_run(place):
                raise  # not a folder of runs
        for folder in inside:
            found.setdefault(folder.resolve(), read(str(folder)))
    return list(found.values())


def _inside(place: Path) -> list[Path]:
    """Run folders in a folder, of a sweep in its order; what a link leads to is not in it."""
    if not place.is_dir():
        return []
    runs = [one for one in sorted(place.iterdir()) if one.is_dir() and not one.is_symlink() and _is_run(one)]
    order = _order(place / SWEEP)
    return sorted(runs, key=lambda run: order.index(run.name) if run.name in order else len(order))


def _order(path: Path) -> list[str]:
    """The names of a sweep's runs; empty without a sweep, or where it is damaged.

    Raises:
        DataError: The file is a link to one elsewhere, or a pipe.
    """
    if not path.exists():
        return []
    content = read_bytes(contained(path.parent, path.name))
    try:
        return [str(row["name"]) for row in parse_json(content)["runs"]]
    except (ValueError, KeyError, TypeError):
        return []


def _is_run(folder: Path) -> bool:
    """Whether a folder has settings and a journal, as all commands leave them."""
    return (folder / "journal").is_dir() and any(folder.glob("config*.yaml"))


# -- journals ----------------------------------------------------------------------------------------------------------


def _of_a_fit(phase: str, entries: Sequence[Entry]) -> dict[int, Entry]:
    """The entries by round; a published file is one E-step, and so is what `seal adapt` samples."""
    found: dict[int, Entry] = {}
    for entry in entries:
        match = OF_A_FIT.fullmatch(entry.name)
        if match and match[1] == phase:
            found[int(match[2])] = entry
        elif not match and entry.teaches and phase == "train":
            found[entry.rollouts[0].round] = entry
    return dict(sorted(found.items()))


def _kept(entry: Entry) -> Edits | None:
    """The kept edits that the journal names; for a published file, which names none, those by its authors' rule."""
    if not entry.run:
        return entry.kept
    best = (outcome for group in group_rollouts(entry.rollouts) for outcome in best_of(group))
    return tuple((outcome.context_id, outcome.edit_index) for outcome in best)


def _header(entry: Entry) -> Mapping[str, object]:
    """The settings of a published file: what stands at its top, without the figures."""
    header = entry.run.header if entry.run else {}
    return {name: value for name, value in header.items() if isinstance(value, str | int | float)}


# -- other files of a run ----------------------------------------------------------------------------------------------


def _configuration(folder: Path) -> tuple[Mapping[str, object], Mapping[str, object] | None]:
    """The whole configuration, and what of it was changed; a fit's before another command's."""
    for path in (folder / "config.yaml", *sorted(folder.glob("config-*.yaml"))):
        if path.is_file():
            return _yaml(path) or {}, _yaml(path.with_name(path.name.replace("config", "settings", 1)))
    return {}, None


def _yaml(path: Path) -> Mapping[str, object] | None:
    """A mapping without secrets; None where there is none.

    Raises:
        DataError: The file is not YAML.
    """
    if not path.is_file():
        return None
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            content = load_yaml(file.read(MOST))
    except yaml.YAMLError as error:
        line, problem = place_of(error)
        raise DataError(f"{path}{f', line {line}' if line else ''}: expected YAML, got {problem}: repair it") from error
    return without_secrets(content) if isinstance(content, dict) else None


def _metrics(folder: Path) -> Iterator[Mapping[str, float]]:
    """Every row of every version (a resumed run logs into a new one); a row that is being written is left out."""
    versions = (folder / "csv").glob("version_*/metrics.csv")
    for path in sorted(versions, key=lambda path: (len(path.parent.name), path.parent.name)):
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            try:
                for row in csv.DictReader(line for line in file if line.endswith("\n")):
                    if numbers := {name: _number(value) for name, value in row.items() if name and value}:
                        yield {name: value for name, value in numbers.items() if value is not None}
            except csv.Error as error:
                raise DataError(f"{path}: expected a table of metrics, got: {error}: move it away") from None


def _number(text: str) -> float | None:
    """None where it is not a finite one."""
    try:
        number = float(text)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


# -- settings as a reader sees them -----------------------------------------------------------------------------------


def lookup(config: Mapping[str, object], key: str) -> object:
    """The value of a dotted key, in which `init_args` may be left out; None where there is none."""
    value: object = config
    for part in key.split("."):
        if not isinstance(value, Mapping):
            return None
        inner = value.get("init_args")
        value = inner[part] if part not in value and isinstance(inner, Mapping) and part in inner else value.get(part)
    return value


def flat(config: object, prefix: str = "") -> dict[str, object]:
    """The values of a configuration by dotted keys; `class_path` and `init_args` are no keys of their own."""
    if not isinstance(config, Mapping):
        return {prefix: config}
    found: dict[str, object] = {}
    for name, value in config.items():
        inner = prefix if name in ("class_path", "init_args") else f"{prefix}.{name}".lstrip(".")
        found |= flat(value, inner or str(name))
    return found


def plain(value: object) -> str:
    """A value of a configuration as it is written on the command line."""
    if isinstance(value, list):
        return ", ".join(map(plain, value))
    if isinstance(value, Mapping):
        return plain(value["class_path"]) if "class_path" in value else json.dumps(value, default=str)
    if isinstance(value, str):
        return re.sub(r"^seal_lightning\.(?:\w+\.)*(?=[A-Z]\w*$)", "", value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)
