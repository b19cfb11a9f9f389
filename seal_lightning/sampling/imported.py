"""Self-edits from a file enter the E-step as if they had been sampled: another model's, another run's, or by hand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from seal_lightning.data.base import check_path, context_id
from seal_lightning.errors import DataError
from seal_lightning.files.rows import Row, read_rows
from seal_lightning.policy.policy import Policy
from seal_lightning.sampling.sampler import Sample, Sampler, SampleRequest, written_sample
from seal_lightning.text.foreign import sound

MARK = "Passage: "  # before the passage in the prompts of the package


class ImportedEdits(Sampler):
    """Takes self-edits from a JSON or JSON Lines file, and the first ones of each context first.

    A row has one edit (`text`), as `seal predict` writes them, or several (`edits`, or `completions` as in the SEAL
    authors' files and published runs), and says whose they are: by `context_id`, or by `title` with `passage` (or
    `context`). A row with a `prompt` of the package is held against the passage, since an id may be a row's number.

    Args:
        path: The file.
    """

    from_outside = True

    def __init__(self, path: str) -> None:
        self._path = check_path("path", path)  # private: what is in it counts
        self._edits: dict[str, list[str]] = {}
        self._prompts: dict[str, str] = {}
        for row in read_rows(Path(path).expanduser()):
            for edited in row.rows("articles") if "articles" in row.values else [row]:  # a published run's contexts
                owner = _owner(edited)
                self._edits.setdefault(owner, []).extend(sound(text)[0] for text in _texts(edited))
                self._prompts.setdefault(owner, _prompt(edited))
        content = json.dumps(self._edits, sort_keys=True).encode()
        self.digest = hashlib.blake2b(content, digest_size=8).hexdigest()  # the journal's stamp holds public attributes

    def sample(
        self, policy: Policy, requests: Sequence[SampleRequest], *, on_done: Callable[[int], None] = lambda count: None
    ) -> list[Sample]:
        """Raises `DataError` where the file has too few edits for a context, or those of another one with its id."""
        samples = []
        for request in requests:
            samples.append(written_sample(policy, request, self._edit(request)))
            on_done(1)
        return samples

    def _edit(self, request: SampleRequest) -> str:
        context = request.context
        edits = self._edits.get(context.id) or self._edits.get(context_id(context.title, context.passage), [])
        if request.index >= len(edits):
            raise DataError(
                f"{self._path}: expected {request.index + 1} or more edits of {context.id!r}, got {len(edits)}: "
                "add them, ask for fewer (e_step.edits, evaluation.edits), or leave the context out"
            )
        prompt = self._prompts.get(context.id, "")
        if MARK in prompt and " ".join(context.passage.split()) not in " ".join(prompt.split()):
            raise DataError(
                f"{self._path}: expected edits of the passage {context.id!r}, got those of another with that id (it is "
                "not in their prompt): name the edits of these data, or give the contexts of both ids of their own"
            )
        return edits[request.index]


def _prompt(row: Row) -> str:
    """What the edit was asked with; "" where the row does not say."""
    prompt = row.values.get("prompt")
    return prompt if isinstance(prompt, str) else ""


def _owner(row: Row) -> str:
    if row.values.get("context_id") is not None:
        return row.text("context_id")
    return context_id(row.title(), row.text("passage" if "passage" in row.values else "context"))


def _texts(row: Row) -> Sequence[str]:
    """An edit may be empty: a model wrote nothing, which is counted like any edit that cannot be used."""
    if "text" in row.values:
        text = row.values["text"]
        return [text] if isinstance(text, str) and not text.strip() else [row.text("text")]
    for field in ("edits", "completions"):
        if field in row.values:
            return [edit.text("text") for edit in _objects(row, field)] or row.texts(field)
    raise row.error("text", expected="a self-edit", got="nothing", advice="give text, edits or completions")


def _objects(row: Row, field: str) -> Sequence[Row]:
    """Edits that are objects with a `text`, as in the authors' run files."""
    items = row.list(field)
    return row.rows(field) if items and isinstance(items[0], dict) else []
