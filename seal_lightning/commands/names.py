"""The commands of `seal`, one row each: what it does, where its code is, and how to resume it after it was stopped.

`seal COMMAND --help` answers at once, without the libraries that define the options, which take five seconds to import:
the texts are in `help.json`, which `docs/help_texts.py` writes from the parsers; a test compares the two. They are
valid for the library versions that they were written with. With other versions, and with other options beside `--help`,
the parser itself answers.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from typing import Any

from seal_lightning.errors import RESUME

FIRST, EDITOR = "first steps", "a self-editor"
ADAPTERS, FILES = "adapters, with or without a fit", "from files, without a model"
GROUPS = (FIRST, EDITOR, ADAPTERS, FILES)  # headings of `seal --help`
KEPT = "finished work is kept, resume with --resume"
HELP = "help.json"
LIBRARIES = ("lightning", "jsonargparse")  # their versions determine the texts
AGAIN = "finished units are in the journal, run the same command to resume"


@dataclass(frozen=True, slots=True)
class Command:
    """A row of the table.

    Attributes:
        about: Its line in `seal --help`.
        group: The heading above that line.
        module: The module below `seal_lightning.commands` that runs it.
        resume: How to resume it; empty where there is nothing to resume.
    """

    about: str
    group: str
    module: str
    resume: str = ""

    @property
    def is_light(self) -> bool:
        """Whether it starts without torch and Lightning."""
        return self.module not in ("fit", "adapt.command", "continual.command")


COMMANDS = {
    "fit": Command(
        "train a self-editor: rounds of E-step, filter and M-step, with validation", EDITOR, "fit", resume=RESUME
    ),
    "validate": Command("base, passage and self-edit accuracy on the validation contexts", EDITOR, "fit", resume=AGAIN),
    "test": Command(
        "the paper's table on the test contexts, with intervals; printed and saved in the run folder",
        EDITOR,
        "fit",
        resume=AGAIN,
    ),
    "adapt": Command(
        "documents in, adapters out: self-edits about them, the best trained into a LoRA that can be served",
        ADAPTERS,
        "adapt.command",
        resume=KEPT,
    ),
    "serving": Command(
        "what serves the documents of seal adapt: a command for vLLM, a Modelfile for Ollama", ADAPTERS, "serving"
    ),
    "ask": Command(
        "questions to the documents of seal adapt: each answered by the adapter of its document, and without",
        ADAPTERS,
        "ask",
    ),
    "continual": Command(
        "contexts learnt one after another: what is forgotten, and which countermeasures help",
        ADAPTERS,
        "continual.command",
        resume=KEPT,
    ),
    "quickstart": Command(
        "SEAL in the lab beside its control, in a minute and a half on two cores", FIRST, "quickstart"
    ),
    "sweep": Command(
        "settings and seeds side by side: every combination, one table with intervals over seeds, one figure",
        EDITOR,
        "sweep.command",
        resume="finished runs are kept, run the same command to resume",
    ),
    "grade": Command("grade the answers in a file, and report agreement with the verdicts it carries", FILES, "grade"),
    "replay": Command("tables, rewards and kept edits from journals and published runs", FILES, "replay"),
    "report": Command("what happened in one run or several, as an HTML page and a Markdown page", FILES, "report"),
    "predict": Command(
        "self-edits for the predict contexts as JSON Lines, without adapting; or answers to their queries",
        EDITOR,
        "fit",
        resume=AGAIN,
    ),
    "configs": Command(
        "the configurations that come with the package, by the names that --config takes", FIRST, "configs"
    ),
}


def help_text(command: str) -> str | None:
    """The help of a command, laid out for this terminal; None if only its parser knows it."""
    texts = json.loads((files("seal_lightning.commands") / HELP).read_text(encoding="utf-8"))
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
