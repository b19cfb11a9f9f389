"""A file is whole or absent, whatever happens while it is written."""

import errno
import os

import pytest

from seal_lightning.saving import SavingError, save_text, whole


def test_a_file_takes_the_place_of_the_one_before(tmp_path):
    save_text(tmp_path / "a.json", "one")
    save_text(tmp_path / "a.json", "two é")
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == "two é"
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_failure_while_writing_leaves_what_was_there(tmp_path):
    save_text(tmp_path / "a.json", "one")
    with pytest.raises(KeyboardInterrupt), whole(tmp_path / "a.json") as aside:
        aside.write_text("tw")
        raise KeyboardInterrupt
    assert (tmp_path / "a.json").read_text() == "one"
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_full_disk_is_one_line_with_file_and_remedy(tmp_path):
    with pytest.raises(SavingError) as caught, whole(tmp_path / "a.json") as aside:
        aside.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert str(caught.value) == (
        f"{tmp_path / 'a.json'}: No space left on device: make room and start again; what was there before is kept"
    )
    assert caught.value.exit_code == 1
    assert os.listdir(tmp_path) == []


def test_a_folder_takes_the_place_of_another(tmp_path):
    for text in ("one", "two"):
        with whole(tmp_path / "adapter") as aside:
            aside.mkdir()
            (aside / f"{text}.txt").write_text(text)
    assert [path.name for path in tmp_path.rglob("*")] == ["adapter", "two.txt"]


def test_half_of_a_surrogate_pair_is_written_as_a_question_mark(tmp_path):
    save_text(tmp_path / "a.txt", "a\ud83db")
    assert (tmp_path / "a.txt").read_text() == "a?b"
