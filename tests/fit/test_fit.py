"""`seal fit` as a whole on models with random weights: ways of tuning, precisions, rounds that keep nothing."""

import csv
import hashlib
import json
from contextlib import contextmanager

import fault_injection
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from seal_lightning.cli import main
from seal_lightning.m_step.objectives import Imitation
from seal_lightning.models.random_models import build_tiny

LOGGED = {
    "reward/mean",
    "reward/best",
    "reward/std_within_context",
    "e_step/rejected_frac",
    "e_step/kept",
    "e_step/seconds",
    "e_step/adapter_steps_per_s",
    "val/base",
    "val/passage",
    "val/edits",
    "m_step/loss",
}


def fit(run, *options, rounds=1):
    path = run.with_suffix(".json")
    path.write_text(json.dumps(fault_injection.config(run, max_epochs=rounds)))
    return main(["fit", "--config", str(path), *options])


def logged(run):
    texts = [path.read_text() for path in sorted((run / "csv").glob("*/metrics.csv"))]
    rows = [row for text in texts for row in csv.DictReader(text.splitlines())]
    return [{name: float(value) for name, value in row.items() if value} for row in rows]


@pytest.mark.parametrize(
    "options",
    [
        ["--trainer.precision", "bf16-true"],
        ["--trainer.precision", "bf16-mixed"],
        ["--model.source.dtype", "bfloat16"],
        ["--model.tuning.gradient_checkpointing", "true"],
        ["--model.tuning.method", "full"],
        ["--model.source.name", "random/gpt2"],
        ["--model.source.name", "random/qwen3", "--model.source.chat", "true"],
        ["--model.reward", "{gain: 1.0, improved: 0.5}", "--model.grader", "f1"],
        [
            "--model.reward",
            "{score: 1, carry_over: 0.5}",
            "--model.e_step.carry_over_queries",
            "2",
            "--data.contexts_per_unit",
            "2",
        ],
        ["--model.e_step.score_by", "rubric", "--model.e_step.repeats", "1"],
        ["--model.grader", "judge"],
    ],
    ids=lambda options: options[1],
)
def test_a_round_with(tmp_path, options):
    run = tmp_path / "run"
    assert fit(run, *options) == 0
    seen = {name for row in logged(run) for name in row}
    assert seen >= LOGGED
    losses = [row["m_step/loss"] for row in logged(run) if "m_step/loss" in row]
    assert len(losses) == 4 and losses[-1] < losses[0]  # one an optimizer step


def test_two_rounds_log_validation_three_times_and_every_unit_once(two_rounds):
    assert sum("val/edits" in row for row in logged(two_rounds)) == 3
    assert [row["e_step/kept"] for row in logged(two_rounds) if "e_step/kept" in row] == [4.0, 4.0]
    for name in ("train-000", "train-001"):
        rows = (two_rounds / "journal" / f"{name}.rank-0.jsonl").read_text().splitlines()
        assert len(rows) == 1 + 4 * 2 * 2 + 1  # a stamp, rollouts, and what was kept
    assert (two_rounds / "tables" / "round-001.md").read_text().startswith("# Round 2: 8 scored edits, 0 rejected")


def test_continue_keeps_one_adapter_and_the_optimizer(tmp_path):
    run = tmp_path / "run"
    assert fit(run, "--model.tuning.round_start", "continue", rounds=2) == 0
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["seal"]["merged"] == []
    steps = {float(state["step"]) for state in checkpoint["optimizer_states"][0]["state"].values()}
    assert steps == {8.0}  # four optimizer steps a round


def test_fresh_merges_each_round_and_forgets_the_optimizer(two_rounds):
    checkpoint = torch.load(two_rounds / "checkpoints" / "last.ckpt", weights_only=True)
    assert len(checkpoint["seal"]["merged"]) == 2
    assert checkpoint["optimizer_states"][0]["state"] == {}
    assert not any(".base_layer." in name or "embed" in name for name in checkpoint["state_dict"])


def test_a_run_that_keeps_nothing_goes_on_and_changes_nothing(tmp_path, capfd):
    run = tmp_path / "run"
    assert fit(run, "--filter.min_reward", "2", rounds=2) == 0
    assert "no self-edit was kept" in capfd.readouterr().out
    assert [row["e_step/kept"] for row in logged(run) if "e_step/kept" in row] == [0.0, 0.0]
    assert sum("val/edits" in row for row in logged(run)) == 3
    base, tokenizer = build_tiny("llama")
    probe = torch.tensor([tokenizer("The lamp")["input_ids"]])
    expected = base(input_ids=probe).logits
    loaded = PeftModel.from_pretrained(base, str(run / "policy")).eval()
    assert torch.equal(loaded(input_ids=probe).logits, expected)


def test_the_best_policy_is_exported_as_adapter_and_merged(tmp_path):
    run = tmp_path / "run"
    assert fit(run, "--checkpoint.merged", "true", rounds=2) == 0
    base, tokenizer = build_tiny("llama")
    probe = torch.tensor([tokenizer("The lamp")["input_ids"]])
    plain = base(input_ids=probe).logits
    adapted = PeftModel.from_pretrained(base, str(run / "policy")).eval()(input_ids=probe).logits
    merged = AutoModelForCausalLM.from_pretrained(str(run / "policy-merged")).eval()(input_ids=probe).logits
    assert (adapted - merged).abs().max() < 1e-4
    assert (adapted - plain).abs().max() > 1e-3
    values = [row["val/edits"] for row in logged(run) if "val/edits" in row][1:]
    chosen = json.loads((run / "policy" / "selection.json").read_text())
    digest = hashlib.sha256((run / "policy" / "adapter_model.safetensors").read_bytes()).hexdigest()
    assert chosen == {
        "round": 1 + values.index(max(values)),
        "monitor": "val/edits",
        "value": pytest.approx(max(values)),
        "sha256": {"adapter_model.safetensors": digest},
    }
    assert not [path for path in run.rglob("*") if path.suffix in (".bin", ".pt") or path.name.startswith(".saving-")]


def test_fit_without_validation_data(tmp_path, capfd):
    run = tmp_path / "run"
    assert fit(run, "--data.validation", "null") == 0
    assert not any("val/edits" in row for row in logged(run))
    selection = run / "policy" / "selection.json"
    assert json.loads(selection.read_text())["value"] is None
    assert f"best policy: {run / 'policy'}  (round 1)\n" in capfd.readouterr().out
    other = "adapter_model.safetensors is not the file that was written there"
    for damaged, fault in ((selection.with_name("adapter_model.safetensors"), other), (selection, "selection.json: ")):
        damaged.write_bytes(damaged.read_bytes()[:-20])
        assert fit(run, "--data.validation", "null", "--ckpt_path", "last") == 0
        said = capfd.readouterr()
        assert f"{run / 'policy'}: damaged ({fault}" in said.err and "best policy" not in said.out


def test_test_and_predict_from_the_best_checkpoint(tmp_path, capfd):
    run = tmp_path / "run"
    assert fit(run) == 0
    data = str(fault_injection.DEBUG / "passages-validation.jsonl")
    capfd.readouterr()
    config = ["--config", str(run / "config.yaml"), "--ckpt_path", "best"]
    assert main(["test", *config, "--data.test", data]) == 0
    printed = capfd.readouterr().out
    assert [line.split()[1] for line in printed.splitlines()[2:5]] == ["base", "passage", "edits"]
    rows = json.loads((run / "test.json").read_text())["accuracy"]
    assert [(row["contexts"], row["queries"]) for row in rows] == [(2, 4)] * 3
    # the validation of the same contexts by the same policy, but with seeds of its own round
    assert rows[0]["accuracy"] == pytest.approx([row["val/base"] for row in logged(run) if "val/base" in row][-1])
    assert main(["predict", *config, "--data.predict", data]) == 0
    edits = [json.loads(line) for line in (run / "edits.jsonl").read_text().splitlines()]
    assert [edit["edit_index"] for edit in edits] == [0, 1, 0, 1]
    assert main(["validate", *config]) == 0
    assert (run / "validation.md").exists()


def test_the_m_step_goes_forward_and_backward_without_plans_for_attention(tmp_path, monkeypatch):
    inside, seen = [], []

    @contextmanager
    def noted(device):
        inside.append(device)
        yield
        inside.clear()

    plain = Imitation.batch_loss

    def watched(self, model, batch):
        loss, figures = plain(self, model, batch)
        seen.append(("forward", bool(inside)))
        loss.register_hook(lambda grad: seen.append(("backward", bool(inside))))
        return loss, figures

    monkeypatch.setattr("seal_lightning.fit.loop.planless_attention", noted)
    monkeypatch.setattr(Imitation, "batch_loss", watched)
    assert fit(tmp_path / "run") == 0
    assert set(seen) == {("forward", True), ("backward", True)} and inside == []


def test_a_lora_under_true_half_precision_is_saved_in_float32_with_its_moments(tmp_path):
    run = tmp_path / "run"
    assert fit(run, "--trainer.precision", "bf16-true", "--model.tuning.round_start", "continue") == 0
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    moments = [value for state in checkpoint["optimizer_states"][0]["state"].values() for value in state.values()]
    assert {value.dtype for value in (*checkpoint["state_dict"].values(), *moments)} == {torch.float32}
