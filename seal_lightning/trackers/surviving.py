"""A tracker that fails (no network, a server that went down) does not end the run: it is told nothing more.

What it misses is in the run folder: the journal, tables, and the other loggers' files. A full disk is another matter,
and stops the run as anywhere else.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partialmethod

from lightning.pytorch.loggers import Logger

from seal_lightning.errors import SealError, reason_of
from seal_lightning.files.saving import disk_error
from seal_lightning.text.escaping import shortened
from seal_lightning.text.redaction import masked

log = logging.getLogger(__name__)

CALLS = ("log_metrics", "log_hyperparams", "log_graph", "save", "after_save_checkpoint", "finalize")


def protect(logger: Logger) -> None:
    """Keep what goes wrong in the logger from Lightning, which calls it, until `unprotect`."""
    logger.__class__ = _protected(type(logger))


def unprotect(logger: Logger) -> None:
    """Make the logger what it was before `protect`."""
    logger.__class__ = type(logger).__bases__[0]
    vars(logger).pop("_lost", None)


def is_lost(logger: Logger) -> bool:
    """Whether a logger has failed in this run."""
    return getattr(logger, "_lost", False)


@contextmanager
def surviving(logger: Logger) -> Iterator[None]:
    """A block of work for a logger; where that fails, a line says so, and nothing more is asked of it.

    Raises:
        SealError: An error of this package, which is not the tracker's fault.
        OSError: The disk is full or broken.
    """
    try:
        yield
    except Exception as error:  # of any library, and of any logger of a user's
        if isinstance(error, SealError) or disk_error(error) is not None:
            raise
        vars(logger)["_lost"] = True
        reason = masked(shortened(f"{type(error).__name__}: {reason_of(error)}", 300))
        log.debug("the tracker's traceback", exc_info=error)
        log.warning(
            "%s: %s: the run goes on without it; everything is in the run folder", type(logger).__name__, reason
        )


def _protected(kind: type[Logger]) -> type[Logger]:
    """A class of loggers, as they are during a run."""

    class Protected(kind):  # within a function, so that the command line does not take it for another logger
        pass

    def call(self: Logger, *args: object, called: str, **options: object) -> object:
        if is_lost(self):
            return None
        with surviving(self):
            return getattr(kind, called)(self, *args, **options)

    for name in CALLS:
        setattr(Protected, name, partialmethod(call, called=name))
    Protected.__name__ = kind.__name__
    return Protected
