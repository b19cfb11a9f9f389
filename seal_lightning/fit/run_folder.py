"""The run folder of a trainer (`default_root_dir`): whose it is, and what is said when its disk is full."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from seal_lightning.errors import ConfigError, SealError, Stopped
from seal_lightning.files.ownership import owning
from seal_lightning.files.saving import cannot_save, disk_error
from seal_lightning.fit.processes import RunProcesses
from seal_lightning.hooks import RunTrainer


class RunFolder:
    """The folder with everything of a run.

    Args:
        trainer: The trainer, whose `default_root_dir` it is.
        processes: The processes of the run, which share it.

    Attributes:
        path: Its path; that of a `fast_dev_run` lies elsewhere while it works.
        follows_first: Whether to take the folder that the first rank has chosen.
    """

    def __init__(self, trainer: RunTrainer, processes: RunProcesses) -> None:
        self.trainer = trainer
        self.processes = processes
        self.path = trainer.default_root_dir
        self.follows_first = False
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
