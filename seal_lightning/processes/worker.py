"""A worker: a process of one thread beside this one, which makes an object and calls its methods.

`Worker` is its other end. It is a new Python, not a fork, since torch's threads do not survive one, and not one of
`multiprocessing`'s, which would run the user's script again. It ends with the process that started it, whatever that
one dies of: its standard input is a pipe whose end is noticed. Signals of the terminal and of a scheduler pass it by,
because the process that started it decides when work ends. What it logs is logged there.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from seal_lightning.errors import SealError
from seal_lightning.processes.allocator import keep_freed_memory
from seal_lightning.processes.streams import standard_streams

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # environment variables
NO_BARS = {"HF_HUB_DISABLE_PROGRESS_BARS": "1"}  # of libraries
PASSED_BY = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
STOP = b"s"  # on its standard input: the run is to stop
_stop_wanted = threading.Event()


class WorkerLostError(SealError):
    """A worker has died; the message says of what.

    Attributes:
        told: Whether whoever had given it some work is told.
    """

    told = False


@dataclass(frozen=True, slots=True)
class _Settings:
    """What a worker needs before it can unpickle anything."""

    levels: Mapping[str, int]  # of loggers, by name
    quiet: bool  # whether warnings of libraries are left out


@dataclass(frozen=True, slots=True)
class _Record:
    """A line for the log."""

    logger: str
    level: int
    text: str


def stop_wanted() -> bool:
    """In a worker: whether the run was asked to stop."""
    return _stop_wanted.is_set()


class Worker:
    """A process of one thread; its methods block, and are called by one thread at a time.

    Args:
        files: File numbers that it inherits.
    """

    def __init__(self, *, files: Sequence[int] = ()) -> None:
        self._pipe, theirs = Pipe()
        paths = os.pathsep.join(path for path in sys.path if path)
        command = [sys.executable, "-m", __name__, str(theirs.fileno())]
        self.process = subprocess.Popen(
            command,
            env={**os.environ, **ONE_THREAD, **NO_BARS, "PYTHONPATH": paths, "PYTHONSAFEPATH": "1"},
            stdin=subprocess.PIPE,
            pass_fds=(theirs.fileno(), *files),
            process_group=0,
        )
        theirs.close()

    def make(self, what: bytes) -> None:
        """Let it make its object by calling what was pickled. Raises as `call`."""
        named = {
            name: each for name, each in logging.root.manager.loggerDict.items() if isinstance(each, logging.Logger)
        }
        levels = {name: each.level for name, each in named.items() if each.level}
        quiet = not logging.getLogger("seal_lightning").isEnabledFor(logging.INFO)
        self._send(_Settings(levels, quiet))
        self._send(what)
        self._answer()

    def call(self, method: str, arguments: tuple[object, ...] | bytes) -> Any:
        """What a method of its object returns.

        Args:
            method: The name of the method.
            arguments: Its arguments, or a pickle of them.

        Raises:
            WorkerLostError: The worker has died.
            Exception: Whatever the method has raised.
        """
        self._send((method, arguments))
        return self._answer()

    def stop(self) -> None:
        """Tell it that the run is to stop; any thread may."""
        with suppress(OSError, ValueError):
            assert self.process.stdin is not None
            self.process.stdin.write(STOP)
            self.process.stdin.flush()

    def kill(self) -> None:
        """End it at once; any thread may."""
        self.process.kill()
        with suppress(OSError, ValueError):
            assert self.process.stdin is not None
            self.process.stdin.close()
        self.process.wait()

    def _send(self, message: object) -> None:
        try:
            self._pipe.send(message)
        except OSError as error:
            raise self._lost() from error

    def _answer(self) -> Any:
        while True:
            try:
                answer = self._pipe.recv()
            except (EOFError, OSError) as error:
                raise self._lost() from error
            if isinstance(answer, _Record):
                logging.getLogger(answer.logger).log(answer.level, "%s", answer.text)
                continue
            is_error, value = answer
            if is_error:
                raise value
            return value

    def _lost(self) -> WorkerLostError:
        code = self.process.wait()
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return WorkerLostError(f"it ended with {name}")


# -- in the worker -----------------------------------------------------------------------------------------------------


class _Forward(logging.Handler):
    """Sends log records to the process that started this one."""

    def __init__(self, send: Callable[[object], None]) -> None:
        super().__init__()
        self.send = send

    def emit(self, record: logging.LogRecord) -> None:
        self.send(_Record(record.name, record.levelno, record.getMessage()))


def main(pipe: Connection) -> None:
    """Do what is asked until the other end is gone."""
    for number in PASSED_BY:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True, name="seal-parent").start()
    sending = threading.Lock()  # log lines come from any thread

    def send(message: object) -> None:
        with sending:
            pipe.send(message)

    keep_freed_memory()
    with standard_streams(), suppress(EOFError, OSError):  # the other end is gone
        settings = pipe.recv()
        made = _tried(send, lambda: _made(pipe.recv(), settings))
        logging.getLogger("seal_lightning").addHandler(_Forward(send))  # what it is made of was spoken about
        while True:
            method, arguments = pipe.recv()
            _tried(send, lambda method=method, arguments=arguments: _called(made, method, arguments), answer=True)


def _made(what: bytes, settings: _Settings) -> object:
    """The object that is called from now on."""
    _be_as_quiet(settings)
    make = pickle.loads(what)
    _be_as_quiet(settings)  # again, since libraries set levels of their own when they are imported
    return make()


def _be_as_quiet(settings: _Settings) -> None:
    """Let libraries say here what they say in the process that has started this one."""
    if settings.quiet:
        warnings.simplefilter("ignore")
        logging.lastResort = logging.StreamHandler(sys.stderr)
        logging.lastResort.setLevel(logging.ERROR)
    for name, level in settings.levels.items():
        logging.getLogger(name).setLevel(level)


def _called(made: object, method: str, arguments: tuple[object, ...] | bytes) -> object:
    unpacked = pickle.loads(arguments) if isinstance(arguments, bytes) else arguments
    return getattr(made, method)(*unpacked)


def _tried(send: Callable[[object], None], work: Callable[[], Any], *, answer: bool = False) -> Any:
    """Do some work and send what came of it: that it is done, with what it returned as the answer, or its error."""
    try:
        value = work()
    except Exception as error:
        send((True, _sendable(error)))
        return None
    send((False, value if answer else None))
    return value


def _sendable(error: Exception) -> Exception:
    """The error, or one with its text where it does not survive the way."""
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")


def _end_with_parent() -> None:
    """In a thread: note that the run is to stop, and end with the process that has started this one."""
    while os.read(0, 1) == STOP:
        _stop_wanted.set()
    os._exit(0)


if __name__ == "__main__":
    from seal_lightning.processes import worker  # under its own name, by which its classes are pickled

    worker.main(Connection(int(sys.argv[1])))
