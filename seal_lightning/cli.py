"""The `seal` command: looks the command up in `commands/names.py`, runs its module, and puts its errors into one line.

Exit codes: 0 done, 1 a failure, 2 usage, configuration or data, 130 interrupted, 143 terminated. `--log_level debug`
adds the traceback. Heavy libraries are imported only once a command needs them, so that `seal --help`, `seal --version`
and a missing config file answer at once; and little is imported before signals are handled (`processes/stopping.py`)
and the standard streams are in order (`processes/streams.py`).
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from importlib import import_module
from itertools import pairwise

from seal_lightning import __version__
from seal_lightning.commands.names import COMMANDS, GROUPS, help_text
from seal_lightning.errors import BySignal, ConfigError, Ended, SealError
from seal_lightning.files.saving import FULL_OR_BROKEN, SavingError, cannot_save, disk_error
from seal_lightning.files.shipped import with_shipped_configs
from seal_lightning.processes.allocator import gpu_settings, keep_freed_memory
from seal_lightning.processes.stopping import ended_by_signals, work_begins
from seal_lightning.processes.streams import LineFormatter, last_words, open_closed, standard_streams
from seal_lightning.text.escaping import single_line

TALKATIVE = ("info", "debug")  # levels of the log at which libraries speak, too


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code.

    Args:
        argv: Arguments from a caller whose process goes on; by default those of this process, which ends with them.
    """
    args = list(sys.argv[1:] if argv is None else argv)

    def end(number: int) -> None:
        if _rank() == "0":
            last_words(f"seal: {_ended(number, args)}")

    open_closed()
    with ended_by_signals(end, own_process=argv is None), standard_streams() as out:
        code = _command(args)
        out.flush()  # files are already saved whatever happens here
        if code or out.failure is None:
            return code
        if out.failure.errno == errno.EPIPE:  # `seal fit --help | head`: the reader has gone
            return 1
        return _fail(f"standard output: {out.failure.strerror}; the output is incomplete, but saved files are whole", 1)


def _command(args: list[str]) -> int:
    if args in (["--version"], ["-V"]):
        print(f"seal-lightning {__version__}")
        return 0
    if not args or args[0] in ("-h", "--help"):
        print(_help())
        return 0 if args else 2
    if args[0] not in COMMANDS:
        commands = ", ".join(COMMANDS)
        return _fail(f"unknown command {args[0]!r}; expected one of {commands} (seal --help)", 2)
    try:
        with _quiet(_log_level(args)):
            return _guarded(args)
    except KeyboardInterrupt:  # while an error was being printed
        return _fail(_ended(signal.SIGINT, args), 130)
    except Ended as stop:
        return _fail(_ended(stop.number, args), 128 + stop.number)


def _guarded(args: list[str]) -> int:
    try:
        _run(args)
        return 0
    except KeyboardInterrupt:
        return _fail(_ended(signal.SIGINT, args), 130)
    except BySignal as stop:
        return _fail(_ended(stop.number, args), 128 + stop.number)
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning turns it into exit(1)
            return _fail(_ended(signal.SIGINT, args), 130)
        return stop.code if isinstance(stop.code, int) else 1 if stop.code else 0
    except SavingError as error:
        return _fail(_and_resume(str(error), args), error.exit_code)
    except SealError as error:
        return _fail(str(error), error.exit_code)
    except Exception as error:  # the last resort: one line for the user, the traceback on demand
        return _fail(*_explain(error, args))


def _help() -> str:
    rows = ""
    for group in GROUPS:
        named = "".join(f"  {name:<12}{row.about}\n" for name, row in COMMANDS.items() if row.group == group)
        rows += f"{group}:\n{named}\n"
    return (
        "usage: seal COMMAND [--config FILE ...] [--KEY VALUE ...]\n\n"
        "Self-adapting language models (SEAL, arXiv 2506.10943).\n\n"
        f"{rows}"
        "FILE is a path, or a name that seal configs lists, such as knowledge/smollm2.\n\n"
        "  seal COMMAND --help           every option of a command\n"
        "  seal COMMAND --print_config   the configuration it would run with, as YAML\n"
        "  seal --version\n\n"
        "start here: seal quickstart"
    )


def _run(args: list[str]) -> None:
    if not os.path.isdir("."):
        raise ConfigError("the working folder no longer exists: change to one that does and start again")
    args = with_shipped_configs(args)
    name, row = args[0], COMMANDS[args[0]]
    if row.is_light:
        command = import_module(f"seal_lightning.commands.{row.module}")
        work_begins()
        command.main(args[1:])
        return
    if args[1:] in (["--help"], ["-h"]) and (text := help_text(name)):
        print(text, end="")
        return
    files = import_module("seal_lightning.options.mistakes").read_config_files(args)  # whose mistakes need no torch
    keep_freed_memory()
    with redirect_stdout(sys.stderr):  # libraries print while they are imported, and stdout is for results
        if _log_level(args) in TALKATIVE:
            with suppress(ImportError):  # transformers would import it later, and it logs to stdout
                import deepspeed  # noqa: F401
        command = import_module(f"seal_lightning.commands.{row.module}")
    if row.module == "fit":
        command.run_command(args, files)
    else:
        command.main(args[1:])


def _log_level(args: Sequence[str]) -> str:
    for arg, following in pairwise([*args, ""]):
        name, equals, value = arg.partition("=")
        if name == "--log_level":
            return value if equals else following
    return "warning"


@contextmanager
def _quiet(level: str) -> Iterator[None]:
    """Print our own log lines on stderr; banners, advice and warnings of libraries only with `info` or `debug`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter("%(name)s: %(levelname)s: %(message)s"))
    ours = logging.getLogger("seal_lightning")
    ours.addHandler(handler)
    variables = {"TOKENIZERS_PARALLELISM": "false", **gpu_settings(os.environ)}
    last_resort = logging.lastResort  # for loggers of libraries without a handler of their own
    if level not in TALKATIVE:
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it logs while it is imported
        variables |= {"DS_LOG_LEVEL": "error", "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1"}
        logging.lastResort = logging.StreamHandler(sys.stderr)
        logging.lastResort.setLevel(logging.ERROR)
    added = [name for name in variables if name not in os.environ]
    os.environ.update({name: variables[name] for name in added})
    try:
        with warnings.catch_warnings():
            if level not in TALKATIVE and not sys.warnoptions:
                warnings.simplefilter("ignore")  # ours are log lines
            yield
    finally:
        ours.removeHandler(handler)
        logging.lastResort = last_resort
        for name in added:
            os.environ.pop(name, None)


def _ended(number: int, args: Sequence[str]) -> str:
    """The last words of a command that a signal has ended."""
    names = {int(signal.SIGTERM): "terminated", int(signal.SIGINT): "interrupted"}
    return _and_resume(names.get(number, f"stopped by {signal.Signals(number).name}"), args)


def _and_resume(text: str, args: Sequence[str]) -> str:
    row = COMMANDS.get(args[0]) if args else None
    return f"{text}; {row.resume}" if row and row.resume else text


def _rank() -> str:
    return os.environ.get("LOCAL_RANK", "0")


def _explain(error: Exception, args: Sequence[str]) -> tuple[str, int]:
    """One line and an exit code for an exception that is not ours."""
    text = " ".join(str(error).split()) or "no message"
    if type(error).__name__ == "MisconfigurationException":
        return text, 2
    if text.startswith("Error(s) in loading state_dict"):
        return "--ckpt_path: the checkpoint does not fit model.tuning; use the config.yaml saved beside it", 2
    if (cause := disk_error(error)) and cause.errno in FULL_OR_BROKEN:
        return _and_resume(str(cannot_save(cause.filename or os.getcwd(), cause)), args), 1
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return _and_resume(f"{where}{error.strerror or text}", args), 1
    hint = "" if COMMANDS[args[0]].is_light else " (for the traceback: --log_level debug)"  # light ones lack the option
    return f"{type(error).__name__}: {text}{hint}", 1


def _fail(text: str, code: int) -> int:
    if logging.getLogger("seal_lightning").isEnabledFor(logging.DEBUG) and sys.exc_info()[0] is not None:
        traceback.print_exc()
    if (rank := _rank()) == "0":
        print(single_line(f"seal: {text}"), file=sys.stderr)
    elif code == 1:  # the other ranks usually fail for the reason that the first one gives
        print(single_line(f"seal: rank {rank}: {text}"), file=sys.stderr)
    return code
