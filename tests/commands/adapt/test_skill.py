"""`seal adapt --skill`: adapters are trained without a run's skill vector, and it is added to them exactly."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from adapted_towns import Break, digests, write_inputs
from peft import PeftModel
from transformers import AutoModelForCausalLM

from seal_lightning.cli import main
from seal_lightning.commands.adapt import command as adapt
from seal_lightning.commands.adapt.folders import RESULT
from seal_lightning.commands.adapt.skill import read_skill
from seal_lightning.errors import ConfigError, ModelError, StaleJournalError, Stopped
from seal_lightning.models.layers import find_targets
from seal_lightning.models.loading import LAB, fingerprint, load_model
from seal_lightning.models.lora import LoRA, save_lora
from seal_lightning.models.lora_files import read_lora
from seal_lightning.models.random_models import build_tiny
from seal_lightning.models.source import ModelSource
from seal_lightning.policy.policy import Policy
from seal_lightning.processes.stopping import StopSignals
from seal_lightning.stamps.run import Record, save_record

LAYERS = ["q_proj", "down_proj"]


def drawn(model, layers=LAYERS, size=0.02):
    draw = torch.Generator().manual_seed(1)
    state = {}
    for target in find_targets(model, layers):
        for part, shape in {"A": (3, target.inputs), "B": (target.outputs, 3)}.items():
            name = f"base_model.model.{target.name}.lora_{part}.weight"
            state[name] = (size if part == "B" else 1.0) * torch.randn(shape, generator=draw)
    return LoRA(state, 2.0)


def write_run(run: Path) -> Path:
    """A run whose policy is drawn, as a fit leaves it."""
    model, _, _ = load_model(ModelSource(name="lab"))
    save_lora(drawn(model), run / "policy", model=model)
    save_record(run, Record({"base": fingerprint(model)}))
    return run


def run(folder: Path, output: str, *options: str) -> None:
    config = ["--config", str(folder / "config.yaml"), "--output", str(folder / output)]
    adapt.main([str(folder / "documents.jsonl"), *config, *options])


def skilled(folder: Path, output: str, *options: str) -> None:
    run(folder, output, "--skill", str(folder / "editor"), *options)


def fill(folder: Path) -> None:
    write_inputs(folder)
    write_run(folder / "editor")
    run(folder, "plain")
    skilled(folder, "half", "--skill_scale", "0.5", "--merged")


@pytest.fixture
def whole(once) -> Path:
    """The inputs, a run, and adapters without and with half of its skill vector."""
    return once("skill", fill)


def result(folder: Path, name="first"):
    return json.loads((folder / "adapters" / name / RESULT).read_text())


@pytest.mark.parametrize("name", ["first", "all"])
def test_an_adapter_holds_both_exactly(whole, name):
    plain, half, vector = (
        read_lora(whole / place) for place in (f"plain/adapters/{name}", f"half/adapters/{name}", "editor/policy")
    )
    assert half.rank == plain.rank + vector.rank
    assert half.layers == sorted({*plain.layers, *vector.layers})
    for layer in half.layers:
        expected = sum(
            scale * lora.delta(layer) for lora, scale in ((plain, 1.0), (vector, 0.5)) if layer in lora.layers
        )
        torch.testing.assert_close(half.delta(layer), expected, rtol=0, atol=1e-6)


def test_it_loads_in_peft_and_equals_the_merged_weights(whole):
    ids = torch.arange(3, 40)[None]
    base = AutoModelForCausalLM.from_pretrained(LAB)
    loaded = PeftModel.from_pretrained(base, str(whole / "half" / "adapters" / "first")).eval()
    merged = AutoModelForCausalLM.from_pretrained(whole / "half" / "merged" / "first")
    torch.testing.assert_close(merged(ids).logits, loaded(ids).logits, atol=1e-3, rtol=1e-3)


def test_answers_are_recorded_without_and_with_it(whole):
    (plain,), (half,) = result(whole / "plain")["measured"], result(whole / "half")["measured"]
    assert half["alone"]["answers"] == plain["answers"] and half["alone"]["scores"] == plain["scores"]
    assert half["before"] == plain["before"] and "alone" not in plain
    assert result(whole / "half")["skill"] == {"run": "editor", "scale": 0.5}
    change = 100 * (sum(half["scores"]) - sum(plain["scores"])) / 3
    said = f"with the skill vector of editor times 0.5: {change:+.1f} points".replace("-", "−")
    assert said in result(whole / "half")["learnt"]["how"]
    assert "with the skill vector of editor times 0.5: " in (whole / "half" / "adapt.md").read_text()
    assert "skill" not in (whole / "plain" / "adapt.md").read_text()


def test_card_and_report_say_it(whole, tmp_path):
    card = (whole / "half" / "adapters" / "first" / "README.md").read_text()
    assert "After its training, the skill vector of editor times 0.5 was added to it." in card
    assert "| skill vector " in card and "| skill scale " in card and str(whole) not in card
    main(["report", str(whole / "half"), "--output", str(tmp_path / "report.html")])
    assert "to which the skill vector of editor times 0.5 was added" in (tmp_path / "report.html").read_text()


def test_a_run_that_was_broken_off_ends_with_the_same_bits(whole, tmp_path, monkeypatch):
    write_inputs(tmp_path)
    shutil.copytree(whole / "editor", tmp_path / "editor")
    with monkeypatch.context() as patched:
        patched.setattr(StopSignals, "check", Break(5))
        with pytest.raises(Stopped):
            skilled(tmp_path, "broken", "--skill_scale", "0.5")
    skilled(tmp_path, "broken", "--skill_scale", "0.5", "--resume")
    assert digests(tmp_path / "broken") == digests(whole / "half")
    assert (tmp_path / "broken" / "adapt.md").read_text() == (whole / "half" / "adapt.md").read_text()


def test_another_vector_is_not_added_to_a_folder(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "copy")
    for options in (["--skill_scale", "1.0"], []):
        with pytest.raises(StaleJournalError, match="skill"):
            skilled(tmp_path / "copy", "half", *options, "--resume")
    with pytest.raises(StaleJournalError, match="skill"):
        run(tmp_path / "copy", "half", "--resume")


# -- what is refused ---------------------------------------------------------------------------------------------------


def lab_policy():
    model, tokenizer, chat = load_model(ModelSource(name="lab"))
    return Policy(model.eval().requires_grad_(False), tokenizer, chat)


def test_another_base_is_refused_by_the_runs_record(tmp_path):
    write_run(tmp_path / "editor")
    save_record(tmp_path / "editor", Record({"base": "another"}))
    with pytest.raises(ModelError, match=r"--skill .*: expected the base model that the policy was trained on"):
        read_skill(str(tmp_path / "editor"), 1.0, lab_policy())


def test_another_base_is_refused_by_name_where_there_is_only_a_folder(tmp_path):
    model, _ = build_tiny("llama")
    save_lora(drawn(model), tmp_path / "folder", model=model)
    with pytest.raises(ModelError, match=r"trained on \(random/llama\), got another \(lab\): set model.source"):
        read_skill(str(tmp_path / "folder"), 1.0, lab_policy())


def test_another_shape_is_refused(tmp_path):
    write_run(tmp_path / "editor")
    model, _ = build_tiny("llama")
    save_lora(drawn(model), tmp_path / "editor" / "policy", model=model)
    with pytest.raises(ModelError, match=r"--skill .*: expected an adapter that fits the model \(model.layers.0"):
        read_skill(str(tmp_path / "editor"), 1.0, lab_policy())


def test_a_folder_without_a_vector_is_refused(tmp_path):
    (tmp_path / "run" / "policy").mkdir(parents=True)
    with pytest.raises(ConfigError, match="expected a run of seal fit with a policy, or a PEFT folder, got none"):
        read_skill(str(tmp_path / "run"), 1.0, lab_policy())
    (tmp_path / "run" / "policy" / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"got whole weights, whose difference .* is as large as the model"):
        read_skill(str(tmp_path / "run"), 1.0, lab_policy())


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--skill", "x", "--skill_scale", "0"], "--skill_scale must be a number other than 0, got 0.0: try 0.5"),
        (["--skill_scale", "0.5"], "skill_scale is of use with --skill alone"),
        (["--skill", "x", "--policy", "y"], "--skill and --policy were both given: expected one of them"),
    ],
)
def test_options_that_do_not_go_together(tmp_path, options, complaint):
    write_inputs(tmp_path)
    with pytest.raises(ConfigError, match=complaint):
        run(tmp_path, "out", *options)
    assert not (tmp_path / "out").exists()
