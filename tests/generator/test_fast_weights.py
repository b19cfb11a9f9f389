"""Fast weights are linear in a text's outer products: pieces and documents add up."""

import pytest
import torch
from tiny_generator import TEXTS, policy_of

from seal_lightning.generator.fast_weights import FastWeights, normalise
from seal_lightning.generator.lessons import read_for
from seal_lightning.generator.reading import TextStates


@pytest.fixture(scope="module")
def policy():
    return policy_of(FastWeights(rank=3, alpha=4.0, layers=(0, -1)))


def cut(reading, at):
    """Each text's tokens in two rows: those before a place, and those after."""
    parts = [slice(None, at), slice(at, None)]
    padded = [torch.nn.functional.pad(reading.mask[:, part], (0, at)) for part in parts]
    width = max(mask.shape[1] for mask in padded)

    def rows(states):  # (R, T, d)
        halves = [states[:, part] for part in parts]
        return torch.cat([torch.nn.functional.pad(half, (0, 0, 0, width - half.shape[1])) for half in halves])

    masks = [torch.nn.functional.pad(mask, (0, width - mask.shape[1])) for mask in padded]
    return TextStates(
        mask=torch.cat(masks),
        owners=reading.owners.repeat(2),
        texts=reading.texts,
        inputs={name: rows(states) for name, states in reading.inputs.items()},
        hidden=None if reading.hidden is None else torch.stack([rows(states) for states in reading.hidden]),
    )


@pytest.mark.parametrize("layers", [(0, -1), None], ids=["states", "own inputs"])
def test_pieces_add_up_to_the_whole(layers):
    policy = policy_of(FastWeights(rank=3, alpha=4.0, layers=layers))
    reading = read_for(policy, TEXTS)
    whole, pieces = (policy.network.code(one) for one in (reading, cut(reading, 4)))
    torch.testing.assert_close(pieces, whole, rtol=1e-5, atol=1e-5 * float(whole.detach().abs().max()))


def test_a_text_longer_than_the_window_is_the_sum_of_its_pieces(policy, monkeypatch):
    text = " ".join(TEXTS)
    monkeypatch.setattr(
        "seal_lightning.generator.reading.tokens_of", lambda policy, text: list(range(5, 5 + len(text)))
    )
    monkeypatch.setattr(type(policy), "window", property(lambda self: 8))
    long = policy.network.code(read_for(policy, [text]))
    starts = range(0, len(text), 8)
    pieces = [range(5 + start, 5 + min(start + 8, len(text))) for start in starts]
    monkeypatch.setattr("seal_lightning.generator.reading.tokens_of", lambda policy, text: list(pieces[int(text)]))
    parts = policy.network.code(read_for(policy, [str(number) for number in range(len(pieces))]))
    assert len(parts) > 2
    torch.testing.assert_close(long[0], parts.sum(0), rtol=1e-5, atol=1e-5 * float(long.detach().abs().max()))


def test_an_adapter_of_several_documents_is_made_of_the_sum_of_their_codes(policy):
    codes = policy.network.code(read_for(policy, TEXTS))
    reading = read_for(policy, TEXTS)
    as_one = TextStates(reading.mask, torch.zeros_like(reading.owners), 1, reading.inputs, reading.hidden)
    merged, summed = policy.network(as_one), policy.network.adapters(codes.sum(0, keepdim=True))
    for name, (A, B) in merged.items():
        torch.testing.assert_close(A, summed[name][0], rtol=1e-4, atol=1e-5)
        assert torch.equal(B, summed[name][1])


@pytest.mark.parametrize("shape", [(6, 6), (8, 4), (4, 8)])
def test_a_normalised_state_has_the_norm_of_an_orthogonal_one(shape):
    states = (
        torch.randn(5, *shape, generator=torch.Generator().manual_seed(0))
        * torch.tensor([1e-3, 1.0, 9.0, 1e3, 1])[:, None, None]
    )
    frobenius = normalise(states, "frobenius")
    torch.testing.assert_close(frobenius.flatten(1).norm(dim=1), torch.full((5,), min(shape) ** 0.5))
    cosines = torch.cosine_similarity(frobenius.flatten(1), states.flatten(1))
    torch.testing.assert_close(cosines, torch.ones(5))
    values = torch.linalg.svdvals(normalise(states, "orthogonal"))
    assert values.max() < 1.3 and values.median() > 0.6
    torch.testing.assert_close(
        normalise(7 * states, "orthogonal"), normalise(states, "orthogonal"), rtol=1e-3, atol=1e-4
    )


def test_keys_may_be_wider_than_the_rank():
    policy = policy_of(FastWeights(rank=2, alpha=2.0, keys=7, layers=(0, -1)))
    reading = read_for(policy, TEXTS)
    assert policy.network.code(reading).shape == (3, 7 * 2 * len(policy.network.sizes))
    assert {A.shape[1] for A, _ in policy.network(reading).values()} == {2}


def test_a_text_without_tokens_that_count_gives_a_finite_adapter(policy):
    reading = read_for(policy, TEXTS[:1])
    nothing = TextStates(torch.zeros_like(reading.mask), reading.owners, 1, reading.inputs, reading.hidden)
    adapters = policy.network(nothing)
    sum(A.sum() for A, _ in adapters.values()).backward()
    assert all(A.isfinite().all() for A, _ in adapters.values())
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in policy.network.parameters())
