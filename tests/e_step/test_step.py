"""The E-step on one unit: what is tried in which order, what is recorded, and what it does not depend on."""

from dataclasses import replace

import pytest
import torch

from seal_lightning.e_step.own_queries import QueryWriter
from seal_lightning.e_step.plan import Plan
from seal_lightning.e_step.race_rule import Racing
from seal_lightning.e_step.step import EStep
from seal_lightning.e_step.variants import step_for
from seal_lightning.errors import ConfigError, GradingError, ModelError
from seal_lightning.grading import Answer, Contains, Judge, Reward, Rubric
from seal_lightning.inner_loop.loop import InnerLoop
from seal_lightning.m_step.selection import group_rollouts
from seal_lightning.models.random_models import build_tiny
from seal_lightning.policy.policy import Policy
from seal_lightning.progress.clock import Progress
from seal_lightning.sampling import LocalAnswerer, LocalSampler, PolicyWriter, Sample, Sampler
from seal_lightning.sampling.generation import generate
from seal_lightning.seeding import derive_seed
from seal_lightning.tasks import DirectiveLimits, EditKind, Knowledge
from seal_lightning.tasks.rule_based.writer import write_by_rule
from seal_lightning.types import Context, Prompt, Query, Written

LAMP = Context(
    id="lamp",
    title="Lamp",
    passage="The lamp burns oil.",
    queries=(Query("What burns?", ("oil",)), Query("Where is it?", ("Vessel", "the tower"))),
)
TARN = Context(id="tarn", title="Tarn", passage="A tarn is a lake.", queries=(Query("What is a tarn?", ("a lake",)),))
INNER = InnerLoop(rank=2, alpha=4.0, epochs=2, learning_rate=0.01)


class Fixed(Sampler):
    """Writes texts by context and index, and remembers what it was asked for."""

    def __init__(self, **texts: list[str]) -> None:
        self.texts = texts
        self.requests: list = []

    def sample(self, policy, requests, *, on_done=lambda count: None):
        self.requests += requests
        on_done(len(requests))
        return [Sample(self.texts[r.context.id][r.index], len(r.prompt), 7) for r in requests]


class Counting(Knowledge):
    """Counts how often a query was turned into a prompt, which is done once for each answer."""

    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.asked: list[str] = []

    def query_prompt(self, query, context):
        self.asked.append(query.question)
        return super().query_prompt(query, context)


def fixed() -> Fixed:
    return Fixed(lamp=["Oil burns in it.\nIt stands in a tower.", " \n"], tarn=["A tarn is small.", "It is a lake."])


def tiny(**options) -> Policy:
    model, tokenizer = build_tiny("llama", **options)
    return Policy(model.requires_grad_(False), tokenizer, chat=False)


def e_step(**parts) -> EStep:
    chosen = {"task": Knowledge(), "sampler": fixed(), "inner_loop": INNER, "grader": Contains(), "reward": Reward()}
    return EStep(**{**chosen, "max_answer_tokens": 8, **parts})


def run(step: EStep, contexts=(LAMP, TARN), *, plan=Plan(edits=2, repeats=2), round=0, policy=None, **options):
    return replace(step, plan=plan).run(policy or tiny(), contexts, round=round, **options)


def without_seconds(rollouts):
    return [replace(rollout, seconds={}) for rollout in rollouts]


# -- order and records -------------------------------------------------------------------------------------------------


def test_one_rollout_for_every_context_edit_and_repeat():
    rollouts = run(e_step(), plan=Plan(edits=2, repeats=3))
    assert [(r.context_id, r.edit_index, r.repeat, r.status) for r in rollouts] == [
        ("lamp", 0, 0, "ok"), ("lamp", 0, 1, "ok"), ("lamp", 0, 2, "ok"),
        ("lamp", 1, 0, "rejected"), ("lamp", 1, 1, "rejected"), ("lamp", 1, 2, "rejected"),
        ("tarn", 0, 0, "ok"), ("tarn", 0, 1, "ok"), ("tarn", 0, 2, "ok"),
        ("tarn", 1, 0, "ok"), ("tarn", 1, 1, "ok"), ("tarn", 1, 2, "ok"),
    ]  # fmt: skip
    assert {r.kind for r in rollouts} == {"edit"}
    assert len({r.seed for r in rollouts}) == 12


def test_seconds_are_shared_by_the_tokens_that_they_were_spent_on():
    rollouts = run(e_step(), plan=Plan(edits=2, repeats=1, passage_only=True))
    for phase, purpose in (("inner loop", "trained"), ("answering", "answers"), ("sampling", "edit")):
        counts = [rollout.tokens.get(purpose, 0) for rollout in rollouts]
        seconds = [rollout.seconds[phase] for rollout in rollouts]
        assert len(set(counts)) > 1 and min(counts) == 0  # the rejected edit, and the passage
        assert seconds == pytest.approx([sum(seconds) * count / sum(counts) for count in counts])
    assert len({rollout.seconds["baseline"] for rollout in rollouts}) == 1


def test_what_a_rollout_records():
    step = e_step(reward=Reward("gain"), seed=5)
    policy = tiny()
    (rollout, *_) = run(step, (LAMP,), plan=Plan(edits=1, repeats=1), round=3, policy=policy)
    assert (rollout.round, rollout.context_id, rollout.edit_index, rollout.repeat) == (3, "lamp", 0, 0)
    assert rollout.seed == derive_seed("adapter", 5, 3, "lamp", 0, 0)
    assert step.sampler.requests[0].seed == derive_seed("edit", 5, 3, "lamp", 0)
    assert rollout.prompt == policy.format(step.task.prompt(LAMP))
    assert rollout.text == "Oil burns in it.\nIt stands in a tower."
    assert rollout.questions == ("What burns?", "Where is it?")
    assert rollout.golds == (("oil",), ("Vessel", "the tower"))
    assert len(rollout.answers) == len(rollout.baseline_answers) == 2
    assert (rollout.asked, rollout.applied, rollout.reason) == ({}, {}, "")
    assert rollout.steps == 6  # two lines and the passage, two epochs
    lines = ("Lamp\nOil burns in it.", "Lamp\nIt stands in a tower.", "Lamp\nThe lamp burns oil.")
    assert rollout.tokens["trained"] == 2 * sum(len(line) + 1 for line in lines)
    assert (rollout.tokens["prompt"], rollout.tokens["edit"]) == (len(rollout.prompt), 7)
    assert 0 < rollout.tokens["answers"] <= 16
    assert set(rollout.seconds) == {"baseline", "sampling", "inner loop", "answering", "grading"}
    assert (rollout.terms, rollout.retention, rollout.usage) == ({"gain": rollout.gain}, None, {})
    assert all(spent > 0 for spent in rollout.seconds.values())


def test_scores_are_the_graders():
    class Length(Contains):
        """Scores in a way that differs for every answer."""

        def grade(self, *, question, golds, answer):
            return len(answer.encode()) / 100 + len(golds) / 10

    (rollout, *_) = run(e_step(grader=Length(), reward=Reward({"score": 2.0, "gain": 1.0})), (LAMP,))
    for answers, scores in ((rollout.baseline_answers, rollout.baseline_scores), (rollout.answers, rollout.scores)):
        assert scores == tuple(
            len(answer.encode()) / 100 + golds / 10 for answer, golds in zip(answers, (1, 2), strict=True)
        )
    assert rollout.baseline == pytest.approx(sum(rollout.baseline_scores) / 2)
    assert rollout.score == pytest.approx(sum(rollout.scores) / 2)
    assert rollout.gain == pytest.approx(rollout.score - rollout.baseline)
    assert rollout.reward == pytest.approx(2 * rollout.score + rollout.gain)
    assert rollout.answers != rollout.baseline_answers


def test_the_baseline_is_answered_once_a_context_without_an_adapter():
    task, policy = Counting(), tiny()
    rollouts = run(e_step(task=task), plan=Plan(edits=2, repeats=3), policy=policy)
    trained = {"lamp": 3, "tarn": 6}  # lamp's second edit is rejected
    assert task.asked.count("What burns?") == 1 + trained["lamp"]
    assert task.asked.count("What is a tarn?") == 1 + trained["tarn"]
    prompts = [policy.encode(policy.format(Knowledge().query_prompt(query, LAMP))) for query in LAMP.queries]
    plain = [generate(policy, [prompt], max_new_tokens=8)[0] for prompt in prompts]
    wanted = tuple(task.read_answer(policy.tokenizer.decode(row, skip_special_tokens=True)) for row in plain)
    assert {r.baseline_answers for r in rollouts if r.context_id == "lamp"} == {wanted}


def test_a_grader_that_fails_stops_the_unit():
    class Down(Contains):
        def grade(self, *, question, golds, answer):
            raise GradingError("the judge does not reply")

    with pytest.raises(GradingError, match="the judge does not reply"):
        run(e_step(grader=Down()), (TARN,))


# -- rejected edits ----------------------------------------------------------------------------------------------------


def test_a_rejected_edit_trains_nothing_and_answers_as_before():
    task = Counting()
    step = e_step(task=task, grader=_Half())
    rollouts = run(step, (LAMP,), plan=Plan(edits=2, repeats=2))
    rejected = [r for r in rollouts if r.status == "rejected"]
    assert [(r.edit_index, r.repeat, r.reason, r.text) for r in rejected] == [
        (1, 0, "empty text", " \n"),
        (1, 1, "empty text", " \n"),
    ]
    for rollout in rejected:
        assert rollout.reward is None
        assert (rollout.score, rollout.baseline, rollout.gain) == (0.5, 0.5, 0.0)
        assert (rollout.answers, rollout.scores, rollout.steps) == ((), (), 0)
        assert rollout.baseline_scores == (0.5, 0.5)
        assert rollout.tokens == {"prompt": len(rollout.prompt), "edit": 7}
    assert len(task.asked) == 2 * (1 + 2)


class _Half(Contains):
    def grade(self, *, question, golds, answer):
        return 0.5


def test_a_unit_of_rejected_edits_alone():
    step = e_step(sampler=Fixed(lamp=["", "---"], tarn=["", "1."]))
    rollouts = run(step)
    assert [(r.context_id, r.reason, r.reward, r.steps) for r in rollouts[::2]] == [
        ("lamp", "empty text", None, 0),
        ("lamp", "no lines to train on", None, 0),
        ("tarn", "empty text", None, 0),
        ("tarn", "no lines to train on", None, 0),
    ]
    assert all(set(r.seconds) == {"baseline", "sampling", "grading"} for r in rollouts)


# -- passage only, directives, writing alone ---------------------------------------------------------------------------


def test_passage_only_comes_first_and_once_a_context():
    rollouts = run(e_step(), plan=Plan(edits=2, repeats=1, passage_only=True))
    assert [(r.context_id, r.kind, r.edit_index, r.repeat) for r in rollouts] == [
        ("lamp", "passage", -1, 0), ("lamp", "edit", 0, 0), ("lamp", "edit", 1, 0),
        ("tarn", "passage", -1, 0), ("tarn", "edit", 0, 0), ("tarn", "edit", 1, 0),
    ]  # fmt: skip
    passage = rollouts[0]
    assert (passage.status, passage.text, passage.prompt, passage.steps) == ("ok", "", "", 2)
    assert passage.seed == derive_seed("adapter", 0, 0, "lamp", "passage", 0)
    assert passage.tokens["trained"] == 2 * (len("Lamp\nThe lamp burns oil.") + 1)
    assert len(passage.answers) == 2 and passage.reward is not None


def test_a_written_edit_of_the_data_is_trained_once_beside_the_sampled_ones():
    lamp = replace(LAMP, edits=("Oil burns.", "never read"))
    rollouts = run(e_step(), (lamp, TARN), plan=Plan(edits=1, repeats=1, passage_only=True, written=True))
    assert [(r.context_id, r.kind, r.text) for r in rollouts] == [
        ("lamp", "passage", ""), ("lamp", "written", "Oil burns."), ("lamp", "edit", rollouts[2].text),
        ("tarn", "passage", ""), ("tarn", "edit", rollouts[4].text),
    ]  # fmt: skip
    assert rollouts[1].steps == 2 * 2 and rollouts[1].reward is not None


def test_directives_are_recorded_as_asked_and_as_applied():
    text = 'Oil burns in it.\n{"epochs": 50, "learning_rate": 0.002, "note": "fast"}'
    step = e_step(task=Knowledge(directives=DirectiveLimits(epochs=(1, 4))), sampler=Fixed(lamp=[text]))
    (rollout,) = run(step, (LAMP,), plan=Plan(edits=1, repeats=1))
    assert rollout.asked == {"epochs": 50, "learning_rate": 0.002, "note": "fast"}
    assert rollout.applied == {"epochs": 4, "learning_rate": 0.002}
    assert rollout.steps == 2 * 4  # one line and the passage
    assert rollout.text == text


def test_layers_that_the_model_does_not_have_are_not_recorded_as_applied():
    texts = ['Oil burns in it.\n{"layers": "0"}', 'Oil burns in it.\n{"layers": "70-79"}']
    limits = DirectiveLimits(layers=("depth",))
    step = e_step(task=Knowledge(directives=limits), sampler=Fixed(lamp=texts))
    first, second = run(step, (LAMP,), plan=Plan(edits=2, repeats=1))
    assert (first.asked, first.applied) == ({"layers": "0"}, {"layers": "0"})
    assert (second.asked, second.applied) == ({"layers": "70-79"}, {})
    assert second.status == "ok" and first.steps == second.steps > 0


def test_writing_edits_adapts_nothing():
    policy = tiny()
    before = {name: value.clone() for name, value in policy.model.state_dict().items()}
    rollouts = replace(e_step(), plan=Plan(edits=2, repeats=1)).write_edits(policy, (LAMP, TARN), round=1)
    assert [(r.context_id, r.edit_index, r.status, r.text) for r in rollouts] == [
        ("lamp", 0, "ok", "Oil burns in it.\nIt stands in a tower."),
        ("lamp", 1, "rejected", " \n"),
        ("tarn", 0, "ok", "A tarn is small."),
        ("tarn", 1, "ok", "It is a lake."),
    ]
    assert all((r.answers, r.baseline_answers, r.reward, r.steps, r.score) == ((), (), None, 0, 0.0) for r in rollouts)
    assert all(torch.equal(value, before[name]) for name, value in policy.model.state_dict().items())


# -- what a unit does not depend on ------------------------------------------------------------------------------------


def test_a_unit_run_twice_gives_the_same_rollouts_and_leaves_the_policy_alone():
    policy = tiny()
    before = {name: value.clone() for name, value in policy.model.state_dict().items()}
    step = e_step(sampler=LocalSampler(max_new_tokens=40))
    first = run(step, policy=policy)
    torch.manual_seed(123)
    assert without_seconds(run(step, policy=policy)) == without_seconds(first)
    assert without_seconds(run(step, policy=tiny())) == without_seconds(first)
    assert all(torch.equal(value, before[name]) for name, value in policy.model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in policy.model.parameters())


def test_round_and_seed_change_what_is_sampled_and_how_adapters_start():
    def drawn(seed, round):
        rollouts = run(e_step(sampler=LocalSampler(max_new_tokens=12), seed=seed), (TARN,), round=round)
        return {r.text for r in rollouts}, {r.seed for r in rollouts}

    draws = [drawn(0, 0), drawn(1, 0), drawn(0, 1)]
    for kind in (0, 1):
        seen = [draw[kind] for draw in draws]
        assert len(set.union(*seen)) == sum(map(len, seen))


@pytest.mark.parametrize("max_adapters", [1, 3])
def test_rollouts_do_not_depend_on_how_many_adapters_train_together(max_adapters):
    wanted = run(e_step())
    got = run(e_step(inner_loop=replace(INNER, max_adapters=max_adapters), answerer=LocalAnswerer(2)))
    for one, other in zip(wanted, got, strict=True):
        assert replace(one, seconds={}) == replace(other, seconds={})
    assert len({r.answers for r in wanted if r.context_id == "tarn"}) > 1  # adapters do differ


def test_rollouts_of_a_context_do_not_depend_on_its_unit():
    together = run(e_step())
    alone = [*run(e_step(), (LAMP,)), *run(e_step(), (TARN,))]
    assert without_seconds(together) == without_seconds(alone)


# -- progress, limits, options -----------------------------------------------------------------------------------------


def test_progress_adds_up_in_every_phase():
    seen: list[Progress] = []
    rollouts = run(e_step(inner_loop=replace(INNER, max_adapters=4)), report=seen.append)
    ends = [
        step for step, after in zip(seen, [*seen[1:], None], strict=True) if after is None or after.phase != step.phase
    ]
    # six adapters in four slots: two of lamp (6 steps each) and four of tarn (4 each)
    assert [(step.phase, step.done, step.total) for step in ends] == [
        ("baseline", 3, 3),
        ("sampling", 4, 4),
        ("inner loop", 28, 28),
        ("answering", 8, 8),
        ("grading", 11, 11),
    ]
    assert sum(r.steps for r in rollouts) == 28


def test_a_context_that_does_not_fit_the_window_is_named():
    step, policy = e_step(), tiny(max_positions=512)
    step.check_fits(policy, [LAMP, TARN])
    long = replace(TARN, id="long", title="Long one", passage="word " * 60)
    tokens = len(policy.format(step.task.prompt(long)))
    assert tokens > 504
    said = (
        rf"context 'long' \('Long one'\): its longest prompt has {tokens} tokens, which with 8 for the answer exceeds "
        r"the model's window of 512; shorten or split the passage, or use a model with a longer window"
    )
    with pytest.raises(ModelError, match=said):
        step.check_fits(policy, [LAMP, long])
    question = replace(TARN, id="query", queries=(Query("why " * 130, ("so",)),))
    with pytest.raises(ModelError, match=r"context 'query'"):
        step.check_fits(policy, [question])


# -- other ways to score -----------------------------------------------------------------------------------------------


def test_retention_is_the_change_on_other_contexts_queries():
    class Erratic(Contains):
        """Another score for every answer."""

        def grade(self, *, question, golds, answer):
            return sum(map(ord, answer)) % 97 / 97

    plan = Plan(edits=2, repeats=1, carry_over_queries=5)
    task = Counting()
    rollouts = run(e_step(task=task, grader=Erratic(), reward=Reward("carry_over")), plan=plan)
    trained = {"lamp": 1, "tarn": 2}
    assert task.asked.count("What is a tarn?") == 1 + trained["tarn"] + trained["lamp"]  # baseline, own, others'
    assert task.asked.count("What burns?") == 1 + trained["lamp"] + trained["tarn"]
    of_lamp, rejected, *of_tarn = rollouts
    assert (rejected.status, rejected.retention, rejected.reward) == ("rejected", None, None)
    for rollout in (of_lamp, *of_tarn):
        assert rollout.reward == rollout.terms["carry_over"] == rollout.retention
        assert len(rollout.answers) == len(rollout.questions)
    assert any(rollout.retention for rollout in (of_lamp, *of_tarn))


def test_a_lone_context_forgets_nothing():
    plan = Plan(edits=1, repeats=1, carry_over_queries=2)
    (rollout,) = run(e_step(reward=Reward({"score": 1.0, "carry_over": 1.0})), (TARN,), plan=plan)
    assert rollout.terms["carry_over"] == rollout.retention == 0.0


@pytest.mark.parametrize(
    "options",
    [{"repeats": 3}, {"passage_only": True}, {"written": True}, {"queries": "own"}, {"carry_over_queries": 1}],
)
def test_a_rubric_asks_and_adapts_nothing(options):
    with pytest.raises(ConfigError, match=f"{next(iter(options))} must be .* where score_by is rubric"):
        Plan(**{"repeats": 1, "score_by": "rubric", **options})


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (
            Plan(racing=Racing()),
            r"^racing of a plan must be None in a plain EStep, got Racing\(.*step_for\(plan, e_step",
        ),
        (Plan(repeats=1, score_by="rubric"), "^score_by of a plan must be 'queries' in a plain EStep, got 'rubric': "),
        (Plan(queries="own"), "^queries of a plan must be 'data' in a plain EStep, got 'own': "),
    ],
)
def test_a_plain_step_refuses_a_plan_that_it_would_not_follow(plan, message):
    with pytest.raises(ConfigError, match=message):
        e_step(plan=plan)
    assert step_for(plan, e_step()).plan == plan


def test_a_rubric_marks_edits_without_adapting():
    task = Counting()
    rubric = Rubric(criteria={"faithful": "all is true", "short": "it is short"})
    step = step_for(Plan(edits=2, repeats=1, score_by="rubric"), e_step(task=task), rubric=rubric)
    seen: list[Progress] = []
    rollouts = run(step, plan=step.plan, report=seen.append)
    assert task.asked == []
    ok = [rollout for rollout in rollouts if rollout.status == "ok"]
    assert len(ok) == 3
    for rollout in ok:
        marks = [rollout.terms["rubric faithful"], rollout.terms["rubric short"]]
        assert rollout.reward == rollout.score == pytest.approx(sum(marks) / 2)
        assert 0 < rollout.score < 1 and rollout.steps == 0 and rollout.answers == rollout.questions == ()
    assert [rollout.reward for rollout in rollouts if rollout.status == "rejected"] == [None]
    assert seen[-1] == Progress("rubric", 3, 3, event="end")
    assert run(step, plan=step.plan)[0].terms == rollouts[0].terms


def test_own_queries_take_the_place_of_those_of_the_data(monkeypatch):
    texts = {"Lamp": "Question: What does the lamp burn?\nAnswer: oil", "Tarn": "No question comes to mind."}

    def write(self, prompts, *, max_tokens):
        return [Written(next(text for title, text in texts.items() if f"Title: {title}" in p.user)) for p in prompts]

    monkeypatch.setattr(PolicyWriter, "write", write)
    task = Counting()
    own = Plan(edits=1, repeats=1, queries="own")
    step = step_for(own, e_step(task=task), query_writer=QueryWriter(check=False))
    rollouts = run(step, plan=own)
    lamp, tarn = rollouts
    assert (lamp.questions, lamp.golds, lamp.status) == (("What does the lamp burn?",), (("oil",),), "ok")
    assert len(lamp.answers) == len(lamp.scores) == 1 and lamp.reward is not None
    assert (tarn.status, tarn.reason, tarn.reward) == ("rejected", "no own query passed the filters", None)
    assert [request.context.id for request in step.sampler.requests] == ["lamp"]  # nothing is written in vain
    assert set(task.asked) == {"What does the lamp burn?"}  # no human question was looked at


def test_a_judge_without_an_endpoint_asks_the_policy():
    step = e_step(grader=Judge())
    (rollout, *_) = run(step, (LAMP,), plan=Plan(edits=1, repeats=1))
    assert set(rollout.scores) <= {0.0, 1.0}
    verdicts = Judge().verdicts([Answer("What burns?", ("oil",), "oil"), Answer("?", ("a",), " ")], policy=WRITER)
    assert 0 < verdicts[0].probability < 1 and (verdicts[1].score, verdicts[1].probability) == (0.0, 0.0)


WRITER = PolicyWriter(tiny())


def test_the_policy_chooses_by_likelihood_whatever_the_batch():
    prompts = [Prompt("Is oil wet?", lead="\nVerdict:"), Prompt("Is a lamp a much longer animal?", lead="\nVerdict:")]
    together = WRITER.choose(prompts, ("no", "yes", "perhaps"))
    alone = [PolicyWriter(WRITER.policy, 1).choose([prompt], ("no", "yes", "perhaps"))[0] for prompt in prompts]
    for one, other in zip(together, alone, strict=True):
        assert sum(one) == pytest.approx(1.0)
        assert one == pytest.approx(other, abs=1e-5)


def test_the_plan_is_checked():
    with pytest.raises(ConfigError, match="edits must be a whole number of at least 1, got 0"):
        Plan(edits=0)
    with pytest.raises(ConfigError, match="repeats must be a whole number of at least 1, got -1"):
        Plan(repeats=-1)


# -- several kinds of self-edit ----------------------------------------------------------------------------------------

SHOUT = EditKind("Shout: {passage}", parser="whole", name="shout")


def test_kinds_take_turns_each_asked_and_read_in_its_own_way():
    texts = ["Oil burns.\nIt stands.", "OIL!\nOIL!", "Q: What?\nA: Oil.", "A lamp.\nOil."]
    step = e_step(task=Knowledge(kinds=["facts", SHOUT, "self-qa"], append_passage=False), sampler=Fixed(lamp=texts))
    policy = tiny()
    rollouts = run(step, (LAMP,), plan=Plan(edits=4, repeats=1, passage_only=True), policy=policy)
    assert [one.edit_kind for one in rollouts] == ["", "facts", "shout", "self-qa", "facts"]
    kinds = ("facts", SHOUT, "self-qa", "facts")
    wanted = [Knowledge(edit=kind).prompt(LAMP) for kind in kinds]
    assert [one.prompt for one in rollouts[1:]] == [policy.format(prompt) for prompt in wanted]
    assert [request.message for request in step.sampler.requests] == wanted
    assert [one.steps for one in rollouts[1:]] == [4, 2, 2, 4]  # two lines, the whole, one pair, two lines; two epochs
    assert [outcome.edit_kind for outcome in group_rollouts(rollouts)[0].outcomes] == [
        "facts",
        "shout",
        "self-qa",
        "facts",
    ]


def test_one_of_several_kinds_is_what_that_kind_alone_is():
    """Seeds depend on the place of an edit, not on kinds."""
    sampler = LocalSampler(max_new_tokens=12)
    several = run(e_step(task=Knowledge(kinds=["facts", "self-qa"]), sampler=sampler), plan=Plan(edits=2, repeats=1))
    alone = run(e_step(task=Knowledge(edit="facts"), sampler=sampler), plan=Plan(edits=2, repeats=1))
    first = [
        [replace(one, edit_kind="", similarity=None) for one in without_seconds(some)[::2]] for some in (several, alone)
    ]
    assert first[0] == first[1]
    single = run(e_step(task=Knowledge(kinds=["facts"]), sampler=sampler), plan=Plan(edits=2, repeats=1))
    assert [replace(one, edit_kind="") for one in without_seconds(single)] == without_seconds(alone)


def test_every_kind_has_to_fit_into_the_window():
    policy = tiny()
    long = EditKind("Read this. " * 400 + "{passage}")
    e_step(task=Knowledge(edit="facts")).check_fits(policy, [LAMP])
    with pytest.raises(ModelError, match="exceeds the model's window"):
        e_step(task=Knowledge(kinds=["facts", long])).check_fits(policy, [LAMP])


def test_the_diversity_of_a_context_is_a_term_of_the_reward():
    texts = {"lamp": ["Oil burns.", "Oil burns.", "It stands there.", " "], "tarn": ["A lake."] * 4}
    step = e_step(sampler=Fixed(**texts), reward=Reward({"diversity": 1.0, "score": 0.0}))
    plan = Plan(edits=4, repeats=2, passage_only=True)
    whole = run(step, plan=plan)
    rewards = {(one.context_id, one.edit_index): one.reward for one in whole}
    assert rewards["lamp", -1] == 1.0 and rewards["lamp", 3] is None
    assert rewards["lamp", 0] == rewards["lamp", 1] < rewards["lamp", 2]
    assert [rewards["tarn", index] for index in range(4)] == [0.0] * 4
    units = step.__class__(**{**vars(step), "plan": plan}).run_together(tiny(), [(LAMP,), (TARN,)], round=0)
    assert [one.similarity for unit in units for one in unit] == [one.similarity for one in whole]


# -- edits by rule -----------------------------------------------------------------------------------------------------


def test_what_rules_write_is_not_asked_of_the_sampler():
    step = e_step(task=Knowledge(kinds=["facts", "rules"]), sampler=Fixed(lamp=["Oil burns.", "never asked for"]))
    first, second = run(step, (LAMP,), plan=Plan(edits=2, repeats=1))
    assert [request.index for request in step.sampler.requests] == [0]
    assert (first.text, second.text) == ("Oil burns.", write_by_rule(LAMP))
    assert (second.edit_kind, second.status) == ("rules", "ok")
    assert second.reward is not None and second.steps > first.steps


def test_rules_alone_need_no_sampler():
    step = e_step(task=Knowledge(edit="rules"), sampler=Fixed())
    texts = [rollout.text for rollout in run(step, (LAMP, TARN), plan=Plan(edits=3, repeats=1))]
    assert texts == [write_by_rule(context, index) for context in (LAMP, TARN) for index in range(3)]
    assert step.sampler.requests == []


def test_a_passage_about_which_rules_write_may_be_longer_than_the_window():
    long = replace(LAMP, passage="A lamp burns oil. " * 400)
    with pytest.raises(ModelError, match="its longest prompt has"):
        e_step(task=Knowledge(kinds=["facts", "rules"])).check_fits(tiny(), [long])
    e_step(task=Knowledge(edit="rules")).check_fits(tiny(), [long])
