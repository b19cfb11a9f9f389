"""What is read from run folders and files, and what becomes of it under another grader or reward."""

import gzip
import json
from dataclasses import replace

import pytest

from seal_lightning.errors import DataError
from seal_lightning.grading import Contains, Grader, Reward
from seal_lightning.records.anew import regrade, reward_anew
from seal_lightning.records.entries import Entry, read_entries
from seal_lightning.records.journal import Journal
from seal_lightning.types import Rollout

ROLLOUT = Rollout(
    round=0,
    context_id="lamp",
    edit_index=0,
    repeat=0,
    seed=0,
    prompt="Read Lamp.",
    text="It burns oil.",
    status="ok",
    questions=("When?", "Who?"),
    golds=(("1851",), ("Ada",)),
    baseline_answers=("?", "Ada"),
    answers=("In 1851.", "Bo"),
    baseline_scores=(0.0, 1.0),
    scores=(0.0, 1.0),  # the verdicts of somebody who is wrong about both
    baseline=0.5,
    score=0.5,
    gain=0.0,
    reward=0.5,
)
REJECTED = replace(ROLLOUT, edit_index=1, status="rejected", reason="empty", answers=(), scores=(), reward=None)


@pytest.fixture
def run(tmp_path):
    """A run folder: one round by two ranks, the next one, and a validation."""
    folder = tmp_path / "run" / "journal"
    Journal(folder, "train-000", stamp={}, rank=1).append(1, [replace(ROLLOUT, context_id="tarn")])
    Journal(folder, "train-000", stamp={}, rank=0).append(0, [ROLLOUT, REJECTED])
    Journal(folder, "train-001", stamp={}).append(0, [replace(ROLLOUT, round=1)])
    Journal(folder, "validation-001", stamp={}).append(0, [replace(ROLLOUT, round=1)])
    return tmp_path / "run"


def found(source):
    return [(entry.name, len(entry.rollouts), entry.teaches) for entry in read_entries(str(source))]


def test_rounds_are_entries_and_ranks_are_not(run):
    rounds = [("train-000", 3, True), ("train-001", 1, True), ("validation-001", 1, False)]
    assert found(run) == found(run / "journal") == rounds
    assert found(run / "journal" / "train-000") == rounds[:1]
    assert [rollout.context_id for rollout in read_entries(str(run))[0].rollouts] == ["lamp", "lamp", "tarn"]
    assert found(run / "journal" / "train-000.rank-1.jsonl") == [("train-000", 1, True)]


def test_packed_and_renamed_journals(run, tmp_path):
    data = (run / "journal" / "train-001.rank-0.jsonl").read_bytes()
    (tmp_path / "mine.jsonl").write_bytes(data)
    (tmp_path / "train-001.rank-0.jsonl.gz").write_bytes(gzip.compress(data))
    assert found(tmp_path / "mine.jsonl") == [("mine", 1, True)]
    assert found(tmp_path / "train-001.rank-0.jsonl.gz") == found(tmp_path / "train-001") == [("train-001", 1, True)]


def test_rounds_in_one_file_are_kept_apart(tmp_path):
    journal = Journal(tmp_path, "all", stamp={})
    journal.append(0, [ROLLOUT])
    journal.append(1, [replace(ROLLOUT, round=1)])
    assert found(journal.path) == [("all round 0", 1, True), ("all round 1", 1, True)]


def test_a_torn_line_costs_one_unit(run):
    path = run / "journal" / "train-000.rank-0.jsonl"
    path.write_bytes(path.read_bytes()[:-7])
    assert found(run)[0] == ("train-000", 1, True)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none", None, "none: expected a file, got nothing there: check the path"),
        ("none/train-000", None, "train-000: expected a file, got nothing there"),
        (".", None, "expected a run folder, got one without journals (*.jsonl): name a run's folder"),
        ("a.jsonl", b"", "a.jsonl: expected a journal with a finished unit, got none"),
        ("a.jsonl", b'{"stamp": {}}\n', "a.jsonl: expected a journal with a finished unit, got none"),
        ("a.jsonl", b'{"prompt": "p"}\n', "journal {path}, line 1: expected the stamp of a journal, got none"),
        ("a.jsonl", b'{"stamp": {}}\n{"unit": 0}\n', "journal {path}, line 2: field of is missing"),
        ("a.jsonl", b'{"stamp": {}}\n{"unit": \n', "journal {path}, line 2: not JSON"),
        ("a.jsonl.gz", b"\x1f\x8bno", "a.jsonl.gz: expected a whole gzip file, got: "),
        ("a.json.gz", b"{}", "a.json.gz: expected a whole gzip file, got: Not a gzipped file"),
        ("a.json", b"{", "a.json, line 1: expected JSON, got: "),
    ],
)
def test_what_cannot_be_read(tmp_path, name, content, words):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_entries(str(path))
    assert words.format(path=path) in str(caught.value)
    assert "\n" not in str(caught.value)


class Counting(Grader):
    """Every answer is right; counts how many it was asked for."""

    def __init__(self):
        self.asked = []

    def grade(self, *, question, golds, answer):
        self.asked.append((question, answer))
        return 1.0


def test_another_grader_changes_what_follows_from_scores(run):
    entries, regrading = regrade(read_entries(str(run / "journal" / "train-000")), Contains())
    lamp, rejected, _tarn = entries[0].rollouts
    assert (lamp.baseline_scores, lamp.scores) == ((0.0, 1.0), (1.0, 0.0))
    assert (lamp.baseline, lamp.score, lamp.gain, lamp.reward) == (0.5, 0.5, 0.0, 0.5)
    assert (rejected.scores, rejected.baseline, rejected.score, rejected.reward) == ((), 0.5, 0.5, None)
    assert (regrading.answers, regrading.agreement, regrading.kappa) == (4, 0.5, 0.0)


def test_each_distinct_answer_is_graded_once(run):
    grader, done = Counting(), []
    _entries, regrading = regrade(read_entries(str(run)), grader, on_done=done.append)
    assert sorted(grader.asked) == [("When?", "?"), ("When?", "In 1851."), ("Who?", "Ada"), ("Who?", "Bo")]
    assert sum(done) == regrading.answers == 4
    assert (regrading.agreement, regrading.kappa) == (0.5, 0.0)


def test_agreement_without_disagreement_or_variety(tmp_path):
    journal = Journal(tmp_path, "train-000", stamp={})
    journal.append(0, [replace(ROLLOUT, baseline_scores=(1.0, 1.0), scores=(1.0, 1.0))])
    _entries, regrading = regrade(read_entries(str(journal.path)), Counting())
    assert (regrading.agreement, regrading.kappa) == (1.0, None)


def test_nothing_to_grade(tmp_path):
    journal = Journal(tmp_path, "train-000", stamp={})
    journal.append(0, [replace(REJECTED, baseline_answers=(), baseline_scores=())])
    with pytest.raises(DataError, match="expected answers to grade, got none: leave --grader out"):
        regrade(read_entries(str(journal.path)), Contains())


def test_another_reward(run):
    entry = reward_anew(read_entries(str(run / "journal" / "train-000"))[0], Reward({"gain": 2.0, "format": 1.0}))
    lamp, rejected, _tarn = entry.rollouts
    assert (lamp.terms, lamp.reward) == ({"gain": 0.0, "format": 1.0}, 1.0)
    assert (rejected.terms, rejected.reward) == ({}, None)


def test_a_term_that_was_not_measured(run):
    with pytest.raises(DataError, match="carry_over of context 'lamp' was not measured"):
        reward_anew(read_entries(str(run))[0], Reward("carry_over"))


def test_official_runs_are_entries_too(tmp_path):
    question = {"question": "?", "answer": "a", "baseline_answer": "b", "adapter_answer": "a"}
    verdicts = {"baseline_correct": False, "adapter_correct": True}
    edit = {"text": "e", "questions": [{**question, **verdicts}]}
    content = {"articles": [{"title": "T", "context": "C", "completions": [edit]}]}
    (tmp_path / "run_3.json.gz").write_bytes(gzip.compress(json.dumps(content).encode()))
    assert found(tmp_path / "run_3.json.gz") == [("run_3", 1, True)]


def test_edits_of_files_that_never_compared_them_are_compared_for_a_reward():
    one = Rollout(
        round=0, context_id="a", edit_index=0, repeat=0, seed=0, prompt="", text="Oil burns.", status="ok", reward=0.5
    )
    rollouts = (one, replace(one, edit_index=1), replace(one, edit_index=2, text="xyz"), replace(one, context_id="b"))
    found = reward_anew(Entry("run", "run", rollouts, ()), Reward("diversity")).rollouts
    assert found[0].reward == found[1].reward < found[2].reward == 1.0 == found[3].reward
