"""`seal COMMAND --help` at once: without the libraries that define the options, which take five seconds to import.

The texts are in `help.json`, which `docs/help_texts.py` writes from the parsers; a test compares the two. They are
valid for the library versions that they were written with. With other versions, and with other options beside `--help`,
the parser itself answers.
"""

from __future__ import annotations

import argparse
import json
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from typing import Any

FILE = "help.json"
LIBRARIES = ("lightning", "jsonargparse")  # their versions determine the texts


def help_text(command: str) -> str | None:
    """The help of a command, laid out for this terminal; None if only its parser knows it."""
    texts = json.loads((files("seal_lightning.commands") / FILE).read_text(encoding="utf-8"))
    if command not in texts["commands"] or texts["versions"] != versions():
        return None
    return render(texts["commands"][command])


def versions() -> dict[str, str]:
    try:
        return {name: version(name) for name in LIBRARIES}
    except PackageNotFoundError:
        return {}


def render(text: dict[str, Any]) -> str:
    """A help text made from its parts, as argparse would.

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
