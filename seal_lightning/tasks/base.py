"""What a task is: how a context becomes prompts, and how text of the policy becomes training data (SEAL, section 3).

A task is pure text work without model, tokenizer or device. A task of one's own subclasses `Task` and is named in YAML
by `class_path`; its options are the keyword arguments of its `__init__`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from seal_lightning.results.table import Table
from seal_lightning.stamps.arguments import Remembers
from seal_lightning.text.thoughts import UNFINISHED, cut_thoughts
from seal_lightning.types import Context, Prediction, Prompt, Query, Rollout, SelfEdit, TrainingSequence


@dataclass(frozen=True, slots=True)
class AnswerFile:
    """A file of predictions in a form of the task's own.

    Attributes:
        name: Of the file in the run folder.
        text: Its content.
        said: What is in it, in one line for the user.
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
    """

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

    @abstractmethod
    def parse(self, text: str, context: Context) -> SelfEdit:
        """Read what the policy wrote. Never raises, whatever the text.

        `SelfEdit.text` is the text as it was given: the M-step trains the policy on it. In a run that is the text
        without thoughts (`read_edit`). Text that nothing can be
        trained on gives a `SelfEdit` with a short `reason` and no training sequences; reasons are counted in the
        metrics, so use a few fixed ones. What must be trained in any case (the passage) is added here too, and does not
        make an empty edit usable.
        """

    def read_edit(self, text: str, context: Context) -> SelfEdit:
        """Parse what a model wrote, without its thoughts; a text that ends within a thought cannot be used."""
        return without_thoughts(text, lambda said: self.parse(said, context))

    @abstractmethod
    def passage_sequences(self, context: Context) -> tuple[TrainingSequence, ...]:
        """What the "passage only" baseline trains on: the context without any self-edit."""

    @abstractmethod
    def query_prompt(self, query: Query, context: Context) -> Prompt:
        """The question to an adapted model, without what it was to learn: that is to be scored.

        For knowledge this is the passage. ARC asks with the demonstrations, which are the task and not what was learnt.
        """

    def read_answer(self, text: str) -> str:
        """The answer in what the model generated after `query_prompt`: its first line that is not empty.

        Thoughts are no answer, so there is none in a text that ends within one.
        """
        return first_line(cut_thoughts(text).text)

    def example(self) -> Context | None:
        """A made-up context with which cards of policies show how an edit is asked for; None where there is none."""
        return None

    def query_prompts(self, query: Query, context: Context) -> tuple[Prompt, ...]:
        """All ways in which a query is asked, at least one: a task that lets answers vote asks in several."""
        return (self.query_prompt(query, context),)

    def read_answers(self, texts: Sequence[str], query: Query, context: Context) -> str:
        """The one answer in what the model generated after each of `query_prompts`, in their order."""
        del query, context
        return self.read_answer(texts[0])

    def vote(self, answers: Sequence[str], alone: str) -> str:
        """The one answer to a query that several adapters answered: the most frequent, of equals the first.

        Args:
            answers: What was read of each adapter's answer.
            alone: That of the policy without an adapter, for want of others.
        """
        given = Counter(answer for answer in answers if answer.strip())
        return max(given, key=given.__getitem__) if given else alone

    def answer_file(self, predictions: Sequence[Prediction]) -> AnswerFile | None:
        """The predictions of `seal predict` in a form of the task's own, beside `answers.jsonl`; None for none."""
        del predictions
        return None

    def tables(self, validations: Mapping[int, Sequence[Rollout]]) -> Sequence[Table]:
        """What else a run's rollouts tell; empty where the task has nothing to add.

        Args:
            validations: The rollouts of each validation by the number of rounds before it; one where `seal validate` or
                `seal test` asks.
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
