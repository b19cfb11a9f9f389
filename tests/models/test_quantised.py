"""bitsandbytes bases on the CPU: inner loop, rounds, exports and resuming, against plain peft on the same weights."""

import json
import random
import signal
from typing import Any

import fault_injection
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import set_peft_model_state_dict
from torch.nn import functional
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig

from seal_lightning.cli import main
from seal_lightning.commands.continual.updates import Merged, Stacked
from seal_lightning.errors import ConfigError, ModelError
from seal_lightning.inner_loop.bank import AdapterBank, bank_lora
from seal_lightning.inner_loop.loop import InnerLoop
from seal_lightning.models.loading import fingerprint, load_model
from seal_lightning.models.random_models import build_tiny, byte_tokenizer
from seal_lightning.models.source import ModelSource
from seal_lightning.policy.policy import Policy
from seal_lightning.policy.tuned import PolicyTuning, TunedPolicy
from seal_lightning.sampling.generation import generate
from seal_lightning.types import AdapterJob, TrainingSequence

KINDS = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "fp4": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
    "int8": {"load_in_8bit": True},
}
LOOP = InnerLoop(rank=4, alpha=8, target_modules="all-linear", learning_rate=5e-3, epochs=3, schedule="constant")
PROBE = "The lamp of Vessel burns oil."
TEXTS = ["copper moth", "the tarn burns", "barley and kelp at dawn"]
# int8 layers round their inputs, so a difference in the last bit may become one of a step of 1/127
TOLERANCE = {"nf4": 1e-4, "fp4": 1e-4, "int8": 0.03}


def plain_folder(folder):
    tokenizer = byte_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=2048, initializer_range=0.1, bos_token_id=0, eos_token_id=1,
        pad_token_id=2,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="module")
def plain(once):
    return str(once("quantised-from", plain_folder))


@pytest.fixture(scope="module")
def saved(once, plain):
    """The folder of a quantised model by kind."""

    def fill(kind):
        def quantise(folder):
            config = BitsAndBytesConfig(**KINDS[kind])
            model = AutoModelForCausalLM.from_pretrained(plain, quantization_config=config, dtype=torch.float32)
            model.save_pretrained(folder)
            byte_tokenizer().save_pretrained(folder)

        return quantise

    return lambda kind: str(once(f"quantised-{kind}", fill(kind)))


def load(name, **options):
    model, tokenizer, _ = load_model(ModelSource(name, **options))
    return model.eval().requires_grad_(False), tokenizer


def base_for_peft(name):
    """The quantised base as transformers loads it, without the kernels for CPUs with AVX-512 that round to bfloat16."""
    model = AutoModelForCausalLM.from_pretrained(name)
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010  # no parameter, for pyright
    return model


def logits(model):
    with torch.no_grad():
        return model(input_ids=torch.tensor([byte_tokenizer()(PROBE)["input_ids"]])).logits


def difference(one, other):
    return (one - other).abs().max().item()


def trained_alone(name, job):
    """The adapter of a job the plain way: peft on the quantised model, a sequence a step."""
    model, tokenizer = load(name)
    bank = AdapterBank(model, slots=1, rank=LOOP.rank, alpha=LOOP.alpha, target_modules="all-linear")
    bank.reset(0, seed=job.seed)
    names = [target.name for target in bank.targets]
    peft_model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=names)).eval()
    set_peft_model_state_dict(peft_model, bank_lora(bank, 0).state)
    parameters = {name: value for name, value in peft_model.named_parameters() if value.requires_grad}
    optimizer = torch.optim.AdamW(parameters.values(), lr=LOOP.learning_rate, weight_decay=0.0)
    shuffle, order = random.Random(job.seed), []
    for _ in range(LOOP.epochs):
        epoch = list(range(len(job.training_sequences)))
        shuffle.shuffle(epoch)
        order += epoch
    for index in order:
        tokens = [*tokenizer(job.training_sequences[index].text)["input_ids"], tokenizer.eos_token_id]
        out = peft_model(input_ids=torch.tensor([tokens])).logits[0, :-1]
        functional.cross_entropy(out, torch.tensor(tokens[1:])).backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return {name.replace(".default", ""): value.detach() for name, value in parameters.items()}


def jobs(count):
    texts = [TEXTS[number:] + TEXTS[:number] for number in range(count)]
    return [
        AdapterJob(tuple(TrainingSequence(text) for text in few[: number + 1]), seed=7 + number)
        for number, few in enumerate(texts)
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_together_equal_plain_peft_on_the_quantised_base(saved, kind):
    model, tokenizer = load(saved(kind))
    generate(Policy(model, tokenizer, chat=False), [[5, 6, 7]], max_new_tokens=2)  # answering must not cost gradients
    work = jobs(3)
    trained = LOOP.adapt(Policy(model, tokenizer, chat=False), work)
    assert len(trained.bank.targets) == 14
    for number, job in enumerate(work):
        alone = trained_alone(saved(kind), job)
        state = bank_lora(trained.bank, number).state
        assert state.keys() == alone.keys()
        assert max(difference(state[name], alone[name]) for name in state) <= TOLERANCE[kind]
        assert min(value.abs().max().item() for name, value in state.items() if "lora_B" in name) > 4e-3


def moved(tuned, *, seed):
    """Stand in for an M-step."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in tuned.trainable_state().values():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


def policy_of(name):
    model, tokenizer = load(name)
    return TunedPolicy(model, tokenizer, False, PolicyTuning(rank=4, alpha=6.0), seed=0)


def after_two_rounds(name):
    tuned = policy_of(name)
    for round in range(2):
        moved(tuned, seed=round)
        tuned.end_round(round)
    moved(tuned, seed=2)
    tuned.module.eval()
    return tuned


@pytest.mark.parametrize("kind", KINDS)
def test_rounds_stay_beside_quantised_weights(saved, kind, tmp_path):
    tuned = policy_of(saved(kind))
    packed = {name: value.clone() for name, value in tuned.view.model.named_parameters() if ".lora_" not in name}
    tuned.module.eval()
    start = logits(tuned.module)
    for round in range(2):
        moved(tuned, seed=round)
        before = logits(tuned.module)
        assert tuned.end_round(round) is True
        assert difference(logits(tuned.module), before) <= TOLERANCE[kind]
    assert difference(before, start) > 0.1
    assert all(
        torch.equal(value, packed[name]) for name, value in tuned.view.model.named_parameters() if name in packed
    )

    resumed = policy_of(saved(kind))
    resumed.remerge(tuned.merged)
    resumed.module.eval()
    assert resumed.digest() == tuned.digest()
    assert torch.equal(logits(resumed.module), logits(tuned.module))

    moved(tuned, seed=2)
    tuned.export(tmp_path)
    base = base_for_peft(saved(kind))
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"] == saved(kind)
    loaded = PeftModel.from_pretrained(base, str(tmp_path)).eval()
    assert difference(logits(loaded), logits(tuned.module)) <= 2 * TOLERANCE[kind]
    learned = tuned.learned()
    assert learned is not None and learned.rank == 12


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_whole_weights_are_dequantised(saved, kind, tmp_path):
    tuned = after_two_rounds(saved(kind))
    tuned.export(tmp_path, merged=True)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())
    loaded: Any = AutoModelForCausalLM.from_pretrained(str(tmp_path), output_loading_info=True)
    whole, report = loaded
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert difference(logits(whole.eval()), logits(tuned.module)) <= TOLERANCE[kind] * (1 if kind == "nf4" else 10)


def test_the_adapter_of_a_peft_folder_stays_beside_quantised_weights(saved, tmp_path):
    moved_once = policy_of(saved("nf4"))
    moved(moved_once, seed=1)
    moved_once.export(tmp_path / "adapter")
    model, tokenizer = load(str(tmp_path / "adapter"))
    assert fingerprint(model) != fingerprint(load(saved("nf4"))[0])
    moved_once.module.eval()
    assert difference(logits(model), logits(moved_once.module)) <= 1e-5

    tuned = TunedPolicy(model, tokenizer, False, PolicyTuning(rank=2, alpha=2.0), seed=0)
    moved(tuned, seed=2)
    tuned.end_round(0)
    tuned.export(tmp_path / "both")
    tuned.module.eval()
    loaded = PeftModel.from_pretrained(base_for_peft(saved("nf4")), str(tmp_path / "both")).eval()
    assert difference(logits(loaded), logits(tuned.module)) <= 2e-4
    tuned.export(tmp_path / "whole", merged=True)
    whole = AutoModelForCausalLM.from_pretrained(str(tmp_path / "whole")).eval()
    assert difference(logits(whole), logits(tuned.module)) <= 2e-4


@pytest.mark.parametrize("kind", [Merged, Stacked])
def test_what_a_stream_adds_to_quantised_layers_is_taken_back_to_the_last_bit(saved, kind):
    model, tokenizer = load(saved("nf4"))
    before = logits(model)
    tuned = after_two_rounds(saved("nf4"))
    lora = tuned.learned()
    assert lora is not None
    updates = kind(Policy(model, tokenizer, chat=False))
    updates.add(lora)
    updates.add(lora)
    assert difference(logits(model), before) > 0.1
    updates.clear()
    assert torch.equal(logits(model), before)
    updates.add(lora)
    assert difference(logits(model), logits(tuned.module)) <= 1e-4


def test_a_family_whose_code_reads_packed_weights_is_refused(tmp_path):
    """mamba multiplies with a weight of its own accord."""
    model, tokenizer = build_tiny("mamba")
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"MambaForCausalLM cannot read a few .*; load it without quantisation$"):
        load_model(ModelSource(str(tmp_path), quantization="8bit"))


def test_all_weights_cannot_be_trained(saved):
    with pytest.raises(ConfigError, match=r"model\.tuning\.method=full: the weights of a quantised base"):
        TunedPolicy(*load(saved("nf4")), False, PolicyTuning(method="full"), seed=0)


@pytest.mark.parametrize(("asked", "linear"), [("4bit", "Linear4bit"), ("8bit", "Linear8bitLt"), (KINDS["fp4"], "Linear4bit")])  # fmt: skip  # noqa: E501
def test_quantised_while_loading(plain, asked, linear):
    model, _ = load(plain, quantization=asked)
    assert type(model.model.layers[0].mlp.up_proj).__name__ == linear
    assert fingerprint(model) == fingerprint(load(plain, quantization=asked)[0]) != fingerprint(load(plain)[0])


def test_asked_for_4bit_it_is_as_in_qlora(plain):
    model, _ = load(plain, quantization="4bit", dtype="bfloat16")
    layer = model.model.layers[0].mlp.up_proj
    state = layer.weight.quant_state
    assert (state.quant_type, state.nested, layer.compute_dtype) == ("nf4", True, torch.bfloat16)


def test_what_is_quantised_is_not_quantised_again(saved):
    with pytest.raises(
        ConfigError, match=r"model\.source\.quantization=8bit: .* is quantised already \(bitsandbytes\)"
    ):
        load(saved("nf4"), quantization="8bit")


@pytest.mark.parametrize("name", ["random/llama"])
def test_what_is_not_read_is_not_quantised(name):
    with pytest.raises(ConfigError, match=r"model\.source\.quantization=4bit: random/llama is made on the spot"):
        load(name, quantization="4bit")


def test_an_unknown_quantisation(plain):
    with pytest.raises(ConfigError, match=r"model\.source\.quantization=.*expected 4bit, 8bit, or the options"):
        load(plain, quantization={"load_in_3bit": True})


# -- commands ----------------------------------------------------------------------------------------------------------


def fit(run, name, *options, **trainer):
    options = ("--model.source.name", name, "--model.inner_loop.target_modules", "all-linear", *options)
    return fault_injection.fit(run, "single", *options, trainer=trainer)


def test_a_run_on_a_4bit_base_that_is_killed_again_and_again_resumes_to_the_same_end(saved, once, tmp_path):
    """After the first M-step, after the second E-step, within the second M-step; counts begin anew in each process."""
    whole = once("quantised-run", lambda folder: fault_injection.finished(fit(folder / "run", saved("nf4")))) / "run"
    run, last = tmp_path / "run", []
    for event, count in (("m_step", 1), ("e_step", 1), ("batch", 4)):
        killer = {"class_path": "fault_injection.KillAt", "init_args": {"event": event, "count": count, "number": 9}}
        assert fit(run, saved("nf4"), *last, callbacks=[killer]).wait() == [-signal.SIGKILL], event
        last = ["--ckpt_path", "last"]
    fault_injection.finished(fit(run, saved("nf4"), *last))
    assert fault_injection.outcome(run) == fault_injection.outcome(whole)


def test_a_run_on_an_8bit_base_ends_with_a_policy_of_it(saved, tmp_path):
    fault_injection.finished(fit(tmp_path / "run", saved("int8")))
    config = json.loads((tmp_path / "run" / "policy" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == saved("int8")
    PeftModel.from_pretrained(base_for_peft(saved("int8")), str(tmp_path / "run" / "policy"))


@pytest.mark.parametrize(("setup", "code"), [("ddp", 0), ("zero2", 0), ("zero3", 2)])
def test_ranks_on_a_4bit_base(saved, tmp_path, setup, code):
    launch = fault_injection.fit(tmp_path / "run", setup, "--model.source.name", saved("nf4"))
    assert code in launch.wait(), launch.log.read_text()[-2000:]
    refused = "trainer.strategy.stage must be 1 or 2 where model.source is quantised, got 3" in launch.log.read_text()
    assert refused is (setup == "zero3")
    assert (tmp_path / "run" / "policy" / "adapter_config.json").is_file() is (code == 0)


def test_adapt_writes_adapters_of_a_4bit_base_and_whole_weights(saved, tmp_path):
    document = tmp_path / "bridge.txt"
    document.write_text("The Harrow Bridge was opened in 1874 by the engineer Ida Kolm.\n")
    out = tmp_path / "out"
    options = ["--learn", "passage", "--model.source.name", saved("nf4"), "--model.inner_loop.epochs", "2"]
    assert main(["adapt", str(document), "--output", str(out), *options, "--merged"]) == 0
    (folder,) = (out / "adapters").iterdir()
    adapted = PeftModel.from_pretrained(base_for_peft(saved("nf4")), str(folder)).eval()
    whole = AutoModelForCausalLM.from_pretrained(str(out / "merged" / folder.name)).eval()
    assert difference(logits(whole), logits(adapted)) <= 1e-4
