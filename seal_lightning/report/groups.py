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
from functools import cached_property
from math import sqrt
from statistics import fmean, stdev, variance
from typing import Any, Literal

from seal_lightning.report.read import Run
from seal_lightning.report.settings import flat, lookup, plain
from seal_lightning.results.averages import Value, baseline, by_context, context_means, interval, score
from seal_lightning.results.pairing import Pairing, pair_contexts
from seal_lightning.text.escaping import shortened
from seal_lightning.types import Rollout

Unit = Literal["seeds", "contexts"]

# 97.5 % quantiles of Student's t by degrees of freedom; beyond the last it stands for all, up to 4 % too wide.
# fmt: off
T_95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)
# fmt: on
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
class Level:
    """Accuracy with own edits (or without an adapter) of a group at one place.

    Attributes:
        round: Rounds before it; None where no round was: a test, or a published file.
        where: In words.
        mean: Over seeds, each a mean over contexts.
        low: Lower end of the 95 % interval; None where there are too few contexts for one.
        high: Its upper end.
        unit: What the interval is over.
        count: How many of those there are.
    """

    round: int | None
    where: str
    mean: float
    low: float | None
    high: float | None
    unit: Unit
    count: int


@dataclass(frozen=True)
class Group:
    """Runs that differ only in what is no setting.

    Attributes:
        name: The settings by which it differs from other groups, or the names of its runs where it differs by none.
        settings: Those settings and their values, all of them.
        runs: In the order in which they were named.
        base: Without an adapter; None where nothing was asked.
        levels: With own edits, at the places that all of its runs have reached.
        behind: Rounds that some of its runs, but not all, have been validated after.
    """

    name: str
    settings: Mapping[str, str]
    runs: tuple[Run, ...]
    base: Level | None
    levels: tuple[Level, ...]
    behind: tuple[int, ...] = ()

    @property
    def last(self) -> Level | None:
        """With own edits, at the end."""
        return self.levels[-1] if self.levels else None

    @cached_property
    def seeds(self) -> tuple[str, ...]:
        """The distinct seeds of its runs."""
        return tuple(dict.fromkeys(_seed(run) for run in self.runs))


@dataclass(frozen=True, slots=True)
class Contrast:
    """A group against another one, with own edits.

    Attributes:
        mean: Its accuracy minus the other's; None where the two cannot be compared.
        low: End of the 95 % interval; None where there is none.
        high: Its other end.
        unit: What the interval is over.
        count: How many pairs, or seeds of the smaller group where nothing is paired.
        paired: Whether the same contexts (and, over seeds, the same seeds) were compared one by one.
        contexts: In common, at the least where seeds have different ones.
        of: Contexts of the group that has more.
        where: The places in the two, which differ where the two were to run for different numbers of rounds.
        reason: Why there is no difference or no interval, in a few words.
    """

    mean: float | None
    low: float | None
    high: float | None
    unit: Unit
    count: int
    paired: bool
    contexts: int
    of: int
    where: tuple[str, str]
    reason: str = ""


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


def contrast(group: Group, other: Group) -> Contrast:
    """Compare a group with another, paired by seed and context where both have them.

    Two groups that were to run equally long are compared after the last round that both have come to.
    """
    places = _places(group, other)
    if places is None:
        return Contrast(None, None, None, "contexts", 0, False, 0, 0, ("", ""), "one of the two has no results yet")
    where = (places[0].where, places[1].where)
    keys = set.intersection(*(set(seeds_of(run)) for run in (*group.runs, *other.runs)))  # a filter may have one more
    mine, others = _by_seed(group, places[0].round, keys), _by_seed(other, places[1].round, keys)
    if len(common := [(mine[seed], others[seed]) for seed in mine if seed in others]) > 1:
        return _over_seeds(common, where)
    mine, others = _by_seed(group, places[0].round), _by_seed(other, places[1].round)
    if len(mine) > 1 and len(others) > 1:
        return _unpaired(list(mine.values()), list(others.values()), where)
    return _over_contexts(common or [(one, two) for one in mine.values() for two in others.values()], where)


def t_interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of the mean of at least two values."""
    half = t_quantile(len(values) - 1) * stdev(values) / sqrt(len(values))
    return fmean(values) - half, fmean(values) + half


def t_quantile(freedom: float) -> float:
    """The 97.5 % quantile of Student's t; of degrees of freedom in between the wider."""
    return T_95[min(max(int(freedom), 1), len(T_95)) - 1]


def seeds_of(run: Run) -> dict[str, Any]:
    """All seeds of a run's configuration, by their keys."""
    return {key: value for key, value in flat(run.config).items() if _is_seed(key)}


# -- which runs belong together ----------------------------------------------------------------------------------------


def _settings(run: Run) -> dict[str, Any]:
    return {key: value for key, value in flat(run.config).items() if not (_is_seed(key) or _is_place(key))}


def _is_seed(key: str) -> bool:
    name = key.rpartition(".")[2]
    return name in ("seed", "seed_everything") or name.endswith("_seed")


def _is_place(key: str) -> bool:
    return any(key == place or key.startswith(f"{place}.") for place in PLACES)


def _differing(settings: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Of each group the settings in which groups differ, by their shortest names that no other setting has."""
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
    group = Group(name, settings, tuple(runs), None, ())
    return Group(
        name,
        settings,
        tuple(runs),
        _level(group, common[0], baseline) if common else None,
        tuple(_level(group, number, score) for number in common),
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


def _where(run: Run, number: int | None) -> str:
    if number is None:
        return "in the test" if any(map(_edits, run.others.values())) else "on the contexts it learnt from"
    return f"after round {number}" if number else "before training"


def _by_seed(group: Group, number: int | None, keys: Container[str] | None = None) -> dict[str, list[Rollout]]:
    """The own edits of each seed; runs that have the same seed of these keys are one, with more edits."""
    found: dict[str, list[Rollout]] = {}
    for run in group.runs:
        found.setdefault(_seed(run, keys), []).extend(_rounds(run)[number])
    return found


def _seed(run: Run, keys: Container[str] | None = None) -> str:
    return json.dumps({k: v for k, v in seeds_of(run).items() if keys is None or k in keys}, default=str)


def _level(group: Group, number: int | None, value: Value) -> Level:
    by_seed = [list(context_means(edits, value).values()) for edits in _by_seed(group, number).values()]
    where = _where(group.runs[0], number)
    if len(by_seed) == 1:
        values = by_seed[0]
        return Level(number, where, fmean(values), *interval(values), "contexts", len(values))
    means = [fmean(values) for values in by_seed]
    low, high = t_interval(means)
    return Level(number, where, fmean(means), max(0.0, low), min(1.0, high), "seeds", len(means))


# -- differences -------------------------------------------------------------------------------------------------------


def _places(group: Group, other: Group) -> tuple[Level, Level] | None:
    """Where two groups are compared; None where one has no results."""
    if group.last is None or other.last is None:
        return None
    planned = {lookup(one.runs[0].config, "trainer.max_epochs") for one in (group, other)}
    common = {level.round for level in group.levels} & {level.round for level in other.levels}
    if len(planned) > 1 or not common:
        return group.last, other.last
    mine, others = (next(level for level in reversed(one.levels) if level.round in common) for one in (group, other))
    return mine, others


def _over_seeds(pairs: Sequence[tuple[Sequence[Rollout], Sequence[Rollout]]], where: tuple[str, str]) -> Contrast:
    pairings = [pair_contexts(mine, others) for mine, others in pairs]
    least = min(pairings, key=lambda pairing: len(pairing.pairs))
    contexts, of = len(least.pairs), max(least.mine, least.others)
    if not least.pairs:
        return Contrast(None, None, None, "seeds", 0, False, 0, of, where, _why_not(least))
    values = [fmean(_differences(*pair, pairing)) for pair, pairing in zip(pairs, pairings, strict=True)]
    return Contrast(fmean(values), *t_interval(values), "seeds", len(values), True, contexts, of, where)


def _over_contexts(pairs: Sequence[tuple[Sequence[Rollout], Sequence[Rollout]]], where: tuple[str, str]) -> Contrast:
    """Where one of the two has a single seed: against the same seed of the other, or against the mean of all."""
    pairings = [pair_contexts(mine, others) for mine, others in pairs]
    least = min(pairings, key=lambda pairing: len(pairing.pairs))
    of = max(least.mine, least.others)
    if not least.pairs:
        return Contrast(None, None, None, "contexts", 0, False, 0, of, where, _why_not(least))
    side = 0 if len({id(mine) for mine, _ in pairs}) == 1 else 1  # the single seed's contexts
    values_of: dict[str, list[float]] = {}
    for pair, pairing in zip(pairs, pairings, strict=True):
        for names, value in zip(pairing.pairs, _differences(*pair, pairing), strict=True):
            values_of.setdefault(names[side], []).append(value)
    values = [fmean(found) for found in values_of.values() if len(found) == len(pairs)]
    if not values:
        return Contrast(None, None, None, "contexts", 0, False, 0, of, where, _why_not(least))
    return Contrast(fmean(values), *interval(values), "contexts", len(values), True, len(values), of, where)


def _unpaired(
    mine: Sequence[Sequence[Rollout]], others: Sequence[Sequence[Rollout]], where: tuple[str, str]
) -> Contrast:
    """Over runs of different seeds, on the contexts in common (Welch's t)."""
    pairings = [pair_contexts(one, other) for one in mine for other in others]
    least = min(pairings, key=lambda pairing: len(pairing.pairs))
    contexts, of = len(least.pairs), max(least.mine, least.others)
    count = min(len(mine), len(others))
    if not least.whole:
        return Contrast(None, None, None, "seeds", 0, False, contexts, of, where, _why_not(least))
    one, other = ([fmean(context_means(edits, score).values()) for edits in found] for found in (mine, others))
    parts = [variance(values) / len(values) for values in (one, other)]
    mean = fmean(one) - fmean(other)
    total = sum(parts)
    below = sum(part**2 / (len(values) - 1) for part, values in zip(parts, (one, other), strict=True))
    half = t_quantile(total**2 / below) * sqrt(total) if total else 0.0
    return Contrast(mean, mean - half, mean + half, "seeds", count, False, contexts, of, where, "different seeds")


def _differences(mine: Sequence[Rollout], others: Sequence[Rollout], pairing: Pairing) -> list[float]:
    one, other = context_means(mine, score), context_means(others, score)
    return [one[name] - other[partner] for name, partner in pairing.pairs]


def _why_not(pairing: Pairing) -> str:
    if pairing.reworded:
        return "the same passages, but other queries"
    if pairing.pairs:
        return f"only {len(pairing.pairs)} of {max(pairing.mine, pairing.others)} contexts in common, and other seeds"
    return "different contexts"
