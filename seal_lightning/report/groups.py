"""Runs in groups: those that differ only in their seed, their folder and the like are one group, with means over seeds.

    runs -> groups by settings -> levels over rounds with intervals -> differences between groups

What an interval is over is always said: over seeds (Student's t) where a group has at least two, else over the contexts
of its one seed (bootstrap), which says nothing about another seed. `group_tables.py` makes tables and a figure of it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from seal_lightning.report.read import Run, flat, plain
from seal_lightning.results.averages import Value, baseline, by_context, context_means, interval, score, t_interval
from seal_lightning.text.escaping import shortened
from seal_lightning.types import Rollout

Unit = Literal["seeds", "contexts"]

PLACES = (  # where a run lies, who watches it and what it runs on: no settings of what it computes
    "trainer.default_root_dir",
    "trainer.logger",
    "trainer.log_every_n_steps",
    "trainer.profiler",
    "trainer.executor",
    "trainer.enable_progress_bar",
    "trainer.enable_model_summary",
    "trainer.enable_checkpointing",
    "trainer.allow_other_versions",
    "trainer.give_up_after",
    "trainer.num_sanity_val_steps",
    "log_level",
    "progress",
    "table",
    "ckpt_path",
    "output",
    "timestamp",  # of published files
    "exp_name",
)
NAMED = 3  # settings in the name of a group
VALUE = 28  # characters of a value in it


@dataclass(frozen=True, slots=True)
class GroupLevel:
    """Accuracy with own edits (or without an adapter) of a group at one place.

    Attributes:
        round: Number of rounds before it; None for a test or a published file.
        where: The place in words.
        mean: Mean over seeds, each a mean over contexts.
        low: Lower end of the 95 % interval; None where there are too few contexts for one.
        high: Its upper end.
        unit: What the interval is over.
        count: Number of those.
    """

    round: int | None
    where: str
    mean: float
    low: float | None
    high: float | None
    unit: Unit
    count: int


@dataclass(frozen=True, slots=True)
class Group:
    """Runs that have the same settings, but for what does not count as one.

    Attributes:
        name: The settings in which it differs from other groups, or the names of its runs where there are none.
        settings: All of those settings, with their values.
        runs: The runs, in the order in which they were named.
        base: Accuracy without an adapter; None where nothing was asked.
        levels: Accuracy with own edits, at the places that all of its runs have reached.
        behind: Rounds after which some of its runs were validated, but not all.
    """

    name: str
    settings: Mapping[str, str]
    runs: tuple[Run, ...]
    base: GroupLevel | None
    levels: tuple[GroupLevel, ...]
    behind: tuple[int, ...] = ()

    @property
    def last(self) -> GroupLevel | None:
        """With own edits, at the end."""
        return self.levels[-1] if self.levels else None


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Group at least one run, in order.

    A run whose settings are not known is a group of its own, and so is each of several with the same settings and seed:
    they are no sample of seeds, and differ in something else (code, data) or in nothing.
    """
    settings = [_settings(run) for run in runs]
    members: dict[str, list[int]] = {}
    for place, values in enumerate(settings):
        key = json.dumps(values, sort_keys=True, default=str) if values else f"run {place}"
        members.setdefault(key, []).append(place)
    for key, places in list(members.items()):
        if len({_seed(runs[place]) for place in places}) < len(places):
            del members[key]
            members |= {f"run {place}": [place] for place in places}
    members = dict(sorted(members.items(), key=lambda item: item[1]))
    shown = _differing([settings[places[0]] for places in members.values()])
    groups = [
        _group([runs[place] for place in places], values)
        for places, values in zip(members.values(), shown, strict=True)
    ]
    names = Counter(group.name for group in groups)  # equal ones: settings beyond those in a name, or none that differ
    return [group if names[group.name] == 1 else _group(group.runs, group.settings, by_runs=True) for group in groups]


def seeds_of(run: Run) -> dict[str, object]:
    """All seeds of a run's configuration, by their keys."""
    return {key: value for key, value in flat(run.config).items() if _is_seed(key)}


# -- which runs belong together ----------------------------------------------------------------------------------------


def _settings(run: Run) -> dict[str, object]:
    return {
        key: value
        for key, value in flat(run.config).items()
        if not _is_seed(key) and not any(key == place or key.startswith(f"{place}.") for place in PLACES)
    }


def _is_seed(key: str) -> bool:
    name = key.rpartition(".")[2]
    return name in ("seed", "seed_everything") or name.endswith("_seed")


def _differing(settings: Sequence[Mapping[str, object]]) -> list[dict[str, str]]:
    """The settings in which groups differ, for each group, by their shortest unique names."""
    known = [values for values in settings if values]
    keys = dict.fromkeys(key for values in known for key in values)
    differing = [key for key in keys if len({json.dumps(values.get(key), default=str) for values in known}) > 1]
    names = {key: _short(key, keys) for key in differing}
    return [
        {names[key]: plain(values[key]) if key in values else "–" for key in differing} if values else {}
        for values in settings
    ]


def _short(key: str, keys: Mapping[str, None]) -> str:
    """`model.task.directives.epochs` -> `directives.epochs`: two parts where these are its own."""
    parts = key.removeprefix("model.").split(".")
    for count in range(min(2, len(parts)), len(parts) + 1):
        name = ".".join(parts[-count:])
        if sum(other == name or other.endswith(f".{name}") for other in keys) == 1:
            return name
    return key


def _group(runs: Sequence[Run], settings: Mapping[str, str], *, by_runs: bool = False) -> Group:
    listed = [f"{key} {shortened(value, VALUE)}" for key, value in settings.items()]
    more = f" and {len(listed) - NAMED} more" if len(listed) > NAMED else ""
    name = ", ".join(listed[:NAMED]) + more
    if by_runs or not name:
        name = ", ".join(run.name for run in runs)
    rounds = [_rounds(run) for run in runs]
    common = [number for number in rounds[0] if all(number in found for found in rounds)]
    return Group(
        name,
        settings,
        tuple(runs),
        _level(runs, common[0], baseline) if common else None,
        tuple(_level(runs, number, score) for number in common),
        tuple(sorted({n for found in rounds for n in found if n is not None and n not in common})),
    )


# -- results -----------------------------------------------------------------------------------------------------------


def _rounds(run: Run) -> dict[int | None, Sequence[Rollout]]:
    """Own edits of every validation that asked as many contexts as the run's largest; else of a test or an E-step."""
    found = {number: _edits(rollouts) for number, rollouts in run.validations.items()}
    most = max((len(by_context(rollouts)) for rollouts in found.values()), default=0)
    if most:
        return {number: edits for number, edits in found.items() if len(by_context(edits)) == most}
    phases = [*run.others.values(), *list(run.rounds.values())[-1:]]
    edits = next((edits for rollouts in phases if (edits := _edits(rollouts))), ())
    return {None: edits} if edits else {}


def _edits(rollouts: Sequence[Rollout]) -> list[Rollout]:
    return [rollout for rollout in rollouts if rollout.kind == "edit" and not rollout.dropped]


def by_seed(runs: Sequence[Run], number: int | None, keys: Container[str] | None = None) -> dict[str, list[Rollout]]:
    """The own edits of each seed; runs that have the same seed of these keys are one, with more edits."""
    found: dict[str, list[Rollout]] = {}
    for run in runs:
        found.setdefault(_seed(run, keys), []).extend(_rounds(run)[number])
    return found


def _seed(run: Run, keys: Container[str] | None = None) -> str:
    return json.dumps({k: v for k, v in seeds_of(run).items() if keys is None or k in keys}, default=str)


def _level(runs: Sequence[Run], number: int | None, value: Value) -> GroupLevel:
    of_seeds = [list(context_means(edits, value).values()) for edits in by_seed(runs, number).values()]
    where = f"after round {number}" if number else "before training"
    if number is None:
        where = "in the test" if any(map(_edits, runs[0].others.values())) else "on the contexts it learnt from"
    if len(of_seeds) == 1:
        values = of_seeds[0]
        return GroupLevel(number, where, fmean(values), *interval(values), "contexts", len(values))
    means = [fmean(values) for values in of_seeds]
    low, high = t_interval(means)
    return GroupLevel(number, where, fmean(means), max(0.0, low), min(1.0, high), "seeds", len(means))
