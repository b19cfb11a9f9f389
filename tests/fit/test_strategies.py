"""An M-step on one process, two DDP ranks and ZeRO 1 to 3 is the same M-step; what each saves, all can read."""

import json
import signal
from contextlib import nullcontext

import pytest
import torch
from fault_injection import Launch, fit, outcome
from safetensors.torch import load_file

from seal_lightning.errors import ConfigError
from seal_lightning.fit.strategies import ZeROStrategy
from seal_lightning.fit.trainer import SEALTrainer

SETUPS = ("single", "ddp", "zero1", "zero2", "zero3")
# one effective batch on one rank and on two, which it does not divide; the last step of twenty batches is not full
TRAINER = {"max_epochs": 1, "accumulate_grad_batches": 1, "validate_first": False}
EFFECTIVE = ("--model.m_step.effective_batch", "3", "--model.m_step.epochs", "5")


def zero1():
    return {"strategy": {"class_path": "seal_lightning.fit.strategies.ZeROStrategy", "init_args": {"stage": 1}}}


def merged(run):
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["seal"]["merged"]


@pytest.fixture
def finished_run(once):
    """A finished run of a set-up."""

    def of(setup, objective="sft"):
        def fill(folder):
            base, extra = ("ddp", zero1()) if setup == "zero1" else (setup, {})
            options = [*EFFECTIVE, "--checkpoint.merged", "true", "--model.m_step.objective", objective]
            launch = fit(folder / "run", base, *options, trainer={**TRAINER, **extra})
            assert set(launch.wait()) == {0}, launch.log.read_text()

        return once(f"strategy-{setup}-{objective}", fill) / "run"

    return of


@pytest.mark.parametrize("setup", SETUPS[1:])
def test_the_same_policy_is_learnt(finished_run, setup):
    (alone,), (shared,) = merged(finished_run("single")), merged(finished_run(setup))
    assert alone.keys() == shared.keys()
    moved = max(float(value.abs().max()) for name, value in alone.items() if ".lora_B." in name)
    apart = max(float((value - shared[name]).abs().max()) for name, value in alone.items())
    assert moved > 0.01 and apart < 1e-6, (moved, apart)


@pytest.mark.parametrize(("objective", "setup"), [("grpo", "zero2"), ("dpo", "zero3")])
def test_the_same_is_learnt_against_the_rounds_start(finished_run, objective, setup):
    """The references of an edit come from any rank, under ZeRO-3 of weights that lie on both."""
    (alone,), (shared,) = merged(finished_run("single", objective)), merged(finished_run(setup, objective))
    moved = max(float(value.abs().max()) for name, value in alone.items() if ".lora_B." in name)
    apart = max(float((value - shared[name]).abs().max()) for name, value in alone.items())
    assert moved > 0.01 and apart < 1e-5, (moved, apart)
    assert not all(torch.equal(value, merged(finished_run("single"))[0][name]) for name, value in alone.items())


@pytest.mark.parametrize("setup", SETUPS)
def test_the_exported_policy_is_what_was_learnt(finished_run, setup):
    exported = load_file(finished_run(setup) / "policy" / "adapter_model.safetensors")
    (learnt,) = merged(finished_run(setup))
    assert exported.keys() == learnt.keys()
    assert all(torch.equal(value, learnt[name]) for name, value in exported.items())


def test_the_best_policy_of_zero_3_is_tested_by_one_process_and_by_two(finished_run, tmp_path):
    tables = []
    for name, options in {"two": [], "one": ["--trainer.strategy", "auto", "--trainer.devices", "1"]}.items():
        config = json.loads(finished_run("zero3").with_suffix(".json").read_text())
        config["trainer"]["default_root_dir"] = str(tmp_path / name)
        config["data"]["test"] = config["data"].pop("validation")
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(config))
        best = str(finished_run("zero3") / "checkpoints" / "best.ckpt")
        launch = Launch(
            ["test", "--config", path, "--ckpt_path", best, *options],
            ranks=2 if name == "two" else 1,
            log=tmp_path / f"{name}.log",
        )
        assert set(launch.wait()) == {0}, launch.log.read_text()
        written = json.loads((tmp_path / name / "test.json").read_text())
        tables.append([(row["name"], row["accuracy"]) for row in written["accuracy"]])
    assert tables[0] == tables[1] and len(tables[0]) == 3


def test_a_finished_round_goes_on_under_another_strategy(tmp_path):
    run = tmp_path / "run"
    stop = {"event": "m_step", "count": 1, "number": int(signal.SIGTERM), "rank": 1}
    callbacks = {"callbacks": [{"class_path": "fault_injection.KillAt", "init_args": stop}]}
    extra = {"accumulate_grad_batches": 1}
    assert fit(run, "zero3", *EFFECTIVE, trainer={**extra, **callbacks}).wait(together=False) == [143, 143]
    assert fit(run, "single", *EFFECTIVE, "--ckpt_path", "last", trainer=extra).wait() == [0]
    assert len(outcome(run)[1][1]) == 4


def test_whole_weights_are_exported_from_zero_3(finished_run):
    one, three = (
        load_file(finished_run(setup) / "policy-merged" / "model.safetensors") for setup in ("single", "zero3")
    )
    assert one.keys() == three.keys()
    assert max(float((value - three[name]).abs().max()) for name, value in one.items()) < 1e-6


def test_zero_3_as_it_is_shipped_recomputes_activations(tmp_path):
    shipped = {"strategy": {"class_path": "seal_lightning.fit.strategies.ZeROStrategy", "init_args": {"stage": 3}}}
    options = [*EFFECTIVE, "--model.tuning.gradient_checkpointing", "true"]
    launch = fit(tmp_path / "run", "ddp", *options, trainer={**TRAINER, **shipped})
    assert set(launch.wait()) == {0}, launch.log.read_text()


def test_zero_3_trains_all_weights_too(tmp_path):
    options = [*EFFECTIVE, "--model.tuning.method", "full"]
    launch = fit(tmp_path / "run", "zero3", *options, trainer=TRAINER)
    assert set(launch.wait()) == {0}, launch.log.read_text()


@pytest.mark.parametrize(
    ("variables", "refused"),
    [
        ({"NTASKS": "4"}, True),
        ({"NTASKS": "4", "JOB_NAME": "interactive"}, False),
        ({"NTASKS": "1"}, False),
        ({}, False),
    ],
)
def test_slurm_tasks_that_lightning_cannot_tell_apart(tmp_path, monkeypatch, variables, refused):
    for name, value in variables.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    with pytest.raises(ConfigError, match="SLURM_NTASKS=4: expected --ntasks-per-node") if refused else nullcontext():
        SEALTrainer(default_root_dir=str(tmp_path), accelerator="cpu", logger=False)


def test_slurm_requeues_and_the_next_run_resumes_by_itself(tmp_path, monkeypatch):
    folder, run = tmp_path / "bin", tmp_path / "run"
    folder.mkdir()
    (folder / "scontrol").write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n')
    (folder / "scontrol").chmod(0o755)
    for name, value in {"NTASKS": 1, "JOB_ID": 7, "JOB_NAME": "seal", "PROCID": 0, "LOCALID": 0, "NODEID": 0}.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    stop = {"event": "unit", "count": 2, "number": int(signal.SIGUSR1)}
    callbacks = {"callbacks": [{"class_path": "fault_injection.KillAt", "init_args": stop}]}
    launch = fit(run, "single", trainer=callbacks)
    assert launch.wait() == [128 + signal.SIGUSR1], launch.log.read_text()
    assert (tmp_path / "asked").read_text() == "requeue 7\n"
    before = (run / "journal" / "train-000.rank-0.jsonl").read_bytes()
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert fit(run, "single").wait() == [0]
    assert (run / "journal" / "train-000.rank-0.jsonl").read_bytes().startswith(before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stage": 4}, r"trainer\.strategy\.stage must be 1, 2 or 3, got 4"),
        ({"stage": 2, "offload_parameters": True}, r"trainer\.strategy\.offload_parameters needs stage 3"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ConfigError, match=message):
        ZeROStrategy(**options)


def test_other_sharded_strategies_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"trainer\.strategy must be auto, ddp or .* got DeepSpeedStrategy: for Deep"):
        SEALTrainer(default_root_dir=str(tmp_path), accelerator="cpu", strategy="deepspeed_stage_2", logger=False)
