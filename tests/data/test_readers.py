"""Every reader on small literal files: what it reads, and what it merges, skips and counts."""

import json
import logging
import re
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seal_lightning import data
from seal_lightning.data import Jsonl, PassagePair, Reader, SealJson, Squad, TextFolder, read_contexts
from seal_lightning.types import Context, Query

ADA = {"title": "Ada", "context": "Ada wrote notes.", "questions": [{"question": "Who?", "answer": ["Ada", "A. L."]}]}


def write(path, content, *, lines=False):
    text = (
        "\n".join(map(json.dumps, content)) if lines else content if isinstance(content, str) else json.dumps(content)
    )
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_seal_json(tmp_path):
    assert SealJson(write(tmp_path / "a.json", [ADA])).read() == [
        Context("ada-4c8164fa", "Ada", "Ada wrote notes.", (Query("Who?", ("Ada", "A. L.")),))
    ]


def test_published_contexts(shared):
    train, validation = (read_contexts(shared / "data" / "squad" / f"{name}.json") for name in ("train", "val"))
    assert (len(train), len(validation)) == (200, 100)
    assert train[0].title == "United Methodist Church"
    assert len({context.id for context in train + validation}) == 300
    published = json.loads((shared / "data" / "squad" / "train.json").read_text())
    assert [len(context.queries) for context in train] == [len(row["questions"]) for row in published]


@pytest.mark.parametrize("lines", [True, False])
def test_jsonl_as_lines_and_as_a_list(tmp_path, lines):
    rows = [
        {"id": "a", "title": "Ada", "passage": "Notes.", "edits": ["She wrote.", "They are notes."], "more": 1},
        {
            "passage": "Bare.",
            "queries": [{"question": "A?", "answers": ["x", "y", "x"]}, {"question": "B?", "answer": "z"}],
        },
    ]
    path = write(tmp_path / ("a.jsonl" if lines else "a.json"), rows, lines=lines)
    first, second = Jsonl(path).read()
    assert first == Context("a", "Ada", "Notes.", (), ("She wrote.", "They are notes."))
    assert second.queries == (Query("A?", ("x", "y")), Query("B?", ("z",)))
    assert (second.title, second.id.rpartition("-")[0]) == ("", "context")


def test_lines_under_a_json_name_a_byte_order_mark_and_line_separators(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"passage": "one\u2028line"}\r\n\r\n{"passage": "two"}\r\n', encoding="utf-8-sig")
    assert [context.passage for context in Jsonl(str(path)).read()] == ["one\u2028line", "two"]


def test_ids_depend_on_the_content_alone(tmp_path):
    one, two = (write(tmp_path / f"{n}.jsonl", [{"title": "É! x", "passage": "p"}], lines=True) for n in "ab")
    assert Jsonl(one).read()[0].id == Jsonl(two).read()[0].id == "é-x-319e19bc"


def test_passages_with_the_same_short_digest_get_ids_of_their_own(tmp_path):
    rows = [{"passage": passage} for passage in ("P2861", "P69623", "P69623")]  # found by trying
    first, second = Jsonl(write(tmp_path / "a.jsonl", rows, lines=True)).read()
    assert (first.id, second.passage) == ("context-abaa19bd", "P69623")
    assert len(second.id) == len("context-") + 32


def test_repeated_passages_are_merged_and_counted(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="seal_lightning")
    queries = [{"question": "A?", "answer": "x"}, {"question": "B?", "answer": "y"}]
    rows = [
        {"id": "a", "passage": "P", "queries": queries[:1], "edits": ["e"]},
        {"passage": "P", "queries": queries, "edits": ["e", "f"]},
        {"title": "other", "passage": "P"},
    ]
    merged, other = Jsonl(write(tmp_path / "a.jsonl", rows, lines=True)).read()
    assert merged == Context("a", "", "P", (Query("A?", ("x",)), Query("B?", ("y",))), ("e", "f"))
    assert other.title == "other"
    assert caplog.messages == ["merged 1 rows that repeat the title and passage of another"]


def test_passage_pair_by_id_and_by_index(tmp_path):
    passages = write(tmp_path / "p.jsonl", [{"id": "a", "title": "A", "passage": "PA"}, {"passage": "PB"}], lines=True)
    questions = [
        {"passage": 1, "question": "B?", "answer": "b"},
        {"passage": "a", "question": "A?", "answers": ["a", "aa"]},
        {"passage": 0, "question": "A2?", "answer": "a"},
    ]
    edits = write(tmp_path / "e.json", [{"passage": "a", "edit": "one"}, {"passage": 0, "edit": "two"}])
    first, second = PassagePair(passages, write(tmp_path / "q.json", questions), edits=edits).read()
    assert first == Context("a", "A", "PA", (Query("A?", ("a", "aa")), Query("A2?", ("a",))), ("one", "two"))
    assert (second.passage, second.queries, second.edits) == ("PB", (Query("B?", ("b",)),), ())


def test_passage_pair_of_plain_text_goes_by_index(tmp_path):
    passages = write(tmp_path / "p.txt", "\nOne\ngoes on.\n \t\n\nTwo.\n\nThree.\n")
    questions = write(tmp_path / "q.jsonl", [{"passage": 1, "question": "A?", "answer": "x"}], lines=True)
    found = PassagePair(passages, questions).read()
    assert [(context.title, context.passage, context.queries) for context in found] == [
        ("", "One\ngoes on.", ()),
        ("", "Two.", (Query("A?", ("x",)),)),
        ("", "Three.", ()),
    ]


def test_text_folder(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / ".hidden").mkdir()
    write(tmp_path / ".hidden" / "x.md", "no")
    write(tmp_path / "image.png", "no")
    write(tmp_path / "b.md", "\n# The title #\n\nText.\n")
    write(tmp_path / "c.md", "Intro.\n```\n# a comment\n```\n## Later\nText.")
    write(tmp_path / "sub" / "a.txt", "# not Markdown\n")
    found = TextFolder(str(tmp_path)).read()
    assert [(context.title, context.passage) for context in found] == [
        ("The title", "Text."),
        ("Later", "Intro.\n```\n# a comment\n```\n## Later\nText."),
        ("a", "# not Markdown"),
    ]
    assert not any(context.queries for context in found)
    assert [context.title for context in TextFolder(str(tmp_path), pattern="*.txt").read()] == ["a"]
    assert [context.title for context in TextFolder(str(tmp_path), recursive=False).read()] == ["The title", "Later"]
    assert [context.title for context in TextFolder(str(tmp_path / "b.md")).read()] == ["The title"]


def nested_v2():
    def qa(question, *answers):
        return {"question": question, "answers": [{"text": a, "answer_start": 0} for a in answers]}

    trap = {**qa("Trap?"), "is_impossible": True, "plausible_answers": [{"text": "no", "answer_start": 0}]}
    return {
        "version": "v2.0",
        "data": [
            {"title": "T", "paragraphs": [{"context": "C1", "qas": [qa("A?", "x", "x", "y"), trap, qa("B?", "z")]}]},
            {"title": "U", "paragraphs": [{"context": "C2", "qas": [trap]}, {"context": "C3", "qas": [qa("C?", "w")]}]},
        ],
    }


def test_squad_v2_official_json_skips_and_counts_unanswerable_questions(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="seal_lightning")
    found = Squad(write(tmp_path / "squad.json", nested_v2())).read()
    assert [(c.title, c.passage, c.queries) for c in found] == [
        ("T", "C1", (Query("A?", ("x", "y")), Query("B?", ("z",)))),
        ("U", "C3", (Query("C?", ("w",)),)),
    ]
    assert caplog.messages == ["skipped 2 unanswerable questions of 5, and 1 passages with no other"]


def flat_rows():
    rows = [("T", "C1", "A?", ["x", "x"]), ("U", "C2", "B?", ["y"]), ("T", "C1", "C?", ["z"]), ("T", "C1", "D?", [])]
    return [
        {"id": str(at), "title": t, "context": c, "question": q, "answers": {"text": a, "answer_start": [0] * len(a)}}
        for at, (t, c, q, a) in enumerate(rows)
    ]


@pytest.mark.parametrize("form", ["json", "jsonl", "data", "parquet"])
def test_squad_flat_rows_are_gathered_by_passage(tmp_path, caplog, form):
    caplog.set_level(logging.INFO, logger="seal_lightning")
    path = tmp_path / f"squad.{'json' if form == 'data' else form}"
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(flat_rows()), path)
    else:
        write(path, {"data": flat_rows()} if form == "data" else flat_rows(), lines=form == "jsonl")
    found = read_contexts(path)
    assert found == Squad(str(path)).read()
    assert [(c.title, c.passage, c.queries) for c in found] == [
        ("T", "C1", (Query("A?", ("x",)), Query("C?", ("z",)))),
        ("U", "C2", (Query("B?", ("y",)),)),
    ]
    assert caplog.messages == ["skipped 1 unanswerable questions of 4"] * 2


def test_a_parquet_name_is_no_pattern(tmp_path):
    path = tmp_path / "part [1] of *.parquet"
    pq.write_table(pa.Table.from_pylist(flat_rows()), path)
    assert len(read_contexts(path)) == 2


def test_the_library_of_the_hub_is_imported_by_need_only():
    for file in Path(data.__file__).parent.glob("*.py"):
        assert not re.search(r"^(import|from) (datasets|pyarrow)", file.read_text(), re.MULTILINE), file


def test_squad_from_the_hub(monkeypatch):
    asked = []
    rows = datasets.Dataset.from_list(flat_rows())
    monkeypatch.setattr(datasets, "load_dataset", lambda name, **options: asked.append((name, options)) or rows)
    found = Squad("rajpurkar/squad", split="validation").read()
    assert asked == [("rajpurkar/squad", {"split": "validation"})]
    assert [(c.title, c.passage, len(c.queries)) for c in found] == [("T", "C1", 2), ("U", "C2", 1)]


def test_the_reader_is_found_by_path_and_content(tmp_path):
    write(tmp_path / "seal.json", [ADA])
    write(tmp_path / "own.jsonl", [{"passage": "P"}], lines=True)
    write(tmp_path / "squad.json", nested_v2())
    (tmp_path / "folder").mkdir()
    write(tmp_path / "folder" / "a.txt", "text")
    found = {
        name: read_contexts(tmp_path / name)[0].passage for name in ("seal.json", "own.jsonl", "squad.json", "folder")
    }
    assert found == {"seal.json": "Ada wrote notes.", "own.jsonl": "P", "squad.json": "C1", "folder": "text"}


def test_a_reader_of_ones_own_has_a_source():
    class Mine(Reader):
        def read(self):
            return []

    assert (Mine().source, SealJson("x.json").source) == ("Mine", "x.json")
