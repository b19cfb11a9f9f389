"""`seal continual` from the command line, in this process."""

import json
from types import SimpleNamespace

import pytest
from huggingface_hub import ModelCard

from seal_lightning.cli import main
from seal_lightning.commands.continual.command import _plan
from seal_lightning.commands.continual.options import spelled
from seal_lightning.e_step.plan import Plan
from seal_lightning.e_step.race_rule import Racing
from seal_lightning.report.heatmap import heat_map
from seal_lightning.report.measure import measure
from seal_lightning.report.read import read
from seal_lightning.results.retention import ContextStream, average, read_matrices, write_matrices

TEXTS = {"tarn": "A tarn is a lake.", "lamp": "The lamp burns oil.", "salt": "Salt is white."}
ROWS = [
    {
        "id": name,
        "title": name,
        "passage": text,
        "queries": [{"question": f"What of {name}?", "answers": ["e"]}],
        "edits": [text],
    }
    for name, text in TEXTS.items()
]
CONFIG = """\
model:
  source: {name: random/llama}
  sampler: WrittenEdits
  inner_loop: {rank: 4, alpha: 8, epochs: 1}
  grader: contains
  max_answer_tokens: 4
contexts: 2
orders: 2
"""
RACE = "--model.e_step.edits 8 --model.e_step.repeats 2 --model.e_step.racing.budget 0.2".split()


@pytest.fixture
def seal(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))

    def run(*args, data="data.jsonl"):
        code = main(["continual", "--config", "config.yaml", *(["--data", data] if data else []), *args])
        return code, *capfd.readouterr()

    return run


def test_a_table_of_the_plain_stream_and_a_countermeasure(seal, tmp_path):
    code, out, err = seal("--countermeasures", "norm", "--unrelated", "data.jsonl", "--output", "run")
    assert code == 0, err
    cards = sorted(tmp_path.rglob("adapter/README.md"))
    data = ModelCard(cards[0].read_text(encoding="utf-8")).data
    assert len(cards) == 4 and (data.base_model, data.base_model_relation) == ("random/llama", "adapter")
    assert [one.metric_name for one in data.eval_results] == ["accuracy, before", "accuracy, after"]
    assert f'WEIGHTS = "{cards[0].parent.relative_to(tmp_path / "run")}"' in cards[0].read_text(encoding="utf-8")
    lines = out.splitlines()
    assert [cell.strip() for cell in lines[0].split("|")[1:-1]] == ["", "1", "2", "unrelated"]
    assert [line.split("|")[1].strip() for line in lines if line.startswith("|")] == [
        "", "-------", "base", "after 1", "after 2", "", "-----", "plain", "norm",
    ]  # fmt: skip
    assert "plain, order 2, seed 1:" in err and "next: seal report run" in out
    matrices = read_matrices(tmp_path / "run" / "retention.json")
    assert [(matrix.name, matrix.sequences, matrix.base_model) for matrix in matrices] == [
        ("plain", 2, "random/llama"), ("norm", 2, "random/llama"),
    ]  # fmt: skip
    official = json.loads((tmp_path / "run" / "official" / "norm.json").read_text())
    assert (official["n_sequences"], official["n_datapoints"], official["dataset"]) == (2, 2, "data.jsonl")
    assert "## norm" in (tmp_path / "run" / "retention.md").read_text()
    assert (tmp_path / "run" / "retention.svg").read_text().count("<g ") == 2
    assert (tmp_path / "run" / "streams" / "norm" / "order-1-seed-1" / "adapter" / "adapter_config.json").is_file()
    assert measure(read(str(tmp_path / "run"))).progress == "finished"
    # the folder is not written over; with --resume it is added to, and with other settings refused
    code, _, err = seal("--output", "run")
    assert code == 2
    assert err.startswith(
        "seal: --output run: expected a new folder, got one with files: add --resume, or choose another"
    )
    step = tmp_path / "run" / "streams" / "plain" / "order-1-seed-1" / "step-001" / "step.json"
    before = step.stat().st_mtime_ns
    code, out, _ = seal("--countermeasures", "replay", "--unrelated", "data.jsonl", "--output", "run", "--resume")
    assert code == 0 and "replay" in out
    assert step.stat().st_mtime_ns == before
    code, _, err = seal("--model.inner_loop.rank", "2", "--unrelated", "data.jsonl", "--output", "run", "--resume")
    assert code == 2 and "inner_loop.rank: was 4, is 2" in err


def test_what_is_finished_is_written_after_every_stream(seal, tmp_path, monkeypatch):
    told = []

    def note(path, matrices):
        write_matrices(path, matrices)
        told.append(measure(read(str(path.parent))).progress)

    monkeypatch.setattr("seal_lightning.commands.continual.command.write_matrices", note)
    code, _, err = seal("--countermeasures", "norm", "--output", "run")
    assert code == 0, err
    assert told == [*(f"not finished: {number} of 4 streams" for number in (1, 2, 3)), "finished"]


def test_all_is_spelled_out():
    names = ["replay", "kl", "orthogonal", "null-space", "norm", "consolidation", "gate"]
    assert spelled("all") == spelled(["all"]) == names
    assert spelled("norm,all") == ["norm", *names]


def test_an_existing_matrix_is_shown_and_drawn(seal, shared, tmp_path):
    published = shared / "data" / "seal-published" / "continual_overall_results.json"
    code, out, _ = seal("--show", str(published), "--heatmap", "map.svg", data=None)
    assert code == 0
    assert "| after 8 | 18.9 | 21.9 | 16.4 | 23.7 | 22.1 | 27.5 | 33.5 | 34.0 |" in out
    assert out.splitlines()[-1] == "saved: map.svg"
    drawn = (tmp_path / "map.svg").read_text()
    assert drawn.count("<rect ") == 1 + 8 + 36 and ">18.9</text>" in drawn  # the base's row, and the lower triangle


def test_heat_map():
    matrix = average("<plain>", [ContextStream("one", ("a", "b"), ((0.0, 1.0), (0.5,), (0.25, 0.75)), (1.0, 0.5, 0.0))])
    drawn = heat_map([matrix, matrix, matrix])
    assert drawn.startswith('<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 ')
    assert drawn.count("<g ") == 3
    assert "&lt;plain&gt;" in drawn and "<plain>" not in drawn
    assert drawn.count("<rect ") == 1 + 3 * (5 + 3)
    assert 'fill="#f7fbff"/><text' in drawn and 'fill="#084081"/><text' in drawn  # 0 and 1


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        ([], "seal: --data is not set: name a file or folder with contexts and queries (seal continual --help)"),
        (["--data", "none.json"], "seal: none.json: expected a file or folder, got nothing there: check the path"),
        (["--data", "data.jsonl", "--contexts", "1"], "seal: contexts must be a whole number of at least 2, got 1"),
        (["--data", "data.jsonl", "--contexts", "9"], "seal: --contexts 9: expected 9 contexts in the data, got 3"),
        (["--data", "data.jsonl", "--countermeasures", "magic"], "seal: countermeasures: expected some of replay, kl"),
        (
            ["--data", "data.jsonl", "--countermeasures", "norm,norm"],
            "seal: countermeasures: expected different labels",
        ),
        (["--data", "bare.jsonl"], "seal: --data bare.jsonl: expected contexts with queries, but 2 of 2 lack"),
        (["--show", "data.jsonl"], "seal: data.jsonl: expected a retention matrix as JSON, got"),
        (
            ["--data", "data.jsonl", "--heatmap", "map.png"],
            "seal: --heatmap map.png: expected a name that ends in .svg",
        ),
        (["--data", "data.jsonl", "--best_of", "2", *RACE], "seal: racing.budget must allow one training of each"),
        (["--data", "data.jsonl", "--combine", "mix"], "seal: --combine: expected merge or stack, got 'mix'"),
    ],
)
def test_one_line_says_what_is_wrong(seal, tmp_path, args, complaint):
    (tmp_path / "bare.jsonl").write_text("".join(json.dumps({"passage": text}) + "\n" for text in TEXTS.values()))
    code, out, err = seal(*args, data=None)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(complaint)
    assert not (tmp_path / "continual").exists()


def test_a_single_edit_needs_no_budget_for_a_race():
    plan = Plan(edits=8, repeats=2, passage_only=True, racing=Racing(budget=0.2))
    model = SimpleNamespace(e_step=SimpleNamespace(plan=plan))
    found = _plan(SimpleNamespace(model=model, best_of=1))
    assert found == Plan(edits=1, repeats=2)
    assert _plan(SimpleNamespace(model=model, best_of=3)).racing == plan.racing
