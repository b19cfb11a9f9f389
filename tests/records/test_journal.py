"""The journal: whole units only, torn tails, stamps, a full disk."""

import errno
import json
from dataclasses import replace

import pytest

from seal_lightning.errors import JournalError
from seal_lightning.records.entries import read_entries
from seal_lightning.records.journal import Journal, unfinished_units
from seal_lightning.records.lines import read_content, rollout_from_dict, rollout_to_dict
from seal_lightning.types import Rollout

ROLLOUT = Rollout(
    round=0,
    context_id="tarn",
    edit_index=1,
    repeat=2,
    seed=7,
    prompt="Read:",
    text="The Tarn freezes.",
    status="ok",
    questions=("When?",),
    golds=(("January", "in January"),),
    baseline_answers=("?",),
    answers=("January",),
    baseline_scores=(0.0,),
    scores=(1.0,),
    score=1.0,
    gain=1.0,
    reward=1.0,
    tokens={"edit": 5},
)


def unit(*indices):
    return [replace(ROLLOUT, edit_index=index) for index in indices]


def test_a_rollout_survives_json():
    assert rollout_from_dict(json.loads(json.dumps(rollout_to_dict(ROLLOUT)))) == ROLLOUT


def test_finished_units_are_read_back(tmp_path):
    Journal(tmp_path, "train-000", stamp={"lr": 1}).append(3, unit(0, 1))
    assert Journal(tmp_path, "train-000", stamp={"lr": 1}).units == {3: unit(0, 1)}


def test_other_ranks_are_read_but_not_written(tmp_path):
    Journal(tmp_path, "train-000", stamp={}, rank=1).append(1, unit(0))
    journal = Journal(tmp_path, "train-000", stamp={}, rank=0)
    journal.append(0, unit(1))
    assert Journal(tmp_path, "train-000", stamp={}, rank=2).units == {0: unit(1), 1: unit(0)}


@pytest.mark.parametrize("lost", [1, 40, 400])
def test_a_torn_tail_costs_one_unit(tmp_path, lost):
    journal = Journal(tmp_path, "train-000", stamp={})
    journal.append(0, unit(0))
    journal.append(1, unit(1, 2))
    data = journal.path.read_bytes()
    journal.path.write_bytes(data[:-lost])
    again = Journal(tmp_path, "train-000", stamp={})
    assert again.units == {0: unit(0)}
    again.append(1, unit(1, 2))
    assert Journal(tmp_path, "train-000", stamp={}).units == {0: unit(0), 1: unit(1, 2)}


def test_another_stamp_is_refused_and_named(tmp_path):
    journal = Journal(tmp_path, "train-000", stamp={"lr": 1, "edits": 5})
    journal.append(0, unit(0))
    before = journal.path.read_bytes()
    with pytest.raises(JournalError, match=r"lr: was 1, is 2.*Nothing was overwritten"):
        Journal(tmp_path, "train-000", stamp={"lr": 2, "edits": 5})
    assert journal.path.read_bytes() == before


def test_a_full_disk_keeps_what_was_written(tmp_path, monkeypatch):
    journal = Journal(tmp_path, "train-000", stamp={})
    journal.append(0, unit(0))

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(JournalError, match=r"No space left on device.*resume with --ckpt_path last"):
        journal.append(1, unit(1))
    assert Journal(tmp_path, "train-000", stamp={}).units == {0: unit(0)}


@pytest.mark.parametrize("content", ["", "no line", None])
def test_a_link_in_place_of_a_journal_is_not_written_through(tmp_path, content):
    """A file without a line's end would be cut to nothing, and an empty or missing one filled."""
    elsewhere, path = tmp_path / "elsewhere", tmp_path / "run" / "train-000.rank-0.jsonl"
    if content is not None:
        elsewhere.write_text(content)
    path.parent.mkdir()
    path.symlink_to(elsewhere)
    with pytest.raises(JournalError) as caught:
        Journal(path.parent, "train-000", stamp={})
    assert str(caught.value) == f"journal {path}: expected a file, got a link: move it away"
    assert (elsewhere.read_text() if elsewhere.exists() else None) == content


def test_a_folder_that_was_removed_meanwhile_is_named(tmp_path):
    journal = Journal(tmp_path / "journal", "train-000", stamp={})
    journal.append(0, unit(0))
    journal.path.unlink()
    journal.path.parent.rmdir()
    with pytest.raises(JournalError) as caught:
        journal.append(1, unit(1))
    assert str(caught.value) == (
        f"journal {journal.path}: No such file or directory; check that its folder is still there and resume with "
        "--ckpt_path last"
    )


def test_garbage_names_the_line(tmp_path):
    journal = Journal(tmp_path, "train-000", stamp={})
    journal.append(0, unit(0))
    journal.path.write_bytes(journal.path.read_bytes() + b"not json\n")
    with pytest.raises(JournalError, match="line 3: not JSON"):
        Journal(tmp_path, "train-000", stamp={})


# -- what a filter has kept --------------------------------------------------------------------------------------------


def kept(tmp_path):
    """What was kept, by round."""
    return {entry.rollouts[0].round: entry.kept for entry in read_entries(str(tmp_path)) if entry.kept is not None}


def test_what_was_kept_is_one_line(tmp_path):
    journal = Journal(tmp_path, "train-000", stamp={})
    journal.append(0, unit(0, 1))
    before = journal.path.read_bytes()
    assert kept(tmp_path) == {}
    journal.keep(unit(1), round=0)
    assert journal.path.read_bytes() == before + b'{"kept": [["tarn", 1]], "round": 0}\n'
    assert kept(tmp_path) == {0: (("tarn", 1),)}
    assert Journal(tmp_path, "train-000", stamp={}).units == {0: unit(0, 1)}


def test_a_resume_writes_what_was_kept_once_unless_it_is_another_choice(tmp_path):
    for chosen, rows in ((unit(1), 3), (unit(1), 3), (unit(0), 4), ([], 5)):
        journal = Journal(tmp_path, "train-000", stamp={})
        if 0 not in journal.units:
            journal.append(0, unit(0))
        journal.keep(chosen, round=0)
        assert len(journal.path.read_text().splitlines()) == rows
    assert kept(tmp_path) == {0: ()}


def test_a_unit_that_is_run_again_makes_the_choice_unknown(tmp_path):
    journal = Journal(tmp_path, "train-000", stamp={})
    journal.append(0, unit(0))
    journal.keep(unit(0), round=0)
    journal.append(1, unit(1))
    assert kept(tmp_path) == {}
    journal.keep(unit(0), round=0)
    assert kept(tmp_path) == {0: (("tarn", 0),)}


def test_the_first_rank_says_what_was_kept_even_without_a_unit_of_its_own(tmp_path):
    Journal(tmp_path, "train-000", stamp={}, rank=1).append(0, unit(0))
    Journal(tmp_path, "train-000", stamp={}).keep(unit(0), round=0)
    assert kept(tmp_path) == {0: (("tarn", 0),)}
    assert Journal(tmp_path, "train-000", stamp={}).units == {0: unit(0)}


@pytest.mark.parametrize("lost", [1, 20, 26])
def test_a_torn_line_of_kept_edits_costs_nothing_else(tmp_path, lost):
    journal = Journal(tmp_path, "train-000", stamp={})
    journal.append(0, unit(0))
    journal.keep(unit(0), round=0)
    data = journal.path.read_bytes()[:-lost]
    journal.path.write_bytes(data)
    assert kept(tmp_path) == {} and unfinished_units(journal.path, data) == 0
    again = Journal(tmp_path, "train-000", stamp={})
    again.keep(unit(0), round=0)
    assert kept(tmp_path) == {0: (("tarn", 0),)} and again.units == {0: unit(0)}


@pytest.mark.parametrize("row", [{"kept": 3, "round": 0}, {"kept": [["a"]], "round": 0}, {"kept": [[1, 2]], "round": 0},
                                 {"kept": []}])  # fmt: skip
def test_damaged_kept_edits_are_refused(tmp_path, row):
    journal = Journal(tmp_path, "train-000", stamp={})
    journal.append(0, unit(0))
    journal.path.write_bytes(journal.path.read_bytes() + json.dumps(row).encode() + b"\n")
    with pytest.raises(JournalError, match="line 3: expected kept edits as pairs of a context's id and a number, got"):
        Journal(tmp_path, "train-000", stamp={})


# -- one file, whatever its stamp --------------------------------------------------------------------------------------


def written(tmp_path):
    journal = Journal(tmp_path, "train-000", stamp={"lr": 1})
    journal.append(0, unit(0))
    journal.append(1, unit(1, 2))
    return journal.path


@pytest.mark.parametrize(
    ("lost", "units"), [(0, {0: unit(0), 1: unit(1, 2)}), (1, {0: unit(0)}), (40, {0: unit(0)}), (10_000, {})]
)
def test_units_of_a_file(tmp_path, lost, units):
    path = written(tmp_path)
    data = path.read_bytes()
    assert read_content(path, data[: max(0, len(data) - lost)]).units == units


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"unit": None}, "field unit cannot be null"),
        ({"text": 3}, "field text cannot be 3"),
        ({"scores": ["right"]}, 'field scores cannot be ["right"]'),
        ({"answers": ["a", "b"]}, "field answers must be as long as questions"),
        ({"scores": []}, "fields answers and scores must be equally long"),
        ({"reward": "high"}, 'field reward cannot be "high"'),
        ({"reward": float("nan")}, "field reward cannot be NaN: it must be finite"),
        ({"scores": [float("inf")]}, "field scores cannot be [Infinity]: it must be finite"),
        ({"usage": {"grading": {"dollars": float("nan")}}}, "field usage cannot be"),
    ],
)
def test_a_line_that_is_no_rollout(tmp_path, change, words):
    path = written(tmp_path)
    stamp, first, *_ = path.read_text().splitlines()
    with pytest.raises(JournalError, match=r"train-000\.rank-0\.jsonl, line 3: ") as caught:
        read_content(path, "\n".join([stamp, first, json.dumps({**json.loads(first), **change}), ""]).encode())
    assert words in str(caught.value)


@pytest.mark.parametrize("data", [b'{"prompt": "p", "completion": "c"}\n', b"[]\n"])
def test_a_file_without_a_stamp(tmp_path, data):
    with pytest.raises(JournalError, match="line 1: expected the stamp of a journal"):
        read_content(tmp_path / "sft.jsonl", data)


def test_a_missing_field_is_named_and_an_optional_one_is_not_missed(tmp_path):
    path = written(tmp_path)
    stamp, first, *_ = path.read_text().splitlines()
    row = json.loads(first)
    del row["terms"], row["usage"]
    assert read_content(path, f"{stamp}\n{json.dumps(row)}\n".encode()).units == {0: unit(0)}
    del row["context_id"]
    with pytest.raises(JournalError, match="line 2: field context_id is missing"):
        read_content(path, f"{stamp}\n{json.dumps(row)}\n".encode())
