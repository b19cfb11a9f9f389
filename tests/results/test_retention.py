"""Retention matrices: averages, comparisons, tables and files, with literal numbers."""

import json

import pytest

from seal_lightning.errors import DataError
from seal_lightning.results.retention import (
    ContextStream,
    average,
    compare_last_rows,
    matrix_table,
    read_matrices,
    summary_table,
    to_official,
    write_matrices,
)
from seal_lightning.results.table import to_markdown

FIRST = ContextStream("order 1", ("a", "b"), ((0.0, 0.2), (0.8,), (0.4, 1.0)), (0.9, 0.7, 0.5))
SECOND = ContextStream("order 2", ("b", "a"), ((0.2, 0.0), (1.0,), (0.2, 0.6)), (0.9, 0.9, 0.7))
BETTER = [
    ContextStream("order 1", ("a", "b"), ((0.0, 0.2), (0.8,), (0.7, 1.0))),
    ContextStream("order 2", ("b", "a"), ((0.2, 0.0), (1.0,), (0.6, 0.8))),
]


def test_streams_are_averaged_by_place():
    matrix = average("plain", [FIRST, SECOND])
    assert [[cell and round(cell, 9) for cell in row] for row in matrix.mean] == [[0.1, 0.1], [0.9, None], [0.3, 0.8]]
    assert [[cell and round(cell, 9) for cell in row] for row in matrix.std] == [[0.1, 0.1], [0.1, None], [0.1, 0.2]]
    many = average("plain", [FIRST, SECOND] * 3)  # six streams
    assert many.intervals[1][1] == (None, None)  # where nothing was asked
    low, high = many.intervals[2][0]
    assert (low, high) == (pytest.approx(0.23333333), pytest.approx(0.36666666))
    assert [round(value, 9) for value in matrix.unrelated] == [0.9, 0.8, 0.6]
    assert (matrix.last_row, matrix.learnt, matrix.sequences) == (pytest.approx(0.55), pytest.approx(0.85), 2)
    assert matrix.forgetting == pytest.approx(0.3)


def test_few_streams_have_no_intervals():
    assert average("plain", [FIRST]).intervals == average("plain", [FIRST, SECOND] * 2).intervals == ()


def test_streams_that_run_give_the_rows_that_all_have():
    running = ContextStream("order 2", SECOND.contexts, SECOND.rows[:2])
    matrix = average("plain", [FIRST, running])
    assert len(matrix.mean) == 2 and matrix.unrelated == ()
    with pytest.raises(DataError, match="plain and replay: expected a finished stream in both, got none in common"):
        compare_last_rows(average("plain", [running]), average("replay", BETTER))


def test_last_rows_are_compared_by_context():
    found = compare_last_rows(average("replay", BETTER), average("plain", [FIRST, SECOND]))
    # a: .7 and .8 after .4 and .6; b: 1.0 and .6 after 1.0 and .2
    assert (found.mean, found.low, found.high, found.contexts) == (pytest.approx(0.225), None, None, 2)


def test_tables():
    plain, replay = average("plain", [FIRST, SECOND]), average("replay", BETTER)
    assert to_markdown(matrix_table(plain)).splitlines() == [
        "|         | 1    | 2    | unrelated |",
        "| ------- | ---- | ---- | --------- |",
        "| base    | 10.0 | 10.0 | 90.0      |",
        "| after 1 | 90.0 |      | 80.0      |",
        "| after 2 | 30.0 | 80.0 | 60.0      |",
    ]
    many = average("plain", [FIRST, SECOND] * 3)
    assert to_markdown(matrix_table(many)).splitlines()[2] == "| base    | 10.0 (3-17)  | 10.0 (3-17)  | 90.0      |"
    assert to_markdown(summary_table([plain, replay])).splitlines() == [
        "|        | base | learnt | left | lost | unrelated    | left, against the first |",
        "| ------ | ---- | ------ | ---- | ---- | ------------ | ----------------------- |",
        "| plain  | 10.0 | 85.0   | 55.0 | 30.0 | 90.0 -> 60.0 |                         |",
        "| replay | 10.0 | 90.0   | 77.5 | 12.5 |              | +22.5 (n = 2)           |",
    ]


def test_the_summary_leaves_out_what_says_nothing():
    elsewhere = average("elsewhere", [ContextStream("order 9", ("a", "b"), ((0.0, 0.2), (0.8,), (0.4, 1.0)))])
    rounds = average("rounds", [ContextStream("fit", ("a", "b"), ((0.0, 0.2), (0.5, 0.5)))])
    assert to_markdown(summary_table([average("plain", [FIRST]), elsewhere, rounds])).splitlines()[2:] == [
        "| plain     | 10.0 | 90.0   | 70.0 | 20.0 | 90.0 -> 50.0 |",
        "| elsewhere | 10.0 | 90.0   | 70.0 | 20.0 |              |",
        "| rounds    | 10.0 |        | 50.0 |      |              |",
    ]
    more_rounds = ContextStream("fit", ("a", "b"), ((0.0, 0.2), (0.5, 0.5), (0.5, 0.7), (0.6, 0.8)))
    assert to_markdown(summary_table([average("rounds", [more_rounds])])).splitlines()[0] == "|        | base | left |"


def test_our_file_gives_the_matrices_back(tmp_path):
    matrices = [average("plain", [FIRST, SECOND], dataset="d", base_model="m"), average("replay", BETTER)]
    write_matrices(tmp_path / "retention.json", matrices)
    assert read_matrices(tmp_path / "retention.json") == matrices


def test_the_authors_form_and_back(tmp_path):
    matrix = average("plain", [FIRST, SECOND], dataset="d", base_model="m")
    official = to_official(matrix)
    assert official == {
        "mean_over_sequences": [[0.1, 0.1], [0.9, 0.0], [0.3, 0.8]],
        "std_over_sequences": [[0.1, 0.1], [0.1, 0.0], [0.1, 0.2]],
        "n_sequences": 2,
        "n_datapoints": 2,
        "dataset": "d",
        "base_model": "m",
    }
    path = tmp_path / "plain.json"
    path.write_text(json.dumps(official))
    (found,) = read_matrices(path)
    assert found.mean == ((0.1, 0.1), (0.9, None), (0.3, 0.8))
    assert (found.streams, found.intervals, found.sequences) == ((), (), 2)
    assert to_official(found) == official


def test_the_published_matrix(shared):
    path = shared / "data" / "seal-published" / "continual_overall_results.json"
    (matrix,) = read_matrices(path)
    assert (len(matrix.mean), matrix.sequences, matrix.base_model) == (9, 64, "models/iter2")
    assert (matrix.mean[0][0], matrix.mean[1][0], matrix.mean[8][0]) == (0.3309, 0.3825, 0.1894)
    assert (round(matrix.learnt, 4), round(matrix.last_row, 4)) == (0.4146, 0.2474)
    assert to_official(matrix) == json.loads(path.read_text())


def ours(**changes):
    stream = {"name": "s", "contexts": ["x", "y"], "rows": [[0, 1], [1], [1, 1]], "unrelated": [], **changes}
    return json.dumps({"matrices": [{"name": "a", "dataset": "", "base_model": "", "streams": [stream]}]})


def official(mean):
    return json.dumps({"mean_over_sequences": mean, "std_over_sequences": [[0], [0]], "n_sequences": 1})


def test_rows_of_rounds_are_read(tmp_path):
    path = tmp_path / "rounds.json"
    path.write_text(ours(rows=[[0, 1], [1, 1], [1, 0], [0, 0]], unrelated=[1, 1, 0.5, 0]))
    (matrix,) = read_matrices(path)
    assert (len(matrix.mean), matrix.one_by_one, matrix.unrelated) == (4, False, (1, 1, 0.5, 0))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[1", "expected a retention matrix as JSON"),
        ("[]", "expected matrices with streams, or mean_over_sequences"),
        ('{"std_over_sequences": []}', "got no field mean_over_sequences: write the file again"),
        ('{"mean_over_sequences": [[1], []], "std_over_sequences": [[1]], "n_sequences": 1}', "rows of different"),
        ('{"matrices": []}', "got no matrices: write"),
        ('{"matrices": [{"name": "a", "streams": []}]}', "got no streams: write"),
        (ours(contexts=[], rows=[[]]), "got no contexts: write"),
        (ours(rows=[]), "got no rows: write"),
        (ours(rows=[[0], [1]]), "got 1 numbers in row 0, not 2: write"),
        (ours(rows=[[0, 1], [1], []]), "got 0 numbers in row 2, not 2: write"),
        (ours(unrelated=[1]), "got 1 numbers in unrelated for 3 rows: write"),
        (ours(rows=[[0, 1], [7]]), "got 7.0 as an accuracy, which is 0 to 1: write"),
        (official([[float("nan")], [0]]), "got nan as an accuracy"),
        (official([[]]), "got no numbers in a row"),
        (official([]), "got no rows"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path, text, complaint):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(DataError, match=complaint) as found:
        read_matrices(path)
    assert "\n" not in str(found.value)
    with pytest.raises(DataError, match="got No such file or directory: check the path"):
        read_matrices(tmp_path / "missing.json")
