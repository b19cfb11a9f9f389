"""Weights are compared with the digests that were recorded beside them, wherever they are read."""

import json

import pytest
import torch

from seal_lightning.cli import main
from seal_lightning.errors import ModelError
from seal_lightning.files.digests import damage, digests_of, read_record, recorded_in
from seal_lightning.models.lora import LoRA, save_lora
from seal_lightning.models.lora_files import read_lora
from seal_lightning.models.random_models import build_tiny
from seal_lightning.policy.tuned import PolicyTuning, TunedPolicy

EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_digests_of_a_folder(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"")
    (tmp_path / "b.json").write_bytes(b"")
    assert digests_of(tmp_path) == {"a.safetensors": EMPTY}
    assert damage(tmp_path, digests_of(tmp_path)) == ""
    (tmp_path / "a.safetensors").write_bytes(b"1")
    assert damage(tmp_path, {"a.safetensors": EMPTY}) == "a.safetensors is not the file that was written there"
    assert damage(tmp_path, {"../gone": EMPTY}) == "gone: No such file or directory"


@pytest.mark.parametrize("content", ["", "[]", '{"sha256": []}', '{"sha256": {"a": 1}}', "{" * 100_000, '{"a": 1}'])
def test_a_record_of_another_form_is_none(tmp_path, content):
    (tmp_path / "adaptation.json").write_text(content)
    assert recorded_in(tmp_path) == {}
    assert read_record([]) == {}


@pytest.fixture
def adapter(tmp_path):
    """An adapter of random/llama with its record, and one bit of it wrong."""
    model, _ = build_tiny("llama")
    layer = "base_model.model.model.layers.0.self_attn.q_proj"
    state = {f"{layer}.lora_A.weight": torch.zeros(2, 32), f"{layer}.lora_B.weight": torch.zeros(32, 2)}
    folder = tmp_path / "run" / "policy"
    save_lora(LoRA(state, 1.0), folder, model=model)
    (folder / "selection.json").write_text(json.dumps({"round": 1, "sha256": digests_of(folder)}))
    read_lora(folder)
    path = folder / "adapter_model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"\x01")
    return folder


def test_an_adapter_with_a_bit_that_fell_over_is_refused(adapter):
    with pytest.raises(ModelError) as caught:
        read_lora(adapter)
    assert str(caught.value) == (
        f"{adapter}: expected the weights that were written there, got damaged ones: adapter_model.safetensors is not "
        "the file that was written there; copy the folder again, or resume the run that wrote it (if you changed them "
        "on purpose, remove sha256 from the JSON there)"
    )
    (adapter / "selection.json").unlink()
    read_lora(adapter)  # of somebody else, who recorded nothing


@pytest.mark.parametrize("option", ["--policy", "--model.source.name"])
def test_it_is_one_line_for_the_commands_that_are_given_it(adapter, tmp_path, capsys, option):
    (tmp_path / "text.md").write_text("The lamp burns oil.")
    given = [option, str(adapter)] + (
        [] if option == "--model.source.name" else ["--model.source.name", "random/llama"]
    )
    assert main(["adapt", str(tmp_path / "text.md"), *given, "--output", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err.splitlines()
    assert [line.startswith(f"seal: {adapter}: expected the weights that were written there") for line in said] == [
        True
    ]


def test_whole_weights_too(tmp_path, capsys):
    folder = tmp_path / "policy-merged"
    TunedPolicy(*build_tiny("llama"), False, PolicyTuning(rank=2, alpha=2.0), seed=0).export(folder, merged=True)
    (folder / "selection.json").write_text(json.dumps({"sha256": digests_of(folder)}))
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    (tmp_path / "text.md").write_text("The lamp burns oil.")
    code = main(
        ["adapt", str(tmp_path / "text.md"), "--model.source.name", str(folder), "--output", str(tmp_path / "o")]
    )
    assert code == 2
    assert "model.safetensors is not the file that was written there" in capsys.readouterr().err
