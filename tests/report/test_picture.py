"""The picture of a fit: the same context over the rounds, numbers from the tables, a model's text as text."""

import xml.etree.ElementTree as xml
from dataclasses import replace

from samples import FAR_FORK

from seal_lightning.records.journal import Journal
from seal_lightning.report.picture import draw, save_picture

EDIT = replace(
    FAR_FORK,
    prompt="Study.\n\nTitle: T\nPassage: Far Fork sells <b>salt</b>.\n\nWhat follows:\n",
    text="vague </text><script>alert(1)</script>\x1b[31m",
)
BETTER = replace(EDIT, text="\n".join(f"line {n}" for n in range(20)), scores=(1.0, 1.0), score=1.0)
SPACE = "{http://www.w3.org/2000/svg}"


def texts(svg):
    return ["".join(text.itertext()) for text in xml.fromstring(svg).iter(f"{SPACE}text")]


def test_the_edits_of_one_context_stand_over_the_accuracy_of_all():
    validations = {0: [EDIT], 1: [replace(EDIT, score=0.25)], 2: [BETTER]}
    svg = draw(validations, {0: [EDIT], 2: [replace(EDIT, score=0.0)]})
    said = texts(svg)
    assert "Far Fork sells <b>salt</b>." in said  # as text, not as an element
    assert [text for text in said if "queries right" in text] == [
        "1 of 2 queries right, without the passage",
        "1 of 2 queries right, without the passage",
        "2 of 2 queries right, without the passage",
    ]
    assert [text for text in said if text.endswith("%")] == [
        "the model by itself 0.0 %",
        "0.0 %",
        "50.0 %",
        "25.0 %",
        "100.0 %",
    ]
    assert "vague </text><script>alert(1)</script>⟨U+" in said and "  001B⟩[31m" in said
    assert "line 7" in said and "line 8" not in said and "… and 12 more lines" in said
    assert not list(xml.fromstring(svg).iter(f"{SPACE}script"))
    assert "control: from self-edits kept at random" in said


def test_of_many_rounds_the_first_the_middle_and_the_last_are_shown_and_all_are_drawn():
    svg = draw({number: [EDIT] for number in range(6)}, {})
    said = texts(svg)
    heads = [text.text for text in xml.fromstring(svg).iter(f"{SPACE}text") if text.get("fill") == "#1d4ed8"]
    assert heads[:3] == ["before training", "after round 3", "after round 5"]
    assert [text for text in said if text.startswith("after round")][-5:] == [f"after round {n}" for n in range(1, 6)]
    assert not any("control" in text for text in said)


def test_a_run_gets_one_once_it_was_validated_twice(tmp_path):
    Journal(tmp_path / "journal", "validation-000", stamp={"n": 0}).append(0, [EDIT])
    assert save_picture(tmp_path) is None and not (tmp_path / "picture.svg").exists()
    Journal(tmp_path / "journal", "validation-001", stamp={"n": 1}).append(0, [BETTER])
    assert save_picture(tmp_path) == tmp_path / "picture.svg"
    assert "after round 1" in (tmp_path / "picture.svg").read_text(encoding="utf-8")
