"""True half precision rounds weights and nothing else: positions, LoRAs and AdamW's moments keep their bits."""

import pytest
import torch
from lightning.pytorch.plugins import HalfPrecision
from lightning.pytorch.plugins.precision import DeepSpeedPrecision

from seal_lightning import SEALModule
from seal_lightning.errors import ConfigError
from seal_lightning.m_step.batches import MStep
from seal_lightning.m_step.training import make_optimizer
from seal_lightning.models.loading import load_model
from seal_lightning.models.precision import sparing_float32
from seal_lightning.models.random_models import FAMILIES, build_tiny
from seal_lightning.models.source import ModelSource
from seal_lightning.policy.tuned import PolicyTuning

HALVES = {"bf16-true": torch.bfloat16, "16-true": torch.float16}


def made(name: str, **tuning) -> SEALModule:
    module = SEALModule(ModelSource(name), PolicyTuning(rank=4, **tuning))
    module.configure_model()
    return module


def types(tensors) -> set[torch.dtype]:
    return {tensor.dtype for tensor in tensors if tensor.is_floating_point()}


def frozen(module: SEALModule) -> list[torch.Tensor]:
    return [parameter for parameter in module.parameters() if not parameter.requires_grad]


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3"])
@pytest.mark.parametrize("precision", HALVES)
def test_true_half_precision_of_a_strategy_leaves_buffers_and_lora_alone(family, precision):
    module = made(f"random/{family}")
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    trained = {name: value.detach().clone() for name, value in module.policy.trainable_state().items()}
    assert any("inv_freq" in name for name in before)
    for plugin in (HalfPrecision(precision), DeepSpeedPrecision(precision)):
        plugin.convert_module(module)
        assert types(frozen(module)) == {HALVES[precision]}
        after = dict(module.named_buffers())
        assert all(
            torch.equal(after[name], value) and after[name].dtype == value.dtype for name, value in before.items()
        )
        state = module.policy.trainable_state()
        assert all(
            torch.equal(state[name], value) and state[name].dtype == value.dtype for name, value in trained.items()
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_buffers_of_every_family_survive(family):
    model, _ = build_tiny(family)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with sparing_float32(model):
        model.to(torch.bfloat16)
    assert torch.bfloat16 in types(model.parameters())
    for name, buffer in model.named_buffers():
        assert buffer.dtype == before[name].dtype and torch.equal(buffer, before[name]), name


@pytest.mark.parametrize(("family", "dtype"), [
    ("llama", "bfloat16"), ("qwen2", "bfloat16"), ("gemma3", "bfloat16"), ("deepseek_v3", "bfloat16"),
    ("gpt_oss", "float16"),
])  # fmt: skip
def test_what_is_converted_is_what_transformers_loads_in_that_type(tmp_path, family, dtype):
    model, tokenizer = build_tiny(family)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded, _, _ = load_model(ModelSource(str(tmp_path), dtype=dtype))
    with sparing_float32(model):
        model.to(getattr(torch, dtype))
    expected = {name: value.dtype for name, value in loaded.named_parameters()}
    assert {name: value.dtype for name, value in model.named_parameters()} == expected
    ids = torch.randint(3, 250, (1, 1_001), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        mine, theirs = (one.eval()(input_ids=ids).logits[0, 1_000] for one in (model, loaded))
    assert torch.equal(mine, theirs)


def test_a_random_model_of_a_half_precision_keeps_its_positions():
    model, _, _ = load_model(ModelSource("random/llama", dtype="bfloat16"))
    assert types(model.buffers()) == {torch.float32} and types(model.parameters()) == {torch.bfloat16}


def test_the_moments_of_a_lora_are_float32():
    module = made("random/llama")
    HalfPrecision("bf16-true").convert_module(module)
    optimizer = make_optimizer(module.parameters(), MStep(), device=torch.device("cpu"))
    module.policy.module(input_ids=torch.arange(5, 9)[None], labels=torch.arange(5, 9)[None]).loss.backward()
    optimizer.step()
    assert types(module.policy.trainable_state().values()) == {torch.float32}
    assert types(value for state in optimizer.state.values() for value in state.values()) == {torch.float32}


def test_all_weights_are_halved_where_all_are_trained():
    module = made("random/llama", method="full")
    HalfPrecision("bf16-true").convert_module(module)
    assert types(module.parameters()) == {torch.bfloat16} and types(module.buffers()) == {torch.float32}


def test_more_precision_than_float32_is_kept():
    model, _ = build_tiny("llama")
    with sparing_float32(model):
        model.double()
    assert types([*model.parameters(), *model.buffers()]) == {torch.float64}


@pytest.mark.parametrize(("matmul", "expected"), [("high", "high"), ("medium", "medium"), (None, "highest")])
def test_the_source_says_how_exact_float32_products_are(matmul, expected):
    before = torch.get_float32_matmul_precision()
    try:
        load_model(ModelSource("random/llama", matmul=matmul))
        assert torch.get_float32_matmul_precision() == expected
        assert torch.backends.cuda.matmul.allow_tf32 == (expected != "highest")
    finally:
        torch.set_float32_matmul_precision(before)


def test_another_exactness_is_refused():
    with pytest.raises(ConfigError, match=r"matmul must be highest, high or medium, got 'tf32': leave it out"):
        ModelSource("random/llama", matmul="tf32")  # type: ignore[arg-type]
