"""What adapters are trained towards: exact beside other adapters, and shared where it is the same."""

from dataclasses import replace

import plain_peft
import pytest
import torch
from torch.nn import functional

from seal_lightning.errors import ConfigError
from seal_lightning.inner_loop.bank import bank_lora
from seal_lightning.inner_loop.loop import InnerLoop
from seal_lightning.inner_loop.loss import HeadLoss
from seal_lightning.inner_loop.objectives import OBJECTIVES, Distillation, InnerObjective
from seal_lightning.inner_loop.packing import PackedSequence, pad
from seal_lightning.inner_loop.teacher import Teacher
from seal_lightning.models.random_models import build_tiny
from seal_lightning.policy.policy import Policy
from seal_lightning.tasks import Knowledge
from seal_lightning.types import AdapterJob, Context, Directives, Prompt, TrainingSequence

LOOP = {"rank": 4, "alpha": 8, "target_modules": "all-linear", "learning_rate": 5e-3, "epochs": 3, "batch_size": 2}
SOURCE = Prompt(user="A lamp of copper burned by the tarn until dawn.", lead="\n\nSo:\n")
OTHER = Prompt(user="Barley and kelp are sold in the market.", lead="\n\n")
JOBS = [
    AdapterJob(
        (
            TrainingSequence("Lamps\nThe lamp is old.", heading="Lamps\n", source=SOURCE),
            TrainingSequence("It is made of copper.", source=SOURCE),
            TrainingSequence("The tarn is deep.", source=SOURCE),
        ),
        seed=1,
    ),
    AdapterJob((TrainingSequence(" Kelp.", prompt="What is sold?", source=OTHER),), seed=2),
    AdapterJob((TrainingSequence("The lamp is old.", source=SOURCE),), seed=3),
]


def frozen(family):
    model, tokenizer = build_tiny(family)
    model.requires_grad_(False)
    return Policy(model, tokenizer, chat=False)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])  # the last has no plain output layer
@pytest.mark.parametrize("objective", ["distill", {"sft": 0.5, "distill": 2.0}], ids=["distill", "both"])
def test_together_equals_alone(family, objective):
    policy, loop = frozen(family), InnerLoop(**LOOP, objective=objective, max_tokens=90)
    trained = loop.adapt(policy, JOBS)
    for number, job in enumerate(JOBS):
        model, tokenizer = build_tiny(family)
        layers = [target.name for target in trained.bank.targets]
        alone = plain_peft.fresh_adapter(model, layers, rank=4, alpha=8, seed=job.seed)
        loss = plain_peft.train(alone, tokenizer, loop, job)
        state, expected = bank_lora(trained.bank, number).state, plain_peft.trained_weights(alone)
        assert max((state[name] - expected[name]).abs().max().item() for name in state) <= 1e-4
        assert trained.stats[number].loss == pytest.approx(loss, rel=1e-4)
        assert max(value.abs().max().item() for name, value in state.items() if "lora_B" in name) > 1e-3


def test_a_directive_chooses_what_its_adapter_is_trained_towards():
    """Beside others, which are trained towards something else."""
    policy = frozen("llama")
    asked = [
        replace(job, directives=Directives(objective=name))
        for job, name in zip(JOBS, ("distill", None, "sft"), strict=True)
    ]
    mixed = InnerLoop(**LOOP).adapt(policy, asked)
    for number, name in enumerate(("distill", "sft", "sft")):
        alone = InnerLoop(**LOOP, objective=name).adapt(policy, [JOBS[number]])
        assert (mixed.bank.parameters[number] - alone.bank.parameters[0]).abs().max() <= 1e-5
        assert mixed.stats[number].loss == pytest.approx(alone.stats[0].loss, rel=1e-5)


def test_distilling_brings_the_model_to_what_it_says_with_the_source():
    policy, loop = frozen("llama"), InnerLoop(**{**LOOP, "epochs": 40}, objective="distill")
    trained, sequence = loop.adapt(policy, JOBS[:1]), JOBS[0].training_sequences[1]
    wanted = plain_peft.told(sequence, policy.tokenizer)
    start = policy.encode(policy.format(SOURCE))

    def said(before):
        with torch.no_grad():
            return (
                policy.model(input_ids=torch.tensor([[*before, *wanted]])).logits[0, -len(wanted) : -1].log_softmax(-1)
            )

    teacher, before = said(start), said([])
    with trained.answering([0]):
        after = said([])
    gap = [functional.kl_div(mine, teacher, log_target=True, reduction="sum").item() for mine in (before, after)]
    assert gap[1] < 0.3 * gap[0]


def test_what_several_adapters_train_on_is_asked_once(monkeypatch):
    """Ten sequences, of which five are repeats; without a heading the first token is read, not asked about."""
    asked, prepare = [], Teacher.prepare

    def noted(teacher, sequences, **options):
        before = set(teacher._said)
        prepare(teacher, sequences, **options)
        asked.append(len(set(teacher._said) - before))

    monkeypatch.setattr(Teacher, "prepare", noted)
    InnerLoop(**LOOP, objective="distill").adapt(frozen("llama"), [*JOBS, *JOBS])
    assert sum(asked) == 5 and len(asked) > 3


def test_a_model_without_a_plain_output_layer_is_asked_at_every_step():
    policy = frozen("gemma2")
    loss = HeadLoss(policy.model, adapted=set())
    assert not Teacher(policy.model, loss, None).keeps
    assert loss.states(pad([PackedSequence(0, [5, 6, 7], 1, 1.0)])).shape == (2, policy.model.config.vocab_size)


class Squared(InnerObjective):
    """Squared distance of logits to the teacher's, with gradients of autograd."""

    from_teacher = True

    def losses(self, logits, targets, teacher):
        return ((logits - teacher) ** 2).mean(-1)


def test_an_objective_of_ones_own_is_trained_towards():
    policy = frozen("llama")
    trained = InnerLoop(**{**LOOP, "epochs": 20}, objective=Squared()).adapt(policy, JOBS)
    first = InnerLoop(**{**LOOP, "epochs": 1}, objective=Squared()).adapt(policy, JOBS)
    assert all(late.loss < 0.8 * early.loss for late, early in zip(trained.stats, first.stats, strict=True))


@pytest.mark.parametrize("objective", [*OBJECTIVES.values(), Distillation(temperature=2.0)])
def test_gradients_of_the_built_in_ones_are_those_of_autograd(objective):
    draw = torch.Generator().manual_seed(0)
    logits, teacher = torch.randn(5, 9, generator=draw), torch.randn(5, 9, generator=draw)
    targets = torch.randint(9, (5,), generator=draw)
    losses, gradients = objective.with_gradients(logits.clone(), targets, teacher.clone())
    wanted, by_autograd = InnerObjective.with_gradients(objective, logits, targets, teacher)
    torch.testing.assert_close(losses, wanted)
    torch.testing.assert_close(gradients, by_autograd)


def test_a_teachers_source_counts_and_what_does_not_fit_behind_it_is_cut():
    policy, loop = frozen("llama"), InnerLoop(**LOOP, objective="distill")
    stats = loop.plan(policy, JOBS[2]).stats
    asked = len(policy.encode(policy.format(SOURCE)))
    assert stats.teacher_tokens == asked + len("The lamp is old.") and stats.truncated == 0
    plan = loop.plan(policy, JOBS[0])
    heading, first = len(b"Lamps\n"), plan.sequences[0]
    assert first.aim(OBJECTIVES["distill"]) == (heading, len(first.tokens) - 1)
    assert first.aim(OBJECTIVES["sft"]) == (1, len(first.tokens))
    long = Prompt(user="x" * (policy.window - 8))
    short = AdapterJob((TrainingSequence("Title\nThe lamp is old.", heading="Title\n", source=long),), seed=0)
    plan = loop.plan(policy, short)
    assert plan.stats.truncated == 1 and len(plan.sequences[0].source) + len(plan.sequences[0].told) == policy.window
    without = AdapterJob((TrainingSequence("The lamp.", source=Prompt(user="x" * policy.window)),), seed=0)
    assert loop.plan(policy, without).stats.skipped == 1


def test_knowledge_says_what_a_teacher_reads():
    context = Context("1", "Ada", "Ada ruled.")
    task = Knowledge()
    (own, passage) = task.read_edit("She was queen.", context).training_sequences
    assert own.text == "Ada\nShe was queen." and own.heading == "Ada\n" and own.source == task.kind.prompt(context)
    assert passage == task.passage_sequences(context)[0] and passage.source == own.source


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (
            "dpo",
            "model.inner_loop.objective must be one of sft, distill, weights of them, or an InnerObjective, got 'dpo'",
        ),
        ({"sft": 0}, "must have weights above 0, got sft: 0"),
        ({"sft": True}, "must have weights above 0, got sft: True"),
        ({}, "must name an objective, got none"),
    ],
)
def test_what_is_no_objective_is_refused(objective, message):
    with pytest.raises(ConfigError, match=message):
        InnerLoop(objective=objective)


def test_a_task_without_sources_is_refused_before_any_work():
    loop, plain = InnerLoop(**LOOP, objective={"sft": 1, "distill": 1}), TrainingSequence("The lamp.")
    with pytest.raises(ConfigError, match="its teacher reads a source before each training sequence, and this task"):
        loop.check_sources([plain])
    InnerLoop(**LOOP).check_sources([plain])
    with pytest.raises(ConfigError, match=r"temperature of a distillation must be above 0 and finite, got -1"):
        Distillation(temperature=-1)
