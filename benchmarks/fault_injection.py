"""Tools that break runs, and runs small enough to be broken often; `fault_trials.py` does so at random moments.

    python benchmarks/fault_injection.py --kills 40

The model has random weights, and the grader derives a score from each answer's letters, so that any difference shows.
Ranks get the environment that torchrun would give them, and like torchrun this ends the others when one dies. They are
forked from a server of Python's that has one thread: a fork of a program with threads gets the locks that they hold and
not who would release them. `KillAt`, a callback that kills its own process at a fixed event, serves the short
version in the tests.
"""

import faulthandler
import hashlib
import json
import multiprocessing
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import psutil
import torch

from seal_lightning.cli import main as seal
from seal_lightning.grading import Grader
from seal_lightning.hooks import SEALCallback
from seal_lightning.m_step.selection import best_of, group_rollouts
from seal_lightning.processes import watch
from seal_lightning.records.journal import read_rollouts

HERE = Path(__file__).resolve().parent
DEBUG = HERE.parent / "configs" / "debug"
SETUPS = ("single", "ddp", "zero2", "zero3")
LONGEST = 300.0  # seconds a run may take
# What the server imports before it forks: seconds in each rank of each run.
PRELOADED = (
    "deepspeed",
    "torch.utils.tensorboard",
    "seal_lightning.commands.fit",
    "seal_lightning.commands.adapt.command",
    "seal_lightning.commands.continual.command",
)


class AnswerDigest(Grader):
    """A score drawn from the answer's text: any difference in any answer shows in the rewards and in what is kept."""

    def grade(self, *, question: str, golds: Sequence[str], answer: str) -> float:
        return hashlib.blake2b(f"{question} {answer}".encode(), digest_size=1).digest()[0] / 255


class FailingGrader(AnswerDigest):
    """Raises an error on the ranks it is given."""

    def __init__(self, ranks: Sequence[int]) -> None:
        self.ranks = list(ranks)

    def grade(self, *, question: str, golds: Sequence[str], answer: str) -> float:
        if int(os.environ.get("RANK", "0")) in self.ranks:
            raise RuntimeError("the judge's driver is broken")
        return super().grade(question=question, golds=golds, answer=answer)


class BrokenProcess(AnswerDigest):
    """Raises an error in the first process that grades a certain question, from then on, and in no other.

    Args:
        marker: File that this process creates and writes its number into.
        about: The question.
    """

    def __init__(self, marker: str, about: str) -> None:
        self.marker = marker
        self.about = about
        self.broken = False

    def grade(self, *, question: str, golds: Sequence[str], answer: str) -> float:
        if question == self.about:
            with suppress(FileExistsError), open(self.marker, "x") as file:
                file.write(str(os.getpid()))
            self.broken = Path(self.marker).read_text() in ("", str(os.getpid()))
        if self.broken:
            raise RuntimeError("the judge's driver is broken")
        return super().grade(question=question, golds=golds, answer=answer)


class Unsendable(AnswerDigest):
    """Holds what no other process can be sent."""

    def __init__(self) -> None:
        self.made = lambda: None


class KillAt(SEALCallback):
    """Sends its own process a signal at its `count`-th `event`: unit, e_step, batch, m_step, validation or predict.

    Args:
        event: Kind of event.
        count: Number of such events in this process before the signal.
        number: Number of the signal.
        rank: Rank that gets the signal.
    """

    def __init__(self, event: str, count: int, number: int = 9, rank: int = 0) -> None:
        self.event = event
        self.left = count
        self.number = number
        self.rank = rank

    def _happened(self, trainer: Any, event: str) -> None:
        if event == self.event and trainer.global_rank == self.rank:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), self.number)

    def on_unit_end(self, trainer: Any, module: Any, *, phase: str, **what: Any) -> None:
        self._happened(trainer, "unit" if phase == "train" else phase)

    def on_e_step_end(self, trainer: Any, module: Any, **what: Any) -> None:
        self._happened(trainer, "e_step")

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        self._happened(trainer, "batch")

    def on_m_step_end(self, trainer: Any, module: Any) -> None:
        self._happened(trainer, "m_step")


class StandStill(SEALCallback):
    """Does nothing for some seconds before the run begins."""

    def __init__(self, seconds: float) -> None:
        time.sleep(seconds)


class ShortGrace(SEALCallback):
    """What a rank's main thread gets to end by itself when another stands still, in seconds."""

    def __init__(self, seconds: float) -> None:
        watch.GRACE = seconds


class KillRayWorkers(SEALCallback):
    """Kills the Ray workers when the first training unit is finished.

    If the second worker is still starting then, only the first is killed, with the next unit in its hands.
    """

    def __init__(self) -> None:
        self.done = False

    def on_unit_end(self, trainer: Any, module: Any, *, phase: str, **what: Any) -> None:
        if phase == "train" and not self.done:
            self.done = True
            workers = ray_workers(os.getpid())
            print(f"killing {len(workers)} Ray workers", flush=True)
            for worker in workers:
                os.kill(worker, signal.SIGKILL)


def _is_ray_worker(process: psutil.Process) -> bool:
    try:
        return (process.cmdline() or [""])[0].startswith("ray::UnitWorker")
    except psutil.Error:
        return False


def ray_workers(parent: int | None) -> list[int]:
    """The process ids of the Ray workers that `parent` started."""
    return [process.pid for process in psutil.Process(parent).children(recursive=True) if _is_ray_worker(process)]


def ranks_of(setup: str) -> int:
    return 1 if setup == "single" else 2


def config(run: Path, setup: str = "single", **extra: Any) -> dict[str, Any]:
    """A run of two rounds with three units each, small enough to be killed many times."""
    zero = "seal_lightning.fit.strategies.ZeROStrategy"
    strategies: dict[str, Any] = {
        "single": "auto",
        "ddp": "ddp",
        "zero2": {"class_path": zero, "init_args": {"stage": 2}},
        "zero3": {"class_path": zero, "init_args": {"stage": 3, "persistence_threshold": 0}},
    }
    return {
        "trainer": {
            "default_root_dir": str(run),
            "accelerator": "cpu",
            "devices": ranks_of(setup),
            "strategy": strategies[setup],
            "max_epochs": 2,
            "accumulate_grad_batches": 2,
            **extra,
        },
        "model": {
            "source": {"name": "random/llama"},
            "tuning": {"rank": 4, "alpha": 8, "dropout": 0.1},
            "sampler": {"class_path": "seal_lightning.sampling.LocalSampler", "init_args": {"max_new_tokens": 12}},
            "inner_loop": {"rank": 4, "alpha": 8, "epochs": 3, "learning_rate": 0.06, "max_adapters": 8},
            "grader": {"class_path": "fault_injection.AnswerDigest"},
            "e_step": {"edits": 2, "repeats": 2},
            "m_step": {"epochs": 2, "learning_rate": 0.01},
            "max_answer_tokens": 6,
        },
        "data": {
            "train": str(DEBUG / "passages.jsonl"),
            "validation": str(DEBUG / "passages-validation.jsonl"),
            "contexts_per_unit": 1,
        },
        # rewards are digests of answers: the best of two rounds is exported, and learns from whatever there is
        "filter": {"class_path": "seal_lightning.callbacks.ReSTEMFilter", "init_args": {"above": None}},
        "checkpoint": {"every_n_steps": 1, "include_untrained": False},
    }


def outcome(run: Path) -> tuple[str, list[list[tuple[str, int]]]]:
    """The result of a finished run: a digest of the last checkpoint's policy, and each round's kept set."""
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


# -- ranks as forked processes, so that the imports are paid for once --------------------------------------------------


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a rank has from the process that asks for it, as if that had forked it.

    Attributes:
        environment: Its environment variables.
        folder: Its working directory.
        waits_for_disk: Whether `fsync` does anything there; the tests' does not.
        longest: Seconds after which it gives the rank up.
    """

    environment: dict[str, str]
    folder: str
    waits_for_disk: bool
    longest: float

    @classmethod
    def here(cls) -> Self:
        return cls(dict(os.environ), os.getcwd(), os.fsync is not os.fstat, LONGEST)

    def enter(self) -> None:
        os.environ.clear()
        os.environ.update(self.environment)
        os.chdir(self.folder)
        if not self.waits_for_disk:
            os.fsync = os.fstat


def held_port() -> socket.socket:
    """A socket that keeps its port free for rank 0, which may bind it as well; nobody is given a port that is bound."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("", 0))
    return held


class Launch:
    """`seal` on some ranks of this machine; `log` gets their output and, just before LONGEST, the line they are at.

    Args:
        arguments: Arguments of `seal`.
        ranks: Number of processes.
        log: File that the output is appended to.
        largest: Largest size of a file, in bytes.
    """

    def __init__(self, arguments: Sequence[object], *, ranks: int, log: Path, largest: int | None = None) -> None:
        self.log = log
        self._port = held_port() if ranks > 1 else None
        port = self._port.getsockname()[1] if self._port else None
        context, here = multiprocessing.get_context("forkserver"), Surroundings.here()
        context.set_forkserver_preload(list(PRELOADED))
        self.ranks = [
            context.Process(target=_rank, args=([str(a) for a in arguments], rank, ranks, port, log, largest, here))
            for rank in range(ranks)
        ]
        for process in self.ranks:
            process.start()

    def wait(self, *, together: bool = True, seconds: float = LONGEST) -> list[int | None]:
        """The ranks' exit codes, negative for a signal; `together` ends the others when one fails, as torchrun does."""
        deadline = time.monotonic() + seconds
        while any(process.is_alive() for process in self.ranks) and time.monotonic() < deadline:
            if together and any(process.exitcode not in (None, 0) for process in self.ranks):
                self._end(5.0)
            time.sleep(0.02)
        codes = [process.exitcode for process in self.ranks]
        self._end(0.0)
        return codes

    def _end(self, grace: float) -> None:
        for process in self.ranks:
            process.join(grace)
            if process.is_alive():
                process.kill()
                process.join()
        if self._port:
            self._port.close()


def _rank(
    arguments: list[str], rank: int, ranks: int, port: int | None, log: Path, largest: int | None, here: Surroundings
) -> None:
    here.enter()
    sys.argv = ["seal", *arguments]
    sys.stdout = sys.stderr = log.open("a", buffering=1)
    os.dup2(sys.stdout.fileno(), 1)
    os.dup2(sys.stdout.fileno(), 2)
    faulthandler.dump_traceback_later(0.95 * here.longest, file=2)
    torch.set_num_threads(1)
    if largest is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))
    if ranks > 1:
        names = {"LOCAL_RANK": rank, "RANK": rank, "WORLD_SIZE": ranks, "NODE_RANK": 0}
        os.environ |= {name: str(value) for name, value in names.items()}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    code = seal(arguments)
    sys.stdout.flush()
    os._exit(code)  # a fork has its parent's exit handlers


def fit(run: Path, setup: str, *options: object, trainer: dict[str, Any] | None = None) -> Launch:
    """Start `seal fit` on the configuration above."""
    path = run.with_suffix(".json")
    path.write_text(json.dumps(config(run, setup, **(trainer or {}))))
    return Launch(["fit", "--config", path, *options], ranks=ranks_of(setup), log=run.with_suffix(".log"))


def finished(launch: Launch) -> None:
    """Wait for the end; anything but success ends this program."""
    codes = launch.wait()
    if any(codes):
        raise SystemExit(f"seal ended with {codes}: {launch.log.read_text()[-2000:]}")


if __name__ == "__main__":
    from fault_trials import main  # which imports this module under its own name

    main()
