"""A disk that is full, at any moment: one line with file and remedy, nothing lost, and a resume ends as if nothing was.

No file system is mounted here: files may not become larger than a limit (RLIMIT_FSIZE), or a call fails as it would.
"""

import errno
import json
import os
import threading

import pytest
from fault_injection import Launch, config, finished, fit, outcome

from seal_lightning.cli import main
from seal_lightning.commands.fit import quiet_threads
from seal_lightning.errors import JournalError, Stopped
from seal_lightning.files.saving import SavingError
from seal_lightning.fit.run_folder import naming_disk
from seal_lightning.fit.trainer import SEALTrainer


def limited(run, largest, *options):
    """A fit whose files may not become larger; its last words."""
    path = run.with_suffix(".json")
    path.write_text(json.dumps(config(run)))
    launch = Launch(["fit", "--config", path, *options], ranks=1, log=run.with_suffix(".log"), largest=largest)
    assert launch.wait() == [1]
    said = launch.log.read_text()
    assert "Traceback" not in said and "Exception ignored" not in said
    lines = [line for line in said.splitlines() if line.startswith("seal: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(
    ("largest", "options", "file"),
    [
        (9_000, ["--trainer.logger", "false"], "train-000.rank-0.jsonl: "),  # TensorBoard's file would be the first
        (60_000, [], "/last.ckpt: "),
    ],
)
def test_a_fit_ends_with_one_line_and_is_resumed(tmp_path, two_rounds, largest, options, file):
    run = tmp_path / "run"
    said = limited(run, largest, *options)
    assert "File too large" in said and "resume with --ckpt_path last" in said and file in said
    finished(fit(run, "single", "--ckpt_path", "last"))
    assert outcome(run) == outcome(two_rounds)
    assert not list(run.rglob(".saving-*"))


def test_a_report_that_does_not_fit(tmp_path, monkeypatch, capsys):
    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"question": "Who?", "gold": "Ada", "answer": "Ada"}) + "\n")
    monkeypatch.setattr(os, "fsync", full)
    assert main(["grade", str(rows), "--output", str(tmp_path / "out.jsonl")]) == 1
    remedy = "make room (df -h, and df -i for the number of files) and start again; what was there before is kept"
    assert capsys.readouterr().err == f"seal: {tmp_path / 'out.jsonl'}: No space left on device: {remedy}\n"
    assert sorted(os.listdir(tmp_path)) == ["rows.jsonl"]
    monkeypatch.undo()
    assert main(["grade", str(rows), "--output", "/proc/out.jsonl"]) == 2
    assert capsys.readouterr().err.startswith("seal: --output /proc/out.jsonl: ")


def test_a_link_that_a_user_names_is_followed(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"question": "Who?", "gold": "Ada", "answer": "Ada"}) + "\n")
    (tmp_path / "there").mkdir()
    (tmp_path / "out.jsonl").symlink_to(tmp_path / "there" / "out.jsonl")
    assert main(["grade", str(rows), "--output", str(tmp_path / "out.jsonl")]) == 0
    assert (tmp_path / "out.jsonl").is_symlink() and (tmp_path / "there" / "out.jsonl").is_file()


def full_logger(then=None):
    """As a logger's file raises it in some other thread, without a name; `then` is what comes up after."""
    try:
        raise then or OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        if then is not None:  # closing it says it again
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("first", [None, JournalError("journal: full"), Stopped(15)], ids=["alone", "ours", "stopped"])
def test_a_loggers_file_without_a_name_is_in_the_run_folder_and_hides_nothing(tmp_path, first):
    trainer = SEALTrainer(default_root_dir=str(tmp_path), accelerator="cpu", logger=False)
    with pytest.raises(type(first) if first else SavingError) as caught, naming_disk(trainer):
        full_logger(first)
    if first is None:
        assert str(caught.value).startswith(f"{tmp_path}: No space left on device: make room (df -h")
    else:
        assert caught.value is first


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_threads_traceback_is_shown_unless_it_is_about_a_disk(capsys, monkeypatch):
    shown = []
    monkeypatch.setattr(threading, "excepthook", lambda what: shown.append(str(what.exc_value)))

    def die(error):
        raise error

    with quiet_threads():
        for error in (OSError(errno.ENOSPC, "full"), ValueError("other")):
            thread = threading.Thread(target=die, args=(error,))
            thread.start()
            thread.join()
    assert shown == ["other"]
