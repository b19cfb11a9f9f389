"""`seal adapt` on the lab: what comes out, that it loads elsewhere, and that being broken off changes nothing."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from adapted_towns import CONFIG, Break, digests, names, write_inputs
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from seal_lightning.commands.adapt import command as adapt
from seal_lightning.commands.adapt import folders, making
from seal_lightning.errors import ConfigError, DataError, DivergedError, ModelError, StaleJournalError, Stopped
from seal_lightning.inner_loop.loop import InnerLoop
from seal_lightning.lab import LabPassages
from seal_lightning.models.loading import LAB
from seal_lightning.processes.stopping import StopSignals


def run(folder: Path, output: str, *options: str) -> None:
    config = ["--config", str(folder / "config.yaml"), "--output", str(folder / output)]
    adapt.main([str(folder / "documents.jsonl"), *config, *options])


def fill(folder: Path) -> None:
    write_inputs(folder)
    run(folder, "whole", "--merged")


@pytest.fixture
def whole(once) -> Path:
    """A folder with the inputs and a finished run, `whole`."""
    return once("adapt", fill)


def test_every_document_has_a_folder_and_all_have_one_together(whole):
    """An id that would lead elsewhere, or be taken for the adapter of all, gets another name."""
    found = names(whole / "whole")
    assert len(found) == 4 and found[0].startswith("all-") is False
    assert {"all", "first"} < set(found)
    assert sorted(name.rsplit("-", 1)[0] for name in set(found) - {"all", "first"}) == ["all", "second"]
    assert not (whole / "second").exists()


def test_scores_before_and_after_stand_in_the_table(whole):
    lines = (whole / "whole" / "adapt.md").read_text().splitlines()
    head = [cell.strip() for cell in lines[0].strip("|").split("|")]
    assert head == ["document", "queries", "closed book (before)", "one each", "one for all", "open book"]
    # below the table which queries measured, unrelated questions of both kinds, and what each of them learnt
    assert len(lines) == 2 + 3 + 2 + (1 + 3) + (1 + 3)
    result = json.loads((whole / "whole" / "adapters" / "first" / folders.RESULT).read_text())
    (row,) = result["measured"]
    first = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert first[1:4] == ["3", f"{sum(row['before']['scores']) / 3:.3f}", f"{sum(row['scores']) / 3:.3f}"]
    assert first[5] == f"{sum(row['open_book']['scores']) / 3:.3f}" and row["chose"] == 3
    assert result["steps"] > 0 and result["loss"] > 0
    assert 0 < result["own_text"]["after"] < result["own_text"]["before"]
    assert result["learnt"]["how"].endswith("paired over 3 queries of 1 document")


def test_adapters_load_in_peft_and_equal_the_merged_weights(whole):
    ids = torch.arange(3, 40)[None]
    base = AutoModelForCausalLM.from_pretrained(LAB)
    plain = base(ids).logits
    for name in ("first", "all"):
        loaded = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(LAB), str(whole / "whole" / "adapters" / name)
        )
        merged = AutoModelForCausalLM.from_pretrained(whole / "whole" / "merged" / name)
        logits = loaded(ids).logits
        assert not torch.allclose(logits, plain, atol=1e-2)
        torch.testing.assert_close(merged(ids).logits, logits, atol=1e-3, rtol=1e-3)


def test_a_card_says_what_an_adapter_is(whole):
    card = (whole / "whole" / "adapters" / "all" / "README.md").read_text()
    assert card.startswith("---\nbase_model: lab\n")
    for text in (
        "3 passages, 3 self-edits by the model itself, ",
        "| before ",
        "| rank ",
        "Licence of the documents: not stated",
    ):
        assert text in card
    assert str(whole) not in card
    assert (whole / "whole" / "merged" / "all" / "README.md").read_text().count("library_name: transformers") == 1


def test_a_card_holds_no_secret_of_the_process(tmp_path, monkeypatch):
    monkeypatch.setenv("SEAL_TEST_KEY", "planted-value-1234")
    write_inputs(tmp_path)
    run(tmp_path, "out", "--learn", "passage", "--adapters", "all", "--data_licence", "planted-value-1234")
    card = (tmp_path / "out" / "adapters" / "all" / "README.md").read_text()
    assert card.endswith("Licence of the documents: [hidden].\n")


@pytest.mark.parametrize("moment", [1, 4, 5, 7])  # between units; between kinds of answers; within a training
def test_a_run_that_was_broken_off_ends_with_the_same_bits(whole, tmp_path, monkeypatch, moment):
    write_inputs(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(StopSignals, "check", Break(moment))
        with pytest.raises(Stopped):
            run(tmp_path, "broken")
    assert not (tmp_path / "broken" / "adapt.md").exists()
    if moment in (4, 5):
        kept = json.loads((tmp_path / "broken" / "baseline.json").read_text())
        assert [*kept] == ["answered", "open_book"][: moment - 3]
    if moment > 5:
        assert list((tmp_path / "broken" / "training").iterdir())
    run(tmp_path, "broken", "--resume")
    assert digests(tmp_path / "broken") == digests(whole / "whole")
    assert not list((tmp_path / "broken" / "training").iterdir())
    assert (tmp_path / "broken" / "adapt.md").read_text() == (whole / "whole" / "adapt.md").read_text()


def test_two_processes_that_are_stopped_within_a_training_end_with_the_same_bits(whole, tmp_path, monkeypatch, capsys):
    """This process waits with its first unit until a worker has begun the other one."""
    write_inputs(tmp_path)
    log, training = tmp_path / "log", tmp_path / "broken" / "training"
    sampler = f"{{class_path: planned_sampler.PlannedSampler, init_args: {{plan: {{log: {log}, events: [], waits: "
    sampler += "{'1': 1}}, max_new_tokens: 24}}"
    monkeypatch.setattr(adapt, "cores", lambda: 2)

    def check(signals: StopSignals) -> None:
        if training.is_dir() and list(training.iterdir()):
            raise Stopped(15)

    with monkeypatch.context() as patched:
        patched.setattr(StopSignals, "check", check)
        with pytest.raises(Stopped):
            run(tmp_path, "broken", "--model.sampler", sampler)
    assert "the work is done in 2 processes of one thread" in capsys.readouterr().err
    assert len(log.read_text().splitlines()) == 1 and list(training.iterdir())
    run(tmp_path, "broken", "--resume", "--model.sampler", sampler)
    assert digests(tmp_path / "broken") == digests(whole / "whole")
    assert (tmp_path / "broken" / "adapt.md").read_text() == (whole / "whole" / "adapt.md").read_text()


def test_a_finished_run_is_not_trained_again(whole, tmp_path, monkeypatch, capsys):
    shutil.copytree(whole / "whole", tmp_path / "whole")
    write_inputs(tmp_path)
    monkeypatch.setattr(making, "train", None)
    run(tmp_path, "whole", "--resume")
    assert (whole / "whole" / "adapt.md").read_text().startswith(capsys.readouterr().out)


def test_a_folder_of_other_settings_is_refused(whole, tmp_path):
    shutil.copytree(whole / "whole", tmp_path / "whole")
    write_inputs(tmp_path)
    with pytest.raises(ConfigError, match="expected a new folder, got one with files: add --resume"):
        run(tmp_path, "whole")
    with pytest.raises(StaleJournalError, match=r"sampler.temperature: was 1.0, is 0.5\); choose another --output"):
        run(tmp_path, "whole", "--resume", "--model.sampler.temperature", "0.5")
    with pytest.raises(
        StaleJournalError, match=r"run.json: written with other settings \(together.epochs: was 2, is 3"
    ):
        run(tmp_path, "whole", "--resume", "--together.epochs", "3")
    assert (tmp_path / "whole" / "config.yaml").read_bytes() == (whole / "whole" / "config.yaml").read_bytes()


def test_only_a_folder_of_the_command_is_resumed(whole, tmp_path):
    write_inputs(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("# seal fit --config run/config.yaml\n")
    with pytest.raises(ConfigError, match="expected a folder of seal adapt, got another"):
        run(tmp_path, "run", "--resume")


def test_what_is_missing_or_asked_anew_is_made_on_resume(tmp_path):
    """An id that looks like the unfinished folder of another takes nothing from it."""
    write_inputs(tmp_path)
    rows = [{"id": name, "passage": f"They say that Dry Ferry sells {name}."} for name in ("wax", "wax.new")]
    (tmp_path / "documents.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["--learn", "passage", "--adapters", "each", "--model.inner_loop.max_adapters", "1"]
    run(tmp_path, "out", *options)
    assert names(tmp_path / "out") == ["wax", "wax.new"]
    assert not (tmp_path / "out" / "adapt.md").read_text().startswith("|")  # no table, since nothing was asked
    first = digests(tmp_path / "out")
    query = {"document": "wax", "question": "What does Dry Ferry sell?", "answer": "wax"}
    (tmp_path / "queries.jsonl").write_text(json.dumps(query) + "\n")
    run(tmp_path, "out", *options, "--resume", "--merged", "--queries", str(tmp_path / "queries.jsonl"))
    assert "| wax " in (tmp_path / "out" / "adapt.md").read_text()
    assert sorted(one.name for one in (tmp_path / "out" / "merged").iterdir()) == ["wax", "wax.new"]
    second = digests(tmp_path / "out")
    weights = [key for key in first if key.endswith(".safetensors")]
    assert [first[key] for key in weights] == [second[key] for key in weights] and len(weights) == 2


def test_documents_and_policy_may_stand_in_the_configuration(whole, tmp_path, capsys):
    config = CONFIG + f"documents: [{whole / 'documents.jsonl'}]\noutput: {tmp_path / 'out'}\nlearn: passage\n"
    (tmp_path / "config.yaml").write_text(config)
    adapt.main(["--config", str(tmp_path / "config.yaml"), "--dry_run"])
    assert "one for all" in capsys.readouterr().out
    (tmp_path / "config.yaml").write_text(config + "policy: nowhere\n")
    with pytest.raises(ConfigError, match="--policy nowhere"):
        adapt.main(["--config", str(tmp_path / "config.yaml"), "--dry_run"])


def test_passages_alone_are_learnt_without_a_journal(whole, tmp_path):
    write_inputs(tmp_path)
    run(tmp_path, "passages", "--learn", "passage", "--adapters", "all")
    assert names(tmp_path / "passages") == ["all"]
    assert not (tmp_path / "passages" / "journal").exists()
    assert "3 passages, 3 training sequences" in (tmp_path / "passages" / "adapters" / "all" / "README.md").read_text()


def test_without_queries_all_edits_are_taken_or_the_first(whole, tmp_path, capsys):
    """The lab's policy writes no queries of its own, so nothing can choose among its edits."""
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "documents.jsonl").write_text('{"passage": "They say that Dry Ferry is led by Irving."}\n')
    run(tmp_path, "best", "--adapters", "each")
    assert "1 edit, none rewarded" in (said := capsys.readouterr().err) and "no answers were measured" in said
    run(tmp_path, "every", "--adapters", "each", "--keep", "null")
    assert "2 edits, none rewarded" in capsys.readouterr().err


@pytest.fixture
def vault(tmp_path) -> Path:
    """A folder with one note that can be learnt, beside the configuration."""
    write_inputs(tmp_path)
    folder = tmp_path / "vault"
    folder.mkdir()
    context = LabPassages("test", count=1).read()[0]
    (folder / "note.md").write_text(f"---\ntitle: A note\n---\n{context.passage}\n")
    (folder / "empty.md").write_text("")
    (folder / "photo.png").write_bytes(b"\x89PNG\0")
    return folder


def adapt_folder(folder: Path, *options: str) -> Path:
    output = folder.parent / "out"
    config = ["--config", str(folder.parent / "config.yaml"), "--output", str(output)]
    adapt.main([str(folder), *config, "--learn", "passage", "--adapters", "all", *options])
    return output


def test_what_a_folder_held_besides_is_written_down(vault, capsys):
    output = adapt_folder(vault)
    assert "1 document, 1 passage; 2 files left out" in capsys.readouterr().err
    said, _, learnt, _, *lines = (output / "adapt.md").read_text().splitlines()
    assert said.startswith("- Unrelated questions (one for all): accuracy 1.000 before, ") and learnt.startswith("L")
    assert lines == [
        f"- {vault}: read 1 of 3 files; not documents: 1 .png (photo.png); 1 cannot be used",
        f"- left out {vault}/empty.md: expected data, got an empty file: write it again",
    ]
    adapter = output / "adapters" / "all"
    assert json.loads((adapter / folders.RESULT).read_text())["files_left_out"] == 2
    card = (adapter / "README.md").read_text()
    assert "Besides, 2 files could not be read and taught it nothing." in card
    assert "- A note" in card and str(vault) not in card


def test_strict_stops_at_a_document_that_cannot_be_used(vault):
    with pytest.raises(DataError, match=r"empty\.md: expected data, got an empty file"):
        adapt_folder(vault, "--strict")
    assert not (vault.parent / "out").exists()


def test_a_dry_run_estimates_and_writes_nothing(tmp_path, capsys):
    write_inputs(tmp_path)
    run(tmp_path, "none", "--dry_run")
    said = capsys.readouterr().out
    for text in ("self-edits", "3 passages x 2", "6 adapters", "one for all", "together", "memory: ", "2 adapters"):
        assert text in said
    assert not (tmp_path / "none").exists()


def test_an_estimate_rests_on_batches_as_large_as_the_runs(tmp_path, capsys):
    """A sequence at a time takes nearly as long as a batch of them."""
    write_inputs(tmp_path)
    rows = [{"id": f"note-{number}", "passage": f"Note {number} is about Ada Merrow."} for number in range(300)]
    (tmp_path / "documents.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["--dry_run", "--learn", "passage", "--adapters", "all", "--model.source.name", "random/llama"]
    seconds = []
    for size in ("1", "32"):
        run(tmp_path, "none", *options, "--together.batch_size", size)
        said = capsys.readouterr().out
        assert f"training as fast as a few steps of 1 adapter with batches of {size}" in said
        (row,) = [line for line in said.splitlines() if line.startswith("| together")]
        seconds.append(in_seconds(row.split("|")[-2]))
    assert seconds[1] < seconds[0] / 4


def in_seconds(text: str) -> float:
    units = {"h": 3600.0, "min": 60.0, "s": 1.0, "ms": 0.001}
    parts = text.split()
    return sum(float(number) * units[unit] for number, unit in zip(parts[::2], parts[1::2], strict=True))


def test_adapters_that_train_together_are_tried_together(tmp_path, capsys):
    write_inputs(tmp_path)
    run(tmp_path, "none", "--dry_run")
    said = capsys.readouterr().out
    assert "assumed: edits of " in said and "written 4 at a time" in said  # of a unit: two passages, two edits each
    assert "2 adapters with batches of 1" in said  # max_adapters


def test_a_passage_that_does_not_fit_names_the_option(tmp_path):
    write_inputs(tmp_path)
    (tmp_path / "documents.jsonl").write_text(json.dumps({"id": "zh", "passage": "水车由李明建造。" * 300}) + "\n")
    message = r"lower --passage_chars, which is 2000 characters \(100 of this passage take 300 tokens\)"
    with pytest.raises(ModelError, match=message):
        run(tmp_path, "none", "--model.source.name", "random/llama")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (["--keep", "0"], ConfigError, "keep must be a whole number of at least 1, got 0"),
        (["--save_every", "0"], ConfigError, "save_every must be a whole number of at least 1, got 0"),
        (["--adapters", "none"], ConfigError, "--adapters must be one of each, all or both|--adapters"),
        (["--device", "tpu"], ConfigError, "--device"),
        (["--policy", "nowhere"], ConfigError, "--policy nowhere: expected a run of seal fit"),
        (["--queries", "nowhere.json"], DataError, "nowhere.json"),
        (["--model.m_step.epochs", "2"], ConfigError, "unknown option --model.m_step.epochs|m_step"),
    ],
)
def test_mistakes_are_one_line(tmp_path, options, error, message):
    write_inputs(tmp_path)
    with pytest.raises(error, match=message) as caught:
        run(tmp_path, "out", *options)
    assert "\n" not in str(caught.value)


def test_a_command_without_documents_says_what_to_name():
    with pytest.raises(ConfigError, match="DOCUMENT is not set: name files or folders"):
        adapt.main(["--output", "x"])


def test_a_card_says_what_no_adapter_acts_on(tmp_path):
    write_inputs(tmp_path)
    run(tmp_path, "mixture", "--model.source.name", "random/mixtral", "--learn", "passage")
    folder = next((tmp_path / "mixture" / "adapters").iterdir())
    reason = "experts with fused weights"
    assert (
        f"No adapter acts on 2 parts, {reason} (first: model.layers.0.mlp.experts)."
        in (folder / "README.md").read_text()
    )
    found = json.loads((folder / "adaptation.json").read_text())["without_adapter"]
    assert found == {reason: ["model.layers.0.mlp.experts", "model.layers.1.mlp.experts"]}


def blow_up(monkeypatch, chosen):
    """Train what is chosen at a rate that no model stands."""
    plan = InnerLoop.plan

    def shaky(self, policy, job):
        planned = plan(self, policy, job)
        return replace(planned, rates=[3e38] * len(planned.rates)) if chosen(job) else planned

    monkeypatch.setattr(InnerLoop, "plan", shaky)


def test_an_adapter_that_diverged_is_not_written_and_the_others_are(tmp_path, monkeypatch, capsys):
    write_inputs(tmp_path)
    first = json.loads((tmp_path / "documents.jsonl").read_text().splitlines()[0])["passage"]
    options = ("--learn", "passage", "--adapters", "each")
    run(tmp_path, "whole", *options)
    capsys.readouterr()
    blow_up(monkeypatch, lambda job: any(first in one.text for one in job.training_sequences))
    run(tmp_path, "out", *options)
    said = capsys.readouterr()
    assert names(tmp_path / "out") == [name for name in names(tmp_path / "whole") if name != "first"]
    expected = r"^first: not written, because its training diverged \(the .* at step \d+ of \d+\): lower "
    assert re.search(expected, said.err, re.MULTILINE)
    *_, written, last = said.err.splitlines()
    assert written == f"written, but of no use: 2 adapters in {tmp_path / 'out' / 'adapters'}"
    assert re.fullmatch(
        r"learnt nothing \(one each\): accuracy 0\.\d+ before, .*; why: .*2 optimizer steps; try: .*", last
    )
    rows = [[cell.strip() for cell in line.split("|")] for line in said.out.splitlines() if line.startswith("| ")]
    assert [row[4] for row in rows].count("diverged") == 1
    note = "1 adapter diverged, which counts as the policy without it: lower inner_loop.learning_rate."
    assert note in said.out and note in (tmp_path / "out" / "adapt.md").read_text()
    weights = "adapter_model.safetensors"
    for name in names(tmp_path / "out"):
        mine, other = (load_file(tmp_path / folder / "adapters" / name / weights) for folder in ("out", "whole"))
        for key, tensor in mine.items():
            torch.testing.assert_close(tensor, other[key], atol=1e-4, rtol=0)


def test_a_command_all_of_whose_adapters_diverged_fails(tmp_path, monkeypatch, capsys):
    write_inputs(tmp_path)
    blow_up(monkeypatch, lambda job: True)
    with pytest.raises(DivergedError, match=r"^no adapter was written, because all trainings diverged: lower "):
        run(tmp_path, "out", "--learn", "passage")
    assert not (tmp_path / "out" / "adapters").exists() and capsys.readouterr().err.count("not written, because") == 4


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("truncated", r"adapters/all: damaged \(adapter_model.safetensors is not the file that was written there\)"),
        ("flipped", r"adapters/all: damaged \(adapter_model.safetensors is not the file that was written there\)"),
        ("missing", r"adapters/all: damaged \(adapter_model.safetensors: No such file or directory\)"),
        ("result", r"adapters/all/adaptation.json: cannot be read \("),
        (
            "lacking",
            r"adapters/all/adaptation.json: cannot be read \(policy is missing\), so its adapter is trained again",
        ),
        ("merged", r"adapters/all: damaged \(model.safetensors is not the file that was written there\)"),
    ],
)
def test_a_damaged_adapter_is_trained_again(whole, tmp_path, caplog, damage, said):
    shutil.copytree(whole / "whole", tmp_path / "whole")
    write_inputs(tmp_path)
    folder = tmp_path / "whole" / ("merged" if damage == "merged" else "adapters") / "all"
    path = next(folder.glob("adaptation.json" if damage in ("result", "lacking") else "*.safetensors"))
    content = path.read_bytes()
    path.unlink()
    if damage == "lacking":
        path.write_text("{}")
    elif damage != "missing":
        flipped = content[:-5] + bytes([content[-5] ^ 1]) + content[-4:]
        path.write_bytes(flipped if damage in ("flipped", "merged") else content[: len(content) // 2])
    run(tmp_path, "whole", "--resume", *(["--merged"] if damage == "merged" else []))
    assert [record.getMessage() for record in caplog.records if re.search(said, record.getMessage())] != []
    assert path.read_bytes() == content
    assert digests(tmp_path / "whole") == digests(whole / "whole")
