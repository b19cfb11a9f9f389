"""The inner loop's settings, plans and passes; that its adapters equal peft's is in adapters/test_exactness."""

import math
import random

import pytest
import torch
from torch.nn import functional

from seal_lightning.adapters import AdapterBank
from seal_lightning.errors import ConfigError
from seal_lightning.inner_loop import InnerLoop, in_one_row, learning_rate_factor
from seal_lightning.packing import PackedSequence, pack
from seal_lightning.tiny import FAMILIES, build_tiny
from seal_lightning.types import AdapterJob, Directives, TrainingSequence

SMALL = {"rank": 2, "alpha": 4.0, "epochs": 1}


def frozen_tiny(family="llama", **options):
    model, tokenizer = build_tiny(family, **options)
    return model.requires_grad_(False), tokenizer


def job(*texts, seed=1, prompt="", **directives):
    sequences = tuple(TrainingSequence(text, prompt=prompt) for text in texts)
    return AdapterJob(sequences, seed=seed, directives=Directives(**directives))


def rows(lengths, seed=0):
    draw = random.Random(seed)
    return [
        PackedSequence(slot, [draw.randrange(3, 259) for _ in range(length)], 0, 1.0)
        for slot, length in enumerate(lengths)
    ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rank": 0}, "rank must be at least 1, got 0"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"batch_size": -1}, "batch_size must be at least 1"),
        ({"max_adapters": 0}, "max_adapters must be at least 1"),
        ({"max_tokens": 0}, "max_tokens must be at least 1"),
        ({"max_length": 1}, "max_length must be at least 2"),
        ({"alpha": math.nan}, "alpha must be above 0 and finite, got nan"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"learning_rate": math.inf}, "learning_rate must be above 0 and finite"),
        ({"gradient_clip": -1.0}, "gradient_clip must be 0 or more"),
        ({"weight_decay": math.nan}, "weight_decay must be 0 or more"),
        ({"betas": (0.9, 1.0)}, r"betas must be two numbers in \[0, 1\)"),
        ({"schedule": "liner"}, "schedule must be one of linear, cosine, constant, got liner"),
        ({"target_modules": []}, "target_modules must name at least one layer"),
    ],
)
def test_settings_that_cannot_work_are_refused(options, said):
    with pytest.raises(ConfigError, match=rf"^model\.inner_loop\.{said}"):
        InnerLoop(**options)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("linear", [1.0, 0.75, 0.5, 0.25]), ("cosine", [1.0, 0.853553, 0.5, 0.146447]), ("constant", [1.0] * 4)],
)
def test_schedules_fall_to_zero_after_the_last_step(schedule, expected):
    assert [learning_rate_factor(schedule, step, 4) for step in range(4)] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_logits_equal_each_sequence_alone(family, attention):
    if (family, attention) == ("gemma2", "sdpa"):
        pytest.skip("transformers has no sdpa for gemma2, whose attention logits are capped")
    model, _ = frozen_tiny(family)
    model.set_attn_implementation(attention)
    sequences = rows([130, 90, 5, 17, 40, 1, 64, 22, 100])  # beyond the sliding window of 64, too
    batch = pack(sequences, pad_token=2)
    one_row = in_one_row(batch)
    packed = model(input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False).logits
    flat = model(input_ids=one_row.input_ids, position_ids=one_row.position_ids, use_cache=False).logits
    assert len(batch.input_ids) == 4 and len(one_row.input_ids) == 1
    for sequence in sequences:
        mask = torch.ones(1, len(sequence.tokens), dtype=torch.long)
        alone = model(input_ids=torch.tensor([sequence.tokens]), attention_mask=mask, use_cache=False).logits[0]
        torch.testing.assert_close(packed[batch.slots == sequence.slot], alone, atol=1e-5, rtol=0)
        torch.testing.assert_close(flat[one_row.slots == sequence.slot], alone, atol=1e-5, rtol=0)


def test_in_one_row_the_targets_stay_where_they_are():
    batch = pack(rows([7, 5, 4, 2]), pad_token=2)
    one_row = in_one_row(batch)
    assert torch.equal(one_row.input_ids.flatten()[one_row.positions + 1], batch.targets)
    assert torch.equal(one_row.slots.flatten()[one_row.positions], batch.slots.flatten()[batch.positions])


def test_flash_attention_gets_one_row(monkeypatch):
    """It cannot run here; what matters is the shape, for several packed rows would attend across sequences."""
    model, tokenizer = frozen_tiny()
    work = [job("a lamp", seed=1), job("copper and kelp", seed=2), job("dawn", seed=3)]
    seen = []
    model.register_forward_pre_hook(lambda _, __, named: seen.append(len(named["input_ids"])), with_kwargs=True)
    plain = InnerLoop(**SMALL).adapt(model, tokenizer, work)
    monkeypatch.setattr("seal_lightning.inner_loop.is_flash_attention_requested", lambda config: True)
    flash = InnerLoop(**SMALL).adapt(model, tokenizer, work)
    assert seen == [2, 1]
    torch.testing.assert_close(flash.bank.parameters, plain.bank.parameters, atol=1e-5, rtol=0)


def test_a_step_is_dealt_to_passes_that_stay_below_max_tokens():
    sequences = rows([200, 110, 110, 110] * 6)
    parts = InnerLoop(max_tokens=400)._parts(sequences)
    packed = [pack(part, pad_token=2) for part in parts]
    assert max(batch.input_ids.numel() for batch in packed) <= 400
    assert sorted(s.slot for part in parts for s in part) == list(range(24))
    assert sum(batch.padding for batch in packed) <= 90  # 540 when cut in the order of the slots
    assert [len(part) for part in InnerLoop(max_tokens=1)._parts(rows([3, 9, 5]))] == [1, 1, 1]


def test_jobs_come_in_chunks_and_too_many_at_once_are_refused():
    model, tokenizer = frozen_tiny()
    loop = InnerLoop(**SMALL, max_adapters=2)
    work = [job("a", seed=seed) for seed in range(5)]
    assert [list(chunk) for chunk in loop.chunks(work)] == [work[:2], work[2:4], work[4:]]
    assert loop.chunks([]) == []
    with pytest.raises(ConfigError, match=r"max_adapters must be at least .* got 2 for 3 jobs: .*chunks"):
        loop.adapt(model, tokenizer, work[:3])


def test_stats_and_progress():
    model, tokenizer = frozen_tiny()
    loop = InnerLoop(rank=2, alpha=4, epochs=2, max_length=6)
    work = [job("abc"), job("abcdefghi", "ab", prompt="xy"), job("ab", "cd", "ef", epochs=3, batch_size=2)]
    made = []
    trained = loop.adapt(model, tokenizer, work, on_step=made.append)
    assert [stats.steps for stats in trained.stats] == [2, 4, 6]
    assert made == [3, 3, 2, 2, 1, 1] and sum(made) == loop.total_steps(work)
    # with EOS: 4 tokens; 6 (cut) and 5; three of 3
    assert [stats.trained_tokens for stats in trained.stats] == [8, 22, 27]
    assert [stats.truncated for stats in trained.stats] == [0, 1, 0]
    assert [stats.skipped for stats in trained.stats] == [0, 0, 0]
    assert 0 <= trained.padding < 1


def test_the_loss_is_the_mean_of_the_last_epochs_steps():
    model, tokenizer = frozen_tiny()
    texts = ["a lamp", "copper", "kelp and dawn"]
    trained = InnerLoop(rank=2, alpha=4, learning_rate=1e-12).adapt(model, tokenizer, [job(*texts), job("x", epochs=1)])
    expected = []
    for text in texts:
        tokens = torch.tensor([*tokenizer(text)["input_ids"], tokenizer.eos_token_id])
        logits = model(input_ids=tokens[None], use_cache=False).logits[0]
        expected.append(functional.cross_entropy(logits[:-1], tokens[1:]).item())
    assert trained.stats[0].loss == pytest.approx(sum(expected) / 3, abs=1e-5)
    better = InnerLoop(rank=2, alpha=4, learning_rate=1e-2).adapt(model, tokenizer, [job(*texts)])
    assert better.stats[0].loss < trained.stats[0].loss - 0.5


def test_sequences_without_a_target_are_left_out_and_counted():
    model, tokenizer = frozen_tiny()
    loop = InnerLoop(**SMALL, batch_size=2, append_eos=False, max_length=8)
    mixed = AdapterJob((TrainingSequence(""), TrainingSequence("abcd"), TrainingSequence("y", prompt="x" * 9)), seed=3)
    trained = loop.adapt(model, tokenizer, [mixed, job("abcd", seed=3), job(seed=3), job("", seed=3)])
    assert [stats.skipped for stats in trained.stats] == [2, 0, 0, 1]
    assert [stats.steps for stats in trained.stats] == [1, 1, 0, 0]
    weights = trained.bank.parameters[list(trained.slots)]
    assert torch.equal(weights[0], weights[1])
    assert torch.equal(weights[2], weights[3]) and not torch.equal(weights[0], weights[2])
    fresh = AdapterBank(model, slots=1, rank=2, alpha=4)
    fresh.reset(0, seed=3)
    assert torch.equal(weights[2], fresh.parameters[0])  # nothing to train on: as drawn, which adds nothing
    assert trained.stats[0].loss == pytest.approx(trained.stats[1].loss) and math.isnan(trained.stats[2].loss)
    assert loop.adapt(model, tokenizer, []).stats == ()


def test_an_adapter_does_not_depend_on_its_company_or_place():
    model, tokenizer = frozen_tiny()
    loop = InnerLoop(rank=2, alpha=4, epochs=3, learning_rate=1e-2)
    mine = job("a lamp", "of the tarn", seed=7)
    others = [job("copper", seed=8, epochs=9), job("kelp and dawn", "oil", seed=9, batch_size=2)]
    alone = loop.adapt(model, tokenizer, [mine])
    for together in ([mine, *others], [*others, mine]):
        trained = loop.adapt(model, tokenizer, together)
        slot = trained.slots[together.index(mine)]
        torch.testing.assert_close(trained.bank.parameters[slot], alone.bank.parameters[0], atol=1e-5, rtol=0)


def test_without_clipping():
    model, tokenizer = frozen_tiny()
    work = [job("a lamp", "oil", "copper", seed=1)]
    off = [InnerLoop(**SMALL, gradient_clip=clip).adapt(model, tokenizer, work) for clip in (0.0, None, 1e9)]
    on = InnerLoop(**SMALL, gradient_clip=0.01).adapt(model, tokenizer, work)
    assert torch.equal(off[0].bank.parameters, off[1].bank.parameters)
    assert torch.equal(off[0].bank.parameters, off[2].bank.parameters)
    assert not torch.equal(off[0].bank.parameters, on.bank.parameters)


def test_the_window_of_the_model_limits_the_length():
    model, tokenizer = frozen_tiny(max_positions=16)
    trained = InnerLoop(**SMALL).adapt(model, tokenizer, [job("x" * 40)])
    assert (trained.stats[0].truncated, trained.stats[0].trained_tokens) == (1, 16)
