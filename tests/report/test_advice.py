"""Warnings: each comes when it should, and a sound run has none."""

from itertools import count

import pytest

from seal_lightning.report.advice import advise, repeated
from seal_lightning.report.measure import measure
from seal_lightning.report.read import read

WORDS = "river lamp oil coal ferry midwinter harbour founder tiles rope salt wool".split()


def unit(runs, *, rewards=(0.0, 0.5, 1.0), contexts=12, text=None, **changes):
    """Contexts with an edit for each reward, and texts of their own."""
    queries = {"questions": ("?",) * 5, "golds": (("a",),) * 5, "answers": (), "scores": ()}
    queries |= {"baseline_answers": (), "baseline_scores": ()}
    return [
        runs.scored(
            reward,
            context_id=f"{WORDS[number]}",
            edit_index=index,
            text=text or f"{WORDS[number]} " * (index + 4),
            **{**queries, **changes},
        )
        for number in range(contexts)
        for index, reward in enumerate(rewards)
    ]


@pytest.fixture
def titles(runs, tmp_path):
    """The titles of a run's warnings: of its E-steps, and of validations with one score each."""
    numbers = count()

    def of(*rounds, scores=(0.2, 0.4), table=True, contexts=12, passage=None, config=None):
        journals = {f"train-{number:03d}": [rollouts] for number, rollouts in enumerate(rounds)}
        for number, score in enumerate(scores):
            held_out = unit(runs, rewards=(score,), contexts=contexts, baseline=0.1)
            if passage is not None and not number:
                held_out += unit(runs, rewards=(passage,), contexts=contexts, baseline=0.1, kind="passage")
            journals[f"validation-{number:03d}"] = [held_out]
        folder = runs.write(tmp_path / f"run-{next(numbers)}", journals, table=table, config=config or runs.config)
        return [advice.title for advice in advise(measure(read(str(folder))))]

    return of


def test_a_sound_run_has_none(runs, titles):
    assert titles(unit(runs)) == []


def test_a_run_that_is_not_over(runs, titles):
    assert titles(unit(runs), table=False) == ["This run has not come to its end"]


def test_rewards_without_spread(runs, titles):
    assert titles(unit(runs, rewards=(0.5, 0.5, 0.5), baseline=0.1)) == ["Rewards without spread"]


def test_edits_that_a_race_dropped_give_no_advice(runs, titles):
    """The kept ones tie in every context; in the second round, another edit of each is dropped, at a worthless 0."""
    dropped = [
        runs.dropped(0.0, context_id=one.context_id, edit_index=2, questions=one.questions, golds=one.golds, answers=(),
                     scores=(), baseline_answers=(), baseline_scores=())
        for one in unit(runs, rewards=(0.5,))
    ]  # fmt: skip
    full = unit(runs, rewards=(0.5, 0.5), baseline=0.1)
    raced = [*full, *dropped]
    assert titles(full, raced, scores=(0.2, 0.2, 0.25)) == []
    assert titles(raced, full, scores=(0.2, 0.2, 0.25)) == ["Rewards without spread"]  # and no rise on them


def test_kept_edits_that_repeat(runs, titles):
    assert titles(unit(runs, text="The town is a town that is known for being one.")) == [
        "Kept edits repeat each other"
    ]


def test_edits_that_choose_from_few_values_may_repeat(runs, titles):
    assert titles(unit(runs, text='{"epochs": 2}', asked={"epochs": 2})) == []


def test_rejected_edits_and_an_empty_round(runs, titles):
    rejected = [runs.rejected(context_id=name, questions=("?",) * 5, golds=(("a",),) * 5, baseline_answers=(),
                              baseline_scores=()) for name in WORDS]  # fmt: skip
    assert titles(rejected) == ["A round kept nothing", "Many edits cannot be used"]


def test_better_on_the_training_contexts_only(runs, titles):
    better = unit(runs, rewards=(0.5, 0.8, 1.0))
    assert titles(unit(runs), better, scores=(0.2, 0.2, 0.25)) == ["Better on the training contexts only"]


def test_a_round_that_is_not_over_is_compared_over_its_own_contexts(runs, titles):
    """Twelve contexts that score 0.5 on average, of which the first, which has always scored 1, is done again."""
    first = unit(runs, rewards=(0.9, 1.0), contexts=1)
    others = [rollout for rollout in unit(runs, rewards=(0.0, 0.5)) if rollout.context_id != WORDS[0]]
    assert titles([*first, *others], first, scores=(0.2, 0.2, 0.25)) == []


def test_edits_that_keep_up_are_fine(runs, titles):
    assert titles(unit(runs), unit(runs, rewards=(0.5, 0.8, 1.0)), scores=(0.2, 0.2, 0.5)) == []


def test_edits_that_got_worse(runs, titles):
    assert titles(unit(runs), scores=(0.4, 0.2)) == ["Edits got worse"]


def test_edits_that_do_not_beat_the_passage(runs, titles):
    assert titles(unit(runs), passage=0.6) == ["Edits do not beat the passage"]


def test_few_queries_and_few_contexts(runs, titles):
    few = unit(runs, questions=("?",), golds=(("a",),))
    assert titles(few, contexts=3) == ["Few queries", "Few held-out contexts"]


def test_near_identical_texts():
    assert repeated([]) == repeated(["a"]) == repeated(["a river", "some coal"]) == 0.0
    assert repeated(["the same words here", "the  same words\nhere", "other things"]) == 2 / 3
    assert repeated(["word " * 50 + "end", "word " * 50 + "fin", "x", "y"]) == 0.5
    assert repeated([f"{number:b}" * 40_000 for number in (1, 2)]) == 0.0  # only so much of a text is looked at
