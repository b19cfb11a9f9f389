"""A folder of `seal adapt` in the report: documents by title, what their adapters answered, and what was not learnt."""

import json
from dataclasses import replace

import pytest

from seal_lightning.cli import main
from seal_lightning.report.adapted import AdapterReport, documents_of, read_adapter
from seal_lightning.report.advice import advise
from seal_lightning.report.chapters import sentence_of
from seal_lightning.report.measure import measure
from seal_lightning.report.read import read

CONFIG = {"documents": ["notes.jsonl"], "adapters": "both", "model": {"source": {"name": "lab"}}}


def row(name, title, before, after):
    return {"document": name, "title": title, "before": {"scores": before}, "scores": after}


@pytest.fixture
def adapted(runs, tmp_path):
    """Two documents with an adapter each, of which the second learnt nothing, and one for both."""
    fen, moor = row("1", "The fen", [0, 0], [1, 1]), row("2", "The moor", [1, 0], [0, 1])
    fen |= {"open_book": {"scores": [1, 0]}, "chose": 3}
    no = {"learnt": "no", "how": "accuracy 0.500 before, 0.500 after", "why": "few steps", "advice": "more epochs"}
    contents = {
        "1": {
            "measured": [fen],
            "steps": 20,
            "trained_tokens": 900,
            "learnt": {"learnt": "yes", "how": "it rose"},
        },
        "2": {"measured": [moor], "steps": 2, "trained_tokens": 90, "learnt": no, "left_out": {"skipped": 1}},
        "all": {"measured": [{**fen, "scores": [1, 0]}, moor], "steps": 9, "trained_tokens": 1000},
    }
    contents["1"]["unrelated"] = {"before": {"scores": [1, 1]}, "scores": [1, 0]}
    contents["all"]["unrelated"] = {"before": {"scores": [1, 0]}, "scores": [0, 1]}
    unit = [runs.scored(1.0, context_id="1", title="The fen"), runs.scored(0.5, context_id="2", title="The moor")]
    folder = runs.write(tmp_path / "adapted", {"adapt": [unit]}, config=CONFIG)
    for name, content in contents.items():
        (folder / "adapters" / name).mkdir(parents=True)
        (folder / "adapters" / name / "adaptation.json").write_text(json.dumps(content))
    (folder / "adapt.md").write_text("")
    return folder


def test_documents_stand_in_the_report_by_their_titles(adapted, capsys):
    assert main(["report", str(adapted)]) == 0
    text = (adapted / "report.md").read_text()
    assert "| The fen | 2 | 0.000 | 1.000 | 0.500 | 0.500 |\n| The moor | 2 | 0.500 | 0.500 | 0.500 | – |\n" in text
    assert "4 queries measured; 3 queries chose the self-edits. Unrelated questions: accuracy 0.750 before and " in text
    assert "0.500 after, the mean of 2 adapters.\n" in text
    assert "| The fen | yes: it rose | 20 | 900 | nothing |" in text
    assert "| one for all documents | unknown | 9 | 1000 | nothing |" in text
    assert "training sequence skipped" in next(line for line in text.splitlines() if line.startswith("| The moor | no"))
    assert "State: finished: 3 adapters" in text
    assert "- **Adapters learnt nothing.** 1 of 3 adapters learnt nothing, such as The moor: accuracy 0.500" in text
    assert "after. Why: few steps. *What to do:* Try more epochs." in text
    assert '<th scope="row" class="text">The fen</th>' in (adapted / "report.html").read_text()


def test_the_sentence_is_about_the_adapters(adapted):
    assert sentence_of(measure(read(str(adapted)))).replace("\u00a0", " ") == (
        "On 2 documents with queries, the model answers 25.0 % by itself, and 75.0 % with an adapter each, 50.0 % with "
        "one adapter for all, 50.0 % with the document in view."
    )


def test_self_edits_about_which_nothing_was_asked_have_no_accuracy_and_no_rewards(runs, tmp_path):
    asked = runs.scored(0.0, context_id="1")
    unit = [
        replace(
            asked, reward=None, questions=(), golds=(), answers=(), scores=(), baseline_answers=(), baseline_scores=()
        )
    ]
    folder = runs.write(tmp_path / "adapted", {"adapt": [unit]}, config=CONFIG)
    assert sentence_of(measure(read(str(folder)))) == (
        "1 self-edit about 1 context; no query was asked, so there are no accuracies and no rewards."
    )
    assert main(["report", str(folder)]) == 0
    assert "## Rewards" not in (folder / "report.md").read_text()
    html = (folder / "report.html").read_text()
    assert "-rewards" not in html and "What edits look like" in html


def test_no_filter_is_blamed_for_what_adapting_found(runs, tmp_path):
    unit = [runs.scored(0.0, context_id="1"), runs.scored(0.0, context_id="2")]
    folder = runs.write(tmp_path / "adapted", {"adapt": [unit]}, config=CONFIG)
    (folder / "adapters" / "1").mkdir(parents=True)
    content = {"measured": [row("1", "The fen", [0], [0])], "steps": 2, "trained_tokens": 90}
    (folder / "adapters" / "1" / "adaptation.json").write_text(json.dumps(content))
    assert "A round kept nothing" not in [one.title for one in advise(measure(read(str(folder))))]


def test_an_adaptation_of_an_earlier_version_or_of_somebody_else(tmp_path):
    path = tmp_path / "a" / "adaptation.json"
    path.parent.mkdir()
    for content in ("", "[]", "{", '{"measured": 3, "left_out": [], "learnt": "x", "steps": "many", "loss": "high"}',
                    '{"measured": [{"scores": ["x"], "before": 3}, 7]}'):  # fmt: skip
        path.write_text(content)
        assert read_adapter(path) == AdapterReport("a")
    assert documents_of([AdapterReport("a")]) == []
