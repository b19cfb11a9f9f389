"""Memory runs out at every place of a unit of work: it ends as with enough memory, and keeps nothing of what failed."""

import weakref
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from seal_lightning.e_step.plan import Plan
from seal_lightning.e_step.step import EStep
from seal_lightning.errors import NoMemoryError
from seal_lightning.grading import Contains, Reward
from seal_lightning.inner_loop import slots
from seal_lightning.inner_loop.bank import AdapterBank
from seal_lightning.inner_loop.loop import InnerLoop
from seal_lightning.models import memory
from seal_lightning.models.random_models import build_tiny
from seal_lightning.policy.policy import Policy
from seal_lightning.sampling import LocalSampler
from seal_lightning.tasks import Knowledge
from seal_lightning.types import Context, Query

TARN = Context("tarn", "Tarn", "A tarn is a lake.", (Query("What is a tarn?", ("a lake",)), Query("Where?", ("Fell",))))
STEP = EStep(
    Knowledge(),
    LocalSampler(max_new_tokens=12),
    InnerLoop(rank=2, alpha=4.0, epochs=2, learning_rate=0.01, max_adapters=4),
    Contains(),
    Reward(),
    Plan(edits=4, repeats=1),
    max_answer_tokens=6,
)


class Marker:
    """Lives as long as the graph of a forward pass."""


class Held(torch.autograd.Function):
    """Passes its input on, keeps a marker in the graph, and may run out of memory in the backward pass."""

    @staticmethod
    def forward(ctx, x, marker, fails):
        ctx.marker, ctx.fails = marker, fails
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        if ctx.fails():
            raise torch.OutOfMemoryError("CUDA out of memory in the backward pass")
        return grad, None, None


class Tight:
    """A policy on whose model memory runs out at one place, and which notes what is alive when room is made."""

    def __init__(self, monkeypatch, place):
        self.monkeypatch, self.place, self.failed = monkeypatch, place, 0
        model, tokenizer = build_tiny("llama")
        self.policy = Policy(model.requires_grad_(False), tokenizer, chat=False)
        STEP.check_model(self.policy)  # the model has been probed
        self.graphs, self.alive, self.rows = [], [], 99
        model.model.layers[0].register_forward_hook(self._after_first_layer)
        model.model.layers[1].register_forward_pre_hook(self._before_second_layer)
        for module in (slots, memory):
            monkeypatch.setattr(module, "make_room", self._make_room)

    def fail(self):
        self.failed += 1
        raise torch.OutOfMemoryError("CUDA out of memory")

    def _is_first(self, wanted):
        if self.place != wanted or self.failed:
            return False
        self.failed += 1
        return True

    def _after_first_layer(self, module, args, output):
        hidden = output[0] if isinstance(output, tuple) else output
        marker = Marker()
        self.graphs.append(weakref.ref(marker))
        if not hidden.requires_grad:
            hidden.marker = marker  # lives as long as the tensor's Python object
            return output
        held = Held.apply(hidden, marker, lambda: self._is_first("backward"))
        return (held, *output[1:]) if isinstance(output, tuple) else held

    def _before_second_layer(self, module, args):
        if torch.is_grad_enabled() and args[0].requires_grad and self._is_first("forward"):
            raise torch.OutOfMemoryError("CUDA out of memory in the forward pass")
        if not torch.is_grad_enabled() and len(args[0]) > self.rows:
            self.fail()

    def _make_room(self, device):
        MAKE_ROOM(device)
        self.alive.append(sum(graph() is not None for graph in self.graphs))


MAKE_ROOM = memory.make_room


def narrow(tight, monkeypatch, phase):
    """In one phase, no more than two rows pass."""
    ask, sample = EStep.ask, LocalSampler.sample

    @contextmanager
    def two_rows(now):
        tight.rows = 2 if now == phase else 99
        yield
        tight.rows = 99

    def asked(self, *args, **named):
        with two_rows(named.get("phase", "answering")):
            return ask(self, *args, **named)

    def sampled(self, *args, **named):
        with two_rows("sampling"):
            return sample(self, *args, **named)

    monkeypatch.setattr(EStep, "ask", asked)
    monkeypatch.setattr(LocalSampler, "sample", sampled)


def too_small(tight, monkeypatch, place):
    """No more than two adapters at a time: in their bank, their moments, or the bank of the results."""
    bank, prepare = InnerLoop._bank, AdapterBank.prepare

    def banks(self, model, jobs, *, slots, trainable):
        if slots > 2 and place == ("bank" if trainable else "results"):
            tight.fail()
        return bank(self, model, jobs, slots=slots, trainable=trainable)

    def prepared(self, n):
        if n > 2 and place == "moments":
            prepare(self, 2)
            tight.fail()
        return prepare(self, n)

    monkeypatch.setattr(InnerLoop, "_bank", banks)
    monkeypatch.setattr(AdapterBank, "prepare", prepared)


def plainly(rollouts):
    return [replace(rollout, seconds={}) for rollout in rollouts]


@pytest.mark.parametrize("place", ["sampling", "results", "bank", "moments", "forward", "backward", "answering"])
def test_a_unit_ends_as_with_enough_memory(monkeypatch, caplog, place):
    enough = Tight(monkeypatch, "nowhere")
    expected = plainly(STEP.run(enough.policy, [TARN], round=0))
    tight = Tight(monkeypatch, place)
    if place in ("sampling", "answering"):
        narrow(tight, monkeypatch, place)
    else:
        too_small(tight, monkeypatch, place)
    assert plainly(STEP.run(tight.policy, [TARN], round=0)) == expected
    assert tight.failed and "out of memory" in caplog.text
    if place in ("sampling", "forward", "backward", "answering"):
        assert tight.alive and not any(tight.alive)  # of what failed, nothing is left when the room is measured anew
    if place in ("moments", "bank"):
        assert "adapters at a time" in caplog.text and "tokens a forward pass" not in caplog.text


def test_what_fails_for_good_holds_on_to_nothing(monkeypatch):
    tight = Tight(monkeypatch, "forward")
    monkeypatch.setattr(tight, "_is_first", lambda wanted: wanted == "forward")
    banks = []
    made = InnerLoop._bank

    def noted(self, *args, **named):
        bank = made(self, *args, **named)
        banks.append(weakref.ref(bank))
        return bank

    monkeypatch.setattr(InnerLoop, "_bank", noted)
    with pytest.raises(NoMemoryError, match="no memory for one adapter"):
        STEP.run(tight.policy, [TARN], round=0)
    assert len(banks) > 4  # in halves, down to one
    assert not any(tight.alive)
    MAKE_ROOM(torch.device("cpu"))
    assert not any(bank() for bank in banks)
