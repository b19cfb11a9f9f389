"""A mistake in a file is one line that names file, row and field, and never a traceback of another kind."""

import json

import pytest

from seal_lightning.data import Jsonl, PassagePair, SealJson, Squad, TextFolder, read_contexts
from seal_lightning.errors import ConfigError, DataError

GOOD = {"passage": "P"}


def message(read, *args):
    with pytest.raises(DataError) as caught:
        read(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def query(**fields):
    return {"passage": "Q", "queries": [{"question": "A?", "answer": "x"}, fields]}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({}, "field passage must be text, got nothing: add it"),
        ({"passage": None}, "field passage must be text, got null: add it"),
        ({"passage": " \n"}, "field passage must be text, got white space only: fill it in"),
        ({"passage": ""}, "field passage must be text, got empty text"),
        ({"passage": 7}, "field passage must be text, got the number 7: write it in quotes"),
        ({"passage": "a\ud800b"}, "field passage must be valid Unicode, got half of a surrogate pair"),
        ({"passage": "Q", "title": ["T"]}, "field title must be text, got a list"),
        ({"passage": "Q", "id": 3}, "field id must be text, got the number 3: write it in quotes"),
        ({"passage": "Q", "queries": {}}, "field queries must be a list, got an object: write it in [...]"),
        ({"passage": "Q", "queries": ["A?"]}, "field queries[0] must be an object, got the text 'A?'"),
        (query(answer="x"), "field queries[1].question must be text, got nothing"),
        (query(question="B?"), "field queries[1].answers or answer must be the accepted answers, got nothing"),
        (query(question="B?", answer="x", answers=["x"]), "got both answers and answer"),
        (query(question="B?", answers=[]), "field queries[1].answers must be at least one answer, got an empty list"),
        (query(question="B?", answers=["x", None]), "field queries[1].answers[1] must be text, got null"),
        (query(question="B?", answer=True), "field queries[1].answer must be text, got the truth value true"),
        ({"passage": "Q", "edits": "e"}, "field edits must be a list, got the text 'e'"),
        ({"passage": "Q", "edits": [" "]}, "field edits[0] must be text, got white space only"),
        ("Q", "the row must be an object, got the text 'Q': write it in {...}"),
    ],
)
@pytest.mark.parametrize("lines", [True, False])
def test_a_row_that_cannot_be_used(tmp_path, row, words, lines):
    path = tmp_path / ("a.jsonl" if lines else "a.json")
    path.write_text(f"{json.dumps(GOOD)}\n\n{json.dumps(row)}" if lines else json.dumps([GOOD, row]))
    found = message(Jsonl(str(path)).read)
    assert found.startswith(f"{path}, {'line 3' if lines else 'row 2'}: ")
    assert words in found


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"context": "C", "questions": []}, "row 1: field title must be text, got nothing"),
        ({"title": "T", "context": "C"}, "field questions must be a list, got nothing"),
        ({"title": "T", "context": "\t", "questions": []}, "field context must be text, got white space only"),
        (
            {"title": "T", "context": "C", "questions": [{"question": "A?"}]},
            "field questions[0].answer must be the acc",
        ),
    ],
)
def test_a_seal_row_that_cannot_be_used(tmp_path, row, words):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([row]))
    assert words in message(SealJson(str(path)).read)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.json", b'[{"passage": "P"},\n {"passage" "Q"}]', "a.json, line 2: expected JSON, got: Expecting ':'"),
        ("a.jsonl", b'{"passage": "P"}\n{"passage": \n', "a.jsonl, line 2: expected JSON, got: Expecting value"),
        ("a.json", b'{"passage": "P"}\n{"passage": \n', "a.json, line 2: expected JSON"),
        ("a.json", b"[" * 100_000, "a.json, line 1: expected JSON, got: "),
        ("a.json", b'[{"passage": ' + b"1" * 5000 + b"}]", "a.json, line 1: expected JSON, got: "),
        ("a.json", b"", "a.json: expected data, got an empty file"),
        ("a.jsonl", b" \n\n", "a.jsonl: expected data, got an empty file"),
        ("a.json", b"[]", "a.json: expected rows, got an empty list"),
        ("a.json", b"3", "row 1: the row must be an object, got the number 3"),
        ("a.json", b'{"data": 3}', "field data must be a list, got the number 3"),
        ("a.json", '[{"passage": "é"}]'.encode("latin-1"), "expected UTF-8 text, got byte 0xe9 at offset 14: save"),
        ("a.json", '[{"passage": "é"}]'.encode("latin-1"), "expected UTF-8 text, got byte 0xe9 at offset 14"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path, name, content, words):
    path = tmp_path / name
    path.write_bytes(content)
    assert words in message(read_contexts, path)
    assert words in message(Jsonl(str(path)).read)


def test_one_id_for_two_passages(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": "a", "passage": "P"}\n{"id": "a", "passage": "P"}\n{"id": "a", "passage": "Q"}')
    found = message(Jsonl(str(path)).read)
    assert found == f"{path}, line 3: field id must be a unique id, got 'a' of line 1 again: rename one"


@pytest.mark.parametrize("reader", [SealJson, Jsonl, TextFolder, lambda path: PassagePair(path, path)])
def test_nothing_at_the_path(tmp_path, reader):
    assert "nothing there: check the path" in message(reader(str(tmp_path / "none.json")).read)


def test_paths_that_no_reader_takes(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\0")
    (tmp_path / "a.csv").write_text("body,label\nx,y")
    (tmp_path / "a.json").write_text('[{"text": "x"}]')
    (tmp_path / "a.jsonl").mkdir()
    assert "expected a file or folder, got nothing there: check the path" in message(read_contexts, tmp_path / "none")
    assert (
        "a.png: expected a document (text, Markdown, HTML, PDF, Word or EPUB), got a file that is not text"
        in message(read_contexts, tmp_path / "a.png")
    )
    assert message(read_contexts, tmp_path / "a.csv") == (
        f"{tmp_path}/a.csv: expected columns passage (or context), question and answers (or answer), or those of a "
        "known form, got body, label: say which is which, as in '{class_path: seal_lightning.data.DatasetRows, "
        f"init_args: {{path: {tmp_path}/a.csv, columns: {{passage: COLUMN, question: COLUMN, answers: COLUMN}}}}}}'"
    )
    assert "row 1: the row must be an object with passage, or" in message(read_contexts, tmp_path / "a.json")
    assert "expected a file that can be read, got: Is a directory" in message(Jsonl(str(tmp_path / "a.jsonl")).read)
    assert "expected documents, got none: no files under pattern '*'" in message(read_contexts, tmp_path / "a.jsonl")
    assert "expected a file or folder, got nothing" in message(read_contexts, "a\0b.json")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", "", "a.txt: expected data, got an empty file"),
        ("a.md", "# Only this\n", "a.md: expected a text, got a heading only"),
        ("a.txt", b"\xff\xfa", "a.txt: expected UTF-8 text"),
    ],
)
def test_a_text_that_cannot_be_used(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert words in message(TextFolder(str(tmp_path)).read)


@pytest.mark.parametrize("name", ["p.jsonl", "p.txt"])
def test_an_empty_file_of_passages(tmp_path, name):
    (tmp_path / name).write_text("\n \n")
    assert f"{name}: expected data, got an empty file" in message(PassagePair(str(tmp_path / name), "none").read)


@pytest.mark.parametrize("reference", [2, -1, "z", None, True, 0.0, ["a"]])
def test_a_question_about_no_passage(tmp_path, reference):
    passages, questions = tmp_path / "p.jsonl", tmp_path / "q.jsonl"
    passages.write_text('{"id": "a", "passage": "P"}\n{"passage": "Q"}')
    questions.write_text(json.dumps({"passage": reference, "question": "A?", "answer": "x"}))
    found = message(PassagePair(str(passages), str(questions)).read)
    assert f"{questions}, line 1: field passage must be the id of a passage (text) or its index (0 to 1), got" in found


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([{"context": "C", "question": "A?"}], "row 1: field answers must be a list, got nothing"),
        (
            [{"context": "C", "question": "A?", "answers": {"text": "x"}}],
            "field answers.text must be a list, got the text",
        ),
        (
            [{"context": "C", "question": "A?", "answers": {"text": [1]}}],
            "field answers.text[0] must be text, got the numb",
        ),
        ([{"context": "C", "answers": {"text": ["x"]}}], "field question must be text, got nothing"),
        (
            [{"context": "C", "question": "A?", "answers": {"text": []}}],
            "expected questions with answers, got none in 1",
        ),
        (
            {"data": [{"title": "T", "paragraphs": [{"context": "C", "qas": [{"question": "A?", "answers": [{}]}]}]}]},
            "row 1: field paragraphs[0].qas[0].answers[0].text must be text, got nothing",
        ),
        ({"data": [{"title": "T", "paragraphs": [{"qas": []}]}]}, "row 1: field paragraphs[0].context must be text"),
    ],
)
def test_a_squad_row_that_cannot_be_used(tmp_path, content, words):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    assert words in message(Squad(str(path)).read)


@pytest.mark.parametrize(
    ("content", "where"),
    [
        ([{"context": "C", "question": "A?", "answers": {"text": []}}], "row 1: field answers"),
        (
            {"data": [{"title": "T", "paragraphs": [{"context": "C", "qas": [{"question": "A?", "answers": []}]}]}]},
            "row 1: field paragraphs[0].qas[0].answers",
        ),
    ],
)
def test_an_unanswerable_question_is_an_error_where_version_2_is_false(tmp_path, content, where):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    found = message(Squad(str(path), version_2=False).read)
    assert found == f"{path}, {where} must be at least one answer, got none: remove it, or set version_2 to auto"


def test_squad_that_cannot_be_loaded(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"not Parquet")
    assert "expected a data set, got: " in message(Squad(str(tmp_path / "a.parquet")).read)
    assert "got nothing there" in message(Squad(str(tmp_path / "none.parquet")).read)
    assert "of a data set, got: " in message(Squad(str(tmp_path)).read)
    found = message(Squad("nobody/such-a-data-set", split="dev").read)  # tests/conftest.py keeps the hub offline
    assert found.startswith("nobody/such-a-data-set: expected split 'dev' of a data set, got: ")


def test_options_that_cannot_work():
    for make in (SealJson, Jsonl, Squad, TextFolder):
        with pytest.raises(ConfigError, match="must be a path, got ' '"):
            make(" ")
    with pytest.raises(ConfigError, match="split must be a name, got ''"):
        Squad("a.json", split="")
    with pytest.raises(ConfigError, match="version_2 must be auto, true or false, got 'no'"):
        Squad("a.json", version_2="no")
    with pytest.raises(ConfigError, match="pattern must be relative"):
        TextFolder("folder", pattern="/etc/*")
