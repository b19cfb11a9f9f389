"""Checks the settings of all runs of a sweep in one process, before the first of them starts.

    python -m seal_lightning.commands.sweep.settings < command lines of seal fit > findings, both JSON

It has a process of its own because it takes torch and Lightning, which the sweep does without. Each command line goes
the way of `seal fit` up to the point where the run would begin: options are parsed, objects made, data read, and the
model looked for. Run folders that exist are compared with their settings. Nothing is written.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.accelerators.cuda import CUDAAccelerator

from seal_lightning.commands.fit import SEALCLI, run_command
from seal_lightning.errors import SealError
from seal_lightning.files.bounded_yaml import load_yaml
from seal_lightning.fit.run_folder import plain_settings
from seal_lightning.fit.stamp import is_noted
from seal_lightning.models.loading import check_source
from seal_lightning.options.mistakes import one_line, read_config_files
from seal_lightning.stamps.values import flat
from seal_lightning.types import Json, JsonObject

# Options that say where and how a run goes on, and do not make it another run.
NO_SETTING = ("ckpt_path", "config", "log_level", "trainer.default_root_dir", "weights_only")
# Options that make another run, whose figures must not be mixed with these; `seal fit` judges the others.
OF_FIGURES = ("model.", "data.", "filter.", "seed_everything")
FOUND_BY_CONTENT = "model.source."  # a fit's stamp identifies a model by its weights, wherever they are


class SettingsCLI(SEALCLI):
    """`seal fit` up to the point where the run would begin."""

    def run(self) -> None:
        """Nothing: the objects are made."""


def find(commands: Sequence[Sequence[str]]) -> dict[str, Any]:
    """The findings about each command line of `seal fit`.

    Returns:
        `runs`, with the `error` and `exit_code` of each that cannot start, or else what has `changed` against its run
        folder ([was, now] by name) and which `other` names make it another run; `gpus` to share out (empty if the runs
        use none); and `gpus_each`, how many a run needs.
    """
    runs: list[dict[str, Any]] = []
    gpus, seen = 0, set()
    for command in commands:
        try:
            cli = run_command(command, read_config_files(command), kind=SettingsCLI)
            settings = plain_settings(cli.command_parser, cli.options)  # as config.yaml would have them
            _look(cli, settings, seen)
            runs.append(_compared(Path(cli.trainer.default_root_dir), settings))
            gpus = max(gpus, gpus_of(cli))
        except SealError as error:
            runs.append({"error": str(error), "exit_code": error.exit_code})
        except MisconfigurationException as error:
            runs.append({"error": one_line(str(error)), "exit_code": 2})
    given = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    count = torch.cuda.device_count() if gpus else 0
    return {"runs": runs, "gpus": (given or [str(number) for number in range(count)])[:count], "gpus_each": gpus}


def gpus_of(cli: SEALCLI) -> int:
    """How many GPUs of its own a run needs; 0 if it uses none, or names them."""
    devices = cli.options.trainer.devices
    if not isinstance(cli.trainer.accelerator, CUDAAccelerator) or isinstance(devices, list):
        return 0
    count = str(devices)
    return int(count) if count.isdecimal() else 0 if "," in count else 1


def _look(cli: SEALCLI, settings: Mapping[str, Json], seen: set[str]) -> None:
    """Find the model and read the data, unless another run has the same; missing ones raise an error."""
    source, needs = cli.model.source, cli.model.e_step.plan.needs_queries
    for sought in (repr(source), json.dumps([settings["data"], needs], default=str)):
        if sought in seen:
            continue
        if sought == repr(source):
            check_source(source)
        else:
            cli.trainer.strategy.connect(cli.model)  # the data module asks which contexts need queries
            cli.datamodule.trainer = cli.trainer
            cli.datamodule.setup("fit")
        seen.add(sought)


def _compared(run: Path, settings: Mapping[str, Json]) -> dict[str, Any]:
    """The settings of a run compared with those that its folder was written with."""
    path = run / "config.yaml"
    if not path.is_file():
        return {"changed": {}, "other": []}
    try:
        written = load_yaml(path.read_text(encoding="utf-8", errors="replace"))
    except yaml.YAMLError:
        written = None
    before, now = _named(written if isinstance(written, dict) else {}), _named(json.loads(json.dumps(settings)))
    changed = {key: [before[key], now[key]] for key in before.keys() & now.keys() if before[key] != now[key]}
    other = [key for key, values in sorted(changed.items()) if _makes_another(key, values)]
    return {"changed": changed, "other": other}


def _named(settings: Mapping[str, Json]) -> JsonObject:
    """The settings by the names of options, without `init_args`."""
    named = {key.replace(".init_args.", "."): value for key, value in flat("", dict(settings)).items()}
    return {key: value for key, value in named.items() if key not in NO_SETTING}


def _makes_another(key: str, values: Sequence[object]) -> bool:
    if not key.startswith(OF_FIGURES) or key.startswith(FOUND_BY_CONTENT) or is_noted(key.removeprefix("model.")):
        return False
    return not all(isinstance(value, str) and Path(value).exists() for value in values)  # a file may have moved


if __name__ == "__main__":
    with redirect_stdout(sys.stderr):  # what libraries say
        findings = find(json.load(sys.stdin))
    print(json.dumps(findings))
