"""The model card of an adapter: what it is on, what it learnt from, how, how well, and who may use it.

Titles come from the data and are escaped. Of paths of this machine only the base model's own name is written down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from types import MappingProxyType

from huggingface_hub import ModelCardData

from seal_lightning import __version__
from seal_lightning.adapt.edits import Lesson
from seal_lightning.adapt.scores import Score
from seal_lightning.bank_training import JobStats
from seal_lightning.escaping import markdown_cell
from seal_lightning.inner_loop import InnerLoop
from seal_lightning.left_out import MISSING, render_left_out
from seal_lightning.masking import safe_to_save
from seal_lightning.tables import table

SHOWN = 50  # documents by name
CHOSEN = """\
The same queries may have chosen the self-edits, so that the accuracy after is somewhat too good."""
LICENCE = """\
The adapter changes its base model and is of no use without it: the base model's licence holds for both together. What
it learnt comes from the documents above, and it may give parts of them back word for word: make sure that their licence
lets you pass it on."""


def model_card(
    name: str,
    *,
    base: str,
    lessons: Sequence[Lesson],
    editor: str,
    policy_rank: int | None,
    chosen: bool,
    sequences: int,
    inner_loop: InnerLoop,
    stats: JobStats,
    missing: Mapping[str, int],
    scores: Mapping[str, Score],
    merged: bool,
    data_licence: str | None,
    unread: int = 0,
    without: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> str:
    """The text of a README.md.

    Args:
        name: Of the adapter.
        base: The base model.
        lessons: What it learnt.
        editor: Who wrote the self-edits.
        policy_rank: Of the policy that is part of the adapter, where that was more than the base.
        chosen: Whether rewards decided which self-edits were learnt.
        sequences: How many training sequences these are.
        inner_loop: How.
        stats: What its training came to.
        missing: What was cut or skipped in it, counted as `seal_lightning.left_out` does.
        scores: Mean accuracy by when; empty where nothing was asked.
        merged: Whether it lies beside whole weights instead of an adapter's.
        data_licence: Of the documents, as the user put it.
        unread: Files that were given too and could not be read.
        without: Parts of the model that no adapter acts on, by reason.
    """
    header = ModelCardData(
        base_model=base, library_name="transformers" if merged else "peft", pipeline_tag="text-generation",
        tags=["seal-lightning", "self-adapting", *([] if merged else ["lora"])],
    )  # fmt: skip
    titles = [markdown_cell(lesson.document.context.title or lesson.document.id, 100) for lesson in lessons]
    more = f"\n- and {len(titles) - SHOWN} more" if len(titles) > SHOWN else ""
    settings = asdict(inner_loop) | {"optimizer steps": stats.steps, "tokens trained": stats.trained_tokens}
    passages = sum(len(lesson.document.passages) for lesson in lessons)
    edits = sum(lesson.edits for lesson in lessons)
    written = f", {_count(edits, 'self-edit')} by {editor}" if edits else ""
    learnt = f"{_count(passages, 'passage')}{written}, {_count(sequences, 'training sequence')}."
    if unread:
        learnt += f"\n\nOf what was given, {_count(unread, 'file')} could not be read and taught it nothing."
    if missing:
        learnt += f"\n\n{MISSING} {render_left_out(missing)}."
    if without:
        found = [f"{_count(len(names), 'part')}, {why} (first: {names[0]})" for why, names in without.items()]
        learnt += f"\n\nNo adapter acts on {'; '.join(found)}."
    if policy_rank:
        learnt += (
            f"\n\nThe policy that wrote and was adapted (rank {policy_rank}) is part of it; before is its accuracy."
        )
    rows = [[when, f"{s.mean:.3f}", f"{s.low:.3f} – {s.high:.3f}"] for when, s in scores.items()]
    measured = table(["", "accuracy", "95 % interval"], rows) if rows else "Nothing was asked: there were no queries."
    if rows and chosen:
        measured += f"\n\n{CHOSEN}"
    parts = {
        f"# {name}": f"{'Weights' if merged else 'A LoRA'} for `{base}`, made by `seal adapt` of seal-lightning "
        f"{__version__} (SEAL, arXiv 2506.10943).",
        "## Learnt from": "\n".join(f"- {title}" for title in titles[:SHOWN]) + more
        + f"\n\n{learnt}",
        "## Closed-book accuracy": f"{measured}\n\nQueries about the documents, asked without them, by document.",
        "## Settings": table(["", ""], [[key, markdown_cell(str(value), 80)] for key, value in settings.items()]),
        "## Licence": LICENCE + f"\n\nLicence of the documents: {data_licence or 'not stated'}.",
    }  # fmt: skip
    body = "\n\n".join(f"{head}\n\n{text}" for head, text in parts.items())
    return safe_to_save(f"---\n{header.to_yaml()}\n---\n\n{body}\n")


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
