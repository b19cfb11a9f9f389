"""A generator's run in the report, replayed and predicted: what it has is shown, and no empty texts."""

import json
import shutil
from importlib.resources import files
from pathlib import Path

import pytest

from seal_lightning.cli import main
from seal_lightning.m_step.selection import without_merit
from seal_lightning.report.advice import advise
from seal_lightning.report.chapters import sentence_of
from seal_lightning.report.measure import measure
from seal_lightning.report.read import lookup, read
from seal_lightning.types import EditOutcome

CONFIG = """\
trainer: {{default_root_dir: {folder}/run, accelerator: cpu, devices: 1, max_epochs: 2, enable_progress_bar: false}}
checkpoint: {{include_untrained: false}}
model:
  class_path: seal_lightning.generator.GeneratorModule
  init_args:
    source: {{name: random/llama}}
    generator: {{class_path: seal_lightning.generator.FastWeights, init_args: {{rank: 2, alpha: 2.0}}}}
    objective: {{class_path: seal_lightning.generator.EndToEnd, init_args: {{queries: 0.5}}}}
    inner_loop: {{rank: 2, alpha: 4, epochs: 1}}
    grader: f1
    m_step: {{learning_rate: 1.0e-2, epochs: 1, batch_size: 2, schedule: constant}}
    max_answer_tokens: 4
data: {{train: {debug}/passages.jsonl, validation: {debug}/passages-validation.jsonl, predict: {debug}/towns.jsonl}}
"""
DEBUG = Path(str(files("seal_lightning.configs") / "debug"))


def fill(folder):
    (folder / "fit.yaml").write_text(CONFIG.format(folder=folder, debug=DEBUG))
    assert main(["fit", "--config", str(folder / "fit.yaml")]) == 0


@pytest.fixture
def run(once):
    """A run of a generator, two rounds long."""
    return once("generator run", fill) / "run"


def test_the_report_has_rounds_losses_and_contexts_and_no_columns_of_texts(run, tmp_path, capsys):
    assert main(["report", str(run), "--output", str(tmp_path / "about.html")]) == 0
    text, html = (tmp_path / "about.md").read_text(), (tmp_path / "about.html").read_text()
    head = next(line for line in text.splitlines() if line.startswith("| round | mean reward"))
    assert head.endswith("| kept | loss, first | last |") and "tokens of an edit" not in text
    assert "## Best and worst contexts of round 2" in text and "| lost | text |" not in text
    assert "What edits look like" not in html and "Contexts side by side" in html
    assert "without merit" not in text + html and "repeat each other" not in text + html
    assert "Lines that hold a question" not in html
    for line in (line for line in text.splitlines() if line.startswith("| best |")):
        assert line.count("|") == 10


def test_the_first_sentence_says_who_wrote_the_adapters(run):
    measured = measure(read(str(run)))
    assert measured.generates and "with the adapters of a generator, and" in sentence_of(measured)
    titles = {one.title for one in advise(measured)}
    assert not titles & {"Kept edits without merit", "Kept edits repeat each other", "Rewards without spread"}


def test_edits_without_a_text_are_not_called_poor_examples():
    def outcome(text):
        return EditOutcome("c", 0, prompt="", text=text, reward=0.0, score=0.5, baseline=0.5, gain=0.0, repeats=1)

    assert without_merit([outcome(""), outcome("A line.")]) == [outcome("A line.")]


def test_settings_of_a_module_of_any_class_are_found():
    config = {"model": {"class_path": "x.Y", "init_args": {"grader": "f1", "task": {"class_path": "x.Z"}}}}
    found = [
        lookup(config, key) for key in ("model.grader", "model.class_path", "model.task.class_path", "model.other")
    ]
    assert found == ["f1", "x.Y", "x.Z", None]


def test_replay_has_tables_but_no_texts_to_imitate(run, tmp_path, capsys):
    assert main(["replay", str(run)]) == 0
    assert "train-001" in capsys.readouterr().out
    assert main(["replay", str(run), "--sft", str(tmp_path / "sft.jsonl")]) == 2
    assert "expected edits with texts to imitate, got none: a generator writes adapters" in capsys.readouterr().err
    assert not (tmp_path / "sft.jsonl").exists()


def test_a_prediction_has_answers_and_no_texts(run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "run")
    args = ["--config", str(run / "config.yaml"), "--trainer.default_root_dir", str(tmp_path / "run")]
    assert main(["predict", *args, "--ckpt_path", str(run / "checkpoints" / "best.ckpt")]) == 0
    said = capsys.readouterr().out
    assert "answers to 18 queries by 3 adapters" in said and "self-edits" not in said
    assert not (tmp_path / "run" / "edits.jsonl").exists()
    rows = [json.loads(line) for line in (tmp_path / "run" / "answers.jsonl").read_text().splitlines()]
    assert len(rows) == 18


def test_the_card_says_what_a_generator_is_and_how_to_use_it(run):
    card = (run / "policy" / "README.md").read_text()
    for text in ("# run, generator", "A generator for `random/llama`: a network that reads a text in one forward pass",
                 "seal adapt DOCUMENTS --generator policy --output adapted", "library_name: seal-lightning",
                 "| generator  ", "| FastWeights ", "| objective: queries ", "with their queries, in "):  # fmt: skip
        assert text in card
    for text in ("LoRA for", "imitated", "sampler", "0x", "pipeline_tag", "base_model_relation", str(run)):
        assert text not in card


def test_its_generator_writes_adapters(run, tmp_path, capsys):
    documents, output = str(DEBUG / "towns.jsonl"), str(tmp_path / "out")
    assert main(["adapt", documents, "--generator", str(run), "--output", output, "--adapters", "both"]) == 0
    assert "| one each | one for all |" in capsys.readouterr().out
    assert main(["report", output]) == 0
    text = (tmp_path / "out" / "report.md").read_text()
    assert "On 3 documents with queries, the model answers" in text and "| – | – |" in text


def test_whole_weights_of_a_generator_are_refused_before_any_work(run, tmp_path, capsys):
    args = ["--config", str(run / "config.yaml"), "--trainer.default_root_dir", str(tmp_path / "run")]
    assert main(["fit", *args, "--checkpoint.merged", "true"]) == 2
    assert "checkpoint.merged must be false where a generator is trained" in capsys.readouterr().err
    assert not (tmp_path / "run" / "journal").exists()
