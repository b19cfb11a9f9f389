"""Several units rolled out at once: each comes to what it comes to alone, whatever it looks at within itself."""

from dataclasses import replace

import pytest
import torch

from seal_lightning.e_step.filling import units_that_fill
from seal_lightning.e_step.own_queries import QueryWriter, WrittenQueries
from seal_lightning.e_step.plan import Plan
from seal_lightning.e_step.predictions import AnsweringStep, WritingStep
from seal_lightning.e_step.race_rule import Racing
from seal_lightning.e_step.step import EStep
from seal_lightning.e_step.trials import AllTrials
from seal_lightning.e_step.variants import step_for
from seal_lightning.grading import Contains, Reward, Rubric
from seal_lightning.inner_loop.loop import InnerLoop
from seal_lightning.models.random_models import build_tiny
from seal_lightning.policy.policy import Policy
from seal_lightning.sampling import LocalSampler
from seal_lightning.tasks import Knowledge
from seal_lightning.types import Context, Query


def place(name: str, queries: int = 2) -> Context:
    asked = tuple(Query(f"What is {part} {name}?", (part,)) for part in "abc"[:queries])
    return Context(id=name, title=name.title(), passage=f"The {name} is old and wide.", queries=asked)


UNITS = [(place("lamp"), place("tarn", 1)), (place("moor"),), (place("ford", 3), place("gate"))]


def policy() -> Policy:
    model, tokenizer = build_tiny("llama")
    return Policy(model.requires_grad_(False), tokenizer, chat=False)


class Letters(Contains):
    """Scores that differ from answer to answer."""

    def grade(self, *, question, golds, answer):
        return sum(map(ord, question + answer)) % 7 / 6


class Titles(QueryWriter):
    """Asks about what it read; nothing about the tarn."""

    def write(self, contexts, *, policy, grader, on_wait=lambda: None):
        return [
            WrittenQueries(() if one.id == "tarn" else (Query(f"Who owns the {one.id}?", ("Ada",)),))
            for one in contexts
        ]


def parts(**changes) -> EStep:
    loop = InnerLoop(rank=2, alpha=4.0, epochs=2, learning_rate=0.01, max_adapters=4)
    chosen = {"task": Knowledge(), "sampler": LocalSampler(max_new_tokens=16), "inner_loop": loop, "grader": Letters()}
    return EStep(**{**chosen, "reward": Reward(), "max_answer_tokens": 6, "plan": Plan(2, 2), **changes})


STEPS = {
    "plain": parts(plan=Plan(2, 2, passage_only=True)),
    "queries of others": parts(plan=Plan(2, 1, carry_over_queries=2), reward=Reward("carry_over")),
    "race": step_for(Plan(3, 2, racing=Racing(budget=0.5)), parts()),
    "rubric": step_for(Plan(2, 1, score_by="rubric"), parts(), rubric=Rubric()),
    "own queries": step_for(Plan(2, 1, queries="own"), parts(), query_writer=Titles()),
    "writing": WritingStep(**vars(parts())),
    "answering": AnsweringStep(**vars(parts())),
}


def plainly(units):
    """Rollouts without seconds, and marks of the policy up to the float tolerance of a batch."""
    return [[replace(one, seconds={}, score=round(one.score, 5), reward=_rounded(one.reward),
                     terms={name: round(value, 5) for name, value in one.terms.items()})
             for one in unit] for unit in units]  # fmt: skip


def _rounded(reward):
    return None if reward is None else round(reward, 5)


@pytest.mark.parametrize("name", STEPS)
def test_units_come_to_the_same_together_and_alone(name):
    step = STEPS[name]
    assert step.takes_several(UNITS)
    alone = [step.run(policy(), unit, round=1) for unit in UNITS]
    together = step.run_together(policy(), UNITS, round=1)
    assert plainly(together) == plainly(alone)
    assert [{rollout.context_id for rollout in unit} for unit in together] == [{c.id for c in unit} for unit in UNITS]


def test_units_share_batches_and_their_seconds_add_up():
    said = []
    step = STEPS["race"]
    together = step.run_together(policy(), UNITS, round=0, report=said.append)
    begun = [progress for progress in said if progress.event == "begin"]
    assert [progress.total for progress in begun if progress.phase == "sampling"] == [15]  # all edits of all units
    assert [progress.total for progress in begun if progress.phase == "baseline"] == [10]
    raced = sum(progress.phase == "inner loop" for progress in begun)
    alone = []
    for unit in UNITS:
        step.run(policy(), unit, round=0, report=alone.append)
    assert raced < sum(progress.phase == "inner loop" and progress.event == "begin" for progress in alone)
    spent = [sum(rollout.seconds["inner loop"] for rollout in unit) for unit in together]
    tokens = [sum(rollout.tokens.get("trained", 0) for rollout in unit) for unit in together]
    assert all(spent) and spent == pytest.approx([sum(spent) * count / sum(tokens) for count in tokens])


class Whole(EStep):
    """A user's E-step."""

    def run(self, policy, contexts, *, round, report=lambda progress: None):
        rollouts = super().run(policy, contexts, round=round, report=report)
        return [replace(rollout, title=f"one of {len(contexts)}") for rollout in rollouts]


class Mine(AllTrials):
    """Trials of a user's own, which may look at all contexts that they get."""

    def run(self, parts, unit, attempts):
        assert len(unit.contexts) <= 2
        return super().run(parts, unit, attempts)


def test_parts_of_a_users_own_get_one_unit_at_a_time():
    whole = Whole(**vars(parts()))
    assert not whole.takes_several(UNITS)
    titles = [{rollout.title for rollout in unit} for unit in whole.run_together(policy(), UNITS, round=0)]
    assert titles == [{"one of 2"}, {"one of 1"}, {"one of 2"}]
    mine = parts(trials=Mine())
    assert not mine.takes_several(UNITS)
    assert [len(unit) for unit in mine.run_together(policy(), UNITS, round=0)] == [8, 4, 8]


def test_units_with_a_context_in_common_are_not_mixed():
    twice = [(place("lamp", 1),), (place("lamp", 3),)]
    assert not parts().takes_several(twice)
    found = parts().run_together(policy(), twice, round=0)
    assert [len(unit[0].questions) for unit in found] == [1, 3]


# -- on a GPU ----------------------------------------------------------------------------------------------------------


def on_gpu() -> Policy:
    model, tokenizer = build_tiny("llama")
    return Policy(model.requires_grad_(False).to("cuda"), tokenizer, chat=False)


def outcome(units):
    return [[(one.text, one.answers, one.score) for one in unit] for unit in plainly(units)]


@pytest.mark.gpu
def test_units_come_to_the_same_together_and_alone_on_a_gpu():
    """In float32 a tiny model's choices have no ties that rounding could turn."""
    step = parts(plan=Plan(2, 2, carry_over_queries=1))
    alone = [step.run(on_gpu(), unit, round=0) for unit in UNITS]
    assert outcome(step.run_together(on_gpu(), UNITS, round=0)) == outcome(alone)


@pytest.mark.gpu
def test_more_than_one_unit_fills_a_gpu_and_as_many_after_it_was_used():
    loop = InnerLoop(rank=2, epochs=2)
    step, policy = parts(inner_loop=loop), on_gpu()
    before = loop.slots(policy.model), loop.pass_tokens(policy.model), units_that_fill(step, policy, UNITS)
    assert before[2] > 1
    step.run_together(policy, UNITS, round=0)
    held = [torch.empty(1 << 28, device="cuda") for _ in range(4)]  # 4 GiB that torch keeps when they are freed
    del held
    assert torch.cuda.memory_reserved() > 1 << 30
    after = loop.slots(policy.model), loop.pass_tokens(policy.model), units_that_fill(step, policy, UNITS)
    assert after == before


@pytest.mark.gpu
def test_units_end_on_a_gpu_as_with_enough_memory():
    step, policy = parts(inner_loop=InnerLoop(rank=64, target_modules="all-linear", epochs=2)), on_gpu()
    expected = outcome(step.run_together(policy, UNITS, round=0))
    torch.cuda.empty_cache()
    taken = torch.cuda.memory_allocated()
    bank = 16 * 20 * sum(p.numel() for p in policy.model.parameters())  # room for some of the twenty adapters
    total = torch.cuda.get_device_properties(0).total_memory
    try:
        torch.cuda.set_per_process_memory_fraction((taken + bank + (64 << 20)) / total)
        found = outcome(step.run_together(policy, UNITS, round=0))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert found == expected
