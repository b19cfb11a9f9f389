"""What a given run's settings may choose on this machine: numbers, names of our own classes, prompts.

The command line and the files of `--config` are the user's own and may name any class. The run of `--policy` may be
anybody's, so its settings are data: they choose no code, server, environment variable or path, unless the command line
says `--trust_policy`. This is decided before the settings reach a parser, which imports what they name. Whatever is not
known to be harmless is refused: a new option that takes a text has to be added to `TEXTS` or `NAMES`.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

from seal_lightning.endpoints import Endpoint
from seal_lightning.errors import ConfigError
from seal_lightning.models.loading import SHIPPED
from seal_lightning.models.source import ModelSource
from seal_lightning.options.mistakes import one_line
from seal_lightning.text.redaction import REFERENCE

FLAG = "--trust_policy"
# Our options with a text that only a model reads, or that is read as names of layers whatever it says.
TEXTS = {
    ("EditKind", "instruction"),
    ("EditKind", "lead"),
    ("EditKind", "system"),
    ("ArcTask", "instruction"),
    ("Rubric", "criteria"),
    ("ModelSource", "template_args"),
    ("InnerLoop", "layers"),
}
# Our options with one of the names that they list or know.
NAMES = {
    ("SEALModule", "grader"),
    ("SEALModule", "reward"),
    ("Weighted", "term"),
    ("Knowledge", "edit"),
    ("Knowledge", "kinds"),
    ("EditKind", "name"),
    ("QueryWriter", "edit"),
    ("ArcTask", "grids"),
    ("InnerLoop", "objective"),
    ("InnerLoop", "target_modules"),
    ("PolicyTuning", "target_modules"),
    ("Generator", "target_modules"),
    ("MStep", "objective"),
    ("ModelSource", "date"),
    ("ModelSource", "revision"),
}
ATTENTIONS = ("eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3")  # others come from the hub
_NAME = re.compile(r"[\w.-]{0,100}")
_PLAIN = re.compile(r"[\w-]{0,100}")  # a name with dots would be a class
_REVISION = re.compile(r"[\w./-]{0,200}")
_HUB = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_ROOMS = "tasks|sampling|grading|e_step|inner_loop|m_step|models|generator"
_OURS = re.compile(rf"seal_lightning(\.({_ROOMS})(\.[a-z]\w*)*)?")


MOST = 1_000_000  # of anything but a seed: larger numbers would let a stranger's run block this machine
CODE, PLACE, SERVER, OTHER, HUGE = (
    "names code",
    "names a path on this machine",
    "names a server or a key",
    "is not known here",
    f"is not a number up to {MOST:,}",
)


@dataclass(frozen=True, slots=True)
class Wish:
    """A value in a run's settings that only the user may choose."""

    option: str  # full name, such as `model.grader`
    value: str  # for messages
    reason: str  # why the run may not choose it

    def is_given(self, options: Iterable[str]) -> bool:
        """Whether the user has replaced it by setting one of these options."""
        return any(f"{self.option}.".startswith(f"{option.removesuffix('.class_path')}.") for option in options)


def allowed_settings(
    settings: Mapping[str, object], kind: type, *, run: Path, given: Iterable[str], trusted: bool, origin: str
) -> dict[str, object]:
    """The settings of a run without the wishes that the user has replaced.

    Args:
        settings: The run's options of `model`, as in its `config.yaml`.
        kind: The class whose options these are: `SEALModule`.
        run: The run's folder.
        given: Full names of the options that the user has set.
        trusted: Whether this command line allows whatever the run names.
        origin: The option that names the run, with its value.

    Raises:
        ConfigError: The run asks for something that it may not choose.
    """
    kept = dict(settings)
    if trusted:
        return kept
    own = [option for option in (option.replace(".init_args", "") for option in given) if option.count(".")]
    left = []
    for wish in wishes(settings, kind, run=run):
        if wish.is_given(own):
            kept = _without(kept, wish.option.split(".")[1:])
        else:
            left.append(wish)
    if left:
        raise ConfigError(_refusal(left, run, origin))
    return kept


def _refusal(refused: list[Wish], run: Path, origin: str) -> str:
    first = refused[0]
    return (
        f"{origin}: {first.option}: {first.value} in {run / 'config.yaml'} {first.reason}, which a run may not "
        f"choose{also_refused(refused)}: set --{first.option} yourself, or add {FLAG} if you trust whoever made the run"
    )


def also_refused(wishes: list[Wish]) -> str:
    """The options after the first one, in brackets; empty where there are none."""
    others = [wish.option for wish in wishes[1:]]
    return f" (so does {', '.join(others[:4])}{' and others' if len(others) > 4 else ''})" if others else ""


def _without(settings: Mapping[str, object], parts: list[str]) -> dict[str, object]:
    """The settings without an option, which is named without `init_args`."""
    kept, inner = dict(settings), settings.get("init_args")
    if isinstance(inner, Mapping) and parts[0] not in kept:
        return kept | {"init_args": _without(inner, parts)}
    section = kept.pop(parts[0], None)
    if len(parts) > 1 and section is not None:
        kept[parts[0]] = _without(section, parts[1:]) if isinstance(section, Mapping) else section
    return kept


# -- what is asked for -------------------------------------------------------------------------------------------------


def wishes(settings: Mapping[str, object], kind: type, *, run: Path) -> list[Wish]:
    """What a run's options of `model`, an object of the class `kind`, ask for that only the user may choose."""
    return list(_of_class("model", settings, kind, run))


def wishes_of_chosen(option: str, value: Mapping[str, object], kind: type, *, run: Path) -> list[Wish]:
    """What a `class_path` with its `init_args`, a `kind`, asks for that only the user may choose."""
    return list(_of_chosen(option, value, [kind], run))


def _of_class(option: str, values: object, kind: type, run: Path) -> Iterator[Wish]:
    """Wishes among the options of one of our classes."""
    if not isinstance(values, Mapping):
        if values is not None:
            yield Wish(option, _shown(values), OTHER)
        return
    hints = get_type_hints(kind.__init__)
    for name, value in values.items():
        inner = f"{option}.{name}"
        yield from _of_source(inner, name, value, run) if kind is ModelSource else ()
        if (kind.__name__, name) == ("Endpoint", "request") and value:
            yield Wish(inner, _shown(value), SERVER)
        elif not (kind is ModelSource and name in _SOURCE):
            yield from _of_value(inner, value, (kind, str(name)), hints.get(str(name)), run)


def _of_value(option: str, value: object, owner: tuple[type, str], hint: object, run: Path) -> Iterator[Wish]:
    """Wishes in the value of an option, judged by its declared type."""
    if isinstance(value, Mapping):
        kinds = _classes(hint)
        if "class_path" in value:
            yield from _of_chosen(option, value, kinds, run)
        elif kinds and not any(get_origin(choice) is dict for choice in get_args(hint)):
            yield from _of_class(option, value, kinds[0], run)
        else:
            for key, inner in value.items():
                if not _is_harmless(str(key), owner, hint if kinds else None):
                    yield Wish(option, _shown(value), CODE if kinds else OTHER)
                yield from _of_value(f"{option}.{key}", inner, owner, None, run)
    elif isinstance(value, list | tuple):
        of_items = next((get_args(inner)[0] for inner in get_args(hint) if get_origin(inner) is list), hint)
        for inner in value:
            yield from _of_value(option, inner, owner, of_items, run)
    elif isinstance(value, str) and not _is_harmless(value, owner, hint):
        of_server = owner[0] is Endpoint or value.startswith(REFERENCE)
        reason = SERVER if of_server else OTHER if hint is None else CODE if _classes(hint) else PLACE
        yield Wish(option, _shown(value), reason)
    elif isinstance(value, int | float) and owner[1] != "seed" and not abs(value) <= MOST:
        yield Wish(option, _shown(value), HUGE)
    elif value is not None and not isinstance(value, str | int | float):
        yield Wish(option, _shown(value), OTHER)


def _of_chosen(option: str, value: Mapping[str, object], kinds: list[type], run: Path) -> Iterator[Wish]:
    """Wishes in a `class_path` and its `init_args`."""
    path = value.get("class_path")
    if (chosen := _our_class(path, kinds)) is None:
        reason = SERVER if path == "seal_lightning.endpoints.Endpoint" else CODE  # the path that a fit saves
        yield Wish(option, f"class_path {one_line(str(path), 100)}", reason)
        return
    for name in sorted(map(str, value.keys() - {"class_path", "init_args"})):
        yield Wish(f"{option}.{name}", _shown(value[name]), OTHER)
    yield from _of_class(option, value.get("init_args"), chosen, run)


def _our_class(path: object, kinds: list[type]) -> type | None:
    """The class of this package that the option may be; nothing else is looked for, let alone imported."""
    module, _, name = str(path).rpartition(".")
    if not _OURS.fullmatch(module):
        return None
    try:
        chosen = getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None
    if not isinstance(chosen, type) or not chosen.__module__.startswith("seal_lightning."):
        return None
    return chosen if issubclass(chosen, tuple(kinds)) else None


def _classes(hint: object) -> list[type]:
    """The classes of this package that a declared type allows."""
    return [
        kind
        for kind in (hint, *get_args(hint))
        if inspect.isclass(kind) and kind.__module__.startswith("seal_lightning.")
    ]


_SOURCE = ("name", "gguf_file", "attention", "quantization", "trust_remote_code")
_QUANTIZATION = re.compile(r"4bit|8bit|(load_in|bnb_4bit|llm_int8)_\w+")


def _of_source(option: str, name: str, value: object, run: Path) -> Iterator[Wish]:
    """Wishes in an option of the base model that has a rule of its own."""
    if name == "trust_remote_code" and value not in (False, None):
        yield Wish(option, _shown(value), "runs code of the model's repository")
    elif name == "attention" and value is not None and value not in ATTENTIONS:
        yield Wish(option, _shown(value), CODE)
    elif name == "name" and not _is_model_name(value, run):
        yield Wish(option, _shown(value), PLACE)
    elif name == "quantization" and value is not None:
        words = map(str, value) if isinstance(value, Mapping) else [str(value)]  # the keys, or the text instead
        if not all(map(_QUANTIZATION.fullmatch, words)):
            yield Wish(option, _shown(value), OTHER)
    elif name == "gguf_file" and value is not None and not _NAME.fullmatch(str(value)):
        yield Wish(option, _shown(value), PLACE)


def _is_model_name(name: object, run: Path) -> bool:
    """Whether it is a model of ours, one on the hub, or a folder within the run."""
    text = str(name)
    if text in SHIPPED or re.fullmatch(r"random/\w+", text):
        return True
    place = Path(text).expanduser()
    if place.exists():
        return place.resolve().is_relative_to(run.resolve())
    return bool(_HUB.fullmatch(text)) and not text.endswith((".gguf", ".bin", ".pt"))


def _is_harmless(value: str, owner: tuple[type, str], hint: object) -> bool:
    keys = {(kind.__name__, owner[1]) for kind in owner[0].__mro__}
    if value.startswith(REFERENCE):
        return False
    if keys & TEXTS or value in _literals(hint):
        return True
    pattern = _REVISION if owner[1] == "revision" else _PLAIN if _classes(hint) else _NAME
    return bool(keys & NAMES) and bool(pattern.fullmatch(value))


def _literals(hint: object) -> list[object]:
    """The literal values that a declared type allows."""
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    return [value for inner in get_args(hint) for value in _literals(inner)]


def _shown(value: object) -> str:
    return one_line(value if isinstance(value, str) else json.dumps(value, default=str), 100)
