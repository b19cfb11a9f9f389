"""Every file in configs/ goes through the real parser, says how it is launched, and fits its model's architecture."""

import re
from pathlib import Path

import pytest
import yaml
from transformers import AutoModelForCausalLM, Gemma3TextConfig, GPT2Config, GPTNeoXConfig, LlamaConfig, Qwen2Config

from seal_lightning.cli import main
from seal_lightning.fit.strategies import ZeROStrategy
from seal_lightning.inner_loop.loop import InnerLoop
from seal_lightning.models.layers import find_targets
from seal_lightning.policy.tuned import PolicyTuning
from seal_lightning.tasks.arc.edit import ArcLimits, read_edit

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = sorted(
    path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("*") if path.suffix in (".yaml", ".json")
)
DEEPSPEED = [path for path in CONFIGS if path.startswith("configs/deepspeed/")]
SEARCH = "configs/arc/search.yaml"
DISTILLED = "configs/generator/lab-distill.yaml"
STUDIED = [f"configs/study/{name}.yaml" for name in ("rules", "imported", "ensemble")]
OVERLAYS = [*DEEPSPEED, SEARCH, DISTILLED, *STUDIED]  # over one of the others
TABLES = ["configs/prices.yaml", "configs/gpu_prices.yaml"]  # read by an option, no configurations
CONFIGS = [path for path in CONFIGS if path not in [*OVERLAYS, *TABLES]]
OUTSIDE = [path for path in CONFIGS if path.startswith(("configs/adapt/", "configs/continual/"))]  # of a trainer
FITS = [path for path in CONFIGS if path not in OUTSIDE]
DATA = ["--data.train", "configs/debug/passages.jsonl", "--data.validation", "configs/debug/passages-validation.jsonl"]

WIDE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 8}
GROUPED = {**WIDE, "num_key_value_heads": 1}
ARCHITECTURES = {
    r"random/llama|SmolLM2|Llama|^lab(-grids)?$": LlamaConfig(**GROUPED),
    r"Qwen2": Qwen2Config(**GROUPED),
    r"distilgpt2|gpt2": GPT2Config(n_embd=16, n_layer=1, n_head=2, n_inner=16, vocab_size=8),
    r"pythia": GPTNeoXConfig(**WIDE),
    r"gemma-3-270m": Gemma3TextConfig(**GROUPED, head_dim=8),
}


def read(path):
    return yaml.safe_load((ROOT / path).read_text())


def model_of(config):
    """The options of a configuration's model, whatever its class."""
    return config["model"].get("init_args", config["model"])


def architecture(name):
    (config,) = [config for pattern, config in ARCHITECTURES.items() if re.search(pattern, name)]
    return AutoModelForCausalLM.from_config(config)


def test_there_are_some():
    assert {"configs/debug/random.yaml", "configs/debug/random.json", "configs/knowledge/qwen2.5-7b.yaml"} <= {*CONFIGS}


@pytest.mark.parametrize("path", OUTSIDE)
def test_it_parses_outside_a_trainer(monkeypatch, capfd, path):
    monkeypatch.chdir(ROOT)
    assert main([Path(path).parts[1], "--config", path, "--print_config"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert model_of(yaml.safe_load(out))["source"]["name"] == model_of(read(path))["source"]["name"]


@pytest.mark.parametrize("path", FITS)
def test_it_parses(monkeypatch, capfd, path):
    monkeypatch.chdir(ROOT)
    named = read(path)["data"]
    data = [] if "class_path" in named or named.get("train") else DATA
    assert main(["fit", "--config", path, *data, "--print_config"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert model_of(yaml.safe_load(out))["source"]["name"] == model_of(read(path))["source"]["name"]


@pytest.mark.parametrize("path", [path for path in [*CONFIGS, *OVERLAYS] if path.endswith(".yaml")])
def test_its_first_line_launches_it(path):
    first = (ROOT / path).read_text().splitlines()[0]
    base = r"(--config configs/(knowledge|arc|generator|study)/\S+ )?" if path in OVERLAYS else ""
    assert re.match(rf"# (seal|torchrun .*seal|env .*seal) \w+ {base}--config {re.escape(path)}( |$)", first), first


def test_an_overlay_changes_what_the_generator_is_trained_towards(monkeypatch, capfd):
    monkeypatch.chdir(ROOT)
    assert main(["fit", "--config", "configs/generator/lab.yaml", "--config", DISTILLED, "--print_config"]) == 0
    model = model_of(yaml.safe_load(capfd.readouterr().out))
    assert model["objective"]["class_path"] == "seal_lightning.generator.Distill"
    assert "{passage}" in model["objective"]["init_args"]["prompt"]
    assert model["generator"]["class_path"] == "seal_lightning.generator.FastWeights"


@pytest.mark.parametrize("path", STUDIED)
@pytest.mark.parametrize("base", ["smollm2", "gemma3-270m", "lab"])
def test_an_overlay_of_the_study_changes_who_writes_and_how_it_is_read(monkeypatch, capfd, tmp_path, path, base):
    monkeypatch.chdir(ROOT)
    edits = tmp_path / "edits.jsonl"
    edits.write_text('{"context_id": "a", "text": "The bridge was opened in 1874."}\n')
    imported = ["--model.evaluation_sampler.init_args.path", str(edits)] if path.endswith("imported.yaml") else []
    study = ["--config", f"configs/study/{base}.yaml", "--config", path, *imported]
    assert main(["validate", *study, *DATA, "--print_config"]) == 0
    model = yaml.safe_load(capfd.readouterr().out)["model"]
    task = model["task"]["init_args"]
    overlaid = read(path)["model"]["task"]["init_args"]
    assert {name: task[name] for name in overlaid} == overlaid | ({"edit": task["edit"]} if imported else {})
    assert (model["evaluation_sampler"] is not None) == bool(imported)


@pytest.mark.parametrize(("path", "stage"), list(zip(DEEPSPEED, (2, 3, 3), strict=True)))
def test_an_overlay_sets_the_strategy(monkeypatch, capfd, path, stage):
    monkeypatch.chdir(ROOT)
    base = ["--config", "configs/knowledge/qwen2.5-7b.yaml", "--config", path]
    assert main(["fit", *base, *DATA, "--print_config"]) == 0
    strategy = yaml.safe_load(capfd.readouterr().out)["trainer"]["strategy"]
    assert strategy["class_path"] == "seal_lightning.fit.strategies.ZeROStrategy"
    assert strategy["init_args"]["stage"] == stage
    assert ZeROStrategy(**strategy["init_args"]).config["zero_optimization"]["stage"] == stage


@pytest.mark.parametrize("base", [path for path in CONFIGS if path.startswith("configs/arc/")])
def test_a_search_over_any_configuration_of_arc_tries_all_its_edits(monkeypatch, capfd, base):
    monkeypatch.chdir(ROOT)
    assert main(["validate", "--config", base, "--config", SEARCH, "--print_config"]) == 0
    printed = yaml.safe_load(capfd.readouterr().out)
    assert printed["model"]["evaluation_sampler"]["class_path"] == "seal_lightning.sampling.WrittenEdits"
    edits = printed["data"]["init_args"]["validation"]["init_args"]["edits"]
    assert printed["model"]["evaluation"]["edits"] == len(edits) == len({*edits})
    assert [read_edit(edit, ArcLimits())[2] for edit in edits] == [""] * len(edits)


@pytest.mark.parametrize("path", FITS)
def test_its_run_folder_is_its_own(path):
    others = [other for other in FITS if other != path and Path(other).stem != Path(path).stem]
    assert read(path)["trainer"]["default_root_dir"] not in {read(o)["trainer"]["default_root_dir"] for o in others}


@pytest.mark.parametrize("path", CONFIGS)
def test_its_layers_exist_in_the_architecture(path):
    model = model_of(read(path))
    loop, tuning = InnerLoop(**model.get("inner_loop", {})), PolicyTuning(**model.get("tuning", {}))
    found = architecture(model["source"]["name"])
    assert find_targets(found, loop.target_modules)
    assert tuning.method == "full" or find_targets(found, tuning.target_modules)
