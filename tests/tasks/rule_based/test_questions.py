"""Questions of English sentences and values, with their answers."""

import pytest

from seal_lightning.tasks.rule_based.clauses import Clause, clause_of
from seal_lightning.tasks.rule_based.facts import Property
from seal_lightning.tasks.rule_based.questions import pairs_of_property, pairs_of_sentence


def asked(sentence, subject=""):
    return {pair.question: pair.answer for pair in pairs_of_sentence(sentence, subject=subject)}


@pytest.mark.parametrize(
    ("sentence", "clause"),
    [
        ("The train to Aschen leaves at 7:42.", Clause("The train to Aschen", "leaves", "at 7:42")),
        ("Samir carries the tent.", Clause("Samir", "carries", "the tent")),
        ("The seed swap takes place in May.", Clause("The seed swap", "takes", "place in May")),
        ("Harmonic files end in .hrm.", Clause("Harmonic files", "end", "in .hrm")),
        ("A lamp that blinks red means danger.", Clause("A lamp that blinks red", "means", "danger")),
        ("We walk it in five days.", Clause("We", "walk", "it in five days")),
        ("Open the browser at noon.", None),
        ("In winter the hut is closed.", None),
        ("Is it open?", None),
        ("Ada rules.", None),
    ],
)
def test_clauses(sentence, clause):
    assert clause_of(sentence) == clause


@pytest.mark.parametrize(
    ("sentence", "question", "answer"),
    [
        ("The train leaves at 7:42 from platform 3.", "When does the train leave?", "7:42"),
        ("The allotments were founded in 1931.", "When were the allotments founded?", "1931"),
        ("The library was written by Carmen Oyelaran.", "Who wrote the library?", "Carmen Oyelaran"),
        ("It will be installed by Dario Conti in June.", "Who will install the projector in June?", "Dario Conti"),
        ("Keys are kept by the secretary, Olga Wetherby.", "Who or what keeps keys?", "the secretary"),
        ("The site has 64 plots.", "How many plots does the site have?", "64 plots"),
        ("A key costs 12 pounds.", "How much does a key cost?", "12 pounds"),
        ("The pianist is Lotte Brandt.", "Who is the pianist?", "Lotte Brandt"),
        ("Its warden is Anselm Kuhr.", "Who is the projector's warden?", "Anselm Kuhr"),
        ("The stove belongs to Leo.", "Who does the stove belong to?", "Leo"),
        ("Dogs must be kept on a lead.", "Where must dogs be kept?", "a lead"),
        ("If it rains, the walk is off.", "What if it rains?", "The walk is off"),
        ("The show is cheap, because nobody comes.", "Why is the show cheap?", "Because nobody comes"),
        ("To erase it, hold the button.", "How do you erase it?", "Hold the button"),
        ("The hut is closed in winter and has 18 beds.", "How many beds does the hut have?", "18 beds"),
        (
            "A lamp that blinks means that the gauge is blocked.",
            "What does a lamp that blinks mean?",
            "the gauge is blocked",
        ),
    ],
)
def test_sentences(sentence, question, answer):
    assert asked(sentence, "the projector")[question] == answer


def test_a_pronoun_without_a_known_subject_is_not_asked_about():
    assert asked("It was written in 1931.") == {}


def test_values_under_a_name():
    pairs = [pair.question for pair in pairs_of_property(Property("Chair", "Miriam Okafor"), "Board")]
    assert pairs == ["What is the chair?", "What is the chair of Board?", "Who is the chair of Board?"]


def test_cells_of_a_table():
    fact = Property("Who", "Tomas Reyl", owner="Bees", kind="Duty")
    assert [(pair.question, pair.answer) for pair in pairs_of_property(fact, "")][:2] == [
        ("Who is it for Bees?", "Tomas Reyl"),
        ("Duty Bees: who?", "Tomas Reyl"),
    ]


def test_signatures():
    fact = Property("return type", "str", owner="wave", kind="function")
    (pair,) = pairs_of_property(fact, "Sea")
    assert (pair.question, pair.answer) == ("What does the function wave return?", "str")
