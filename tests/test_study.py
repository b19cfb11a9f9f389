"""The study: what its tables say of journals with known figures, and the command on a model of random weights."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import study
from study_tables import COMPARED, GRADERS, Study, read_rows, save_study

from seal_lightning.files.ownership import owning
from seal_lightning.records.journal import Journal
from seal_lightning.types import Rollout

ROOT = Path(__file__).resolve().parent.parent
RIGHT, WRONG, RECITED = "oil", "gas", "The lamp of the old tower in the north has burnt oil since Ada lit it one night"
PLAIN = Rollout(
    round=0, context_id="", edit_index=0, repeat=0, seed=0, prompt="", text="It burns oil.", status="ok", reason="",
    questions=("What does the lamp burn?",), golds=(("oil",),), baseline_answers=(WRONG,), answers=(RIGHT,),
    baseline_scores=(0.0,), scores=(1.0,), baseline=0.0, score=1.0, gain=1.0, reward=1.0,
    tokens={"trained": 100}, seconds={"baseline": 1.0, "inner loop": 3.0},
)  # fmt: skip


def measured(run: Path, journal: str, right: int, *, text: str = RIGHT, kinds=("passage", "edit"), rejected: int = 0):
    """A validation of twelve contexts: the adapters of the first `right` answer so; the last ones may be rejected."""
    rollouts = []
    for number in range(12):
        one = replace(PLAIN, context_id=str(number), answers=(text if number < right else WRONG,))
        if number >= 12 - rejected:
            one = replace(one, status="rejected", reason="empty text", answers=(), scores=(), reward=None)
        rollouts += [replace(one, kind=kind, edit_index=-(kind == "passage")) for kind in kinds]
    Journal(run / "journal", journal, stamp={}).append(0, rollouts)


def test_rows_of_a_trained_policy_by_round_and_seed(tmp_path):
    for seed, after in ((0, 6), (1, 12)):
        for number, right in enumerate((3, 3, after)):
            measured(tmp_path / f"seed={seed}", f"validation-{number:03d}", right)
    rows = {row.name: row for row in read_rows("own", "sft", sorted(tmp_path.glob("seed=*")))}
    assert [*rows] == ["base", "passage", "own edits, untrained", "own edits, 1 round", "own edits, 2 rounds"]
    means = {name: sum(row.means("calibrated").values()) / 12 for name, row in rows.items()}
    assert means == pytest.approx(
        {
            "base": 0,
            "passage": 0.25,
            "own edits, untrained": 0.25,
            "own edits, 1 round": 0.25,
            "own edits, 2 rounds": 0.75,
        }
    )
    assert {seed: sum(found.values()) for seed, found in rows["own edits, 2 rounds"].scores["calibrated"].items()} == {
        "0": 6,
        "1": 12,
    }
    assert (rows["passage"].tokens, rows["passage"].seconds, rows["base"].seconds, rows["base"].tokens) == (
        100,
        3,
        1,
        0,
    )
    assert rows["base"].queries == 12


def test_a_rejected_edit_counts_as_the_model_without_an_adapter(tmp_path):
    measured(tmp_path / "seed=0", "validation-1a2b", 12, kinds=("edit",), rejected=3)
    (row,) = read_rows("rules", "sft", [tmp_path / "seed=0"])
    assert (row.name, row.rejected) == ("rules", 0.25)
    assert sum(row.means("calibrated").values()) == pytest.approx(9)


def test_a_policy_that_is_only_measured_has_one_row(tmp_path):
    measured(tmp_path / "seed=0", "validation-1a2b", 12)
    names = [row.name for row in read_rows("own", "sft", [tmp_path / "seed=0"])]
    assert names == ["base", "passage", "own edits of the policy"]


def test_the_page_says_which_differences_are_more_than_noise_and_by_which_grader(tmp_path):
    measured(tmp_path / "own" / "seed=0", "validation-000", 2)
    measured(tmp_path / "rules" / "seed=0", "validation-000", 12, text=RECITED)
    rows = [
        *read_rows("own", "sft", [tmp_path / "own" / "seed=0"]),
        *read_rows("rules", "sft", [tmp_path / "rules" / "seed=0"]),
    ]
    save_study(tmp_path, Study(rows=rows, command="python study.py"))
    page = (tmp_path / "study.md").read_text()
    by_some = next(line for line in page.splitlines() if "by some graders only" in line)
    assert "rules over passage (calibrated: better" in by_some and "f1" not in by_some
    assert "own edits, untrained over passage" in next(line for line in page.splitlines() if "by none" in line)
    assert "12 contexts for evaluation, 12 queries; seeds 0" in page
    content = json.loads((tmp_path / "study.json").read_text())
    found = {(one["row"], one["over"], one["grader"]): one for one in content["differences"]}
    assert found["rules", "passage", "recall"]["mean"] == pytest.approx(10 / 12)
    assert found["rules", "passage", "recall"]["low"] > 0.5
    assert {one["name"] for one in content["rows"]} == {"base", "passage", "own edits, untrained", "rules"}
    assert "<svg" in (tmp_path / "study.svg").read_text()


def test_every_comparison_is_between_rows_that_there_can_be():
    names = {"base", "passage", *study.PARTS, *(f"own edits, {kind}" for kind in ("untrained", "1 round", "2 rounds"))}
    assert {name for pair in COMPARED for name in pair} <= names
    assert next(iter(GRADERS)) == "calibrated"


def asked(monkeypatch, *words: str):
    monkeypatch.setattr(sys, "argv", ["study.py", *words])
    return study.arguments()


@pytest.fixture
def files(tmp_path) -> dict[str, Path]:
    contexts = [
        {
            "title": f"Lamp {number}",
            "passage": f"The lamp {number} burns oil. It was lit in 18{number:02d}.",
            "queries": [{"question": f"What does lamp {number} burn?", "answers": ["oil"]}],
        }
        for number in range(8)
    ]
    edits = [
        {"title": one["title"], "passage": one["passage"], "text": f"{one['title']} burns oil."} for one in contexts
    ]
    found = {}
    for name, rows in (("train", contexts[:2]), ("data", contexts[2:]), ("teacher", edits)):
        found[name] = tmp_path / f"{name}.jsonl"
        found[name].write_text("".join(json.dumps(row) + "\n" for row in rows))
    return found


def test_a_file_that_is_missing_is_named(monkeypatch, capsys, files, tmp_path):
    data = str(files["data"])
    with pytest.raises(SystemExit, match="2"):
        asked(monkeypatch, "--config", "none.yaml", "--train", data, "--evaluate", data, "--out", str(tmp_path / "out"))
    assert "--config none.yaml: expected a file, found none" in capsys.readouterr().err


@pytest.mark.slow
def test_a_study_from_the_command_line_and_the_same_again(monkeypatch, capsys, files, tmp_path):
    """With random weights: what is finished is only read the second time."""
    few = "--trainer.max_epochs 1 --model.e_step.edits 2 --data.limit_train 2 --data.limit_validation 6"
    few += " --model.inner_loop.epochs 1 --model.sampler.init_args.max_new_tokens 8 --model.source.name random/llama"
    options = ["--config", str(ROOT / "configs/study/lab.yaml"), "--out", str(tmp_path / "out")]
    options += ["--train", str(files["train"]), "--evaluate", str(files["data"])]
    options += ["--parts", "own", "ensemble", "--", *few.split()]
    monkeypatch.setattr(sys, "argv", ["study.py", *options])
    study.main()
    first = capsys.readouterr()
    for name in ("base", "own edits, 1 round", "ensemble"):
        assert f"| {name} " in first.out
    assert "2 parts in" in first.err
    monkeypatch.setattr(study, "PAUSE", 1)
    study.main()
    again = capsys.readouterr()
    assert again.out.partition("## ")[2] == first.out.partition("## ")[2]
    joined = [json.loads(line) for line in (tmp_path / "out/ensemble/ensemble.jsonl").read_text().splitlines()]
    assert len(joined) == 6


def test_the_parts_of_a_study(monkeypatch, files, tmp_path):
    words = ["--config", str(files["data"]), "--train", str(files["train"]), "--evaluate", str(files["data"])]
    words += ["--out", str(tmp_path), "--objectives", "sft", "distill"]
    parts = [part.folder for part in study.parts_of(asked(monkeypatch, *words))]
    assert parts == [f"{name}-{towards}" for towards in ("sft", "distill") for name in ("rules", "own", "ensemble")]
    more = ["--teacher", str(files["teacher"]), "--generator", str(files["data"]), "--policy", "runs/policy"]
    parts = list(study.parts_of(asked(monkeypatch, *words, *more)))
    assert [part.folder for part in parts if part.name in ("teacher", "generator")] == [
        "teacher-sft",
        "teacher-distill",
        "generator",
    ]
    assert not any(part.trains for part in parts if part.name != "generator")
    options = study.common(asked(monkeypatch, *words, *more, "--small", "--", "--model.seed", "7"))
    assert options[-2:] == ["--model.seed", "7"] and "runs/policy" in options and "24" in options


def test_a_line_a_minute_is_that_of_the_run_that_said_something_last(tmp_path):
    log, fit = tmp_path / "own-sft.log", tmp_path / "seed=3" / "fit.log"
    fit.parent.mkdir()
    for number, (path, text) in enumerate(((log, "1 runs\n\n"), (fit, "round 1\nround 1 E-step: unit 2/9\n"))):
        path.write_text(text)
        os.utime(path, ns=(number, number))
    assert study.newest_line([log, fit]) == "seed=3, round 1 E-step: unit 2/9"
    assert study.newest_line([log]) == "1 runs"


@pytest.mark.slow
def test_a_study_that_is_stopped_ends_its_part(files, tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks/study.py"), "--config", str(ROOT / "configs/study/lab.yaml")]
    command += ["--train", str(files["train"]), "--evaluate", str(files["data"]), "--out", str(tmp_path / "out")]
    with subprocess.Popen([*command, "--parts", "rules"], stderr=subprocess.PIPE, text=True) as process:
        while not (tmp_path / "out" / "rules-sft" / "seed=0" / ".owner").exists():
            assert process.poll() is None
            time.sleep(0.1)
        process.terminate()
        assert process.wait(60) == 143
    assert not (tmp_path / "out" / "study.md").exists()
    with owning(tmp_path / "out" / "rules-sft" / "seed=0", option="--out"):  # nobody works there any more
        pass


def test_a_part_that_fails_ends_the_study_with_what_it_said(monkeypatch, files, tmp_path):
    options = ["--config", str(ROOT / "configs/study/lab.yaml"), "--train", str(files["data"]), "--evaluate"]
    options += [
        str(files["data"]),
        "--out",
        str(tmp_path / "out"),
        "--parts",
        "rules",
        "--",
        "--model.max_answer_tokens",
        "x",
    ]
    monkeypatch.setattr(sys, "argv", ["study.py", *options])
    with pytest.raises(SystemExit, match=r"rules-sft, seed 0: ended with code 2; seal: .*max_answer_tokens"):
        study.main()
