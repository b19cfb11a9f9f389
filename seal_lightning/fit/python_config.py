"""The configuration of a run that was started from Python, as the same command would have written it.

The constructors' arguments of trainer, module, data module and callbacks go through the command's own parser, which
knows the defaults and what is accepted. What cannot be written as YAML is left out, and named.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from lightning.pytorch import Callback, Trainer

from seal_lightning.errors import ConfigError
from seal_lightning.fit.base import FitTrainer
from seal_lightning.fit.module import SEALModule
from seal_lightning.fit.parser import parse_settings
from seal_lightning.fit.restoring import written_arguments
from seal_lightning.fit.run_callbacks import SINGLE
from seal_lightning.fit.run_folder import SaveConfigBesideRun
from seal_lightning.stamps.arguments import given_arguments
from seal_lightning.stamps.settings import NotPlain, class_path, plain
from seal_lightning.types import Json


class Settings:
    """Nested plain values, and the options that could not be written as such."""

    def __init__(self) -> None:
        self.values: dict[str, dict[str, Any]] = {}  # by section
        self.left_out: dict[str, str] = {}  # reasons why options are not there, by their full names

    def plain(self, option: str, value: object) -> Iterator[Any]:
        """The value of an option, if it can be written."""
        try:
            yield plain(value)
        except NotPlain as error:
            self.left_out[option] = str(error)

    def add(self, section: str, name: str, value: object) -> None:
        """An option; of a list of the trainer's objects, such as callbacks, those that can be written."""
        option, items = f"{section}.{name}", value if section == "trainer" and isinstance(value, list | tuple) else ()
        if not all(isinstance(item, int | float | str) for item in items):
            kept = [item for place, each in enumerate(items) for item in self.plain(f"{option}[{place}]", each)]
            found = [kept] if kept else []
        else:
            found = self.plain(option, value)
        for written in found:
            self.values.setdefault(section, {})[name] = written


def trainer_settings(trainer: FitTrainer) -> Settings:
    """Settings of a trainer just made; later, Lightning's callbacks hold what a run has made of their arguments."""
    settings = Settings()
    arguments = given_arguments(trainer)
    given = arguments.pop("callbacks", None) or []
    grouped = (*SINGLE.values(), SaveConfigBesideRun)
    own = [one for one in ([given] if isinstance(given, Callback) else given) if not isinstance(one, grouped)]
    for name, value in {**arguments, **({"callbacks": own} if own else {})}.items():
        settings.add("trainer", name, value)
    for section, kind in SINGLE.items():
        for callback in trainer.callbacks:
            if isinstance(callback, kind):
                settings.values.update((section, written) for written in settings.plain(section, callback))
    return settings


def config_of(
    trainer: FitTrainer, module: SEALModule, given: Settings, *, options_of: type[Trainer], ckpt_path: str | None
) -> SaveConfigBesideRun:
    """What writes the configuration of a run; `left_out` names what is missing from it.

    `given` are the settings of the trainer when it was made, `options_of` is the class of the command's trainer.
    """
    data, command = trainer.datamodule, str(getattr(trainer.state.fn, "value", ""))
    settings = Settings()
    settings.values = {name: dict(section) for name, section in given.values.items()}
    settings.left_out = dict(given.left_out)
    settings.values.setdefault("trainer", {})["default_root_dir"] = str(trainer.default_root_dir)
    kind = type(module)
    try:
        class_path(kind)
    except NotPlain as error:
        settings.left_out["model.class_path"], kind = str(error), SEALModule
    for name, value in written_arguments(module).items():
        settings.add("model", name, value)
    for name, value in given_arguments(data).items():
        settings.add("data", name, value)
    arguments = settings.values.pop("data", {})
    try:
        settings.values["data"] = {"class_path": class_path(type(data)), "init_args": arguments}
    except NotPlain as error:
        settings.left_out["data"] = str(error)
    others: dict[str, Any] = {"ckpt_path": ckpt_path}
    if (seed := os.environ.get("PL_GLOBAL_SEED", "")).isdigit():
        others["seed_everything"] = int(seed)
    return accepted(command, kind, settings, others, options_of)


def accepted(
    command: str, kind: type[SEALModule], settings: Settings, others: Mapping[str, Json], trainer: type[Trainer]
) -> SaveConfigBesideRun:
    """What the command's parser takes of the settings; one option after another where it does not take all."""

    def parsed(values: Mapping[str, Json]) -> SaveConfigBesideRun:
        return SaveConfigBesideRun(
            *parse_settings(command, kind, {**others, **values}, trainer=trainer), save_to_log_dir=False
        )

    try:
        writer = parsed(settings.values)
    except ConfigError:
        kept: dict[str, Any] = {}
        for section, values in settings.values.items():
            whole = section in SINGLE or "class_path" in values
            for name, value in {"": values}.items() if whole else values.items():
                tried = {**kept, section: values if whole else {**kept.get(section, {}), name: value}}
                try:
                    parsed(tried)
                    kept = tried
                except ConfigError as error:
                    settings.left_out[f"{section}.{name}".removesuffix(".")] = str(error)
        writer = parsed(kept)
    writer.left_out = settings.left_out
    return writer
