"""The proxy reward: a self-edit is scored by a rubric, without training an adapter (arXiv 2506.10943, appendix).

Minutes instead of hours: a model reads passage and edit and gives a mark for each criterion. In the paper this reached
most of what the real reward did. The criteria are the project's own and can be written in YAML.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from types import MappingProxyType

from seal_lightning.endpoints import Endpoint
from seal_lightning.errors import ConfigError
from seal_lightning.grading.asking import AsksModel, Decision
from seal_lightning.grading.base import Verdict
from seal_lightning.types import Chooser, Context, Prompt, Usage

MARKS = ("1", "2", "3", "4", "5")
CRITERIA: Mapping[str, str] = MappingProxyType(
    {
        "faithful": "everything in the notes is said by the passage or follows from it",
        "complete": "the notes hold every fact of the passage that someone could be asked about",
        "varied": "the notes state important facts more than once, in different words and from different sides",
        "self-contained": "each line of the notes can be understood by someone who has not seen the passage",
    }
)


class Rubric(AsksModel):
    """Marks a self-edit from 0 to 1: the mean over criteria, each marked from 1 to 5.

    Args:
        criteria: What is marked, by name: a sentence about "the notes" (the edit) and "the passage".
        endpoint: The model that marks; null asks the policy itself, whose expected mark counts.
        attempts: How often the endpoint is asked for one mark, until its reply is a number from 1 to 5.
        max_tokens: Longest reply of the endpoint; a model that thinks first needs more.
    """

    def __init__(
        self,
        *,
        criteria: dict[str, str] | None = None,
        endpoint: Endpoint | None = None,
        attempts: int = 3,
        max_tokens: int = 16,
    ) -> None:
        super().__init__(endpoint=endpoint, attempts=attempts, max_tokens=max_tokens)
        self.criteria = dict(CRITERIA if criteria is None else criteria)
        if not self.criteria:
            raise ConfigError("criteria must name at least one, got none: leave it out for the built-in ones")

    def verdicts(
        self,
        edits: Sequence[tuple[Context, str]],
        *,
        policy: Chooser | None = None,
        on_done: Callable[[int], None] = lambda count: None,
    ) -> list[Verdict]:
        """Mark edits, each with its context; `reasons` are the marks by criterion, in [0, 1].

        Raises:
            GradingError: A reply could not be read.
            EndpointError: The endpoint did not answer.
        """
        prompts = [_prompt(context, text, wanted) for context, text in edits for wanted in self.criteria.values()]
        left = len(self.criteria)

        def count(marks: int) -> None:  # an edit is done when all of its marks are, give or take their order
            nonlocal left
            left -= marks
            while left <= 0:
                left += len(self.criteria)
                on_done(1)

        made = iter(self.decide(prompts, MARKS, policy=policy, on_done=count))
        return [self._verdict([next(made) for _ in self.criteria]) for _ in edits]

    def _verdict(self, decisions: Sequence[Decision]) -> Verdict:
        steps = len(MARKS) - 1
        marks = {
            name: sum(share * place / steps for place, share in enumerate(decision.probabilities))
            for name, decision in zip(self.criteria, decisions, strict=True)
        }
        usage = sum((decision.usage for decision in decisions), Usage())
        return Verdict(fmean(marks.values()), reasons=marks, usage=usage)


def _prompt(context: Context, text: str, wanted: str) -> Prompt:
    return Prompt(
        system="You mark study notes. You reply with exactly one number from 1 to 5.",
        user=(
            "Someone read a passage and wrote notes, from which another person has to learn what the passage says "
            f"without seeing it. How far is it true that {wanted}?\n\n"
            f"Title: {context.title.strip()}\nPassage: {context.passage.strip()}\n\nNotes:\n{text.strip()}\n\n"
            "1 means not at all, 3 in part, 5 entirely. Reply with one number from 1 to 5."
        ),
        lead="\nMark:",
    )
