"""Data sets by the names of their columns: what becomes of a cell, where rows lie, and what is refused or left out."""

import json
import logging

import datasets
import pytest

from seal_lightning.data import DatasetRows, Jsonl, SealJson, Squad, TextFolder, read_contexts
from seal_lightning.data.detect import reader_for
from seal_lightning.data.documents import read_sources
from seal_lightning.errors import ConfigError, DataError
from seal_lightning.types import Context, Query

BASIC = {"passage": "context", "question": "question", "answers": "answers.text"}
QA = [
    {"context": "C1", "question": "A?", "answers": {"text": ["x", "y"], "answer_start": [0, 1]}},
    {"context": "C2", "question": "B?", "answers": {"text": ["z"], "answer_start": [0]}},
    {"context": "C1", "question": "C?", "answers": {"text": ["w"], "answer_start": [0]}},
]
C1, C2 = ("C1", (Query("A?", ("x", "y")), Query("C?", ("w",)))), ("C2", (Query("B?", ("z",)),))


@pytest.fixture(autouse=True)
def no_bars():
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def parquet(path, rows):
    datasets.Dataset.from_list(rows).to_parquet(path)
    return str(path)


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def read(path, columns=None, **options):
    return [(context.passage, context.queries) for context in DatasetRows(str(path), columns=columns, **options).read()]


def message(reader):
    with pytest.raises(DataError) as caught:
        reader.read()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- shapes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [parquet, lines])
@pytest.mark.parametrize(
    ("row", "columns", "expected"),
    [
        (  # HotpotQA: paragraphs of sentences
            {
                "question": "Who?",
                "answer": "Ada",
                "context": {"title": ["A", "B"], "sentences": [["Ada was.", " She wrote."], ["Babbage built."]]},
            },
            {"passage": "context.sentences", "question": "question", "answers": "answer"},
            ("Ada was. She wrote.\n\nBabbage built.", (Query("Who?", ("Ada",)),)),
        ),
        (  # TriviaQA: aliases, several pages
            {
                "question": "Who?",
                "answer": {"value": "Ada", "aliases": ["Ada", "Lovelace"]},
                "entity_pages": {"wiki_context": ["Page one.", "Page two."]},
            },
            {"passage": "entity_pages.wiki_context", "question": "question", "answers": "answer.aliases"},
            ("Page one.\n\nPage two.", (Query("Who?", ("Ada", "Lovelace")),)),
        ),
        (  # CoQA: lists of questions and answers
            {"story": "S", "questions": ["A?", "B?"], "answers": {"input_text": ["x", "y"], "answer_start": [0, 1]}},
            {"passage": "story", "question": "questions", "answers": "answers.input_text"},
            ("S", (Query("A?", ("x",)), Query("B?", ("y",)))),
        ),
        (  # questions with their answers, nested
            {
                "p": "S",
                "qas": [
                    {"q": "A?", "answers": [{"text": "x"}, {"text": "y"}]},
                    {"q": "B?", "answers": [{"text": "z"}]},
                ],
            },
            {"passage": "p", "question": "qas.q", "answers": "qas.answers.text"},
            ("S", (Query("A?", ("x", "y")), Query("B?", ("z",)))),
        ),
        (  # numbers
            {"p": "S", "q": "When?", "a": 1843, "b": 2.0},
            {"passage": "p", "question": "q", "answers": "a"},
            ("S", (Query("When?", ("1843",)),)),
        ),
        (
            {"p": "S", "q": "How many?", "a": [2.0, 2.5]},
            {"passage": "p", "question": "q", "answers": "a"},
            ("S", (Query("How many?", ("2", "2.5")),)),
        ),
        ({"text": "S", "label": 1}, {"passage": "text"}, ("S", ())),
        ({"text": "S", "q": "A?"}, {"passage": "text", "question": "q"}, ("S", (Query("A?", ()),))),
        (  # RACE: a letter
            {"article": "S", "question": "A?", "options": ["x", "y"], "answer": "B"},
            {"passage": "article", "question": "question", "answers": "answer", "choices": "options"},
            ("S", (Query("A? (A) x (B) y", ("y",)),)),
        ),
        (  # OpenBookQA: labels of their own
            {"fact": "S", "q": "A?", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "2"},
            {
                "passage": "fact",
                "question": "q",
                "answers": "answerKey",
                "choices": "choices.text",
                "labels": "choices.label",
            },
            ("S", (Query("A? (1) x (2) y", ("y",)),)),
        ),
        (  # MMLU: a number from 0 on
            {"s": "S", "question": "A?", "choices": ["x", "y"], "answer": 0},
            {"passage": "s", "question": "question", "answers": "answer", "choices": "choices"},
            ("S", (Query("A? (A) x (B) y", ("x",)),)),
        ),
    ],
)
def test_shapes_of_rows(tmp_path, write, row, columns, expected):
    path = write(tmp_path / ("a.parquet" if write is parquet else "a.jsonl"), [row])
    assert read(path, columns) == [expected]


def test_every_part_of_a_context(tmp_path):
    rows = [
        {"n": 7, "t": "T", "p": "P", "q": "A?", "a": "x", "e": ["one", "two"]},
        {"n": 8, "t": "T", "p": "P", "q": "B?", "a": "y", "e": None},
    ]
    columns = {"id": "n", "title": "t", "passage": "p", "question": "q", "answers": "a", "edits": "e"}
    assert DatasetRows(lines(tmp_path / "a.jsonl", rows), columns=columns).read() == [
        Context("7", "T", "P", (Query("A?", ("x",)), Query("B?", ("y",))), ("one", "two"))
    ]


def test_a_class_is_its_name(tmp_path):
    features = datasets.Features(
        {
            "p": datasets.Value("string"),
            "q": datasets.Value("string"),
            "topic": datasets.ClassLabel(names=["World", "Sports"]),
        }
    )
    rows = datasets.Dataset.from_list([{"p": "P", "q": "Topic?", "topic": 1}], features=features)
    rows.save_to_disk(tmp_path / "saved")
    columns = {"passage": "p", "question": "q", "answers": "topic"}
    assert read(tmp_path / "saved", columns) == [("P", (Query("Topic?", ("Sports",)),))]


# -- places ----------------------------------------------------------------------------------------------------------


def saved(path, rows, splits=()):
    made = datasets.Dataset.from_list(rows)
    (datasets.DatasetDict(dict.fromkeys(splits, made)) if splits else made).save_to_disk(path)
    return path


def shards(path, rows):
    """As the hub has them."""
    (path / "data").mkdir(parents=True)
    for number, part in enumerate((rows[:2], rows[2:])):
        parquet(path / "data" / f"train-0000{number}-of-00002.parquet", part)
    parquet(path / "data" / "validation-00000-of-00001.parquet", rows[:1])
    (path / "README.md").write_text("A data set.")
    return path


def test_the_same_rows_from_everywhere(tmp_path):
    arrow = next(saved(tmp_path / "saved", QA).glob("*.arrow"))
    assert read(tmp_path / "saved", BASIC) == [C1, C2]
    assert read(arrow, BASIC) == [C1, C2]
    assert read(saved(tmp_path / "dict", QA, ("train", "test")), BASIC, split="test") == [C1, C2]
    assert read(shards(tmp_path / "hub", QA), BASIC, split="train") == [C1, C2]
    assert read(tmp_path / "hub", BASIC, split="validation") == [("C1", (Query("A?", ("x", "y")),))]
    assert read(tmp_path / "hub", BASIC, data_files="data/train-00001*") == [("C1", (Query("C?", ("w",)),))]
    assert read(lines(tmp_path / "a.json", QA), BASIC) == [C1, C2]
    assert read(parquet(tmp_path / "part [1] of *.parquet", QA), BASIC) == [C1, C2]
    for place in ("saved", "a.json", "hub/data/train-00000-of-00002.parquet"):
        assert read(tmp_path / place, BASIC, limit=1) == [("C1", (Query("A?", ("x", "y")),))]


def test_a_path_is_enough_where_columns_have_the_usual_names(tmp_path):
    (tmp_path / "a.csv").write_text('Title,Passage,Question,Answer\nT,"P, one",A?,x\nT,"P, one",B?,y\n')
    (tmp_path / "semicolons.csv").write_text("passage;question;answer\nP;A?;x\n")
    (tmp_path / "a.tsv").write_text("context\tquestion\tanswers\nP\tA?\tx\n")
    (tmp_path / "excel.csv").write_text("sep=;\npassage;question;answer;;\nP;A?;x;;\n")
    assert read_contexts(tmp_path / "a.csv")[0].queries == (Query("A?", ("x",)), Query("B?", ("y",)))
    assert read_contexts(tmp_path / "a.csv")[0].title == "T"
    for place in ("semicolons.csv", "a.tsv", "excel.csv"):
        assert [(c.passage, c.queries) for c in read_contexts(tmp_path / place)] == [("P", (Query("A?", ("x",)),))]
    for name in ("passage", "context"):
        path = lines(tmp_path / f"{name}.jsonl", [{name: "P", "question": "A?", "answer": "x"}])
        assert [(c.passage, c.queries) for c in read_contexts(path)] == [("P", (Query("A?", ("x",)),))]
    assert isinstance(reader_for(saved(tmp_path / "saved", QA)), DatasetRows)
    assert len(read_contexts(tmp_path / "saved")) == 2
    assert isinstance(reader_for(parquet(tmp_path / "squad.parquet", QA)), Squad)
    parquet(tmp_path / "clone" / "data" / "train-00000-of-00001.parquet", QA)
    for name in ("README.md", "LICENSE", ".gitattributes", ".git/HEAD", ".git/objects/a0", "requirements.txt"):
        (tmp_path / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "clone" / name).write_text("text about it")
    assert len(read_contexts(tmp_path / "clone")) == 2
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "train.csv").write_text("passage,question,answer\nP,A?,x\n")
    assert len(read_contexts(tmp_path / "tables")) == 1


def test_folders_of_rows_and_their_splits(tmp_path):
    own = {"passage": "P", "queries": [{"question": "A?", "answers": ["x"]}]}
    for name in ("train", "validation"):
        lines(tmp_path / f"{name}.jsonl", [{**own, "passage": name}])
    (tmp_path / "README.md").write_text("About the data.")
    assert isinstance(reader_for(tmp_path), DatasetRows)
    (context,) = DatasetRows(str(tmp_path), split="validation").read()
    assert (context.passage, context.queries) == ("validation", (Query("A?", ("x",)),))
    (tmp_path / "notes.txt").write_text("A text.")
    assert isinstance(reader_for(tmp_path), TextFolder)


def test_documents_come_from_data_sets_too(tmp_path, caplog):
    caplog.set_level("WARNING", "seal_lightning")
    place = saved(tmp_path / "saved", [{"passage": "P", "question": "A?", "answer": "x"}])
    (document,) = read_sources([str(place)]).documents
    assert (document.context.passage, document.context.queries) == ("P", (Query("A?", ("x",)),))
    puzzle = {"train": [{"input": [[1]], "output": [[2]]}], "test": [{"input": [[3]]}]}
    (tmp_path / "a.json").write_text(json.dumps(puzzle))
    (document,) = read_sources([str(tmp_path / "a.json")]).documents
    assert document.context.queries == ()
    assert caplog.messages == ["left out 1 of 1 queries, for which the data has no answer"]


def test_the_known_forms_in_parquet(tmp_path):
    own = [{"id": "a", "title": "T", "passage": "P", "queries": [{"question": "A?", "answers": ["x"]}], "edits": ["e"]}]
    seal = [{"title": "T", "context": "P", "questions": [{"question": "A?", "answer": "x"}]}]
    assert read_contexts(parquet(tmp_path / "own.parquet", own)) == Jsonl(lines(tmp_path / "own.jsonl", own)).read()
    assert read_contexts(parquet(tmp_path / "seal.parquet", seal)) == SealJson(lines(tmp_path / "s.jsonl", seal)).read()
    parquet(tmp_path / "sequence.parquet", [{"passage": "P", "queries": {"question": ["A?"], "answer": ["x"]}}])
    assert read_contexts(tmp_path / "sequence.parquet")[0].queries == (Query("A?", ("x",)),)


def test_cells_of_a_table_stay_as_they_are_written(tmp_path):
    (tmp_path / "a.csv").write_text(
        "passage,question,answer\nP,A?,007\nP,B?,None\n"
        'P,C?,"[""x"", ""y""]"\nP,D?,"[\'z\']"\nP,E?,"{""text"": [""w""]}"\n'
    )
    ((_, queries),) = read(tmp_path / "a.csv")
    assert [query.golds for query in queries] == [("007",), ("None",), ("x", "y"), ("z",), ("w",)]
    (tmp_path / "long.csv").write_text(f"passage,question,answer\n{'word ' * 40_000},A?,x\n")
    assert len(read(tmp_path / "long.csv")[0][0]) == 200_000


# -- what is left out or refused -------------------------------------------------------------------------------------


def test_rows_with_something_missing_are_skipped_and_counted(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="seal_lightning")
    rows = [
        {"p": "P", "q": "A?", "a": "x"},
        {"p": None, "q": "B?", "a": "y"},
        {"p": "P", "q": " ", "a": "z"},
        {"p": "P", "q": "C?", "a": None},
        {"p": "Q", "q": "D?", "a": []},
        {"p": "Q", "q": "E?", "a": ["", 7]},
    ]
    columns = {"passage": "p", "question": "q", "answers": "a"}
    path = lines(tmp_path / "a.jsonl", rows)
    assert read(path, columns) == [("P", (Query("A?", ("x",)),)), ("Q", (Query("E?", ("7",)),))]
    assert caplog.messages == [
        f"{path}: skipped 1 rows without a passage, 1 questions without a text, 2 questions without an answer, "
        "of 6 rows",
        f"{path}: wrote 1 numbers as text",
    ]
    assert message(DatasetRows(path, columns=columns, missing="error")) == (
        f"{path}, line 2: field p must be text, got nothing: fill it in, or set missing to skip"
    )
    none = lines(tmp_path / "none.jsonl", rows[3:4])
    assert message(DatasetRows(none, columns=columns)) == (
        f"{none}: expected contexts, got none in 1 rows: 1 questions without an answer"
    )


def test_files_of_another_form_in_a_folder_are_named(tmp_path, caplog):
    lines(tmp_path / "a.jsonl", [{"passage": "P", "question": "A?", "answer": "x"}])
    lines(tmp_path / "b.jsonl", [{"passage": "Q", "question": "A?", "answer": "x"}])
    (tmp_path / "c.csv").write_text("passage,question,answer\nR,A?,x\n")
    assert [passage for passage, _ in read(tmp_path)] == ["P", "Q"]
    assert caplog.messages == [f"{tmp_path}: 1 files of another form are not read: c.csv; name them in data_files"]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (
            {**BASIC, "passage": "contxt"},
            "expected a column 'contxt' (columns.passage), got context, question, answers",
        ),
        (
            {**BASIC, "answers": "answers.txt"},
            "got context, question, answers, answers.text, answers.answer_start: did you",
        ),
        ({**BASIC, "answers": "answers.txt"}, "did you mean answers.text?"),
        ({**BASIC, "title": "zzzzzz"}, "answers.answer_start: set columns.title to one of them"),
    ],
)
def test_a_column_that_is_not_there(tmp_path, columns, words):
    for path in (parquet(tmp_path / "a.parquet", QA), lines(tmp_path / "a.jsonl", QA)):
        found = message(DatasetRows(path, columns=columns))
        assert found.startswith(f"{path}: ") and words in found


@pytest.mark.parametrize(
    ("row", "columns", "words"),
    [
        ({"a": True}, {}, "field a must be text, got the truth value true: write it in words"),
        (
            {"a": {"value": "x"}},
            {},
            "field a must be text, got an object with value: name one of them, such as a.value",
        ),
        ({"p": {"s": ["x"]}}, {}, "field p must be text, got an object with s: name one of them, such as p.s"),
        ({"p": 3}, {}, "field p must be text, got the number 3"),
        ({"q": ["A?", "B?"]}, {}, "field a must be a list of 2, one for each question, got the text 'x'"),
        ({"q": ["A?", "B?"], "a": ["x"]}, {}, "field a must be a list of 2, one for each question, got a list of 1"),
        (
            {"a": "Z", "o": ["x", "y"]},
            {"choices": "o"},
            "must be a choice, its label or its number, got the text 'Z' beside A, B",
        ),
        ({"a": "A", "o": "x"}, {"choices": "o"}, "field o must be a list of texts, got the text 'x'"),
        ({"a": "{'text': array(['x'], dtype=object)}"}, {}, "save the data as Parquet or JSON Lines, which keep lists"),
        ({"a": "['x' 'y']"}, {}, "save the data as Parquet or JSON Lines, which keep lists"),
        ({"a": "['x'\n \"y's\"]"}, {}, "save the data as Parquet or JSON Lines, which keep lists"),
    ],
)
def test_a_row_that_cannot_be_used(tmp_path, row, columns, words):
    path = lines(tmp_path / "a.jsonl", [{"p": "P", "q": "A?", "a": "x", **row}])
    found = message(DatasetRows(path, columns={"passage": "p", "question": "q", "answers": "a", **columns}))
    assert found.startswith(f"{path}, line 1: ") and words in found


def test_multiple_choice_is_never_asked_without_its_choices(tmp_path):
    rows = [{"article": "S", "question": "A?", "options": ["x", "y"], "answer": answer} for answer in "AB"]
    path = lines(tmp_path / "a.jsonl", rows)
    columns = {"passage": "article", "question": "question", "answers": "answer"}
    assert message(DatasetRows(path, columns=columns)) == (
        f"{path}: expected answers as text in answer, got labels or numbers beside the column options: "
        "set columns.choices to options, and columns.labels where it has them"
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("passage,question,answer\nP,A?,x,y\n", "line 2: expected 3 cells as in the first line, got 4: put cells with"),
        ("passage,question,answer\nP,A?\n", "line 2: expected 3 cells as in the first line, got 2"),
        (
            'passage,question,answer\nP,"A?,x\nQ,B?,y\n',
            "expected a table, got: unexpected end of data: repair the line",
        ),
        (
            "passage,passage,answer\nP,A?,x\n",
            "line 1: expected a name for each column, got 'passage' twice: rename one",
        ),
        ("passage,question,answer\n", "expected rows below the names of the columns, got none"),
        ("", "expected data, got an empty file"),
    ],
)
def test_a_table_that_cannot_be_used(tmp_path, content, words):
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(DataError) as caught:
        read_contexts(tmp_path / "a.csv")
    assert str(caught.value).startswith(f"{tmp_path}/a.csv") and words in str(caught.value)


def test_splits_that_are_not_clear(tmp_path):
    hub, stored = shards(tmp_path / "hub", QA), saved(tmp_path / "dict", QA, ("train", "test"))
    assert (
        message(DatasetRows(str(hub))) == f"{hub}: expected one split, got train, validation: set split to one of them"
    )
    assert (
        message(DatasetRows(str(stored))) == f"{stored}: expected one split, got train, test: set split to one of them"
    )
    assert message(DatasetRows(str(hub), split="valid")) == (
        f"{hub}: expected split 'valid', got train, validation: did you mean validation?"
    )
    alone = saved(tmp_path / "saved", QA)
    assert "got a data set without splits: set split to null" in message(DatasetRows(str(alone), split="train"))


def test_nothing_there_and_no_network(tmp_path):
    assert message(DatasetRows(str(tmp_path / "none.csv"))) == (
        f"{tmp_path}/none.csv: expected a file, a folder or a name on the hub, got nothing there: check the path"
    )
    found = message(DatasetRows("nobody/such-data", columns=BASIC, split="train"))  # offline in tests
    assert found.startswith("nobody/such-data: expected split 'train' of a data set, got: ")
    assert found.endswith(": check path, name, split and network")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no table")
    assert "broken.parquet: expected a data set, got: " in message(DatasetRows(str(tmp_path / "broken.parquet")))
    (tmp_path / "empty").mkdir()
    assert "expected files that end in .csv, .tsv" in message(DatasetRows(str(tmp_path / "empty")))


def test_what_the_hub_is_asked_for(monkeypatch):
    asked = []
    rows = datasets.Dataset.from_list(QA)
    monkeypatch.setattr(
        datasets, "load_dataset", lambda path, **options: asked.append((path, options)) or rows.to_iterable_dataset()
    )
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda *args, **options: ["train"])
    options = {"name": "plain", "revision": "v1", "streaming": True, "limit": 2}
    assert read("some/data", BASIC, **options) == [("C1", (Query("A?", ("x", "y")),)), C2]
    assert asked == [("some/data", {"revision": "v1", "name": "plain", "split": "train", "streaming": True})]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"columns": {"passages": "p"}}, "columns must name passage, title, .*, got 'passages': did you mean passage"),
        ({"columns": {"question": "q"}}, "columns.passage must be set for every context, got question: add it"),
        (
            {"columns": {"passage": "p", "answers": "a"}},
            "columns.question must be set for answers, got passage, answers",
        ),
        ({"columns": {"passage": 3}}, "columns.passage must be the name of a column, got 3"),
        ({"split": ""}, "split must be a name, got ''"),
        ({"limit": 0}, "limit must be a whole number of at least 1, got 0"),
        ({"missing": "keep"}, "missing must be skip or error, got 'keep'"),
    ],
)
def test_options_that_cannot_work(options, words):
    with pytest.raises(ConfigError, match=words):
        DatasetRows("a.csv", **options)


def test_options_that_mean_nothing_for_a_file(tmp_path):
    path = lines(tmp_path / "a.jsonl", QA)
    with pytest.raises(ConfigError, match="split must be null where path is a single file, got 'train': leave it out"):
        DatasetRows(path, split="train").read()
    with pytest.raises(ConfigError, match="revision must be null where path is a folder, got 'v1': leave it out"):
        DatasetRows(str(tmp_path), revision="v1").read()
