"""Many contexts' adapters as one: what each way gives, and that contexts come and go without a trace."""

import pytest
import torch

from seal_lightning.errors import ConfigError, DataError
from seal_lightning.generator.fast_weights import FastWeights
from seal_lightning.generator.lessons import read_for
from seal_lightning.generator.merging import (
    Concatenation,
    LeastSquares,
    Member,
    SumOfCodes,
    SumOfMatrices,
    loras_of,
    make_merger,
    members_of,
    reduced,
)
from seal_lightning.generator.policy import GeneratingPolicy
from seal_lightning.inner_loop.bank import bank_lora
from seal_lightning.inner_loop.loop import InnerLoop, TrainedBank
from seal_lightning.inner_loop.lora_bank import lora_bank
from seal_lightning.models.lora import LoRA
from seal_lightning.models.random_models import build_tiny
from seal_lightning.types import AdapterJob, TrainingSequence

LAYER = "model.layers.0.mlp.down_proj"
TEXTS = ["the old mill", "a river runs by the gate, and by the mill", "who leads the town", "bread and salt"]


def drawn_lora(seed, *, rank=3, inputs=6, outputs=5, scale=2.0):
    draw = torch.Generator().manual_seed(seed)
    A, B = torch.randn(rank, inputs, generator=draw), torch.randn(outputs, rank, generator=draw)
    names = [f"base_model.model.{LAYER}.lora_{part}.weight" for part in "AB"]
    return LoRA(dict(zip(names, (A, B), strict=True)), scale)


def drawn_member(seed, *, tokens=4, **options):
    lora = drawn_lora(seed, **options)
    inputs = lora.matrices(LAYER)[0].shape[1]
    keys = torch.randn(tokens, inputs, generator=torch.Generator().manual_seed(1000 + seed))
    return Member(lora, keys={LAYER: keys})


def filled(merger, members):
    for number, member in enumerate(members):
        merger.add(f"town-{number}", member)
    return merger


@pytest.fixture(scope="module")
def policy():
    """A generator whose matrices are all drawn, so that its adapters change something."""
    model, tokenizer = build_tiny("llama")
    network = FastWeights(rank=2, alpha=3.0, normalisation="frobenius").network(
        model.requires_grad_(False).eval(), seed=0
    )
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=draw))
    return GeneratingPolicy(model, tokenizer, False, network=network)


def test_concatenated_ranks_are_the_sum_of_the_changes():
    loras = [drawn_lora(0), drawn_lora(1, rank=2, scale=0.5), drawn_lora(2)]
    merged = filled(Concatenation(), [Member(lora) for lora in loras]).merged()
    assert (merged.lora.rank, merged.lost) == (8, 0.0)
    wanted = sum(lora.delta(LAYER) for lora in loras)
    assert torch.allclose(merged.lora.delta(LAYER), wanted, rtol=0, atol=1e-5)


def test_a_reduced_rank_is_the_nearest_and_says_what_was_lost():
    lora = drawn_lora(0, rank=9)
    values = torch.linalg.svdvals(lora.delta(LAYER).double())
    for rank in (1, 3):
        merged = reduced(lora, rank)
        off = (merged.lora.delta(LAYER) - lora.delta(LAYER)).norm()
        assert merged.lora.rank == rank
        assert off.item() == pytest.approx(values[rank:].square().sum().sqrt().item(), rel=1e-5)
        assert merged.lost == pytest.approx((off / values.norm()).item(), rel=1e-5)


@pytest.mark.parametrize("rank", [5, 8])  # the layer has 5 outputs: zeros fill the rest
def test_a_rank_of_a_layers_size_loses_nothing(rank):
    lora = drawn_lora(0, rank=9)
    merged = reduced(lora, rank)
    assert merged.lora.rank == rank and merged.lost < 1e-7
    assert torch.allclose(merged.lora.delta(LAYER), lora.delta(LAYER), rtol=0, atol=1e-5)


def test_a_rank_that_is_wide_enough_leaves_the_adapter_as_it_is():
    lora = drawn_lora(0)
    assert reduced(lora, 3).lora is lora and reduced(lora, None).lora is lora


def test_an_adapter_that_changes_nothing_loses_nothing():
    lora = drawn_lora(0)
    nothing = LoRA({name: torch.zeros_like(matrix) for name, matrix in lora.state.items()}, 1.0)
    assert reduced(nothing, 1).lost == 0.0


def test_least_squares_is_the_closed_form():
    members = [drawn_member(0), drawn_member(1, rank=2, scale=0.5), drawn_member(2)]
    merged = filled(LeastSquares(ridge=0.1), members).merged().lora.delta(LAYER).double()
    deltas = [member.lora.delta(LAYER).double() for member in members]
    grams = [member.keys[LAYER].double().T @ member.keys[LAYER].double() for member in members]
    ridge = 0.1 * sum(grams).diagonal().mean() * torch.eye(6).double()
    wanted = sum(d @ g for d, g in zip(deltas, grams, strict=True)) @ torch.linalg.inv(sum(grams) + ridge)
    assert torch.allclose(merged, wanted, rtol=0, atol=1e-5)


def test_least_squares_keeps_apart_what_the_sum_mixes():
    members = [drawn_member(number, tokens=2, inputs=9) for number in range(3)]
    exact = filled(LeastSquares(ridge=1e-9), members).merged().lora.delta(LAYER)
    summed = filled(Concatenation(), members).merged().lora.delta(LAYER)
    for member in members:  # 6 keys of 9 inputs: one change can do what each adapter does with its own
        wanted = member.keys[LAYER] @ member.lora.delta(LAYER).T
        assert torch.allclose(member.keys[LAYER] @ exact.T, wanted, rtol=0, atol=1e-3)
        assert not torch.allclose(member.keys[LAYER] @ summed.T, wanted, rtol=0, atol=1.0)


def test_matrices_are_summed_and_averaged():
    first, second = drawn_lora(0), drawn_lora(1, scale=0.5)
    merged = filled(SumOfMatrices(), [Member(first), Member(second)]).merged().lora
    (A, B), (C, D) = first.matrices(LAYER), second.matrices(LAYER)
    assert torch.allclose(merged.delta(LAYER), (2 * B + 0.5 * D) @ (A + C) / 2, rtol=0, atol=1e-5)
    shared = LoRA(second.state | {name: m for name, m in first.state.items() if ".lora_A." in name}, 0.5)
    merged = filled(SumOfMatrices(), [Member(first), Member(shared)]).merged().lora
    assert torch.allclose(merged.delta(LAYER), first.delta(LAYER) + shared.delta(LAYER), rtol=0, atol=1e-5)


def test_codes_that_are_added_are_the_code_of_all_texts(policy):
    members = members_of(policy, TEXTS)
    merged = filled(SumOfCodes(policy.network), members).merged().lora
    reading = read_for(policy, TEXTS)
    together = policy.network.code(reading).sum(0, keepdim=True)
    (wanted,) = loras_of(policy.network.adapters(together), scale=policy.network.scale)
    for layer in wanted.layers:
        assert torch.allclose(merged.delta(layer), wanted.delta(layer), rtol=0, atol=1e-6)
    (alone,) = members_of(policy, TEXTS[:1])
    assert members[0].lora.state.keys() == alone.lora.state.keys()
    for name, matrix in alone.lora.state.items():
        assert torch.allclose(members[0].lora.state[name], matrix, rtol=0, atol=1e-6)


@pytest.mark.parametrize("way", ["sum", "concatenate", "least_squares"])
@pytest.mark.parametrize("generated", [True, False])
def test_a_document_that_was_removed_leaves_no_trace(policy, way, generated):
    network = policy.network if generated else None
    members = members_of(policy, TEXTS)
    never = filled(make_merger(way, network=network, rank=6), members[:2]).merged()
    merger = filled(make_merger(way, network=network, rank=6), members)
    before = merger.merged()
    assert merger.remove("town-2") is members[2]
    merger.remove("town-3")
    after = merger.merged()
    assert any(not torch.equal(before.lora.state[name], matrix) for name, matrix in after.lora.state.items())
    if way == "least_squares":  # whose sums are subtracted from
        for layer, total in merger._sums.items():
            wanted = filled(LeastSquares(), members[:2])._sums[layer]
            assert torch.allclose(total, wanted, rtol=0, atol=1e-12 * wanted.abs().max())
        for layer in never.lora.layers:
            assert torch.allclose(after.lora.delta(layer), never.lora.delta(layer), rtol=0, atol=1e-6)
    else:
        assert after.lost == never.lost
        assert all(torch.equal(after.lora.state[name], matrix) for name, matrix in never.lora.state.items())
    merger.add("town-2", members[2])
    merger.add("town-3", members[3])
    for layer in before.lora.layers:
        assert torch.allclose(merger.merged().lora.delta(layer), before.lora.delta(layer), rtol=0, atol=1e-6)


def test_adapters_of_the_inner_loop_are_merged_too(policy):
    jobs = [AdapterJob((TrainingSequence(text),), seed) for seed, text in enumerate(TEXTS)]
    inner_loop = InnerLoop(rank=2, alpha=4.0, target_modules="all-linear", epochs=2, learning_rate=1e-2)
    bank = inner_loop.adapt(policy, jobs).bank
    generated = members_of(policy, TEXTS)  # reads the same layers
    members = [Member(lora, keys=one.keys) for lora, one in zip(bank_loras(bank), generated, strict=True)]
    concatenated = filled(Concatenation(), members).merged().lora
    assert concatenated.rank == 8
    layer = concatenated.layers[0]
    wanted = sum(member.lora.delta(layer) for member in members)
    assert torch.allclose(concatenated.delta(layer), wanted, rtol=0, atol=1e-6)
    one = filled(LeastSquares(ridge=1e-9), members[:1]).merged().lora
    keys = members[0].keys[layer]
    assert torch.allclose(keys @ one.delta(layer).T, keys @ members[0].lora.delta(layer).T, rtol=0, atol=1e-4)


def bank_loras(bank):
    return [bank_lora(bank, slot) for slot in range(len(bank.ranks))]


@torch.no_grad()
def test_many_merged_adapters_answer_in_one_batch_as_one_by_one(policy):
    members = members_of(policy, TEXTS)
    loras = [members[0].lora]
    for way in ("sum", "concatenate", "least_squares"):
        loras.append(filled(make_merger(way, network=policy.network), members).merged().lora)
    loras.append(filled(Concatenation(rank=3), members).merged().lora)
    assert len({lora.rank for lora in loras}) > 1 and len({lora.scale for lora in loras}) > 1
    ids = torch.tensor([[5, 6, 7, 8, 9, 10]] * len(loras))
    bank = lora_bank(policy.model, loras)
    with TrainedBank(bank, ()).answering(range(len(loras))):
        together = policy.model(input_ids=ids).logits
    plain = policy.model(input_ids=ids[:1]).logits
    for number, lora in enumerate(loras):
        with TrainedBank(lora_bank(policy.model, [lora]), ()).answering([0]):
            alone = policy.model(input_ids=ids[:1]).logits[0]
        assert torch.allclose(together[number], alone, rtol=0, atol=1e-5)
        assert not torch.allclose(alone, plain[0], rtol=0, atol=1e-3)


def test_loras_of_different_layers_answer_in_one_bank(policy):
    attention, mlp = "model.layers.1.self_attn.q_proj", "model.layers.0.mlp.up_proj"
    sizes = {name: policy.model.get_submodule(name).weight.shape for name in (attention, mlp)}
    loras = []
    for number, layers in enumerate([(attention,), (mlp,), (attention, mlp)]):
        state = {}
        for layer in layers:
            one = drawn_lora(number, rank=number + 1, inputs=sizes[layer][1], outputs=sizes[layer][0])
            state |= {name.replace(LAYER, layer): tensor for name, tensor in one.state.items()}
        loras.append(LoRA(state, 0.1))
    bank = lora_bank(policy.model, loras)
    for number, lora in enumerate(loras):
        found = bank_lora(bank, number)
        assert found.layers == lora.layers
        for layer in lora.layers:
            torch.testing.assert_close(found.delta(layer), lora.delta(layer))


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda merger: merger.merged(), "expected at least one, got none"),
        (lambda merger: merger.remove("town-9"), "expected a context that was added, got town-9"),
        (
            lambda merger: filled(merger, [drawn_member(0)]).add("town-0", drawn_member(1)),
            "town-0 is there already",
        ),
    ],
)
def test_what_cannot_be_merged_is_said(act, words):
    with pytest.raises(DataError, match=words):
        act(Concatenation())


def test_a_document_that_lacks_something_is_not_added(policy):
    merger = LeastSquares()
    with pytest.raises(DataError, match=f"town: expected keys for every layer, got none for {LAYER}"):
        merger.add("town", Member(drawn_lora(0)))
    with pytest.raises(DataError, match="expected a generator's code, got an adapter alone"):
        SumOfCodes(policy.network).add("town", Member(drawn_lora(0)))
    with pytest.raises(DataError, match="expected an adapter of rank 3 for the layers of those before, got rank 2"):
        filled(SumOfMatrices(), [Member(drawn_lora(0)), Member(drawn_lora(1, rank=2))])
    assert not merger.members


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: make_merger("mean", network=None), "merge must be one of sum, concatenate, least_squares, got 'mean'"),
        (lambda: Concatenation(rank=0), "rank must be a whole number of at least 1, got 0"),
        (lambda: LeastSquares(ridge=0), "ridge must be above 0, got 0"),
    ],
)
def test_bad_options_are_named(make, words):
    with pytest.raises(ConfigError, match=words):
        make()
