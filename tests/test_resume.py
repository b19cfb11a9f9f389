"""Killed at fixed moments and resumed, a run ends where the uninterrupted one does: same weights, same kept edits.

Each run is a forked child, so that SIGKILL is real and the imports are paid for once. `benchmarks/crash.py` does the
same at random moments with processes of their own.
"""

import json
import multiprocessing
import signal

import crash
import pytest
import torch

from seal_lightning.cli import main


def _child(arguments):
    torch.set_num_threads(1)
    raise SystemExit(main(arguments))


def seal(*arguments):
    """Run `seal` in a forked child; returns its exit code, negative for a signal."""
    child = multiprocessing.get_context("fork").Process(target=_child, args=([str(a) for a in arguments],))
    child.start()
    child.join(timeout=120)
    assert child.exitcode is not None, "the run hangs"
    return child.exitcode


def write_config(run, **trainer):
    path = run.with_suffix(".json")
    path.write_text(json.dumps(crash.config(run, **trainer)))
    return path


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    run = tmp_path_factory.mktemp("whole") / "run"
    assert seal("fit", "--config", write_config(run)) == 0
    return crash.outcome(run)


@pytest.mark.parametrize(
    ("event", "count"),
    [
        ("unit", 2),  # in the first E-step
        ("e_step", 2),  # between the second E-step and its M-step
        ("batch", 16),  # in the second M-step (twelve batches a round), with a checkpoint behind it
        ("validation", 2),  # after the first merge, before its checkpoint
    ],
)
def test_a_killed_run_resumes_to_the_same_end(tmp_path, uninterrupted, event, count):
    run = tmp_path / "run"
    killer = {"class_path": "crash.KillAt", "init_args": {"event": event, "count": count}}
    assert seal("fit", "--config", write_config(run, callbacks=[killer])) == -signal.SIGKILL
    assert seal("fit", "--config", write_config(run), "--ckpt_path", "last") == 0
    assert crash.outcome(run) == uninterrupted


def test_a_finished_unit_is_not_run_again(tmp_path):
    run = tmp_path / "run"
    killer = {"class_path": "crash.KillAt", "init_args": {"event": "unit", "count": 2}}
    seal("fit", "--config", write_config(run, callbacks=[killer]))
    before = (run / "journal" / "train-000.rank-0.jsonl").read_bytes()
    assert before.count(b'"unit": 1') == 4  # two edits, two repeats
    assert seal("fit", "--config", write_config(run), "--ckpt_path", "last") == 0
    assert (run / "journal" / "train-000.rank-0.jsonl").read_bytes().startswith(before)


def test_another_configuration_does_not_touch_the_journal(tmp_path, capfd):
    run = tmp_path / "run"
    killer = {"class_path": "crash.KillAt", "init_args": {"event": "unit", "count": 1}}
    seal("fit", "--config", write_config(run, callbacks=[killer]))
    before = (run / "journal" / "train-000.rank-0.jsonl").read_bytes()
    capfd.readouterr()
    assert seal("fit", "--config", write_config(run), "--model.inner_loop.learning_rate", "0.5") != 0
    assert "journal" in (message := capfd.readouterr().err) and "learning_rate" in message
    assert (run / "journal" / "train-000.rank-0.jsonl").read_bytes() == before


def test_sigterm_stops_at_a_units_end_with_143(tmp_path, uninterrupted):
    run = tmp_path / "run"
    killer = {"class_path": "crash.KillAt", "init_args": {"event": "unit", "count": 2, "number": int(signal.SIGTERM)}}
    assert seal("fit", "--config", write_config(run, callbacks=[killer])) == 143
    assert seal("fit", "--config", write_config(run), "--ckpt_path", "last") == 0
    assert crash.outcome(run) == uninterrupted


def test_a_resume_without_the_journal_says_so(tmp_path, capfd):
    run = tmp_path / "run"
    killer = {"class_path": "crash.KillAt", "init_args": {"event": "batch", "count": 5}}
    seal("fit", "--config", write_config(run, callbacks=[killer]))
    for path in (run / "journal").glob("train-*"):
        path.unlink()
    capfd.readouterr()
    assert seal("fit", "--config", write_config(run), "--ckpt_path", "last") == 1
    assert "is incomplete, but the checkpoint was taken in its M-step" in capfd.readouterr().err
