"""What a reader must know before comparing runs: in what they differ beyond their results.

A difference in these is not forbidden (an experiment may be about it), but it never goes without a word.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from seal_lightning.report.measure import MeasuredRun
from seal_lightning.report.read import flat, plain
from seal_lightning.results.pairing import pair_contexts
from seal_lightning.types import Rollout

NAMED = 3  # runs that are named with a value
ABOUT = {  # settings by the start of their keys, what they are called, and what a difference in them means
    "model.source": ("base models", "accuracies start from different places"),
    "model.task": ("tasks", "edits are asked for and read in other ways"),
    "model.grader": ("graders", "the same answer may get another score, so a difference may be the grader’s alone"),
    "model.reward": ("rewards", "rewards of the runs are not on one scale; accuracies are"),
    "model.rubric": ("rubrics", "rewards of the runs are not on one scale; accuracies are"),
    "model.evaluation": ("evaluations", "accuracies are not measured alike"),
    "model.evaluation_sampler": ("evaluation samplers", "edits of validations are not sampled alike"),
    "model.max_answer_tokens": ("lengths of answers", "answers are not cut alike"),
    "model.answerer": ("answerers", "queries are not answered alike"),
}
UNTOLD = ("model.source.seed",)  # of random weights, as other seeds


def differences_of(runs: Sequence[MeasuredRun]) -> list[str]:
    """One sentence for each thing in which runs that are compared differ; none for a single run."""
    if len(runs) < 2:
        return []
    going = [f"{run.run.name} ({run.progress})" for run in runs if run.state in ("unfinished", "begun")]
    states = [f"Not all runs have come to their end: {_listed(going)}."] if going else []
    return [*states, *_validations(runs), *_settings(runs)]


def _settings(runs: Sequence[MeasuredRun]) -> Iterator[str]:
    unknown = [run.run.name for run in runs if not run.run.config]
    if unknown:
        yield f"Settings are not known of {_listed(unknown)}: model, grader and data may differ."
    known = [(run.run.name, flat(run.run.config)) for run in runs if run.run.config]
    for prefix, (what, meaning) in ABOUT.items():
        values = {name: _values(config, prefix) for name, config in known}
        if len(set(values.values())) > 1:
            yield f"The {what} differ, so {meaning}: {_by_value(values)}."


def _values(config: Mapping[str, object], prefix: str) -> str:
    """The settings below a key as one text; without a name for the first of them, which says most."""
    found = {
        key.removeprefix(prefix).lstrip("."): plain(value)
        for key, value in config.items()
        if (key == prefix or key.startswith(f"{prefix}.")) and key not in UNTOLD and value is not None
    }
    return ", ".join(f"{name} {value}".strip() for name, value in found.items()) or "none"


def _by_value(values: Mapping[str, str]) -> str:
    """`x (a, b); y (c)`, where only what differs of long texts is shown."""
    parts = {name: text.split(", ") for name, text in values.items()}
    common = set.intersection(*(set(part) for part in parts.values()))
    names: dict[str, list[str]] = {}
    for name, part in parts.items():
        names.setdefault(", ".join(one for one in part if one not in common) or "as otherwise", []).append(name)
    return "; ".join(f"{text[:160]} ({_listed(found)})" for text, found in names.items())


def _validations(runs: Sequence[MeasuredRun]) -> Iterator[str]:
    """Contexts that were not the same for all."""
    first, *others = [(run.run.name, found) for run in runs if (found := _asked(run))] or [("", ())]
    for name, found in others:
        pairing = pair_contexts(first[1], found)
        if pairing.whole:
            continue
        reworded = f", and {pairing.reworded} more with other queries" if pairing.reworded else ""
        yield (
            f"The held-out contexts of {name} are not those of {first[0]}: {len(pairing.pairs)} are in both, of "
            f"{pairing.others} and {pairing.mine}{reworded}."
        )


def _asked(run: MeasuredRun) -> Sequence[Rollout]:
    phases = [*run.run.validations.values(), *run.run.others.values()]
    return max(phases, key=len, default=())


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
