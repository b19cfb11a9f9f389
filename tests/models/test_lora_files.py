"""Adapters that somebody else has made: what they may not do, each in one line that names the file."""

import json
import os
import pickle
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from seal_lightning.errors import ModelError
from seal_lightning.models.loading import base_name, load_model
from seal_lightning.models.lora_files import base_of, read_lora
from seal_lightning.models.random_models import build_tiny
from seal_lightning.models.source import ModelSource

LAYER = "base_model.model.model.layers.0.self_attn.q_proj"


class WritesMarker:
    """Pickles to an instruction that writes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.write_text, (self.marker, "ran")


def an_adapter(folder: Path, *, weights: dict | None = None, text: str | None = None, **config) -> Path:
    """A LoRA of rank 2 on one layer (8, 8), or one with other weights and settings."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"peft_type": "LORA", "lora_alpha": 4, "base_model_name_or_path": "lab", **config}
    (folder / "adapter_config.json").write_text(json.dumps(settings) if text is None else text)
    if weights is None:
        weights = {f"{LAYER}.lora_A.weight": torch.ones(2, 8), f"{LAYER}.lora_B.weight": torch.ones(8, 2)}
    save_file(weights, folder / "adapter_model.safetensors")
    return folder


def pair(a: torch.Tensor, b: torch.Tensor) -> dict[str, torch.Tensor]:
    return {f"{LAYER}.lora_A.weight": a, f"{LAYER}.lora_B.weight": b}


def test_a_plain_one_is_read(tmp_path):
    lora = read_lora(an_adapter(tmp_path))
    assert (lora.scale, lora.rank, lora.layers) == (2.0, 2, ["model.layers.0.self_attn.q_proj"])


@pytest.mark.parametrize(
    "key", ["q_proj", "^model.layers.0.*", r"layers\.\d+\.self_attn", "(q|k)_proj", "layers.[0-3].x"]
)
def test_usual_expressions_for_layers_are_understood(tmp_path, key):
    expected = 5.0 if key not in (r"layers\.\d+\.self_attn", "layers.[0-3].x") else 2.0  # those match no whole name
    assert read_lora(an_adapter(tmp_path, alpha_pattern={key: 10})).scale == expected


def test_the_rank_is_that_of_the_weights(tmp_path):
    """A rank that is only claimed costs no memory, and a list of expressions for layers is not looked at."""
    claimed = {"r": 10**9, "rank_pattern": {"q_proj": 10**9}, "target_modules": "(a+)+$", "layers_pattern": "(a+)+$"}
    lora = read_lora(an_adapter(tmp_path, **claimed, auto_mapping={"parent_library": "os", "base_model_class": "x"}))
    assert lora.rank == 2


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"alpha_pattern": {"(a+)+$": 2}}, "alpha_pattern: expected names of layers, with .* or \\d+ twice at most"),
        ({"alpha_pattern": {"((a{9999}){9999}){9999}": 2}}, "got '((a{9999}){9999}){9999}': write the layers' names"),
        ({"alpha_pattern": {"(": 2}}, "got '('"),
        ({"alpha_pattern": {".*.*.*x": 2}}, "got '.*.*.*x'"),
        ({"alpha_pattern": {"a" * 301: 2}}, "got 'aaaa"),
        ({"alpha_pattern": {"q_proj": "x"}}, "lora_alpha: expected a number, got 'x'"),
        ({"alpha_pattern": [1]}, "alpha_pattern: expected layers with numbers"),
        ({"lora_alpha": float("nan")}, "lora_alpha: expected a number, got 'nan'"),
        ({"lora_alpha": float("inf")}, "lora_alpha: expected a number, got 'inf'"),
        ({"lora_alpha": True}, "lora_alpha: expected a number, got 'True'"),
        ({"lora_alpha": "8"}, "lora_alpha: expected a number, got '8'"),
        ({"peft_type": "LOHA"}, "expected a plain LoRA, got one with peft_type=LOHA"),
        ({"text": "[1]"}, "expected a configuration of peft, got another JSON value"),
        ({"text": "["}, "adapter_config.json"),
        ({"text": "[" * 100_000}, "adapter_config.json"),
        ({"weights": {}}, "expected the weights of a LoRA, got none"),
        ({"weights": pair(torch.ones(2, 8), torch.ones(8, 3))}, "expected A and B of one rank, got 2 and 3"),
        ({"weights": pair(torch.ones(0, 8), torch.ones(8, 0))}, "expected matrices A and B, got (0, 8) and (8, 0)"),
        ({"weights": pair(torch.ones(2), torch.ones(8, 2))}, "expected matrices A and B, got (2,) and (8, 2)"),
        ({"weights": {f"{LAYER}.lora_A.weight": torch.ones(2, 8)}}, "matrices A and B, got (2, 8) and nothing"),
        ({"weights": {"x" * 301 + ".lora_A.weight": torch.ones(2, 8)}}, "expected names of layers, got 'xxxx"),
        ({"weights": pair(torch.full((2, 8), float("nan")), torch.ones(8, 2))}, f"got nan in {LAYER}.lora_A.weight"),
        ({"weights": pair(torch.ones(2, 8), torch.full((8, 2), float("inf")))}, "got an infinite value in "),
        ({"weights": pair(torch.ones(2, 8, dtype=torch.int64), torch.ones(8, 2))}, "got torch.int64"),
    ],
)  # fmt: skip
def test_what_an_adapter_may_not_say(tmp_path, config, message):
    with pytest.raises(ModelError, match=re.escape(message)) as caught:
        read_lora(an_adapter(tmp_path, **config))
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_a_header_that_claims_more_than_the_file_holds(tmp_path):
    header = json.dumps({"x": {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 4 * 10**18]}}).encode()
    for size in (len(header), 2**63):
        an_adapter(tmp_path)
        (tmp_path / "adapter_model.safetensors").write_bytes(size.to_bytes(8, "little") + header)
        with pytest.raises(ModelError, match=r"expected a PEFT folder with adapter_config\.json and"):
            read_lora(tmp_path)


def test_pickled_weights_are_not_read(tmp_path):
    marker = tmp_path / "MARKER"
    an_adapter(tmp_path / "both")
    an_adapter(tmp_path / "alone")
    (tmp_path / "alone" / "adapter_model.safetensors").unlink()
    for name in ("both", "alone"):
        (tmp_path / name / "adapter_model.bin").write_bytes(pickle.dumps(WritesMarker(marker)))
    assert read_lora(tmp_path / "both").rank == 2
    with pytest.raises(ModelError, match=r"expected a PEFT folder with adapter_config\.json and adapter_model\.safet"):
        read_lora(tmp_path / "alone")
    assert not marker.exists()


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_files_of_an_adapter_are_not_taken_from_elsewhere(tmp_path, name):
    an_adapter(tmp_path / "elsewhere")
    an_adapter(tmp_path / "adapter")
    (tmp_path / "adapter" / name).unlink()
    (tmp_path / "adapter" / name).symlink_to(tmp_path / "elsewhere" / name)
    with pytest.raises(ModelError, match="expected a file of that folder, got a link or a name that leads to"):
        read_lora(tmp_path / "adapter")


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "selection.json"])
def test_a_pipe_in_an_adapter_is_not_waited_for(tmp_path, name):
    an_adapter(tmp_path)
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    with pytest.raises(ModelError, match=f"{name}: expected a file, got a pipe"):
        read_lora(tmp_path)


def test_a_snapshot_of_the_hub_may_link_to_its_blobs(tmp_path):
    blobs = an_adapter(tmp_path / "models--me--adapter" / "blobs")
    snapshot = tmp_path / "models--me--adapter" / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    assert read_lora(snapshot).rank == 2


@pytest.mark.parametrize("option", ["base_model_name_or_path", "revision"])
def test_a_base_is_named_by_a_text(tmp_path, option):
    with pytest.raises(ModelError, match=rf"{option} in adapter_config\.json must be a text, got"):
        base_of(an_adapter(tmp_path, **{option: ["x"]}))


def test_adapters_that_stand_on_one_another_end_in_a_line(tmp_path):
    for name, base in (("a", "b"), ("b", "a"), ("self", "self")):
        an_adapter(tmp_path / name, base_model_name_or_path=str(tmp_path / base))
    for name in ("a", "self"):
        for verb in (load_model, base_name):
            with pytest.raises(ModelError, match="got adapters that name one another as their base"):
                verb(ModelSource(str(tmp_path / name)))


def test_remote_code_is_for_the_repository_that_the_user_names(tmp_path):
    """An adapter names its base; trust in the adapter's repository is not trust in that one."""
    an_adapter(tmp_path, base_model_name_or_path="somebody/with-code")
    with pytest.raises(ModelError, match=r"an adapter that names another \(somebody/with-code\)"):
        load_model(ModelSource(str(tmp_path), trust_remote_code=True))


def test_an_adapter_hidden_in_a_model_is_not_loaded(tmp_path):
    """transformers would load it by its configuration, with its expressions and ranks."""
    model, tokenizer = build_tiny("llama")
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    an_adapter(tmp_path, target_modules="(a+)+$")
    with pytest.raises(ModelError, match=r"got a folder with config\.json and adapter_config\.json"):
        load_model(ModelSource(str(tmp_path)))
