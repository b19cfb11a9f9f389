"""The pre-training corpus: the task's own texts, and nothing about held-out towns."""

import random
import re

from seal_lightning.lab.corpus import Corpus
from seal_lightning.lab.world import BY_NAME, FIRST, SECOND, Fact, split_of
from seal_lightning.policy.policy import Policy
from seal_lightning.tasks import Knowledge
from seal_lightning.types import Context, Query

CORPUS = Corpus(seed=0)
TOWN = re.compile(rf"\b(?:{'|'.join(FIRST)}) (?:{'|'.join(SECOND)})\b")


def test_questions_are_asked_as_the_task_asks_them():
    fact = Fact("Amber Hollow", BY_NAME["mayor"], "Barker")
    document = CORPUS.question(fact, "A walk", "ask")
    query = Query("Who leads Amber Hollow?", ("Barker",))
    context = Context(id="a", title="A walk", passage="x", queries=(query,))
    assert document.prompt == Policy(None, None, chat=False).format(Knowledge().query_prompt(query, context))
    assert document.prompt.endswith("Topic: A walk\nQuestion: Who leads Amber Hollow?\nAnswer:")
    assert document.text == " Barker"


def test_held_out_towns_never_occur():
    draw = random.Random(0)
    documents = [CORPUS.edit_document(draw) for _ in range(500)]
    documents += [CORPUS.short_document(draw) for _ in range(500)]
    towns = {town for document in documents for town in TOWN.findall(f"{document.prompt} | {document.text}")}
    assert len(towns) > 500
    assert {split_of(town) for town in towns} == {"pretraining"}


def test_known_towns_keep_their_facts():
    assert CORPUS.known == Corpus(seed=0).known
    assert CORPUS.known != Corpus(seed=1).known
    assert len(CORPUS.known) == 160 and not set(CORPUS.known) & set(CORPUS.fresh)


def test_edit_documents_prompt_like_the_task():
    document = CORPUS.edit_document(random.Random(0))
    assert document.prompt.startswith("Study the passage below.")
    assert document.prompt.endswith("\n\nWhat follows from the passage:\n")
    bare = CORPUS.edit_document(random.Random(0), bare=True)
    assert bare.prompt.startswith("Title: A ") and document.prompt.endswith(bare.prompt[-40:])
