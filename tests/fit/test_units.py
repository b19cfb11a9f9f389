"""What the journal's stamp is made of: every setting that rollouts depend on, the same in every process."""

import enum
import json
import re
from dataclasses import fields, replace
from pathlib import Path
from types import MappingProxyType

import pytest
import torch

from seal_lightning.e_step.own_queries import QueryWriter
from seal_lightning.e_step.plan import Plan
from seal_lightning.e_step.step import EStep
from seal_lightning.e_step.variants import step_for
from seal_lightning.fit.units import make_stamp
from seal_lightning.grading import F1, Contains, Recall, Reward, Rubric
from seal_lightning.inner_loop.loop import InnerLoop
from seal_lightning.sampling import LocalSampler, WrittenEdits
from seal_lightning.stamps.values import describe
from seal_lightning.tasks import DirectiveLimits, EditKind, Knowledge
from seal_lightning.types import Context, Query

LAMP = Context(id="lamp", title="Lamp", passage="A lamp.", queries=(Query("What?", ("oil",)),))
PLAN = Plan(edits=2, repeats=1)


def e_step(**parts) -> EStep:
    chosen = {
        "task": Knowledge(),
        "sampler": LocalSampler(),
        "inner_loop": InnerLoop(),
        "grader": Recall(),
        "reward": Reward(),
    }
    return EStep(**{**chosen, **parts})


def stamp(step: EStep | None = None, *, plan=PLAN, units=((LAMP,),), policy="p", base="b", chat=False, **parts) -> str:
    """As text: what is compared when a journal is opened again."""
    planned = step_for(plan, step or e_step(), **parts)
    made = make_stamp(planned, units, chat=chat, base=base, policy=policy)
    return json.dumps(made, sort_keys=True)


OTHER_STEPS = {
    "edit kind": e_step(task=Knowledge(edit="rewrite")),
    "own edit kind": e_step(task=Knowledge(edit=EditKind(instruction="Retell {passage}"))),
    "own edit kind, other words": e_step(task=Knowledge(edit=EditKind(instruction="Tell {passage}"))),
    "title prefix": e_step(task=Knowledge(title_prefix=False)),
    "append passage": e_step(task=Knowledge(append_passage=False)),
    "passage repeats": e_step(task=Knowledge(passage_repeats=2)),
    "max sequences": e_step(task=Knowledge(max_sequences=3)),
    "numbering": e_step(task=Knowledge(strip_numbering=True)),
    "topic": e_step(task=Knowledge(topic_prefix=False)),
    "directives": e_step(task=Knowledge(directives=DirectiveLimits())),
    "directive limits": e_step(task=Knowledge(directives=DirectiveLimits(epochs=(1, 3)))),
    "sampler": e_step(sampler=WrittenEdits()),
    "temperature": e_step(sampler=LocalSampler(temperature=0.8)),
    "top p": e_step(sampler=LocalSampler(top_p=0.9)),
    "constrained": e_step(sampler=LocalSampler(constrained=True)),
    "edit length": e_step(sampler=LocalSampler(max_new_tokens=9)),
    "grader": e_step(grader=Contains()),
    "another grader": e_step(grader=F1()),
    "threshold": e_step(grader=Recall(threshold=0.5)),
    "reward": e_step(reward=Reward("gain")),
    "reward weights": e_step(reward=Reward({"score": 1.0, "gain": 0.5})),
    "seed": e_step(seed=1),
    "answer length": e_step(max_answer_tokens=9),
}
OTHER_LOOPS = {
    "objective": "distill",
    "layers": "attention",
    "rank": 4,
    "alpha": 2.0,
    "target_modules": "all-linear",
    "learning_rate": 1e-4,
    "schedule": "cosine",
    "epochs": 3,
    "batch_size": 2,
    "gradient_clip": 0.0,
    "weight_decay": 0.1,
    "betas": (0.9, 0.99),
    "max_length": 99,
    "append_eos": False,
    "max_adapters": 3,
    "max_tokens": 99,
    "pad_to": 9,
}


def test_every_setting_of_the_e_step_changes_the_stamp():
    steps = [*OTHER_STEPS.values(), *(e_step(inner_loop=InnerLoop(**{k: v})) for k, v in OTHER_LOOPS.items())]
    stamps = [stamp(), *map(stamp, steps)]
    assert len(set(stamps)) == len(stamps)
    assert {field.name for field in fields(InnerLoop)} == set(OTHER_LOOPS)  # a new option needs a line here


def test_rubric_and_query_writer_count_only_where_they_are_used():
    parts = {"rubric": Rubric(attempts=9)}, {"query_writer": QueryWriter(count=2)}
    assert {stamp(**part) for part in parts} == {stamp()}
    for plan, part in zip((replace(PLAN, score_by="rubric"), replace(PLAN, queries="own")), parts, strict=True):
        assert stamp(plan=plan) != stamp(plan=plan, **part)


class Half:
    """Trials of a user's own."""

    def __init__(self, share=0.5) -> None:
        self.share = share

    def run(self, parts, unit, attempts):
        raise NotImplementedError


def test_trials_of_a_users_own_are_in_the_stamp():
    step = replace(e_step(), plan=PLAN)
    stamps = [
        make_stamp(replace(step, trials=trials), ((LAMP,),), chat=False, base="b", policy="p")
        for trials in (step.trials, Half(), Half(0.25))
    ]
    assert not any(key.startswith("trials") for key in stamps[0])
    assert [made["trials.share"] for made in stamps[1:]] == [0.5, 0.25]
    assert any(key.startswith("code.") and key not in stamps[0] for key in stamps[1])


def test_plan_contexts_base_and_policy_change_the_stamp():
    tarn = replace(LAMP, id="tarn")
    stamps = [
        stamp(),
        stamp(plan=replace(PLAN, edits=3)),
        stamp(plan=replace(PLAN, repeats=3)),
        stamp(plan=replace(PLAN, passage_only=True)),
        stamp(units=((LAMP, tarn),)),
        stamp(units=((LAMP,), (tarn,))),
        stamp(units=((replace(LAMP, passage="Another."),),)),
        stamp(units=((replace(LAMP, queries=(Query("What?", ("oil", "kelp")),)),),)),
        stamp(units=((replace(LAMP, edits=("Oil.",)),),)),
        stamp(policy="q"),
        stamp(base="c"),
        stamp(chat=True),
    ]
    assert len(set(stamps)) == len(stamps)


def test_equal_settings_have_equal_stamps_without_memory_addresses():
    assert stamp() == stamp()
    for name, step in OTHER_STEPS.items():
        assert not re.search(r"0x[0-9a-f]{6}", stamp(step)), name
    grader = {name: value for name, value in json.loads(stamp()).items() if name.startswith("grader")}
    assert grader == {"grader.class": "seal_lightning.grading.lexical.Recall", "grader.threshold": 0.75}


# -- a user's own parts ------------------------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Own:
    """A grader or sampler as a user may write it."""

    def __init__(self, **options) -> None:
        self.__dict__.update(options)


class Slotted:
    """Nothing to read, and its text is a memory address."""

    __slots__ = ()


def test_an_object_is_its_class_and_its_public_attributes():
    described = describe(Own(rate=0.5, names=("a", "b"), inner=Own(depth=1), nothing=None, _cache={"x": object()}))
    name = f"{Own.__module__}.Own"
    assert described == {
        "class": name,
        "rate": 0.5,
        "names": ["a", "b"],
        "inner": {"class": name, "depth": 1},
        "nothing": None,
    }


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Path("a.json"), Path("b.json")),
        ({"b", "a"}, {"b", "c"}),
        (frozenset([1]), frozenset([2])),
        (MappingProxyType({"a": 1}), MappingProxyType({"a": 2})),
        (Colour.RED, Colour.BLUE),
        (torch.float32, torch.bfloat16),
        (re.compile("a"), re.compile("b")),
        (str.upper, str.lower),
        (Own, Slotted),
        (len, max),
        (b"a", b"b"),
        (2 + 1j, 2 - 1j),
        (range(3), range(4)),
    ],
)
def test_options_of_every_kind_are_told_apart(one, other):
    described = json.dumps(describe(Own(option=one)))
    assert described == json.dumps(describe(Own(option=one)))
    assert described != json.dumps(describe(Own(option=other)))
    assert not re.search(r"0x[0-9a-f]{6}", described)


def test_what_has_only_an_address_is_its_class():
    assert describe(Slotted()) == {"class": f"{Slotted.__module__}.Slotted"}
    assert describe(object()) == {"class": "builtins.object"}
    assert describe(Own(call=lambda: None)) == describe(Own(call=lambda: None))


def test_sets_have_a_fixed_order():
    assert describe(set("lantern")) == ["a", "e", "l", "n", "r", "t"]
