"""What the policy knows of the documents before anything is learnt: answers, asked once and kept in a file."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

from seal_lightning.commands.adapt.jobs import Answers, Workplace
from seal_lightning.data.documents import Document
from seal_lightning.e_step.closed_book import Answered, ask_closed_book
from seal_lightning.e_step.open_book import ask_open_book
from seal_lightning.e_step.step import EStep
from seal_lightning.errors import misread
from seal_lightning.files.bounded import parse_json
from seal_lightning.files.saving import save_text
from seal_lightning.policy.policy import Policy
from seal_lightning.progress.clock import Report
from seal_lightning.stamps.values import describe, digest
from seal_lightning.types import Context

log = logging.getLogger(__name__)

BASELINE = "baseline.json"


class Ask(Protocol):
    """Asks contexts' queries without an adapter."""

    def __call__(
        self, e_step: EStep, policy: Policy, contexts: Sequence[Context], *, report: Report
    ) -> list[Answered]: ...


def asked_stamp(e_step: EStep, contexts: Sequence[Context]) -> str:
    """Digest of what contexts are asked, and of how answers are made and graded."""
    parts = {
        "task": e_step.task,
        "answerer": e_step.answerer,
        "grader": e_step.grader,
        "most": e_step.max_answer_tokens,
    }
    asked = [[one.id, one.title, one.passage, *map(asdict, one.queries)] for one in contexts]
    return digest([describe(parts), asked])


def ask_before(place: Workplace, documents: Sequence[Document]) -> Workplace:
    """The workplace with what the policy answers without an adapter: closed book, open book, and unrelated questions.

    What was asked before is read from `baseline.json`. Each kind of answers is written there as soon as it is complete.
    """
    asked = [document.context for document in documents if document.context.queries]
    kept = Kept.read(place.output / BASELINE)

    def answers(kind: str, label: str, contexts: Sequence[Context], ask: Ask) -> Answers:
        stamps = {context.id: asked_stamp(place.e_step, [context]) for context in contexts}
        if left := [context for context in contexts if not kept.knows(kind, context, stamps[context.id])]:
            place.check_stop()
            with place.screen.bar(label, 1), place.screen.phases() as report:
                scored = ask(place.e_step, place.policy, left, report=report)
            kept.keep(kind, {one.id: (stamps[one.id], given) for one, given in zip(left, scored, strict=True)})
        return kept.answers(kind, contexts)

    before = answers("answered", "answers before", asked, ask_closed_book)
    opened = [] if place.e_step.task.asks_with_context else asked
    open_book = answers("open_book", "answers with the document in view", opened, ask_open_book)
    others = place.unrelated.contexts
    unrelated = replace(place.unrelated, before=answers("unrelated", "unrelated questions", others, ask_closed_book))
    return replace(place, before=before, open_book=open_book, unrelated=unrelated)


@dataclass(slots=True)
class Kept:
    """The answers of earlier runs, and those of this one, in a file.

    Attributes:
        path: The file.
        rows: Answers with the digest of what was asked, by kind of answers and context.
    """

    path: Path
    rows: dict[str, dict[str, tuple[str, Answered]]]

    @staticmethod
    def read(path: Path) -> Kept:
        """What a file holds; nothing where it cannot be read.

        A damaged file only costs a line in the log: answers without an adapter are quickly made again.
        """
        if not path.exists():
            return Kept(path, {})
        try:
            content = parse_json(path.read_bytes())
            rows = {
                kind: {name: (row["asked"], Answered.from_dict(row)) for name, row in given.items()}
                for kind, given in content.items()
            }
            return Kept(path, rows)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("%s: cannot be read (%s), so its queries are asked again", path, misread(error))
            return Kept(path, {})

    def knows(self, kind: str, context: Context, stamp: str) -> bool:
        asked, answered = self.rows.get(kind, {}).get(context.id, ("", None))
        return asked == stamp and answered is not None and len(answered.answers) == len(context.queries)

    def keep(self, kind: str, rows: Mapping[str, tuple[str, Answered]]) -> None:
        """Add answers, and write the file."""
        self.rows = {**self.rows, kind: {**self.rows.get(kind, {}), **rows}}
        content = {
            kind: {name: {"asked": stamp, **asdict(answered)} for name, (stamp, answered) in some.items()}
            for kind, some in self.rows.items()
        }
        save_text(self.path, json.dumps(content, ensure_ascii=False))

    def answers(self, kind: str, contexts: Sequence[Context]) -> Answers:
        known = self.rows.get(kind, {})
        return {context.id: known[context.id][1] for context in contexts}
