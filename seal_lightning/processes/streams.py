"""Standard input, output and error of a command: nothing foreign acts on a terminal, a broken one ends no run.

Everything that a command and its libraries print passes through `Stream`, where control characters become visible
(`escaping`), secrets of this process are masked (`redaction`), and what the terminal's encoding lacks is spelled out.
Colours and bars of our own go through `Stream.trusted`, with foreign text made visible beforehand (`screen.py`).

Standard output holds results: where it cannot be written, the command goes on, since its files matter more, and fails
at its end. Standard error is talk, and may go missing. A stream that was closed before the start is as /dev/null.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from seal_lightning.text.escaping import single_line, visible
from seal_lightning.text.redaction import masked

_BETWEEN_BARS = re.compile(r"[\r\n]*(?:\x1b\[A)*\r?")  # what tqdm writes to get from one bar to another


class Stream:
    """A text stream that makes what is written to it harmless, and notes that it is broken instead of raising.

    Args:
        raw: What it writes to; the rest of its interface is that of this one.

    Attributes:
        failure: The first error in writing, or None.
    """

    def __init__(self, raw: TextIO) -> None:
        self.raw = raw
        self.failure: OSError | None = None

    @property
    def trusted(self) -> Trusted:
        """The same stream for what may hold escape sequences: bars and colours."""
        return Trusted(self)

    def write(self, text: str) -> int:
        self.send(_harmless(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        try:
            self.raw.flush()
        except OSError as error:
            self.failure = self.failure or error

    def send(self, text: str) -> None:
        """Write the text as it is, but for characters that the encoding lacks."""
        encoding = getattr(self.raw, "encoding", None) or "utf-8"
        try:
            self.raw.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except OSError as error:
            self.failure = self.failure or error
        except RuntimeError as error:  # a signal came while this very stream was being written
            if "reentrant" not in str(error):
                raise
            with suppress(OSError):
                os.write(self.raw.fileno(), text.encode(encoding, "backslashreplace"))

    def finish(self) -> None:
        """Write out what is left; of a broken stream it goes nowhere, so that Python does not stumble over it later."""
        self.flush()
        if self.failure is None:
            return
        with suppress(OSError, ValueError, AttributeError):  # of a stream without a file, such as a test's
            empty = os.open(os.devnull, os.O_WRONLY)
            os.dup2(empty, self.raw.fileno())
            os.close(empty)
            self.raw.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)


class Trusted:
    """A `Stream` without its escaping."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.send(text)
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream.raw, name)


class LineFormatter(logging.Formatter):
    """A log record as one line, whatever is in its message; only a traceback follows on lines of its own."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return single_line(super().formatMessage(record))


@contextmanager
def standard_streams() -> Iterator[Stream]:
    """Within it sys.stdout, which is yielded, and sys.stderr are a `Stream` each, and sys.stdin is a stream too.

    At the end they are written out and put back.
    """
    before = sys.stdin, sys.stdout, sys.stderr
    if sys.stdin is None:
        sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    out = Stream(sys.stdout or os.fdopen(1, "w", encoding="utf-8", closefd=False))
    err = Stream(sys.stderr or os.fdopen(2, "w", encoding="utf-8", closefd=False))
    sys.stdout, sys.stderr = out, err
    try:
        yield out
    finally:
        out.finish()
        err.finish()
        sys.stdin, sys.stdout, sys.stderr = before


def open_closed() -> None:
    """/dev/null in place of a standard stream that is closed, before the next file that is opened becomes it.

    Others are waited for, also where a process that shares them has set them not to be.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, which is this one
            os.set_inheritable(number, True)
        else:
            os.set_blocking(number, True)  # else what a slow reader has not taken yet would count as lost


def last_words(text: str) -> None:
    """One line on standard error from a signal handler, past all buffers; lost where nobody can read it now."""
    import select  # of use here alone, at the very end

    with suppress(OSError, ValueError):
        if select.select([], [2], [], 0)[1]:
            os.write(2, f"{single_line(text)}\n".encode(errors="replace"))


def _harmless(text: str) -> str:
    if _BETWEEN_BARS.fullmatch(text):
        return text
    text = masked(text)
    if text.startswith("\r") and not text.startswith("\r\n"):  # a bar is drawn over itself
        return "\r" + visible(text[1:])
    return visible(text)
