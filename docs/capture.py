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
MOVES = re.compile(r"(\x1b\[\d*A|\x1b\[2K|\r|\n)")
OTHER = re.compile(r"\x1b\[\?[0-9;]*[hl]|\x1b\[[0-9;]*[BCDGHJ]|\x1b\[[01]?K|\x1b\][^\x07]*\x07|\x1b[=>]|\x1b\[6n")
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
    """The lines that stay in view: what is drawn over, after a return or further up, is gone."""
    lines, row, returned = [""], 0, False
    for part in MOVES.split(OTHER.sub("", shown.decode("utf-8", "replace"))):
        if move := re.fullmatch(r"\x1b\[(\d*)A", part):
            row = max(0, row - int(move[1] or 1))
        elif part == "\x1b[2K":
            lines[row] = ""
        elif part == "\r":
            returned = True
        elif part == "\n":
            row, returned = row + 1, False
            lines += [""] * (row == len(lines))
        elif part:
            lines[row], returned = part if returned else lines[row] + part, False
    return "\n".join(lines).strip("\n")


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
