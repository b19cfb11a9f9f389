"""Lines of self-edits: what each style writes, and that `classify` reads it back."""

import random
from collections import Counter

import pytest

from seal_lightning.lab.lines import STYLE_SHARES, classify, ideal_edit, style_counts, write_edit, write_line
from seal_lightning.lab.world import ATTRIBUTES, BY_NAME, Fact, facts_of

FACT = Fact("Amber Hollow", BY_NAME["mayor"], "Barker")


@pytest.mark.parametrize(
    ("style", "line"),
    [
        ("question", "Question: Who leads Amber Hollow? Answer: Barker"),
        ("reversed", "So Barker is the mayor of Amber Hollow."),
        ("pronoun", "Its mayor is Barker."),
        ("vague", "Many people in Amber Hollow talk about the mayor."),
    ],
)
def test_literal_lines(style, line):
    assert write_line(FACT, style, random.Random(0)) == line


def test_statements_have_three_forms():
    draw = random.Random(0)
    assert {write_line(FACT, "statement", draw) for _ in range(50)} == {
        "The mayor of Amber Hollow is Barker.",
        "In Amber Hollow, the mayor is Barker.",
        "The town of Amber Hollow is led by Barker.",
    }


@pytest.mark.parametrize("style", STYLE_SHARES)
@pytest.mark.parametrize("attribute", ATTRIBUTES, ids=lambda attribute: attribute.name)
def test_classify_reads_every_style_back(style, attribute):
    draw = random.Random(3)
    fact = Fact("Far Fork", attribute, attribute.values[5])
    assert {classify(write_line(fact, style, draw), [fact]) for _ in range(20)} == {style}


def test_a_wrong_line_has_a_value_that_nobody_told():
    told = [Fact("Far Fork", BY_NAME["mayor"], value) for value in BY_NAME["mayor"].values[:38]]
    for seed in range(20):
        line = write_line(told[0], "wrong", random.Random(seed), told=told)
        assert line.rstrip(".").split()[-1] in BY_NAME["mayor"].values[38:]


@pytest.mark.parametrize("line", ["", "Amber Hollow", "The mayor of amber hollow is Barker.", "The mayor of Amber"])
def test_other_lines(line):
    assert classify(line, [FACT]) == "other"


def test_an_unknown_style_is_refused():
    with pytest.raises(ValueError, match="style must be one of question, "):
        write_line(FACT, "other", random.Random(0))


def test_the_ideal_edit_says_and_asks_every_fact():
    assert ideal_edit([FACT]).splitlines() == [
        "The mayor of Amber Hollow is Barker.",
        "Question: Who leads Amber Hollow? Answer: Barker",
    ]


def test_edits_keep_their_style_most_of_the_time():
    draw = random.Random(0)
    facts = facts_of("Far Fork", ATTRIBUTES, draw)
    largest = [max(style_counts(write_edit(facts, draw, lines=6), facts).values()) for _ in range(300)]
    assert 4.5 < sum(largest) / 300 < 6


def test_styles_come_in_their_shares():
    draw = random.Random(0)
    facts = facts_of("Far Fork", ATTRIBUTES, draw)
    counts = sum((style_counts(write_edit(facts, draw, lines=6), facts) for _ in range(8000)), Counter())
    for style, share in STYLE_SHARES.items():
        assert counts[style] / counts.total() == pytest.approx(share, abs=0.02)
