"""What cards say, that the hub's own library reads it back, and that their code does what is done here."""

import io
import json
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from seal_lightning.data import DatasetRows
from seal_lightning.models.loading import load_model
from seal_lightning.models.lora import merge_lora
from seal_lightning.models.lora_files import read_lora
from seal_lightning.models.origins import Origin
from seal_lightning.models.source import ModelSource
from seal_lightning.policy.policy import Policy
from seal_lightning.sampling import LocalSampler
from seal_lightning.sampling.sampler import SampleRequest
from seal_lightning.sharing import policy_card
from seal_lightning.sharing.card import (
    CardData,
    Result,
    WeightsCard,
    add_results,
    data_named,
    index_card,
    licence_of,
    render,
)
from seal_lightning.sharing.usage import Asking, at, usage
from seal_lightning.tasks import Knowledge
from seal_lightning.tasks.arc import ArcTask

BASE = Origin("org/base", on_hub=True, licence="mit", languages=("en",))


def card_of(folder: Path) -> ModelCard:
    return ModelCard((folder / "README.md").read_text(encoding="utf-8"))


def code_of(text: str) -> str:
    return text.split("```python\n")[1].split("```")[0]


def said_by(code: str) -> str:
    """What the code of a card prints."""
    with redirect_stdout(io.StringIO()) as said:
        exec(compile(code, "card", "exec"), {})
    return said.getvalue()


def test_the_card_of_a_policy_is_read_back(lab_runs):
    data = card_of(lab_runs / "run" / "policy").data
    assert (data.base_model, data.base_model_relation, data.license, data.language) == (
        "lab", "adapter", "apache-2.0", ["en"],
    )  # fmt: skip
    assert (data.library_name, data.pipeline_tag, data.model_name) == ("peft", "text-generation", "run, policy")
    assert data.tags == ["seal-lightning", "self-adapting", "arxiv:2506.10943", "lora"]
    assert [(one.dataset_split, one.metric_name) for one in data.eval_results] == [
        ("validation", "accuracy, before an edit (base)"),
        ("validation", "accuracy, after training on the passage alone (passage)"),
        ("validation", "accuracy, edits before training"),
        ("validation", "accuracy, edits after round 1"),
        ("test", "accuracy, before an edit (base)"),
        ("test", "accuracy, after training on the passage alone (passage)"),
        ("test", "accuracy, edits"),
    ]
    tested = json.loads((lab_runs / "run" / "test.json").read_text())["accuracy"][-1]
    last = data.eval_results[-1]
    assert last.metric_value == round(tested["accuracy"], 4)
    assert (tested["low"], tested["high"]) == (None, None)  # of two contexts
    assert last.metric_args == {"contexts": 2, "queries": 12, "grader": "exact_match"}
    assert (last.dataset_type, last.dataset_name) == ("LabPassages", "LabPassages")


def test_whole_weights_are_a_merge(lab_runs):
    merged = card_of(lab_runs / "run" / "policy-merged")
    assert (merged.data.base_model_relation, merged.data.library_name) == ("merge", "transformers")
    assert "lora" not in merged.data.tags
    assert card_of(lab_runs / "adapted" / "merged" / "town-0").data.base_model_relation == "merge"


def test_cards_and_configurations_name_no_place_of_this_machine(lab_runs):
    for path in (*lab_runs.rglob("README.md"), *lab_runs.rglob("adapter_config.json")):
        assert str(lab_runs) not in path.read_text(encoding="utf-8") and "/weights" not in path.read_text()
    assert len(list(lab_runs.rglob("README.md"))) == 6
    config = json.loads((lab_runs / "run" / "policy" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "lab"


@pytest.mark.parametrize("name", ["policy", "policy-merged"])
def test_the_code_of_a_policys_card_writes_the_edit_that_is_sampled_here(lab_runs, monkeypatch, name):
    monkeypatch.chdir(lab_runs / "run")
    model, tokenizer, chat = load_model(ModelSource("lab"))
    merge_lora(model, read_lora(lab_runs / "run" / "policy"))
    policy, task = Policy(model, tokenizer, chat), Knowledge()
    context = task.example()
    request = SampleRequest(policy.format(task.prompt(context)), context, 0, 0)
    (sample,) = LocalSampler(temperature=0, max_new_tokens=24).sample(policy, [request])
    assert sample.text and said_by(code_of((Path(name) / "README.md").read_text())) == sample.text + "\n"


@pytest.mark.parametrize("name", ["adapters/town-0", "adapters/town-1", "merged/town-0"])
def test_the_code_of_an_adapters_card_gives_the_answer_that_was_measured(lab_runs, monkeypatch, name):
    monkeypatch.chdir(lab_runs / "adapted")
    result = json.loads((Path("adapters") / Path(name).name / "adaptation.json").read_text())
    code = code_of((Path(name) / "README.md").read_text())
    assert json.dumps(result["measured"][0]["questions"][0]) in code
    assert said_by(code) == result["measured"][0]["answers"][0] + "\n"


def test_the_code_asks_through_a_chat_template_as_it_is_rendered_here():
    """With penalties that the model ships, and other texts than those of the card."""
    source = ModelSource("random/llama", chat=True)
    model, tokenizer, chat = load_model(source)
    policy, task = Policy(model.eval(), tokenizer, chat), Knowledge()
    context = task.example()
    asking = Asking(task.prompt(context), {"title": context.title, "passage": context.passage}, max_new_tokens=5)
    text = usage(policy, source, BASE, place="policy", relation="adapter", asking=asking)
    lines = code_of(text).splitlines()
    start = lines.index(next(line for line in lines if line.startswith("title = ")))
    end = next(number for number, line in enumerate(lines) if line.startswith("inputs = "))
    names = {"tokenizer": tokenizer}
    exec("\n".join(lines[start : end + 1]), names)
    assert names["inputs"]["input_ids"][0].tolist() == policy.encode(policy.format(task.prompt(context)))
    assert "chat=True" in text and "The model's chat template has already been applied" in text


def test_a_puzzle_is_asked_about_too():
    source, task = ModelSource("random/llama"), ArcTask()
    policy = Policy(*load_model(source))
    example = task.example()
    text = usage(policy, source, BASE, place="policy", relation="adapter",
                 asking=Asking(task.prompt(example), {"passage": example.passage}, max_new_tokens=5))  # fmt: skip
    assert 'passage = "Input:\\n12\\n34' in text and "+ passage" in text


def test_scores_of_a_split_take_the_place_of_those_before(tmp_path):
    results = [Result("after", 0.5, 0.25, 0.75, 3, 9, "validation")]
    card = WeightsCard("x", "adapter", BASE, "made", sections={"More": "text"}, limits="- few", results=results)
    (tmp_path / "README.md").write_text(render(card))
    for value in (0.1, 0.2):
        results = [Result("edits", value, 0.0, 0.3, 2, 8, "test")]
        assert add_results(tmp_path, results, asked_of=CardData("squad", on_hub=True), grader="f1")
    found = card_of(tmp_path)
    assert [(one.dataset_split, one.metric_value) for one in found.data.eval_results] == [
        ("validation", 0.5), ("test", 0.2),
    ]  # fmt: skip
    assert "| test       | edits | 0.200    | 0.000 – 0.300 | 2        | 8       |" in found.text
    assert (
        found.text.count("## Closed-book accuracy") == 1
        and "## More\n\ntext\n\n## Limitations\n\n- few\n\n## Licence\n\n" in found.text
    )
    assert not add_results(tmp_path / "none", results, asked_of=CardData("squad"), grader="f1")


def test_titles_do_no_harm_and_secrets_do_not_show(monkeypatch):
    monkeypatch.setenv("SEAL_TEST_KEY", "planted-value-1234")
    text = render(WeightsCard("<b>|x\n## y", "adapter", BASE, "planted-value-1234"))
    assert "# &#60;b&#62;&#124;x / ## y\n\n[hidden] Made by `seal fit` of" in text


def test_a_licence_that_is_not_known_is_said(tmp_path):
    assert licence_of(Origin("towns-7b", on_hub=False)) == (
        "The licence of `towns-7b` is not known here: look it up before you pass this on."
    )
    assert ModelCard(render(WeightsCard("x", "adapter", Origin("t", on_hub=False), "m"))).data.license is None


@pytest.mark.parametrize(
    ("reader", "expected"),
    [
        (DatasetRows("rajpurkar/squad"), CardData("rajpurkar/squad", on_hub=True)),
        (DatasetRows("squad"), CardData("squad", on_hub=True)),
        ("/somewhere/else/passages.jsonl", CardData("passages.jsonl")),
        (object(), CardData("object")),
    ],
)
def test_data_is_named_without_its_folder(reader, expected):
    assert data_named(reader) == expected


def test_data_of_the_hub_is_in_the_metadata():
    text = render(WeightsCard("x", "adapter", BASE, "m", datasets=["rajpurkar/squad"]))
    assert ModelCard(text).data.datasets == ["rajpurkar/squad"]


def test_a_card_moves_to_a_repository():
    text = 'WEIGHTS = "policy"  # here\nmodel = PeftModel.from_pretrained(base, WEIGHTS).eval()\n'
    assert at(text, "me/towns", inside="all") == (
        'WEIGHTS = "me/towns"\nmodel = PeftModel.from_pretrained(base, WEIGHTS, subfolder="all").eval()\n'
    )


def test_a_repository_of_several_adapters_has_a_card(lab_runs):
    folders = [(name, lab_runs / "adapted" / "adapters" / name) for name in ("town-0", "town-1")]
    card = ModelCard(index_card("me/towns", folders))
    assert (card.data.base_model, card.data.library_name, card.data.license) == ("lab", "peft", "apache-2.0")
    assert "# towns\n\n2 adapters for `lab`" in card.text and "- [town-1](./town-1/README.md)" in card.text


def test_a_policys_card_names_the_kinds_that_it_writes():
    source = ModelSource("random/llama")
    policy, parts = Policy(*load_model(source)), (LocalSampler(), "policy", "adapter")
    text = policy_card._usage(policy, source, BASE, Knowledge(kinds=["facts", "self-qa", "teacher"]), *parts)
    assert "self-edit of the kind facts (it also writes self-qa, teacher) about a passage" in text
    assert "This asks for a self-edit about a passage" in policy_card._usage(policy, source, BASE, Knowledge(), *parts)
