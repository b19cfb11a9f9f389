"""The reviews are what their script writes, and what "light" says depends on the sort."""

import json
from pathlib import Path

import pytest

from making import reviews
from seal_lightning.tasks.classification import split_example

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "generator"


@pytest.mark.parametrize("split", reviews.CONTEXTS)
def test_the_files_are_what_the_script_writes(split):
    text = (CONFIGS / f"reviews-{split}.jsonl").read_text(encoding="utf-8")
    assert [json.loads(line) for line in text.splitlines()] == reviews.rows(split)


def test_a_word_is_praise_of_one_sort_and_a_complaint_about_another():
    said = {}
    for row in reviews.rows("train"):
        for line in row["passage"].splitlines():
            text, label = split_example(line)
            said.setdefault(text.split()[-1], {}).setdefault(row["title"], set()).add(label)
    assert said["light"] == {"Laptops": {"good"}, "Tents": {"good"}, "Stews": {"bad"}, "Blankets": {"bad"}}
    assert {label for labels in said["superb"].values() for label in labels} == {"good"}
    assert all(len(labels) == 1 for sorts in said.values() for labels in sorts.values())
