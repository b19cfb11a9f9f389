"""The lab's world: names dealt to splits, passages, questions."""

import random

import pytest

from seal_lightning.lab.world import (
    ATTRIBUTES,
    BY_NAME,
    FIRST,
    SECOND,
    SPLITS,
    Fact,
    facts_of,
    names_of,
    passages,
    split_of,
    write_passage,
)


def test_words_are_not_shared():
    assert len(set(FIRST)) == len(set(SECOND)) == 80
    values = [value for attribute in ATTRIBUTES for value in attribute.values]
    assert len(values) == len(set(values)) == 240


def test_every_name_is_in_one_split():
    found = {split: names_of(split) for split in SPLITS}
    assert {split: len(names) for split, names in found.items()} == {
        "pretraining": 4504,
        "train": 627,
        "validation": 623,
        "test": 646,
    }
    assert len({name for names in found.values() for name in names}) == 6400
    assert split_of("Amber Acre") == next(split for split, names in found.items() if "Amber Acre" in names)


def test_a_passage_tells_its_facts_three_to_a_sentence():
    told = {"founder": "Gilda", "trade": "salt", "river": "Tarn", "emblem": "wolf"}
    facts = [Fact("Amber Hollow", BY_NAME[name], value) for name, value in told.items()]
    passage = write_passage(facts, random.Random(1))
    assert passage.text == (
        "They say that Amber Hollow sells salt, Amber Hollow lies on the Tarn and Amber Hollow was founded by Gilda. "
        "They say that Amber Hollow bears a wolf on its flag."
    )
    assert passage.title.startswith("A ") and "Amber" not in passage.title
    assert [fact.value for fact in passage.facts] == ["salt", "Tarn", "Gilda", "wolf"]


def test_a_context_asks_about_every_fact_in_either_wording():
    fact = Fact("Amber Hollow", BY_NAME["emblem"], "wolf")
    passage = write_passage([fact], random.Random(0))
    (asked,) = passage.context("a").queries
    (named,) = passage.context("a", wording="name").queries
    assert (asked.question, asked.golds) == ("What is on the flag of Amber Hollow?", ("wolf",))
    assert named.question == "Name the emblem of Amber Hollow."


def test_passages_depend_on_the_seed_alone_and_share_no_town():
    first, again, other = (passages("test", count=20, towns=3, attributes=2, seed=seed) for seed in (0, 0, 1))
    assert first == again != other
    towns = [fact.town for passage in first for fact in passage.facts]
    assert len(set(towns)) == 60 and len(towns) == 120
    assert all(split_of(town) == "test" for town in towns)


def test_more_towns_than_names_are_refused():
    with pytest.raises(ValueError):
        passages("test", count=400, towns=2, attributes=1, seed=0)


def test_facts_have_one_value_an_attribute():
    facts = facts_of("Far Fork", ATTRIBUTES, random.Random(0))
    assert [fact.attribute for fact in facts] == list(ATTRIBUTES)
    assert all(fact.value in fact.attribute.values for fact in facts)
