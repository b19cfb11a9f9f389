import pytest

from seal_lightning.tasks.edit_kinds import blocks, lines, questions, sections, strip_enumerator, whole


def test_lines_keep_their_text_and_drop_what_has_none():
    text = "1. Ada ruled.\n\n2.\n  - \n(3)\n---\n***\n12)\n\u2022 She wrote.\r\n2 + 2 = 4\n1842\n```\na)\n"
    assert lines(text) == ["1. Ada ruled.", "\u2022 She wrote.", "2 + 2 = 4", "1842"]


@pytest.mark.parametrize(
    ("line", "stripped"),
    [
        ("1. One", "One"),
        ("  12) One", "One"),
        ("(3) One", "One"),
        ("4.One", "One"),
        ("- One", "One"),
        ("\u2022 One", "One"),
        ("a) One", "One"),
        ("3.14 is pi", "3.14 is pi"),
        ("-5 degrees", "-5 degrees"),
        ("**bold** One", "**bold** One"),
        ("U.S. troops", "U.S. troops"),
        ("A. Smith", "A. Smith"),
        ("1842 was it", "1842 was it"),
    ],
)
def test_strip_enumerator(line, stripped):
    assert strip_enumerator(line) == stripped


def test_blocks_are_split_at_rules_only():
    text = "---\nAda ruled.\n\nShe wrote.\n---\n \n -----  \nA --- b\n---"
    assert blocks(text) == ["Ada ruled.\n\nShe wrote.", "A --- b"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ada ruled.\nShe wrote.", ["Ada ruled.\nShe wrote."]),
        ("Ada: Hm?\n---\nBob: No.\n\nAda: Oh.", ["Ada: Hm?", "Bob: No.\n\nAda: Oh."]),
        # as chat models write it: a title, headings in place of rules, or lines in bold
        (
            "# Case studies\n\n### Case 1: A curator\nShe checks.\n\n### Case 2: A pilot\n**Why?**\nHe flies.",
            ["# Case studies\n\n### Case 1: A curator\nShe checks.", "### Case 2: A pilot\n**Why?**\nHe flies."],
        ),
        (
            "**Step 1**\nIt is a bridge.\n\n**Step 2:**\nIt is old.",
            ["**Step 1**\nIt is a bridge.", "**Step 2:**\nIt is old."],
        ),
        ("**Ann:** Who?\n**Bob:** Ada.", ["**Ann:** Who?\n**Bob:** Ada."]),  # turns, not headings
        (
            "The bridge\n- Opening\n  - in 1874\n- Builder\n  - Ada",
            ["The bridge\n- Opening\n  - in 1874\n- Builder\n  - Ada"],
        ),
        ("## One\n## Two\nText.\n## Three", ["## One\n## Two\nText."]),  # a heading alone teaches nothing
        ("#1 is Ada\n#2 is Bob", ["#1 is Ada\n#2 is Bob"]),
        ("\n---\n# \n", []),
    ],
)
def test_sections_are_split_at_rules_and_headings(text, expected):
    assert sections(text) == expected


def test_whole_is_one_piece():
    assert whole("\n Ada ruled.\nShe wrote.\n") == ["Ada ruled.\nShe wrote."]
    assert whole(" \n--- \n") == []


PAIR = "Question: Who ruled?\nAnswer: Ada."


@pytest.mark.parametrize(
    "text",
    [
        "Question: Who ruled?\nAnswer: Ada.",
        "Q: Who ruled?\nA: Ada.",
        "Question: Who ruled? Answer: Ada.",
        "1. Question 1: Who ruled?\n   Answer 1: Ada.\n2. Question 2: And then?",
        "**Q1:** Who ruled?\n**A1:** Ada.",
        "**Question: Who ruled?**\n\nAnswer: Ada.\n\n---\n",
        "- question : Who ruled?\n- answer : Ada.\n\n2.\n",
        "Here are some.\n## Q\uff1a Who ruled?\n> A\uff1aAda.\nQ: What?\nA:\nQ: Where?",
    ],
)
def test_questions_are_read_tolerantly(text):
    assert questions(text) == [PAIR]


def test_questions_split_one_by_one():
    text = "Q: Who ruled?\nA: Ada.\nQ: What is the answer: one or two?\nA: 2\nand a half\nQ: When? A: 1842"
    assert questions(text) == [
        PAIR,
        "Question: What is the answer: one or two?\nAnswer: 2\nand a half",
        "Question: When?\nAnswer: 1842",
    ]


@pytest.mark.parametrize("text", ["", "Ada ruled.", "Question:\nAnswer:", "Answer: Ada.", "Q: ?\nA: ."])
def test_questions_without_a_pair(text):
    assert questions(text) == []
