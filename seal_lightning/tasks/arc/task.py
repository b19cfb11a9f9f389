"""ARC as a task: the policy chooses augmentations and training settings for a puzzle (SEAL, section 4.1).

The adapter is trained on smaller puzzles that are made from the demonstrations, and asked as it was trained: in plain
text, with the demonstrations before the test's input. What scores an adaptation is the output grid alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from seal_lightning.errors import ConfigError, check_count
from seal_lightning.results.table import Table
from seal_lightning.seeding import derive_seed
from seal_lightning.tasks.arc.answers import best_tries, read_votes, submission
from seal_lightning.tasks.arc.augmentations import SYMMETRIES, Augmentation, augment_pair
from seal_lightning.tasks.arc.building import training_puzzles
from seal_lightning.tasks.arc.edit import ArcLimits, Loss, read_edit
from seal_lightning.tasks.arc.grids import Grid, grid_text
from seal_lightning.tasks.arc.puzzles import Pair, demonstrations_of, input_of, write_demonstrations, write_input
from seal_lightning.tasks.arc.tables import arc_tables
from seal_lightning.tasks.base import AnswerFile, Task, without_thoughts
from seal_lightning.types import (
    Context,
    Directives,
    Prediction,
    Prompt,
    Query,
    Rollout,
    Schedule,
    SelfEdit,
    TrainingSequence,
)

INSTRUCTION = (
    "Below are examples of a rule that turns an input grid into an output grid. Before a new input is to be solved, a "
    "small adapter will be trained on puzzles that are made from these examples. Choose how, as one JSON object with "
    "these fields: basic, size, chained and repeated (true or false) say which augmentations to use: basic turns, "
    "mirrors and shifts the grids, size doubles their height, width or both, chained does one after the other, and "
    "repeated tiles them; loss is outputs or all and says on which tokens to train; learning_rate is a number and "
    "epochs a whole number. At most {max_steps} training steps are allowed."
)
EXAMPLE = (
    '{"basic": true, "size": false, "chained": false, "repeated": false, "loss": "outputs", "learning_rate": 0.0001, '
    '"epochs": 2}'
)
MIRRORED = "Input:\n12\n34\nOutput:\n21\n43\n\nInput:\n507\n080\nOutput:\n705\n080"  # a puzzle of two demonstrations


class ArcTask(Task):
    """Solves puzzles of grids after test-time training that the policy chooses.

    Args:
        grids: How grids are written: `digits`, `spaced` (digits with spaces), or `letters` (with spaces; where the
            tokenizer takes several digits together, as that of Llama 3).
        votes: Number of ways in which a test is asked, as it stands and turned or mirrored; the most frequent answer
            counts, and the next one is a second try. 1 asks once.
        limits: Limits of the learning rate and the epochs that are applied.
        max_steps: An edit that asks for more optimizer steps is rejected (paper: 375).
        max_puzzles: Most training puzzles of an edit (paper: 250).
        colour_permutations: Copies of each training puzzle with other colours.
        example_permutations: Copies of each with its demonstrations in another order.
        batch_size: Training puzzles a step (paper: 2).
        schedule: Schedule of the learning rate (paper: cosine).
        instruction: The request to the policy in your own words; null takes the built-in one.
    """

    asks_with_context = True

    def __init__(
        self,
        *,
        grids: str = "digits",
        votes: int = 1,
        limits: ArcLimits = ArcLimits(),
        max_steps: int = 375,
        max_puzzles: int = 250,
        colour_permutations: int = 1,
        example_permutations: int = 1,
        batch_size: int = 2,
        schedule: Schedule = "cosine",
        instruction: str | None = None,
    ) -> None:
        if check_count("votes", votes) > len(SYMMETRIES):
            raise ConfigError(f"votes must be at most {len(SYMMETRIES)}, got {votes}: a grid has no more symmetries")
        if schedule not in get_args(Schedule):
            names = ", ".join(get_args(Schedule))
            raise ConfigError(f"schedule must be one of {names}, got {schedule!r}: use one of them")
        self.text = grid_text(grids)
        self.ways = tuple(SYMMETRIES)[:votes]  # the first one leaves a grid as it is
        self.limits = limits
        self.max_steps = check_count("max_steps", max_steps)
        self.max_puzzles = check_count("max_puzzles", max_puzzles)
        self.colour_permutations = check_count("colour_permutations", colour_permutations, least=0)
        self.example_permutations = check_count("example_permutations", example_permutations, least=0)
        self.batch_size = check_count("batch_size", batch_size)
        self.schedule: Schedule = schedule
        self.instruction = INSTRUCTION.format(max_steps=max_steps) if instruction is None else instruction.strip()

    @property
    def edit_schema(self) -> Mapping[str, Any]:
        return self.limits.schema()

    def prompt(self, context: Context) -> Prompt:
        shown = write_demonstrations(demonstrations_of(context), self.text)
        return Prompt(user=f"{self.instruction}\nFor example: {EXAMPLE}\n\n{shown}", lead="\n\n")

    def parse(self, text: str, context: Context) -> SelfEdit:
        return without_thoughts(text, lambda said: self._parse(said, context))

    def _parse(self, text: str, context: Context) -> SelfEdit:
        edit, asked, reason = read_edit(text, self.limits)
        if edit is None:
            return SelfEdit(text=text, asked=asked, reason=reason)
        applied = Directives(edit.epochs, edit.learning_rate, self.batch_size, self.schedule)
        sequences = self._sequences(context, families=edit.families, loss=edit.loss)
        if edit.epochs * -(-len(sequences) // self.batch_size) > self.max_steps:
            return SelfEdit(text=text, asked=asked, applied=applied, reason="too many training steps")
        return SelfEdit(text=text, training_sequences=sequences, asked=asked, applied=applied)

    def passage_sequences(self, context: Context) -> tuple[TrainingSequence, ...]:
        """The demonstrations alone: puzzles without augmentations, loss on outputs, settings of the inner loop."""
        return self._sequences(context, families=(), loss="outputs", copies=False)

    def query_prompt(self, query: Query, context: Context) -> Prompt:
        return self.query_prompts(query, context)[0]

    def query_prompts(self, query: Query, context: Context) -> tuple[Prompt, ...]:
        demonstrations, test = demonstrations_of(context), input_of(query, context)
        return tuple(Prompt(self._request(demonstrations, test, way), plain=True) for way in self.ways)

    def read_answer(self, text: str) -> str:
        return read_votes([text], [self.ways[0].undo], self.text)

    def read_answers(self, texts: Sequence[str], query: Query, context: Context) -> str:
        return read_votes(texts, [way.undo for way in self.ways], self.text)

    def example(self) -> Context:
        return Context(id="example", title="example", passage=MIRRORED)

    def vote(self, answers: Sequence[str], alone: str) -> str:
        return best_tries(answers, alone)

    def answer_file(self, predictions: Sequence[Prediction]) -> AnswerFile:
        return submission(predictions)

    def tables(self, validations: Mapping[int, Sequence[Rollout]]) -> tuple[Table, ...]:
        return arc_tables(validations)

    def _request(self, demonstrations: Sequence[Pair], test: Grid, way: Augmentation) -> str:
        """Demonstrations and an input, to be continued with its output."""
        shown = write_demonstrations([augment_pair(pair, way) for pair in demonstrations], self.text)
        asked = write_input(way.apply(test), self.text)
        return f"{shown}\n\n{asked}" if shown else asked

    def _sequences(
        self, context: Context, *, families: Sequence[str], loss: Loss, copies: bool = True
    ) -> tuple[TrainingSequence, ...]:
        puzzles = training_puzzles(
            demonstrations_of(context),
            families=families,
            colour_permutations=self.colour_permutations if copies else 0,
            example_permutations=self.example_permutations if copies else 0,
            limit=self.max_puzzles,
            seed=derive_seed("training puzzles", context.id),
        )
        sequences = []
        for puzzle in puzzles:
            (test,) = puzzle.tests
            request = self._request(puzzle.demonstrations, test.input, self.ways[0])
            output = self.text.encode(test.output)
            whole = loss == "all"
            sequences.append(TrainingSequence(request + output if whole else output, "" if whole else request))
        return tuple(sequences)
