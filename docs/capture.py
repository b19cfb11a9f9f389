"""Draw what a command shows in a terminal as a picture for the pages.

    python docs/capture.py docs/images/NAME.svg [--type "line"]... [--width 100] -- COMMAND ...

The command runs in a pseudo-terminal; each `--type` is typed in once it is silent for a second, and then the end of
input. Lines that were drawn over (bars) are left out.
"""

from __future__ import annotations

import argparse
import os
import pty
import re
import select
import struct
import sys
import termios
import time
from fcntl import ioctl
from pathlib import Path

from rich.console import Console
from rich.text import Text

QUIET = 1.0  # seconds without output after which something is typed
FONTS = re.compile(r"@font-face \{[^}]*\}\s*")  # rich's are fetched from the network
CONTROL = re.compile(rb"\x1b\[\?[0-9;]*[hl]|\x1b\[[0-9;]*[ABCDGHJK]|\x1b\][^\x07]*\x07|\x1b[=>]|\x1b\[6n")


def run(command: list[str], typed: list[str], width: int) -> bytes:
    """What the command writes to a terminal of that width."""
    child, terminal = pty.fork()
    if child == 0:
        os.environ |= {"TERM": "xterm-256color", "COLUMNS": str(width)}
        os.execvp(command[0], command)
    ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    shown, left, last = b"", [*typed, None], time.monotonic()
    while True:
        ready, _, _ = select.select([terminal], [], [], 0.1)
        if ready:
            try:
                data = os.read(terminal, 1 << 16)
            except OSError:
                break
            if not data:
                break
            shown, last = shown + data, time.monotonic()
        elif left and typed and time.monotonic() - last > QUIET and CONTROL.sub(b"", shown).endswith((b"? ", b"> ")):
            line = left.pop(0)
            os.write(terminal, b"\x04" if line is None else f"{line}\n".encode())
            last = time.monotonic()
    os.waitpid(child, 0)
    return shown


def lines_of(shown: bytes) -> str:
    """The lines that stay in view: of one that was drawn over, what came last."""
    text = CONTROL.sub(b"", shown).decode("utf-8", "replace").replace("\r\n", "\n")
    return "\n".join(line.rpartition("\r")[2] for line in text.split("\n")).strip("\n")


def main() -> None:
    place = sys.argv.index("--")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--type", action="append", default=[])
    parser.add_argument("--width", type=int, default=100)
    parser.add_argument("--title", default="")
    options, command = parser.parse_args(sys.argv[1:place]), sys.argv[place + 1 :]
    shown = lines_of(run(command, options.type, options.width))
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=options.width, file=nowhere, force_terminal=True)
        console.print(Text.from_ansi(f"$ {' '.join(command)}\n{shown}"))
        picture = FONTS.sub("", console.export_svg(title=options.title or "seal"))
        options.picture.write_text(picture, encoding="utf-8")
    print(shown)


if __name__ == "__main__":
    main()
