"""Whole commands against a real server: what they cost, that faults lose no unit, and that a key shows up nowhere."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from seal_lightning.cli import main
from seal_lightning.records.journal import read_fit

KEY = "sk-planted-7c1e55aa90"
PRICES = {"input": 2.0, "output": 8.0}


@pytest.fixture
def seal(monkeypatch, capfd):
    """Run `seal` with the key in its environment; returns exit code, stdout and stderr."""
    monkeypatch.setenv("SEAL_TEST_KEY", KEY)

    def run(*command):
        capfd.readouterr()
        return main([*command]), *capfd.readouterr()

    return run


def endpoint(server, proxy, cache, **options):
    return {
        "model": server.model,
        "base_url": proxy.base_url,
        "api_key_env": "SEAL_TEST_KEY",
        "cache": str(cache),
        "prices": {server.model: PRICES},
        **options,
    }


def options(run, **values):
    """Command-line options; values that are no text are JSON."""
    given = {"trainer.default_root_dir": str(run), "trainer.accelerator": "cpu", "model.source.name": "random/llama"}
    return [
        part
        for name, value in {**given, **values}.items()
        for part in (f"--{name}", value if isinstance(value, str) else json.dumps(value))
    ]


def lab(split, count):
    return {"class_path": "seal_lightning.lab.LabPassages", "init_args": {"split": split, "count": count}}


def sampler(asked, **init_args):
    return {"class_path": "seal_lightning.sampling.EndpointSampler", "init_args": {"endpoint": asked, **init_args}}


@pytest.mark.slow
def test_fifty_edits_cost_what_the_server_counts_and_nothing_the_second_time(seal, chat_server, fault_proxy, tmp_path):
    proxy = fault_proxy()
    asked = endpoint(chat_server, proxy, tmp_path / "cache")
    command = [
        "predict",
        *options(
            tmp_path / "run",
            **{
                "model.sampler": sampler(asked, max_new_tokens=8),
                "model.e_step.edits": 1,
                "data.predict": lab("train", 50),
                "data.contexts_per_unit": 10,
            },
        ),
    ]
    code, first, err = seal(*command)
    assert code == 0, err
    prompt, completion = (proxy.usage[name] for name in ("prompt_tokens", "completion_tokens"))
    dollars = (PRICES["input"] * prompt + PRICES["output"] * completion) / 1e6
    assert proxy.usage["requests"] == 50
    assert (
        f"endpoints: 50 requests and 0 from the cache, {prompt} prompt and {completion} completion tokens, "
        f"${dollars:.6f}\n" in first
    )
    edits = [json.loads(line) for line in (tmp_path / "run" / "edits.jsonl").read_text().splitlines()]
    assert sum(edit["usage"]["sampling"]["prompt_tokens"] for edit in edits) == prompt

    _, second, _ = seal(*command)  # from the journal, with what the edits have cost
    assert "predict: 5 of 5 units are in the journal already\n" in second
    assert first.splitlines()[-2:] == second.splitlines()[-2:] and "endpoints: 50 requests" in second
    shutil.rmtree(tmp_path / "run")
    _, third, _ = seal(*command)  # from the cache
    assert "endpoints: 0 requests and 50 from the cache, 0 prompt and 0 completion tokens, $0\n" in third
    assert proxy.usage["requests"] == 50
    again = [json.loads(line) for line in (tmp_path / "run" / "edits.jsonl").read_text().splitlines()]
    assert [edit["text"] for edit in again] == [edit["text"] for edit in edits]


@pytest.mark.slow
def test_a_fit_with_editor_and_judge_loses_no_unit_to_faults_and_writes_no_key(
    seal, chat_server, fault_proxy, tmp_path
):
    proxy = fault_proxy(share=0.15, faults={"busy": 2, "error": 1, "cut": 1, "garbage": 1, "empty": 1})
    asked = endpoint(chat_server, proxy, tmp_path / "run" / "cache")
    run = tmp_path / "run"
    code, out, err = seal(
        "fit",
        *options(
            run,
            **{
                "log_level": "debug",
                "trainer.max_epochs": 1,
                "trainer.validate_first": False,
                "model.sampler": sampler(asked, max_new_tokens=16),
                "model.grader": {"class_path": "endpoints.YesOrNo", "init_args": asked},
                "model.reward": {"score": 1.0, "length": -0.01},
                "model.inner_loop.epochs": 1,
                "model.inner_loop.rank": 2,
                "model.e_step": {"edits": 2, "repeats": 1},
                "model.max_answer_tokens": 4,
                "data.train": lab("train", 4),
                "data.validation": lab("validation", 2),
                "data.contexts_per_unit": 2,
            },
        ),
    )
    assert code == 0, err
    rollouts = read_fit(run)
    assert len([rollout for rollout in rollouts if rollout.kind == "edit"]) == 4 * 2 + 2
    prompt, completion = (proxy.usage[name] for name in ("prompt_tokens", "completion_tokens"))
    counted = re.findall(r"endpoints: \d+ requests and \d+ from the cache, (\d+) prompt and (\d+) completion", out)
    assert counted[-1] == (str(prompt), str(completion))  # the whole run, at its end
    assert json.loads((run / "usage.json").read_text())["prompt_tokens"] == prompt
    assert set(rollouts[0].terms) == {"score", "length"}

    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 20  # journal, config, cache, checkpoints, logs
    assert [path for path in written if KEY.encode() in path.read_bytes()] == []
    assert KEY not in out + err
    assert f"Bearer {KEY}" in proxy.authorizations  # it was sent all the same


@pytest.mark.slow
def test_a_run_that_waits_for_an_endpoint_stops_when_asked_to(chat_server, fault_proxy, tmp_path):
    proxy = fault_proxy(share=1.0, faults={"hang": 1}, hang=60)
    run = tmp_path / "run"
    asked = endpoint(chat_server, proxy, tmp_path / "cache", timeout=50)
    command = [
        "fit",
        *options(
            run,
            **{
                "trainer.max_epochs": 1,
                "trainer.validate_first": False,
                "model.sampler": sampler(asked, max_new_tokens=16),
                "model.e_step": {"edits": 1, "repeats": 1},
                "data.train": lab("train", 2),
                "data.contexts_per_unit": 1,
            },
        ),
    ]
    with subprocess.Popen(
        [sys.executable, "-m", "seal_lightning", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        while not proxy.attempts and process.poll() is None:
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 143, said
    assert "terminated; finished units are in the journal" in said
    assert proxy.attempts["passed"] == 0 and (run / "checkpoints" / "last.ckpt").exists()
