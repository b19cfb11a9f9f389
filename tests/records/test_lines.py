"""Damage to a journal: one line with file, line and field, the same on a resume, in a report and in a replay."""

import json
import os
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seal_lightning.errors import DataError, JournalError, SealError
from seal_lightning.records.entries import read_entries
from seal_lightning.records.fields import fault_of
from seal_lightning.records.journal import Journal, read_rollouts, unfinished_units
from seal_lightning.records.lines import read_content, rollout_from_dict, rollout_to_dict, same_unit
from seal_lightning.report.read import read
from seal_lightning.types import Rollout

ROLLOUT = Rollout(
    round=0,
    context_id="tarn",
    edit_index=0,
    repeat=0,
    seed=7,
    prompt="Read:",
    text="The Tarn freezes.",
    status="ok",
    questions=("When?",),
    golds=(("January",),),
    baseline_answers=("?",),
    answers=("January",),
    baseline_scores=(0.0,),
    scores=(1.0,),
    score=1.0,
    gain=1.0,
    reward=1.0,
    tokens={"edit": 5},
    usage={"grading": {"dollars": 0.5}},
)


def unit(*indices, **changes):
    return [replace(ROLLOUT, edit_index=index, **changes) for index in indices]


@pytest.fixture
def path(tmp_path):
    """Two units of two lines each: lines 2 and 3, 4 and 5."""
    journal = Journal(tmp_path / "journal", "train-000", stamp={"lr": 1})
    journal.append(0, unit(0, 1))
    journal.append(1, unit(0, 1, context_id="fen"))
    return journal.path


def lines(path):
    return path.read_bytes().splitlines(keepends=True)


def told(path):
    """What a resume, a replay and a report say, which is the same."""
    words = set()
    for read_it in (
        lambda: Journal(path.parent, "train-000", stamp={"lr": 1}),
        lambda: read_rollouts(path.parent, "train-000"),
        lambda: read_entries(str(path.parent.parent)),
        lambda: read(str(path.parent.parent)),
    ):
        with pytest.raises(SealError) as caught:
            read_it()
        assert isinstance(caught.value, JournalError | DataError)
        words.add(str(caught.value).removeprefix("journal "))
    (only,) = words
    assert "\n" not in only and only.startswith(str(path))
    return only.removeprefix(str(path))


REMEDY = "; repair the line, or remove all lines of its unit, which is then run again"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"unit": -1}, "field unit cannot be -1: it must be 0 or more"),
        ({"unit": True}, "field unit cannot be true: it must be 0 or more"),
        ({"unit": 0.5}, "field unit cannot be 0.5: it must be 0 or more"),
        ({"of": 0}, "field of cannot be 0: it must be 1 or more"),
        ({"of": "2"}, 'field of cannot be "2": it must be 1 or more'),
        ({"part": 2}, "field part must be below of, which is 2, got 2"),
        ({"seed": "7"}, 'field seed cannot be "7": it must be a whole number'),
        ({"reward": "0.5"}, 'field reward cannot be "0.5": it must be a number'),
        ({"reward": float("nan")}, "field reward cannot be NaN: it must be finite"),
        ({"reward": 1e308}, "field reward cannot be 1e+308: it must be below 1e+100"),
        ({"tokens": {"edit": 1e101}}, 'field tokens cannot be {"edit": 1e+101}: it must be below 1e+100'),
        ({"gain": None}, "field gain cannot be null: it must be a number"),
        ({"score": 7}, "field score cannot be 7: it must be from 0 to 1"),
        ({"scores": [2.0]}, "field scores cannot be [2.0]: it must be a list of numbers from 0 to 1"),
        ({"scores": "1"}, 'field scores cannot be "1": it must be a list of numbers from 0 to 1'),
        ({"answers": [1]}, "field answers cannot be [1]: it must be a list of texts"),
        ({"golds": ["January"]}, 'field golds cannot be ["January"]: it must be lists of texts'),
        ({"status": "fine"}, 'field status cannot be "fine": it must be one of ok, rejected, diverged'),
        ({"kind": "other"}, 'field kind cannot be "other": it must be one of edit, passage, written'),
        ({"text": None}, "field text cannot be null: it must be a text"),
        ({"tokens": {"edit": "5"}}, 'field tokens cannot be {"edit": "5"}: it must be numbers by name'),
        ({"tokens": [5]}, "field tokens cannot be [5]: it must be numbers by name"),
        ({"usage": {"grading": 3}}, 'field usage cannot be {"grading": 3}: it must be counts'),
        ({"left_out": {"queries": None}}, 'field left_out cannot be {"queries": null}: it must be numbers by name'),
        ({"asked": []}, "field asked cannot be []: it must be an object"),
        ({"steps": -3}, "field steps cannot be -3: it must be 0 or more"),
        ({"terms": {"score": float("inf")}}, 'field terms cannot be {"score": Infinity}: it must be finite'),
    ],
)
def test_a_field_that_cannot_be(path, change, words):
    found = lines(path)
    found[1] = json.dumps({**json.loads(found[1]), **change}).encode() + b"\n"
    path.write_bytes(b"".join(found))
    assert told(path) == f", line 2: {words}{REMEDY}"


@pytest.mark.parametrize("name", ["unit", "of", "context_id", "prompt", "reward", "golds", "baseline_scores"])
def test_a_field_that_is_missing(path, name):
    found = lines(path)
    row = json.loads(found[3])
    del row[name]
    found[3] = json.dumps(row).encode() + b"\n"
    path.write_bytes(b"".join(found))
    assert told(path) == f", line 4: field {name} is missing{REMEDY}"


NUL = "; remove the line and the rest of its unit, which is then run again"
STAMP = "; bring it back from a copy, or move the file away and run its units again"


@pytest.mark.parametrize(
    ("number", "line", "words"),
    [
        (1, b"\0" * 512, f", line 1: holds NUL bytes, as a failure of power leaves them{NUL}"),
        (3, b'{"unit": 0, ' + b"\0" * 512, f", line 3: holds NUL bytes, as a failure of power leaves them{NUL}"),
        (1, b'\xef\xbb\xbf{"stamp": {"lr": 1}}', ", line 1: begins with a byte order mark; save the file as UTF-8 "
         "without one"),
        (1, b'{"unit": 0}', f", line 1: expected the stamp of a journal, got none{STAMP}"),
        (1, b"[]", f", line 1: expected the stamp of a journal, got none{STAMP}"),
        (1, b'{"stamp": 3}', f", line 1: expected the stamp of a journal, got none{STAMP}"),
        (2, b'{"text": "\xff"}', f", line 2: not UTF-8 at byte 11{REMEDY}"),
        (2, b"", f", line 2: not JSON (Expecting value at column 1){REMEDY}"),
        (2, b'"a text"', f', line 2: expected a rollout, got "a text"{REMEDY}'),
        (2, b"[" * 5000 + b"]" * 5000, f", line 2: not JSON (lists and objects nested more than 100 deep at column "
         f"101){REMEDY}"),
        (2, b'{"unit": ' + b"9" * 400 + b"}", f", line 2: not JSON (a number of more than 300 digits at column "
         f"10){REMEDY}"),
        (4, b'{"stamp": {"lr": 1}}', ", line 4: expected a rollout, got a second stamp, so two runs have written into "
         f"this file{REMEDY}"),
    ],
)  # fmt: skip
def test_a_line_that_is_none(path, number, line, words):
    found = lines(path)
    found[number - 1] = line + b"\n"
    path.write_bytes(b"".join(found))
    assert told(path) == words


def test_a_line_beyond_any_rollout(path, monkeypatch):
    monkeypatch.setattr("seal_lightning.records.lines.LONGEST", 3 << 20)
    found = lines(path)
    found[1] = json.dumps({**json.loads(found[1]), "text": "a" * (5 << 20)}).encode() + b"\n"
    path.write_bytes(b"".join(found))
    assert told(path) == f", line 2: 5 MiB long, expected at most 3{REMEDY}"


def test_lines_that_end_as_on_windows_are_read(path):
    before = Journal(path.parent, "train-000", stamp={"lr": 1}).units
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert Journal(path.parent, "train-000", stamp={"lr": 1}).units == before


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file(path, make):
    path.unlink()
    make(path)
    with pytest.raises(JournalError, match=f"^journal {path}: expected a file"):
        Journal(path.parent, "train-000", stamp={"lr": 1})
    with pytest.raises(SealError, match=f"^{path}: expected a file"):
        read(str(path.parent.parent))


# -- units -------------------------------------------------------------------------------------------------------------


def test_a_unit_of_which_a_line_is_missing_in_the_middle(path):
    found = lines(path)
    path.write_bytes(b"".join([*found[:1], *found[2:]]))
    assert told(path) == (
        ", line 2: field part is 1 where a unit begins, expected 0: lines of unit 0 are missing; remove the rest of "
        "its lines, and it is run again"
    )
    path.write_bytes(b"".join([found[0], *found[3:]]))
    assert set(Journal(path.parent, "train-000", stamp={"lr": 1}).units) == {1}


def test_a_unit_torn_twice_is_not_taken_for_a_whole_one(path):
    """Two halves of the same half make no unit, with the numbers of lines or, in earlier journals, without."""
    stamp, first, *_ = lines(path)
    old = json.loads(first)
    del old["part"]
    for line in (first, json.dumps(old).encode() + b"\n"):
        path.write_bytes(stamp + line + line)
        assert Journal(path.parent, "train-000", stamp={"lr": 1}).units == {}
        assert unfinished_units(path, path.read_bytes()) == 1


def test_a_journal_of_an_earlier_version_is_read(path):
    rows = [json.loads(line) for line in lines(path)]
    for row in rows[1:]:
        del row["part"]
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    assert read_content(path, data).units == {0: unit(0, 1), 1: unit(0, 1, context_id="fen")}


def test_a_unit_that_two_runs_have_written(path, tmp_path):
    other = Journal(tmp_path / "other", "train-000", stamp={"lr": 1}, rank=1)
    other.append(1, unit(0, 1, context_id="fen", text="Another."))
    (path.parent / other.path.name).write_bytes(other.path.read_bytes())
    words = "train-000.rank-1.jsonl: unit 1 stands in another rank's file of this journal too, with other rollouts"
    with pytest.raises(JournalError, match=words):
        Journal(path.parent, "train-000", stamp={"lr": 1})
    with pytest.raises(DataError, match=words):
        read_entries(str(path.parent.parent))
    (path.parent / other.path.name).unlink()
    path.write_bytes(path.read_bytes() + b"".join(lines(other.path)[1:]))
    assert told(path) == (
        ", line 6: unit 1 stands here and from line 4 on with other rollouts, so two runs have written them; remove "
        "the lines of one of the two"
    )


def test_the_same_work_twice_is_one_unit(path):
    """As where a node that saw its own files only has run again what another had."""
    found = lines(path)
    again = [{**json.loads(line), "seconds": {"sampling": 9.0}} for line in found[1:3]]
    path.write_bytes(b"".join(found) + b"".join(json.dumps(row).encode() + b"\n" for row in again))
    assert Journal(path.parent, "train-000", stamp={"lr": 1}).units == {
        0: unit(0, 1), 1: unit(0, 1, context_id="fen")
    }  # fmt: skip


def test_units_must_be_those_of_the_data(path):
    Journal(path.parent, "train-000", stamp={"lr": 1}, contexts=[["tarn"], ["fen"]], round=0)
    for contexts, words in (
        ([["tarn"]], "line 4: field unit is 1, and the data has 1 units (from 0); bring it back"),
        ([["tarn"], ["moor"]], "line 4: field context_id of unit 1 is fen, expected moor; bring it back"),
    ):
        with pytest.raises(JournalError) as caught:
            Journal(path.parent, "train-000", stamp={"lr": 1}, contexts=contexts)
        assert words in str(caught.value)
    with pytest.raises(JournalError, match="line 2: field round is 0, expected 3"):
        Journal(path.parent, "train-000", stamp={"lr": 1}, round=3)


@pytest.mark.parametrize("left", [b"", b'{"stamp": {"l', b"\0" * 40])
def test_a_file_without_a_whole_line_gets_its_stamp(path, left):
    path.write_bytes(left)
    journal = Journal(path.parent, "train-000", stamp={"lr": 1})
    journal.append(0, unit(0))
    assert lines(path)[0] == b'{"stamp": {"lr": 1}}\n'
    assert Journal(path.parent, "train-000", stamp={"lr": 1}).units == {0: unit(0)}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
NAMES = st.sampled_from([*ROLLOUT.__dataclass_fields__, "unit", "of", "part", "stamp", "other"])


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(0, 3), NAMES, JSON), max_size=3), st.integers(0, 4000), st.binary(max_size=3))
def test_whatever_a_journal_holds_is_read_or_refused_in_one_line(tmp_path_factory, changes, place, noise):
    rows = [{"stamp": {}}, *({"unit": n // 2, "of": 2, "part": n % 2, **_row()} for n in range(4))]
    for number, name, value in changes:
        rows[number + 1][name] = value
    data = bytearray("".join(json.dumps(row) + "\n" for row in rows).encode())
    data[place : place + len(noise)] = noise
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    try:
        content = read_content(path, bytes(data))
    except JournalError as error:
        assert "\n" not in str(error) and str(path) in str(error)
    else:
        assert all(isinstance(rollout, Rollout) for found in content.units.values() for rollout in found)


def _row():

    return rollout_to_dict(ROLLOUT)


def test_a_unit_of_an_earlier_version_is_the_same_work():
    """That wrote neither the title of a context nor a digest of its passage; both are read as they were written."""
    named = replace(ROLLOUT, title="The tarn", passage_digest="0f")
    assert rollout_from_dict(rollout_to_dict(named)) == named
    row = rollout_to_dict(ROLLOUT)
    assert "title" not in row and "passage_digest" not in row and rollout_from_dict(row).title == ""
    assert same_unit([named], [ROLLOUT]) and not same_unit([named], [replace(ROLLOUT, text="It melts.")])


def test_the_kind_and_the_similarity_of_an_edit_are_kept_and_checked():
    written = replace(ROLLOUT, edit_kind="facts", similarity=0.25)
    row = rollout_to_dict(written)
    assert (row["edit_kind"], row["similarity"]) == ("facts", 0.25) and rollout_from_dict(row) == written
    plain = rollout_to_dict(ROLLOUT)
    assert "edit_kind" not in plain and "similarity" not in plain
    whole = {"unit": 0, "of": 1, "part": 0, **json.loads(json.dumps(row))}
    assert fault_of(whole) == ""
    assert fault_of(whole | {"similarity": 1.5}) == "field similarity cannot be 1.5: it must be a number from 0 to 1"
    assert fault_of(whole | {"edit_kind": 3}) == "field edit_kind cannot be 3: it must be a text"
