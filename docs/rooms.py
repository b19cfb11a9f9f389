"""Write the table of rooms in CONTRIBUTING.md and the tree in README.md from the list below.

    python docs/rooms.py

A room is a folder of `seal_lightning/`, or a file that lies beside the folders. The order is the rule that
`tests/test_floors.py` enforces: a room imports from itself and from the rooms above it in this list.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

ROOMS = {
    "types": "the data that passes between the steps: context, query, self-edit, rollout",
    "errors": "the errors that a command prints as one line",
    "seeding": "one seed for each piece of work, whatever the order and the machine",
    "text": "text from models, servers and files: escaped, masked, without thoughts",
    "files": "files that are written whole or not at all, and read within bounds",
    "stamps": "what results depend on: the settings and code that a resumed run must share",
    "processes": "signals, standard streams, ranks, signs of life",
    "progress": "the phases of long work, and how they are shown",
    "results": "figures, intervals and tables made from rollouts",
    "endpoints": "models behind an API: requests, prices, cache",
    "grading": "what an answer scores, and what a rollout is worth",
    "tasks": "what a context is, how a self-edit is asked for and read",
    "data": "readers of context files, and the data module",
    "models": "base models: loading, checkpoints, LoRA on disk, chat templates",
    "options": "the options of commands, and what is wrong with them in one line",
    "policy": "the model that writes self-edits and is adapted by them",
    "inner_loop": "many temporary adapters trained at once",
    "sampling": "who writes the self-edits, and who answers",
    "e_step": "edits are written, adapted to, asked about and rewarded",
    "m_step": "which edits are kept, and the batches that imitate them",
    "records": "the journal of rollouts, and the files of the SEAL authors",
    "hooks": "what a callback can hear and choose",
    "round": "one round of SEAL without Lightning: **start reading here**",
    "trackers": "tables and files for experiment trackers",
    "sharing": "model cards and the Hub",
    "report": "a run as one HTML page",
    "callbacks": "filters, checkpoint selection, progress, tables",
    "fit": "SEAL inside Lightning: module, trainer, loop, executors",
    "generator": "edits as weights: a network that writes adapters, and how it is trained",
    "lab": "a tiny world and model in which SEAL learns in a minute",
    "library": "documents that a model has learnt: manifest, router, answers",
    "commands": "one file or folder for each command of `seal`",
    "cli": "the table of commands",
    "__main__": "`python -m seal_lightning`",
    "configs": "the configurations that come with the package",
    "__init__": "the public names",
}
BESIDE = {"callbacks", "configs"}  # folders at the root of the repository, imported as seal_lightning.callbacks
FILES = {"types", "errors", "seeding", "hooks", "round", "cli", "__main__", "__init__"}
AROUND = {
    "tests/": "the same tree as seal_lightning/",
    "docs/": "pages, and the scripts that write the reference",
    "benchmarks/": "measurements, and what they gave in RESULTS.md",
    "making/": "how the weights of the lab were made; no run needs it",
}
NO_MARKUP = str.maketrans("", "", "*`")
BEGIN, END = "<!-- rooms: written by docs/rooms.py -->\n", "<!-- end of rooms -->\n"


def shown(room: str) -> str:
    """A room as the folder or file that it is."""
    return f"{room}.py" if room in FILES else f"{room}/"


def table() -> str:
    """The rooms as a Markdown table, lowest first."""
    rows = [f"| `{shown(room)}` | {about} |" for room, about in ROOMS.items()]
    return "\n".join(["| room | what is in it |", "|---|---|", *rows])


def tree() -> str:
    """The rooms from the top down, then the folders beside the package."""
    lines = {shown(room): about.translate(NO_MARKUP) for room, about in reversed(ROOMS.items())}
    inside = {name: about for name, about in lines.items() if name.rstrip("/") not in BESIDE}
    beside = {name: about for name, about in lines.items() if name not in inside} | AROUND
    return "\n".join(["```", "seal_lightning/", *_aligned(inside, "  "), *_aligned(beside, ""), "```"])


def _aligned(lines: dict[str, str], indent: str) -> list[str]:
    return [f"{indent + name:<16}{about}" for name, about in lines.items()]


PAGES: dict[str, Callable[[], str]] = {"CONTRIBUTING.md": table, "README.md": tree}


def filled(text: str, content: str) -> str:
    """A page with the content between its two markers."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page needs {BEGIN.strip()} and {END.strip()}")
    return f"{before}{BEGIN}\n{content}\n\n{END}{after}"


def main() -> None:
    """Write both pages."""
    for name, content in PAGES.items():
        page = ROOT / name
        page.write_text(filled(page.read_text(encoding="utf-8"), content()), encoding="utf-8")


if __name__ == "__main__":
    main()
