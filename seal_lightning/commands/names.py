"""The commands of `seal`, one row each: what it does, where its code is, and how to resume it after it was stopped."""

from __future__ import annotations

from dataclasses import dataclass

from seal_lightning.errors import RESUME

FIRST, EDITOR = "first steps", "a self-editor"
ADAPTERS, FILES = "adapters, with or without a fit", "from files, without a model"
GROUPS = (FIRST, EDITOR, ADAPTERS, FILES)  # headings of `seal --help`
KEPT = "finished work is kept, resume with --resume"
AGAIN = "finished units are in the journal, run the same command to resume"


@dataclass(frozen=True, slots=True)
class Command:
    """A row of the table.

    Attributes:
        about: Its line in `seal --help`.
        group: The heading above that line.
        module: The module below `seal_lightning.commands` that runs it.
        is_light: Whether it starts without torch and Lightning.
        resume: How to resume it; empty where there is nothing to resume.
    """

    about: str
    group: str
    module: str
    is_light: bool = False
    resume: str = ""


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
    "continual": Command(
        "contexts learnt one after another: what is forgotten, and which countermeasures help",
        ADAPTERS,
        "continual.command",
        resume=KEPT,
    ),
    "quickstart": Command(
        "SEAL in the lab beside its control, in a minute and a half on two cores", FIRST, "quickstart", is_light=True
    ),
    "sweep": Command(
        "settings and seeds side by side: every combination, one table with intervals over seeds, one figure",
        EDITOR,
        "sweep.command",
        is_light=True,
        resume="finished runs are kept, run the same command to resume",
    ),
    "grade": Command(
        "grade the answers in a file, and report agreement with the verdicts it carries", FILES, "grade", is_light=True
    ),
    "replay": Command(
        "tables, rewards and kept edits from journals and published runs", FILES, "replay", is_light=True
    ),
    "report": Command(
        "what happened in one run or several, as an HTML page and a Markdown page", FILES, "report", is_light=True
    ),
    "predict": Command(
        "self-edits for the predict contexts as JSON Lines, without adapting; or answers to their queries",
        EDITOR,
        "fit",
        resume=AGAIN,
    ),
    "configs": Command(
        "the configurations that come with the package, by the names that --config takes",
        FIRST,
        "configs",
        is_light=True,
    ),
}
