"""Documents: what is read from where, how a long text is cut, and which passage a query goes to."""

import json

import pytest
from datasets import Dataset

from seal_lightning.data.documents import read_sources
from seal_lightning.errors import ConfigError, DataError


def test_queries_go_to_the_passages_that_hold_their_answers(tmp_path):
    file = tmp_path / "d.jsonl"
    file.write_text(
        '{"title": "Lamps", "passage": "' + "Peat burns. " * 8 + "\\n\\n" + "The tarn is a  Small\\nLake. " * 4 + '", '
        '"queries": [{"question": "What burns?", "answers": ["coal", "peat"]}, '
        '{"question": "What is a tarn?", "answers": ["small lake"]}, {"question": "Who?", "answers": ["Ada"]}]}\n'
    )
    (document,) = read_sources([str(file)], passage_chars=110).documents
    assert [len(passage.queries) for passage in document.passages] == [1, 1]
    assert [passage.id for passage in document.passages] == [f"{document.id}#1", f"{document.id}#2"]
    assert {passage.title for passage in document.passages} == {"Lamps"}
    assert len(document.context.queries) == 3


def test_standard_input_is_a_text_a_page_or_json():
    (note,) = read_sources(["-"], stdin=b"# A note\nThe lamp burns peat.").documents
    assert (note.context.title, note.context.passage) == ("A note", "The lamp burns peat.")
    (plain,) = read_sources(["-"], stdin=b"The lamp burns peat.").documents
    assert (plain.context.title, plain.passages) == ("", (plain.context,))
    assert len(read_sources(["-"], stdin=b'{"passage": "a"}\n{"passage": "b"}').documents) == 2
    (linked,) = read_sources(["-"], stdin=b"[1] The lamp burns peat.").documents
    assert linked.context.passage == "[1] The lamp burns peat."
    (page,) = read_sources(
        ["-"], stdin=b"<!DOCTYPE html>\n<title>Lamps</title><p>The lamp burns <b>peat</b>.</p>"
    ).documents
    assert (page.context.title, page.context.passage) == ("Lamps", "The lamp burns **peat**.")
    assert len(read_sources(["-"], stdin=b'{"text": "a"}\n{"text": "b"}').documents) == 2
    with pytest.raises(DataError, match="-: expected UTF-8 text on standard input"):
        read_sources(["-"], stdin=b"\xff\xfa")
    with pytest.raises(DataError, match=r"^-, line 2: field passage must be"):
        read_sources(["-"], stdin=b'{"passage": "a"}\n{"passage": 1}')
    assert len(read_sources(["-"], stdin=b'[{"passage": "a"}, {"passage": "b"}]').documents) == 2


def test_files_and_folders_are_read_in_their_order(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "b.txt").write_text("Second.")
    (tmp_path / "notes" / "a.md").write_text("First.")
    (tmp_path / "c.txt").write_text("Third.")
    found = read_sources([str(tmp_path / "c.txt"), str(tmp_path / "notes")]).documents
    assert [document.context.title for document in found] == ["c", "a", "b"]


def test_a_folder_may_mix_texts_and_rows(tmp_path):
    (tmp_path / "a.txt").write_text("First.")
    (tmp_path / "b.jsonl").write_text('{"passage": "Second."}\n{"passage": "Third."}\n')
    assert [one.context.passage for one in read_sources([str(tmp_path)]).documents] == ["First.", "Second.", "Third."]
    (tmp_path / "a.txt").unlink()
    assert len(read_sources([str(tmp_path)]).documents) == 2


def test_a_title_of_several_documents_does_not_say_which(tmp_path):
    file = tmp_path / "d.jsonl"
    rows = ({"id": name, "title": "Lamps", "passage": f"Text {name}."} for name in "ab")
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    queries = tmp_path / "queries.jsonl"
    queries.write_text('{"document": "Lamps", "question": "Who?", "answer": "Bob"}\n')
    with pytest.raises(DataError, match=r"must be the id of one document \('a', 'b'\), got the title of 2"):
        read_sources([str(file)], queries=str(queries))


def test_queries_of_a_file_join_those_of_the_documents(tmp_path):
    (tmp_path / "a.txt").write_text("Ada wrote it.")
    (tmp_path / "b.txt").write_text("Bob read it.")
    queries = tmp_path / "queries.jsonl"
    queries.write_text('{"document": "b", "question": "Who read it?", "answer": "Bob"}\n')
    first, second = read_sources([str(tmp_path / "a.txt"), str(tmp_path / "b.txt")], queries=str(queries)).documents
    assert first.context.queries == ()
    assert [query.golds for query in second.passages[0].queries] == [("Bob",)]
    queries.write_text('{"question": "Who read it?", "answer": "Bob"}\n')
    (only,) = read_sources([str(tmp_path / "b.txt")], queries=str(queries)).documents
    assert len(only.context.queries) == 1


def test_mistakes_are_named(tmp_path):
    for name, text in {"a.txt": "Ada wrote it.", "b.txt": "Bob read it."}.items():
        (tmp_path / name).write_text(text)
    queries = tmp_path / "queries.jsonl"
    queries.write_text('{"document": "c", "question": "Who?", "answer": "Bob"}\n')
    with pytest.raises(DataError, match=r"line 1: field document must be the title or id of a document \('a', 'b'\)"):
        read_sources([str(tmp_path)], queries=str(queries))
    with pytest.raises(DataError, match="expected a text or JSON on standard input, got nothing"):
        read_sources(["-"], stdin=b" \n")
    with pytest.raises(ConfigError, match="passage_chars must be at least 100, got 99"):
        read_sources([str(tmp_path)], passage_chars=99)
    for name, passage in (("x", "One."), ("y", "Two.")):
        (tmp_path / f"{name}.jsonl").write_text(f'{{"id": "same", "passage": "{passage}"}}\n')
    with pytest.raises(DataError, match="same: expected a unique id"):
        read_sources([str(tmp_path / "x.jsonl"), str(tmp_path / "y.jsonl")])


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.parquet", "saved"])
def test_rows_with_a_text_each_are_documents(tmp_path, name):
    rows = [{"title": "Mill", "text": "Built in 1803.", "url": "x"}, {"title": "Tower", "text": "Tall.", "url": "y"}]
    place = tmp_path / name
    if name == "rows.parquet":
        Dataset.from_list(rows).to_parquet(place)
    elif name == "saved":
        Dataset.from_list(rows).save_to_disk(place)
    else:
        place.write_text(json.dumps(rows) if name == "rows.json" else "\n".join(map(json.dumps, rows)))
    found = [(document.context.title, document.context.passage) for document in read_sources([str(place)]).documents]
    assert found == [("Mill", "Built in 1803."), ("Tower", "Tall.")]


def test_rows_of_which_nobody_knows_the_text_are_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"name": "x"}\n')
    with pytest.raises(DataError, match="got the fields name"):
        read_sources([str(tmp_path / "a.jsonl")])


def test_a_document_knows_where_it_comes_from(tmp_path):
    """By it, its next version is recognised: its path below the folder, of a row its id or else its place."""
    notes = tmp_path / "notes"
    (notes / "2026").mkdir(parents=True)
    (notes / "2026" / "may.md").write_text("# May\n\nAda chairs the board.\n")
    rows = [{"id": "wax", "passage": "Dry Ferry sells wax."}, {"title": "Salt", "passage": "Alba sells salt."}]
    (notes / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = {one.context.passage: one.source for one in read_sources([str(notes)]).documents}
    assert found == {
        "Ada chairs the board.": "2026/may.md",
        "Dry Ferry sells wax.": "rows.jsonl#wax",
        "Alba sells salt.": "rows.jsonl#2",
    }
    files = [str(notes / "2026" / "may.md"), str(notes / "rows.jsonl")]
    assert [one.source for one in read_sources(files).documents] == ["may.md", "rows.jsonl#wax", "rows.jsonl#2"]
    assert [one.source for one in read_sources(["-"], stdin=b"A text.").documents] == ["-"]


def test_files_of_the_same_name_in_two_folders_are_told_apart(tmp_path):
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "may.md").write_text(f"# May\n\nThe {name} one.\n")
    read = read_sources([str(tmp_path / "old"), str(tmp_path / "new")])
    assert [one.source for one in read.documents] == ["old/may.md", "new/may.md"]
