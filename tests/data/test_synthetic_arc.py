"""The reader of synthetic puzzles: each split has rules of its own, levels differ, and seeds decide everything."""

import re

import jsonargparse
import pytest

from seal_lightning.data import Reader
from seal_lightning.data.synthetic_arc import SyntheticArc
from seal_lightning.errors import ConfigError, DataError
from seal_lightning.tasks.arc.edit import ArcLimits, read_edit
from seal_lightning.tasks.arc.puzzles import puzzle_of
from seal_lightning.tasks.arc.rules import SPLITS, Rule, Step
from seal_lightning.tasks.arc.task import ArcTask


def rule_of(title) -> Rule:
    steps = re.findall(r"(\w+)\(([\d,]*)\)", title)
    return Rule(tuple(Step(family, tuple(map(int, parameters.split(",")))) for family, parameters in steps))


def sides(contexts) -> set[tuple[int, int]]:
    return {(len(pair.input), len(pair.input[0])) for one in contexts for pair in puzzle_of(one).pairs}


@pytest.mark.parametrize("difficulty", ["easy", "standard", "hard"])
@pytest.mark.parametrize("split", SPLITS)
def test_puzzles_follow_the_rule_in_their_title_which_is_of_their_split(difficulty, split):
    contexts = SyntheticArc(split, count=6, difficulty=difficulty).read()
    assert [context.id for context in contexts] == [f"{split}-{number:03d}" for number in range(6)]
    for context in contexts:
        rule, puzzle = rule_of(context.title), puzzle_of(context)
        assert (rule.name, rule.split) == (context.title, split)
        assert len(rule.steps) == {"easy": 1, "standard": 2, "hard": 3}[difficulty]
        assert [rule.apply(pair.input) for pair in puzzle.pairs] == [pair.output for pair in puzzle.pairs]
        assert len(context.queries) == 1


def test_no_rule_is_in_two_splits_or_twice_in_one():
    titles = {context.title for split in SPLITS for context in SyntheticArc(split, count=8).read()}
    assert len(titles) == 3 * 8


def test_levels():
    assert sides(SyntheticArc(count=8).read()) == {(3, 3)}
    standard = sides(SyntheticArc(count=12, difficulty="standard").read())
    assert standard == {(3, 3), (4, 4), (5, 5)}
    hard = sides(SyntheticArc(count=12, difficulty="hard").read())
    assert len(hard) > 20 and max(map(max, hard)) <= 9 and any(rows != columns for rows, columns in hard)


def test_families_and_steps():
    contexts = SyntheticArc(count=6, families=["colours", "symmetry", "colours"], steps=2).read()
    for context in contexts:
        assert sorted(step.family for step in rule_of(context.title).steps) == ["colours", "symmetry"]


def test_seeds_decide():
    first = SyntheticArc(count=5).read()
    assert SyntheticArc(count=5).read() == first
    assert SyntheticArc(count=7).read()[:5] == first  # more of them keep the first ones
    other = SyntheticArc(count=5, seed=1).read()
    assert not {context.passage for context in other} & {context.passage for context in first}


def test_edits_are_for_every_puzzle():
    edit = ArcTask().prompt(SyntheticArc(count=1).read()[0]).user.partition("For example: ")[2].partition("\n")[0]
    assert read_edit(edit, ArcLimits())[2] == ""
    assert {context.edits for context in SyntheticArc(count=3, edits=[edit]).read()} == {(edit,)}


def test_options_that_cannot_work():
    for options, said in (
        ({"split": "training"}, "split must be one of train, validation, test, got 'training'"),
        ({"difficulty": "simple"}, "difficulty must be one of easy, standard, hard, got 'simple'"),
        ({"families": []}, r"families must be some of symmetry, .*, got \[\]: list their names"),
        ({"families": "symmetry"}, "families must be some of symmetry, .*, got 'symmetry'"),
        ({"families": ["symmetry", "turns"]}, "families must be some of"),
        ({"count": 0}, "count must be a whole number of at least 1, got 0"),
        ({"count": True}, "count must be a whole number of at least 1, got True"),
        ({"seed": "one"}, "seed must be a whole number, got 'one'"),
        ({"edits": "{}"}, "edits must be a list of texts, got '{}'"),
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"families": ["gravity", "border"], "steps": 3}, "steps must be at most 2, the number of families, got 3"),
        ({"families": ["border"], "difficulty": "standard"}, "steps must be at most 1"),
    ):
        with pytest.raises(ConfigError, match=said):
            SyntheticArc(**options)


def test_more_rules_than_there_are():
    with pytest.raises(DataError) as raised:
        SyntheticArc("train", count=8, families=["symmetry"]).read()
    found = sum(Rule((Step("symmetry", (number,)),)).split == "train" for number in range(1, 8))
    assert str(raised.value) == (
        f"synthetic train puzzles: expected 8 different rules of 1 of the families symmetry, got {found}: "
        "ask for fewer, or name more families"
    )


def test_from_yaml():
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Reader, "it")
    text = "{class_path: seal_lightning.data.SyntheticArc, init_args: {split: test, families: [border]}}"
    reader = parser.instantiate(parser.parse_string(f"it: {text}")).it
    assert (reader.source, reader.families, reader.steps) == ("synthetic test puzzles", ("border",), 1)
