"""Grading: what an answer scores (graders) and what a rollout is worth (reward).

The built-in graders have short names; one of the user's own is an object made from its `class_path`.
"""

from seal_lightning.errors import ConfigError
from seal_lightning.grading.base import Answer, Grader, Verdict, checked
from seal_lightning.grading.calibrated.grader import Calibrated
from seal_lightning.grading.judge import Judge
from seal_lightning.grading.lexical import F1, Contains, ExactMatch, Recall, new_content_recall
from seal_lightning.grading.reward import Reward, Weighted
from seal_lightning.grading.rubric import Rubric
from seal_lightning.grading.terms import RewardTerm

GRADERS: dict[str, type[Grader]] = {
    "calibrated": Calibrated,
    "recall": Recall,
    "contains": Contains,
    "exact_match": ExactMatch,
    "f1": F1,
    "judge": Judge,
}


def resolve(grader: str | Grader) -> Grader:
    """The grader of that short name with its default options; a grader is given back as it is."""
    if isinstance(grader, Grader):
        return grader
    if not isinstance(grader, str) or grader not in GRADERS:
        allowed = ", ".join(GRADERS)
        raise ConfigError(f"grader must be one of {allowed} or a Grader, got {grader!r}: use a name or a class_path")
    return GRADERS[grader]()


def name_of(grader: Grader) -> str:
    """A grader's short name, or the class of one that has none."""
    return next((name for name, kind in GRADERS.items() if type(grader) is kind), type(grader).__name__)


__all__ = [
    "F1",
    "GRADERS",
    "Answer",
    "Calibrated",
    "Contains",
    "ExactMatch",
    "Grader",
    "Judge",
    "Recall",
    "Reward",
    "RewardTerm",
    "Rubric",
    "Verdict",
    "Weighted",
    "checked",
    "name_of",
    "new_content_recall",
    "resolve",
]
