"""The `seal` command: fit, validate, test and predict through Lightning's CLI, with errors a person can act on.

Exit codes: 0 done, 1 a failure, 2 usage, configuration or data, 130 interrupted, 143 terminated. A user's mistake is
one line on stderr; the traceback comes with `--log_level debug`. The heavy libraries are imported only once a
command needs them, so that `seal --help` and `seal --version` answer at once.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Sequence

from seal_lightning import __version__
from seal_lightning.errors import SealError

COMMANDS = {
    "fit": "train a self-editor: rounds of E-step, filter and M-step, with validation",
    "validate": "base, passage and self-edit accuracy on the validation contexts",
    "test": "the paper's table on the test contexts, with intervals; printed and saved in the run folder",
    "predict": "write self-edits for the predict contexts as JSON Lines, without adapting",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    if args in (["--version"], ["-V"]):
        print(f"seal-lightning {__version__}")
        return 0
    if not args or args[0] in ("-h", "--help"):
        print(_help())
        return 0 if args else 2
    if args[0] not in COMMANDS:
        print(
            f"seal: unknown command {args[0]!r}; the commands are {', '.join(COMMANDS)} (seal --help)", file=sys.stderr
        )
        return 2
    debug = _log_level(args) == "debug"
    _quiet_libraries(debug)
    try:
        return _run(args)
    except KeyboardInterrupt:
        return _fail("interrupted; resume with --ckpt_path last", 130, debug)
    except SystemExit as stop:
        return _exit_code(stop)
    except SealError as error:
        return _fail(str(error), error.exit_code, debug)
    except Exception as error:  # the last resort: one line for the user, the traceback on demand
        return _fail(*_explain(error), debug)


def _help() -> str:
    rows = "\n".join(f"  {name:<10}{text}" for name, text in COMMANDS.items())
    return (
        "usage: seal COMMAND [--config FILE ...] [--KEY VALUE ...]\n\n"
        "Self-adapting language models (SEAL, arXiv 2506.10943).\n\n"
        f"commands:\n{rows}\n\n"
        "  seal COMMAND --help           every option of a command\n"
        "  seal COMMAND --print_config   the configuration it would run with, as YAML\n"
        "  seal --version\n\n"
        "start here: seal fit --config configs/debug/random.yaml"
    )


def _run(args: list[str]) -> int:
    from seal_lightning.command_line import run_command  # Lightning, torch and transformers come with it

    run_command(args)
    return 0


def _log_level(args: Sequence[str]) -> str:
    for index, arg in enumerate(args):
        if arg == "--log_level" and index + 1 < len(args):
            return args[index + 1]
        if arg.startswith("--log_level="):
            return arg.partition("=")[2]
    return ""


def _quiet_libraries(debug: bool) -> None:
    """Keep other libraries' banners and advice off the screen, unless debugging."""
    if debug:
        return
    os.environ.setdefault("DS_LOG_LEVEL", "error")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", module=r"(lightning|torch|transformers|peft|deepspeed|jsonargparse)\b")
    for name in ("lightning", "lightning.pytorch", "DeepSpeed", "transformers", "peft"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _exit_code(stop: SystemExit) -> int:
    if type(stop).__name__ == "SIGTERMException":
        print("seal: terminated; finished units are in the journal, resume with --ckpt_path last", file=sys.stderr)
        return 143
    return stop.code if isinstance(stop.code, int) else 1 if stop.code else 0


def _explain(error: Exception) -> tuple[str, int]:
    """One line and an exit code for an exception that is not ours."""
    text = " ".join(str(error).split()) or "no message"
    if type(error).__name__ == "MisconfigurationException":
        return text, 2
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or text}; finished units are in the journal, resume with --ckpt_path last", 1
    return f"{type(error).__name__}: {text} (the traceback: --log_level debug)", 1


def _fail(text: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"seal: {text}", file=sys.stderr)
    return code
