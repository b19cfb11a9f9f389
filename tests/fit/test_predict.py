"""`seal predict` keeps what is finished: killed, stopped or started with other settings, it loses nothing."""

import json
import signal

import fault_injection
import pytest
from fault_injection import Launch, finished

from seal_lightning.cli import main
from seal_lightning.commands.outcome import save_edits
from seal_lightning.types import Rollout


def predict(run, *options, mode="edits", kill=None, ranks=1):
    """Start it on four contexts, one a unit; `kill` are arguments of `KillAt`."""
    made = fault_injection.config(run, "ddp" if ranks == 2 else "single")
    if kill:
        made["trainer"]["callbacks"] = {"class_path": "fault_injection.KillAt", "init_args": kill}
    made["model"]["predict"] = mode
    made["data"]["predict"] = made["data"].pop("train")
    path = run.with_suffix(".json")
    path.write_text(json.dumps(made))
    return Launch(["predict", "--config", path, *options], ranks=ranks, log=run.with_suffix(".log"))


def at(count, number=signal.SIGKILL, **more):
    return {"event": "predict", "count": count, "number": int(number), **more}


def written(run):
    return {name: path.read_bytes() for name in ("edits.jsonl", "answers.jsonl") if (path := run / name).exists()}


def units(run):
    """The numbers of the units in the journals."""
    lines = [line for path in (run / "predictions").glob("*") for line in path.read_text().splitlines()[1:]]
    return sorted({json.loads(line)["unit"] for line in lines})


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """What it writes where nothing happens, by mode."""
    found = {}

    def of(mode):
        if mode not in found:
            run = tmp_path_factory.mktemp("predict") / mode
            finished(predict(run, mode=mode))
            found[mode] = written(run)
        return found[mode]

    return of


@pytest.mark.parametrize("mode", ["edits", "answers"])
def test_a_kill_keeps_what_is_finished_and_the_third_run_ends_as_an_uninterrupted_one(tmp_path, uninterrupted, mode):
    run = tmp_path / "run"
    assert predict(run, mode=mode, kill=at(2)).wait() == [-signal.SIGKILL]
    assert units(run) == [0, 1]
    assert written(run) == {}
    assert predict(run, mode=mode, kill=at(1, signal.SIGTERM)).wait() == [143]
    assert units(run) == [0, 1, 2]
    finished(predict(run, mode=mode))
    assert written(run) == uninterrupted(mode)
    assert len(written(run)["edits.jsonl"].splitlines()) == 4 * {"edits": 2, "answers": 1}[mode]
    assert ("answers.jsonl" in written(run)) is (mode == "answers")
    assert "2 of 4 units are in the journal already" in run.with_suffix(".log").read_text()


def test_a_stopped_run_says_what_is_finished_and_never_takes_away_what_another_wrote(tmp_path, uninterrupted):
    run, log = tmp_path / "run", tmp_path / "run.log"
    sizes = []
    for _ in range(2):
        assert predict(run, kill=at(1, signal.SIGTERM)).wait() == [143]
        sizes.append(len((run / "edits.jsonl").read_text().splitlines()))
    assert sizes == [2, 4]
    said = log.read_text().splitlines()
    so_far = "so far 2 self-edits for 1 of 4 contexts, in"
    assert f"{so_far} {run / 'edits.jsonl'}; the same command goes on from there" in said
    assert said[-1] == "seal: terminated; finished units are in the journal, run the same command to resume"
    before = written(run)
    other = predict(run, "--model.sampler.max_new_tokens", "5", kill=at(1, signal.SIGTERM))
    assert other.wait() == [143]
    assert written(run) == before
    assert (
        f"{so_far} {run / 'predictions'}; {run / 'edits.jsonl'} has others and stays as it is until the end; the same "
        "command goes on from there"
    ) in log.read_text()
    finished(predict(run))
    assert written(run) == uninterrupted("edits")
    finished(predict(run, "--model.sampler.max_new_tokens", "5"))
    assert written(run) != uninterrupted("edits")
    assert "1 of 4 units are in the journal already" in log.read_text()


def test_two_ranks_share_the_journal(tmp_path, uninterrupted):
    run = tmp_path / "run"
    predict(run, ranks=2, kill=at(1, rank=1)).wait()  # at its first unit, if the other leaves it one
    assert units(run)
    finished(predict(run, ranks=2))
    assert written(run) == uninterrupted("edits")


def test_edits_and_answers_have_journals_of_their_own(tmp_path):
    run = tmp_path / "run"
    finished(predict(run))
    finished(predict(run, mode="answers"))
    assert len(list((run / "predictions").iterdir())) == 2


def test_progress_is_shown_without_scores(tmp_path, capsys):
    run = tmp_path / "run"
    made = fault_injection.config(run)
    made["data"]["predict"] = made["data"].pop("train")
    path = tmp_path / "run.json"
    path.write_text(json.dumps(made))
    assert main(["predict", "--config", str(path), "--progress.every_seconds", "0"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("predict: unit ")]
    assert [line.partition(",")[0] for line in lines] == [f"predict: unit {unit}/4" for unit in (1, 2, 3, 4)]
    assert not any("base" in line for line in lines)


def test_a_line_may_hold_what_splits_lines_elsewhere(tmp_path):
    texts = ["one\u2028two", "three\x85\r\nfour", "half \ud83d"]
    rollouts = [
        Rollout(round=0, context_id="a", edit_index=number, repeat=0, prompt="", text=text, status="ok", seed=0)
        for number, text in enumerate(texts)
    ]
    path = tmp_path / "edits.jsonl"
    assert save_edits(path, rollouts[:2])
    assert not save_edits(path, rollouts[2:], only_more=True)
    assert save_edits(path, rollouts, only_more=True)
    assert not save_edits(path, rollouts[:2], only_more=True)
    found = [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").split("\n") if line]
    assert found == ["one\u2028two", "three\x85\r\nfour", "half ?"]
