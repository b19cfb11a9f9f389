"""Kill `seal fit` with SIGKILL at random moments, resume it, and compare with the run that nobody killed.

    python benchmarks/crash.py --kills 10

Every resumed run must end with the policy digest and the kept sets of the uninterrupted one. The model has random
weights and the grader makes a score of each answer's letters, so that any difference shows; it takes a few minutes.
`KillAt`, a callback that kills its own process at a fixed event, serves the short version in the test suite.
"""

import argparse
import hashlib
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from seal_lightning.grading import Grader
from seal_lightning.hooks import SEALCallback
from seal_lightning.journal import read_rollouts
from seal_lightning.selection import best_of, group_rollouts

HERE = Path(__file__).resolve().parent
DEBUG = HERE.parent / "configs" / "debug"


class AnswerDigest(Grader):
    """A score drawn from the answer's text: any difference in any answer shows in the rewards and in what is kept."""

    def grade(self, *, question: str, golds: Sequence[str], answer: str) -> float:
        return hashlib.blake2b(f"{question} {answer}".encode(), digest_size=1).digest()[0] / 255


class KillAt(SEALCallback):
    """Sends its own process a signal (SIGKILL) at the `count`-th `event`: unit, e_step, batch or validation."""

    def __init__(self, event: str, count: int, number: int = 9) -> None:
        self.event = event
        self.left = count
        self.number = number

    def _happened(self, event: str) -> None:
        if event == self.event:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), self.number)

    def on_unit_end(self, trainer: Any, module: Any, *, phase: str, **what: Any) -> None:
        self._happened("unit" if phase == "train" else phase)

    def on_e_step_end(self, trainer: Any, module: Any, **what: Any) -> None:
        self._happened("e_step")

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        self._happened("batch")


def config(run: Path, **extra: Any) -> dict[str, Any]:
    """A run of two rounds with three units each, small enough to be killed many times."""
    return {
        "trainer": {
            "default_root_dir": str(run),
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": 2,
            "accumulate_grad_batches": 2,
            **extra,
        },
        "model": {
            "source": {"name": "random/llama"},
            "tuning": {"rank": 4, "alpha": 8, "dropout": 0.1},
            "sampler": {"class_path": "seal_lightning.sampling.LocalSampler", "init_args": {"max_new_tokens": 16}},
            "inner_loop": {"rank": 4, "alpha": 8, "epochs": 6, "learning_rate": 0.03, "max_adapters": 4},
            "grader": {"class_path": "crash.AnswerDigest"},
            "e_step": {"edits": 2, "repeats": 2},
            "m_step": {"epochs": 3, "learning_rate": 0.01},
            "max_answer_tokens": 8,
        },
        "data": {
            "train": str(DEBUG / "passages.jsonl"),
            "validation": str(DEBUG / "passages-validation.jsonl"),
            "contexts_per_unit": 1,
        },
        "checkpoint": {"every_n_steps": 1},
    }


def outcome(run: Path) -> tuple[str, list[list[tuple[str, int]]]]:
    """What a finished run came to: a digest of the last checkpoint's policy, and each round's kept set."""
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    states = [*checkpoint["seal"]["merged"], checkpoint["state_dict"]]
    digest = "-".join(f"{_digest(state):016x}" for state in states)
    kept = []
    for round in (0, 1):
        groups = group_rollouts(read_rollouts(run / "journal", f"train-{round:03d}"))
        kept.append([(edit.context_id, edit.edit_index) for group in groups for edit in best_of(group)])
    return digest, kept


def _digest(state: dict[str, torch.Tensor]) -> int:
    found = hashlib.blake2b(digest_size=8)
    for name in sorted(state):
        found.update(name.encode() + state[name].contiguous().view(torch.uint8).numpy().tobytes())
    return int.from_bytes(found.digest(), "big")


def start(run: Path, *options: str) -> subprocess.Popen:
    """`seal fit` in a process of its own."""
    path = run.with_suffix(".json")
    path.write_text(json.dumps(config(run)))
    environment = {**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    code = "import sys; from seal_lightning.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "fit", "--config", str(path), *options]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen) -> None:
    _, errors = process.communicate()
    if process.returncode:
        raise SystemExit(f"seal fit ended with {process.returncode}: {errors.decode()[-500:]}")


def wait_for_work(run: Path, process: subprocess.Popen) -> float:
    """Wait until the run has its first journal; returns the moment."""
    while not list((run / "journal").glob("*.jsonl")) and process.poll() is None:
        time.sleep(0.01)
    return time.monotonic()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="seal-crash-"))
    reference = start(folder / "whole")
    began = wait_for_work(folder / "whole", reference)
    finish(reference)
    length = time.monotonic() - began
    expected = outcome(folder / "whole")
    print(f"uninterrupted: {length:.1f} s of work, policy {expected[0]}, kept {expected[1]}")
    draw, equal, rows = random.Random(options.seed), 0, []
    for number in range(options.kills):
        run = folder / f"kill-{number}"
        moment = (number + draw.random()) / options.kills * length  # random, and spread over the whole run
        process = start(run)
        began = wait_for_work(run, process)
        time.sleep(max(0.0, began + moment - time.monotonic()))
        killed = process.poll() is None
        process.kill()
        process.communicate()
        found = [max((run / "journal").glob("*"), key=lambda path: path.stat().st_mtime).name]
        finish(start(run, "--ckpt_path", "last"))
        same = outcome(run) == expected
        equal += same
        rows.append({"moment": moment, "killed": killed, "newest_journal": found, "equal": same})
        print(
            f"kill {number}: at {moment:5.1f} s ({', '.join(found)}) -> {'equal' if same else 'DIFFERENT'}", flush=True
        )
    print(f"{equal} of {options.kills} resumed runs equal the uninterrupted one ({platform.machine()})")
    if options.json:
        options.json.write_text(json.dumps({"equal": equal, "kills": options.kills, "rows": rows}, indent=1) + "\n")
    shutil.rmtree(folder)
    sys.exit(equal != options.kills)


if __name__ == "__main__":
    main()
