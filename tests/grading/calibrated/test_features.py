"""Readings, quantities and features, by literal values."""

import pytest

from seal_lightning.grading.calibrated.expectation import expect
from seal_lightning.grading.calibrated.features import FEATURES, measure
from seal_lightning.grading.calibrated.quantities import periods, quantities, room
from seal_lightning.grading.calibrated.reading import NOTHING, read


def features(question, gold, answer):
    return dict(zip(FEATURES, measure(expect(question, gold), read(answer)), strict=True))


@pytest.mark.parametrize(
    ("text", "texts"),
    [
        ("In the U.S. and the US", ("in", "the", "us", "and", "the", "us")),
        ("10 million, 1.5 billion", ("10000000", "1500000000")),
        ("36 per cent", ("36", "percent")),
        ("twenty-one kings'", ("21", "kings")),
        ("", ()),
        (" ... \n ?", ()),
    ],
)
def test_words_are_folded_as_elsewhere_with_scales_and_initials_joined(text, texts):
    assert read(text).texts == texts


def test_columns_of_a_reading():
    found = read("The algal Cells, by J. Smith.")
    assert found.roots == ("the", "alga~", "cell", "by", "j", "smit~")
    assert found.content == ("", "alga~", "cell", "", "", "smit~")
    assert found.names == (True, False, True, False, True, True)
    assert found.ends == (False, False, False, False, False, True)
    assert "".join(found.plain) == "algal cells by j smith "


def test_sentences_end_at_stops_and_lines_and_not_at_initials():
    found = read("J. R. Smith met Dr. Who in Bath (U.K.) twice. Then (1990). He left\nat 5 p.m. today")
    assert [found.texts[start] for start in found.starts()] == ["j", "then", "he", "at"]


def test_no_more_words_are_read_than_asked_for():
    assert read("one two three", most=2).texts == ("1", "2")
    assert read("", most=2) == NOTHING


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("5 May 1945", [(5, "day"), (5, "month"), (1945, "year")]),
        ("it may march on", []),
        ("double the 40%", [(2, "count"), (40, "percent")]),
        ("3 thousand men", [(3000, "count")]),
        ("the 15th century", [(15, "century")]),
    ],
)
def test_quantities(text, found):
    assert [(each.value, each.kind) for each in quantities(read(text))] == found


@pytest.mark.parametrize(
    ("text", "bounds"),
    [
        ("over 40", (40, 50)),
        ("under 40%", (30, 40)),
        ("about 40", (38, 42)),
        ("40", (40, 40)),
        ("over 1990", (1990, 1990)),
    ],
)
def test_words_before_a_number_give_it_room(text, bounds):
    reading = read(text)
    assert room(quantities(reading)[0], reading) == pytest.approx(bounds)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("the late 1970s", [(1976, 1980)]),
        ("the 1700s", [(1700, 1800)]),
        ("second half of the 20th century", [(1950, 2000)]),
        ("the 1st millennium BCE", [(-1000, 0)]),
        ("300 BC", [(-300, -300)]),
        ("from 1990 to 2005", [(1990, 1990), (2005, 2005)]),
        ("300 men", []),
    ],
)
def test_periods(text, found):
    assert [(round(each.first), round(each.last)) for each in periods(read(text))] == found


def test_the_question_gives_words_away():
    expected = expect("Which war did Ada end?", "the Second Punic War")
    assert expected.roots == {"2", "puni~", "war"} and expected.core == {"2", "puni~"}
    assert expect("Was it red or blue?", "red").core == {"red"}


def test_brackets_titles_and_doubt_need_not_be_said():
    assert expect("Who?", "King Otto (of Greece)").core == {"otto"}
    assert expect("How many?", "more than 40 people").key == {"40"}
    assert expect("Which book?", "Hayy (Philosophus)").alternatives == ({"hay"}, {"phil~"})


@pytest.mark.parametrize(
    ("question", "gold", "answer", "name", "value"),
    [
        ("Who?", "Ada Lovelace", "It was Ada.", "key_words_found", 0.5),
        ("What?", "bacterial cells", "Cells of bacteria.", "key_words_found", 1.0),
        ("How many people?", "10,000,000 people", "10 million", "key_words_found", 1.0),
        ("Who won?", "Ada, Bob and Cy", "Ada and Cy won.", "worst_item", 0.0),
        ("Which metal?", "copper or arsenic", "Arsenic.", "best_alternative", 1.0),
        ("Where?", "in the red house", "It was the red house, I think.", "same_phrase", 0.0),
        ("Where?", "the red house", "It was a red house.", "same_phrase", 1.0),
        ("Who?", "art", "party", "same_phrase", 0.0),
        ("Where?", "in the big red house", "A red house in the park.", "longest_run", 0.4),
        ("Where?", "the red house", "It was a red house.", "longest_run", 1.0),
        ("Where?", "in the red house", "In the park.", "longest_run", 0.0),
        ("How many doors?", "double", "It has two doors.", "key_words_found", 1.0),
        ("When?", "January", "In month 1, that is January.", "key_words_found", 1.0),
        ("Who?", "Ada and Bob Lovelace", "It was Ada.", "missing_names", 2.0),
        ("Who?", "the ship's captain", "It was Ada.", "missing_names", 0.0),
        ("Who won?", "Ada", "Ada won. Bob lost in Bath.", "other_names", 0.0),
        ("Who won?", "Ada", "It was Bob from Bath who won.", "other_names", 2.0),
        ("When?", "26 December 1999", "26 December 2004", "other_number", 1.0),
        ("When?", "1999", "30 people", "other_number", 0.0),
        ("When in 1999?", "May 1999", "In June 1999", "other_number", 1.0),
        ("What share?", "about 50%", "49.3%", "key_words_found", 1.0),
        ("When?", "the late 1970s", "In 1978.", "key_words_missing", 0.0),
        ("When?", "the late 1970s", "In 1971.", "key_words_found", 0.0),
        ("Is it so?", "yes", "No, never.", "opposite", 1.0),
        ("Is it so?", "they do not", "No.", "opposite", -1.0),
        ("Is it red or blue?", "red", "No.", "opposite", 0.0),
        ("What?", "a ship", "It isn't a ship.", "other_negation", 1.0),
        ("What?", "a ship", "A ship, while others sank", "contrast", 1.0),
        ("What?", "red ship", "A red and rusty ship it is", "after", 2.0),
        ("Where?", "Antonio", "In the San Antonio area.", "longer_name", 1.0),
        ("Where?", "San Antonio", "In the San Antonio area.", "longer_name", 0.0),
        ("Where?", "Antonio", "Bath is far. Antonio is near.", "longer_name", 0.0),
        ("Where is San Jose?", "Antonio", "In San Antonio.", "longer_name", 0.0),
        ("Is the ship red?", "red", "Red.", "nothing_new", 1.0),
        ("Is the ship big?", "red", "Red.", "nothing_new", 0.0),
    ],
)
def test_features(question, gold, answer, name, value):
    assert features(question, gold, answer)[name] == pytest.approx(value)


def test_the_sentence_with_most_of_the_gold_is_looked_at():
    found = features(
        "Who won the cup?", "Ada Lovelace", "The cup is old. Bob and Ada saw it. Ada Lovelace won the cup there."
    )
    assert (found["question_repeated"], found["after"], found["distance"]) == (1.0, 4, 1)


@pytest.mark.parametrize(
    ("answer", "share"),
    [
        ("Ada won the old cup.", 1.0),
        ("Ada won. It was the old cup.", 1 / 3),  # all stop words together count as one word
        ("The Ada won. It was the old cup.", 2 / 3),
        ("Ada. The old cup was won.", 0.0),
    ],
)
def test_the_first_sentence_may_repeat_the_question(answer, share):
    assert features("Who won the cup?", "Ada", answer)["question_in_first"] == pytest.approx(share)


def test_a_gold_without_end_is_compared_in_its_first_words():
    gold = " ".join(f"w{chr(97 + at % 26)}{chr(97 + at // 26)}x" for at in range(600))
    assert len(expect("What?", gold).runs) == 8
    assert sum(len(runs) for _, runs in expect("What?", gold).runs) < 8 * 64


def test_a_typo_still_looks_alike():
    assert features("Who?", "Chinggis Khaan", "Chingis Khan")["same_letters"] > 0.85
