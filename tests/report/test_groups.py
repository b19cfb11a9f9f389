"""Runs in groups: which belong together, means over seeds with intervals, and differences between groups."""

import copy
import math
import xml.etree.ElementTree as ElementTree

import pytest

from seal_lightning.report.group_tables import contrast, render_groups
from seal_lightning.report.groups import by_seed, group_runs
from seal_lightning.report.page import render_figure
from seal_lightning.report.read import read
from seal_lightning.results.averages import t_interval, t_quantile
from seal_lightning.results.pairing import digest_of


def settings(config, **changes):
    """The configuration of the fixture's runs with other values by dotted keys (`__` for a dot)."""
    made = copy.deepcopy(config)
    for key, value in changes.items():
        *path, name = key.split("__")
        inner = made
        for part in path:
            inner = inner.setdefault(part, {})
        inner[name] = value
    return made


@pytest.fixture
def fit(runs, tmp_path):
    """Makes a run: accuracies of four held-out passages by validation, and settings."""

    def make(name, *validations, passages="abcd", **changes):
        def unit(scores):
            return [
                runs.scored(score, context_id=str(row), baseline=0.25, prompt=f"Read.\n\nPassage: {passage}.\n\n",
                            passage_digest=digest_of(f"{passage}."), questions=(f"What of {passage}?", "And?"))
                for row, (passage, score) in enumerate(zip(passages, scores, strict=True))
            ]  # fmt: skip

        journals = {f"validation-{number:03}": [unit(scores)] for number, scores in enumerate(validations)}
        config = settings(runs.config, **changes) if changes else runs.config
        return read(str(runs.write(tmp_path / name, journals, config=config, table=True)))

    return make


@pytest.fixture
def six(fit):
    """Two ranks with three seeds each; the higher rank is 0.1 better with seed 0, 0.2 with seed 1, 0.3 with seed 2."""
    return [
        fit(
            f"rank-{rank}-seed-{seed}",
            [0.25] * 4,
            [0.25 + 0.125 * seed + extra * (seed + 1)] * 4,
            model__inner_loop__rank=rank,
            model__tuning__rank=1,
            model__seed=seed,
            trainer__default_root_dir=f"runs/{rank}-{seed}",
            trainer__logger=bool(seed),
        )
        for rank, extra in ((2, 0.0), (8, 0.1))
        for seed in (0, 1, 2)
    ]


def test_runs_that_differ_in_seed_folder_and_logger_are_a_group(six):
    low, high = group_runs(six)
    assert (low.name, high.name) == ("inner_loop.rank 2", "inner_loop.rank 8")  # `rank` alone is the policy's, too
    assert [run.name for run in high.runs] == ["rank-8-seed-0", "rank-8-seed-1", "rank-8-seed-2"]
    assert high.settings == {"inner_loop.rank": "8"} and len(by_seed(high.runs, 1)) == 3


def test_means_over_seeds_with_an_interval_over_seeds(six):
    low, high = group_runs(six)
    assert [(level.round, level.where, level.unit, level.count) for level in low.levels] == [
        (0, "before training", "seeds", 3),
        (1, "after round 1", "seeds", 3),
    ]
    assert low.base is not None and low.base.mean == 0.25
    assert low.last is not None and high.last is not None
    assert low.last.mean == pytest.approx(0.375) and high.last.mean == pytest.approx(0.575)
    half = 4.303 * 0.125 / math.sqrt(3)  # of 0.25, 0.375 and 0.5
    assert (low.last.low, low.last.high) == pytest.approx((0.375 - half, 0.375 + half))


def test_groups_are_paired_by_seed(six):
    low, high = group_runs(six)
    found = contrast(high, low)
    assert found.mean == pytest.approx(0.2)
    half = 4.303 * 0.1 / math.sqrt(3)  # of 0.1, 0.2 and 0.3
    assert (found.low, found.high) == pytest.approx((0.2 - half, 0.2 + half))
    assert (found.unit, found.count, found.paired, found.contexts, found.of) == ("seeds", 3, True, 4, 4)
    assert found.where == ("after round 1", "after round 1")


def test_the_table_says_what_its_intervals_are_over(six):
    table, intervals, difference = render_groups(group_runs(six)).split("\n\n")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    assert rows[0] == ["setting", "runs", "by itself", "before training", "own edits", "where", "95 % interval",
                       "against the first"]  # fmt: skip
    assert rows[2:] == [
        ["inner_loop.rank 2", "3", "0.250", "0.250", "0.375", "after round 1", "0.064 – 0.686", ""],
        [
            "inner_loop.rank 8",
            "3",
            "0.250",
            "0.250",
            "0.575",
            "after round 1",
            "0.016 – 1.000",
            "+20.0 (−4.8 to +44.8)",
        ],
    ]
    assert intervals == "Intervals are 95 %, over 3 seeds (Student's t)."
    assert difference == (
        "inner_loop.rank 8 against the first: +20.0 points (−4.8 to +44.8) after round 1, paired over 3 seeds and the "
        "same contexts; 95 % over seeds (Student's t)."
    )


def test_the_figure_is_an_svg_file_of_its_own(six):
    drawn = ElementTree.fromstring(render_figure(group_runs(six)))
    assert drawn.tag == "{http://www.w3.org/2000/svg}svg"
    texts = [text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert {"inner_loop.rank 2", "inner_loop.rank 8", "before training", "after round 1", "37.5", "57.5"} <= set(texts)
    assert texts[-1] == "Intervals are 95 %, over 3 seeds (Student's t)"
    assert "\u00a0%" in drawn.get("aria-label", "")


def test_one_run_each_is_paired_over_contexts_and_says_so(fit):
    first = fit("first", [0, 0, 0, 0], [0.5, 0.5, 0, 0], model__lr=1)
    second = fit("second", [0, 0, 0, 0], [1, 1, 0.5, 0.5], model__lr=2)
    groups = group_runs([first, second])
    assert [group.name for group in groups] == ["lr 1", "lr 2"]
    assert groups[0].last is not None and (groups[0].last.unit, groups[0].last.count) == ("contexts", 4)
    found = contrast(groups[1], groups[0])
    assert (found.mean, found.low, found.high) == (0.5, None, None)
    assert (found.unit, found.count, found.paired) == ("contexts", 4, True)
    assert "paired over 4 contexts, too few for an interval" in render_groups(groups)


def test_one_run_each_has_an_interval_over_six_contexts(fit):
    first = fit("first", [0] * 6, [0.5, 0.5, 0, 0, 0, 0], passages="abcdef", model__lr=1)
    second = fit("second", [0] * 6, [1, 1, 0.5, 0.5, 0.5, 0.5], passages="abcdef", model__lr=2)
    groups = group_runs([first, second])
    found = contrast(groups[1], groups[0])
    assert (found.mean, found.low, found.high) == (0.5, 0.5, 0.5)
    assert "paired over the same 6 contexts; 95 % over contexts (bootstrap), which says nothing about other seeds" in (
        render_groups(groups)
    )


def test_other_passages_in_the_same_rows_are_not_compared(fit):
    groups = group_runs([fit("one", [0.5] * 4, model__lr=1), fit("two", [1] * 4, passages="wxyz", model__lr=2)])
    found = contrast(groups[1], groups[0])
    assert (found.mean, found.low, found.high, found.reason) == (None, None, None, "different contexts")
    assert "lr 2 against the first: no difference is shown, since the runs have different contexts." in (
        render_groups(groups)
    )


def test_contexts_in_other_rows_are_paired_by_what_they_say(fit):
    groups = group_runs(
        [
            fit("one", [0.0, 0.25, 0.5, 0.75], model__lr=1),
            fit("two", [0.75, 0.5, 0.5, 0.0], passages="dcxa", model__lr=2),
        ]
    )
    found = contrast(groups[1], groups[0])
    assert (found.mean, found.low, found.high) == (0.0, None, None)  # d, c and a are as before
    assert (found.count, found.contexts, found.of) == (3, 3, 4)
    assert "paired over 3 contexts, too few" in render_groups(groups)


def test_a_single_context_has_no_interval(fit):
    one, other = fit("one", [0.25], passages="a", model__lr=1), fit("other", [1, 0.5], passages="ab", model__lr=2)
    groups = group_runs([one, other])
    found = contrast(groups[1], groups[0])
    assert (found.mean, found.low, found.high, found.contexts, found.of) == (0.75, None, None, 1, 2)
    text = render_groups(groups)
    assert "+75.0 points before training, paired over 1 context, too few for an interval." in text
    assert "0.250 – 0.250" not in text


def test_seeds_that_differ_make_an_unpaired_interval(fit):
    one = [fit(f"one-{seed}", [value] * 4, model__lr=1, model__seed=seed) for seed, value in ((0, 0.25), (1, 0.5))]
    two = [fit(f"two-{seed}", [value] * 4, model__lr=2, model__seed=seed) for seed, value in ((2, 0.5), (3, 0.75))]
    groups = group_runs([*one, *two])
    found = contrast(groups[1], groups[0])
    assert (found.mean, found.unit, found.paired, found.count) == (0.25, "seeds", False, 2)
    assert found.high == pytest.approx(0.25 + 4.303 * 0.25 / math.sqrt(2))  # Welch's t, 2 degrees of freedom
    assert "not paired (the runs have different seeds); 95 % over runs (Welch's t)" in render_groups(groups)


def test_a_seed_that_only_one_group_has_does_not_unpair_them(fit):
    """The control's filter draws lots, with a seed of its own."""
    lot = {"class_path": "seal_lightning.callbacks.RandomFilter", "init_args": {"k": 1, "seed": 5}}
    best = [fit(f"best-{seed}", [0.5 + seed / 4] * 4, model__seed=seed) for seed in (0, 1)]
    random = [fit(f"random-{seed}", [0.25 + seed / 4] * 4, model__seed=seed, filter=lot) for seed in (0, 1)]
    groups = group_runs([*best, *random])
    assert [group.name for group in groups] == ["filter ReSTEMFilter", "filter RandomFilter"]
    found = contrast(groups[1], groups[0])
    assert (found.mean, found.low, found.high, found.unit, found.count) == (-0.25, -0.25, -0.25, "seeds", 2)


def test_repeats_of_one_seed_are_no_sample_of_seeds(fit):
    """They differ in something that is no setting, such as code, or in nothing."""
    one, other, third = (fit(name, [0.5] * 4, model__seed=3) for name in ("one", "two", "three"))
    groups = group_runs([one, fit("rank", [0.5] * 4, model__rank=3), other, third])
    assert [group.name for group in groups] == ["one", "rank 3", "two", "three"]
    assert contrast(groups[2], groups[0]).unit == "contexts"


def test_a_run_that_is_behind_holds_its_group_back(fit):
    (group,) = group_runs(
        [fit("done", [0.0] * 4, [0.5] * 4, [1] * 4, model__seed=0), fit("going", [0.0] * 4, [0.5] * 4, model__seed=1)]
    )
    assert group.last is not None and group.last.where == "after round 1"
    assert group.behind == (2,)
    assert "some of its runs have come to round 2, others have not yet." in render_groups([group])


def test_equally_long_runs_are_compared_after_the_last_round_of_both(fit):
    short, long = (
        fit("short", [0.0] * 4, [0.5] * 4, model__lr=1),
        fit("long", [0] * 4, [0.25] * 4, [1] * 4, model__lr=2),
    )
    groups = group_runs([short, long])
    assert contrast(groups[1], groups[0]).where == ("after round 1", "after round 1")
    assert contrast(groups[1], groups[0]).mean == -0.25
    planned = group_runs([short, fit("planned", [0] * 4, [0.25] * 4, [1] * 4, trainer__max_epochs=2)])
    assert contrast(planned[1], planned[0]).where == ("after round 2", "after round 1")


def test_runs_without_settings_are_groups_of_their_own(runs, tmp_path):
    unit = [[runs.scored(1.0)]]
    found = [read(str(runs.write(tmp_path / name, {"validation-000": unit}, config=None))) for name in "ab"]
    assert [group.name for group in group_runs(found)] == ["a", "b"]


def test_a_run_that_has_only_begun(fit, runs, tmp_path):
    begun = read(str(runs.write(tmp_path / "begun", {}, config=settings(runs.config, model__lr=9))))
    groups = group_runs([fit("done", [0.5] * 4), begun])
    assert groups[1].last is None
    assert "| no results yet |" in render_groups(groups)
    assert "against the first: one of the two has no results yet." in render_groups(groups)
    assert render_figure(groups[1:]) == ""


def test_students_t():
    assert (t_quantile(1), t_quantile(2), t_quantile(2.9), t_quantile(30), t_quantile(500)) == (
        12.706, 4.303, 4.303, 2.042, 2.042,
    )  # fmt: skip
    assert t_interval([0.0, 1.0]) == pytest.approx((0.5 - 6.353, 0.5 + 6.353))
