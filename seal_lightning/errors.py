"""Errors that a user can act on: one line that says what is wrong, where, what was expected and what to do.

`exit_code` is what the command line returns: 2 for usage, configuration and data, 1 for a failure while running.
Every class also derives from the standard error of its kind, so that callers can catch the errors they know.
"""

from __future__ import annotations

RESUME = "finished units are in the journal, resume with --ckpt_path last"


class SealError(Exception):
    """The base of all errors that the command line prints as one line, without a traceback."""

    exit_code = 1


class ConfigError(SealError, ValueError):
    """An option's value cannot work; the message names the option."""

    exit_code = 2


class DataError(SealError, ValueError):
    """A data file or a row of it cannot be used; the message names file, row and field."""

    exit_code = 2


class ModelError(SealError, ValueError):
    """A model or tokenizer cannot be loaded or does not fit the data."""

    exit_code = 2


class JournalError(SealError, RuntimeError):
    """A journal cannot be read or written."""


class StaleJournalError(JournalError):
    """A journal was written with settings other than this run's."""

    exit_code = 2


class CheckpointError(SealError, RuntimeError):
    """A checkpoint or an exported policy cannot be written."""


class RetryableError(SealError, RuntimeError):
    """A unit of work failed for a reason that may have passed when it is tried again."""


class GradingError(RetryableError):
    """A grader failed; the unit of work is left unscored, never given a reward of 0."""


class EndpointError(RetryableError):
    """An endpoint stopped answering, even after retries; the answers it did give are kept."""


class HubError(SealError, RuntimeError):
    """An upload failed; the local files are intact, and the message says how to repeat the upload."""


class UnitError(SealError, RuntimeError):
    """A unit of work failed wherever it was tried; the message names the unit and its contexts."""


class NoMemoryError(SealError, MemoryError):
    """Memory does not suffice even for the smallest batch; the message says what to lower."""


class DivergedError(SealError, ArithmeticError):
    """The policy has weights that are not finite; what was saved earlier is kept, not overwritten."""


class BySignal(SystemExit):
    """A signal ends the command.

    Args:
        number: Number of the signal; the exit code is 128 higher.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number


class Stopped(BySignal):
    """A signal asked the run to stop, and it did so after a unit or an optimizer step, with everything kept."""


class Ended(BySignal):
    """A signal ended the command at once: it came outside a run's work, or a second time."""


def reason_of(error: BaseException) -> str:
    """What went wrong, in one line; system errors lose their number and file, which our messages name."""
    return getattr(error, "strerror", None) or " ".join(str(error).split())


def misread(error: BaseException) -> str:
    """Why the content of a file cannot be used, in one line about the file instead of the code that read it."""
    if isinstance(error, KeyError):
        return f"{error.args[0]} is missing"
    if isinstance(error, TypeError | AttributeError | IndexError | RecursionError):
        return "its content has another form"
    return reason_of(error)[:120]


def check_count(name: str, value: object, *, least: int = 1, advice: str = "") -> int:
    """The value of an option that counts something.

    Raises:
        ConfigError: The value is not a whole number, or below `least`; the message ends with the advice.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        advice = advice or f"use {least} or more"
        raise ConfigError(f"{name} must be a whole number of at least {least}, got {value!r}: {advice}")
    return value
