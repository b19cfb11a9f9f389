"""Weights on disk have the mode of any new file, whatever the library that writes them does."""

import ast
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from seal_lightning.commands.adapt.training import _save as save_training
from seal_lightning.files.served import save_model, save_tensors
from seal_lightning.models.lora import LoRA, save_lora
from seal_lightning.models.random_models import build_tiny
from seal_lightning.policy.tuned import PolicyTuning, TunedPolicy

ROOT = Path(__file__).resolve().parents[2]
UMASKS = {0o022: 0o644, 0o027: 0o640, 0o077: 0o600}


@pytest.fixture(params=UMASKS, ids=[f"umask {umask:03o}" for umask in UMASKS])
def expected(request) -> Iterator[int]:
    """The mode of new files under each umask, which holds during the test."""
    before = os.umask(request.param)
    yield UMASKS[request.param]
    os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*") if path.is_file()}


def test_tensors(tmp_path, expected):
    save_tensors({"a": torch.zeros(2)}, tmp_path / "a.safetensors", metadata={"format": "pt"})
    assert modes(tmp_path) == {"a.safetensors": expected}


def test_an_adapter_and_its_training(tmp_path, expected):
    model, _ = build_tiny("llama")
    layer = "base_model.model.model.layers.0.self_attn.q_proj"
    state = {f"{layer}.lora_A.weight": torch.zeros(2, 32), f"{layer}.lora_B.weight": torch.zeros(32, 2)}
    save_lora(LoRA(state, 1.0), tmp_path / "adapter", model=model)
    save_training(tmp_path / "training" / "one.safetensors", "stamp", [None])
    assert modes(tmp_path) == dict.fromkeys(
        ["adapter_config.json", "adapter_model.safetensors", "one.safetensors"], expected
    )


@pytest.mark.parametrize("merged", [False, True])
def test_a_policy(tmp_path, expected, merged):
    tuned = TunedPolicy(*build_tiny("llama"), False, PolicyTuning(rank=2, alpha=2.0), seed=0)
    tuned.export(tmp_path, merged=merged)
    found = modes(tmp_path)
    assert ("model.safetensors" if merged else "adapter_model.safetensors") in found
    assert set(found.values()) == {expected}


def test_a_whole_model(tmp_path, expected):
    model, _ = build_tiny("llama")
    save_model(model, tmp_path)
    assert set(modes(tmp_path).values()) == {expected}


def test_nothing_else_writes_weights():
    """The two calls that leave private files stand in one module only."""
    callers = set()
    for path in (ROOT / "seal_lightning").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("save_file", "model.save_pretrained")):
                callers.add(path.name)
    assert callers == {"served.py"}
