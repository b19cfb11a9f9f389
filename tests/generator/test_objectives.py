"""What `EndToEnd` and `Distill` ask for is what a plain model with the adapter in its weights says."""

from dataclasses import replace

import pytest
import torch
from tiny_generator import Tiny, policy_of
from torch.nn import functional

from seal_lightning.errors import ModelError
from seal_lightning.generator import Distill, EndToEnd
from seal_lightning.generator.lessons import Classroom, InWords, ScoredContext, text_of
from seal_lightning.generator.objectives import Objective
from seal_lightning.generator.reading import tokens_of
from seal_lightning.inner_loop.loss import HeadLoss
from seal_lightning.inner_loop.objectives import Distillation
from seal_lightning.inner_loop.packing import PackedSequence, Section, pad
from seal_lightning.models.beside import base_layer
from seal_lightning.models.lora import transposed
from seal_lightning.tasks import Knowledge
from seal_lightning.types import Context, Query

TASK = Knowledge()
CONTEXTS = [
    Context(
        "mill",
        "The mill",
        "The old mill stands by the river.",
        (Query("Where is it?", ("by the river", "river")), Query("How old?", ("old",))),
    ),
    Context("gate", "", "A gate leads into the town, 門は古い。", (Query("Qui mène là-bas ?", ("the gate",)),)),
    Context("word", "", "Tarn", (Query("What?", ("Tarn",)),)),
]


def classroom_of(contexts=CONTEXTS, *, family="llama", awake=True):
    policy = policy_of(Tiny(), family, awake=awake)
    room = Classroom(policy, TASK, InWords(TASK), seed=0, round=0)
    return room, [ScoredContext(context, ()) for context in contexts]


def logits(policy, tokens, adapters=None, slot=0):
    """Logits (T, V) of a plain forward pass, an adapter added to the weights."""
    settings, added = policy.network.settings, {}
    for target in settings.targets(policy.model):
        if adapters is None:
            continue
        A, B = (matrix[slot].detach() for matrix in adapters[target.name])
        weight, change = base_layer(target.module).weight, settings.alpha / settings.rank * B.T @ A
        added[weight] = weight.data.clone()
        weight.data += change.T if transposed(policy.model) else change
    try:
        with torch.no_grad():
            return policy.model(input_ids=torch.tensor([list(tokens)])).logits[0]
    finally:
        for weight, before in added.items():
            weight.data = before


def cross_entropy(policy, exercises, adapters, slot):
    """Mean over all tokens that are learnt."""
    losses = []
    for tokens, start in exercises:
        first = max(1, start)
        said = logits(policy, tokens, adapters, slot)[first - 1 : -1]
        losses.append(functional.cross_entropy(said, torch.tensor(tokens[first:]), reduction="none"))
    return torch.cat(losses).mean().item()


def asked(policy, context):
    for query in context.queries:
        start = policy.encode(policy.format(TASK.query_prompt(query, context)))
        gold = policy.encoder.data(f" {query.golds[0]}")
        yield [*start, *gold, *policy.encoder.end], len(start)


def adapters_for(room, texts):
    with torch.no_grad():
        return room.network(room.read_texts(texts))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_loss_of_queries_and_passage_is_a_plain_models(family):
    room, lessons = classroom_of(family=family)
    policy, texts = room.policy, [text_of(TASK, context) for context in CONTEXTS]
    adapters = adapters_for(room, texts)
    found = EndToEnd(queries=1.0).loss(room, lessons)
    rebuilt = EndToEnd(queries=0.0, reconstruction=1.0).loss(room, lessons)
    for slot, (context, text) in enumerate(zip(CONTEXTS, texts, strict=True)):
        wanted = cross_entropy(policy, asked(policy, context), adapters, slot)
        assert found[slot].item() == pytest.approx(wanted, rel=1e-5)
        wanted = cross_entropy(policy, [(tokens_of(policy, text), 0)], adapters, slot)
        assert rebuilt[slot].item() == pytest.approx(wanted, rel=1e-5)
        assert wanted != pytest.approx(cross_entropy(policy, [(tokens_of(policy, text), 0)], None, slot), rel=1e-3)


@pytest.mark.parametrize(
    ("passage", "first"),
    [("one two three four five", "one two three"), ("Tarn", "Ta"), ("門は古い。", "門は古"), ("x", "x")],
)
def test_the_second_half_is_learnt_under_an_adapter_of_the_first(passage, first):
    room, lessons = classroom_of([Context("c", "", passage, (Query("?", ("x",)),))])
    policy = room.policy
    found = EndToEnd(queries=0.0, continuation=1.0).loss(room, lessons)
    start = policy.encoder.sequence(first, ended=False)[0]
    tokens = [*start, *policy.encoder.data(passage[len(first) :]), *policy.encoder.end]
    wanted = cross_entropy(policy, [(tokens, len(start))], adapters_for(room, [first]), 0)
    assert found.item() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("term", ["reconstruction", "continuation"])
def test_texts_beyond_the_window_are_learnt_in_pieces(term):
    room, lessons = classroom_of([Context("long", "", "the old mill " * 900, CONTEXTS[0].queries)], family="gpt2")
    assert len(tokens_of(room.policy, text_of(TASK, lessons[0].context))) > room.policy.window
    loss = EndToEnd(queries=0.0, **{term: 1.0}).loss(room, lessons)
    loss.sum().backward()
    assert loss.isfinite().all() and all(matrix.grad.any() for matrix in room.network.B)


def plain_divergence(room, context, adapters, slot, *, temperature, prompt=None):
    policy, parts = room.policy, []
    for query in context.queries:
        closed = TASK.query_prompt(query, context)
        user = prompt or f"{text_of(TASK, context)}\n\n{closed.user}"
        opened = type(closed)(user=user, lead=closed.lead, system=closed.system)
        gold = policy.encoder.data(f" {query.golds[0]}")
        said = []
        for one, own in ((opened, None), (closed, adapters)):
            start = policy.encode(policy.format(one))
            rows = logits(policy, [*start, *gold], own, slot)[len(start) - 1 : -1]
            said.append(torch.log_softmax(rows / temperature, -1))
        teacher, mine = said
        parts.append(functional.kl_div(mine, teacher, reduction="none", log_target=True).sum(-1))
    return torch.cat(parts).mean().item()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_distilling_is_torchs_divergence_of_whole_logits(family, temperature):
    room, lessons = classroom_of(family=family)
    adapters = adapters_for(room, [text_of(TASK, context) for context in CONTEXTS])
    found = Distill(temperature=temperature).loss(room, lessons)
    for slot, context in enumerate(CONTEXTS):
        wanted = plain_divergence(room, context, adapters, slot, temperature=temperature)
        assert wanted > 1e-4 and found[slot].item() == pytest.approx(wanted, rel=2e-4)


def test_what_a_teacher_cannot_read_at_once_is_refused_before_any_work():
    room, _ = classroom_of(family="gpt2")
    Distill().check(room, CONTEXTS)
    long = Context("long", "", "the old mill " * 900, CONTEXTS[0].queries)
    with pytest.raises(ModelError, match=r"context 'long': a query with its passage and answer has \d+ tokens, more"):
        Distill().check(room, [*CONTEXTS, long])


def test_a_teacher_is_asked_in_as_many_passes_as_it_takes(monkeypatch):
    room, lessons = classroom_of()
    whole = Distill().loss(room, lessons)
    passes, states = [], HeadLoss.states

    def noted(loss, batch):
        passes.extend([] if batch.sections[0].teacher is not None else [batch])
        return states(loss, batch)

    monkeypatch.setattr(HeadLoss, "states", noted)
    monkeypatch.setattr("seal_lightning.generator.objectives.PASS_ON_CPU", 60)
    parts = Distill().loss(room, lessons)
    assert len(passes) > 1
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-6)


class SamePrompt(Distill):
    """Its frozen model is asked closed-book."""

    def _with_passage(self, classroom, context, query, text):
        return TASK.query_prompt(query, context)


def test_nothing_is_left_to_distil_where_prompts_are_the_same_and_the_adapter_is_zero():
    room, lessons = classroom_of(awake=False)
    assert SamePrompt().loss(room, lessons).abs().max() < 1e-6
    assert Distill().loss(room, lessons).min() > 1e-4


@pytest.mark.parametrize("objective", [EndToEnd(continuation=0.5), Distill(temperature=2.0)], ids=["end", "distilled"])
def test_gradients_are_those_of_finite_differences(objective: Objective):
    room, lessons = classroom_of(CONTEXTS[:2])
    objective.loss(room, lessons).sum().backward()
    step = 1e-2
    for parameter in (room.network.B[0], room.network.B[-1], room.network.A[1]):
        place = parameter.grad.abs().argmax()
        sides = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.view(-1)[place] += sign * step
                sides.append(objective.loss(room, lessons).sum().item())
                parameter.view(-1)[place] -= sign * step
        wanted = (sides[0] - sides[1]) / (2 * step)
        assert parameter.grad.view(-1)[place].item() == pytest.approx(wanted, rel=2e-2, abs=1e-4)


def test_chunks_of_the_teachers_loss_are_the_whole(monkeypatch):
    room, _ = classroom_of()
    model, draw = room.policy.model, torch.Generator().manual_seed(0)
    rows = [torch.randint(5, 90, (9,), generator=draw).tolist() for _ in range(4)]
    batch = pad([PackedSequence(0, row, 2, 1.0) for row in rows])
    found = []
    for chunk in (1 << 25, 5 * model.config.vocab_size):  # all together, and two at a time
        monkeypatch.setattr("seal_lightning.inner_loop.loss._CHUNK", chunk)
        loss = HeadLoss(model, adapted=set())
        assert loss.head is not None
        said = loss.states(batch).detach()
        states = said + 0.3 * torch.randn(said.shape, generator=torch.Generator().manual_seed(1))
        states.requires_grad_()
        monkeypatch.setattr(loss, "states", lambda batch, states=states: states)
        section = Section(Distillation(temperature=1.5), len(said), said)
        losses = loss(replace(batch, weights=torch.linspace(0.5, 1.0, len(said)), sections=(section,)))
        losses.sum().backward()
        found.append((losses.detach(), states.grad))
    mine, teacher = (torch.log_softmax(loss.head(one) / 1.5, -1).detach() for one in (states, said))
    wanted = functional.kl_div(mine, teacher, reduction="none", log_target=True).sum(-1)
    torch.testing.assert_close(found[0][0], wanted * torch.linspace(0.5, 1.0, len(wanted)), rtol=1e-4, atol=1e-6)
    for whole, parts in zip(*found, strict=True):
        torch.testing.assert_close(whole, parts, rtol=1e-5, atol=2e-6)
