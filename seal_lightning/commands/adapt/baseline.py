"""What the policy knows of the documents before anything is learnt: answers, asked once and kept in a file."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from seal_lightning.commands.adapt.jobs import Answers, Workplace
from seal_lightning.data.documents import Document
from seal_lightning.e_step.closed_book import Answered, ask_closed_book
from seal_lightning.e_step.step import EStep
from seal_lightning.errors import misread
from seal_lightning.files.bounded import parse_json
from seal_lightning.files.saving import save_text
from seal_lightning.stamps.values import describe, digest

log = logging.getLogger(__name__)

BASELINE = "baseline.json"


def asked_stamp(e_step: EStep, documents: Sequence[Document]) -> str:
    """Digest of what documents are asked, and of how answers are made and graded."""
    parts = {
        "task": e_step.task,
        "answerer": e_step.answerer,
        "grader": e_step.grader,
        "most": e_step.max_answer_tokens,
    }
    asked = [[document.id, *map(asdict, document.context.queries)] for document in documents]
    return digest([describe(parts), asked])


def ask_before(place: Workplace, documents: Sequence[Document]) -> Answers:
    """What the policy answers without an adapter; asked once, then read from `baseline.json`."""
    path = place.output / BASELINE
    asked = [document for document in documents if document.context.queries]
    if not asked:
        return {}
    stamp = asked_stamp(place.e_step, asked)
    if (known := _read(path, stamp, asked)) is not None:
        return known
    place.check_stop()
    with place.screen.bar("answers before", 1), place.screen.phases() as report:
        scored = ask_closed_book(place.e_step, place.policy, [document.context for document in asked], report=report)
    answers = {document.id: answered for document, answered in zip(asked, scored, strict=True)}
    content = {"asked": stamp, "answered": {name: asdict(answered) for name, answered in answers.items()}}
    save_text(path, json.dumps(content, ensure_ascii=False))
    return answers


def _read(path: Path, stamp: str, documents: Sequence[Document]) -> Answers | None:
    """Earlier answers; None where there are none, or other things were asked.

    A damaged file only costs a line in the log: answers without an adapter are quickly made again.
    """
    if not path.exists():
        return None
    try:
        content = parse_json(path.read_bytes())
        if content["asked"] != stamp:
            return None
        answers = {name: Answered.from_dict(row) for name, row in content["answered"].items()}
        if any(len(answers[document.id].answers) != len(document.context.queries) for document in documents):
            raise ValueError("it has answers to other queries")
        return answers
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s: cannot be read (%s), so its queries are asked again", path, misread(error))
        return None
