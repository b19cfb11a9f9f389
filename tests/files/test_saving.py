"""A file is whole or absent, whatever happens while it is written."""

import ast
import errno
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors import SafetensorError

from seal_lightning.files import saving
from seal_lightning.files.saving import SavingError, disk_error, save_text, tidy, whole, whole_files


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


ROOM = "make room (df -h, and df -i for the number of files) and start again; what was there before is kept"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        Exception("No space left on device (os error 28)"),  # what tokenizers raises
    ],
    ids=["ours", "safetensors", "tokenizers"],
)
def test_a_full_disk_is_one_line_with_file_and_remedy(tmp_path, error):
    with pytest.raises(SavingError) as caught, whole(tmp_path / "a.json") as aside:
        aside.write_text("half")
        raise error
    assert str(caught.value) == f"{tmp_path / 'a.json'}: No space left on device: {ROOM}"
    assert caught.value.exit_code == 1
    assert os.listdir(tmp_path) == []


def test_a_file_within_a_folder_that_is_written_aside_has_the_folders_name_in_the_message(tmp_path):
    with pytest.raises(SavingError) as caught, whole(tmp_path / "adapter") as aside:
        aside.mkdir()
        with whole(aside / "weights"):
            raise OSError(errno.ENOSPC, "No space left on device")
    assert str(caught.value) == f"{tmp_path / 'adapter'}: No space left on device: {ROOM}"


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.EDQUOT, "make room within your quota"),
        (errno.EFBIG, "raise the limit on the size of files (ulimit -f)"),
        (errno.EROFS, "choose a folder on a disk that can be written to"),
        (errno.EACCES, "make it writable, or choose another folder"),
        (errno.EIO, "check the disk"),
    ],
)
def test_each_kind_of_failure_has_its_remedy(tmp_path, monkeypatch, number, advice):
    def fail(handle):
        raise OSError(number, os.strerror(number))

    save_text(tmp_path / "a", "one")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(SavingError, match=rf"a: .*: {advice.replace('(', '.').replace(')', '.')} and start again"):
        save_text(tmp_path / "a", "two")
    monkeypatch.undo()
    assert (tmp_path / "a").read_text() == "one"
    assert os.listdir(tmp_path) == ["a"]


def test_an_error_about_another_file_stays_what_it_is(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, whole(tmp_path / "a"):
        (tmp_path / "source").read_text()
    assert caught.value.filename == str(tmp_path / "source")
    with pytest.raises(ValueError, match=r"^other$"), whole(tmp_path / "a"):
        raise ValueError("other")
    assert disk_error(ValueError("other")) is None


def test_a_folder_takes_the_place_of_another(tmp_path):
    for text in ("one", "two"):
        with whole(tmp_path / "adapter") as aside:
            aside.mkdir()
            (aside / f"{text}.txt").write_text(text)
    assert [path.name for path in tmp_path.rglob("*")] == ["adapter", "two.txt"]


def test_files_take_their_places_in_a_folder_that_has_others(tmp_path):
    save_text(tmp_path / "log", "kept")
    save_text(tmp_path / "config", "old")
    with whole_files(tmp_path) as aside:
        (aside / "config").write_text("new")
        (aside / "weights").write_text("new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "log": "kept",
        "config": "new",
        "weights": "new",
    }


def test_half_of_a_surrogate_pair_is_written_as_a_question_mark(tmp_path):
    save_text(tmp_path / "a.txt", "a\ud83db")
    assert (tmp_path / "a.txt").read_text() == "a?b"


def test_the_longest_name_that_a_file_may_have(tmp_path):
    name = "n" * 255
    save_text(tmp_path / name, "one")
    with whole(tmp_path / "f" / name) as aside:
        aside.mkdir()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["f", name, name]
    with pytest.raises(SavingError, match="File name too long: choose a shorter name and start again"):
        save_text(tmp_path / f"{name}n", "one")


def test_permissions_stay_those_of_the_file_before(tmp_path):
    save_text(tmp_path / "a", "one")
    (tmp_path / "a").chmod(0o600)
    save_text(tmp_path / "a", "two")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600


def test_a_write_protected_file_is_not_written_over(tmp_path, monkeypatch):
    save_text(tmp_path / "a", "one")
    (tmp_path / "a").chmod(0o444)
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(SavingError, match="a: Permission denied: make it writable"):
        save_text(tmp_path / "a", "two")
    assert (tmp_path / "a").read_text() == "one"


def test_a_link_makes_way_and_what_it_leads_to_is_not_touched(tmp_path):
    mine, run = tmp_path / "mine", tmp_path / "run"
    save_text(mine / "notes", "my notes")
    run.mkdir()
    (run / "config.yaml").symlink_to(mine / "notes")
    (run / "policy").symlink_to(mine)
    save_text(run / "config.yaml", "settings")
    with whole(run / "policy") as aside:
        aside.mkdir()
    assert [path.name for path in mine.iterdir()] == ["notes"]
    assert (mine / "notes").read_text() == "my notes"
    assert not any(path.is_symlink() for path in run.iterdir())


KILLED = """
import os, signal, sys
from pathlib import Path
from seal_lightning.files import saving

place, moment = Path(sys.argv[1]), sys.argv[2]
rename = Path.rename

def counting(self, target):
    done = rename(self, target)
    if moment == "between":
        os.kill(os.getpid(), signal.SIGKILL)
    return done

Path.rename = counting
with saving.whole(place / "policy") as aside:
    aside.mkdir()
    (aside / "weights").write_text("new")
    if moment == "writing":
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(("moment", "expected"), [("writing", "old"), ("between", "new")])
def test_a_kill_while_a_folder_is_replaced_is_mended_at_the_next_start(tmp_path, moment, expected):
    save_text(tmp_path / "run" / "policy" / "weights", "old")
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path / "run", moment])
    assert done.returncode == -signal.SIGKILL
    assert [path.name for path in (tmp_path / "run").iterdir() if path.name.startswith(".saving-")] != []
    tidy(tmp_path)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["policy"]
    assert (tmp_path / "run" / "policy" / "weights").read_text() == expected


def test_what_others_are_writing_is_left_alone(tmp_path):
    alive = tmp_path / f".saving-{saving._host()}-{os.getppid()}-00000000"
    elsewhere = tmp_path / ".saving-00000000-1-00000000"
    users = tmp_path / ".saving-my-notes"
    for folder in (alive, elsewhere, users):
        folder.mkdir()
    tidy(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {alive.name, elsewhere.name, users.name}
    os.utime(elsewhere, (1, 1))
    tidy(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {alive.name, users.name}


@pytest.mark.parametrize("part", ["", "old", "new"])
def test_links_in_what_looks_left_behind_lead_nowhere(tmp_path, part):
    mine, run = tmp_path / "mine", tmp_path / "run"
    for name in ("old", "new"):
        save_text(mine / name / "letters", "mine")
    holder = run / f".saving-{saving._host()}-{os.getpid()}-00000000"
    (holder / part).parent.mkdir(parents=True)
    (holder / part).symlink_to(mine / part)
    if part == "new":
        save_text(holder / "old" / "letters", "theirs")
    tidy(run)
    assert {str(path.relative_to(mine)) for path in mine.rglob("letters")} == {"old/letters", "new/letters"}
    assert not (run / "letters").exists()


# -- nothing else writes -----------------------------------------------------------------------------------------------

PACKAGE = Path(saving.__file__).parent
OWN_RULES = {"saving.py", "journal.py", "ownership.py"}  # how a file becomes whole, what only grows, a lock
ASIDE = ("whole(", "whole_files(", "_written(")
WRITERS = {
    *("write_text", "write_bytes", "writelines", "save_pretrained", "save_file", "save_checkpoint", "savez", "tofile"),
    *("json.dump", "pickle.dump", "torch.save", "np.save", "numpy.save", "to_csv"),
    *("shutil.copy", "shutil.copy2", "shutil.copyfile", "shutil.copytree", "shutil.move", "os.replace", "os.rename"),
    *("NamedTemporaryFile", "mkstemp"),
}
# Where files are written that nobody relies on, or that are made whole elsewhere: file and function, and why.
ALLOWED = {
    ("served.py", "save_model"): "into a folder that is written aside",
    ("served.py", "write_tensors"): "into a folder that is written aside",
    ("strategies.py", "save_checkpoint"): "whoever asks for a checkpoint gives a name aside",
    ("trainer.py", "save_checkpoint"): "into memory, and from there aside",
    ("endpoints/cache.py", "check"): "a file that says whether one can write there, and is removed",
    ("streams.py", "standard_streams"): "the stand-in of a stream that was closed, on /dev/null",
    ("adapt/adapters.py", "_save_merged"): "into a folder that is written aside",
    ("data/documents.py", "_read_stdin"): "a temporary file, which is read and removed",
    ("quickstart.py", "start_fit"): "a log, which a process writes as it goes",
    ("lab/training.py", "__init__"): "a log, which is written as it goes",
    ("command_line.py", "before_instantiate_classes"): "an empty file that says whether one can write there",
}


def direct_writes(text: str) -> Iterator[tuple[str, int, str]]:
    """(function, line, call) of every call that writes a file and does not stand in a block of `whole`."""

    def walk(node: ast.AST, function: str, aside: bool) -> Iterator[tuple[str, int, str]]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            function, aside = node.name, False
        if isinstance(node, ast.With):
            aside = aside or any(ast.unparse(item.context_expr).startswith(ASIDE) for item in node.items)
        if isinstance(node, ast.Call) and not aside and _writes(node):
            yield function, node.lineno, ast.unparse(node.func)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, function, aside)

    yield from walk(ast.parse(text), "", False)


def _writes(call: ast.Call) -> bool:
    name = ast.unparse(call.func)
    if name in WRITERS or name.rpartition(".")[2] in WRITERS:
        return True
    if name.rpartition(".")[2] not in ("open", "fdopen", "ZipFile"):
        return False
    first = 0 if name.endswith(".open") and name not in ("gzip.open", "os.open") else 1  # else the file comes first
    given = [*call.args[first:], *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
    modes = [one.value for one in given if isinstance(one, ast.Constant) and isinstance(one.value, str)]
    return any(set(mode) <= set("rwaxbt+U") and set(mode) & set("wax+") for mode in modes)


def test_whatever_a_user_or_a_resume_relies_on_is_written_whole_or_not_at_all():
    found = {
        (str(path.relative_to(PACKAGE)), function)
        for path in PACKAGE.rglob("*.py")
        if path.name not in OWN_RULES
        for function, *_ in direct_writes(path.read_text(encoding="utf-8"))
    }
    callbacks = PACKAGE.parent / "callbacks"
    found |= {
        (str(path.relative_to(PACKAGE.parent)), function)
        for path in callbacks.glob("*.py")
        for function, *_ in direct_writes(path.read_text(encoding="utf-8"))
    }
    assert found - set(ALLOWED) == set()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("def f(p):\n    p.write_text('a')", [("f", 2, "p.write_text")]),
        ("def f(p):\n    with open(p, 'w') as g:\n        g.write('a')", [("f", 2, "open")]),
        ("def f(p):\n    p.open(mode='ab')", [("f", 2, "p.open")]),
        ("def f(p):\n    json.dump({}, p)", [("f", 2, "json.dump")]),
        ("def f(p):\n    with whole(p) as new:\n        new.write_text('a')", []),
        ("def f(p):\n    return open(p), p.open('rb'), open('a'), str.replace('a', 'b')", []),
    ],
)
def test_the_rule_complains(text, found):
    assert list(direct_writes(text)) == found
