"""Errors a user can act on. Each message says what, where, what was expected and what to do, in one line.

`exit_code` is what the command line returns: 2 for usage, configuration and data, 1 for a failure while running.
Every class also subclasses the standard error of its kind, so that library users can catch what they know.
"""

from __future__ import annotations

RESUME = "finished units are in the journal, resume with --ckpt_path last"


class SealError(Exception):
    """Base of all errors that the command line prints as one line without a traceback."""

    exit_code = 1


class ConfigError(SealError, ValueError):
    """An option has a value that cannot work; the message names the option."""

    exit_code = 2


class DataError(SealError, ValueError):
    """A data file or one of its rows cannot be used; the message names file, row and field."""

    exit_code = 2


class ModelError(SealError, ValueError):
    """A model or tokenizer cannot be loaded or does not fit the data."""

    exit_code = 2


class JournalError(SealError, RuntimeError):
    """A journal cannot be read or written."""


class StaleJournalError(JournalError):
    """A journal was written with other settings than this run's."""

    exit_code = 2


class CheckpointError(SealError, RuntimeError):
    """A checkpoint or an exported policy cannot be written."""


class RetryableError(SealError, RuntimeError):
    """A unit of work failed for a reason that may be gone when it is tried again."""


class GradingError(RetryableError):
    """A grader failed; the unit of work is not scored (never a reward of 0)."""


class EndpointError(RetryableError):
    """An endpoint did not answer, however often it was asked; what it did answer is kept."""


class HubError(SealError, RuntimeError):
    """An upload failed; what was to be uploaded is whole, and the message says how to repeat it."""


class UnitError(SealError, RuntimeError):
    """A unit of work failed wherever it was tried; the message names it and its contexts (never a reward of 0)."""


class NoMemoryError(SealError, MemoryError):
    """Memory does not suffice, however little is worked on at a time; the message says what to lower."""


class DivergedError(SealError, ArithmeticError):
    """The policy is not finite any more; what was saved before is kept, and is not replaced by it."""


class BySignal(SystemExit):
    """A signal ends the command.

    Args:
        number: Of the signal; the exit code is 128 more.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number


class Stopped(BySignal):
    """A signal asked the run to stop, and it did: at a unit's or an optimizer step's end, with everything kept."""


class Ended(BySignal):
    """A signal ended the command where it stood: outside of a run's work, or because it came again."""


def reason_of(error: BaseException) -> str:
    """What went wrong, in one line: of the system's errors without number and file, which our messages name."""
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
        ConfigError: It is no whole number of at least `least`; the message ends with the advice.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        advice = advice or f"use {least} or more"
        raise ConfigError(f"{name} must be a whole number of at least {least}, got {value!r}: {advice}")
    return value
