"""How a long text is cut: where, and that its lines stay what they were."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seal_lightning.data.splitting import split

CLASSES = "".join(f"class Job{n}:\n    def run(self):\n\n        return {n}\n\n" for n in range(4))
LINES = ["# A", "## B", "===", "---", "text one. text two.", "    code", "\tcode", "```", "~~~", "- item", "  - sub"]
LINES += ["1. first", "| a | b |", "|---|---|", "> said", "<div>", "<!-- # x -->", "第一。第二！", "👩‍👩‍👧", "", " "]
documents = st.lists(st.sampled_from(LINES), max_size=60).map("\n".join)


def lines_of(*texts):
    return [line for text in texts for line in text.split("\n") if line.strip()]


def test_a_text_is_cut_between_paragraphs_then_sentences_then_words():
    text = "One two three. Four five six seven.\n\nEight nine.\n\nTen."
    assert split(text, 100) == [text]
    assert split(text, 36) == ["One two three. Four five six seven.", "Eight nine.\n\nTen."]
    assert split(text, 22) == ["One two three.", "Four five six seven.", "Eight nine.\n\nTen."]
    assert split("One two three.", 8) == ["One two", "three."]
    assert split("incomprehensibilities", 10) == ["incomprehe", "nsibilitie", "s"]
    assert split(" \n\n ", 10) == []


def test_code_keeps_its_lines_and_their_indentation():
    text = f"Jobs:\n\n```python\n{CLASSES}```\n\nThat was all."
    first, second = split(text, 150)
    assert first == (
        "Jobs:\n\n```python\nclass Job0:\n    def run(self):\n\n        return 0\n\n"
        "class Job1:\n    def run(self):\n\n        return 1\n\nclass Job2:\n    def run(self):"
    )
    assert second == ("        return 2\n\nclass Job3:\n    def run(self):\n\n        return 3\n\n```\n\nThat was all.")


def test_a_block_that_fits_is_not_cut():
    code = "```\na = 1\n\nb = 2\n\nc = 3\n```"
    assert split(f"A sentence of some length.\n\n{code}\n\nAnother sentence.", 45) == [
        "A sentence of some length.",
        code,
        "Another sentence.",
    ]
    table = "| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |"
    assert split(f"A sentence of some length.\n\n{table}\n\nAnother sentence.", 45) == [
        "A sentence of some length.",
        table,
        "Another sentence.",
    ]


def test_indentation_stays_where_a_piece_begins_with_it():
    text = "A sentence of some length.\n\n    code()\n\n    more()\n\n- item\n\n      deep()\n"
    assert split(text, 30) == ["A sentence of some length.", "    code()\n\n    more()", "- item\n\n      deep()"]
    fences = "```\na\n```\n\n    b()\n\n```\nc\n```\n\n    d()"
    assert split(fences, 12) == ["```\na\n```", "    b()", "```\nc\n```", "    d()"]


def test_a_long_table_is_cut_between_its_rows_and_follows_its_heading():
    rows = [f"| row {n}. It has | two cells |" for n in range(6)]
    text = "\n".join(["## Rows", "", "| a | b |", "|---|---|", *rows])
    assert split(text, 110) == [
        "\n".join(["## Rows", "", "| a | b |", "|---|---|", *rows[:2]]),
        "\n".join(rows[2:5]),
        rows[5],
    ]


def test_lists_are_cut_between_their_items():
    items = [f"- Item {n} is about this.\n  - It has a detail.\n\n    And a paragraph." for n in range(4)]
    assert split("\n".join(items), 140) == ["\n".join(items[:2]), "\n".join(items[2:])]


def test_text_without_spaces_is_cut_after_its_sentences():
    assert split("今天天气好。我们去玩！你去吗？好的。", 11) == ["今天天气好。我们去玩！", "你去吗？好的。"]
    assert split("วันนี้อากาศดี" * 3, 20)[0] in "วันนี้อากาศดี" * 3


@pytest.mark.parametrize("one", ["👩‍👩‍👧", "🇳🇴", "e\u0301", "한"])
def test_what_is_seen_as_one_character_is_not_broken(one):
    assert all(piece.replace(one, "") == "" for piece in split(one * 30, 11))


def test_a_line_of_megabytes_is_cut_in_time_that_grows_with_it():
    start = time.perf_counter()
    assert split("x" * 2_000_000, 2000) == ["x" * 2000] * 1000
    assert time.perf_counter() - start < 10
    text = " ".join(f"word{number}" for number in range(60_000))
    assert " ".join(split(text, 2000)) == text


def test_sections_stay_together_and_a_heading_is_no_passage_of_its_own():
    text = "# A\n\nOne sentence here.\n\n## B\n\n" + "A long line of a paragraph. " * 6 + "\n\n## C\n\nLast."
    pieces = split(text, 100)
    assert lines_of(*pieces)[:3] == ["# A", "One sentence here.", "## B"]
    assert not any(len(piece) < 10 for piece in pieces)
    assert pieces[-1].endswith("## C\n\nLast.")


@given(documents, st.integers(25, 120))
def test_every_line_is_there_once_as_it_was(text, longest):
    pieces = split(text, longest)
    assert all(0 < len(piece) <= longest and piece.strip() for piece in pieces)
    assert lines_of(*pieces) == lines_of(text)


@given(st.text(alphabet="ab. \n。#`|-\u3000", max_size=200), st.integers(1, 30))
def test_no_character_is_lost_and_no_piece_is_too_long(text, longest):
    pieces = split(text, longest)
    assert all(0 < len(piece) <= longest for piece in pieces)
    assert "".join("".join(pieces).split()) == "".join(text.split())
