"""Training all weights: against plain PyTorch, in half precision, split into passes, and gone on with."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from seal_lightning.errors import NoMemoryError
from seal_lightning.inner_loop.loop import InnerLoop
from seal_lightning.inner_loop.whole import WholeTraining, bytes_to_train, whole_training
from seal_lightning.models.random_models import build_tiny
from seal_lightning.policy.policy import Policy
from seal_lightning.types import AdapterJob, TrainingSequence

TEXTS = ("the river is long", "a town by the river has a mill, and the mill is old", "nobody knows", "why not")
JOB = AdapterJob(tuple(TrainingSequence(text) for text in TEXTS), seed=5)
LOOP = InnerLoop(learning_rate=1e-3, epochs=2, batch_size=2, schedule="constant", weight_decay=0.01)


def policy(dtype=torch.float32):
    model, tokenizer = build_tiny("llama")
    return Policy(model.to(dtype).eval().requires_grad_(False), tokenizer, False)


def trained(mine, loop=LOOP, *, recompute=False, start=None, every=100, keep=lambda state: None):
    training = whole_training(loop, mine, JOB)
    training.recompute = recompute
    return training.run(start, every=every, keep=keep, on_step=lambda count: None)


def reference(mine, loop=LOOP):
    """The same in plain PyTorch: a sequence after the other, in float32."""
    model, plan = mine.model.float().requires_grad_(True), loop.plan(mine, JOB)
    adamw = torch.optim.AdamW(model.parameters(), lr=loop.learning_rate, weight_decay=loop.weight_decay)
    losses = []
    for step in range(plan.stats.steps):
        total, count = torch.zeros(()), 0
        for one in plan.minibatch(step):
            ids = torch.tensor([one.tokens])
            logits = model(input_ids=ids).logits[0, :-1]
            total = total + nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum")
            count += len(one.tokens) - 1
        (total / count).backward()
        nn.utils.clip_grad_norm_(model.parameters(), loop.gradient_clip)
        adamw.step()
        adamw.zero_grad()
        losses.append(float((total / count).detach()))
    return losses


@torch.no_grad()
def apart(one, other):
    pairs = zip(one.model.parameters(), other.model.parameters(), strict=True)
    return max(float((mine.float() - theirs.float()).abs().max()) for mine, theirs in pairs)


@pytest.mark.parametrize(("recompute", "max_tokens"), [(False, None), (True, None), (False, 1)])
def test_it_is_plain_fine_tuning(recompute, max_tokens):
    mine, plain, untrained = policy(), policy(), policy()
    loop = replace(LOOP, max_tokens=max_tokens)
    stats, losses = trained(mine, loop, recompute=recompute), reference(plain)
    assert stats.steps == 4 and stats.loss == pytest.approx(sum(losses[2:]) / 2, rel=1e-5)
    assert apart(mine, plain) < 2e-5 < 1e-3 < apart(mine, untrained)
    assert not mine.model.training and not any(weight.requires_grad for weight in mine.model.parameters())


def test_half_precision_steps_on_copies_in_float32():
    """Steps of 7e-5 are below what bfloat16 can add to most weights; together they must not be lost."""
    loop = InnerLoop(learning_rate=1e-5, epochs=40, batch_size=4, schedule="constant")
    mine, untrained = policy(torch.bfloat16), policy(torch.bfloat16)
    kept = []
    trained(mine, loop, every=39, keep=kept.append)
    name, weight = next((name, weight) for name, weight in mine.model.named_parameters() if "down_proj" in name)
    copy, before = kept[0].tensors[f"weight.{name}"], dict(untrained.model.named_parameters())[name]
    assert copy.dtype == torch.float32 and weight.dtype == torch.bfloat16
    assert 1e-4 < float((copy - before.float()).abs().max()) < 5e-4
    rounded = float((weight.float() - before.float()).abs().mean() / (copy - before.float()).abs().mean())
    assert 0.7 < rounded < 1.3  # what is stored has moved as far as the copies, within what it can tell apart


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("stop", [1, 3])
def test_going_on_ends_with_the_same_bits(dtype, stop):
    whole, broken, kept = policy(dtype), policy(dtype), []
    expected = trained(whole)
    trained(policy(dtype), every=stop, keep=kept.append)
    assert kept[0].step == stop
    assert trained(broken, start=kept[0]) == expected
    assert apart(whole, broken) == 0.0


def test_memory_is_counted_and_asked_for_first(monkeypatch):
    mine, half = policy(), policy(torch.bfloat16)
    count = sum(weight.numel() for weight in mine.model.parameters())
    assert (bytes_to_train(mine.model), bytes_to_train(half.model)) == (12 * count, 14 * count)
    monkeypatch.setattr("seal_lightning.inner_loop.whole.free_memory", lambda device: 12 * count - 1)
    with pytest.raises(NoMemoryError, match=r"training all weights takes .* take a smaller model, a larger GPU, or"):
        whole_training(LOOP, mine, JOB)


def test_a_pass_that_finds_no_memory_is_halved(monkeypatch):
    mine, plain = policy(), policy()
    gather, failures = WholeTraining._gather, [MemoryError("no room")]

    def failing(self, sequences):
        if failures:
            raise failures.pop()
        return gather(self, sequences)

    monkeypatch.setattr(WholeTraining, "_gather", failing)
    trained(mine)
    reference(plain)
    assert not failures and apart(mine, plain) < 2e-5
