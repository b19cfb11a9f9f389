"""The inner loop's settings, plans and passes; that its adapters equal peft's is in adapters/test_exactness."""

import math
import re
from dataclasses import asdict

import pytest
import torch
from torch.nn import functional

from seal_lightning.errors import ConfigError, NoMemoryError
from seal_lightning.inner_loop.bank import AdapterBank, SlotState, bank_lora
from seal_lightning.inner_loop.loop import InnerLoop
from seal_lightning.inner_loop.loss import HeadLoss
from seal_lightning.inner_loop.slots import AdapterState
from seal_lightning.models.random_models import build_tiny
from seal_lightning.policy.policy import Policy
from seal_lightning.types import AdapterJob, Directives, Prompt, TrainingSequence

SMALL = {"rank": 2, "alpha": 4.0, "epochs": 1}


def frozen_tiny(family="llama", **options):
    model, tokenizer = build_tiny(family, **options)
    return Policy(model.requires_grad_(False), tokenizer, chat=False)


def job(*texts, seed=1, prompt="", **directives):
    sequences = tuple(TrainingSequence(text, prompt=prompt) for text in texts)
    return AdapterJob(sequences, seed=seed, directives=Directives(**directives))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rank": 0}, "rank must be at least 1, got 0"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"batch_size": -1}, "batch_size must be at least 1"),
        ({"max_adapters": 0}, "max_adapters must be at least 1"),
        ({"max_tokens": 0}, "max_tokens must be at least 1"),
        ({"pad_to": 0}, "pad_to must be at least 1"),
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


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_jobs_that_wait_take_the_slots_of_finished_ones(slots):
    policy = frozen_tiny()
    work = [
        job("a lamp", "oil", seed=1),
        job("copper and kelp", seed=2, epochs=5),
        job("dawn", "tarn", "fell", seed=3, epochs=1),
        job(seed=4),
        job("basalt cliff", seed=5),
    ]
    expected = InnerLoop(rank=2, alpha=4, epochs=3, learning_rate=1e-2).adapt(policy, work)
    made = []
    few = InnerLoop(rank=2, alpha=4, epochs=3, learning_rate=1e-2, max_adapters=slots)
    trained = few.adapt(policy, work, on_step=made.append)
    assert max(made) == slots and sum(made) == few.total_steps(work) == 17
    torch.testing.assert_close(trained.bank.parameters, expected.bank.parameters, atol=1e-5, rtol=0)
    assert [stats.loss for stats in trained.stats[:3]] == pytest.approx([s.loss for s in expected.stats[:3]], abs=1e-4)


def test_no_slot_is_idle_while_jobs_wait():
    policy = frozen_tiny()
    work = [job(*"abcdefgh"[:count], seed=count) for count in (1, 8, 2, 7, 3, 6, 4, 5)]
    made = []
    InnerLoop(rank=2, alpha=4, epochs=1, max_adapters=4).adapt(policy, work, on_step=made.append)
    assert made == [4] * 9  # 36 steps in all


def test_ranks_may_differ_between_jobs():
    policy = frozen_tiny()
    texts = ("a lamp", "of the tarn", "copper")
    ranks = [4, 1, 2]
    loop = InnerLoop(rank=4, alpha=8, epochs=2, learning_rate=1e-2)
    mixed = loop.adapt(policy, [AdapterJob(job(*texts).training_sequences, seed=7, rank=r) for r in ranks])
    for number, rank in enumerate(ranks):
        alone = InnerLoop(rank=rank, alpha=8, epochs=2, learning_rate=1e-2).adapt(policy, [job(*texts, seed=7)])
        state, expected = bank_lora(mixed.bank, number).state, bank_lora(alone.bank, 0).state
        for name, value in expected.items():
            assert state[name].shape == value.shape
            torch.testing.assert_close(state[name], value, atol=1e-5, rtol=0)


class Full:
    """Runs out of memory in forward passes of more than some tokens, as often as it is told."""

    error: Exception = torch.OutOfMemoryError("no memory")

    def __init__(self, model, *, tokens, times):
        self.tokens, self.times, self.seen = tokens, times, []
        model.register_forward_pre_hook(self.check, with_kwargs=True)

    def check(self, module, args, named):
        count = named["input_ids"].numel()
        self.seen.append(count)
        if count > self.tokens and self.times > 0:
            self.times -= 1
            raise self.error


def test_adapters_that_cannot_be_set_aside_are_a_lack_of_memory(monkeypatch):
    """Whoever asked for several adapters then asks for fewer."""

    def dissolve(self, slots):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 7602176 bytes")

    monkeypatch.setattr(AdapterBank, "dissolve", dissolve)
    policy = frozen_tiny()
    loop = InnerLoop(rank=2, alpha=4, epochs=3)
    loop.adapt(policy, [job("a lamp", seed=1)])  # the model has been probed
    monkeypatch.setattr(
        "seal_lightning.inner_loop.slots.HeadLoss", _counted(Full(policy.model.base_model, tokens=0, times=0), 9)
    )
    work = [job("a lamp", "oil", seed=1), job("copper", "kelp", "fell", seed=2)]
    with pytest.raises(NoMemoryError, match=r"^the inner loop has no memory to set 2 adapters aside \(DefaultCPU"):
        loop.adapt(policy, work)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("no memory"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
            "allocate 7602176 bytes. Error code 12 (Cannot allocate memory)"
        ),
        MemoryError(),
    ],
    ids=["gpu", "cpu", "python"],
)
@pytest.mark.parametrize(("tokens", "times", "said"), [(9, 9, "at most 7 tokens"), (0, 3, "1 adapters at a time")])
def test_out_of_memory_costs_no_step(monkeypatch, caplog, error, tokens, times, said):
    monkeypatch.setattr(Full, "error", error)
    work = [job("a lamp", "oil", seed=1), job("copper", "kelp", "fell", seed=2), job("dawn", seed=3)]
    loop = InnerLoop(rank=2, alpha=4, epochs=3, learning_rate=1e-2)
    policy = frozen_tiny()
    expected = loop.adapt(policy, work)
    full = Full(policy.model.base_model, tokens=tokens, times=0)
    monkeypatch.setattr("seal_lightning.inner_loop.slots.HeadLoss", _counted(full, times))
    made = []
    trained = loop.adapt(policy, work, on_step=made.append)
    torch.testing.assert_close(trained.bank.parameters, expected.bank.parameters, atol=1e-5, rtol=0)
    assert sum(made) == loop.total_steps(work) and full.times < times
    assert said in caplog.text


def _counted(full, times):
    """A HeadLoss whose own check at the start does not count: memory runs out in the loop."""

    class Counted(HeadLoss):
        def __init__(self, *args, **named):
            super().__init__(*args, **named)
            full.times = times

    return Counted


def test_memory_for_nothing_is_said(caplog):
    policy = frozen_tiny()
    loop = InnerLoop(**SMALL)
    loop.adapt(policy, [job("a lamp", seed=1)])  # the model has been probed
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "seal_lightning.inner_loop.slots.HeadLoss", _counted(Full(policy.model.base_model, tokens=0, times=0), 99)
        )
        with pytest.raises(NoMemoryError, match=r"no memory for one adapter of rank 2 and a sequence of 7 tokens"):
            loop.adapt(policy, [job("a lamp", seed=1), job("oil", seed=2)])


@pytest.mark.parametrize("rank", [2, 4])
def test_a_bank_that_does_not_fit_gets_half_the_slots_until_it_does(monkeypatch, caplog, rank):
    work = [job("a lamp", "oil", seed=seed) for seed in range(8)]
    loop = InnerLoop(rank=rank, alpha=4, epochs=2, learning_rate=1e-2, max_adapters=8)
    policy = frozen_tiny()
    expected = loop.adapt(policy, work)
    plain = InnerLoop._bank

    def small(self, model, jobs, *, slots, trainable):
        if trainable and slots > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 64 bytes.")
        return plain(self, model, jobs, slots=slots, trainable=trainable)

    monkeypatch.setattr(InnerLoop, "_bank", small)
    trained = loop.adapt(policy, work)
    torch.testing.assert_close(trained.bank.parameters, expected.bank.parameters, atol=1e-5, rtol=0)
    assert "2 adapters at a time from now on" in caplog.text


@pytest.mark.parametrize("rate", [1e38, 3e38])
@pytest.mark.parametrize("clip", [1.0, None])
@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2_moe"])
def test_an_adapter_that_diverges_touches_no_neighbour(family, clip, rate):
    """What the others become, to the tolerance of other company, is what they become without it."""
    policy = frozen_tiny(family)
    loop = InnerLoop(rank=2, alpha=4, epochs=3, learning_rate=1e-2, gradient_clip=clip)
    good = [job("a lamp", "oil", seed=1), job("copper", "kelp", "fell", seed=2)]
    bad = job("dawn", "tarn", seed=3, learning_rate=rate)
    expected = loop.adapt(policy, good)
    trained = loop.adapt(policy, [good[0], bad, good[1]])
    assert [bool(stats.diverged) for stats in trained.stats] == [False, True, False]
    assert math.isnan(trained.stats[1].loss) and 0 < trained.stats[1].steps < 6
    assert [trained.stats[place].steps for place in (0, 2)] == [6, 9]
    torch.testing.assert_close(trained.bank.parameters[[0, 2]], expected.bank.parameters, atol=1e-4, rtol=0)
    assert [trained.stats[place].loss for place in (0, 2)] == pytest.approx([s.loss for s in expected.stats], abs=1e-3)
    assert bool(trained.bank.parameters.isfinite().all())
    assert not any(bool(trained.bank.B[name][1].any()) for name in trained.bank.B)  # it changes nothing


def test_what_diverged_is_named_with_its_step():
    policy = frozen_tiny()
    loop = InnerLoop(rank=2, alpha=4, epochs=3, schedule="constant", learning_rate=3e38)
    (stats,) = loop.adapt(policy, [job("dawn", "tarn", seed=3)]).stats
    assert re.fullmatch(r"the (loss|gradient's norm) is (nan|inf) at step 2 of 6", stats.diverged)
    assert stats.steps == 1


def test_weights_that_overflow_in_the_last_step_are_found():
    policy = frozen_tiny()
    loop = InnerLoop(rank=2, alpha=4, epochs=1, learning_rate=1e39)
    (stats,) = loop.adapt(policy, [job("dawn", seed=3)]).stats
    assert stats.diverged == "the weights are not finite after step 1"


def test_a_gradient_that_overflows_is_not_clipped_to_nothing(monkeypatch):
    """torch scales an infinite norm down to 0: the adapter would stop learning without a word."""
    policy = frozen_tiny()
    plain = AdapterBank.gradient_norms
    monkeypatch.setattr(AdapterBank, "gradient_norms", lambda self, n: plain(self, n) * torch.inf)
    (stats,) = InnerLoop(**SMALL).adapt(policy, [job("dawn", seed=3)]).stats
    assert stats.diverged == "the gradient's norm is inf at step 1 of 1"


def test_parity_with_the_official_padding():
    policy = frozen_tiny()
    trained = InnerLoop(rank=2, alpha=4, learning_rate=1e-12, epochs=1, pad_to=20).adapt(policy, [job("a lamp")])
    tokens = policy.tokenizer("a lamp")["input_ids"]
    ids = torch.tensor([tokens + [policy.tokenizer.eos_token_id] * (20 - len(tokens))])
    logits = policy.model(input_ids=ids, use_cache=False).logits[0]
    assert trained.stats[0].trained_tokens == 20
    assert trained.stats[0].loss == pytest.approx(functional.cross_entropy(logits[:-1], ids[0, 1:]).item(), abs=1e-5)


def test_stats_and_progress():
    policy = frozen_tiny()
    loop = InnerLoop(rank=2, alpha=4, epochs=2, max_length=6)
    work = [job("abc"), job("abcdefghi", "ab", prompt="xy"), job("ab", "cd", "ef", epochs=3, batch_size=2)]
    made = []
    trained = loop.adapt(policy, work, on_step=made.append)
    assert [stats.steps for stats in trained.stats] == [2, 4, 6]
    assert made == [3, 3, 2, 2, 1, 1] and sum(made) == loop.total_steps(work)
    # with EOS: 4 tokens; 6 (cut) and 5; three of 3
    assert [stats.trained_tokens for stats in trained.stats] == [8, 22, 27]
    assert [stats.truncated for stats in trained.stats] == [0, 1, 0]
    assert [stats.skipped for stats in trained.stats] == [0, 0, 0]


def test_the_loss_is_the_mean_of_the_last_epochs_steps():
    policy = frozen_tiny()
    texts = ["a lamp", "copper", "kelp and dawn"]
    trained = InnerLoop(rank=2, alpha=4, learning_rate=1e-12).adapt(policy, [job(*texts), job("x", epochs=1)])
    expected = []
    for text in texts:
        tokens = torch.tensor([*policy.tokenizer(text)["input_ids"], policy.tokenizer.eos_token_id])
        logits = policy.model(input_ids=tokens[None], use_cache=False).logits[0]
        expected.append(functional.cross_entropy(logits[:-1], tokens[1:]).item())
    assert trained.stats[0].loss == pytest.approx(sum(expected) / 3, abs=1e-5)
    better = InnerLoop(rank=2, alpha=4, learning_rate=1e-2).adapt(policy, [job(*texts)])
    assert better.stats[0].loss < trained.stats[0].loss - 0.5


def test_sequences_without_a_target_are_left_out_and_counted():
    policy = frozen_tiny()
    loop = InnerLoop(**SMALL, batch_size=2, append_eos=False, max_length=8)
    mixed = AdapterJob((TrainingSequence(""), TrainingSequence("abcd"), TrainingSequence("y", prompt="x" * 9)), seed=3)
    trained = loop.adapt(policy, [mixed, job("abcd", seed=3), job(seed=3), job("", seed=3)])
    assert [stats.skipped for stats in trained.stats] == [2, 0, 0, 1]
    assert [stats.steps for stats in trained.stats] == [1, 1, 0, 0]
    weights = trained.bank.parameters
    assert torch.equal(weights[0], weights[1])
    assert torch.equal(weights[2], weights[3]) and not torch.equal(weights[0], weights[2])
    fresh = AdapterBank(policy.model, slots=1, rank=2, alpha=4)
    fresh.reset(0, seed=3)
    assert torch.equal(weights[2], fresh.parameters[0])  # nothing to train on: as drawn, which adds nothing
    assert trained.stats[0].loss == pytest.approx(trained.stats[1].loss) and math.isnan(trained.stats[2].loss)
    assert loop.adapt(policy, []).stats == ()


def test_an_adapter_does_not_depend_on_its_company_or_place():
    policy = frozen_tiny()
    loop = InnerLoop(rank=2, alpha=4, epochs=3, learning_rate=1e-2)
    mine = job("a lamp", "of the tarn", seed=7)
    others = [job("copper", seed=8, epochs=9), job("kelp and dawn", "oil", seed=9, batch_size=2)]
    alone = loop.adapt(policy, [mine])
    for together in ([mine, *others], [*others, mine]):
        trained = loop.adapt(policy, together)
        slot = together.index(mine)
        torch.testing.assert_close(trained.bank.parameters[slot], alone.bank.parameters[0], atol=1e-5, rtol=0)


def test_without_clipping():
    policy = frozen_tiny()
    work = [job("a lamp", "oil", "copper", seed=1)]
    off = [InnerLoop(**SMALL, gradient_clip=clip).adapt(policy, work) for clip in (0.0, None, 1e9)]
    on = InnerLoop(**SMALL, gradient_clip=0.01).adapt(policy, work)
    assert torch.equal(off[0].bank.parameters, off[1].bank.parameters)
    assert torch.equal(off[0].bank.parameters, off[2].bank.parameters)
    assert not torch.equal(off[0].bank.parameters, on.bank.parameters)


def test_the_window_of_the_model_limits_the_length():
    policy = frozen_tiny(max_positions=16)
    trained = InnerLoop(**SMALL).adapt(policy, [job("x" * 40)])
    assert (trained.stats[0].truncated, trained.stats[0].trained_tokens) == (1, 16)


def test_the_window_that_limits_the_length_is_the_policys():
    class Narrow(Policy):
        @property
        def window(self):
            return 16

    wide = frozen_tiny()
    trained = InnerLoop(**SMALL).adapt(Narrow(wide.model, wide.tokenizer, chat=False), [job("x" * 40)])
    assert (trained.stats[0].truncated, trained.stats[0].trained_tokens) == (1, 16)


def test_a_training_that_is_stopped_goes_on_exactly():
    policy = frozen_tiny()
    loop = InnerLoop(rank=2, alpha=4, epochs=3, learning_rate=1e-2)
    work = [
        job("a lamp", "oil", seed=1),  # 6 steps
        job("copper and kelp", seed=2, epochs=5),  # 5
        job("dawn", "tarn", seed=3, batch_size=2),  # 3
        job("", seed=4),  # nothing to train on
    ]
    straight = loop.adapt(policy, work)
    assert straight.states == (None,) * 4
    first = loop.adapt(policy, work, until=[4, 4, 4, 4])
    assert [stats.steps for stats in first.stats] == [4, 4, 3, 0]
    assert [state and state.step for state in first.states] == [4, 4, 3, None]
    assert math.isnan(first.stats[0].loss) and first.stats[2] == straight.stats[2]
    # with EOS, "a lamp" has 7 tokens and "oil" 4: two of the three epochs
    assert (first.stats[0].trained_tokens, straight.stats[0].trained_tokens) == (22, 33)
    assert not torch.equal(first.bank.parameters[0], straight.bank.parameters[0])
    made = []
    rest = loop.adapt(policy, work, start=first.states, until=[9] * 4, on_step=made.append)
    assert made == [2, 1]
    assert torch.equal(rest.bank.parameters, straight.bank.parameters)  # bit for bit
    assert rest.stats[:3] == straight.stats[:3]
    again = loop.adapt(policy, work, start=rest.states)
    assert torch.equal(again.bank.parameters, straight.bank.parameters)  # there is nothing left to do


def test_a_stopped_adapter_goes_on_without_its_former_company_and_from_disk(tmp_path):
    policy = frozen_tiny()
    loop = InnerLoop(rank=2, alpha=4, epochs=3, learning_rate=1e-2, max_adapters=2)
    work = [job("a lamp", "oil", seed=1), job("copper", "kelp", seed=2), job("dawn", "fell", seed=3)]
    straight = loop.adapt(policy, work)
    first = loop.adapt(policy, work, until=[2, 2, 2])
    state = first.states[2]
    assert state is not None
    torch.save(asdict(state), tmp_path / "state.pt")
    values = torch.load(tmp_path / "state.pt", weights_only=True)
    read = AdapterState(**{**values, "slot": SlotState(**values["slot"])})
    rest = loop.adapt(policy, [work[2]], start=[read])
    torch.testing.assert_close(rest.bank.parameters[0], straight.bank.parameters[2], atol=1e-5, rtol=0)
    assert rest.stats[0].loss == pytest.approx(straight.stats[2].loss, abs=1e-5)
    assert (rest.stats[0].steps, rest.stats[0].trained_tokens) == (6, straight.stats[2].trained_tokens)


@pytest.mark.parametrize("chat", [True, False])
def test_a_request_is_trained_as_it_is_asked_with_the_loss_on_the_reply(chat):
    model, tokenizer = build_tiny("llama")
    if chat:
        tokenizer.chat_template = (
            "{% for message in messages %}<{{ message.role }}>{{ message.content }}{{ eos_token }}{% endfor %}"
            "{% if add_generation_prompt %}<assistant>{% endif %}"
        )
    policy = Policy(model.requires_grad_(False), tokenizer, chat=chat)
    asked = Prompt("Who?", lead="\nAnswer:", system="Be brief.")
    plan = InnerLoop(**SMALL).plan(policy, AdapterJob((TrainingSequence("Ada", asked=asked),), seed=1))
    (encoded,) = plan.sequences
    assert encoded.tokens[: encoded.prompt] == policy.encode(policy.format(asked))
    assert encoded.tokens[encoded.prompt :] == policy.encode_reply("Ada" if chat else " Ada")
    assert policy.encoder.decode(encoded.told).strip() == "Ada"
    assert encoded.tokens[-1] == tokenizer.eos_token_id


def test_what_a_template_puts_before_a_reply_is_given_to_learner_and_teacher():
    model, tokenizer = build_tiny("llama")
    tokenizer.chat_template = (
        "{% for message in messages %}<{{ message.role }}>"
        "{% if message.role == 'assistant' %}<think></think>{% endif %}"
        "{{ message.content }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    policy = Policy(model.requires_grad_(False), tokenizer, chat=True)
    assert policy.reply_opening
    asked, source = Prompt("Who?"), Prompt("Read this.")
    sequence = TrainingSequence("Ada", asked=asked, source=source)
    loop = InnerLoop(**SMALL, objective="distill")
    (encoded,) = loop.plan(policy, AdapterJob((sequence,), seed=1)).sequences
    request = [*policy.encode(policy.format(asked)), *policy.reply_opening]  # as a sampler continues it
    assert encoded.tokens[: encoded.prompt] == request
    read = policy.encode(policy.format(source))
    assert encoded.source == [*read, *request[len(policy.encoder.opening) :]]
    assert policy.encoder.decode(encoded.told) == "Ada"
