"""`seal configs`: the configurations that come with the package, by name; `seal configs NAME` prints one."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from itertools import takewhile
from shutil import get_terminal_size

from seal_lightning.files.shipped import names, shipped_text

COLUMN = 32  # the column where the text about a configuration begins


def main(argv: Sequence[str]) -> None:
    """Run the command.

    Raises:
        ConfigError: No configuration has that name.
    """
    parser = argparse.ArgumentParser(
        usage="seal configs [NAME]",
        description="The configurations that come with the package, by the names that --config takes.",
        epilog="With a name, prints its content; begin your own with seal configs knowledge/smollm2 > mine.yaml.",
    )
    parser.add_argument("name", nargs="?", help="a configuration to print, such as knowledge/smollm2")
    wanted = parser.parse_args(argv).name
    if wanted:
        print(shipped_text(wanted), end="")
        return
    width = max(40, get_terminal_size().columns - COLUMN)
    for name in names():
        first, *others = textwrap.wrap(summary(name), width)
        print(f"{name:<{COLUMN}}{first}")
        for line in others:
            print(" " * COLUMN + line)


def summary(name: str) -> str:
    """The first sentence about a configuration, from the comment at its top, after the line that launches it."""
    lines = shipped_text(name).splitlines()
    comment = [line.removeprefix("#").strip() for line in takewhile(lambda line: line.startswith("#"), lines)]
    text = " ".join(line for line in comment[1:] if not line.startswith(("seal ", "torchrun ")))
    return text.partition(". ")[0].rstrip(".").replace("`", "")
