"""The runs of a sweep: every combination of the values of `--over`, with every seed, each under a name of its own.

What stands in `--over KEY=VALUES` is read here and nowhere else. Values are kept as they were written, since `seal fit`
reads them as its options; only where one ends and the next begins is decided here.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import yaml

from seal_lightning.errors import ConfigError

SEED_OPTION, SEED = "model.seed", "seed"  # and what it is called in the names of runs, and with --over
_OPEN, _CLOSE, _QUOTES = "[{(", "]})", "\"'"
_CLASS_PATH = re.compile(r"(?:[A-Za-z_]\w*\.)+([A-Z]\w*)")
_UNSAFE = re.compile(r"[^A-Za-z0-9_.+=-]+")
_LONGEST = 100  # characters of a run's name, which is a folder; a digest takes the place of what is over


@dataclass(frozen=True, slots=True)
class Axis:
    """An option and the values that it takes, as they were written."""

    key: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Planned:
    """A run of a sweep.

    Attributes:
        name: Of its folder, by values and seed: more values or seeds in the grid do not change it.
        setting: What of the name is not the seed; empty where seeds alone are swept.
        values: Of the options that are swept, by key.
        seed: Of the run; None where the sweep sets none.
        options: Of `seal fit`, but for the run folder.
    """

    name: str
    setting: str
    values: Mapping[str, str]
    seed: int | None
    options: tuple[str, ...]


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
        ConfigError: There is no key, no value, an empty one, or one twice.
    """
    key, equals, listed = text.partition("=")
    key = key.strip().removeprefix("--")
    if not equals or not key or not listed.strip():
        raise ConfigError(f"--over {text}: expected KEY=VALUE,VALUE, such as --over model.inner_loop.rank=2,8")
    values = _values(f"--over {text}", listed)
    if again := [value for value, following in itertools.pairwise(sorted(values)) if value == following]:
        raise ConfigError(f"--over {text}: {again[0]} stands there twice; leave one out")
    return Axis(SEED_OPTION if key == SEED else key, tuple(values))


def read_seeds(text: str) -> list[int]:
    """How many seeds, counted from 0, or which: `3`, `4,7`, `[7]`.

    Raises:
        ConfigError: It is neither.
    """
    wrong = f"--seeds {text}: expected how many seeds, such as 3, or a list of them, such as 300,301"
    listed = "," in text or text.strip().startswith("[")
    try:
        numbers = [int(value) for value in (_values(f"--seeds {text}", text) if listed else [text])]
    except ValueError:
        raise ConfigError(wrong) from None
    if listed and len(set(numbers)) < len(numbers):
        raise ConfigError(f"--seeds {text}: a seed stands there twice; leave one out")
    if min(numbers, default=0) < (0 if listed else 1):
        raise ConfigError(wrong)
    return numbers if listed else list(range(numbers[0]))


def _values(where: str, text: str) -> list[str]:
    parts = [part.strip() for part in _at_commas(where, text)]
    if len(parts) == 1 and parts[0].startswith("["):
        parts = _items(where, parts[0])
    if "" in parts:
        raise ConfigError(f"{where}: expected a value between the commas, got none; an empty text is written ''")
    return [_unquoted(part) for part in parts]


def _at_commas(where: str, text: str) -> Iterator[str]:
    """The parts between commas that stand in no brackets and no quotes."""
    closing: list[str] = []
    begin = 0
    for place, character in enumerate(text):
        if closing and closing[-1] in _QUOTES:
            if character == closing[-1]:
                closing.pop()
        elif character in _QUOTES and not text[begin:place].strip(" [{(,:"):  # within a word it is an apostrophe
            closing.append(character)
        elif character in _OPEN:
            closing.append(_CLOSE[_OPEN.index(character)])
        elif closing and character == closing[-1]:
            closing.pop()
        elif character == "," and not closing:
            yield text[begin:place]
            begin = place + 1
    if closing:
        raise ConfigError(f"{where}: expected {closing[-1]} at its end, got none; close it, and quote it for the shell")
    yield text[begin:]


def _items(where: str, text: str) -> list[str]:
    """Those of a list in YAML or JSON, each written as an option would be."""
    try:
        items = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"{where}: expected a list in YAML, got {text}; quote its texts") from None
    return [item if isinstance(item, str) else json.dumps(item, ensure_ascii=False) for item in items]


def _unquoted(text: str) -> str:
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in _QUOTES
    return text[1:-1] if quoted else text


# -- the runs ----------------------------------------------------------------------------------------------------------


def plan(
    axes: Sequence[Axis], seeds: Sequence[int], *, options: Sequence[str], seeded: Sequence[str] = (SEED_OPTION,)
) -> list[Planned]:
    """The runs of a sweep: seed after seed of one setting after the other.

    Args:
        axes: What is swept, none for seeds alone.
        seeds: Of every setting; none to leave that to the configuration.
        options: Of `seal fit` that all of them have.
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
    return _told_apart(runs)


def _seeds_apart(axes: Sequence[Axis], seeds: Sequence[int], seeded: Sequence[str]) -> tuple[list[Axis], Sequence[int]]:
    """Seeds are no setting, also where they are swept as one."""
    keys = [axis.key for axis in axes]
    if again := [key for key in keys if keys.count(key) > 1]:
        raise ConfigError(f"--over {again[0]}: given twice; put all of its values behind one")
    if seeds and (both := [key for key in keys if key in seeded]):
        raise ConfigError(f"--over {both[0]}: --seeds sets it, too; give the seeds there, such as --seeds 300,301")
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
    """Config files and other options, apart: what is swept comes between, over the one and below the other."""
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
    """The last parts of each key, as many as tell it from the others."""
    keys = [axis.key for axis in axes]
    found = {}
    for key in keys:
        parts = key.removesuffix(".class_path").split(".")
        ends = [".".join(parts[-count:]) for count in range(1, len(parts) + 1)]
        found[key] = next(
            (end for end in ends if sum(f".{other}".endswith(f".{end}") for other in keys) == 1 and end != SEED),
            ends[-1],
        )
    return found


def _short(value: str, values: Sequence[str]) -> str:
    """A class without its module and a file without its folders, where that tells it from the other values."""
    short = [_last(other) for other in values]
    return _last(value) if short.count(_last(value)) == 1 else value


def _last(value: str) -> str:
    if found := _CLASS_PATH.fullmatch(value):
        return found[1]
    return value.rstrip("/").rpartition("/")[2].removesuffix(".yaml") or value


def _safe(words: Sequence[str]) -> str:
    """A name for a folder: letters, digits and a few signs, that needs no quotes in a shell."""
    return "_".join(_UNSAFE.sub("-", word).strip("-.") for word in words)


def _told_apart(runs: Sequence[Planned]) -> list[Planned]:
    """The runs with a digest of their values in names that are too long, or that stand for several."""
    names = [run.name for run in runs]
    return [run if len(run.name) <= _LONGEST and names.count(run.name) == 1 else _with_digest(run) for run in runs]


def _with_digest(run: Planned) -> Planned:
    values = sorted(run.values.items())
    digest, of_values = _digest([values, run.seed]), _digest(values)
    return replace(
        run, name=f"{run.name[: _LONGEST - 9]}-{digest}", setting=f"{run.setting[: _LONGEST - 9]}-{of_values}"
    )


def _digest(content: Any) -> str:
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=4).hexdigest()
