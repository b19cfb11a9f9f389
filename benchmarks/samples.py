"""Rollouts that several tests begin with."""

from seal_lightning.types import Rollout

# Far Fork is a town of the lab: an edit about its passage wins one of two queries.
FAR_FORK = Rollout(
    round=0,
    context_id="a",
    edit_index=0,
    repeat=0,
    seed=0,
    prompt="Study.\n\nTitle: T\nPassage: Far Fork sells salt.\n\nWhat follows:\n",
    text="vague",
    status="ok",
    questions=("What does it sell?", "Who leads it?"),
    golds=(("salt",), ("Barker",)),
    answers=("salt", "Nobody"),
    scores=(1.0, 0.0),
    score=0.5,
)
# The least that a rollout says.
BARE = Rollout(round=0, context_id="a", edit_index=0, repeat=0, seed=0, prompt="", text="", status="ok")
