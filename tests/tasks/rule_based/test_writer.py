"""A whole edit by rule, as text."""

import pytest

from seal_lightning.tasks import Knowledge
from seal_lightning.tasks.rule_based.writer import gaps, is_english, write_by_rule
from seal_lightning.types import Context, Prompt, TrainingSequence

PASSAGE = "tidekit is a Python library. It was written by Carmen Oyelaran in 2019.\n\nLicence: MPL-2.0"
TIDEKIT = Context("tidekit", "tidekit", PASSAGE)
STATEMENTS = """\
tidekit is a Python library.
tidekit was written by Carmen Oyelaran in 2019.
The licence of tidekit is MPL-2.0."""


def test_statements_and_questions():
    text = write_by_rule(TIDEKIT)
    assert text.startswith(STATEMENTS + "\nQuestion: What is a Python library?\nAnswer: tidekit\n")
    assert "Question: Who wrote tidekit?\nAnswer: Carmen Oyelaran\n" in text
    assert "Question: When was tidekit written?\nAnswer: 2019\n" in text
    assert text.endswith("Question: What is the licence of tidekit?\nAnswer: MPL-2.0")
    assert "___" not in text  # every name and number is asked for


def test_what_no_question_asks_for_is_a_gap():
    text = write_by_rule(Context("x", "Trip", "In 1931 the hut above Corrie was rebuilt."))
    assert text.splitlines()[1:] == [
        "Question: In ___ the hut above Corrie was rebuilt.",
        "Answer: 1931",
        "Question: In 1931 the hut above ___ was rebuilt.",
        "Answer: Corrie",
    ]


def test_the_edits_of_a_context_differ_and_take_turns():
    tidekit = Context("tidekit", "tidekit", f"{PASSAGE}\n\nIn Oslo it is not sold.")
    texts = [write_by_rule(tidekit, index) for index in range(4)]
    assert len(set(texts[:3])) == 3 and texts[3] == texts[0]
    assert "Who wrote" in texts[0] and "Who wrote" in texts[1] and "Who wrote" not in texts[2]
    assert "Question: tidekit was written by ___ in 2019.\nAnswer: Carmen Oyelaran" in texts[2]


@pytest.mark.parametrize(
    ("passage", "told"),
    [
        ("The mill was built by Ida Brandt. She was born in Ulm.", "She was born in Ulm."),
        ('"The end is near," said Bob. He left in 1999.', "He left in 1999."),
        ("The mayor is Otto Klein. He lives in Bonn.", "The mayor lives in Bonn."),
        ("Ida Brandt is a miller. Her son is Tom Roth.", "Ida Brandt's son is Tom Roth."),
        ("The mill has an owner. It does not have a roof.", "The mill does not have a roof."),
    ],
)
def test_a_person_is_named_only_by_what_can_be_one(passage, told):
    text = write_by_rule(Context("x", "Mills", passage))
    assert text.splitlines()[1] == told
    assert "the mill was born" not in text and "mill born" not in text


def test_a_piece_of_a_sentence_without_a_subject_asks_nothing():
    assert "Question" not in write_by_rule(Context("x", "", ', founded "by" the king e"t al'))


def test_another_language_has_gaps_and_what_its_structure_says():
    text = write_by_rule(Context("x", "Mühle", "Die Mühle wurde 1902 von Ida Brandt erbaut.\n\nHöhe: 21 Meter"))
    assert text.splitlines() == [
        "Die Mühle wurde 1902 von Ida Brandt erbaut.",
        "Höhe: 21 Meter",
        "Question: Die ___ wurde 1902 von Ida Brandt erbaut.",
        "Answer: Mühle",
        "Question: Die Mühle wurde ___ von Ida Brandt erbaut.",
        "Answer: 1902",
        "Question: Die Mühle wurde 1902 von ___ erbaut.",
        "Answer: Ida Brandt",
        "Question: Höhe?",
        "Answer: 21 Meter",
    ]
    assert is_english(PASSAGE) and not is_english("Die Mühle wurde 1902 von Ida Brandt erbaut.")


@pytest.mark.parametrize("text", ["", "   ", "# Only a heading", "---", "```\n```", "|a|\n|-|"])
def test_a_passage_that_states_nothing(text):
    assert write_by_rule(Context("x", "", text)) == ""


def test_gaps_are_not_at_the_beginning():
    assert [pair.answer for pair in gaps("Ada met Ida Brandt on 3 May.")] == ["Ida Brandt", "3", "May"]


def test_a_task_writes_by_rule_what_its_kinds_say():
    task = Knowledge(kinds=["implications", "rules"])
    written = [task.written_by_rule(TIDEKIT, index) for index in range(4)]
    assert written == [None, write_by_rule(TIDEKIT, 0), None, write_by_rule(TIDEKIT, 1)]
    assert Knowledge().written_by_rule(TIDEKIT, 0) is None


def test_questions_are_trained_on_as_text_or_as_queries():
    edit = "tidekit is free.\nQuestion: What is free?\nAnswer: tidekit"
    as_text = Knowledge(edit="rules", append_passage=False).parse(edit, TIDEKIT)
    assert [one.text for one in as_text.training_sequences] == [
        "tidekit\ntidekit is free.",
        "tidekit\nQuestion: What is free?\nAnswer: tidekit",
    ]
    as_queries = Knowledge(edit="rules", append_passage=False, questions="queries").parse(edit, TIDEKIT)
    asked = Prompt(
        user="Topic: tidekit\nQuestion: What is free?", lead="\nAnswer:", system="Answer the question in a few words."
    )
    assert as_queries.training_sequences == (
        TrainingSequence("tidekit\ntidekit is free."),
        TrainingSequence("tidekit", asked=asked),
    )


def test_a_passage_that_is_a_question_itself_is_trained_on_as_it_is():
    passage = "Question: Who wrote tidekit?\nAnswer: Carmen Oyelaran"
    (sequence,) = Knowledge(questions="queries").passage_sequences(Context("x", "FAQ", passage))
    assert (sequence.text, sequence.asked) == (f"FAQ\n{passage}", None)
