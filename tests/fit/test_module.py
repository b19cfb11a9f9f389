"""What the module makes of its parts: who writes the edits of an evaluation, and plans and rewards that do not fit."""

import json

import pytest

from seal_lightning.e_step.plan import Plan
from seal_lightning.endpoints import Endpoint
from seal_lightning.errors import ConfigError
from seal_lightning.fit.module import SEALModule
from seal_lightning.policy.tuned import PolicyTuning
from seal_lightning.sampling import (
    AdapterServer,
    EndpointSampler,
    ImportedEdits,
    LocalSampler,
    ServerAnswerer,
    ServerSampler,
    WrittenEdits,
)


def endpoint() -> Endpoint:
    return Endpoint("m", base_url="http://127.0.0.1:9/v1", cache=None)


@pytest.mark.parametrize("sampler", [LocalSampler(temperature=0.5), WrittenEdits(), None])
def test_an_evaluation_takes_the_samplers_edits(sampler):
    module = SEALModule(sampler=sampler)
    assert module.evaluation.sampler is module.e_step.sampler
    assert sampler is None or module.e_step.sampler is sampler


def test_edits_from_outside_train_the_policy_and_its_own_are_evaluated(tmp_path):
    (tmp_path / "edits.jsonl").write_text(json.dumps({"context_id": "lamp", "text": "One."}))
    for outside in (EndpointSampler(endpoint()), ImportedEdits(str(tmp_path / "edits.jsonl"))):
        module = SEALModule(sampler=outside)
        assert module.e_step.sampler is outside
        assert isinstance(module.evaluation.sampler, LocalSampler)
        assert SEALModule(sampler=outside, evaluation_sampler=outside).evaluation.sampler is outside


def test_a_server_that_holds_the_policy_is_the_policy():
    held = ServerSampler(AdapterServer(endpoint()))
    assert SEALModule(sampler=held).evaluation.sampler is held


@pytest.mark.parametrize("parts", [{"sampler": ServerSampler}, {"answerer": ServerAnswerer}])
def test_a_server_holds_a_base_model(parts):
    made = {name: kind(AdapterServer(endpoint())) for name, kind in parts.items()}
    with pytest.raises(ConfigError, match=r"tuning.method must be lora where a server holds the base model, got full"):
        SEALModule(tuning=PolicyTuning(method="full"), **made)


def test_carry_over_is_evaluated_where_it_is_rewarded():
    plan = Plan(carry_over_queries=3)
    assert SEALModule(e_step=plan, reward="carry_over").evaluation.plan.carry_over_queries == 3
    assert SEALModule(e_step=plan).evaluation.plan.carry_over_queries == 0
    own = Plan(carry_over_queries=1)
    assert SEALModule(e_step=plan, evaluation=own, reward="carry_over").evaluation.plan.carry_over_queries == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"evaluation": Plan(queries="own")}, "evaluation.queries must be data, got queries and own"),
        ({"evaluation": Plan(repeats=1, score_by="rubric")}, "must be data, got rubric and data"),
        ({"max_answer_tokens": -1}, "max_answer_tokens must be at least 1, got -1"),
        ({"answer_batch": 0}, "answer_batch must be at least 1, got 0"),
        ({"reward": "carry_over"}, "e_step.carry_over_queries must be at least 1"),
        (
            {"reward": {"score": 1.0, "precision": 0.5}, "e_step": Plan(repeats=1, score_by="rubric")},
            "reward must be made of terms that need no answers, such as score, length and format, where "
            "e_step.score_by is rubric, got precision: remove it",
        ),
    ],
)
def test_plans_and_rewards_that_do_not_fit(options, said):
    with pytest.raises(ConfigError, match=said):
        SEALModule(**options)
