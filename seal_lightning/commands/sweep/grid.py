"""The runs of a sweep: every combination of the values of `--over` with every seed, each under a name of its own.

Before the first one starts, `settings.py` looks in a process of its own for mistakes in the settings of all of them and
for folders that hold other runs; here these become one line that names the `--over`.

`--over KEY=VALUES` is read here and nowhere else. Values stay as they were written, because `seal fit` reads them as
its options; only where one ends and the next begins is decided here.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from seal_lightning.commands.quickstart import NO_MODULES_HERE
from seal_lightning.errors import ConfigError, SealError

SEED_OPTION, SEED = "model.seed", "seed"  # the option, and its name in names of runs and with --over
_CLASS_PATH = re.compile(r"(?:[A-Za-z_]\w*\.)+([A-Z]\w*)")
_UNSAFE = re.compile(r"[^A-Za-z0-9_.+=-]+")
_LONGEST = 100  # characters of a run's name, which is a folder; a digest replaces the rest


@dataclass(frozen=True, slots=True)
class Axis:
    """An option and its values, as they were written."""

    key: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Planned:
    """A run of a sweep.

    Attributes:
        name: Name of its folder, made of values and seed, so that it stays when the grid grows.
        setting: The name without the seed; empty if only seeds are swept.
        values: Values of the swept options, by key.
        seed: The run's seed; None if the sweep sets none.
        options: Options of `seal fit`, except for the run folder.
    """

    name: str
    setting: str
    values: Mapping[str, str]
    seed: int | None
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Checked:
    """What is known about a sweep whose runs can all start.

    Attributes:
        unchanged: Names of the runs whose folders are new or were written with the same settings.
        gpus: GPUs to share out among the runs; empty if they use none.
        gpus_each: How many of them a run needs.
    """

    unchanged: frozenset[str]
    gpus: tuple[str, ...] = ()
    gpus_each: int = 0


# -- what was given ----------------------------------------------------------------------------------------------------


def read_axis(text: str) -> Axis:
    """An option and its values.

    >>> read_axis("model.inner_loop.rank=2,8").values
    ('2', '8')
    >>> read_axis("model.inner_loop.rank=[2, 8]").values
    ('2', '8')
    >>> read_axis("model.inner_loop.betas=[0.9,0.95],[0.9,0.99]").values
    ('[0.9,0.95]', '[0.9,0.99]')

    Raises:
        ConfigError: A key or a value is missing, or a value appears twice.
    """
    key, equals, listed = text.partition("=")
    key = key.strip().removeprefix("--")
    if not equals or not key or not listed.strip():
        raise ConfigError(f"--over {text}: expected KEY=VALUE,VALUE, such as --over model.inner_loop.rank=2,8")
    values = _values(f"--over {text}", listed)
    if again := [value for value, following in itertools.pairwise(sorted(values)) if value == following]:
        raise ConfigError(f"--over {text}: {again[0]} appears twice; leave one out")
    return Axis(SEED_OPTION if key == SEED else key, tuple(values))


def read_seeds(text: str) -> list[int]:
    """The seeds, given by their number (`3`, counted from 0) or as a list (`4,7`, `[7]`).

    Raises:
        ConfigError: The text is neither.
    """
    wrong = f"--seeds {text}: expected how many seeds, such as 3, or a list of them, such as 300,301"
    listed = "," in text or text.strip().startswith("[")
    try:
        numbers = [int(value) for value in (_values(f"--seeds {text}", text) if listed else [text])]
    except ValueError:
        raise ConfigError(wrong) from None
    if listed and len(set(numbers)) < len(numbers):
        raise ConfigError(f"--seeds {text}: a seed appears twice; leave one out")
    if min(numbers, default=0) < (0 if listed else 1):
        raise ConfigError(wrong)
    return numbers if listed else list(range(numbers[0]))


def _values(where: str, text: str) -> list[str]:
    """The values between the commas, as they were written: the items of a YAML list whose brackets may be left out."""
    listed = f"[{text}]"
    try:
        node = yaml.compose(listed, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        node = None
    if not isinstance(node, yaml.SequenceNode) or not node.value:
        raise ConfigError(
            f"{where}: expected values between commas; quote those with commas, brackets or colons in them"
        )
    items = node.value
    if len(items) == 1 and isinstance(items[0], yaml.SequenceNode):
        items = items[0].value
    return [_written(listed[item.start_mark.index : item.end_mark.index], item) for item in items]


def _written(text: str, item: yaml.Node) -> str:
    return str(item.value) if isinstance(item, yaml.ScalarNode) and item.style else text.strip()


# -- the runs ----------------------------------------------------------------------------------------------------------


def plan(
    axes: Sequence[Axis], seeds: Sequence[int], *, options: Sequence[str], seeded: Sequence[str] = (SEED_OPTION,)
) -> list[Planned]:
    """The runs of a sweep, setting by setting and within each seed by seed.

    Args:
        axes: What is swept; none for seeds alone.
        seeds: Seeds of every setting; none leaves the seed to the configuration.
        options: Options of `seal fit` that all runs have.
        seeded: The options that get the seed.

    Raises:
        ConfigError: An option is given twice, or belongs to the sweep itself.
    """
    axes, seeds = _seeds_apart(axes, seeds, seeded)
    _check_given(options, [axis.key for axis in axes], [key for key in seeded if seeds])
    configs, others = _configs_first(options)
    shown = _short_names(axes)
    runs = []
    for values in itertools.product(*(axis.values for axis in axes)):
        setting = dict(zip((axis.key for axis in axes), values, strict=True))
        words = [f"{shown[axis.key]}={_short(setting[axis.key], axis.values)}" for axis in axes]
        swept = {key: f"--{key}={value}" for key, value in setting.items()}
        above = [swept.pop("config")] if "config" in swept else []
        for seed in seeds or [None]:
            end = [] if seed is None else [f"--{key}={seed}" for key in seeded]
            name = _safe([*words, *([] if seed is None else [f"{SEED}={seed}"])] or ["run"])
            runs.append(Planned(name, _safe(words), setting, seed, (*configs, *above, *swept.values(), *others, *end)))
    names = [run.name for run in runs]
    return [run if len(run.name) <= _LONGEST and names.count(run.name) == 1 else _with_digest(run) for run in runs]


def _seeds_apart(axes: Sequence[Axis], seeds: Sequence[int], seeded: Sequence[str]) -> tuple[list[Axis], Sequence[int]]:
    """The axes without the seed, which is not a setting even if it is swept like one, and the seeds."""
    keys = [axis.key for axis in axes]
    if again := [key for key in keys if keys.count(key) > 1]:
        raise ConfigError(f"--over {again[0]}: given twice; put all of its values behind one")
    if seeds and (both := [key for key in keys if key in seeded]):
        raise ConfigError(f"--over {both[0]}: --seeds sets it too; give the seeds there, such as --seeds 300,301")
    listed = [",".join(axis.values) for axis in axes if axis.key == SEED_OPTION]
    return [axis for axis in axes if axis.key != SEED_OPTION], read_seeds(f"[{listed[0]}]") if listed else seeds


def _check_given(options: Sequence[str], swept: Sequence[str], seeded: Sequence[str]) -> None:
    given = [arg[2:].partition("=")[0].rstrip("+") for arg in options if arg.startswith("--")]
    ours = {
        "trainer.default_root_dir": "the folders of the runs are made by the sweep: use --output",
        "ckpt_path": "the sweep goes on with the runs that it finds: leave it out",
        "print_config": "use it with seal fit, or --dry_run here",
    }
    for name in given:
        if name in ours:
            raise ConfigError(f"--{name}: {ours[name]}")
        if name != "config" and (below := [key for key in swept if key == name or key.startswith(f"{name}.")]):
            raise ConfigError(f"--{name}: would take the place of what --over {below[0]} sets; leave one of them out")
        if name in seeded:
            raise ConfigError(f"--{name}: would take the place of what --seeds sets; leave one of them out")
    if taken := [key for key in swept if key in ours]:
        raise ConfigError(f"--over {taken[0]}: {ours[taken[0]]}")


def _configs_first(options: Sequence[str]) -> tuple[list[str], list[str]]:
    """Config files, and other options; swept options stand between them, above the former and below the latter."""
    configs: list[str] = []
    others: list[str] = []
    rest = iter(options)
    for arg in rest:
        if arg in ("-c", "--config"):
            configs += [arg, *itertools.islice(rest, 1)]
        else:
            (configs if arg.startswith("--config=") else others).append(arg)
    return configs, others


# -- their names -------------------------------------------------------------------------------------------------------


def _short_names(axes: Iterable[Axis]) -> dict[str, str]:
    """The last parts of each key, as few as distinguish it from the others."""
    keys = [axis.key for axis in axes]
    names = {}
    for key in keys:
        parts = key.removesuffix(".class_path").split(".")
        ends = [".".join(parts[-count:]) for count in range(1, len(parts) + 1)]
        own = [end for end in ends if end != SEED and sum(f".{other}".endswith(f".{end}") for other in keys) == 1]
        names[key] = [*own, ends[-1]][0]
    return names


def _short(value: str, values: Sequence[str]) -> str:
    """A class without its module or a file without its folders, if that distinguishes it from the other values."""
    short = [_last(other) for other in values]
    return _last(value) if short.count(_last(value)) == 1 else value


def _last(value: str) -> str:
    if match := _CLASS_PATH.fullmatch(value):
        return match[1]
    return value.rstrip("/").rpartition("/")[2].removesuffix(".yaml") or value


def _safe(words: Sequence[str]) -> str:
    """A name for a folder that needs no quotes in a shell: letters, digits and a few signs."""
    return "_".join(_UNSAFE.sub("-", word).strip("-.") for word in words)


def _with_digest(run: Planned) -> Planned:
    """The run with digests of its values in its names, which are too long or not unique."""

    def marked(name: str, content: object) -> str:
        digest = hashlib.blake2b(json.dumps(content).encode(), digest_size=4).hexdigest()
        return f"{name[: _LONGEST - 9]}-{digest}"

    values = sorted(run.values.items())
    return replace(run, name=marked(run.name, [values, run.seed]), setting=marked(run.setting, values))


# -- whether they can start --------------------------------------------------------------------------------------------


def check(runs: Sequence[Planned], folder: Path) -> Checked:
    """Check the settings of all runs, and what their folders hold.

    Raises:
        ConfigError: One of them cannot run, or its folder holds another run.
    """
    commands = [["fit", *run.options, "--trainer.default_root_dir", str(folder / run.name)] for run in runs]
    findings = _asked(commands)
    rows = findings["runs"]
    if wrong := [(run, row) for run, row in zip(runs, rows, strict=True) if "error" in row]:
        raise ConfigError(_mistake(wrong, len(runs)))
    for run, row in zip(runs, rows, strict=True):
        if not row["other"]:
            continue
        first, *others = row["other"]
        was, now = (json.dumps(value, ensure_ascii=False)[:60] for value in row["changed"][first])
        more = f" and {len(others)} more settings" if others else ""
        raise ConfigError(
            f"{folder / run.name}: holds a run with {first} {was}, but now it is {now}{more}: choose another --output, "
            "or return to those settings. Nothing was overwritten"
        )
    unchanged = frozenset(run.name for run, row in zip(runs, rows, strict=True) if not row["changed"])
    return Checked(unchanged, tuple(findings["gpus"]), findings["gpus_each"])


def _asked(commands: Sequence[Sequence[str]]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "seal_lightning.commands.sweep.settings"],
        input=json.dumps(commands), capture_output=True,
        encoding="utf-8", errors="replace", env={**os.environ, **NO_MODULES_HERE},
    )  # fmt: skip
    try:
        return json.loads(done.stdout)
    except ValueError:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()] or ["it said nothing"]
        raise SealError(f"the settings cannot be checked: {said[-1]}; try one of them with seal fit") from None


def _mistake(wrong: Sequence[tuple[Planned, Mapping[str, Any]]], count: int) -> str:
    """The message about the first run that cannot start; a mistake that all share is not blamed on the sweep."""
    run, text = wrong[0][0], str(wrong[0][1]["error"])
    named = {key: value for key, value in run.values.items() if _is_about(text, key)}
    everywhere = len(wrong) == count and len({row["error"] for _, row in wrong}) == 1
    if not run.values or (everywhere and not named):
        return text
    overs = " ".join(f"--over {key}={value}" for key, value in (named or run.values).items())
    settings = {tuple(other.values.items()) for other, _ in wrong}
    more = f" (and {len(settings) - 1} more of the settings cannot run)" if len(settings) > 1 else ""
    for key, value in named.items():
        for said in (f"--{key}: ", f"{key}: ", f"{key}={value}: "):
            text = text.removeprefix(said)
    return f"{overs}: {text}{more}"


def _is_about(text: str, key: str) -> bool:
    """Whether a message names an option, in full or by its last parts."""
    parts = key.removesuffix(".class_path").split(".")
    return any(".".join(parts[start:]) in text for start in range(len(parts)))
