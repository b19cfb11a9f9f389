"""Killed at fixed moments and resumed, a run ends where the uninterrupted one does: same weights, same kept edits.

Each rank is a forked process: SIGKILL is real and the imports are paid for once. `benchmarks/fault_injection.py`
does the same at random moments.
"""

import json
import signal

import fault_injection
import pytest
import torch
from fault_injection import Launch, finished, fit, outcome

ONE_ROUND = {"max_epochs": 1}


def killer(event, count, number=signal.SIGKILL, rank=0):
    arguments = {"event": event, "count": count, "number": int(number), "rank": rank}
    return {"callbacks": [{"class_path": "fault_injection.KillAt", "init_args": arguments}]}


def resume(run, setup="single"):
    finished(fit(run, setup, "--ckpt_path", "last"))
    return outcome(run)


@pytest.fixture
def uninterrupted(once):
    """The outcome of the run of a set-up that nobody kills."""

    def of(setup):
        return outcome(once(f"uninterrupted-{setup}", lambda folder: finished(fit(folder / "run", setup))) / "run")

    return of


# A run is killed again and again, always further on. Counts begin anew in each process.
KILLS = {
    "single": [
        ("unit", 2, 0),  # in the first E-step
        ("m_step", 1, 0),  # merged, before or after its checkpoint
        ("validation", 1, 0),  # after the first merge and its checkpoint
        ("e_step", 1, 0),  # between the second E-step and its M-step
        ("batch", 3, 0),  # between the two batches of an optimizer step
        ("batch", 2, 0),  # at the end of that step, with a checkpoint behind it
    ],
    "ddp": [("unit", 1, 1)],
    "zero2": [
        ("batch", 2, 1),  # a step's gradients are complete, but not saved yet
        ("batch", 7, 1),  # in the second M-step (four batches a rank and round)
    ],
    "zero3": [("batch", 3, 0), ("e_step", 1, 1)],
}


@pytest.mark.parametrize("setup", KILLS)
def test_a_run_killed_again_and_again_resumes_to_the_same_end(tmp_path, uninterrupted, setup):
    run = tmp_path / "run"
    for number, (event, count, rank) in enumerate(KILLS[setup]):
        last = ["--ckpt_path", "last"] if number else []
        codes = fit(run, setup, *last, trainer=killer(event, count, rank=rank)).wait()
        assert codes[rank] == -signal.SIGKILL, (event, run.with_suffix(".log").read_text()[-2000:])
    assert resume(run, setup) == uninterrupted(setup)


# what an M-step is compared with is the policy before it, which these cannot have again once it has begun
GONE = {
    "single": ("--model.m_step.objective", "grpo", "--model.tuning.round_start", "continue"),
    "ddp": ("--model.m_step.objective", "dpo", "--model.tuning.method", "full", "--model.m_step.learning_rate", "1e-3"),
}


@pytest.mark.parametrize("setup", GONE)
def test_a_run_killed_in_its_m_step_goes_on_with_the_references_of_the_rounds_start(tmp_path, setup):
    outcomes = []
    for name, kill in {"whole": {}, "killed": killer("batch", 7 if setup == "single" else 3)}.items():
        run = tmp_path / name
        codes = fit(run, setup, *GONE[setup], trainer={**ONE_ROUND, **kill}).wait()
        if kill:
            assert codes[0] == -signal.SIGKILL, run.with_suffix(".log").read_text()[-2000:]
            saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["seal"]
            assert saved["optimizer_steps"] > 1 and saved["references"]
            finished(fit(run, setup, "--ckpt_path", "last", *GONE[setup], trainer=ONE_ROUND))
        outcomes.append(outcome(run))
        assert "references" not in torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["seal"]
    assert outcomes[0] == outcomes[1]


def test_bf16_under_zero_3_resumes_exactly(tmp_path):
    """The master weights are float32, and the checkpoint keeps all their bits."""
    unvalidated = {"validate_first": False, "limit_val_batches": 0}
    outcomes, plain = [], {"precision": "bf16-true", **ONE_ROUND, **unvalidated}
    for name, extra in {"whole": {}, "killed": killer("batch", 3, rank=1)}.items():
        run, trainer = tmp_path / name, {**plain, **extra}
        codes = fit(run, "zero3", trainer=trainer).wait()
        if extra:
            assert codes[1] == -signal.SIGKILL
            finished(fit(run, "zero3", "--ckpt_path", "last", trainer=plain))
        outcomes.append(outcome(run))
    assert outcomes[0] == outcomes[1]


def test_ranks_change_neither_the_kept_sets_nor_what_is_learnt_much(uninterrupted):
    sets = {setup: uninterrupted(setup)[1] for setup in ("single", "ddp", "zero2", "zero3")}
    assert sets["ddp"][0] == sets["zero2"][0] == sets["zero3"][0] == sets["single"][0]  # one policy, so all equal


@pytest.mark.parametrize(("setup", "rank"), [("single", 0), ("ddp", 0), ("ddp", 1)])
def test_sigterm_stops_every_rank_with_a_checkpoint(tmp_path, uninterrupted, setup, rank):
    run = tmp_path / "run"
    for event, last in {"unit": [], "batch": ["--ckpt_path", "last"]}.items():
        launch = fit(run, setup, *last, trainer=killer(event, 1, signal.SIGTERM, rank))
        codes = launch.wait(together=False, seconds=30)
        assert codes == [143] * len(codes)
        assert (run / "checkpoints" / "last.ckpt").exists()
    assert resume(run, setup) == uninterrupted(setup)


def test_ctrl_c_stops_at_a_units_end_with_130(tmp_path, uninterrupted):
    run = tmp_path / "run"
    assert fit(run, "single", trainer=killer("unit", 2, signal.SIGINT)).wait() == [130]
    assert "SIGINT: stopping at the end of this unit or step" in run.with_suffix(".log").read_text()
    assert resume(run) == uninterrupted("single")


def test_sigterm_stops_predict(tmp_path):
    run = tmp_path / "run"
    path = run.with_suffix(".json")
    made = fault_injection.config(run, **killer("predict", 1, signal.SIGTERM))
    made["data"]["predict"] = made["data"].pop("train")
    path.write_text(json.dumps(made))
    launch = Launch(["predict", "--config", path], ranks=1, log=run.with_suffix(".log"))
    assert launch.wait() == [143]
    assert "seal: terminated" in launch.log.read_text()


def test_a_finished_unit_is_not_run_again(tmp_path):
    run = tmp_path / "run"
    fit(run, "single", trainer={**ONE_ROUND, **killer("unit", 2)}).wait()
    before = (run / "journal" / "train-000.rank-0.jsonl").read_bytes()
    assert before.count(b'"unit": 1') == 4  # two edits, two repeats
    finished(fit(run, "single", "--ckpt_path", "last", trainer=ONE_ROUND))
    assert (run / "journal" / "train-000.rank-0.jsonl").read_bytes().startswith(before)


def test_an_e_step_carries_over_to_another_number_of_ranks(tmp_path, uninterrupted):
    run = tmp_path / "run"
    assert fit(run, "ddp", trainer=killer("e_step", 1, rank=1)).wait()[1] == -signal.SIGKILL
    written = {path.name: path.read_bytes() for path in (run / "journal").glob("train-000.*")}
    assert resume(run) == uninterrupted("single")
    assert written == {path.name: path.read_bytes() for path in (run / "journal").glob("train-000.*")}


def test_an_m_step_does_not_carry_over_and_says_so(tmp_path):
    run = tmp_path / "run"
    fit(run, "ddp", trainer=killer("batch", 3)).wait()
    before = (run / "checkpoints" / "last.ckpt").read_bytes()
    launch = fit(run, "single", "--ckpt_path", "last")
    assert launch.wait() == [1]
    assert "within an M-step on 2 ranks, now there are 1" in launch.log.read_text()
    assert (run / "checkpoints" / "last.ckpt").read_bytes() == before


def test_another_configuration_does_not_touch_the_journal(tmp_path):
    run = tmp_path / "run"
    fit(run, "single", trainer=killer("unit", 1)).wait()
    before = (run / "journal" / "train-000.rank-0.jsonl").read_bytes()
    launch = fit(run, "single", "--trainer.default_root_dir", str(run), "--model.inner_loop.learning_rate", "0.5")
    assert launch.wait() == [2]
    assert "run.json: written with other" in (said := launch.log.read_text()) and "learning_rate" in said
    assert (run / "journal" / "train-000.rank-0.jsonl").read_bytes() == before


def test_a_resume_without_the_journal_says_so(tmp_path):
    run = tmp_path / "run"
    fit(run, "single", trainer=killer("batch", 5)).wait()
    for path in (run / "journal").glob("train-*"):
        path.unlink()
    launch = fit(run, "single", "--ckpt_path", "last")
    assert launch.wait() == [1]
    assert "is incomplete, but the checkpoint was taken in its M-step" in launch.log.read_text()
