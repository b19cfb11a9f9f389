"""Units of passages that share their batches on a GPU: the journal is that of one unit at a time."""

from dataclasses import replace
from functools import partial

import pytest

from seal_lightning.commands.adapt import edits
from seal_lightning.commands.adapt.edits import EditChoice, lessons, write_edits
from seal_lightning.commands.adapt.sharing import Sharing
from seal_lightning.data.documents import Document
from seal_lightning.e_step.own_queries import QueryWriter, WrittenQueries
from seal_lightning.e_step.plan import Plan
from seal_lightning.e_step.step import EStep
from seal_lightning.e_step.variants import step_for
from seal_lightning.grading import Contains, Reward
from seal_lightning.inner_loop.loop import InnerLoop
from seal_lightning.models.random_models import build_tiny
from seal_lightning.models.source import ModelSource
from seal_lightning.policy.policy import Policy
from seal_lightning.progress.screen import Screen
from seal_lightning.records.journal import Journal
from seal_lightning.sampling import LocalSampler
from seal_lightning.tasks import Knowledge
from seal_lightning.types import Context, Query, Rollout

LOOP = InnerLoop(rank=2, alpha=4.0, epochs=2, learning_rate=0.01, max_adapters=4)
PLAIN = EStep(Knowledge(), LocalSampler(max_new_tokens=12), LOOP, Contains(), Reward(), Plan(2, 1), max_answer_tokens=6)
WORK = [
    tuple(
        Context(name, name.title(), f"The {name} is old.", (Query(f"What is the {name}?", ("old",)),) if asked else ())
        for name, asked in unit
    )
    for unit in ((("lamp", True), ("tarn", False)), (("moor", False),), (("ford", True), ("gate", False)))
]


class Titles(QueryWriter):
    """Asks about what it read; nothing about the moor."""

    def write(self, contexts, *, policy, grader, on_wait=lambda: None):
        return [
            WrittenQueries(() if one.id == "moor" else (Query(f"Who owns the {one.id}?", ("Ada",)),))
            for one in contexts
        ]


OWN = step_for(replace(PLAIN.plan, queries="own"), PLAIN, query_writer=Titles())
CHOICES = {"as they come": EditChoice("edits", PLAIN, OWN, None), "rewarded": EditChoice("edits", PLAIN, OWN, 1)}


def alone(policy, *, stopping):
    return Sharing(1, policy, (ModelSource("random/llama"), None), screen=Screen(), stopping=stopping)


def told(asked, most):
    """Note that somebody asked whether the command is to stop; it is not."""
    asked.append(most)
    return False


@pytest.mark.parametrize("name", CHOICES)
def test_the_journal_is_that_of_one_unit_at_a_time(tmp_path, monkeypatch, name):
    found = {}
    for most in (1, 3):
        monkeypatch.setattr(edits, "units_that_fill", lambda *args, most=most, **named: most)
        model, tokenizer = build_tiny("llama")
        policy = Policy(model.requires_grad_(False), tokenizer, chat=False)
        ids = [[context.id for context in unit] for unit in WORK]
        journal = Journal(tmp_path / str(most), "adapt", stamp={}, contexts=ids)
        asked: list[int] = []
        sharing = alone(policy, stopping=partial(told, asked, most))
        work, screen = dict(enumerate(WORK)), Screen()
        write_edits(policy, work, CHOICES[name], journal, screen=screen, sharing=sharing, check_stop=lambda: None)
        assert len(asked) == 3 // most
        found[most] = {n: [replace(one, seconds={}) for one in journal.units[n]] for n in journal.units}
    assert found[3] == found[1]
    assert [len(rollouts) for rollouts in found[3].values()] == [4, 2, 4]
    questions = {one.context_id: one.questions for rollouts in found[3].values() for one in rollouts}
    if name == "rewarded":
        assert questions["lamp"] == ("What is the lamp?",) and questions["gate"] == ("Who owns the gate?",)
        assert questions["moor"] == ()


def test_all_edits_of_a_passage_are_one_lesson_each_read_in_the_way_of_its_kind():
    task = Knowledge(kinds=["facts", "self-qa"], append_passage=False)
    (passage,) = WORK[1]
    texts = ["The moor is old.\nIt is wet.", "Q: Is it old?\nA: Yes.", "The moor is old.\nIt is wide."]
    rollouts = [
        Rollout(round=0, context_id="moor", edit_index=index, repeat=0, seed=index, prompt="", text=text, status="ok")
        for index, text in enumerate(texts)
    ]
    (lesson,) = lessons(task, [Document(passage, (passage,))], rollouts, CHOICES["as they come"])
    assert lesson.edits == 3 and [one.text for one in lesson.training_sequences] == [
        "Moor\nThe moor is old.",
        "Moor\nIt is wet.",
        "Moor\nQuestion: Is it old?\nAnswer: Yes.",
        "Moor\nIt is wide.",  # and what was said before only once
    ]
