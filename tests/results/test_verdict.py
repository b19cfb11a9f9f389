"""What is said of a fit's best policy, how it is judged, and what is read back from its run folder."""

from dataclasses import replace

import pytest

from seal_lightning.results.accuracy import Difference, means_of, paired_difference
from seal_lightning.results.verdict import (
    FILE,
    Candidate,
    Selection,
    from_dict,
    read,
    said,
    said_of_round,
    save,
    to_dict,
    why_no_policy,
)
from seal_lightning.types import Rollout

BASE = Rollout(round=0, context_id="a", edit_index=0, repeat=0, seed=0, prompt="p", text="t", status="ok", reward=0.0)


def chosen(best, *rounds, mode="max", untrained=0.4, left_out=""):
    before = () if untrained is None else (Candidate(0, untrained),)
    return Selection("val/edits", mode, best, (*before, *rounds), left_out)


def after(value, low=None, high=None, *, round=1, contexts=12, learnt=4):
    difference = None if low is None else Difference(value - 0.4, low, high, contexts)
    return Candidate(round, value, learnt, difference)


@pytest.mark.parametrize(
    ("selection", "verdict", "sentence"),
    [
        (
            chosen(1, after(0.6, 0.1, 0.3)),
            "beats",
            "beats the untrained policy: val/edits 0.600 against 0.400 (+0.200, 95 % interval +0.100 to +0.300, paired "
            "over 12 contexts)",
        ),
        (
            chosen(1, after(0.5, -0.1, 0.3)),
            "noise",
            "better than the untrained policy within noise: val/edits 0.500 against 0.400 (+0.100, 95 % interval "
            "-0.100 to +0.300, paired over 12 contexts)",
        ),
        (
            chosen(1, Candidate(1, 0.6, 4, Difference(0.2, None, None, 5))),
            "noise",
            "better than the untrained policy within noise: val/edits 0.600 against 0.400 (+0.200, paired over 5 "
            "contexts, too few to tell from noise: 6 are needed)",
        ),
        (
            chosen(1, after(0.3, -0.2, -0.05), mode="min"),
            "beats",
            "beats the untrained policy: val/edits 0.300 against 0.400 (-0.100, 95 % interval -0.200 to -0.050, paired "
            "over 12 contexts)",
        ),
        (
            chosen(0, after(0.1, -0.4, -0.2), after(0.2, -0.3, -0.1, round=2)),
            "untrained",
            "no round beat the untrained policy (val/edits 0.400): the best of them is round 2 with 0.200 (-0.200, "
            "95 % interval -0.300 to -0.100, paired over 12 contexts)",
        ),
        (
            chosen(0, after(0.4, learnt=0)),
            "untrained",
            "no round changed the untrained policy: no self-edit was kept that teaches anything",
        ),
        (
            chosen(0, after(None)),
            "untrained",
            "no round beat the untrained policy: none that learnt was measured",
        ),
        (
            chosen(1, after(0.6)),
            "by value",
            "better than the untrained policy by its value alone: val/edits 0.600 against 0.400 (+0.200)",
        ),
        (
            chosen(1, after(0.6), untrained=None, left_out="there is no validation data"),
            "not compared",
            "not compared with the untrained policy: there is no validation data",
        ),
        (
            chosen(None, after(float("nan")), untrained=None),
            "nothing",
            "no round has a finite val/edits, so none is the best",
        ),
    ],
)
def test_words(tmp_path, selection, verdict, sentence):
    assert (selection.verdict, said(selection)[0]) == (verdict, sentence)
    save(tmp_path, selection)
    assert said(read(tmp_path)) == said(selection) == said(from_dict(to_dict(selection)))


def test_a_round_in_the_log():
    assert said_of_round(chosen(0, after(0.1, -0.4, -0.2)), after(0.1, -0.4, -0.2)) == (
        "round 1: val/edits 0.100 against 0.400 untrained (-0.300, 95 % interval -0.400 to -0.200, paired over 12 "
        "contexts), not the best policy"
    )
    assert said_of_round(chosen(1, untrained=None), after(0.6)) == "round 1: val/edits 0.600, the best policy so far"
    assert said_of_round(chosen(1), after(None)) == "round 1: val/edits was not measured"


OVERFLOWN = '{"candidates": [{"round": Infinity, "value": 1, "learnt": 1, "difference": null}]}'


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"monitor": 1, "best": "x"}', '{"candidates": [3]}', OVERFLOWN])
def test_a_damaged_file_is_none(tmp_path, content):
    (tmp_path / FILE).write_text(content)
    assert read(tmp_path) is None and why_no_policy(tmp_path) == ""


def test_why_there_is_no_policy(tmp_path):
    run = tmp_path / "run"
    assert why_no_policy(run) == why_no_policy(run / "policy") == ""
    save(run, chosen(0, after(0.1)))
    reason = f"no round of that run beat its untrained policy, so that none was exported ({run / FILE})"
    assert why_no_policy(run) == why_no_policy(run / "policy") == reason
    assert why_no_policy(run / "checkpoints") == ""
    save(run, chosen(1, after(0.6)))
    assert why_no_policy(run) == ""


def test_contexts_are_paired_by_their_names():
    rows = [
        replace(BASE, **changes)
        for changes in (
            {"score": 1.0, "baseline": 0.5},
            {"score": 0.0, "baseline": 0.5, "edit_index": 1},
            {"score": 0.75, "context_id": "b"},
            {"score": 0.25, "kind": "passage"},
        )
    ]
    assert means_of(rows, "edits") == {"a": 0.5, "b": 0.75}
    assert means_of(rows, "base") == {"a": 0.5, "b": 0.0}
    assert means_of(rows, "passage") == {"a": 0.25}
    assert paired_difference({"a": 0.5, "c": 1.0}, {"b": 0.0, "a": 0.25}) == Difference(0.25, None, None, 1)
    assert paired_difference({"a": 0.5}, {"b": 0.5}) is None
    # every context rises by the same, so that the interval is narrow however much contexts differ from each other
    hard = {f"{n}": n / 20 for n in range(12)}
    found = paired_difference({name: value + 0.125 for name, value in hard.items()}, hard)
    assert (found.mean, found.low, found.high, found.contexts) == pytest.approx((0.125, 0.125, 0.125, 12))
