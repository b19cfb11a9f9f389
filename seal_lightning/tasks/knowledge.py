"""Knowledge incorporation: learn a passage so that questions about it are answered without it (SEAL, section 4.2).

The policy writes a self-edit about the passage (implications, a retelling, questions), each piece of it becomes one
training sequence under the passage's title, and the passage itself is one more. Queries carry the title as their topic.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Literal

from seal_lightning.errors import ConfigError, check_count
from seal_lightning.tasks.base import Task, without_thoughts
from seal_lightning.tasks.directives import DirectiveLimits, split_directives
from seal_lightning.tasks.edit_kinds import (
    PARSERS,
    EditKind,
    named_kinds,
    question_and_answer,
    resolve_kind,
    strip_enumerator,
    without_answer_label,
)
from seal_lightning.tasks.rule_based.writer import write_by_rule
from seal_lightning.types import Context, Directives, Prompt, Query, SelfEdit, TrainingSequence

QUERY_SYSTEM = "Answer the question in a few words."
EXAMPLE = Context(
    id="example",
    title="The Harrow Bridge",
    passage="The Harrow Bridge was opened in 1874. It was built by Ada Merrow and crosses the river Lenn.",
)


class Knowledge(Task):
    """Learns a titled passage from self-edits about it.

    Args:
        edit: Kind of self-edit: implications, implications-long, implications-very-long, rewrite, self-qa, facts,
            key-concepts, mind-map, critical-qa, case-studies, discussions, teacher, rules (written by rules instead of
            a model), or one of your own with `instruction`, `lead`, `parser` and `system`.
        kinds: Several kinds in place of one, which the edits of a context take in turn; of 14 edits of seven kinds,
            two are of each.
        title_prefix: Put the title on a line before each training sequence.
        append_passage: Train on the passage too, after the edit's own sequences.
        passage_repeats: How often the passage is appended; more than once where a weak model's edits crowd it out.
        max_sequences: Keep at most this many of an edit's own sequences, the first ones; null keeps all.
        strip_numbering: Remove bullets and list numbers from the lines of an edit.
        directives: Limits for training choices, which the policy is then asked for; null does not ask.
        topic_prefix: Put the title on a line before each query.
        questions: How the questions of an edit are trained on: as `text` under the title like everything else, or as
            `queries`, that is, asked as queries are (through an instruct model's chat template) with the loss on the
            answer alone.
    """

    def __init__(
        self,
        *,
        edit: str | EditKind = "implications",
        kinds: list[str | EditKind] | None = None,
        title_prefix: bool = True,
        append_passage: bool = True,
        passage_repeats: int = 1,
        max_sequences: int | None = None,
        strip_numbering: bool = False,
        directives: DirectiveLimits | None = None,
        topic_prefix: bool = True,
        questions: Literal["text", "queries"] = "text",
    ) -> None:
        if kinds is not None and edit != "implications":
            raise ConfigError(f"edit and kinds were both given, got {edit!r} and {kinds!r}: leave one of them out")
        self.kinds = None if kinds is None else named_kinds(kinds)
        self.kind = self.kinds[0] if self.kinds else resolve_kind(edit)
        self.title_prefix = title_prefix
        self.append_passage = append_passage
        self.passage_repeats = check_count("passage_repeats", passage_repeats)
        self.max_sequences = None if max_sequences is None else check_count("max_sequences", max_sequences)
        self.strip_numbering = strip_numbering
        self.directives = directives
        self.topic_prefix = topic_prefix
        if questions not in ("text", "queries"):
            raise ConfigError(f"questions must be text or queries, got {questions!r}: choose one")
        self.questions = questions

    @property
    def by_edit(self) -> Sequence[Task]:
        return [self._of_kind(kind) for kind in self.kinds] if self.kinds else (self,)

    def _of_kind(self, kind: EditKind) -> Knowledge:
        """This task, or one of a class derived from it, with a single kind."""
        single = copy(self)
        single.edit_kind, single.kind, single.kinds = kind.name, kind, None
        return single

    def prompt(self, context: Context) -> Prompt:
        return self.kind.prompt(context, request=self.directives.request() if self.directives else "")

    @property
    def by_rule(self) -> bool:
        return all(kind.by_rule for kind in self.kinds or (self.kind,))

    def written_by_rule(self, context: Context, index: int) -> str | None:
        kinds = self.kinds or (self.kind,)
        return write_by_rule(context, index // len(kinds)) if kinds[index % len(kinds)].by_rule else None

    def parse(self, text: str, context: Context) -> SelfEdit:
        return without_thoughts(text, lambda said: self._parse(said, context))

    def _parse(self, text: str, context: Context) -> SelfEdit:
        body, asked = split_directives(text, self.directives.names) if self.directives else (text, {})
        applied = self.directives.apply(asked) if self.directives else Directives()
        bare = "\n".join(map(strip_enumerator, body.splitlines())) if self.strip_numbering else body
        pieces = PARSERS[self.kind.parser](bare)
        if not pieces:
            nothing = f"no {self.kind.parser} to train on" if body.strip() else "directives only"
            return SelfEdit(text=text, asked=asked, applied=applied, reason=nothing if text.strip() else "empty text")
        sequences = tuple(self._sequence(piece, context) for piece in pieces[: self.max_sequences])
        if self.append_passage:
            sequences += self.passage_sequences(context) * self.passage_repeats
        more = len(pieces) - len(pieces[: self.max_sequences])
        return SelfEdit(text=text, training_sequences=sequences, asked=asked, applied=applied, left_out=more)

    def passage_sequences(self, context: Context) -> tuple[TrainingSequence, ...]:
        passage = context.passage.strip()
        return (self._text(passage, context),) if passage else ()

    def query_prompt(self, query: Query, context: Context) -> Prompt:
        topic = f"Topic: {context.title.strip()}\n" if self.topic_prefix and context.title.strip() else ""
        return Prompt(user=f"{topic}Question: {query.question.strip()}", lead="\nAnswer:", system=QUERY_SYSTEM)

    def example(self) -> Context:
        return EXAMPLE

    def read_answer(self, text: str) -> str:
        return without_answer_label(super().read_answer(text))

    def _sequence(self, piece: str, context: Context) -> TrainingSequence:
        if self.questions == "queries" and (pair := question_and_answer(piece)):
            asked, answer = self.query_prompt(Query(pair[0], ()), context), pair[1]
            return TrainingSequence(answer, asked=asked, source=self.kind.prompt(context))
        return self._text(piece, context)

    def _text(self, piece: str, context: Context) -> TrainingSequence:
        heading = f"{title}\n" if self.title_prefix and (title := context.title.strip()) else ""
        return TrainingSequence(heading + piece, heading=heading, source=self.kind.prompt(context))
