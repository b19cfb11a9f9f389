"""Break runs of `seal` at random moments, resume them, and compare them with an unbroken run.

    python benchmarks/fault_injection.py --kills 40

The trials take turns among the set-ups, each a command and a fault:

- killed: SIGKILL to any rank, once or twice, of `seal fit` (one process, two DDP ranks, ZeRO-2 and ZeRO-3 on two ranks
  over gloo, every parameter partitioned), `adapt`, `continual` and `predict` (self-edits, and answers).
- full: the run folder is a file system that fills up at a random offset, twice; the run must end with one line about
  it and without a traceback. Without the right to mount one, files are limited in size instead (RLIMIT_FSIZE).
- two: the same command is started twice in one folder; one continues, and the other is refused meanwhile.

Each run, resumed where it was broken, must leave the same bytes as the uninterrupted one of its command: adapters,
tables, results, and of a fit the last checkpoint's policy and the kept sets.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from fault_injection import DEBUG, SETUPS, Launch, config, finished, outcome, ranks_of

MEBIBYTE = 2**20
COMMANDS = (*SETUPS, "adapt", "continual", "predict", "answers")
KINDS = (*COMMANDS, *(f"full-{name}" for name in ("fit", *COMMANDS[4:])), "two-fit", "two-adapt", "two-continual")
# What a command is judged by, byte for byte; a fit also by its checkpoint, and its table but for the seconds.
RESULTS = {
    "fit": ("policy/**/*", "tables/*.md"),
    "adapt": ("adapters/**/*", "documents/*", "adapt.md", "baseline.json"),
    "continual": ("streams/**/*.safetensors", "streams/**/*.json", "official/*", "retention.*", "*.json"),
    "predict": ("edits.jsonl", "answers.jsonl"),
}


@dataclass(frozen=True, slots=True)
class Command:
    """A command of `seal` on small data.

    Attributes:
        name: Name in `COMMANDS`.
    """

    name: str

    @property
    def verb(self) -> str:
        return "fit" if self.name in SETUPS else "predict" if self.name == "answers" else self.name

    @property
    def ranks(self) -> int:
        return ranks_of(self.name) if self.name in SETUPS else 1

    def start(self, run: Path, *, resume: bool = False, largest: int | None = None) -> Launch:
        """Start the command in the folder `run`; its configuration and log go beside it."""
        beside = run.parent / f"{run.name}-{self.name}"
        path = beside.with_suffix(".json")
        path.write_text(json.dumps(self._settings(run)))
        arguments: list[object] = [self.verb, "--config", path]
        if self.verb in ("adapt", "continual"):
            arguments += ["--output", run, *(["--resume"] if resume else [])]
        elif self.verb == "fit" and resume:
            arguments += ["--ckpt_path", "last"]
        return Launch(arguments, ranks=self.ranks, log=beside.with_suffix(".log"), largest=largest)

    def outcome(self, run: Path) -> Any:
        """The results of a finished run."""
        found = sorted({path for pattern in RESULTS[self.verb] for path in run.glob(pattern) if path.is_file()})
        files = {str(path.relative_to(run)): path.read_bytes() for path in found}
        title = f"{run.name}, policy".encode()  # a card's title names the folder, which differs from trial to trial
        files = {name: content.replace(title, b"policy") for name, content in files.items()}
        left = [str(path) for path in run.rglob(".saving-*")]
        return files, left, (outcome(run), _table(run / "fit.json")) if self.verb == "fit" else None

    def _settings(self, run: Path) -> dict[str, Any]:
        made = config(run, self.name if self.name in SETUPS else "single")
        if self.verb == "fit":
            return made
        if self.verb == "predict":
            made["model"] |= {"predict": "answers" if self.name == "answers" else "edits"}
            made["data"]["predict"] = made["data"].pop("train")
            return {"trainer": made["trainer"], "model": made["model"], "data": made["data"]}
        model = {name: value for name, value in made["model"].items() if name not in ("tuning", "m_step")}
        passages = str(DEBUG / "passages.jsonl")
        if self.verb == "adapt":
            # groups of adapters, and several checkpoints in the training of each
            model["e_step"] |= {"repeats": 1}
            model["inner_loop"] |= {"max_adapters": 2}
            return {
                "documents": [passages],
                "adapters": "both",
                "save_every": 2,
                "contexts_per_unit": 1,
                "model": model,
            }
        model["e_step"] = {"edits": 1, "repeats": 1}
        return {"data": passages, "contexts": 3, "orders": 2, "countermeasures": "replay", "model": model}


def _table(path: Path) -> list[dict[str, Any]]:
    """The rows of a table without times."""
    rows = json.loads(path.read_text())["accuracy"]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


# -- what befalls a run ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Trial:
    """One run that is broken.

    Attributes:
        command: Command that runs.
        run: Folder of the run.
        seconds: Seconds that the uninterrupted run took.
        size: Size of that run on disk, in bytes.
        place: From 0 to 1: how far the run has come, or how much of the disk is free.
        draw: Source of all other random choices.
    """

    command: Command
    run: Path
    seconds: float
    size: int
    place: float
    draw: random.Random

    def killed(self) -> str:
        """Send SIGKILL once or twice; return what happened, in words."""
        rank, told = self.draw.randrange(self.command.ranks), []
        for number in range(self.draw.choice((1, 2))):
            moment = self.place * self.seconds * (0.5**number)
            launch = self.command.start(self.run, resume=number > 0)
            launch.ranks[rank].join(moment)
            reached = launch.ranks[rank].is_alive()
            launch.ranks[rank].kill()
            launch.wait()
            told.append(f"at {moment:.1f} s{'' if reached else ' (had ended)'}")
        finished(self.command.start(self.run, resume=True))
        return f"rank {rank} killed {', again '.join(told)}"

    def full(self) -> str:
        """Run out of room twice, the second time with more of it; return what happened, in words."""
        told = []
        rooms = sorted((self.place * self.size, self.draw.uniform(self.place, 1.0) * self.size))
        with _disk(self.run) as resize:
            for number, room in enumerate(map(int, rooms)):
                largest = resize(room)
                launch = self.command.start(self.run, resume=number > 0, largest=largest)
                codes = launch.wait()
                told.append(f"{room / 1000:.0f} kB: {_one_line(launch, codes)}")
            resize(None)
            finished(self.command.start(self.run, resume=True))
            aside = self.run.with_name(f"{self.run.name}-kept")
            shutil.copytree(self.run, aside)
        shutil.rmtree(self.run)
        aside.rename(self.run)
        return "; ".join(told)

    def two(self) -> str:
        """Start a second process in the same folder; return what happened, in words."""
        moment = 0.4 * self.place * self.seconds
        first = self.command.start(self.run)
        first.ranks[0].join(moment)
        second = self.command.start(self.run, resume=True)
        codes = sorted(map(str, [*second.wait(together=False), *first.wait(together=False)]))
        said = second.log.read_text()
        refused = codes == ["0", "2"] and "in use by" in said
        if not refused and codes != ["0", "0"]:  # one that finds the folder free again goes on in it
            raise SystemExit(f"two at once ended with {codes}: {said[-2000:]}")
        return f"a second one after {moment:.1f} s: {'refused' if refused else 'the first had ended'}"


def _one_line(launch: Launch, codes: Sequence[int | None]) -> str:
    """How a run on a full disk ended, in a word; anything but one line about the disk ends this program."""
    said = launch.log.read_text()
    if codes == [0]:
        return "enough"
    reasons = ("No space left on device", "File too large")
    last = said.splitlines()[-1] if said.strip() else ""
    plain = last.startswith("seal: ") and any(reason in last for reason in reasons) and "Traceback" not in said
    if codes not in ([1], [2]) or not plain:
        raise SystemExit(f"a full disk ended a run with {codes}: {said[-3000:]}")
    launch.log.write_text("")  # told once
    return "full"


@contextmanager
def _disk(folder: Path) -> Iterator[Callable[[int | None], int | None]]:
    """A file system at `folder` whose size can be set, in bytes; where none may be mounted, a limit for each file."""
    folder.mkdir(parents=True)
    mounted = _mount(folder, "size=64m") == 0

    def resize(room: int | None) -> int | None:
        if not mounted:
            return room
        if _mount(folder, f"remount,size={64 * MEBIBYTE if room is None else max(4096, room)}") != 0:
            raise SystemExit(f"{folder}: its size cannot be set")
        return None

    try:
        yield resize
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _mount(folder: Path, options: str) -> int:
    try:
        return subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], capture_output=True
        ).returncode
    except FileNotFoundError:
        return 1


# -- trials ------------------------------------------------------------------------------------------------------------


def _uninterrupted(command: Command, folder: Path) -> tuple[Any, float, int]:
    """The outcome of an uninterrupted run, its seconds and its bytes."""
    run, began = folder / "whole" / command.name, time.monotonic()
    run.parent.mkdir(exist_ok=True)
    finished(command.start(run))
    seconds = time.monotonic() - began
    blocks = sum(-(-path.stat().st_size // 4096) for path in run.rglob("*") if path.is_file())
    expected = command.outcome(run)
    print(f"{command.name}: uninterrupted in {seconds:.1f} s, {len(expected[0])} files compared", flush=True)
    return expected, seconds, 4096 * blocks


def _parts(kind: str) -> tuple[str, Command]:
    """The fault and the command."""
    fault, _, name = kind.rpartition("-")
    return fault or "killed", Command("single" if name == "fit" else name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=40, help="trials in all, shared among the set-ups")
    parser.add_argument("--setups", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="seal-faults-"))
    os.environ["HF_HUB_OFFLINE"] = "1"
    draw, rows, known = random.Random(options.seed), [], dict[str, tuple[Any, float, int]]()
    for place, kind in enumerate(options.setups):
        fault, command = _parts(kind)
        trials = len(range(place, options.kills, len(options.setups)))
        if trials and command.name not in known:
            known[command.name] = _uninterrupted(command, folder)
        for number in range(trials):
            expected, seconds, size = known[command.name]
            at = (number + draw.random()) / trials  # random, and spread over the whole run
            run = folder / f"{kind}-{number}"
            told = getattr(Trial(command, run, seconds, size, at, draw), fault)()
            equal = _same(command.outcome(run), expected, run)
            rows.append({"setup": kind, "told": told, "equal": equal})
            print(f"  {kind}: {told} -> {'equal' if equal else 'DIFFERENT'}", flush=True)
            shutil.rmtree(run)
    equal = sum(row["equal"] for row in rows)
    print(f"{equal} of {len(rows)} runs end as the uninterrupted one")
    print(f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}")
    if options.json:
        options.json.write_text(json.dumps({"equal": equal, "kills": len(rows), "rows": rows}, indent=1) + "\n")
    shutil.rmtree(folder)
    sys.exit(equal != len(rows))


def _same(found: Any, expected: Any, run: Path) -> bool:
    if found == expected:
        return True
    names = [name for name in {**found[0], **expected[0]} if found[0].get(name) != expected[0].get(name)]
    print(f"    {run}: {', '.join(names) or found[1:]} differ", flush=True)
    return False


if __name__ == "__main__":
    main()
