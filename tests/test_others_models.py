"""Models and checkpoints that somebody else has made are data: no code of theirs runs, and no pickle is followed."""

import json
import os
import pickle
from pathlib import Path

import pytest
import torch

from seal_lightning.errors import ConfigError, ModelError
from seal_lightning.fit.trainer import SEALTrainer
from seal_lightning.models.loading import load_model
from seal_lightning.models.random_models import build_tiny
from seal_lightning.models.source import ModelSource

CODE = """\
from pathlib import Path
Path({marker!r}).write_text("ran")
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
class C(LlamaConfig):
    model_type = "of_somebody"
class M(LlamaForCausalLM):
    config_class = C
class T(PreTrainedTokenizerFast): pass
"""


@pytest.fixture
def marker(tmp_path) -> Path:
    return tmp_path / "MARKER"


@pytest.fixture
def folder(tmp_path, marker) -> Path:
    """A model with Python beside it."""
    model, tokenizer = build_tiny("llama")
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "evil.py").write_text(CODE.format(marker=str(marker)))
    return tmp_path / "model"


def changed(path: Path, **values) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_python_in_a_model_is_not_run(folder, marker):
    auto = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}
    changed(folder / "config.json", auto_map=auto)
    load_model(ModelSource(str(folder)))  # a kind that transformers knows is made by transformers
    changed(folder / "config.json", model_type="of_somebody")
    with pytest.raises(
        ModelError,
        match=r"config\.json needs Python code that comes with the model, which is not run; read it, and set",
    ) as caught:
        load_model(ModelSource(str(folder)))
    assert "\n" not in str(caught.value) and not marker.exists()


def test_python_in_a_tokenizer_is_not_run(folder, marker):
    changed(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.T", "evil.T"]}, tokenizer_class="T")
    try:
        load_model(ModelSource(str(folder)))
    except ModelError as error:
        assert "\n" not in str(error)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["somebody/kernel", "kernels-community/x:run", "evil"])
def test_a_model_brings_no_attention_of_its_own(folder, marker, name):
    changed(folder / "config.json", attn_implementation=name, _attn_implementation=name)
    try:
        model, _, _ = load_model(ModelSource(str(folder)))
        assert model.config._attn_implementation in ("sdpa", "eager")
    except ModelError as error:
        assert "\n" not in str(error)
    assert not marker.exists()


def test_pickled_weights_of_a_model_are_not_read(folder, marker, writes_marker):
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(writes_marker(marker)))
    torch.save({"x": writes_marker(marker)}, folder / "training_args.bin")
    load_model(ModelSource(str(folder)))
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"the folder holds no weights \(\*\.safetensors\)"):
        load_model(ModelSource(str(folder)))
    assert not marker.exists()


@pytest.mark.parametrize("name", ["evil.bin", "../other.safetensors", ["x"], ""])
def test_an_index_does_not_lead_to_pickled_weights(folder, marker, name, writes_marker):
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    (folder / "evil.bin").write_bytes(pickle.dumps(writes_marker(marker)))
    index = {"metadata": {"total_size": 1}, "weight_map": {"model.embed_tokens.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"index\.json: expected \*\.safetensors files of that folder, got") as caught:
        load_model(ModelSource(str(folder)))
    assert "\n" not in str(caught.value) and not marker.exists()


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "chat_template.jinja", "generation_config.json"])
def test_pipes_and_huge_texts_in_a_model_are_not_read(folder, name):
    (folder / name).unlink(missing_ok=True)
    with (folder / name).open("wb") as file:
        file.truncate((512 << 20) + 1)
    with pytest.raises(ModelError, match=rf"{name}: expected at most 512 MiB, got 512 MiB: download"):
        load_model(ModelSource(str(folder)))
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(ModelError, match=rf"{name}: expected a file, got a pipe: move it away"):
        load_model(ModelSource(str(folder)))


@pytest.mark.parametrize(
    ("values", "claimed"),
    [
        ({"vocab_size": 10**12}, "64,000,000"),
        ({"intermediate_size": 10**12}, "192,000,000"),
        ({"num_hidden_layers": 10**9}, "1,000,000,000 layers"),
    ],
)
def test_a_configuration_that_claims_more_than_there_is(folder, values, claimed):
    """Whatever is missing would be drawn, and fill the memory."""
    changed(folder / "config.json", **values)
    with pytest.raises(ModelError, match=rf"config\.json speaks of {claimed}.*, and the folder holds") as caught:
        load_model(ModelSource(str(folder)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "values", [{"hidden_size": -3}, {"num_hidden_layers": "x"}, {"rope_parameters": 7}, {"dtype": "x"}]
)
def test_a_configuration_that_contradicts_itself_is_a_line(folder, values):
    changed(folder / "config.json", **values)
    with pytest.raises(ModelError, match=r"cannot be loaded: ") as caught:
        load_model(ModelSource(str(folder)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("value", "shown"), [("x", "'x'"), ([1, "x"], "'x'"), ([[1]], "[1]"), (2.5, "2.5")])
def test_what_ends_a_text_is_a_token(folder, value, shown):
    changed(folder / "generation_config.json", eos_token_id=value)
    with pytest.raises(ModelError) as caught:
        load_model(ModelSource(str(folder)))
    assert str(caught.value) == (
        f"model.source.name={folder}: eos_token_id: expected token ids, got {shown}; repair its generation_config.json"
    )


@pytest.mark.parametrize("form", ["pickle", "torch", "torch within"])
def test_a_checkpoint_that_holds_code_is_refused(tmp_path, marker, form, writes_marker):
    path = tmp_path / "checkpoints" / "last.ckpt"
    path.parent.mkdir()
    if form == "pickle":
        path.write_bytes(pickle.dumps(writes_marker(marker)))
    else:
        evil = writes_marker(marker)
        torch.save(evil if form == "torch" else {"seal": {}, "optimizer_states": [evil], "state_dict": {}}, path)
    trainer = SEALTrainer(default_root_dir=str(tmp_path), accelerator="cpu", logger=False)
    with pytest.raises(
        ConfigError, match=r"--ckpt_path last: .*last\.ckpt is damaged, or is not a checkpoint of seal fit"
    ):
        trainer.find_checkpoint("last")
    assert not marker.exists()
