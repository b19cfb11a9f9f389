"""One run, one set of settings: what a resume refuses, what it writes down, and what it says of damage."""

import json
import shutil
import sys
import zipfile
from importlib import import_module, reload

import pytest
import torch
from fault_injection import finished, fit

from seal_lightning.errors import JournalError, StaleJournalError
from seal_lightning.fit.checkpoint_file import fault_of
from seal_lightning.fit.stamp import is_noted, told_changes
from seal_lightning.stamps import code as outside_code
from seal_lightning.stamps.run import FILE, Change, Record, Rules, compare, read_record, save_record
from seal_lightning.stamps.values import changed_keys, code_of, describe, show_differences

RULES = Rules("--output", "--allow_other_versions", noted=is_noted)
STAMP = {"model.seed": 0, "trainer.ranks": 1, "versions.torch": "2.10.0", "versions.seal-lightning": "0.1.0"}


def going_on(rules=RULES, **changes):
    stamp = {**STAMP, **{name.replace("__", "."): value for name, value in changes.items()}}
    return compare(Record(STAMP), stamp, where="journal run.json", round=2, rules=rules)


def test_other_settings_are_refused_by_name():
    with pytest.raises(StaleJournalError) as caught:
        going_on(model__seed=7, versions__torch="2.11.0")
    assert str(caught.value) == (
        'journal run.json: written with other settings (model.seed: was 0, is 7; versions.torch: was "2.10.0", is '
        '"2.11.0"); choose another --output, or go back to those settings. Nothing was overwritten'
    )
    assert caught.value.exit_code == 2


def test_other_versions_are_refused_or_written_down():
    with pytest.raises(StaleJournalError) as caught:
        going_on(versions__torch="2.11.0")
    assert str(caught.value) == (
        'journal run.json: written with other versions (versions.torch: was "2.10.0", is "2.11.0"); install those, or '
        "continue with these by --allow_other_versions, which is recorded in the run. Nothing was overwritten"
    )
    allowed = Rules("--output", "--allow_other_versions", other_versions=True, noted=is_noted)
    record = going_on(allowed, versions__torch="2.11.0")
    assert record.changes == (Change(2, "versions.torch", "2.10.0", "2.11.0"),)
    with pytest.raises(StaleJournalError, match=r"model\.seed: was 0, is 7"):
        going_on(allowed, versions__torch="2.11.0", model__seed=7)
    with pytest.raises(StaleJournalError, match=r"model\.new: was not there, is 1"):
        going_on(allowed, versions__torch="2.11.0", model__new=1)
    # a setting that only the other version of this package knows
    assert len(going_on(allowed, model__new=1, **{"versions__seal-lightning": "0.2.0"}).changes) == 2


def test_how_work_is_shared_out_is_written_down(tmp_path):
    record = going_on(trainer__ranks=4)
    save_record(tmp_path, record)
    assert read_record(tmp_path) == record
    assert told_changes(tmp_path) == "Settings that changed: from round 3 on, trainer.ranks: was 1, is 4."


def test_another_class_is_one_difference():
    old = {"grader.class": "a.A", "grader.model.class": "a.M", "grader.model.x": 1, "seed": 0}
    new = {"grader.class": "b.B", "grader.k": 2, "seed": 0}
    assert show_differences(old, new, changed_keys(old, new)) == 'grader: was "a.A", is "b.B"'


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", r"run\.json, line 1: expected JSON"),
        (b"\0" * 40, r"run\.json, line 1: expected JSON"),
        (b"[]", r"run\.json: expected the settings of a run \(stamp and changes\), got other fields"),
        (b'{"stamp": 3, "changes": []}', "got other fields"),
        (b'{"stamp": {}, "changes": [3]}', "got other fields"),
        (b'{"stamp": {}, "changes": [{"round": "x", "key": "k", "was": 1, "now": 2}]}', "got other fields"),
        (b"[" * 3000 + b"]" * 3000, "nested more than 100 deep"),
    ],
)
def test_a_damaged_stamp_is_one_line(tmp_path, content, words):
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(JournalError, match=words) as caught:
        read_record(tmp_path)
    assert "\n" not in str(caught.value)


# -- code of outside classes -------------------------------------------------------------------------------------------


def test_the_source_of_outside_classes_and_of_what_they_import_counts(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_words.py").write_text("WORDS = ['a']\n")
    source = (
        "from my_words import WORDS\nfrom seal_lightning.grading import Grader\n\n\n"
        "class Half(Grader):\n    def __init__(self, k=1):\n        self._k = k\n        self._api_key = 'sk-1'\n\n"
        "    def grade(self, *, question, golds, answer):\n        return 0.5\n"
    )
    (tmp_path / "my_graders.py").write_text(source)
    half = import_module("my_graders").Half
    first = code_of({"grader": [half()]})
    assert list(first) == ["code.my_graders.Half"]
    assert code_of(half(2)) == first and code_of({"k": 3}, torch.float32) == {}
    assert describe(half(2), private=True) == {"class": "my_graders.Half", "_k": 2}  # and no key
    seen = [first]
    for name, text in (("my_graders.py", source.replace("0.5", "0.4")), ("my_words.py", "WORDS = ['b']\n")):
        (tmp_path / name).write_text(text)
        assert code_of(half()) == seen[-1]  # as the code that is running
        outside_code._read.clear()
        seen.append(code_of(half()))
        assert seen[-1] != seen[-2]
        assert show_differences(seen[-2], seen[-1], seen[-1]) == "the source of my_graders.Half has changed"
    (tmp_path / "my_words.py").write_text("WORDS = ['c', 'd']\n")
    reload(sys.modules["my_words"])  # as a notebook does
    seen.append(code_of(half()))
    assert seen[-1] not in seen[:-1]
    for name in ("my_graders", "my_words"):
        del sys.modules[name]


def test_what_holds_itself_or_is_not_finite_is_described():
    class Loop:
        pass

    loop = Loop()
    loop.itself, loop.limit = loop, float("nan")
    assert describe(loop) == {"class": f"{__name__}.{Loop.__qualname__}", "itself": "...", "limit": "nan"}


def test_no_secret_of_an_outside_class_is_in_the_stamp(monkeypatch):
    monkeypatch.setenv("SEAL_TEST_KEY", "planted-value-1234")

    class Grader:
        def __init__(self) -> None:
            self.api_keys = ["sk-planted"]
            self.headers = {"Authorization": ["Bearer planted"], "accept": {"token": {"value": "planted"}}}
            self.sent_along = "planted-value-1234"
            self.url = "https://me:planted@host/v1?api_key=planted"

    assert describe(Grader()) == {
        "class": f"{__name__}.{Grader.__qualname__}",
        "api_keys": [],
        "headers": {"Authorization": [], "accept": {"token": {}}},
        "sent_along": "[hidden]",
        "url": "https://host/v1?api_key=[hidden]",
    }


# -- checkpoints -------------------------------------------------------------------------------------------------------


def test_a_checkpoint_is_checked_before_it_is_used(two_rounds, tmp_path):
    whole = two_rounds / "checkpoints" / "last.ckpt"
    assert fault_of(whole) == ""
    data, path = whole.read_bytes(), tmp_path / "bad.ckpt"
    with zipfile.ZipFile(whole) as archive:  # between its records there is padding, which nothing reads
        record = max(archive.infolist(), key=lambda one: one.file_size)
    middle = data.index(record.filename.encode(), record.header_offset) + len(record.filename) + record.file_size // 2
    for content, fault in (
        (data[:-1], "it is not a whole archive"),
        (b"", "it is not a whole archive"),
        (data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :], "its check sums are wrong"),
    ):
        path.write_bytes(content)
        assert fault_of(path) == fault


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda found: found.pop("seal"), "it has no field seal"),
        (lambda found: found["seal"].pop("rounds_done"), "field seal.rounds_done is missing"),
        (lambda found: found["seal"].update(rounds_done="2"), "field seal.rounds_done is not of type int"),
        (lambda found: found["seal"].update(optimizer_steps=-1), "field seal.optimizer_steps is -1"),
        (lambda found: found["seal"].update(merged=[3]), "field seal.merged holds something else than dict"),
        (lambda found: found["loops"].pop("fit_loop"), "field loops.fit_loop.state_dict.stage is missing"),
        (
            lambda found: found["loops"]["fit_loop"]["state_dict"].update(stage="lunch"),
            "field loops.fit_loop.state_dict.stage is 'lunch'",
        ),
        (lambda found: found["state_dict"].update(x=3), "field state_dict holds something else than tensors"),
        (lambda found: next(iter(found["state_dict"].values())).fill_(torch.nan), "field state_dict is not finite"),
    ],
)
def test_a_field_of_a_checkpoint(two_rounds, tmp_path, change, fault):
    found = torch.load(two_rounds / "checkpoints" / "last.ckpt", weights_only=True)
    change(found)
    torch.save(found, tmp_path / "bad.ckpt")
    assert fault_of(tmp_path / "bad.ckpt") == fault


# -- runs --------------------------------------------------------------------------------------------------------------


def resumed(run, *options, code):
    launch = fit(run, "single", "--ckpt_path", "last", "--trainer.max_epochs", "3", *options)
    assert launch.wait() == [code]
    return launch.log.read_text()


def test_between_rounds_other_settings_are_refused_and_more_rounds_are_not(two_rounds, tmp_path):
    """A round has ended, so that no journal is open that could tell."""
    run = tmp_path / "run"
    shutil.copytree(two_rounds, run)
    kept = {path: path.read_bytes() for folder in ("journal", "checkpoints") for path in (run / folder).iterdir()}
    for option, value, words in (
        ("--model.m_step.learning_rate", "0.5", "model.m_step.learning_rate: was 0."),
        ("--checkpoint.monitor", "val/base", 'checkpoint.monitor: was "val/edits", is "val/base"'),
    ):
        said = resumed(run, option, value, code=2)
        assert f"run.json: written with other settings ({words}" in said and "Traceback" not in said
        assert {path: path.read_bytes() for path in kept} == kept
    (run / FILE).unlink()
    for path in (run / "journal").iterdir():
        path.unlink()
    assert "the checkpoint: written with other settings (model.seed: was 0, is 9)" in resumed(
        run, "--model.seed", "9", code=2
    )
    shutil.copytree(two_rounds / "journal", run / "journal", dirs_exist_ok=True)
    resumed(run, code=0)
    assert (run / "journal" / "train-002.rank-0.jsonl").exists()
    assert read_record(run).changes == ()


def test_a_run_of_an_earlier_version_is_resumed_only_on_purpose(two_rounds, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(two_rounds, run)
    (run / FILE).unlink()
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    del checkpoint["seal"]["run"]
    torch.save(checkpoint, run / "checkpoints" / "last.ckpt")
    said = resumed(run, code=2)
    assert "expected the settings of this run in run.json, got no such file, as from an earlier version" in said
    resumed(run, "--trainer.allow_other_versions", "true", code=0)
    assert json.loads((run / FILE).read_text())["changes"] == []


def test_a_stamp_of_a_run_that_computed_nothing_binds_nobody(tmp_path):
    run = tmp_path / "run"
    save_record(run, Record({"model.seed": 99}))
    finished(fit(run, "single", "--trainer.max_epochs", "1"))
    assert read_record(run).stamp["model.seed"] == 0
