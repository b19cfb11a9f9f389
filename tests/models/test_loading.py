"""Loading a base model: from a folder and from nothing, with a pad token, a chat template, and a fingerprint."""

import json

import pytest
import torch

from seal_lightning.errors import ModelError
from seal_lightning.models.loading import fingerprint, load_model
from seal_lightning.models.random_models import build_tiny
from seal_lightning.models.source import ModelSource


@pytest.fixture
def saved(tmp_path):
    """Save a tiny model and its tokenizer; returns the folder."""

    def save(family="llama", **options):
        model, tokenizer = build_tiny(family, **options)
        model.save_pretrained(tmp_path / family)
        tokenizer.save_pretrained(tmp_path / family)
        return tmp_path / family

    return save


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma", "qwen2"])
def test_a_folder_gives_the_model_that_was_saved(saved, family):
    model, tokenizer, chat = load_model(ModelSource(name=str(saved(family))))
    random, _, _ = load_model(ModelSource(name=f"random/{family}"))
    assert fingerprint(model) == fingerprint(random)
    assert tokenizer.decode(tokenizer.encode("Brot")) == "Brot"
    assert chat is False


@pytest.mark.parametrize(("dtype", "expected"), [("auto", torch.float32), ("bfloat16", torch.bfloat16)])
@pytest.mark.parametrize("random", [True, False])
def test_dtype(saved, dtype, expected, random):
    name = "random/llama" if random else str(saved())
    model, _, _ = load_model(ModelSource(name=name, dtype=dtype))
    assert {parameter.dtype for parameter in model.parameters()} == {expected}


@pytest.mark.parametrize("random", [True, False])
def test_attention(saved, random):
    name = "random/llama" if random else str(saved())
    model, _, _ = load_model(ModelSource(name=name, attention="eager"))
    assert model.config._attn_implementation == "eager"


@pytest.mark.parametrize(("template", "asked", "used"), [(True, "auto", True), (True, False, False), (True, True, True), (False, "auto", False)])  # fmt: skip  # noqa: E501
def test_chat(saved, template, asked, used):
    assert bool(load_model(ModelSource(name=str(saved(chat=template)), chat=asked))[2]) is used


def test_the_pad_token_is_eos_where_there_is_none(saved):
    folder = saved()
    edit(folder / "tokenizer_config.json", pad_token=None)
    _, tokenizer, _ = load_model(ModelSource(name=str(folder)))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id


def test_neither_pad_nor_eos(saved):
    folder = saved()
    edit(folder / "tokenizer_config.json", pad_token=None, eos_token=None)
    with pytest.raises(ModelError, match="neither a pad nor an EOS token"):
        load_model(ModelSource(name=str(folder)))


def test_sizes_that_do_not_fit(saved):
    folder = saved()
    edit(folder / "config.json", intermediate_size=64)
    with pytest.raises(ModelError, match=r"weights cannot be loaded: they have other sizes than config\.json says"):
        load_model(ModelSource(name=str(folder)))


def test_pickled_weights_are_not_read(saved):
    folder = saved()
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"holds no weights \(\*\.safetensors\)"):
        load_model(ModelSource(name=str(folder)))


def test_remote_code_is_not_run(saved, tmp_path):
    folder = saved()
    edit(folder / "config.json", model_type="mine", auto_map={"AutoConfig": "mine.Config"})
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ModelError, match=r"config\.json needs Python code that comes with the model, which is not run"):
        load_model(ModelSource(name=str(folder)))
    assert not (tmp_path / "ran").exists()


def test_the_fingerprint_tells_models_apart():
    first, again, other = (build_tiny("llama", seed=seed)[0] for seed in (1, 1, 2))
    assert fingerprint(first) == fingerprint(again) != fingerprint(other)
    with torch.no_grad():
        again.get_input_embeddings().weight[0, 0] += 1
    assert fingerprint(first) != fingerprint(again)
