"""The race over edits: what it believes, what it trains, what it keeps; in the E-step and over recorded repeats."""

import itertools
import json
from dataclasses import replace
from statistics import fmean
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from seal_lightning.callbacks import RandomFilter, ReSTEMFilter
from seal_lightning.commands.adapt.edits import raced_for
from seal_lightning.commands.replay import main as replay
from seal_lightning.e_step.plan import Plan
from seal_lightning.e_step.race_rule import Racing, _chances, _rivals, _totals, race, run_races
from seal_lightning.e_step.step import EStep
from seal_lightning.e_step.variants import step_for
from seal_lightning.errors import ConfigError, DataError
from seal_lightning.fit.metrics import e_step_metrics
from seal_lightning.fit.module import SEALModule, check_filter
from seal_lightning.fit.units import make_stamp
from seal_lightning.grading import Contains, Reward
from seal_lightning.inner_loop.loop import InnerLoop
from seal_lightning.m_step.objectives import Imitation
from seal_lightning.m_step.selection import best_of, group_rollouts, lot_of
from seal_lightning.models.random_models import build_tiny
from seal_lightning.policy.policy import Policy
from seal_lightning.records.anew import race_anew
from seal_lightning.records.entries import Entry
from seal_lightning.records.lines import rollout_from_dict, rollout_to_dict
from seal_lightning.results.edits import figures_of, share_spent
from seal_lightning.sampling import Sample, Sampler
from seal_lightning.tasks import Knowledge
from seal_lightning.types import Context, Query, Rollout, Usage


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"budget": 0.0}, r"racing.budget must be above 0 and at most 1, got 0.0"),
        ({"budget": 1.5}, r"racing.budget must be above 0 and at most 1, got 1.5"),
        ({"together": 0}, r"racing.together must be above 0 and finite, got 0"),
        ({"keep": 0}, r"racing.keep must be a whole number of at least 1, got 0"),
    ],
)
def test_races_that_cannot_work_are_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        Racing(**options)


def test_plans_and_rewards_that_do_not_fit_a_race_are_refused():
    with pytest.raises(
        ConfigError, match=r"racing needs 2 or more repeats to save anything, got 1: set racing to null"
    ):
        Plan(repeats=1, racing=Racing())
    with pytest.raises(ConfigError, match=r"racing.budget must allow one training of each of the 2 edits"):
        Plan(edits=2, repeats=2, racing=Racing(budget=0.3, keep=2))
    with pytest.raises(ConfigError, match="racing must be None where score_by is rubric"):
        Plan(repeats=1, score_by="rubric", racing=Racing())
    with pytest.raises(ConfigError, match=r"evaluation\.racing must be null"):
        SEALModule(evaluation=Plan(racing=Racing()))
    with pytest.raises(ConfigError, match=r"score and gain, where e_step\.racing is set, got length"):
        SEALModule(e_step=Plan(racing=Racing()), reward={"score": 1.0, "length": -0.1})


def test_filters_that_a_race_would_starve_are_refused_when_a_fit_starts():
    module: Any = SEALModule(e_step=Plan(edits=3, racing=Racing(keep=1)))
    for chosen, said in (
        (ReSTEMFilter(k=2), r"^e_step\.racing\.keep must be at least filter\.k, which is 2, got 1: raise it$"),
        (RandomFilter(), r"^RandomFilter draws among all edits, .*: set e_step\.racing to null$"),
    ):
        module.trainer = SimpleNamespace(callbacks=[chosen])
        with pytest.raises(ConfigError, match=said):
            module.on_fit_start()
    check_filter(Plan(edits=3, racing=Racing(keep=2)), ReSTEMFilter(k=2), Reward(), Imitation())
    # no more edits than there are
    check_filter(Plan(edits=3, racing=Racing(keep=3)), ReSTEMFilter(k=99), Reward(), Imitation())
    check_filter(Plan(), RandomFilter(), Reward({"length": -1.0}), Imitation())


def test_seal_adapt_races_for_as_many_edits_as_it_keeps():
    plan = Plan(edits=4, repeats=2, racing=Racing(keep=2))
    kept = [raced_for(plan, keep).racing for keep in (1, 3, 4, None)]
    assert [found and found.keep for found in kept] == [2, 3, 2, 2]
    assert raced_for(Plan(), 3) == Plan()


# -- what is believed --------------------------------------------------------------------------------------------------


def test_totals_of_further_repeats_are_those_of_all_their_outcomes():
    a, b = np.array([1.0, 2.5]), np.array([3.0, 0.5])
    found = _totals(a, b, 1, 2)
    expected = np.zeros((3, 5))
    for outcome in itertools.product((0, 1), repeat=4):  # two queries in each of two repeats
        chance = 1.0
        for query in range(2):
            first, second = outcome[query], outcome[2 + query]
            mean = a[query] / (a[query] + b[query])
            later = (a[query] + first) / (a[query] + b[query] + 1)
            chance *= (mean if first else 1 - mean) * (later if second else 1 - later)
        expected[sum(outcome[:2]), sum(outcome)] += chance
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_chances_to_be_kept_are_those_of_all_outcomes_with_ties_to_the_first(keep):
    draw = np.random.default_rng(keep)
    totals, after = draw.dirichlet(np.ones(3), size=4), draw.dirichlet(np.ones(3), size=2)
    rivals = _rivals(totals, keep)
    for edit in range(4):
        found = _chances(totals, rivals, edit, after)
        for world in range(2):
            here = totals.copy()
            here[edit] = after[world]
            expected = np.zeros(4)
            for outcome in itertools.product(range(3), repeat=4):
                best = sorted(range(4), key=lambda number: (-outcome[number], number))[:keep]
                expected[best] += np.prod(here[range(4), outcome])
            np.testing.assert_allclose(found[world], expected, atol=1e-12)


# -- what is trained ---------------------------------------------------------------------------------------------------


def raced(scores, racing, costs=None):
    """The survivors of each context, and the trainings; from scores (contexts, edits, repeats, queries)."""
    made = []

    def train(chosen):
        made.extend(chosen[0])
        return {0: [scores[context][edit][repeat] for context, edit, repeat in chosen[0]]}

    contexts, edits, repeats, queries = np.shape(scores)
    (heats,) = run_races(
        [race(racing, costs or [[1.0] * edits] * contexts, [queries] * contexts, repeats=repeats)], train
    )
    return [heat.survivors(racing.keep) for heat in heats], made


def test_an_edit_that_leads_because_the_others_are_bad_is_trained_before_it_is_kept():
    clear = [[[1.0] * 6] * 3] + [[[0.0] * 6] * 3] * 3
    draw = np.random.default_rng(0)
    close = (draw.random((4, 3, 6)) < 0.5).astype(float).tolist()
    kept, made = raced([clear, close], Racing(budget=1.0, together=0.5))
    count = [sum(context == number for context, *_ in made) for number in (0, 1)]
    assert kept[0] == [0] and count[0] == 10 and count[1] == 12  # the one good edit leads before it was ever trained
    assert made.index((0, 0, 0)) > 8
    assert len(set(made)) == len(made)  # no repeat twice
    for number, edit in itertools.product(range(2), range(4)):
        repeats = [repeat for context, other, repeat in made if (context, other) == (number, edit)]
        assert repeats == list(range(len(repeats)))  # in their order


@pytest.mark.parametrize(("together", "own", "most"), [(0.5, 1, 3), (1.0, 1, 6), (2.5, 3, 15), (9.0, 4, 24)])
def test_a_stage_has_so_many_adapters_of_different_edits(together, own, most):
    scores = (np.random.default_rng(2).random((6, 4, 3, 4)) < 0.5).astype(float)
    stages = []

    def train(chosen):
        stages.append(chosen[0])
        return {0: [scores[context][edit][repeat] for context, edit, repeat in chosen[0]]}

    rules = Racing(budget=1.0, together=together)
    run_races([race(rules, [[1.0] * 4] * 6, [4] * 6, repeats=3)], train)
    assert max(map(len, stages)) == most
    for stage in stages:
        assert len({(context, edit) for context, edit, _ in stage}) == len(stage)
    by_context = [sum(context == number for context, *_ in stage) for stage in stages for number in range(6)]
    assert max(by_context) == own


def test_the_budget_is_in_what_trainings_cost():
    scores = (np.random.default_rng(1).random((3, 4, 3, 4)) < 0.4).astype(float)
    costs = [[1.0, 2.0, 3.0, 10.0]] * 3
    _, made = raced(scores, Racing(budget=0.4), costs)
    spent = sum(costs[context][edit] for context, edit, _ in made)
    assert 0.3 * 144 < spent <= 0.4 * 144


def test_with_the_whole_budget_the_race_keeps_what_the_full_e_step_does():
    scores = (np.random.default_rng(2).random((6, 5, 3, 4)) < 0.5).astype(float)
    for keep in (1, 2):
        kept, made = raced(scores, Racing(budget=1.0, keep=keep))
        full = [
            sorted(sorted(range(5), key=lambda edit: (-round(of_context[edit].mean(), 9), edit))[:keep])
            for of_context in scores
        ]
        assert kept == full and len(made) < 90  # what cannot change the choice is not trained


def test_every_edit_that_is_kept_was_trained():
    scores = np.zeros((5, 4, 2, 3))
    kept, made = raced(scores, Racing(budget=0.25, keep=2))
    for number, survivors in enumerate(kept):
        assert len(survivors) == 2 and {(number, edit, 0) for edit in survivors} <= set(made)


def test_half_the_compute_keeps_the_same_edits_where_edits_differ_more_than_repeats():
    """20 contexts with 6 edits and 3 repeats."""
    draw = np.random.default_rng(3)
    skill = draw.beta(0.15, 0.3, size=(20, 6, 1, 5))
    scores = (draw.random((20, 6, 3, 5)) < skill).astype(float)
    kept, made = raced(scores, Racing(budget=0.5))
    full = [[int(np.argmax(np.round(of_context, 9)))] for of_context in scores.mean((2, 3))]
    assert sum(one == other for one, other in zip(kept, full, strict=True)) >= 18 and len(made) <= 180


# -- in the E-step -----------------------------------------------------------------------------------------------------

PLACES = tuple(
    Context(name, name.title(), f"The {name} is {word}.", (Query(f"What is the {name}?", (word,)),))
    for name, word in (("lamp", "l"), ("tarn", "e"))
)
RACE = Plan(edits=3, repeats=2, passage_only=True, racing=Racing(budget=0.6))


class Fixed(Sampler):
    def sample(self, policy, requests, *, on_done=lambda count: None):
        return [Sample(("It burns oil.", " ", "It is a big lake.")[r.index], 5, 7) for r in requests]


class Counting(Contains):
    """Remembers how many answers it was asked about."""

    asked = 0

    def verdicts(self, answers, **options):
        self.asked += len(answers)
        return [replace(verdict, usage=Usage(requests=1)) for verdict in super().verdicts(answers, **options)]


def e_step(**parts):
    loop = InnerLoop(rank=2, alpha=4.0, epochs=2, learning_rate=0.01)
    chosen = {"task": Knowledge(), "sampler": Fixed(), "inner_loop": loop, "grader": Contains(), "reward": Reward()}
    return EStep(**{**chosen, "max_answer_tokens": 4, **parts})


def policy():
    model, tokenizer = build_tiny("llama")
    return Policy(model.requires_grad_(False), tokenizer, chat=False)


def test_the_e_step_trains_what_the_race_asks_for_and_says_what_was_dropped():
    grader = Counting()
    rollouts = step_for(RACE, e_step(grader=grader)).run(policy(), PLACES, round=0)
    full = e_step(plan=replace(RACE, racing=None)).run(policy(), PLACES, round=0)
    by_place = {(r.context_id, r.kind, r.edit_index, r.repeat): r for r in full}
    edits = [r for r in rollouts if r.kind == "edit" and r.status == "ok"]
    trained = [r for r in edits if r.answers]
    assert len(trained) == 4  # 60 % of eight trainings, in tokens
    for rollout in trained:  # the same adapters as in the full E-step
        other = by_place[rollout.context_id, "edit", rollout.edit_index, rollout.repeat]
        assert (rollout.seed, rollout.answers, rollout.scores) == (other.seed, other.answers, other.scores)
    assert grader.asked == 2 + 2 + len(trained)  # baselines, passages, and each answer once
    assert [r.context_id for r in rollouts if r.kind == "passage" and r.reward is not None] == ["lamp", "tarn"]
    assert [(r.edit_index, r.repeat) for r in rollouts if r.status == "rejected"] == [(1, 0)] * 2  # not all its repeats
    metrics = [e_step_metrics([r for r in some if r.kind == "edit"], [], [], 1.0) for some in (rollouts, full)]
    assert [found["e_step/rejected_frac"] for found in metrics] == [1 / 3] * 2
    for name in ("lamp", "tarn"):
        mine = [r for r in edits if r.context_id == name]
        assert {r.edit_index for r in mine} == {0, 2}  # every usable edit has a rollout
        dropped = {r.edit_index for r in mine if r.dropped}
        assert len(dropped) == 1
        assert all((r.reward is None) == bool(r.dropped) for r in mine)
        for edit in dropped:
            count = sum(bool(r.answers) for r in mine if r.edit_index == edit)
            assert {r.dropped for r in mine if r.edit_index == edit} == {f"racing: {count} of 2 repeats trained"}
    spent, saved = (sum(r.tokens.get(what, 0) for r in edits) for what in ("trained", "saved"))
    assert spent + saved == sum(r.tokens["trained"] for r in full if r.kind == "edit" and r.status == "ok")
    assert share_spent(rollouts) == spent / (spent + saved) <= 0.6


def test_a_dropped_edit_is_kept_by_no_filter_and_in_no_score():
    scored = Rollout(0, "lamp", 0, 0, 1, "p", "a", "ok", score=0.5, scores=(0.5,), reward=0.5, tokens={"trained": 6})
    lost = replace(scored, edit_index=1, text="b", score=1.0, scores=(1.0,), reward=None, dropped="racing: 1 of 2")
    lost = replace(lost, tokens={"trained": 3, "saved": 3})
    (group,) = group_rollouts([scored, lost])
    assert [one.text for one in best_of(group, k=9)] == [one.text for one in lot_of(group, k=9)] == ["a"]
    figures = figures_of([scored, lost])
    assert (figures.score[0], figures.best, figures.solved, figures.dropped) == (0.5, 0.5, 0.0, 0.5)
    assert (figures.edits, figures.rejected, figures.tokens["trained"], figures.spent) == (2, 0.0, 9, 0.75)
    metrics = e_step_metrics([scored, lost], [group], best_of(group), 1.0)
    assert (metrics["racing/spent_frac"], metrics["reward/mean"]) == (0.75, 0.5)
    assert "racing/spent_frac" not in e_step_metrics([scored], [group], best_of(group), 1.0)


def test_without_a_race_journals_and_stamps_are_as_before():
    rollout = Rollout(0, "lamp", 0, 0, 1, "p", "a", "ok")
    assert "dropped" not in rollout_to_dict(rollout)
    lost = replace(rollout, dropped="racing: 0 of 2 repeats trained")
    assert rollout_from_dict(json.loads(json.dumps(rollout_to_dict(lost)))) == lost
    stamps = [
        make_stamp(step_for(Plan(racing=racing), e_step()), [PLACES], chat=False, base="", policy="")
        for racing in (None, Racing())
    ]
    assert set(stamps[1]) - set(stamps[0]) == {
        "plan.racing.budget",
        "plan.racing.keep",
        "plan.racing.together",
    }
    assert not any("racing" in name for name in stamps[0] if not name.startswith("code."))  # its grader is this file's
    assert json.loads(json.dumps(stamps[1])) == stamps[1]  # as a journal gives it back


# -- over recorded repeats ---------------------------------------------------------------------------------------------


def recorded(scores, **options):
    return tuple(
        Rollout(0, f"c{context}", edit, repeat, 1, f"p{context}", f"e{edit}", "ok", baseline_answers=("x",) * 4,
                answers=("x",) * 4, questions=("q",) * 4, golds=(("g",),) * 4, baseline_scores=(0.0,) * 4,
                scores=tuple(values), score=fmean(values), reward=fmean(values), **options)
        for context, edits in enumerate(scores) for edit, repeats in enumerate(edits)
        for repeat, values in enumerate(repeats)
    )  # fmt: skip


def test_replay_says_how_a_race_would_have_gone(tmp_path, capsys):
    scores = (np.random.default_rng(5).random((8, 4, 3, 4)) < [[[[0.9]], [[0.2]], [[0.1]], [[0.1]]]]).astype(float)
    entry = Entry("run", "train-000", recorded(scores.tolist()), ())
    found = race_anew(entry, Racing(budget=0.5))
    assert (found.kept, found.same, found.as_good, found.of) == (8, 8, 8, 96)
    assert found.interval == (1.0, 1.0) and found.trainings <= 48 and found.spent == found.trainings / 96
    path = tmp_path / "train-000.jsonl"
    rows = [{"unit": 0, "of": len(entry.rollouts), **rollout_to_dict(one)} for one in entry.rollouts]
    path.write_text("".join(json.dumps(row) + "\n" for row in [{"stamp": {}}, *rows]))
    replay([str(path), "--racing.budget", "0.5"])
    said = "train-000, raced: 8 of 8 kept edits are the same (100.0%, 95 % interval 100.0% to 100.0%), 8 are as good, "
    assert said + f"{found.trainings} of 96 trainings, {found.spent:.1%} of the compute" in capsys.readouterr().out


def test_replay_refuses_what_it_cannot_race_over():
    scores = np.zeros((2, 3, 1, 4)).tolist()
    with pytest.raises(DataError, match="train-000: expected the same 2 or more repeats of every edit, got 1: race"):
        race_anew(Entry("run", "train-000", recorded(scores), ()), Racing())
    with pytest.raises(DataError, match="repeats of every edit, got none: race"):
        race_anew(Entry("run", "train-000", (), ()), Racing())
    with pytest.raises(DataError, match="repeats of every edit, got a race: race"):
        race_anew(Entry("run", "train-000", recorded(scores, dropped="racing"), ()), Racing())


def test_published_repeats_are_raced_over(shared):
    """Half the trainings decide most contexts as all of them do; how far they get is in benchmarks/RESULTS.md."""
    from seal_lightning.records.entries import read_entries

    (entry,) = read_entries(str(shared / "data" / "seal-published" / "rank_iter0_prompt-rewrite.json.gz"))
    found = race_anew(entry, Racing(budget=0.5, together=1.0))
    assert (found.kept, found.of) == (50, 750) and 350 <= found.trainings <= 375
    assert found.same >= 35 and found.as_good >= 40
