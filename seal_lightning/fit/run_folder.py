"""The run folder of a trainer (`default_root_dir`): whose it is, its settings, and what is said when its disk is full.

`config.yaml` has all settings, `settings.yaml` what differs from the defaults; those of commands other than fit are in
`config-<command>.yaml` and `settings-<command>.yaml`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType

import yaml
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from seal_lightning.errors import ConfigError, SealError, Stopped
from seal_lightning.files.ownership import owning
from seal_lightning.files.saving import cannot_save, disk_error
from seal_lightning.fit.processes import RunProcesses
from seal_lightning.hooks import RunTrainer, SEALCallback
from seal_lightning.options.parser import save_settings
from seal_lightning.text.redaction import safe_to_save
from seal_lightning.types import JsonObject

CHANGED = "what differs from the defaults in"
OTHERS = ("adapt", "continual")  # commands with folders of their own


class RunFolder:
    """The folder with everything of a run, which its processes share."""

    def __init__(self, trainer: RunTrainer, processes: RunProcesses) -> None:
        self.trainer = trainer
        self.processes = processes
        self.path = trainer.default_root_dir  # a `fast_dev_run` lies elsewhere while it works
        self.follows_first = False  # whether to take the folder that the first rank has chosen
        self._refusal: ConfigError | None = None  # of this rank, until all ranks know of it

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Within it the folder is this run's alone; the first rank sees to it.

        Raises:
            FolderInUse: Another run owns it. Where ranks were started by others (torchrun, srun), all of them raise it
                once they have found each other (`share_refusal`), since no rank would end for another's sake.
        """
        trainer = self.trainer
        with ExitStack() as stack:
            stack.enter_context(self._scratch())
            run = trainer.default_root_dir
            if trainer.is_global_zero and self._refusal is None:
                try:
                    stack.enter_context(owning(Path(run), option=f"trainer.default_root_dir={run}"))
                except ConfigError as error:
                    environment = getattr(trainer.strategy, "cluster_environment", None)
                    ranks_start_themselves = environment is not None and environment.creates_processes_externally
                    if trainer.world_size == 1 or not ranks_start_themselves:
                        raise
                    self._refusal = error
            try:
                yield
            finally:
                self._refusal = None

    @contextmanager
    def _scratch(self) -> Iterator[None]:
        """A `fast_dev_run` works in a folder that is gone afterwards, each rank in its own."""
        if not self.trainer.fast_dev_run or self.trainer.default_root_dir != self.path:
            yield
            return
        with tempfile.TemporaryDirectory(prefix="seal-fast-dev-run-", ignore_cleanup_errors=True) as folder:
            self._work_in(folder)
            try:
                yield
            finally:
                self._work_in(self.path)

    def _work_in(self, folder: str) -> None:
        vars(self.trainer)["_default_root_dir"] = folder  # what Lightning's property reads, which has no setter

    def share_refusal(self) -> None:
        """Raise on every rank what the first one has met at the folder, or take that folder; a collective."""
        if self.trainer.world_size == 1:
            return
        heard = self.processes.ranks.gather((self._refusal, str(self.trainer.default_root_dir)))
        for refusal, _ in heard:
            if refusal is not None:
                raise refusal
        if self.follows_first:
            self.path = heard[0][1]
            self._work_in(self.path)


@contextmanager
def naming_disk(trainer: RunTrainer) -> Iterator[None]:
    """Name the run folder in errors about a disk.

    What loggers say about one names no file, and closing them on a full one hides what stopped the run before.

    Raises:
        SavingError: The run folder cannot be written to.
    """
    try:
        yield
    except Exception as error:
        cause = None if isinstance(error, SealError) else disk_error(error)
        if cause is None:
            raise
        if (first := _first_reason(error)) is not None:
            raise first from error
        if cause.filename is not None:
            raise
        raise cannot_save(trainer.default_root_dir, cause) from error


def _first_reason(error: BaseException) -> SealError | Stopped | None:
    """The error of ours that another one came up after; None where there is none."""
    context = error.__context__
    if context is None or isinstance(context, SealError | Stopped):
        return context
    return _first_reason(context)


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
        headers = {path: f"seal {stage} --config {path}{without}", path.with_name(changed): f"{CHANGED} {whole}"}
        for file, header in headers.items():
            text = self.parser.dump(self.config, skip_unset=False, skip_default=file is not path, format="yaml")
            save_settings(file, text, header=header)


def plain_settings(parser: ArgumentParser, config: Namespace) -> JsonObject:
    """The options of a command as `config.yaml` has them."""
    return safe_to_save(yaml.safe_load(parser.dump(config, skip_unset=False, format="yaml")))


def check_folder(run: Path, command: str) -> None:
    """Refuse a run folder with the settings of anybody else, which would be overwritten or belong to other results.

    Raises:
        ConfigError: Another command's folder, or a file that has the name of ours and is not ours.
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
