"""The settings that a run folder keeps, so that the run can be resumed, tested and read about.

`config.yaml` has all of them, `settings.yaml` what differs from the defaults; those of commands other than fit are in
`config-<command>.yaml` and `settings-<command>.yaml`.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import yaml
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from seal_lightning.errors import ConfigError
from seal_lightning.hooks import SEALCallback
from seal_lightning.options.parser import save_settings
from seal_lightning.text.redaction import safe_to_save
from seal_lightning.types import JsonObject

CHANGED = "what differs from the defaults in"
OTHERS = ("adapt", "continual")  # commands with folders of their own


class SaveConfigBesideRun(SaveConfigCallback, SEALCallback):
    """Writes the settings when the run begins: a run that is refused before leaves those that were there."""

    left_out: Mapping[str, str] = MappingProxyType({})  # options that cannot be written, with the reason

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Too early: nothing is checked yet."""

    def settings(self) -> JsonObject:
        """What `config.yaml` holds, as plain values without secrets."""
        return plain_settings(self.parser, self.config)

    def on_run_begin(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.is_global_zero:
            self.save_config(trainer, module, str(getattr(trainer.state.fn, "value", "")))

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        whole, changed = _names(stage)
        path = Path(trainer.default_root_dir) / whole
        without = f"  (without {', '.join(self.left_out)})" if self.left_out else ""
        self._write(path, f"seal {stage} --config {path}{without}")
        self._write(path.with_name(changed), f"{CHANGED} {whole}", skip_default=True)

    def _write(self, path: Path, header: str, *, skip_default: bool = False) -> None:
        save_settings(path, self._dumped(skip_default=skip_default), header=header)

    def _dumped(self, *, skip_default: bool) -> str:
        return self.parser.dump(self.config, skip_unset=False, skip_default=skip_default, format="yaml")


def plain_settings(parser: ArgumentParser, config: Namespace) -> JsonObject:
    """The options of a command as `config.yaml` has them."""
    return safe_to_save(yaml.safe_load(parser.dump(config, skip_unset=False, format="yaml")))


def check_folder(run: Path, command: str) -> None:
    """Refuse a run folder with the settings of anybody else, which would be overwritten or belong to other results.

    Raises:
        ConfigError: It is another command's folder, or a file has the name of ours and is not.
    """
    whole, changed = _names(command)
    where = f"trainer.default_root_dir={run}: expected a run's folder or a new one"
    if other := [name for name in OTHERS if _begins(run / "config.yaml", f"# seal {name} ")]:
        raise ConfigError(f"{where}, got one of seal {other[0]}: choose another")
    for name, header in ((whole, f"# seal {command} "), (changed, f"# {CHANGED} ")):
        if (run / name).exists() and not _begins(run / name, header):
            raise ConfigError(
                f"{where}, got one with a {name} that seal {command} did not write, and would overwrite: choose another"
            )


def _names(command: str) -> tuple[str, str]:
    suffix = "" if command == "fit" else f"-{command}"
    return f"config{suffix}.yaml", f"settings{suffix}.yaml"


def _begins(path: Path, header: str) -> bool:
    """Whether a file begins with our first line."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(header)) == header.encode()
