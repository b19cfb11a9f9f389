"""Folders of data that somebody else has made: nothing in them is run, and nothing outside of them is read."""

import json
import pickle
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch

from seal_lightning.data.arc import ArcFiles
from seal_lightning.data.dataset_rows import DatasetRows
from seal_lightning.data.detect import reader_for
from seal_lightning.data.text_folder import TextFolder
from seal_lightning.errors import DataError

ROW = '{"title": "T", "passage": "The %s text."}\n'
CARD = "---\nconfigs:\n- config_name: default\n  data_files: %s\n---\n# A data set\n"


@pytest.fixture
def folder(tmp_path) -> Path:
    """A data set, beside a file that is nobody else's business."""
    (tmp_path / "secret.jsonl").write_text(ROW % "secret")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.jsonl").write_text(ROW % "open")
    return tmp_path / "data"


def passages(folder: Path) -> list[str]:
    return [context.passage for context in DatasetRows(str(folder)).read()]


def test_python_and_pickles_in_a_folder_are_not_run(folder, tmp_path, writes_marker):
    marker = tmp_path / "MARKER"
    evil = pickle.dumps(writes_marker(marker))
    (folder / "other.py").write_text(f"open({str(marker)!r}, 'w').write('ran')")
    for name in ("a.pt", "a.pkl", "a.pickle", "a.joblib", "a.npy", "a.bin", "state.pth", "__init__.py"):
        (folder / name).write_bytes(evil)
    np.save(folder / "b.npy", np.array([writes_marker(marker)], dtype=object), allow_pickle=True)
    torch.save(writes_marker(marker), folder / "c.pt")
    assert passages(folder) == ["The open text."]
    (folder / "a.jsonl").unlink()
    assert [context.title for context in TextFolder(str(folder)).read()] == ["other.py"]  # as a text
    for name in ("a.pkl", "b.npy", "c.pt"):
        with pytest.raises(DataError):
            reader_for(str(folder / name)).read()
    assert not marker.exists()


def test_a_loading_script_is_not_run(folder, tmp_path):
    marker = tmp_path / "MARKER"
    (folder / "data.py").write_text(f"open({str(marker)!r}, 'w').write('ran')")
    with pytest.raises(DataError, match="Dataset scripts are no longer supported"):
        passages(folder)
    assert not marker.exists()


@pytest.mark.parametrize(
    "named", ["../secret.jsonl", "{top}/secret.jsonl", "http://127.0.0.1:9/x.jsonl", "[a.jsonl, '../secret.jsonl']",
              "[{{split: train, path: ../*.jsonl}}]", "zip://x::http://127.0.0.1:9/x.zip"],
)  # fmt: skip
@pytest.mark.parametrize("card", ["README.md", ".huggingface.yaml"])
def test_a_card_names_files_of_its_folder_alone(folder, tmp_path, named, card):
    text = CARD % named.format(top=tmp_path)
    (folder / card).write_text(text if card == "README.md" else text.split("---\n")[1])
    with pytest.raises(DataError, match=rf"{card}: expected files of that folder, got '.*': name them in data_files"):
        passages(folder)


def test_a_card_may_name_files_of_its_folder(folder):
    (folder / "README.md").write_text(CARD % "a.jsonl")
    assert passages(folder) == ["The open text."]


def test_a_card_that_explodes_is_a_line(folder):
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    for before, name in zip("abcdefgh", "bcdefghi", strict=True):
        lines.append(f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]")
    (folder / "README.md").write_text("\n".join(["---", *lines, "---", ""]))
    with pytest.raises(DataError, match=r"README\.md: expected YAML about a data set, got") as caught:
        passages(folder)
    assert "\n" not in str(caught.value)


def test_rows_behind_a_link_are_not_read(folder, tmp_path):
    (folder / "b.jsonl").symlink_to(tmp_path / "secret.jsonl")
    with pytest.raises(
        DataError, match=r"b\.jsonl: expected a file of that folder, got a link or a name that leads to"
    ):
        passages(folder)


def test_a_saved_data_set_does_not_name_files_elsewhere(tmp_path):
    for name in ("secret", "open"):
        datasets.Dataset.from_dict({"title": ["T"], "passage": [name]}).save_to_disk(str(tmp_path / name))
    state = json.loads((tmp_path / "open" / "state.json").read_text())
    state["_data_files"] = [{"filename": "../secret/data-00000-of-00001.arrow"}]
    (tmp_path / "open" / "state.json").write_text(json.dumps(state))
    with pytest.raises(DataError, match="expected a file of that folder, got a link or a name that leads to"):
        passages(tmp_path / "open")
    splits = {"splits": ["../secret"]}
    (tmp_path / "many").mkdir()
    (tmp_path / "many" / "dataset_dict.json").write_text(json.dumps(splits))
    with pytest.raises(DataError):
        passages(tmp_path / "many")


def test_documents_behind_a_link_are_left_out(tmp_path, caplog):
    (tmp_path / "secret.md").write_text("# Key\n\nThe key is 4711.\n")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.md").write_text("# Open\n\nThe gate is open.\n")
    (tmp_path / "notes" / "b.md").symlink_to(tmp_path / "secret.md")
    (tmp_path / "notes" / "c.md").symlink_to("a.md")
    assert {context.title for context in TextFolder(str(tmp_path / "notes")).read()} == {"Open"}
    assert "b.md: expected a file of that folder, got a link or a name that leads to" in caplog.text
    with pytest.raises(DataError, match="expected a file of that folder"):
        TextFolder(str(tmp_path / "notes"), strict=True).read()
    assert len(TextFolder(str(tmp_path / "notes" / "b.md")).read()) == 1  # the user named it


def test_puzzles_behind_a_link_are_not_read(tmp_path):
    puzzle = {"train": [{"input": [[1]], "output": [[2]]}], "test": [{"input": [[1]], "output": [[2]]}]}
    (tmp_path / "secret.json").write_text(json.dumps(puzzle))
    (tmp_path / "puzzles").mkdir()
    (tmp_path / "puzzles" / "a.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(DataError, match="expected a file of that folder"):
        ArcFiles(str(tmp_path / "puzzles")).read()
