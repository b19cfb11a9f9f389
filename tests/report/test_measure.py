"""What is computed about a run, with figures that can be told by heart."""

import pytest

from seal_lightning.records.journal import Journal
from seal_lightning.report.charts import Dot, Tick, intervals, scale_over, strips_of, trend_of
from seal_lightning.report.measure import DirectiveValue, measure
from seal_lightning.report.read import flat, plain, read
from seal_lightning.report.rounds import Quartiles, changes_of, quartiles


@pytest.fixture
def measured(fitted):
    return lambda *args, **options: measure(read(str(fitted(*args, **options))))


def test_a_round(measured):
    (found,) = measured().rounds
    assert (found.number, found.contexts, found.rewards.mean, found.rewards.best, found.rewards.within) == (
        1, 2, 0.5, 0.75, pytest.approx(0.3535534),  # of (1, 0) and of (.5, .5)
    )  # fmt: skip
    assert (found.figures.improved, found.figures.solved, found.figures.rejected) == (0.25, 0.25, 0)
    assert found.tokens == Quartiles(10, 10, 10, 10)
    assert found.lines == Quartiles(1.75, 2, 2, 2)
    assert found.asking == 3 / 7  # of the lines hold a question mark
    assert [(edit.context_id, edit.edit_index) for edit in found.kept or ()] == [("lamp", 0), ("tarn", 0)]


def test_the_mean_reward_lies_in_its_interval(runs, tmp_path):
    """Both count every context alike, however many of its edits can be used."""
    many = [runs.scored(1.0, context_id=name, edit_index=edit) for name in "abc" for edit in range(8)]
    single = [runs.scored(0.0, context_id=name) for name in "defghij"]
    (found,) = measure(read(str(runs.write(tmp_path, {"train-000": [[*many, *single]]})))).rounds
    assert found.rewards.mean == pytest.approx(0.3)
    assert found.interval[0] < 0.3 < found.interval[1]


def test_the_accuracy_of_a_run(measured):
    run = measured()
    assert [(row.name, row.accuracy) for row in run.accuracy] == [
        ("base", 0.5),
        ("edits before training", 0.25),
        ("edits after round 1", 0.75),
    ]
    assert [(cost.name, cost.seconds, cost.share) for cost in run.phases] == [
        ("inner loop", 24.0, 0.75),
        ("sampling", 8.0, 0.25),
    ]
    assert run.tokens == {"prompt": 160, "edit": 80, "trained": 800, "answers": 16}


def test_best_and_worst_edits_of_one_context(measured):
    pair, other = measured().pairs[1]
    assert (pair[0].context_id, pair[1].context_id) == ("lamp", "lamp")
    assert (pair[0].edit_index, pair[0].reward, pair[0].kept) == (0, 1.0, True)
    assert (pair[1].edit_index, pair[1].reward, pair[1].kept) == (1, 0.0, False)
    assert other[0].context_id == "tarn"  # where the two differ less


def test_best_and_worst_of_contexts_with_one_edit_each(runs, tmp_path):
    unit = [runs.scored(value, context_id=name) for name, value in (("a", 0.2), ("b", 0.9), ("c", 0.1))]
    run = measure(read(str(runs.write(tmp_path, {"train-000": [unit]}))))
    assert [(pair[0].context_id, pair[1].context_id) for pair in run.pairs[1]] == [("b", "c")]


def test_a_typical_held_out_context(measured):
    pair = measured().typical
    assert pair is not None
    assert (pair[0].label, pair[0].score) == ("before training", 0.0)
    assert (pair[1].label, pair[1].score) == ("after round 1", 0.5)


def test_what_became_of_each_query(runs):
    won, lost = changes_of(runs.plain)
    assert (won.question, won.gold, won.before, won.after, won.change) == (
        "What does it burn?",
        "oil",
        "gas",
        "oil",
        "won",
    )
    assert (lost.gold, lost.change) == ("Ada | Ada Merrow", "lost")
    still, wrong = changes_of(runs.scored(1.0, baseline_scores=(1.0, 0.2), scores=(0.9, 0.3)))
    assert (still.change, wrong.change) == ("right", "wrong")
    assert changes_of(runs.rejected()) == ()
    assert [one.before for one in changes_of(runs.scored(1.0, baseline_answers=(), baseline_scores=()))] == ["", ""]


def test_what_was_kept_is_what_the_run_wrote_down(runs, tmp_path):
    """Whatever filter its configuration names: it may be the user's own, or draw lots."""
    unit = [runs.scored(reward, edit_index=at) for at, reward in enumerate((0.9, 0.1, 0.5))]
    config = {"filter": {"class_path": "mine.Filter"}}
    folder = runs.write(tmp_path, {"train-000": [unit]}, config=config, kept=False)
    Journal(folder / "journal", "train-000", stamp={"name": "train-000"}).keep(unit[1:], round=0)
    (found,) = measure(read(str(folder))).rounds
    assert [edit.edit_index for edit in found.kept] == [1, 2]


def test_what_was_kept_is_not_guessed(runs, tmp_path):
    folder = runs.write(tmp_path, {"train-000": [[runs.scored(0.9)]]}, kept=False)  # killed before the filter
    (found,) = measure(read(str(folder))).rounds
    assert (found.kept, found.without_merit) == (None, 0)


def test_directives(runs, tmp_path):
    unit = [
        runs.scored(0.2, asked={"epochs": 2}),
        runs.scored(0.4, edit_index=1, asked={"epochs": 2}),
        runs.scored(1.0, edit_index=2, asked={"epochs": 3, "rate": 1e-4}),
    ]
    found = measure(read(str(runs.write(tmp_path, {"train-000": [unit]})))).directives
    assert found["epochs"] == [DirectiveValue("2", 2, pytest.approx(0.3)), DirectiveValue("3", 1, 1.0)]
    assert found["rate"] == [DirectiveValue("0.0001", 1, 1.0)]


def test_directives_of_a_race_count_edits_that_it_measured(runs, tmp_path):
    unit = [
        runs.scored(0.0, asked={"epochs": 2}),
        runs.scored(1.0, asked={"epochs": 2}, repeat=1),
        runs.scored(1.0, edit_index=1, asked={"epochs": 2}),
        runs.dropped(0.0, edit_index=2, asked={"epochs": 3}),
    ]
    found = measure(read(str(runs.write(tmp_path, {"train-000": [unit]})))).directives
    assert found == {"epochs": [DirectiveValue("2", 2, 0.75)]}


def test_tokens_that_a_race_saved_were_not_used(runs, tmp_path):
    unit = [runs.scored(1.0, tokens={"trained": 100, "saved": 300})]
    run = measure(read(str(runs.write(tmp_path, {"train-000": [unit]}))))
    assert (run.tokens, run.raced, run.rounds[0].figures.spent) == ({"trained": 100}, True, 0.25)


def test_endpoints(runs, tmp_path):
    used = {"grading": {"requests": 2, "prompt_tokens": 10, "dollars": 0.5}}
    run = measure(read(str(runs.write(tmp_path, {"train-000": [[runs.scored(1.0, usage=used)] * 2]}))))
    assert (run.usage["grading"].requests, run.total.dollars) == (4, 1.0)


def test_small_things():
    assert quartiles([]) is None
    assert quartiles([7]) == Quartiles(7, 7, 7, 7)
    assert quartiles([1, 2, 3, 4, 5]) == Quartiles(2, 3, 4, 5)
    assert flat({"a": {"class_path": "x.Y", "init_args": {"b": 1}}, "c": [1]}) == {"a": "x.Y", "a.b": 1, "c": [1]}
    values = [None, True, 0, 0.00012, "seal_lightning.tasks.arc.ArcTask", [1, 2], {"class_path": "m.Grader"}]
    assert [plain(value) for value in values] == ["null", "true", "0", "0.00012", "ArcTask", "1, 2", "m.Grader"]


# -- charts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([], ["0.00", "0.25", "0.50", "0.75", "1.00"]),
        ([0.63], ["0.0", "0.2", "0.4", "0.6", "0.8"]),
        ([1.0], ["0.00", "0.25", "0.50", "0.75", "1.00"]),
        ([-0.3, 0.6], ["-0.50", "-0.25", "0.00", "0.25", "0.50", "0.75"]),
        ([73], ["0", "20", "40", "60", "80"]),
        ([6], ["0", "2", "4", "6"]),
    ],
)
def test_ticks(values, labels):
    assert [tick.label for tick in scale_over(values).ticks] == labels


def test_where_marks_lie(measured):
    run = measured()
    scale = scale_over([1.0])
    assert scale.ticks[1] == Tick("25.00%", "0.25")
    assert [(shown.tone, shown.middle) for shown in intervals(run.accuracy, scale)] == [
        ("other", "50.00%"),
        ("edits", "25.00%"),
        ("last", "75.00%"),
    ]
    strips = strips_of(run.rounds, {"tarn": "The tarn"})
    assert strips is not None and (strips.rounds, strips.left_out) == ((1,), 0)
    assert [(row.title, row.rewards) for row in strips.rows] == [
        ("lamp", ("1.00, 0.00",)),
        ("The tarn", ("0.50, 0.50",)),
    ]
    assert strips.rows[0].dots == ((Dot("0.00%", 3.7, False), Dot("100.00%", 3.7, True)),)
    assert strips_of([], {}) is None and trend_of([run]) is None  # one round is no trend


def test_a_trend(runs, tmp_path):
    journals = {f"train-{n:03d}": [[runs.scored(0.5 * n), runs.scored(0.0, edit_index=1)]] for n in range(3)}
    run = measure(read(str(runs.write(tmp_path, journals))))
    trend = trend_of([run])
    assert trend is not None
    assert [(line.name, line.shape, [point.value for point in line.points]) for line in trend.series] == [
        ("mean", "circle", [0.0, 0.25, 0.5]),
        ("best of each context", "diamond", [0.0, 0.5, 1.0]),
    ]
    assert [tick.at for tick in trend.rounds] == ["16.67%", "50.00%", "83.33%"]
    assert [point.y for point in trend.series[1].points] == [190.0, 95.0, 0.0]
    assert [line.name for line in trend_of([run, run]).series] == [run.run.name] * 2
