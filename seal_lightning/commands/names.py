"""The commands of `seal`: what each does, where it is defined, and how one that was stopped goes on."""

from seal_lightning.errors import RESUME

COMMANDS = {
    "fit": "train a self-editor: rounds of E-step, filter and M-step, with validation",
    "validate": "base, passage and self-edit accuracy on the validation contexts",
    "test": "the paper's table on the test contexts, with intervals; printed and saved in the run folder",
    "adapt": "documents in, adapters out: self-edits about them, the best trained into a LoRA that can be served",
    "continual": "contexts learnt one after another: what is forgotten, and which countermeasures help",
    "quickstart": "SEAL in the lab beside its control, in a minute and a half on two cores",
    "sweep": "settings and seeds beside each other: every combination, one table with intervals over seeds, one figure",
    "grade": "grade answers in a file, and report the agreement with verdicts that it carries; needs no model",
    "replay": "tables, rewards and kept edits from journals and published runs; needs no model",
    "report": "what happened in one run or several, as one HTML page and a Markdown one; needs no model",
    "predict": "self-edits for the predict contexts as JSON Lines, without adapting; or answers to their queries",
    "configs": "the configurations that come with the package, by the names that --config takes",
}
GROUPS = {  # of the commands, as `seal --help` lists them
    "first steps": ("quickstart", "configs"),
    "a self-editor": ("fit", "validate", "test", "predict", "sweep"),
    "adapters, with or without a fit": ("adapt", "continual"),
    "from files; no model is needed": ("report", "replay", "grade"),
}

LIGHT = ("quickstart", "sweep", "grade", "replay", "report", "configs")  # a module each, without torch
MODULES = {"configs": "show_configs"}  # of the others: by their own names
WITH_MODEL = ("adapt", "continual")  # a module each, without Lightning's CLI
HOW_TO_RESUME = {
    "fit": RESUME,
    **dict.fromkeys(WITH_MODEL, "what is finished is kept, go on with --resume"),
    "sweep": "what is finished is kept, the same command goes on",
    **dict.fromkeys(("validate", "test", "predict"), "finished units are in the journal, the same command goes on"),
}
