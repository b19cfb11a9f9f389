"""The corpus of the model of frames: copies and borders without a name, and no colour exchanged."""

import random

import pytest

from making.frames import GUESSED, KINDS, document, draw_some, request_pairs, rule_of
from making.grid_corpus import GridCorpus
from seal_lightning.tasks.arc.edit import ArcLimits, read_edit
from seal_lightning.tasks.arc.grids import DIGITS


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_keeps_the_colours_of_its_cells(kind):
    draw = random.Random(0)
    for _ in range(20):
        rule = rule_of(draw, kind)
        for pair in draw_some(draw, kind, count=2):
            framed = tuple(row[1:-1] for row in pair.output[1:-1])
            assert pair.input == (framed if kind == "border" else pair.output)
        assert rule.name.split("(")[0] == {"copy": "", "border": "border"}[kind]


def test_a_document_has_no_name_and_its_first_output_counts_little():
    draw = random.Random(0)
    seen = set()
    for _ in range(60):
        pieces = document(draw)
        text = "".join(piece for piece, _ in pieces)
        assert text.startswith("Input:\n") and 2 <= text.count("Output:\n") <= 4
        assert [weight for _, weight in pieces] == [0.02, GUESSED, *[0.02, 1.0] * (len(pieces) // 2 - 1)]
        seen.add(len(DIGITS.decode(pieces[1][0])))
    assert seen == {3, 5}


def test_a_request_for_an_edit_shows_exchanges_behind_a_border_of_training_rules_and_teaches_no_grid():
    draw = random.Random(0)
    for _ in range(10):
        pairs = request_pairs(draw)
        (request, nothing), (edit, whole) = GridCorpus().edit_document(draw, pairs)
        assert (nothing, whole) == (0.0, 1.0)
        assert all(DIGITS.encode(pair.output) in request for pair in pairs)
        assert read_edit(edit, ArcLimits())[2] == ""
        for pair in pairs:
            framed = tuple(row[1:-1] for row in pair.output[1:-1])
            assert framed != pair.input and len({*pair.output[0], *pair.output[-1]}) == 1
