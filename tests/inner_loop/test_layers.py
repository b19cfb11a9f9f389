"""Adapters of one bank with different layers: each equals one of a model that has adapters in these layers alone."""

import dataclasses

import plain_peft
import pytest
import torch
from peft import PeftModel

from seal_lightning.errors import ConfigError
from seal_lightning.inner_loop.bank import bank_lora
from seal_lightning.inner_loop.loop import InnerLoop
from seal_lightning.inner_loop.plans import trained_layers
from seal_lightning.models.random_models import build_tiny
from seal_lightning.policy.policy import Policy
from seal_lightning.types import AdapterJob, Directives, TrainingSequence

# the clip is far below the norms, so that what is clipped by the norm of all layers would differ
LOOP = InnerLoop(
    rank=4, alpha=8, target_modules="all-linear", learning_rate=5e-3, epochs=3, gradient_clip=0.05, max_tokens=150
)
WORDS = "tarn holm lamp oil copper moth cedar dawn fell barley kelp basalt cliff timber market engineer".split()
CHOICES = ["0", "attention", None, "last half, mlp", "q_proj, query_key_value, c_attn", "no such layer"]
PROBE = "The lamp of the tarn burned until dawn."


def job(number, layers=None):
    text = " ".join(WORDS[number : number + 7])
    sequences = (TrainingSequence(text), TrainingSequence(text[::-1]), TrainingSequence("lamp", prompt=text))
    return AdapterJob(sequences, seed=100 + number, directives=Directives(layers=layers))


def policy_of(family):
    model, tokenizer = build_tiny(family)
    model.requires_grad_(False)
    return Policy(model, tokenizer, chat=False)


def layers_of(loop, policy, asked):
    return trained_layers(policy.model, loop.target_modules, loop.layers, asked)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "gemma"])
def test_equals_one_adapter_in_these_layers_alone(family):
    policy = policy_of(family)
    trained = LOOP.adapt(policy, [job(number, layers) for number, layers in enumerate(CHOICES)])
    everything = [target.name for target in trained.bank.targets]
    probe = torch.tensor([policy.tokenizer(PROBE)["input_ids"]])
    for number, layers in enumerate(CHOICES):
        chosen, ignored = layers_of(LOOP, policy, layers)
        assert ignored == (("layers",) if layers == "no such layer" else ()) == trained.stats[number].ignored
        inside = [name for name in everything if chosen is None or name in chosen]
        assert 0 < len(inside) < len(everything) or chosen is None
        for name in set(everything) - set(inside):
            assert not trained.bank.A[name][number].any() and not trained.bank.B[name][number].any()
        model, tokenizer = build_tiny(family)
        alone = plain_peft.fresh_adapter(model, inside, rank=LOOP.rank, alpha=LOOP.alpha, seed=100 + number)
        plain_peft.train(alone, tokenizer, LOOP, job(number))
        state, expected = bank_lora(trained.bank, number).state, plain_peft.trained_weights(alone)
        assert state.keys() == expected.keys()
        assert max((state[name] - expected[name]).abs().max().item() for name in state) <= 1e-5
        with trained.answering([number]), torch.no_grad():
            assert (policy.model(input_ids=probe).logits - alone(input_ids=probe).logits).abs().max() <= 1e-4


def test_the_layers_of_one_adapter_change_no_other_by_a_bit():
    policy = policy_of("llama")
    mixed = LOOP.adapt(policy, [job(0), job(1, "0, attention"), job(2)])
    plain = LOOP.adapt(policy, [job(0), job(1), job(2)])
    for slot in (0, 2):
        assert torch.equal(mixed.bank.parameters[slot], plain.bank.parameters[slot])
        assert mixed.stats[slot] == plain.stats[slot]
    assert mixed.stats[1].trained_tokens == plain.stats[1].trained_tokens
    assert not torch.equal(mixed.bank.parameters[1], plain.bank.parameters[1])


def test_weight_decay_and_a_stop_leave_other_layers_at_zero():
    loop = dataclasses.replace(LOOP, weight_decay=0.5, max_adapters=1)  # the second job takes the first one's slot
    policy, jobs = policy_of("llama"), [job(0), job(1, "1, mlp")]
    whole = loop.adapt(policy, jobs)
    half = loop.adapt(policy, jobs, until=[4, 4])
    rest = loop.adapt(policy, jobs, start=half.states)
    assert torch.equal(whole.bank.parameters, rest.bank.parameters)
    assert {depth for name in bank_lora(rest.bank, 1).layers for depth in name.split(".") if depth.isdigit()} == {"1"}
    assert all(".mlp." in name for name in bank_lora(rest.bank, 1).layers)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_folder_names_the_trained_layers_and_peft_loads_it(family, tmp_path):
    policy = policy_of(family)
    trained = LOOP.adapt(policy, [job(0, "last 1, attention")])
    trained.save(0, tmp_path)
    chosen, _ = layers_of(LOOP, policy, "last 1, attention")
    probe = torch.tensor([policy.tokenizer(PROBE)["input_ids"]])
    with trained.answering([0]), torch.no_grad():
        expected = policy.model(input_ids=probe).logits
    loaded = PeftModel.from_pretrained(build_tiny(family)[0], str(tmp_path)).eval()
    assert set(loaded.peft_config["default"].target_modules) == chosen
    assert loaded.peft_config["default"].r == LOOP.rank
    with torch.no_grad():
        assert (loaded(input_ids=probe).logits - expected).abs().max() <= 1e-5
        assert (loaded(input_ids=probe).logits - build_tiny(family)[0](input_ids=probe).logits).abs().max() > 1e-4


def test_the_setting_holds_where_an_edit_names_none():
    policy = policy_of("llama")
    loop = dataclasses.replace(LOOP, layers="first half")
    trained = loop.adapt(policy, [job(0), job(1, "attention"), job(2, "nonsense")])
    layers = [bank_lora(trained.bank, number).layers for number in range(3)]
    assert layers[0] == layers[2] == sorted(layers_of(loop, policy, None)[0])
    assert layers[1] == sorted(layers_of(loop, policy, "attention")[0]) != layers[0]
    assert [stats.ignored for stats in trained.stats] == [(), (), ("layers",)]


def test_a_setting_that_names_nothing_is_refused():
    with pytest.raises(ConfigError, match=r"inner_loop.layers must name layers, got 'none': try 0-3"):
        InnerLoop(layers="none")
    loop = dataclasses.replace(LOOP, layers="90-99")
    with pytest.raises(ConfigError, match=r"layers must name some of the layers with adapters .*got '90-99'"):
        loop.adapt(policy_of("llama"), [job(0)])
