"""A cache with room for more holds what one without holds."""

import pytest
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from seal_lightning.models.growing import GrowingLayer, let_grow
from seal_lightning.models.random_models import build_tiny


def states(tokens: int, rows: int, *, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 2, tokens, 4, generator=draw), torch.randn(rows, 2, tokens, 6, generator=draw)


def test_it_holds_what_a_plain_layer_holds():
    plain = DynamicLayer()
    plain.update(*states(5, 4, seed=0))
    grown = GrowingLayer(plain)
    rows = 4
    for step in range(150):
        if step in (40, 41, 90):
            order = torch.tensor([rows - 1, *range(rows - 2)])
            plain.reorder_cache(order)
            grown.reorder_cache(order)
            rows -= 1
        new = states(1 + step % 2, rows, seed=step)
        assert all(map(torch.equal, plain.update(*new), grown.update(*new)))
        assert plain.get_seq_length() == grown.get_seq_length()
        assert plain.get_mask_sizes(1) == grown.get_mask_sizes(1)


def test_what_it_was_made_from_is_left_alone():
    plain = DynamicLayer()
    keys, _ = plain.update(*states(5, 2, seed=0))
    before = keys.clone()
    GrowingLayer(plain).update(*states(1, 2, seed=1))
    assert torch.equal(plain.keys, before)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
def test_a_model_goes_on_bit_for_bit(family):
    model, _ = build_tiny(family)
    ids = torch.randint(3, 250, (3, 30), generator=torch.Generator().manual_seed(0))
    found = []
    for grows in (False, True):
        logits = []
        with torch.no_grad():
            output = model(input_ids=ids[:, :8], use_cache=True)
            if grows:
                let_grow(output.past_key_values)
            for place in range(8, 30):
                output = model(input_ids=ids[:, place : place + 1], past_key_values=output.past_key_values)
                logits.append(output.logits)
        found.append(torch.cat(logits, dim=1))
    assert torch.equal(*found)


def test_only_layers_that_keep_every_token_are_given_room():
    model, _ = build_tiny("gemma3")  # most of its layers see a window
    with torch.no_grad():
        cache = model(input_ids=torch.full((1, 4), 70), use_cache=True).past_key_values
    kinds = [type(layer) for layer in cache.layers]
    let_grow(cache)
    for before, layer in zip(kinds, cache.layers, strict=True):
        assert type(layer) is (GrowingLayer if before is DynamicLayer else before)
    assert len(set(map(type, cache.layers))) == 2
    let_grow(DynamicCache())
    let_grow(object())  # what some models call a cache has no layers
