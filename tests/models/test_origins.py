"""What is known of a base model: its name on the hub, licence and language, and what is not made up."""

import json

import pytest
from huggingface_hub import ModelCard
from peft import PeftConfig

from seal_lightning.cli import main
from seal_lightning.models.loading import load_model
from seal_lightning.models.lora import LoRA, save_lora
from seal_lightning.models.origins import Origin, hub_name, is_hub_name, origin_of
from seal_lightning.models.random_models import build_tiny
from seal_lightning.models.source import ModelSource
from seal_lightning.sharing.card import base_of_source


def a_model(folder, *, config=None, card=None):
    """A folder that looks like a model's."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config or {}))
    if card is not None:
        (folder / "README.md").write_text(card)
    return str(folder)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("org/name", True),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", True),
        ("gpt2", False),
        ("random/llama", False),
        ("/models/x", False),
        ("./models", False),
        ("~/x", False),
        ("a/b/c", False),
        ("folder/model.gguf", False),
        ("org/na me", False),
        ("org/../x", False),
    ],
)
def test_names_on_the_hub(name, expected):
    assert is_hub_name(name) is expected


def test_a_folder_of_the_hubs_cache_has_its_repositorys_name_and_commit(tmp_path):
    place = tmp_path / "hub" / "models--org--some-model" / "snapshots" / "abc123"
    folder = a_model(place, card="---\nlicense: apache-2.0\nlanguage:\n- en\n- no\n---\n# x\n")
    assert origin_of(folder) == Origin("org/some-model", True, "abc123", "apache-2.0", languages=("en", "no"))
    (tmp_path / "link").symlink_to(place)
    assert hub_name(str(tmp_path / "link")) == ("org/some-model", "abc123")


def test_a_folders_configuration_names_it(tmp_path):
    assert hub_name(a_model(tmp_path / "base", config={"_name_or_path": "org/some-model"})) == ("org/some-model", None)
    for number, name in enumerate(["/scratch/x", "models/", "", 3]):
        assert hub_name(a_model(tmp_path / str(number), config={"_name_or_path": name})) is None


def test_what_a_fine_tuned_model_started_from_is_not_its_own_name(tmp_path):
    config = {"_name_or_path": "org/some-model"}
    trained = a_model(tmp_path / "trained", config=config)
    (tmp_path / "trained" / "training_args.bin").touch()
    said = a_model(tmp_path / "said", config=config, card="---\nbase_model: org/some-model\n---\n")
    assert hub_name(trained) is None and hub_name(said) is None
    assert origin_of(said) == Origin("said", False, made_from=("org/some-model",))


def test_a_card_that_mentions_a_model_called_like_its_folder(tmp_path):
    card = '---\nlicense: mit\n---\nUse `from_pretrained("org/some-model")` or https://huggingface.co/org/some-model.\n'
    assert hub_name(a_model(tmp_path / "some-model", card=card)) == ("org/some-model", None)
    assert hub_name(a_model(tmp_path / "mine", card=card)) is None


def test_licences_of_their_own(tmp_path):
    card = "---\nlicense: other\nlicense_name: llama3\nlicense_link: https://example.org/licence\nlanguage: de\n---\n"
    found = origin_of(a_model(tmp_path / "base", card=card))
    assert (found.licence, found.licence_name, found.licence_link, found.languages) == (
        "other", "llama3", "https://example.org/licence", ("de",),
    )  # fmt: skip
    assert origin_of(a_model(tmp_path / "other", config={"license": "mit"})).licence == "mit"


@pytest.mark.parametrize(
    "card", ["", "no metadata", "---\n: [\n---\n", "---\n- a\n---\n", "---\nlicense: 3\n---\n", "---\nlicense: mit\n"]
)
def test_a_card_without_a_licence_tells_none(tmp_path, card):
    assert origin_of(a_model(tmp_path / "base", card=card)) == Origin("base", False)


def test_a_link_that_leads_out_of_the_folder_is_not_read(tmp_path):
    (tmp_path / "elsewhere.md").write_text("---\nlicense: mit\n---\n")
    folder = a_model(tmp_path / "base")
    (tmp_path / "base" / "README.md").symlink_to(tmp_path / "elsewhere.md")
    assert origin_of(folder).licence is None


def test_models_of_this_package_are_under_its_licence():
    assert base_of_source(ModelSource("lab")) == Origin("lab", False, licence="apache-2.0", languages=("en",))
    assert base_of_source(ModelSource("random/llama")) == Origin("random/llama", False, licence="apache-2.0")


def test_a_name_that_cannot_be_asked_about_has_no_licence():
    assert origin_of("somebody/unheard-of-model-4711", "main") == Origin("somebody/unheard-of-model-4711", True, "main")


@pytest.fixture
def cached(tmp_path):
    """A model as it lies in the hub's cache."""
    place = tmp_path / "hub" / "models--org--tiny" / "snapshots" / "abc123"
    model, tokenizer = build_tiny("llama")
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    (place / "README.md").write_text("---\nlicense: mit\n---\n# tiny\n")
    return place


def test_an_adapter_on_a_local_folder_names_the_hub_and_still_finds_the_folder(cached, tmp_path, monkeypatch):
    """What is written names the hub; a run of ours goes on from where its configuration says the base lies."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bridge.txt").write_text("The Harrow Bridge was opened in 1874.\n")
    options = ["--learn", "passage", "--model.inner_loop.epochs", "1", "--output", "out"]
    assert main(["adapt", "bridge.txt", "--model.source.name", str(cached), *options]) == 0
    (folder,) = (tmp_path / "out" / "adapters").iterdir()
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/tiny", "abc123")
    assert PeftConfig.from_pretrained(str(folder)).base_model_name_or_path == "org/tiny"
    card = (folder / "README.md").read_text()
    assert (ModelCard(card).data.base_model, ModelCard(card).data.license) == ("org/tiny", "mit")
    assert str(tmp_path) not in card
    assert 'base = AutoModelForCausalLM.from_pretrained("org/tiny", dtype="auto", revision="abc123")' in card
    model, _, _ = load_model(ModelSource(str(folder)))  # offline: the hub has no such model
    save_lora(LoRA({k: v for k, v in _lora_of(folder).items()}, 1.0), tmp_path / "again", model=model)
    assert json.loads((tmp_path / "again" / "adapter_config.json").read_text())["base_model_name_or_path"] == "org/tiny"


def _lora_of(folder):
    from seal_lightning.models.lora_files import read_lora

    return read_lora(folder).state
