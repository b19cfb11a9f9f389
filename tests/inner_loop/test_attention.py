"""Attention over packed sequences equals each sequence alone, and models that need more than it are left alone."""

from threading import Thread

import pytest
import torch

from seal_lightning.inner_loop.attention import NAME, UnsuitedError, packed_attention, replaceable
from seal_lightning.models.random_models import build_tiny

LENGTHS = (40, 30, 30, 17, 9, 9, 9, 1)
GROUPS = ((1, 40), (2, 30), (1, 17), (3, 9), (1, 1))


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gpt2", "gpt_neox", "gemma"])
def test_packed_equals_alone(family):
    model, _ = build_tiny(family)
    ids = torch.randint(3, 250, (sum(LENGTHS),), generator=torch.Generator().manual_seed(0))
    parts = ids.split(list(LENGTHS))
    positions = torch.cat([torch.arange(length) for length in LENGTHS])
    before = model.config._attn_implementation
    with torch.no_grad(), packed_attention(model, GROUPS):
        assert model.config._attn_implementation == NAME
        packed = model(input_ids=ids[None], position_ids=positions[None], use_cache=False).logits[0]
    assert model.config._attn_implementation == before
    for mine, part in zip(packed.split(list(LENGTHS)), parts, strict=True):
        alone = model(input_ids=part[None], use_cache=False).logits[0]
        torch.testing.assert_close(mine, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("family", "more"), [("gemma2", "softcap"), ("gemma3", "a sliding window")])
def test_more_than_causal_attention_is_refused(family, more):
    model, _ = build_tiny(family)
    before = model.config._attn_implementation
    ids = torch.randint(3, 250, (1, 80), generator=torch.Generator().manual_seed(0))  # the window is 8
    attention = packed_attention(model, [(1, 80)])
    with torch.no_grad(), pytest.raises(UnsuitedError, match=more), attention:
        model(input_ids=ids, use_cache=False)
    assert model.config._attn_implementation == before


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "mixtral", "gemma3_text"])
def test_a_chosen_attention_stays(family):
    model, _ = build_tiny(family)
    assert replaceable(model)
    model.set_attn_implementation("eager")
    assert not replaceable(model)


def test_a_backward_pass_on_another_thread_finds_the_groups():
    """On a GPU autograd runs there; recomputed activations need the layout once more."""
    model, _ = build_tiny("llama")
    seen = []

    def attend_elsewhere():
        ids = torch.randint(3, 250, (1, sum(LENGTHS)), generator=torch.Generator().manual_seed(0))
        seen.append(model(input_ids=ids, use_cache=False).logits.shape[1])

    with torch.no_grad(), packed_attention(model, GROUPS):
        thread = Thread(target=attend_elsewhere)
        thread.start()
        thread.join()
    assert seen == [sum(LENGTHS)]
