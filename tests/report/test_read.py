"""What is read from a run's folder, in whatever state it is."""

import gzip
import json

import pytest

from seal_lightning.errors import DataError
from seal_lightning.report.measure import measure
from seal_lightning.report.read import read
from seal_lightning.results.accuracy import ResultFile
from seal_lightning.results.table import Table


def state(folder):
    found = measure(read(str(folder)))
    return found.state, found.progress


def test_a_finished_fit(fitted):
    run = read(str(fitted()))
    assert (run.name, run.begun, run.unfinished, run.recorded) == ("run", True, 0, False)
    assert {number: len(rollouts) for number, rollouts in run.rounds.items()} == {0: 4}
    assert {number: len(rollouts) for number, rollouts in run.validations.items()} == {0: 2, 1: 2}
    assert state(fitted("again")) == ("finished", "finished: 1 round")


def test_no_secret_gets_into_a_report(fitted):
    assert read(str(fitted())).config["model"] == {"source": {"name": "lab"}, "grader": "exact_match"}


def test_a_run_that_has_only_begun(runs, tmp_path):
    assert state(runs.write(tmp_path / "run", {})) == ("begun", "begun: no unit of work is finished yet")
    torn = runs.write(tmp_path / "torn", {"validation-000": [[runs.scored(1.0), runs.scored(0.0)]]})
    (path,) = (torn / "journal").iterdir()
    path.write_bytes(path.read_bytes()[:-100])  # the only unit is torn
    assert state(torn)[0] == "begun"


def test_a_running_fit_says_where_it_is(runs, tmp_path):
    contexts = [
        [runs.scored(1.0, context_id=f"c{n}"), runs.scored(0.0, context_id=f"c{n}", edit_index=1)] for n in range(3)
    ]
    config = {"trainer": {"max_epochs": 4}}
    run = runs.write(tmp_path / "run", {"validation-000": contexts}, config=config)
    assert state(run) == ("unfinished", "not finished: validation before training of 4, 3 contexts")
    runs.write(run, {"train-000": contexts, "train-001": contexts[:2]}, config=config)
    assert state(run) == ("unfinished", "not finished: round 2 of 4, E-step, 2 of 3 contexts")
    runs.write(run, {"validation-002": contexts[:1]}, config=config)
    assert state(run) == ("unfinished", "not finished: validation after round 2 of 4, 1 of 3 contexts")


def test_a_killed_fit_with_a_torn_tail(fitted):
    folder = fitted(table=False)
    path = folder / "journal" / "validation-001.rank-0.jsonl"
    row = path.read_text().splitlines()[1]
    with path.open("a") as file:
        file.write(row.replace('"unit": 0, "of": 2', '"unit": 1, "of": 2') + "\n" + row[:50])
    run = read(str(folder))
    assert (len(run.validations[1]), run.unfinished) == (2, 1)
    assert state(folder)[0] == "unfinished"


def test_a_fit_that_goes_on_is_not_finished(runs, fitted):
    folder = fitted(config={"trainer": {"max_epochs": 2}})
    runs.write(folder, {"train-001": [[runs.scored(1.0)]]}, config=None)
    assert state(folder) == ("unfinished", "not finished: round 2 of 2, E-step, 1 of 2 contexts")


def test_journals_of_tests(runs, tmp_path):
    units = [[runs.scored(1.0), runs.scored(0.5, kind="passage", edit_index=-1)]]
    run = runs.write(tmp_path / "run", {"test-0123456789ab": units}, config=None)
    found = measure(read(str(run)))
    assert [row.name for row in found.other_tables["test-0123456789ab"]] == ["base", "passage", "edits"]
    assert (found.accuracy, found.state) == ([], "unfinished")


def test_settings_metrics_and_what_a_task_adds(fitted):
    folder = fitted()
    (folder / "settings.yaml").write_text("# what differs\nmodel:\n  source: {name: lab}\n  token: abc\n")
    for version, losses in (("version_0", "0,0.5\n0,0.3\n"), ("version_1", "0,0.1\n1,0")):  # a row is being written
        (folder / "csv" / version).mkdir(parents=True)
        (folder / "csv" / version / "metrics.csv").write_text(f"epoch,m_step/loss\n{losses}")
    added = Table("", ("x", "y"), ((1, 2),))
    ResultFile([], [added]).save(folder / "fit.json")
    run = read(str(folder))
    assert run.settings == {"model": {"source": {"name": "lab"}}}
    assert [row["m_step/loss"] for row in run.metrics] == [0.5, 0.3, 0.1]
    assert measure(run).losses == {1: (0.5, 0.1, 3)}
    assert run.results == ResultFile((), (added,))


def test_published_files(tmp_path, shared):
    run = measure(read(str(shared / "data" / "seal-published" / "rank_iter0.json.gz")))
    assert (run.state, len(run.rounds), run.rounds[0].figures.edits) == ("published", 1, 250)
    assert round(run.rounds[0].figures.score[0], 4) == 0.4018
    matrix = read(str(shared / "data" / "seal-published" / "continual_overall_results.json"))
    assert [found.sequences for found in matrix.matrices] == [64]


def test_a_retention_matrix_of_a_run(fitted):
    folder = fitted()
    stream = {"name": "s", "contexts": ["a"], "rows": [[0.25], [0.75]], "unrelated": []}
    content = {"matrices": [{"name": "plain", "dataset": "", "base_model": "lab", "streams": [stream]}]}
    (folder / "retention.json").write_text(json.dumps(content))
    (matrix,) = read(str(folder)).matrices
    assert (matrix.learnt, matrix.last_row) == (0.75, 0.75)


def test_packed_single_journals(fitted):
    folder = fitted()
    source = folder / "journal" / "train-000.rank-0.jsonl"
    packed = folder / "train-000.rank-0.jsonl.gz"
    packed.write_bytes(gzip.compress(source.read_bytes()))
    assert list(read(str(packed)).rounds) == [0]


def test_runs_without_a_validation(runs, tmp_path):
    """They are over when the last round's policy is there, all adapters are, or the matrix is."""
    units = [[runs.scored(1.0), runs.scored(0.0, context_id="tarn")]]
    fit = runs.write(tmp_path / "fit", {"train-000": units})
    assert state(fit)[0] == "unfinished"
    (fit / "policy").mkdir()
    (fit / "policy" / "selection.json").write_text('{"round": 1}')
    assert state(fit) == ("finished", "finished: 1 round")
    adapted = runs.write(tmp_path / "adapt", {"adapt": units}, config={"model": {"source": {"name": "lab"}}})
    assert state(adapted) == ("unfinished", "not finished: round 1, E-step, 2 contexts")
    for name in ("lamp", "tarn"):
        (adapted / "adapters" / name).mkdir(parents=True)
        (adapted / "adapters" / name / "adaptation.json").write_text("{}")
    assert state(adapted)[0] == "finished"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("nothing", None, "expected a file, got nothing there"),
        ("folder", {}, "expected a run folder, got one without journals"),
        ("folder", {"config.yaml": "a: [", "journal/x": ""}, "expected YAML"),
        ("folder", {"retention.json": '{"matrices": [1]}'}, "expected matrices with streams"),
        ("folder", {"journal/train-000.rank-0.jsonl": '{"stamp": {}}\nno json\n'}, "line 2: not JSON"),
        ("folder", {"journal/train-000.rank-0.jsonl": '{"stamp": {}}\n{"unit": 0, "of": 1}\n'}, "is missing"),
    ],
)
def test_mistakes(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name / "journal").mkdir(parents=True) if content else (tmp_path / name).mkdir()
        for file, text in content.items():
            (tmp_path / name / file).write_text(text)
    with pytest.raises(DataError, match=message):
        read(str(tmp_path / name))


def test_a_rejected_edit_has_no_answers(runs, tmp_path):
    run = runs.write(tmp_path / "run", {"train-000": [[runs.scored(1.0), runs.rejected(edit_index=1)]]})
    (found,) = measure(read(str(run))).rounds
    assert (found.figures.rejected, found.reasons, len(found.kept or ())) == (0.5, {"empty text": 1}, 1)


def test_a_round_of_which_a_race_dropped_everything(runs, tmp_path):
    run = runs.write(tmp_path / "run", {"train-000": [[runs.dropped(1.0)]]})
    with pytest.raises(DataError, match=r"train-000\.rank-0\.jsonl: expected self-edits that a race did not drop"):
        read(str(run))


def test_odd_settings_and_metrics_are_passed_over(fitted):
    """A period that is no number counts as the default; a logged value that is no finite number is none."""
    folder = fitted(config={"trainer": {"max_epochs": 1, "check_val_every_n_epoch": "x"}})
    (folder / "csv" / "version_0").mkdir(parents=True)
    (folder / "csv" / "version_0" / "metrics.csv").write_text("epoch,m_step/loss\nnan,2.0\n0,inf\n0,3.0\n")
    assert read(str(folder)).metrics == [{"m_step/loss": 2.0}, {"epoch": 0.0}, {"epoch": 0.0, "m_step/loss": 3.0}]
    assert measure(read(str(folder))).losses == {1: (3.0, 3.0, 1)}
    assert state(folder) == ("finished", "finished: 1 round")
