import pytest

from seal_lightning.errors import DataError
from seal_lightning.tasks import Classification
from seal_lightning.tasks.classification import labelled_texts, split_example, text_prompt
from seal_lightning.types import Context, Prompt, Query, TrainingSequence

PASSAGE = "zip: light => good\n\n hem is thin => bad \n"
CONTEXT = Context("tents", "Tents", PASSAGE, (Query(" canvas was heavy\n", ("bad",)),))
EXAMPLES = (TrainingSequence(" => good", prompt="zip: light"), TrainingSequence(" => bad", prompt="hem is thin"))


def test_the_labels_of_the_examples_are_learnt():
    assert Classification().passage_sequences(CONTEXT) == EXAMPLES
    assert labelled_texts([CONTEXT]) == [("zip: light", "good"), ("hem is thin", "bad")]


def test_a_query_is_its_text_alone_without_a_chat_template():
    prompt = Classification().query_prompt(CONTEXT.queries[0], CONTEXT)
    assert prompt == text_prompt("canvas was heavy") == Prompt(user="canvas was heavy", plain=True)


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("zip: light => good", ("zip: light", "good")),
        ("a => b => c", ("a => b", "c")),
        ("no arrow", None),
        (" => good", None),
        ("text => ", None),
    ],
)
def test_an_example_is_a_text_and_a_label(line, parts):
    assert split_example(line) == parts


def test_an_edit_adds_labelled_texts_and_other_lines_are_left_out():
    edit = Classification().parse("Here are some:\npoles are slim => good\n", CONTEXT)
    assert edit.training_sequences == (TrainingSequence(" => good", prompt="poles are slim"), *EXAMPLES)
    assert edit.left_out == 1 and edit.status == "ok"
    assert len(Classification(append_passage=False).parse("a => b", CONTEXT).training_sequences) == 1


@pytest.mark.parametrize(("text", "reason"), [("nothing here", "no labelled texts"), (" \n", "empty text")])
def test_an_edit_without_labelled_texts_is_rejected(text, reason):
    edit = Classification().parse(text, CONTEXT)
    assert edit.reason == reason and not edit.training_sequences


def test_a_line_without_a_label_is_refused_as_an_example():
    with pytest.raises(
        DataError, match=r"context 'x': a line of its passage must be a text with its label.*got 'thin'"
    ):
        labelled_texts([Context("x", "", "thin\n")])


def test_a_policy_is_asked_for_more_of_the_sort():
    prompt = Classification().prompt(CONTEXT)
    assert prompt.user.endswith(PASSAGE.strip()) and "label" in prompt.user
