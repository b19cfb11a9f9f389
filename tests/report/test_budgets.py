"""Curves over budgets, from runs of `seal adapt` that differ in their edits."""

import json

import pytest

from seal_lightning.cli import main
from seal_lightning.report import charts
from seal_lightning.report.budgets import budgets_of
from seal_lightning.report.chapters import chapter_of
from seal_lightning.report.costs import Prices
from seal_lightning.report.measure import measure
from seal_lightning.report.read import read


def adapted(runs, folder, *, edits, tokens, after, kinds=None):
    """A folder of `seal adapt` about two documents, of which the second is never answered."""
    unit = [runs.scored(0.5, edit_index=index, text=f"Line {index} burns.") for index in range(edits)]
    config = {"keep": None, "model": {"e_step": {"edits": edits}, "task": {"init_args": {"kinds": kinds}}}}
    runs.write(folder, {"adapt": [unit]}, config=config)
    for name, score in (("lamp", after), ("tarn", 0.0), ("all", 1.0)):
        place = folder / "adapters" / name
        place.mkdir(parents=True)
        row = {"document": name, "scores": [score], "before": {"scores": [0.0]}}
        content = {"measured": [row], "trained_tokens": tokens, "steps": 1}
        (place / "adaptation.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def folders(runs, tmp_path):
    return [
        adapted(runs, tmp_path / "four", edits=4, tokens=400, after=1.0),
        adapted(runs, tmp_path / "one", edits=1, tokens=100, after=0.5),
        adapted(runs, tmp_path / "many", edits=2, tokens=200, after=0.75, kinds=["facts", "rewrite"]),
    ]


def test_runs_are_points_of_curves_by_what_else_they_differ_in(folders):
    found = budgets_of([measure(read(str(folder))) for folder in folders])
    assert [(row.writer, row.run, row.edits, row.tokens, row.accuracy, row.documents) for row in found.rows] == [
        ("as by default", "one", 1, 100, 0.25, 2),
        ("as by default", "four", 4, 400, 0.5, 2),
        ("kinds facts, rewrite", "many", 2, 200, 0.375, 2),
    ]
    assert found.rows[0].diversity is None and found.rows[1].diversity.similarity > 0.9
    default, kinds = found.figure.series
    assert [point.at for point in default.points] == ["10.00%", "90.00%"] and [p.at for p in kinds.points] == ["50.00%"]
    assert [tick.label for tick in found.figure.rounds] == ["100", "200", "400"]


def test_there_is_no_curve_of_one_budget(folders):
    assert budgets_of([measure(read(str(folder))) for folder in folders[1:]]) is None
    assert budgets_of([]) is None


def test_both_pages_have_the_table(folders, tmp_path, capfd):
    output = tmp_path / "report.html"
    assert main(["report", *map(str, folders), "--output", str(output)]) == 0, capfd.readouterr().err
    assert "What a budget of edits teaches" in output.read_text()
    assert "| as by default | four | 4 | 400 | 0.500 |" in output.with_suffix(".md").read_text()
    assert main(["report", str(folders[0]), "--output", str(output)]) == 0
    assert "What a budget of edits teaches" not in output.read_text()


def test_a_run_of_several_kinds_is_not_said_to_have_one(runs, tmp_path):
    """`edit` has its default in such a configuration."""
    folder = adapted(runs, tmp_path / "many", edits=2, tokens=200, after=0.75, kinds=["facts", "rewrite"])
    run = measure(read(str(folder)))
    run.run.config["model"]["task"]["init_args"]["edit"] = "implications"
    assert chapter_of("run-1", run, charts.Scale(0.0, 1.0), Prices()).about["edits"] == "facts, rewrite"
