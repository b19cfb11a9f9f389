"""The gate: what an update costs of earlier contexts, and that it is added as far as the budget allows."""

import json
import logging
from dataclasses import replace
from statistics import fmean

import pytest
import torch

from seal_lightning.commands.continual import Gate, Learnt
from seal_lightning.commands.continual.gate import added, bits, divergence
from seal_lightning.commands.continual.regularisers import predictions
from seal_lightning.commands.continual.stream import Route, StreamRunner
from seal_lightning.commands.continual.updates import Merged, Stacked
from seal_lightning.e_step.closed_book import ask_closed_book
from seal_lightning.e_step.plan import Plan
from seal_lightning.e_step.step import EStep
from seal_lightning.errors import ConfigError
from seal_lightning.grading import Reward
from seal_lightning.grading.lexical import Contains
from seal_lightning.inner_loop.bank import bank_lora
from seal_lightning.inner_loop.loop import InnerLoop
from seal_lightning.models.lora import LoRA
from seal_lightning.models.random_models import build_tiny
from seal_lightning.models.source import ModelSource
from seal_lightning.policy.policy import Policy
from seal_lightning.results.retention import average, matrix_table, read_matrices, summary_table, write_matrices
from seal_lightning.sampling import WrittenEdits
from seal_lightning.tasks import Knowledge
from seal_lightning.types import AdapterJob, Context, Prompt, Query, TrainingSequence

FACTS = {"tarn": "A tarn is a lake.", "lamp": "The lamp burns oil.", "salt": "Salt is white."}
CONTEXTS = tuple(
    Context(id=name, title=name, passage=text, queries=(Query(f"What of {name}?", ("e",)),), edits=(text,))
    for name, text in FACTS.items()
)
LOOP = InnerLoop(rank=4, alpha=8, epochs=3, learning_rate=1e-2)
E_STEP = EStep(Knowledge(), WrittenEdits(), LOOP, Contains(), Reward("score"), Plan(1, 1), max_answer_tokens=4)
IDS = torch.tensor([[5, 9, 12, 7, 30]])
TEXT = TrainingSequence("the lamp burns oil", prompt="a tarn")


def fresh():
    model, tokenizer = build_tiny("llama", seed=0)
    return Policy(model.eval().requires_grad_(False), tokenizer, chat=False)


POLICY = fresh()


def adapter(text, seed=1):
    return bank_lora(LOOP.adapt(POLICY, [AdapterJob((TrainingSequence(text),), seed=seed)]).bank, 0)


NEW, OLD = adapter("the lamp burns oil"), Learnt(CONTEXTS[0], (TEXT,), adapter("a tarn is a lake"))


def encoded():
    ids, prompt = POLICY.encoder.sequence(TEXT.text, prompt=TEXT.prompt, ended=False)
    return [(ids, prompt)]


def test_a_trial_leaves_no_trace():
    before = POLICY.model(IDS).logits
    with added(POLICY, NEW) as changed:
        assert (changed.model(IDS).logits - before).abs().max() > 1e-3
        assert changed.learned() is not None
    assert torch.equal(POLICY.model(IDS).logits, before)


def test_bits_are_those_of_the_tokens_behind_the_prompt():
    ((ids, start),) = encoded()
    logits = POLICY.model(torch.tensor([ids])).logits[0, start - 1 : -1]
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[start:]))
    assert bits(POLICY, [(ids, start)]) == pytest.approx(float(loss) / 0.6931472, rel=1e-5)
    assert bits(POLICY, []) == 0.0


def test_divergence_is_the_mean_over_these_tokens():
    ((ids, start),) = encoded()
    before = predictions(POLICY, [ids])
    assert divergence(POLICY, [(ids, start)], before) == pytest.approx(0.0, abs=1e-4)
    with added(POLICY, NEW) as changed:
        new = changed.model(torch.tensor([ids])).logits[0, start - 1 : -1].log_softmax(-1)
        found = divergence(changed, [(ids, start)], before)
    old = before[0][start - 1 : -1].float()
    assert found == pytest.approx(float((old.exp() * (old - new)).sum(-1).mean()) / 0.6931472, rel=1e-3)
    assert found > 1e-3


def cost(measure, scale):
    """What the new adapter costs of the old context, by formulas of its own."""
    texts, before = encoded(), predictions(POLICY, [encoded()[0][0]])

    def state(policy):
        if measure == "accuracy":
            return -fmean(one.accuracy for one in ask_closed_book(E_STEP, policy, [OLD.context]))
        return bits(policy, texts) if measure == "bits" else divergence(policy, texts, before)

    base = 0.0 if measure == "kl" else state(POLICY)
    with added(POLICY, LoRA(NEW.state, scale * NEW.scale)) as changed:
        return state(changed) - base


def finished(gate, earlier=(OLD,), new=NEW):
    return gate.finish(new, earlier, policy=POLICY, e_step=E_STEP)


@pytest.mark.parametrize("measure", ["bits", "kl"])
def test_the_largest_scale_within_the_budget_is_taken(measure, caplog):
    # an adapter for other text, whose cost rises with its scale
    scales = (1.0, 0.5, 0.25)
    costs = [cost(measure, scale) for scale in scales]
    if measure == "bits":  # learning the same text lowers its loss: the negative of the adapter raises it
        costs = [cost(measure, -scale) for scale in scales]
    new = NEW if measure == "kl" else LoRA(NEW.state, -NEW.scale)
    assert costs[0] > costs[1] > costs[2] > 0
    for place, share in enumerate(scales):
        gate = Gate(measure=measure, budget=costs[place] * 1.01, scales=scales)
        with caplog.at_level(logging.INFO, logger="seal_lightning"):
            lora = finished(gate, new=new)
        assert lora.state is new.state and lora.scale == pytest.approx(share * new.scale)
        assert f"added at {share:g}" in caplog.messages[-1]
    with caplog.at_level(logging.INFO, logger="seal_lightning"):
        refused = finished(Gate(measure=measure, budget=costs[2] * 0.9, scales=scales), new=new)
    assert refused.state is new.state and refused.scale == 0.0
    assert "refused" in caplog.messages[-1] and f"{costs[0]:.3f} at 1" in caplog.messages[-1]


def test_a_request_costs_what_its_answer_does():
    asked = Prompt("What burns oil?", lead="\nAnswer:")
    text = TrainingSequence("the lamp", asked=asked)
    request, answer = POLICY.encode(POLICY.format(asked)), POLICY.encoder.data(" the lamp")
    texts = [([*request, *answer], len(request))]

    before = bits(POLICY, texts)

    def costs(new):
        with added(POLICY, new) as changed:
            return bits(changed, texts) - before

    new = max(NEW, LoRA(NEW.state, -NEW.scale), key=costs)  # whichever harms
    assert costs(new) > 0
    earlier = Learnt(CONTEXTS[0], (text,), OLD.lora)
    for share, scale in ((1.001, new.scale), (0.999, 0.0)):
        assert finished(Gate(measure="bits", budget=share * costs(new), scales=(1.0,)), (earlier,), new).scale == scale


def test_accuracy_is_asked_as_the_stream_asks(monkeypatch):
    asked = []

    def answers(e_step, policy, contexts):
        size = 0.0 if policy is POLICY else float(policy.learned().scale * policy.learned().delta(NEW.layers[0]).norm())
        asked.append((e_step, [context.id for context in contexts]))
        return [type("Answered", (), {"accuracy": 0.9 if size == 0 else 0.5 if size > 0.6 * whole else 0.85})]

    whole = float(NEW.delta(NEW.layers[0]).norm())
    monkeypatch.setattr("seal_lightning.commands.continual.gate.ask_closed_book", answers)
    assert finished(Gate(measure="accuracy", budget=0.1, scales=(1.0, 0.5))).scale == pytest.approx(0.5 * NEW.scale)
    assert asked == [(E_STEP, ["tarn"])] * 3
    assert finished(Gate(measure="accuracy", budget=0.01, scales=(1.0, 0.5))).scale == 0.0
    assert finished(Gate(measure="accuracy", budget=0.5)).scale == NEW.scale


def test_what_was_refused_is_not_known():
    refused = replace(OLD, lora=LoRA(OLD.lora.state, 0.0))
    for earlier in ((), (refused,), (replace(OLD, lora=None),)):
        assert finished(Gate(measure="kl", budget=1e-9), earlier) is NEW
    assert finished(Gate(measure="kl", budget=1e-9), (refused, OLD)).scale == 0.0


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: Gate(measure="loss"), "gate: measure must be one of accuracy, bits, kl, got 'loss'"),
        (lambda: Gate(budget=0), "gate: budget must be above 0, got 0: try 0.1"),
        (lambda: Gate(scales=[0.5, 1.0]), "gate: scales must be numbers up to 1, largest first, got .*: try"),
        (lambda: Gate(scales=[2.0]), "gate: scales must be above 0 and at most 1, got 2.0"),
        (lambda: Gate(scales=[]), "gate: scales must be numbers up to 1"),
        (lambda: Gate(count=0), "gate: count must be a whole number of at least 1, got 0"),
    ],
)
def test_bad_options(make, complaint):
    with pytest.raises(ConfigError, match=complaint):
        make()


# -- in a stream -------------------------------------------------------------------------------------------------------

ROUTE = Route("order 1, seed 1", CONTEXTS, seed=7)
STRICT = {"measure": "kl", "budget": 1e-9, "scales": (1.0,)}


def runner(kind=Merged, **options):
    source = ModelSource("random/llama")
    return StreamRunner(E_STEP, kind(fresh()), (CONTEXTS[2],), origin={"base": "tiny"}, source=source, **options)


@pytest.mark.parametrize("kind", [Merged, Stacked])
def test_a_stream_whose_updates_are_refused_stays_where_it_was(tmp_path, kind):
    at_work = runner(kind)
    stream = at_work.run(ROUTE, Gate(**STRICT), tmp_path)
    assert stream.shares == (None, 1.0, 0.0, 0.0)
    after = at_work.updates.policy.model(IDS).logits
    alone = runner(kind)
    alone.run(replace(ROUTE, contexts=CONTEXTS[:1]), Gate(**STRICT), tmp_path / "alone")
    torch.testing.assert_close(after, alone.updates.policy.model(IDS).logits, rtol=0, atol=1e-4)


def test_a_stream_that_was_killed_ends_the_same(tmp_path):
    gate = {"measure": "kl", "budget": 0.002, "scales": (1.0, 0.5, 0.25, 0.1, 0.05)}
    whole = runner().run(ROUTE, Gate(**gate), tmp_path / "whole")
    assert any(share is not None and 0 < share < 1 for share in whole.shares)

    def kill(count):
        finished.append(count)
        if len(finished) == 3:
            raise KeyboardInterrupt

    finished = []
    with pytest.raises(KeyboardInterrupt):
        runner(advance=kill).run(ROUTE, Gate(**gate), tmp_path / "killed")
    assert runner().run(ROUTE, Gate(**gate), tmp_path / "killed") == whole
    for name in ("step-003/step.json", "adapter/adapter_model.safetensors"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_tables_count_what_was_scaled_and_refused(tmp_path):
    plain = runner().run(ROUTE, Gate(measure="kl", budget=1e9), tmp_path / "plain")
    gated = replace(plain, shares=(None, 1.0, 0.5, 0.0))
    matrices = [average("plain", [plain]), average("gate", [gated])]
    write_matrices(tmp_path / "retention.json", matrices)
    read = read_matrices(tmp_path / "retention.json")
    assert [matrix.streams for matrix in read] == [(plain,), (gated,)]
    assert summary_table(read).header[-1] == "updates"
    assert [row[-1] for row in summary_table(read).rows] == ["", "1 whole, 1 scaled to 50 % on average, 1 refused"]
    assert matrix_table(read[1]).header[-1] == "update"
    assert [row[-1] for row in matrix_table(read[1]).rows] == ["", "100.0", "50.0", "0.0"]
    assert "update" not in matrix_table(read[0]).header and "updates" not in summary_table(read[:1]).header
    broken = json.loads((tmp_path / "retention.json").read_text())
    broken["matrices"][0]["streams"][0]["shares"] = [2.0]
    (tmp_path / "retention.json").write_text(json.dumps(broken))
    with pytest.raises(Exception, match="a share of an update, which is 0 to 1"):
        read_matrices(tmp_path / "retention.json")
