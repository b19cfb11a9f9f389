"""A language model as judge of answers, as in the paper (arXiv 2506.10943, section 4.2, where it is GPT-4.1).

The judge is behind an OpenAI-compatible endpoint, or it is the policy itself. How far it can be trusted is measured by
`seal grade` against a file of verdicts. The wording is the project's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from seal_lightning.errors import GradingError
from seal_lightning.grading.asking import AsksModel
from seal_lightning.grading.base import Answer, Grader, Verdict
from seal_lightning.types import Chooser, Prompt

SYSTEM = "You check answers to questions. You reply with exactly one word, yes or no."
OPTIONS = ("no", "yes")


def judge_prompt(answer: Answer) -> Prompt:
    """The request for a verdict on one answer."""
    golds = "\n".join(f"Accepted answer: {gold}" for gold in answer.golds)
    return Prompt(
        system=SYSTEM,
        user=(
            "Does the given answer to the question say the same as an accepted answer? Wording, spelling and further "
            "correct details do not matter. It is wrong if the point of the accepted answer is missing from it, "
            "contradicted by it, or left open.\n\n"
            f"Question: {answer.question}\n{golds}\nGiven answer: {answer.text.strip()}\n\n"
            "Is the given answer right? Reply yes or no."
        ),
        lead="\nVerdict:",
    )


class Judge(AsksModel, Grader):
    """1 where a language model finds the answer right, else 0. An empty answer is wrong without asking."""

    def grade(self, *, question: str, golds: Sequence[str], answer: str) -> float:
        return self.verdicts([Answer(question, tuple(golds), answer)])[0].score

    def verdicts(
        self,
        answers: Sequence[Answer],
        *,
        policy: Chooser | None = None,
        on_done: Callable[[int], None] = lambda count: None,
    ) -> list[Verdict]:
        for answer in answers:
            if not answer.golds:
                raise GradingError(f"cannot judge an answer to {answer.question!r} without accepted answers")
        said = [row for row, answer in enumerate(answers) if answer.text.strip()]
        if len(said) < len(answers):
            on_done(len(answers) - len(said))
        prompts = [judge_prompt(answers[row]) for row in said]
        decisions = self.decide(prompts, OPTIONS, policy=policy, on_done=on_done)
        verdicts = [Verdict(0.0, probability=0.0)] * len(answers)
        for row, decision in zip(said, decisions, strict=True):
            yes = decision.probabilities[OPTIONS.index("yes")]
            verdicts[row] = Verdict(float(yes > 0.5), probability=yes, usage=decision.usage)
        return verdicts
