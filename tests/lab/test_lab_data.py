"""LabDataModule and its levels."""

import pytest

from seal_lightning.errors import ConfigError
from seal_lightning.lab import ChangedTowns, KnownTowns, LabDataModule, LabPassages


def test_a_fit_gets_disjoint_passages_with_queries_and_ideal_edits():
    data = LabDataModule(passages=5, held_out=4)
    data.setup(None)
    assert [len(s) for s in (data.train_contexts, data.validation_contexts, data.test_contexts)] == [5, 4, 4]
    context = data.validation_contexts[0]
    assert context.id == "validation-000" and len(context.queries) == 6
    assert len(context.edits[0].splitlines()) == 12
    assert all(gold in context.passage for query in context.queries for gold in query.golds)
    assert data.held_out_passages()["validation-000"].text == context.passage


@pytest.mark.parametrize(("level", "queries"), [("easy", 3), ("standard", 6), ("hard", 6)])
def test_levels(level, queries):
    data = LabDataModule(passages=2, held_out=2, difficulty=level)
    data.setup("fit")
    assert len(data.train_contexts[0].queries) == queries
    assert data.train_contexts[0].queries[0].question.startswith("Name") == (level == "hard")


def test_options_outrank_the_level():
    data = LabDataModule(passages=1, held_out=1, difficulty="easy", towns=2, attributes=5)
    data.setup("validate")
    assert len(data.validation_contexts[0].queries) == 10


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"count": 0}, "count must be a whole number of at least 1, got 0"),
        ({"towns": 0}, "towns must be"),
        ({"attributes": 7}, "attributes must be at most 6, got 7"),
        ({"count": 500, "towns": 3}, "count x towns must be at most 627"),
        ({"split": "dev"}, "split must be one of pretraining, train"),
    ],
)
def test_bad_options_are_named(options, words):
    with pytest.raises(ConfigError, match=words):
        LabPassages(**options)


def test_a_bad_level_is_named():
    with pytest.raises(ConfigError, match=r"data\.difficulty must be one of easy, standard, hard, got 'easier'"):
        LabDataModule(difficulty="easier")


def test_known_towns_are_those_of_the_pre_training():
    first, second = KnownTowns(count=2).read()
    assert (first.id, second.id, len(first.queries)) == ("known-000", "known-001", 6)
    assert (first.queries[0].question, first.queries[0].golds) == ("Who founded Moon Gate?", ("Ulric",))
    assert "Moon Gate was founded by Ulric" in first.passage
    assert KnownTowns(count=1, skip=1).read() == [second]
    with pytest.raises(ConfigError, match="count and skip must be at most 160 together, got 150 and 11"):
        KnownTowns(count=150, skip=11)


def test_changed_towns_are_known_ones_of_which_a_passage_tells_other_facts():
    known, changed = KnownTowns(count=3, skip=2).read(), ChangedTowns(count=3, skip=2).read()
    assert [context.id for context in changed] == ["changed-002", "changed-003", "changed-004"]
    for before, after in zip(known, changed, strict=True):
        old = {query.question: query.golds for query in before.queries}
        new = {query.question: query.golds for query in after.queries}
        assert old.keys() == new.keys() and all(old[question] != new[question] for question in old)
        assert all(gold in after.passage for (gold,) in new.values())
        assert len(after.edits[0].splitlines()) == 12
    assert ChangedTowns(count=3, skip=2).read() == changed
    assert ChangedTowns(count=3, skip=2, seed=1).read() != changed
    with pytest.raises(ConfigError, match="count and skip must be at most 160 together, got 160 and 1"):
        ChangedTowns(count=160, skip=1)
