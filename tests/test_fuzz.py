"""Broken inputs are read or refused, never a traceback; `benchmarks/fuzz.py` makes many more of them."""

import random

import pytest
from fuzz import KINDS, fuzz, read_one
from mutation import changed, changed_json

LIMIT = 60.0  # seconds of processor time: only a hang is a failure here


@pytest.mark.parametrize("kind", KINDS)
def test_no_input_ends_in_a_traceback(kind):
    outcome = fuzz(kind, 150, seed=18, limit=LIMIT)
    assert outcome.failed == []
    assert outcome.inputs == 150


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_are_the_same_each_time_and_differ(kind):
    made = [KINDS[kind].make(random.Random(f"{kind} {number}")) for number in (1, 1, 2, 3)]
    assert made[0] == made[1]
    assert made[2] != made[3]


def test_a_failure_is_told_with_its_traceback(monkeypatch, tmp_path):
    def read(path):
        raise KeyError("of")

    monkeypatch.setitem(KINDS, "journals", type(KINDS["journals"])(KINDS["journals"].make, read))
    outcome = fuzz("journals", 2, failures=tmp_path)
    assert [number for number, _ in outcome.failed] == [0, 1]
    assert "KeyError: 'of'" in outcome.failed[0][1]
    assert len(list(tmp_path.glob("journals-0-1*"))) == 2


def test_a_slow_input_is_told(monkeypatch):
    def read(path):
        while True:
            pass

    monkeypatch.setitem(KINDS, "YAML", type(KINDS["YAML"])(KINDS["YAML"].make, read))
    fault, refused = read_one("YAML", b"a: 1", ".yaml", limit=0.1)
    assert fault.startswith("over 0.1 s") and not refused


def test_values_are_changed_in_parts():
    chance = random.Random(0)
    assert len({changed_json({"a": [1, {"b": "c"}]}, chance) for _ in range(20)}) > 15
    assert len({changed(b"Ida built it.", chance) for _ in range(20)}) > 12
