"""The loss by chunks equals the loss of whole logits, and is not used where it would not."""

from dataclasses import replace

import pytest
import torch

from seal_lightning.inner_loop import loss as head_loss
from seal_lightning.inner_loop.loss import HeadLoss
from seal_lightning.inner_loop.packing import PackedSequence, pad
from seal_lightning.models.beside import beside
from seal_lightning.models.random_models import build_tiny

IDS = torch.randint(3, 250, (1, 24), generator=torch.Generator().manual_seed(0))
POSITIONS = torch.tensor([0, 1, 5, 9, 10, 22])
TARGETS = IDS[0, POSITIONS + 1]
WEIGHTS = torch.tensor([0.5, 0.5, 0.1, 0.0, 2.0, 1.0])
ROW = pad([PackedSequence(0, IDS[0].tolist(), 0, 1.0)])
SECTION = replace(ROW.sections[0], count=len(POSITIONS))
BATCH = replace(ROW, positions=POSITIONS, targets=TARGETS, weights=WEIGHTS, sections=(SECTION,))


def loss_and_gradient(model, loss):
    """Of a layer that stands for all that comes before the output layer."""
    parameter = next(p for name, p in model.named_parameters() if "norm" in name or "ln_" in name)
    model.requires_grad_(False)
    parameter.requires_grad_()
    parameter.grad = None
    values = loss(BATCH)
    values.sum().backward()
    return values.detach(), parameter.grad.clone()


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gpt2", "gpt_neox", "gemma", "gemma2", "gemma3_text"])
@pytest.mark.parametrize("chunk", [259, 1 << 24])
def test_it_equals_whole_logits(monkeypatch, family, chunk):
    monkeypatch.setattr(head_loss, "_CHUNK", chunk)
    model, _ = build_tiny(family)
    by_chunks = HeadLoss(model, adapted=set())
    assert (by_chunks.head is None) == (family == "gemma2")  # its logits are soft-capped
    whole = HeadLoss(model, adapted=set())
    whole.head = None
    for mine, expected in zip(loss_and_gradient(model, by_chunks), loss_and_gradient(model, whole), strict=True):
        torch.testing.assert_close(mine, expected, atol=1e-5, rtol=1e-4)


def test_an_adapted_head_and_a_scaled_one_keep_whole_logits():
    model, _ = build_tiny("llama")
    assert HeadLoss(model, adapted={"lm_head"}).head is None
    assert HeadLoss(model, adapted=set()).head is model.lm_head
    plain = type(model).forward

    def scaled(self, *args, **kwargs):
        output = plain(self, *args, **kwargs)
        output.logits = output.logits * 0.5
        return output

    model.forward = scaled.__get__(model)
    assert HeadLoss(model, adapted=set()).head is None


def test_a_head_with_an_update_beside_it_keeps_whole_logits():
    """The weight alone, which others share or half precision holds, does not make its output."""
    model, _ = build_tiny("llama")
    assert HeadLoss(model, adapted=set()).head is model.lm_head
    beside(model.lm_head).append(torch.randn(2, 32), torch.randn(259, 2))
    by_chunks = HeadLoss(model, adapted=set())
    assert by_chunks.head is None
    mine = by_chunks(BATCH)
    logits = model(input_ids=IDS).logits[0, POSITIONS]
    wanted = torch.nn.functional.cross_entropy(logits, TARGETS, reduction="none") * WEIGHTS
    torch.testing.assert_close(mine, wanted)
