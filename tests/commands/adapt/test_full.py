"""`seal adapt --tuning full`: one model with all weights trained, and that being broken off changes nothing."""

import json

import pytest
import torch
from adapted_towns import Break, write_inputs
from transformers import AutoModelForCausalLM

from seal_lightning.commands.adapt import command as adapt
from seal_lightning.errors import ConfigError, DivergedError, Stopped
from seal_lightning.models.loading import LAB
from seal_lightning.processes.stopping import StopSignals

TOGETHER = "{learning_rate: 1.0e-3, epochs: 4, batch_size: 2}"


def run(folder, output, *options):
    config = folder / "full.yaml"
    lines = (folder / "config.yaml").read_text().splitlines()
    kept = [line for line in lines if not line.startswith(("together", "adapters", "save_every"))]
    config.write_text("\n".join([*kept, f"together: {TOGETHER}", "adapters: all", "tuning: full", "save_every: 2", ""]))
    adapt.main([str(folder / "documents.jsonl"), "--config", str(config), "--output", str(folder / output), *options])


def fill(folder):
    write_inputs(folder)
    run(folder, "whole")


@pytest.fixture
def whole(once):
    return once("adapt-full", fill)


def weights(folder):
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def test_a_model_folder_comes_of_it_that_knows_the_documents(whole):
    model, base = weights(whole / "whole" / "weights" / "all"), weights(LAB)
    assert model.keys() == base.keys()
    assert all(not torch.equal(value, base[name]) for name, value in model.items() if "proj" in name)
    result = json.loads((whole / "whole" / "weights" / "all" / "adaptation.json").read_text())
    assert result["steps"] == 4 * 7 and result["own_text"]["after"] < 0.7 * result["own_text"]["before"]
    assert not (whole / "whole" / "adapters").exists()
    card = (whole / "whole" / "weights" / "all" / "README.md").read_text()
    assert "base_model_relation: finetune" in card and "| learning_rate " in card and "| rank " not in card
    assert "AutoModelForCausalLM.from_pretrained(WEIGHTS" in card


def test_its_folder_is_a_source_of_other_commands(whole, capsys):
    source = str(whole / "whole" / "weights" / "all")
    run(whole, "unused", "--model.source.name", source, "--learn", "passage", "--dry_run")
    told = capsys.readouterr().out
    assert "all weights" in told and "to train them all (gradients, AdamW, float32 copies)" in told


@pytest.mark.parametrize("moment", [6, 12])
def test_a_training_that_was_broken_off_ends_with_the_same_bits(whole, tmp_path, monkeypatch, moment):
    write_inputs(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(StopSignals, "check", Break(moment))
        with pytest.raises(Stopped):
            run(tmp_path, "broken")
    assert list((tmp_path / "broken" / "training").iterdir())
    run(tmp_path, "broken", "--resume")
    mine, other = (weights(folder / "weights" / "all") for folder in (tmp_path / "broken", whole / "whole"))
    assert all(torch.equal(value, mine[name]) for name, value in other.items())
    results = [(f / "weights" / "all" / "adaptation.json").read_text() for f in (tmp_path / "broken", whole / "whole")]
    assert results[0] == results[1]
    assert not list((tmp_path / "broken" / "training").iterdir())


def test_a_finished_model_is_not_trained_again(whole, monkeypatch, capsys):
    monkeypatch.setattr("seal_lightning.commands.adapt.whole.whole_training", None)
    run(whole, "whole", "--resume")
    assert "one for all" in capsys.readouterr().out


def test_a_training_that_diverges_writes_no_model(tmp_path, capsys):
    write_inputs(tmp_path)
    with pytest.raises(
        DivergedError, match=r"lower model\.inner_loop\.learning_rate \(one for all: together\.learning_rate"
    ):
        run(tmp_path, "out", "--learn", "passage", "--together.learning_rate", "1e30")
    assert not (tmp_path / "out" / "weights").exists()
    assert "all: not written, because its training diverged (" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--adapters", "both"], "trains one model on all documents: expected --adapters all, got both"),
        (["--skill", "elsewhere"], "--skill adds to an adapter, and --tuning full makes none"),
        (["--merged"], "--merged does nothing with --tuning full"),
        (["--together.rank", "8"], "together.rank is about a LoRA, and --tuning full trains all weights: leave it out"),
        (["--together.objective", "distill"], "together.objective: a teacher stays as it is"),
        (["--model.source.quantization", "4bit"], "the weights of a quantised base cannot be trained"),
    ],
)
def test_what_has_no_meaning_is_refused(tmp_path, options, message):
    write_inputs(tmp_path)
    with pytest.raises(ConfigError, match=message):
        run(tmp_path, "out", "--learn", "passage", *options)
