"""`seal adapt --generator`: what a generator writes comes out as any adapter does, without edits or training."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from adapted_towns import Break, digests, names, write_inputs
from peft import PeftModel
from transformers import AutoModelForCausalLM

from seal_lightning.commands.adapt import command as adapt
from seal_lightning.commands.adapt import generated, making
from seal_lightning.commands.adapt.folders import RESULT
from seal_lightning.errors import ConfigError, DivergedError, ModelError, StaleJournalError, Stopped
from seal_lightning.generator import FastWeights, MLPGenerator
from seal_lightning.generator.files import SETTINGS, load_generator
from seal_lightning.generator.lessons import text_of
from seal_lightning.generator.merging import members_of
from seal_lightning.generator.policy import GeneratingPolicy, GeneratorPolicy, GeneratorTuning
from seal_lightning.lab import LabPassages
from seal_lightning.models.loading import LAB, load_model
from seal_lightning.models.lora_files import read_lora
from seal_lightning.models.source import ModelSource
from seal_lightning.processes.stopping import StopSignals
from seal_lightning.tasks import Knowledge

MODEL = {"source": {"name": "lab"}, "grader": "exact_match", "max_answer_tokens": 2, "seed": 3}
BOTH = ("--adapters", "both", "--merging", "concatenate")
OWN = {
    "generator": {"class_path": "x.Y"},
    "objective": {"class_path": "x.Z"},
    "inner_loop": {"rank": 2},
    "e_step": {"edits": 3},
}


def write_run(run: Path, generator) -> Path:
    """A run with a generator whose matrices are all drawn, as a fit leaves it."""
    model, tokenizer, chat = load_model(ModelSource(name="lab"))
    made = GeneratorPolicy(model, tokenizer, chat, GeneratorTuning(generator=generator, task=Knowledge()), seed=0)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for matrix in made.network.parameters():
            matrix.add_(0.05 * torch.randn(matrix.shape, generator=draw))
    made.export(run / "policy")
    module = {"class_path": "seal_lightning.generator.GeneratorModule", "init_args": MODEL | OWN}
    (run / "config.yaml").write_text(yaml.safe_dump({"model": module}))
    return run


def run(folder: Path, output: str, *options: str, generator: str = "run") -> None:
    args = ["--generator", str(folder / generator), "--output", str(folder / output)]
    adapt.main([str(folder / "documents.jsonl"), *args, *options])


def fill(folder: Path) -> None:
    write_inputs(folder)
    write_run(folder / "run", FastWeights(rank=4, alpha=4.0))
    run(folder, "whole", *BOTH, "--merged")


@pytest.fixture
def whole(once) -> Path:
    """A folder with the inputs, a run, and what came of it, `whole`."""
    return once("generated", fill)


@pytest.fixture
def fresh(whole, tmp_path) -> Path:
    """The inputs and the run alone."""
    shutil.copytree(whole / "run", tmp_path / "run")
    write_inputs(tmp_path)
    return tmp_path


def policy_of(place: Path) -> GeneratingPolicy:
    model, tokenizer, chat = load_model(ModelSource(name="lab"))
    bare = GeneratorPolicy(model, tokenizer, chat, GeneratorTuning(generator=FastWeights(rank=1)), seed=0).view
    return GeneratingPolicy(model, tokenizer, chat, network=load_generator(place, bare))


# -- what comes out ----------------------------------------------------------------------------------------------------


def test_every_document_has_a_folder_and_all_have_one_together(whole):
    assert len(names(whole / "whole")) == 4 and {"all", "first"} < set(names(whole / "whole"))
    lines = (whole / "whole" / "adapt.md").read_text().splitlines()
    assert [cell.strip() for cell in lines[0].strip("|").split("|")] == [
        "document", "queries", "closed book (before)", "one each", "one for all", "open book"
    ]  # fmt: skip
    assert "- 18 queries, all of which measure; none chooses self-edits." in lines
    result = json.loads((whole / "whole" / "adapters" / "first" / RESULT).read_text())
    assert (result["steps"], result["trained_tokens"], result["loss"]) == (0, 0, None)
    assert len(result["measured"][0]["scores"]) == 6 and "optimizer steps" not in result["learnt"]["why"]
    assert not list((whole / "whole").glob("journal*")) and not list((whole / "whole").glob("training/*"))


def test_an_adapter_is_what_the_generator_writes_about_the_document(whole):
    context = LabPassages("test", count=3).read()[0]
    (document,) = members_of(policy_of(whole / "run"), [text_of(Knowledge(), context)])
    written = read_lora(whole / "whole" / "adapters" / "first")
    assert written.layers == document.lora.layers
    for layer in written.layers:
        torch.testing.assert_close(written.delta(layer), document.lora.delta(layer), atol=1e-6, rtol=1e-4)


def test_the_adapter_of_all_is_the_sum_of_the_changes(whole):
    each = [read_lora(folder) for folder in (whole / "whole" / "adapters").iterdir() if folder.name != "all"]
    merged = read_lora(whole / "whole" / "adapters" / "all")
    for layer in merged.layers:
        torch.testing.assert_close(merged.delta(layer), sum(one.delta(layer) for one in each), atol=1e-5, rtol=1e-3)


def test_adapters_load_in_peft_and_equal_the_merged_weights(whole):
    ids = torch.arange(3, 40)[None]
    plain = AutoModelForCausalLM.from_pretrained(LAB)(ids).logits
    for name in ("first", "all"):
        base = AutoModelForCausalLM.from_pretrained(LAB)
        logits = PeftModel.from_pretrained(base, str(whole / "whole" / "adapters" / name))(ids).logits
        merged = AutoModelForCausalLM.from_pretrained(whole / "whole" / "merged" / name)
        assert not torch.allclose(logits, plain, atol=1e-2)
        torch.testing.assert_close(merged(ids).logits, logits, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("way", ["sum", "least_squares"])
def test_the_other_ways_of_merging_give_other_adapters(whole, fresh, way):
    run(fresh, "out", "--adapters", "all", "--merging", way)
    assert names(fresh / "out") == ["all"]
    one, other = (read_lora(folder / "adapters" / "all") for folder in (whole / "whole", fresh / "out"))
    layer = one.layers[0]
    assert one.layers == other.layers and not torch.allclose(one.delta(layer), other.delta(layer), rtol=1e-2)


def test_a_smaller_rank_is_told_with_what_it_leaves_out(fresh, capsys):
    run(fresh, "out", "--adapters", "all", "--merging_rank", "2")
    assert read_lora(fresh / "out" / "adapters" / "all").rank == 2
    assert "one adapter for all: rank 2 leaves out " in capsys.readouterr().err


def test_a_card_says_that_a_generator_wrote_it(whole):
    card = (whole / "whole" / "adapters" / "all" / "README.md").read_text()
    for text in ("written by a generator that has read the documents once", "3 documents.", "| generator  ",
                 "| FastWeights ", "| merging ", "| concatenate "):  # fmt: skip
        assert text in card
    assert "optimizer steps" not in card and "0x" not in card and str(whole) not in card


# -- being broken off --------------------------------------------------------------------------------------------------


def test_a_run_that_was_broken_off_ends_with_the_same_bits(whole, fresh, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(StopSignals, "check", Break(2))
        with pytest.raises(Stopped):
            run(fresh, "broken", *BOTH)
    assert not (fresh / "broken" / "adapt.md").exists()
    run(fresh, "broken", *BOTH, "--resume")
    assert digests(fresh / "broken") == digests(whole / "whole")
    assert (fresh / "broken" / "adapt.md").read_text() == (whole / "whole" / "adapt.md").read_text()


def test_two_processes_write_the_same_bits(whole, fresh, monkeypatch, capsys):
    monkeypatch.setattr(adapt, "cores", lambda: 2)
    run(fresh, "out", *BOTH)
    assert "the work is done in 2 processes of one thread" in capsys.readouterr().err
    assert digests(fresh / "out") == digests(whole / "whole")


def test_a_finished_run_is_not_generated_again_but_more_documents_are(whole, fresh, monkeypatch):
    shutil.copytree(whole / "whole", fresh / "whole")
    with monkeypatch.context() as patched:
        patched.setattr(making, "generate", None)
        run(fresh, "whole", *BOTH, "--resume", "--merged")
    more = json.dumps({"id": "more", "title": "More", "passage": "Dry Ferry sells wax."})
    with (fresh / "documents.jsonl").open("a") as file:
        file.write(more + "\n")
    run(fresh, "whole", "--adapters", "each", "--resume", "--merged")
    assert "more" in names(fresh / "whole")


def test_another_generator_is_refused_in_the_same_folder(whole, fresh):
    shutil.copytree(whole / "whole", fresh / "whole")
    write_run(fresh / "other", FastWeights(rank=2, alpha=2.0))
    with pytest.raises(StaleJournalError, match=r"generator: was .*, is .*choose another --output"):
        run(fresh, "whole", "--resume", generator="other")


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--policy", "x"], "--generator and --policy were both given: expected one of them"),
        (["--keep", "2"], "--keep does nothing with --generator, which writes adapters without edits or training"),
        (["--learn=passage"], "--learn does nothing with --generator"),
        (["--passage_chars", "500"], "--passage_chars does nothing"),
        (["--model.inner_loop.rank", "4"], "--model.inner_loop.rank does nothing"),
        (["--model.e_step.edits", "4"], "--model.e_step.edits does nothing"),
        (["--together.epochs", "4"], "--together.epochs does nothing"),
        (["--merging_rank", "0"], "merging_rank must be a whole number of at least 1"),
        (["--merging", "mean"], "merging"),
    ],
)
def test_options_without_use_are_refused(fresh, options, reason):
    with pytest.raises(ConfigError, match=reason) as caught:
        run(fresh, "out", *options)
    assert "\n" not in str(caught.value) and not (fresh / "out").exists()


def test_options_of_a_config_file_that_do_nothing_are_told(fresh, caplog):
    run(fresh, "out", "--config", str(fresh / "config.yaml"), "--dry_run")
    told = next(record.message for record in caplog.records if "do nothing" in record.message)
    assert "model.sampler" in told and "together" in told and "contexts_per_unit" in told and "grader" not in told


def test_merging_is_of_a_generator_alone(fresh):
    for option in (["--merging", "sum"], ["--merging_rank=3"]):
        with pytest.raises(ConfigError, match=r"merging.* is of use with --generator alone"):
            adapt.main([str(fresh / "documents.jsonl"), "--output", str(fresh / "out"), *option])


def test_a_run_of_the_other_kind_is_told_apart(fresh):
    with pytest.raises(ConfigError, match="expected a policy that writes texts, got a generator"):
        adapt.main([str(fresh / "documents.jsonl"), "--policy", str(fresh / "run"), "--output", str(fresh / "out")])


def test_another_base_is_refused(fresh):
    with pytest.raises(ModelError, match=r"expected the base model that it was trained with \(lab\), got another"):
        run(fresh, "out", "--model.source.name", "lab-grids")


def test_code_that_a_run_names_is_refused(fresh):
    path = fresh / "run" / "config.yaml"
    content = yaml.safe_load(path.read_text())
    content["model"]["init_args"]["grader"] = {"class_path": "code_of_the_run.Mine"}
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(
        ConfigError, match=r"--generator .*: model.grader: class_path code_of_the_run.Mine in .* names code"
    ):
        run(fresh, "out")


def test_a_long_document_is_read_in_pieces_or_refused(fresh):
    words = " ".join(word for context in LabPassages("test", count=60).read() for word in context.passage.split())
    (fresh / "documents.jsonl").write_text(json.dumps({"id": "long", "title": "Long", "passage": words}) + "\n")
    run(fresh, "out")
    assert names(fresh / "out") == ["long"]
    write_run(fresh / "other", MLPGenerator(rank=2, target_modules=["q_proj"]))
    with pytest.raises(
        ModelError, match=r"context 'long': its text has \d+ tokens, .* MLPGenerator reads a text at once"
    ):
        run(fresh, "other-out", generator="other")
    assert not (fresh / "other-out" / "adapters").exists()


def test_an_adapter_that_is_not_finite_is_not_written(fresh, monkeypatch, capsys):
    spoilt = LabPassages("test", count=3).read()[0].passage

    def documents(policy, texts):
        made = members_of(policy, texts)
        for text, document in zip(texts, made, strict=True):
            if spoilt in text:
                next(iter(document.lora.state.values())).fill_(torch.nan)
        return made

    monkeypatch.setattr(generated, "members_of", documents)
    run(fresh, "out", *BOTH)
    told = capsys.readouterr().err
    assert "first: not written, because the generated adapter is not finite" in told
    assert "first: left out of the adapter for all" in told
    assert "first" not in names(fresh / "out") and "all" in names(fresh / "out")
    (fresh / "documents.jsonl").write_text((fresh / "documents.jsonl").read_text().splitlines()[0] + "\n")
    with pytest.raises(DivergedError, match="none that the generator made is finite"):
        run(fresh, "none", *BOTH)


# -- the rest ----------------------------------------------------------------------------------------------------------


def test_an_estimate_writes_nothing(fresh, capsys):
    run(fresh, "out", "--adapters", "both", "--dry_run")
    text = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("|")[1:3]] for line in text.splitlines()]
    assert ["adapters, generated", "3 documents"] in rows and ["scores before and after", "54 answers"] in rows
    assert "adapters as fast as the first ones" in text and "self-edits" not in text and not (fresh / "out").exists()


def test_a_folder_without_its_run_says_base_and_task(whole, tmp_path):
    write_inputs(tmp_path)
    shutil.copytree(whole / "run" / "policy", tmp_path / "alone")
    run(tmp_path, "out", "--model.grader", "exact_match", "--model.max_answer_tokens", "2", generator="alone")
    one, other = (
        folder / "adapters" / "first" / "adapter_model.safetensors" for folder in (whole / "whole", tmp_path / "out")
    )
    assert one.read_bytes() == other.read_bytes()
    content = json.loads((tmp_path / "alone" / SETTINGS).read_text())
    content["task"] = {"class_path": "code_of_the_run.Tasked"}
    (tmp_path / "alone" / SETTINGS).write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r"model.task: class_path code_of_the_run.Tasked in .* names code"):
        run(tmp_path, "out2", generator="alone")


def test_a_skill_vector_is_added_to_what_a_generator_writes(whole, tmp_path):
    shutil.copytree(whole / "run", tmp_path / "run")
    write_inputs(tmp_path)
    vector = whole / "whole" / "adapters" / "all"
    run(tmp_path, "both", *BOTH, "--skill", str(vector), "--skill_scale", "0.5")
    for name in names(tmp_path / "both"):
        plain, both = (read_lora(place / "adapters" / name) for place in (whole / "whole", tmp_path / "both"))
        for layer in plain.layers:
            expected = plain.delta(layer) + 0.5 * read_lora(vector).delta(layer)
            torch.testing.assert_close(both.delta(layer), expected, rtol=0, atol=1e-5)
