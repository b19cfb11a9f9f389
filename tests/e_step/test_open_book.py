"""Queries asked with the document in view: what the prompt is, which part of a long document fits, what is counted."""

from dataclasses import replace

import pytest

from seal_lightning.e_step.closed_book import Answered, ask_closed_book
from seal_lightning.e_step.open_book import ask_open_book, fitting_passage, open_book_prompt
from seal_lightning.e_step.step import EStep
from seal_lightning.grading import ExactMatch, Reward
from seal_lightning.inner_loop.loop import InnerLoop
from seal_lightning.lab import LabPassages
from seal_lightning.models.source import ModelSource
from seal_lightning.policy.loading import load_policy
from seal_lightning.sampling import WrittenEdits
from seal_lightning.tasks import ArcTask, Knowledge
from seal_lightning.types import Context, Prompt, Query

BRIDGE = Context("bridge", "The Harrow Bridge", "It was opened in 1874.\n", (Query("When was it opened?", ("1874",)),))
STEP = EStep(Knowledge(), WrittenEdits(), InnerLoop(), ExactMatch(), Reward(), max_answer_tokens=4)


@pytest.fixture(scope="module")
def policy():
    return load_policy(ModelSource(name="lab"), None, "cpu")


def test_the_passage_stands_under_its_title_before_the_question_of_the_closed_book():
    assert open_book_prompt(Knowledge(), BRIDGE.queries[0], BRIDGE) == Prompt(
        user=("The Harrow Bridge\nIt was opened in 1874.\n\nTopic: The Harrow Bridge\nQuestion: When was it opened?"),
        lead="\nAnswer:",
        system="Answer the question in a few words.",
    )
    untitled = replace(BRIDGE, title=" ")
    assert open_book_prompt(Knowledge(), BRIDGE.queries[0], untitled).user == (
        "It was opened in 1874.\n\nQuestion: When was it opened?"
    )


def test_a_task_that_asks_with_the_context_in_its_prompt_has_nothing_to_add():
    task, query = ArcTask(), Query("12\n34", ("21\n43",))
    assert open_book_prompt(task, query, task.example()) == task.query_prompt(query, task.example())


def test_the_lab_model_answers_more_with_the_passage_in_view(policy):
    contexts = LabPassages("test", count=3).read()
    closed, opened = ask_closed_book(STEP, policy, contexts), ask_open_book(STEP, policy, contexts)
    assert [sum(one.scores) for one in closed] == [0, 1, 1]
    assert [sum(one.scores) for one in opened] == [2, 2, 2]
    assert [one.in_part for one in opened] == [0, 0, 0]


def test_of_a_document_that_does_not_fit_the_pieces_most_like_the_question_are_shown_in_its_order(policy):
    filler = [f"Nothing is known of place {number}. " * 20 for number in range(6)]
    told = ["The ferry to Oxley left at nine. " * 20, "Rosalind built the mill. " * 25]
    passage = "\n\n".join([*filler[:2], told[1], *filler[2:4], told[0], *filler[4:]])
    asked = Query("When did the ferry to Oxley leave, and who built the mill?", ("nine",))
    context = Context("long", "Oxley", passage, (asked,))
    whole = len(policy.encode(open_book_prompt(STEP.task, asked, context).user))
    assert fitting_passage(STEP.task, policy, asked, context, room=2 * whole) is context
    part = fitting_passage(STEP.task, policy, asked, context, room=whole // 3)
    assert part.passage.index("Rosalind") < part.passage.index("ferry")
    assert fitting_passage(STEP.task, policy, asked, context, room=10).passage == ""


def test_answers_with_a_part_of_the_document_in_view_are_counted(policy):
    town, other = LabPassages("test", count=2).read()
    long = replace(other, passage="\n\n".join([other.passage] * 40))
    opened = ask_open_book(STEP, policy, [town, long])
    assert [one.in_part for one in opened] == [0, 6]


def test_counts_of_answers_are_read_back_and_have_to_be_whole():
    assert Answered.from_dict({"answers": ["a"], "scores": [1.0], "in_part": 1}) == Answered(("a",), (1.0,), 0, 1)
    with pytest.raises(ValueError, match="in_part counts answers and must be whole, got '1'"):
        Answered.from_dict({"answers": ["a"], "scores": [1.0], "in_part": "1"})
