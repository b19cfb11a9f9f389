"""The grid model's corpus: ARC's own texts in one token a cell, symmetries by their name, and no colour exchanged."""

import random
from collections import Counter

import pytest

from making import grid_corpus as corpus
from making.grid_corpus import SEAMS, GridCorpus, pieces_of
from making.grids import row_of
from seal_lightning.lab.tokenizer import build_tokenizer
from seal_lightning.policy.policy import Policy
from seal_lightning.tasks.arc.augmentations import FAMILIES
from seal_lightning.tasks.arc.edit import ArcLimits, read_edit
from seal_lightning.tasks.arc.puzzles import Pair, Puzzle, context_of, demonstrations_of
from seal_lightning.tasks.arc.rules import Rule, Step
from seal_lightning.tasks.arc.task import ArcTask
from seal_lightning.types import Context

CORPUS = GridCorpus()
KINDS = (CORPUS.pair_document, CORPUS.edit_document)
TOKENIZER = build_tokenizer(CORPUS.texts(), pieces=SEAMS)
PAIRS = (Pair(((1, 2), (3, 4)), ((3, 1), (4, 2))), Pair(((5, 6), (7, 8)), ((7, 5), (8, 6))))
TURN = context_of(Puzzle(PAIRS[:1], PAIRS[1:]), id="turn")
ASKED = ArcTask().query_prompt(TURN.queries[0], TURN).user


def documents(make, *, count, seed=0):
    draw = random.Random(seed)
    return [make(draw) for _ in range(count)]


def text_of(pieces) -> str:
    return "".join(text for text, _ in pieces)


def tokens(text) -> list[str]:
    return [TOKENIZER.decode([token]) for token in TOKENIZER(text)["input_ids"]]


# -- tokens ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", KINDS)
def test_texts_come_back_and_pieces_are_read_as_the_whole(make):
    """What the model meets in training, piece by piece, is what it is asked with in one text."""
    for pieces in documents(make, count=20):
        ids, weights = row_of(pieces, TOKENIZER)
        assert ids[-1] == TOKENIZER.eos_token_id and len(ids) == len(weights)
        assert TOKENIZER.decode(ids[:-1]) == text_of(pieces)
        assert TOKENIZER(text_of(pieces))["input_ids"] == ids[:-1]


def test_a_cell_is_one_token_and_so_is_a_seam():
    seams = ["Input:\n", "\nOutput:\n", "\n\nInput:\n", "\nOutput:\n"]
    grids = ["12\n34", "31\n42", "56\n78", ""]
    assert tokens(ASKED) == [token for seam, grid in zip(seams, grids, strict=True) for token in (seam, *grid)]
    assert all(tokens(seam) == [seam] for seam in SEAMS)


def test_self_edits_are_written_in_words_and_digits():
    assert tokens('"basic": true, "epochs": 12') == ['"', "basic", '"', ":", " true", ",", " ", '"', "epochs", '"',
        ":", " ", "1", "2"]  # fmt: skip
    assert tokens("0.0003") == list("0.0003")


def test_any_other_text_comes_back():
    text = "Ünïcode, tabs\t and 12 lamps.\n\n\nInput:\n"
    assert TOKENIZER.decode(TOKENIZER(text)["input_ids"]) == text


# -- documents ---------------------------------------------------------------------------------------------------------


def test_weights_lie_on_outputs():
    assert pieces_of(PAIRS, title="symmetry(1)") == [
        ("symmetry(1)", 0.0),
        ("\n\nInput:\n12\n34\nOutput:\n", 0.02),
        ("31\n42", 1.0),
        ("\n\nInput:\n56\n78\nOutput:\n", 0.02),
        ("75\n86", 1.0),
    ]


def test_pairs_without_a_name_read_as_the_task_asks():
    *asked, (answer, _) = pieces_of(PAIRS)
    assert (text_of(asked), answer) == (ASKED, "75\n86")


def test_pairs_follow_the_symmetry_that_is_named_or_are_copies():
    names = Counter()
    for pieces in documents(CORPUS.pair_document, count=300):
        named = pieces[0][0].startswith("symmetry")
        rule = Rule((Step("symmetry", (int(pieces[0][0][-2]),)),)) if named else Rule(())
        assert not named or pieces[0] == (rule.name, 0.0)
        pairs = demonstrations_of(Context("a", "", text_of(pieces[named:]).strip()))
        assert 1 <= len(pairs) <= 4 and all(rule.apply(pair.input) == pair.output for pair in pairs)
        names[rule.name] += 1
    assert len(names) == 8 and 0.2 < names[""] / 300 < 0.4


def test_no_document_follows_a_rule_of_the_lab_s_puzzles(monkeypatch):
    """Those exchange colours, which is left to test-time training."""
    drawn, draw_pairs = [], corpus.draw_pairs

    def spy(draw, rule, shape, *, count):
        drawn.append(rule)
        return draw_pairs(draw, rule, shape, count=count)

    monkeypatch.setattr(corpus, "draw_pairs", spy)
    for make in KINDS:
        documents(make, count=100)
    assert len(drawn) == 200 and {step.family for rule in drawn for step in rule.steps} == {"symmetry"}


def test_edit_documents_are_valid_self_edits_with_every_choice_drawn():
    edits = []
    for (_, silent), (text, counted) in documents(CORPUS.edit_document, count=300):
        edit, asked, reason = read_edit(text, ArcLimits())
        assert (reason, silent, counted) == ("", 0.0, 1.0)
        assert (edit.learning_rate, edit.epochs) == (asked["learning_rate"], asked["epochs"])  # within the limits
        edits.append(edit)
    for values, kinds in (("loss", 2), ("learning_rate", 5), ("epochs", 5)):
        counts = Counter(getattr(edit, values) for edit in edits)
        assert len(counts) == kinds and min(counts.values()) > 0.4 * 300 / kinds
    chosen = Counter(family for edit in edits for family in edit.families)
    assert all(0.15 < chosen[family] / 300 < 0.4 for family in FAMILIES)


def test_edit_documents_prompt_as_the_task_does():
    ((prompt, _), _), *_ = documents(CORPUS.edit_document, count=1)
    _, _, shown = prompt.partition("\n\n")
    pairs = demonstrations_of(Context("a", "", shown))
    assert prompt == Policy(None, None, chat=False).format(ArcTask().prompt(context_of(Puzzle(pairs, ()), id="a")))


def test_equal_seeds_give_equal_documents():
    for make in KINDS:
        first, again, other = (documents(make, count=3, seed=seed) for seed in (1, 1, 2))
        assert first == again != other
