"""Text classification: a context is a handful of labelled texts of one sort, its queries are more texts of that sort.

What a label depends on differs from sort to sort, so that the examples have to be read. An example is a line of the
passage, `text => label`; a query is answered by a label alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from seal_lightning.errors import DataError
from seal_lightning.tasks.base import Task
from seal_lightning.text.escaping import shortened
from seal_lightning.types import Context, Prompt, Query, SelfEdit, TrainingSequence

ARROW = " => "


class Classification(Task):
    """Learns from labelled texts how others of their sort are labelled.

    Args:
        append_passage: Train on the context's own examples too, after those that an edit adds.
    """

    def __init__(self, *, append_passage: bool = True) -> None:
        self.append_passage = append_passage

    def prompt(self, context: Context) -> Prompt:
        request = f"Write more texts of this sort, each with its label, one a line.\n\n{context.passage.strip()}"
        return Prompt(user=request, lead="\n")

    def parse(self, text: str, context: Context) -> SelfEdit:
        """Each line that is a labelled text is trained on; other lines are left out."""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        examples = [line for line in lines if split_example(line)]
        if not examples:
            return SelfEdit(text=text, reason="no labelled texts" if lines else "empty text")
        sequences = tuple(map(_sequence, examples))
        if self.append_passage:
            sequences += self.passage_sequences(context)
        return SelfEdit(text=text, training_sequences=sequences, left_out=len(lines) - len(examples))

    def passage_sequences(self, context: Context) -> tuple[TrainingSequence, ...]:
        return tuple(_sequence(line.strip()) for line in context.passage.splitlines() if line.strip())

    def query_prompt(self, query: Query, context: Context) -> Prompt:
        return text_prompt(query.question)


def text_prompt(text: str) -> Prompt:
    """A text to be classified as a model reads it: alone, so that its last token is that of the text."""
    return Prompt(user=text.strip(), plain=True)


def split_example(line: str) -> tuple[str, str] | None:
    """The text and the label of a line; None where it is not an example.

    >>> split_example("The soup was thin => bad")
    ('The soup was thin', 'bad')
    """
    text, arrow, label = (part.strip() for part in line.rpartition(ARROW))
    return (text, label) if arrow and text and label else None


def labelled_texts(contexts: Sequence[Context]) -> list[tuple[str, str]]:
    """The examples of some contexts, each with its label.

    Raises:
        DataError: A line of a passage is not one.
    """
    found: list[tuple[str, str]] = []
    for context in contexts:
        for line in filter(str.strip, context.passage.splitlines()):
            example = split_example(line)
            if example is None:
                raise DataError(
                    f"context {shortened(context.id, 60)!r}: a line of its passage must be a text with its label, "
                    f"text{ARROW}label, got {shortened(line, 60)!r}: write it so"
                )
            found.append(example)
    return found


def _sequence(line: str) -> TrainingSequence:
    """An example whose label is learnt; a line without one is learnt as a whole."""
    example = split_example(line)
    return TrainingSequence(f"{ARROW}{example[1]}", prompt=example[0]) if example else TrainingSequence(line)
