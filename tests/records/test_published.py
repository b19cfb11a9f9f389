"""`benchmarks/published.py`: what is found in the authors' folders, what agrees, and that no difference is missed."""

import gzip
import json
import sys

import pytest
from published import AFTER, BEFORE, GAIN, main


def run(score=0.75, prompt="Read Lamp."):
    """Two edits with two verdicts each, of which 1 and 2 are right."""
    edits = [
        {
            "text": text,
            "questions": [
                {
                    "question": name, "answer": "1851", "baseline_answer": "?", "adapter_answer": "!",
                    "baseline_correct": False, "adapter_correct": verdict,
                }
                for name, verdict in zip("ab", verdicts, strict=True)
            ],
        }
        for text, verdicts in (("It burns.", (True, False)), ("It burns oil.", (True, True)))
    ]  # fmt: skip
    article = {"title": "Lamp", "context": "A lamp.", "prompt": prompt, "completions": edits}
    return {"overall": {BEFORE: 0.0, AFTER: score}, "articles": [article]}


CONTINUED = {"per_question": {"adapter_correct": [True, False]}, "metrics": {"adapter_accuracy": 0.5}}
TABLES = {"base": {BEFORE: 0.3267, AFTER: 0.3968, GAIN: 0.0702}}
MATRIX = {"mean_over_sequences": [[0.3309, 0.2], [0.3825, 0.0], [0.1894, 0.3]], "n_sequences": 64}


@pytest.fixture
def study(tmp_path, capsys, monkeypatch):
    """Write files, run the script on their folder; gives its exit code and what it prints."""

    def study(files, *options):
        for name, content in files.items():
            text = content if isinstance(content, str) else json.dumps(content)
            path = tmp_path / "results" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        monkeypatch.setattr(sys, "argv", ["published.py", str(tmp_path / "results"), *map(str, options)])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code, capsys.readouterr().out

    return study


def kept(text, prompt="Read Lamp."):
    return json.dumps({"prompt": prompt, "completion": text}) + "\n"


def test_everything_that_agrees(study, tmp_path):
    files = {
        "train/run_0.json.gz": run(),
        "train/sft_0.jsonl": kept("It burns oil."),
        "cpt_200.json": CONTINUED,
        "eval_tables.json": TABLES,
        "verdicts.jsonl": "{}\n",
        "names.json": '["a"]',
    }
    code, out = study(files, "--json", tmp_path / "out.json")
    assert code == 0
    assert "from single answers: 3 of 3 figures of 2 files to 4 digits\n" in out
    assert f"kept as in {tmp_path}/results/train/sft_0.jsonl: 1 of 1\n" in out
    assert "printed in the paper: 2 of 2 are the files', rounded\n" in out
    assert "no answers, but a difference: 1 of 1 gains, within their rounding\n" in out
    assert out.endswith("no answers to compute from: 1 result\nnot read: names.json, verdicts.jsonl\n")
    saved = json.loads((tmp_path / "out.json").read_text())
    assert [row["agreeing"] for row in saved["results"]] == [1, 0, 2]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"run_0.json": run(score=0.7501)}, f"differs: run_0, {AFTER}: 0.7501 published, 0.75 here\n"),
        ({"run_0.json": run(), "sft_0.jsonl": kept("It burns.")}, "sft_0.jsonl: 0 of 1, and 1 that is not there; not"),
        ({"cpt.json": {**CONTINUED, "metrics": {"adapter_accuracy": 0.51}}}, "differs: cpt, adapter_accuracy: 0.5100"),
        ({"eval_tables.json": {"base": {BEFORE: 0.3267, AFTER: 0.3968, GAIN: 0.08}}}, "0 of 1 gains"),
        ({"continual_overall_results.json": {**MATRIX, "mean_over_sequences": [[0.34], [0.3825], [0.1894]]}},
         "differs: continual_overall_results, before: the paper prints 33.1\n"),
    ],
)  # fmt: skip
def test_what_differs_is_named_and_ends_with_1(study, files, said):
    code, out = study(files)
    assert code == 1 and said in out


def test_kept_edits_of_a_run_that_is_not_there_are_named(study):
    code, out = study({"run_0.json": run(), "sft_1.jsonl": kept("It burns.", prompt="Read Tarn.")})
    assert code == 0
    assert out.endswith("not read: sft_1.jsonl (kept edits of a run that is not here)\n")


def test_a_folder_without_results(study):
    code, out = study({"names.json": "[]"})
    assert "results: expected the authors' result files, got none: see docs/replay.md" in code and out == ""


def test_a_folder_that_is_not_there(study, capsys, tmp_path):
    code, _ = study({"run_0.json": run()}, tmp_path / "none")
    assert code == 2


def test_a_damaged_result_and_many_other_files(study):
    code, out = study({f"data/{number:02}.json": "[]" for number in range(10)} | {"run_0.json": run()})
    assert code == 0 and out.endswith(
        "not read: 00.json, 01.json, 02.json, 03.json, 04.json, 05.json, 06.json, 07.json and 2 more\n"
    )
    code, out = study({"run_1.json": {"articles": []}})
    assert "run_1.json, row 1: field articles must be at least one object" in code and out == ""


def test_both_published_sets(shared, capsys, monkeypatch):
    folders = [str(shared / "data" / name) for name in ("seal-published", "seal-2025-08")]
    monkeypatch.setattr(sys, "argv", ["published.py", *folders])
    with pytest.raises(SystemExit) as end:
        main()
    out = capsys.readouterr().out
    assert end.value.code == 0
    assert "from single answers: 32 of 32 figures of 10 files to 4 digits\n" in out
    assert "sft_best1of5_iter0.jsonl: 50 of 50\n" in out and "iter0.jsonl: 49 of 50, 1 exact tie (" in out
    assert "printed in the paper: 9 of 9 are the files', rounded\n" in out
    assert "no answers, but a difference: 5 of 5 gains, within their rounding\n" in out
