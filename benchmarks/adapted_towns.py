"""Passages of the lab as documents of `seal adapt`, and what is looked at in the folder that comes of them."""

import hashlib
import json
import re
from pathlib import Path

from seal_lightning.errors import Stopped
from seal_lightning.lab import LabPassages

CONFIG = """\
model:
  source: {name: lab}
  sampler: {class_path: seal_lightning.sampling.LocalSampler, init_args: {max_new_tokens: 24}}
  inner_loop: {rank: 4, alpha: 8, target_modules: all-linear, learning_rate: 2.5e-3, epochs: 2, max_adapters: 2}
  grader: exact_match
  max_answer_tokens: 2
  e_step: {edits: 2}
  query_writer: {max_tokens: 32}
together: {rank: 8, alpha: 16, target_modules: all-linear, learning_rate: 2.5e-3, epochs: 2, batch_size: 4}
adapters: both
contexts_per_unit: 2
unrelated: configs/unrelated/lab.jsonl
save_every: 4
"""


def write_inputs(folder: Path) -> None:
    (folder / "config.yaml").write_text(CONFIG)
    rows = [
        {
            "id": name,
            "title": context.title,
            "passage": context.passage,
            "queries": [{"question": query.question, "answers": query.golds} for query in context.queries],
        }
        for name, context in zip(("first", "../second", "all"), LabPassages("test", count=3).read(), strict=True)
    ]
    (folder / "documents.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_notes(folder: Path, *, later: bool) -> Path:
    """Four notes with their queries, as Markdown; later one is changed, one removed, one renamed and one new.

    Returns:
        The folder of the notes; the file of queries and the configuration lie beside it.
    """
    towns, notes = LabPassages("test", count=6).read(), folder / "notes"
    notes.mkdir(exist_ok=True)
    for note in notes.iterdir():
        note.unlink()
    named = {"alba.md": (0, 0), "berg.md": (1, 4), "moved.md": (3, 3), "new.md": (5, 5)}
    if not later:
        named = {"alba.md": (0, 0), "berg.md": (1, 1), "cove.md": (2, 2), "dale.md": (3, 3)}
    rows = []
    for name, (title, text) in named.items():
        (notes / name).write_text(f"# {towns[title].title}\n\n{towns[text].passage}\n")
        for query in towns[text].queries[:3]:
            rows.append({"document": towns[title].title, "question": query.question, "answers": query.golds})
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "config.yaml").write_text(CONFIG)
    return notes


def state_of(output: Path) -> dict[str, str]:
    """Digest of every file that a run leaves, by name; of the manifest without its times."""
    found = {}
    for path in sorted(path for path in output.rglob("*") if path.is_file()):
        content = path.read_bytes()
        if path.name == "manifest.json":
            content = re.sub(rb'"(updated|at)": "[^"]+"', rb"", content)
        if path.parent.name == "journal":
            content = re.sub(rb'"seconds": {[^}]*}', rb"", content)
        if path.name != "config.yaml":
            found[str(path.relative_to(output))] = hashlib.sha256(content).hexdigest()
    return found


def digests(output: Path) -> dict[str, str]:
    """Of every adapter's weights and answers."""
    files = sorted((output / "adapters").rglob("adapt*"))
    return {
        str(file.relative_to(output)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()
    }


def names(output: Path) -> list[str]:
    return sorted(folder.name for folder in (output / "adapters").iterdir())


class Break:
    """Raises at the n-th moment at which a command may stop, as a signal makes it."""

    def __init__(self, moment: int) -> None:
        self.left = moment

    def __call__(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Stopped(15)
