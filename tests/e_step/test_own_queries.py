"""Queries that a model writes for itself: which of them are kept, and how the model checks them."""

import pytest

from seal_lightning.e_step.own_queries import QueryWriter
from seal_lightning.errors import ConfigError
from seal_lightning.grading import Recall
from seal_lightning.types import Context, Usage, Written

TARN = Context(
    id="tarn",
    title="Tarn",
    passage="Tarn was founded by Ada Merrow in 1204. It lies on the Gorn and sells wax and honey.",
)


class Scripted:
    """Writes the given texts, one call after another, and remembers the prompts."""

    def __init__(self, *texts: str) -> None:
        self.texts = list(texts)
        self.prompts: list = []

    def write(self, prompts, *, max_tokens):
        self.prompts += prompts
        return [Written(self.texts.pop(0), Usage(requests=1)) for _ in prompts]

    def choose(self, prompts, options):
        raise AssertionError("nobody asks for a choice")


def pairs(*rows: tuple[str, str]) -> str:
    return "\n".join(f"Question: {question}\nAnswer: {answer}" for question, answer in rows)


def made(*rows, answers=(), **options):
    writer = Scripted(pairs(*rows), *answers)
    (one,) = QueryWriter(**{"check": bool(answers), **options}).write([TARN], policy=writer, grader=Recall())
    return one, writer


@pytest.mark.parametrize(
    ("question", "answer", "reason"),
    [
        ("Who founded Tarn?", "Ada Merrow", ""),
        ("When was Tarn founded?", "in 1204", ""),
        ("Tarn lies on the Gorn.", "Gorn", "no question of its own"),
        ("What does the passage say about Tarn?", "sells wax", "no question of its own"),
        ("What was mentioned above?", "wax", "no question of its own"),
        ("Who founded Tarn?", "Bert Lodra", "answer not in the passage"),
        ("Was it Ada Merrow who founded Tarn?", "Ada Merrow", "answer in the question"),
        ("What is told of Tarn?", TARN.passage, "answer too long"),
    ],
)
def test_what_is_dropped_and_why(question, answer, reason):
    one, _ = made((question, answer))
    assert one.dropped == ({reason: 1} if reason else {})
    assert [(query.question, query.golds) for query in one.queries] == ([] if reason else [(question, (answer,))])


def test_a_query_that_repeats_another_is_dropped():
    one, _ = made(("Who founded Tarn?", "Ada Merrow"), ("Tarn was founded by who?", "Ada"), ("What sells?", "wax"))
    assert [query.question for query in one.queries] == ["Who founded Tarn?", "What sells?"]
    assert one.dropped == {"repeats another": 1}


def test_a_query_is_answered_again_with_the_passage_in_view():
    rows = [("Who founded Tarn?", "Ada Merrow"), ("What does Tarn sell?", "wax and honey")]
    one, writer = made(*rows, answers=("It was Ada Merrow.\nQuestion: what else?", "It sells timber."))
    assert [query.question for query in one.queries] == ["Who founded Tarn?"]
    assert one.dropped == {"answered otherwise with the passage in view": 1}
    assert one.usage == Usage(requests=3)
    assert all(TARN.passage in prompt.user for prompt in writer.prompts)


def test_at_most_count_and_none_from_text_without_questions():
    rows = [("Who founded Tarn?", "Ada Merrow"), ("What does Tarn sell?", "wax"), ("Which river is there?", "Gorn")]
    assert len(made(*rows, count=2)[0].queries) == 2
    assert made()[0].queries == ()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"count": 0}, "count must be a whole number of at least 1, got 0"),
        ({"similarity": 0}, "similarity must be above 0 and at most 1, got 0"),
        ({"edit": "facts"}, "edit must be a kind that is read as questions, got parser 'lines'"),
    ],
)
def test_options_are_checked(options, said):
    with pytest.raises(ConfigError, match=said):
        QueryWriter(**options)
