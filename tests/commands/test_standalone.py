"""What `seal adapt` and `seal continual` share: a run that cannot be used is named with what its file lacks."""

import pytest

from seal_lightning.commands.standalone import add_model, open_folder
from seal_lightning.errors import ConfigError, misread
from seal_lightning.options.parser import Parser


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("data: {limit_train: 1}\n", "model is missing"),
        ("model: 5\n", "its content has another form"),
        ("[]\n", "its content has another form"),
    ],
)
def test_a_run_without_a_model_section_is_named_with_what_is_missing(tmp_path, content, reason):
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(ConfigError) as caught:
        add_model(Parser("adapt"), ["--policy", str(tmp_path)])
    expected = f"--policy {tmp_path}: expected a run, got an unusable config.yaml ({reason}): check the path"
    assert str(caught.value) == expected


def test_reasons_are_about_the_file_and_not_about_python():
    assert misread(KeyError("stamp")) == "stamp is missing"
    assert misread(TypeError("'NoneType' object is not subscriptable")) == "its content has another form"
    assert misread(ValueError("scores that are not from 0 to 1")) == "scores that are not from 0 to 1"
    assert misread(FileNotFoundError(2, "No such file or directory", "x.json")) == "No such file or directory"


def test_a_folder_with_files_is_only_taken_to_resume(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    refusals = {False: r"got one with files: add --resume, or choose another$", True: r"of seal adapt, got another: "}
    for resume, refusal in refusals.items():
        with pytest.raises(ConfigError, match=refusal), open_folder(tmp_path, "adapt", resume=resume):
            pass
