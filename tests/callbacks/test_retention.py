"""The retention callback in a fit: a row for the base and each round, also after the run was broken off."""

import csv
import json

import fault_injection
import pytest

from seal_lightning.cli import main
from seal_lightning.results.retention import read_matrices

CALLBACK = "seal_lightning.callbacks.Retention"


def fit(run, *options, rounds=2, **arguments):
    content = fault_injection.config(run, max_epochs=rounds)
    content["trainer"]["callbacks"] = [{"class_path": CALLBACK, "init_args": arguments}]
    content["trainer"]["limit_val_batches"] = 0
    content["model"]["e_step"] = {"edits": 1, "repeats": 1}
    content["data"]["limit_train"] = 2
    path = run.with_suffix(".json")
    path.write_text(json.dumps(content))
    return main(["fit", "--config", str(path), *options])


def logged(run, name):
    texts = [path.read_text() for path in sorted((run / "csv").glob("*/metrics.csv"))]
    rows = [row for text in texts for row in csv.DictReader(text.splitlines())]
    return [float(row[name]) for row in rows if row.get(name)]


def test_a_row_for_the_base_and_each_round(tmp_path):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    unrelated = str(fault_injection.DEBUG / "passages.jsonl")
    assert fit(whole, unrelated=unrelated, limit=2) == 0
    (matrix,) = read_matrices(whole / "retention.json")
    (stream,) = matrix.streams
    assert (matrix.name, matrix.dataset, len(stream.contexts)) == ("policy by round", "the validation contexts", 2)
    assert [len(row) for row in stream.rows] == [2, 2, 2] and len(stream.unrelated) == 3
    assert stream.rows[0] != stream.rows[1] != stream.rows[2]
    assert logged(whole, "retention/mean") == pytest.approx([sum(row) / 2 for row in stream.rows])
    assert logged(whole, "retention/unrelated") == pytest.approx(stream.unrelated)
    assert fit(halves, unrelated=unrelated, limit=2, rounds=1) == 0
    assert fit(halves, "--ckpt_path", "last", unrelated=unrelated, limit=2) == 0
    assert (halves / "retention.json").read_bytes() == (whole / "retention.json").read_bytes()


def test_contexts_without_queries_are_refused(tmp_path, capfd):
    (tmp_path / "bare.jsonl").write_text('{"passage": "A tarn is a lake."}\n')
    assert fit(tmp_path / "run", contexts=str(tmp_path / "bare.jsonl")) == 2
    assert capfd.readouterr().err.startswith("seal: retention.contexts: expected contexts with queries in ")
