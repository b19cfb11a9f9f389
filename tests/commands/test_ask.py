"""`seal ask`: one question, lines of a pipe, a terminal; what cannot be asked ends in one line."""

import json
import os
import pty
import select
import sys
import time
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from small_library import make_library

from seal_lightning.cli import main
from seal_lightning.library.asking import Library
from seal_lightning.library.manifest import read_manifest, write_manifest

QUESTION = "What does Frost Burrow sell?"
HILLS = "A trip through the western hills"
Ask = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("library")
    make_library(place)
    return place


@pytest.fixture
def ask(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Runs the command on the library; returns exit code, output and errors."""

    def run(*args: object, lines: str = "", library: Path = folder) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", StringIO(lines))
        code = main(["ask", str(library), *map(str, args)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def answer(folder: Path):
    return Library.open(folder, device="cpu").ask(QUESTION)


def test_the_answers_stand_side_by_side_with_where_they_come_from(ask: Ask, answer) -> None:
    code, out, _ = ask(QUESTION)
    assert code == 0
    assert out.splitlines()[:3] == [
        f"without adapter: {answer.without_adapter}",
        f"with adapter: {answer.with_adapter}",
        f"with the document in the context: {answer.open_book}",
    ]
    assert f"from: {HILLS} (towns.jsonl#2), score " in out
    assert "adapter: town-1; " in out


def test_json(ask: Ask, answer) -> None:
    code, out, _ = ask("--json", *QUESTION.split())  # without quotes, and after an option
    row = json.loads(out)
    assert code == 0
    assert row["question"] == QUESTION
    assert (row["without_adapter"], row["with_adapter"]) == (answer.without_adapter, answer.with_adapter)
    assert [one["title"] for one in row["documents"]] == [HILLS]
    assert row["adapters"] == {"town-1": 1.0}
    none = json.loads(ask("Who painted the Mona Lisa?", "--json")[1])
    assert (none["fits"], none["documents"], none["with_adapter"]) == (False, [], None)


def test_none_fits_is_said(ask: Ask) -> None:
    code, out, _ = ask("Who painted the Mona Lisa?", "--only_adapter")
    assert code == 0
    assert "without adapter: " in out
    assert "none of the documents fits (the nearest scores 0.00 and fits 0.00)" in out


def test_a_pipe_gets_a_line_for_each_question(ask: Ask, answer) -> None:
    code, out, _ = ask(lines=f"{QUESTION}\n\nWho painted the Mona Lisa?\n{QUESTION}\n")
    assert code == 0
    assert len(out.splitlines()) == 3
    assert out.splitlines()[0] == out.splitlines()[2] == answer.with_adapter
    rows = [json.loads(line) for line in ask("--json", lines=f"{QUESTION}\n{QUESTION}\n")[1].splitlines()]
    assert [row["open_book"] for row in rows] == [answer.open_book] * 2


def test_which_adapter_answers_can_be_chosen(ask: Ask) -> None:
    assert json.loads(ask(QUESTION, "--json", "--adapter", "all")[1])["adapters"] == {"all": 1.0}
    assert json.loads(ask(QUESTION, "--json", "--document", "town-0")[1])["adapters"] == {"town-0": 1.0}
    both = json.loads(ask(QUESTION, "--json", "--k", 2, "--only_adapter")[1])
    assert list(both["adapters"].values()) == [0.6667, 0.3333]
    assert (both["without_adapter"], both["open_book"]) == (None, None)


def test_a_longer_answer(ask: Ask) -> None:
    words = [len(json.loads(ask(QUESTION, "--json", "--max_new_tokens", most)[1])["with_adapter"]) for most in (1, 12)]
    assert words[0] < words[1]


def test_the_list_of_documents(ask: Ask) -> None:
    code, out, _ = ask("--documents")
    assert code == 0
    assert f"{HILLS} (towns.jsonl#2): ready" in out
    assert "A late letter (late.md): pending" in out
    assert "all: ready; the adapter of 3 documents" in out
    assert json.loads(ask("--documents", "--json")[1].splitlines()[1])["adapter"] == "adapters/town-1"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((" ",), "QUESTION is empty"),
        (("why " * 5000, "--document", "town-1"), "QUESTION is too long"),
        ((QUESTION, "--document", "nothing"), "--document nothing: expected a document of the library"),
        ((QUESTION, "--document", "late"), "it is not learnt yet"),
        ((QUESTION, "--document", "old"), "its adapter was replaced by late"),
        ((QUESTION, "--k", "0"), "k must be a whole number of at least 1"),
        ((QUESTION, "--max_new_tokens", "0"), "max_new_tokens must be a whole number of at least 1"),
        ((QUESTION, "--router", "tfidf"), "--router"),
        ((QUESTION, "--least_fit", "3"), "least_fit must be a number from 0 to 1"),
        ((QUESTION, "--embedder", "x"), "--embedder is of use with --router embeddings alone"),
        ((QUESTION, "--server_model", "x"), "--server_model is of use with --server alone"),
        ((QUESTION, "--server", "http://localhost:1/v1", "--k", "2"), "a server answers with one adapter at a time"),
    ],
)
def test_what_cannot_be_asked(ask: Ask, args: tuple[str, ...], said: str) -> None:
    code, out, err = ask(*args)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert said in err


def test_folders_that_are_no_library(ask: Ask, tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "nowhere"):
        code, _, err = ask(QUESTION, library=place)
        assert code == 2
        assert "expected a folder of seal adapt" in err
    manifest = make_library(tmp_path / "late", together=False)
    write_manifest(tmp_path / "late", type(manifest)(**{**vars_of(manifest), "documents": manifest.documents[3:]}))
    assert len(read_manifest(tmp_path / "late").documents) == 1
    assert "of which none is ready" in ask(QUESTION, library=tmp_path / "late")[2]


def vars_of(manifest: object) -> dict[str, object]:
    return {name: getattr(manifest, name) for name in manifest.__slots__}  # type: ignore[attr-defined]


def test_a_server_that_is_not_there(ask: Ask) -> None:
    code, _, err = ask(QUESTION, "--server", "http://127.0.0.1:9/v1")
    assert code == 1
    assert "127.0.0.1:9" in err.splitlines()[-1]


def test_a_missing_extra(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seal_lightning.library.router.find_spec", lambda name: None)
    code, _, err = ask(QUESTION, "--router", "embeddings")
    assert code == 2
    assert "the router embeddings needs packages that are not installed: pip install" in err


def test_mistakes_are_found_before_torch_is_imported(folder: Path) -> None:
    import subprocess

    code = "import sys; from seal_lightning.cli import main\n"
    code += f"assert main(['ask', {str(folder)!r}, 'x', '--document', 'nothing']) == 2\n"
    code += "assert not {'torch', 'transformers', 'lightning'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_in_a_terminal_questions_are_asked_until_ctrl_d(folder: Path) -> None:
    shown = in_a_terminal(folder, [QUESTION, "/k 2", "/adapter all", "/adapter nothing", "/what", "", QUESTION])
    assert "3 documents; a question, /help, or Ctrl-D to end" in shown
    assert shown.count("with the document in the context") >= 2
    assert "k = 2" in shown
    assert "adapter: all" in shown
    assert "seal: --document nothing: expected a document of the library" in shown
    assert "/documents      what can be asked about" in shown


def in_a_terminal(folder: Path, lines: list[str]) -> str:
    """What a loop shows in a pseudo-terminal to these lines and Ctrl-D."""
    child, screen = pty.fork()
    if child == 0:
        os.environ |= {"COLUMNS": "120", "TERM": "xterm"}
        os.execv(sys.executable, [sys.executable, "-m", "seal_lightning", "ask", str(folder)])
    shown = ""
    for line in [*lines, "\x04"]:
        shown += read_until(screen, "? ")
        os.write(screen, line.encode() + (b"" if line == "\x04" else b"\n"))
    shown += read_until(screen, "nothing more will come")
    os.close(screen)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    return shown


def read_until(screen: int, end: str, *, seconds: float = 120) -> str:
    """What a terminal shows until a prompt stands at its end, or until it is closed."""
    text, last = b"", time.monotonic() + seconds
    while time.monotonic() < last and not text.decode(errors="replace").endswith(end):
        if not select.select([screen], [], [], 0.5)[0]:
            continue
        try:
            text += os.read(screen, 65536)
        except OSError:  # the other end is closed
            break
    return text.decode(errors="replace")
