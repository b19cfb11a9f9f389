"""`seal COMMAND --help` without the libraries that its options come from: at once, where it took five seconds.

The texts lie in `help.json`, which `docs/help_texts.py` writes from the parsers themselves; a test compares the two.
They hold for the versions of the libraries that they were written with: with others, and where anything stands beside
`--help`, the parser itself is asked.
"""

from __future__ import annotations

import argparse
import json
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from typing import Any

FILE = "help.json"
OF = ("lightning", "jsonargparse")  # whose versions decide what is said


def help_text(command: str) -> str | None:
    """What `--help` of a command says, for this terminal; None where only its parser knows."""
    found = json.loads((files("seal_lightning.commands") / FILE).read_text(encoding="utf-8"))
    if command not in found["commands"] or found["versions"] != versions():
        return None
    return render(found["commands"][command])


def versions() -> dict[str, str]:
    try:
        return {name: version(name) for name in OF}
    except PackageNotFoundError:
        return {}


def render(text: dict[str, Any]) -> str:
    """A help text from its parts, as argparse does it.

    >>> print(render({"usage": "seal it", "about": "Does it.", "groups": [["options", "", [["--x X", "100%."]]]]}))
    usage: seal it
    <BLANKLINE>
    Does it.
    <BLANKLINE>
    options:
      --x X  100%.
    <BLANKLINE>
    """
    formatter = argparse.HelpFormatter(prog="seal")
    formatter.add_usage(text["usage"], [], [])
    formatter.add_text(text["about"])
    for title, about, options in text["groups"]:
        formatter.start_section(title)
        formatter.add_text(about or None)
        for name, words in options:
            formatter.add_argument(argparse.Action([], dest="", metavar=name, help=words.replace("%", "%%") or None))
        formatter.end_section()
    return formatter.format_help()
