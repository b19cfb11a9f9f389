"""What a task is: how a context becomes prompts, and how text of the policy becomes training data (SEAL, section 3).

A task works on text alone, without model, tokenizer or device. Your own task subclasses `Task` and is named in YAML by
`class_path`; its options are the keyword arguments of its `__init__`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from seal_lightning.results.table import Table
from seal_lightning.stamps.arguments import Remembers
from seal_lightning.text.thoughts import UNFINISHED, cut_thoughts
from seal_lightning.types import Context, Prediction, Prompt, Query, Rollout, SelfEdit, TrainingSequence


@dataclass(frozen=True, slots=True)
class AnswerFile:
    """A file of predictions in a format of the task's own.

    Attributes:
        name: Name of the file in the run folder.
        text: Content of the file.
        said: One line for the user about what is in it.
    """

    name: str
    text: str
    said: str


class Task(Remembers, ABC):
    """The five texts of a task, in the order in which a round needs them.

    >>> class Summary(Task):
    ...     def prompt(self, context):
    ...         return Prompt(user=f"Summarise.\\n\\n{context.passage}", lead="\\n\\nSummary:\\n")
    ...     def parse(self, text, context):
    ...         if not text.strip():
    ...             return SelfEdit(text=text, reason="empty text")
    ...         return SelfEdit(text=text, training_sequences=(TrainingSequence(text.strip()),))
    ...     def passage_sequences(self, context):
    ...         return (TrainingSequence(context.passage),)
    ...     def query_prompt(self, query, context):
    ...         return Prompt(user=query.question, lead="\\nAnswer:")
    >>> Summary().read_answer(" Paris.\\nQuestion: ...")
    'Paris.'

    Attributes:
        edit_kind: The name of the kind of self-edit that it asks for, where it is one of `by_edit`.
        asks_with_context: Whether queries are asked with the context in the prompt, as demonstrations are: no closed
            book, so there is no open one to compare it with.
    """

    edit_kind: str = ""
    asks_with_context: ClassVar[bool] = False

    @property
    def by_edit(self) -> Sequence[Task]:
        """The tasks that the self-edits of a context take in turn: itself alone, or one for each kind of self-edit."""
        return (self,)

    def for_edit(self, index: int) -> Task:
        """The task that asks for the edit of this index, and reads it."""
        tasks = self.by_edit
        return tasks[index % len(tasks)]

    @property
    def edit_schema(self) -> Mapping[str, Any] | None:
        """The JSON schema of a self-edit, where that is JSON: a sampler may be told to keep to it."""
        return None

    @abstractmethod
    def prompt(self, context: Context) -> Prompt:
        """The request for a self-edit of this context.

        A base model reads `user + lead` as they are, so a `lead` brings its own line breaks; an instruct model gets
        `system` and `user` through its chat template.
        """

    @property
    def by_rule(self) -> bool:
        """Whether no model is asked for its edits (one of `by_edit`): `written_by_rule` gives all of them."""
        return False

    def written_by_rule(self, context: Context, index: int) -> str | None:
        """The text of the context's edit of this index, where no model is to write it."""
        del context, index
        return None

    @abstractmethod
    def parse(self, text: str, context: Context) -> SelfEdit:
        """Read what the policy wrote. Never raises, whatever the text.

        `SelfEdit.text` is the text as it was given, which in a run has no thoughts in it (`read_edit`); the M-step
        trains the policy on it. Text that nothing can be trained on gives a `SelfEdit` with a short `reason` and no
        training sequences; reasons are counted in the metrics, so use a few fixed ones. What must be trained in any
        case (the passage) is added here too, and does not make an empty edit usable.
        """

    def read_edit(self, text: str, context: Context) -> SelfEdit:
        """Parse what a model wrote, without its thoughts; a text that ends within a thought cannot be used."""
        return without_thoughts(text, lambda said: self.parse(said, context))

    @abstractmethod
    def passage_sequences(self, context: Context) -> tuple[TrainingSequence, ...]:
        """What the "passage only" baseline trains on: the context without any self-edit."""

    @abstractmethod
    def query_prompt(self, query: Query, context: Context) -> Prompt:
        """The question to an adapted model, without what the model was to learn.

        For knowledge that is the passage. ARC asks with the demonstrations, which are the task, not what was learnt.
        """

    def read_answer(self, text: str) -> str:
        """The answer in what the model generated after `query_prompt`: its first line that is not empty.

        Thoughts do not count: a text that ends within a thought has no answer.
        """
        return first_line(cut_thoughts(text).text)

    def example(self) -> Context | None:
        """A made-up context, with which a policy's model card shows how an edit is asked for; None if there is none."""
        return None

    def query_prompts(self, query: Query, context: Context) -> tuple[Prompt, ...]:
        """Every way in which a query is asked, at least one; several where their answers vote."""
        return (self.query_prompt(query, context),)

    def read_answers(self, texts: Sequence[str], query: Query, context: Context) -> str:
        """The answer to a query from what the model generated after each of `query_prompts`, in order."""
        del query, context
        return self.read_answer(texts[0])

    def vote(self, answers: Sequence[str], alone: str) -> str:
        """The one answer to a query that several adapters answered: the most frequent, of equals the first.

        Args:
            answers: The answer read from each adapter.
            alone: The answer of the policy without an adapter, used if there are no others.
        """
        given = Counter(answer for answer in answers if answer.strip())
        return max(given, key=given.__getitem__) if given else alone

    def answer_file(self, predictions: Sequence[Prediction]) -> AnswerFile | None:
        """A file for the predictions of `seal predict` in a format of the task's own, if it has one."""
        del predictions
        return None

    def tables(self, validations: Mapping[int, Sequence[Rollout]]) -> Sequence[Table]:
        """Tables below that of the accuracies; none where the task has nothing to add.

        Args:
            validations: The rollouts of each validation by the number of rounds before it; a single one where
                `seal validate` or `seal test` asks.
        """
        del validations
        return ()


def without_thoughts(text: str, parse: Callable[[str], SelfEdit]) -> SelfEdit:
    """Parse what is left of a text without its thoughts; one that ends within a thought is rejected."""
    said = cut_thoughts(text)
    if said.unfinished:
        return SelfEdit(text=text, reason=UNFINISHED, thoughts=said.thoughts)
    return replace(parse(said.text), thoughts=said.thoughts)


def first_line(text: str) -> str:
    """The first line that is not empty; "" where there is none."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")
