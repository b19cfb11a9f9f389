"""Checks before the first run starts: a mistake in one of the settings, or a folder that holds another run.

`settings.py` finds them in a process of its own; here they become one line that names the `--over`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seal_lightning.commands.quickstart import NO_MODULES_HERE
from seal_lightning.commands.sweep.grid import Planned
from seal_lightning.errors import ConfigError, SealError


@dataclass(frozen=True, slots=True)
class Checked:
    """What is known about a sweep whose runs can all start.

    Attributes:
        unchanged: Names of the runs whose folders are new or were written with the same settings.
        gpus: GPUs to share out among the runs; empty if they use none.
        gpus_each: How many of them a run needs.
    """

    unchanged: frozenset[str]
    gpus: tuple[str, ...] = ()
    gpus_each: int = 0


def check(runs: Sequence[Planned], folder: Path) -> Checked:
    """Check the settings of all runs, and what their folders hold.

    Raises:
        ConfigError: One of them cannot run, or its folder holds another run.
    """
    commands = [["fit", *run.options, "--trainer.default_root_dir", str(folder / run.name)] for run in runs]
    findings = _asked(commands)
    rows = findings["runs"]
    if wrong := [(run, row) for run, row in zip(runs, rows, strict=True) if "error" in row]:
        raise ConfigError(_mistake(wrong, len(runs)))
    for run, row in zip(runs, rows, strict=True):
        if not row["other"]:
            continue
        first, *others = row["other"]
        was, now = (json.dumps(value, ensure_ascii=False)[:60] for value in row["changed"][first])
        more = f" and {len(others)} more settings" if others else ""
        raise ConfigError(
            f"{folder / run.name}: holds a run with {first} {was}, but now it is {now}{more}: choose another --output, "
            "or return to those settings. Nothing was overwritten"
        )
    unchanged = frozenset(run.name for run, row in zip(runs, rows, strict=True) if not row["changed"])
    return Checked(unchanged, tuple(findings["gpus"]), findings["gpus_each"])


def _asked(commands: Sequence[Sequence[str]]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "seal_lightning.commands.sweep.settings"],
        input=json.dumps(commands), capture_output=True,
        encoding="utf-8", errors="replace", env={**os.environ, **NO_MODULES_HERE},
    )  # fmt: skip
    try:
        return json.loads(done.stdout)
    except ValueError:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()] or ["it said nothing"]
        raise SealError(f"the settings cannot be checked: {said[-1]}; try one of them with seal fit") from None


def _mistake(wrong: Sequence[tuple[Planned, Mapping[str, Any]]], count: int) -> str:
    """The message about the first run that cannot start; a mistake that all share is not blamed on the sweep."""
    run, text = wrong[0][0], str(wrong[0][1]["error"])
    named = {key: value for key, value in run.values.items() if _is_about(text, key)}
    everywhere = len(wrong) == count and len({row["error"] for _, row in wrong}) == 1
    if not run.values or (everywhere and not named):
        return text
    overs = " ".join(f"--over {key}={value}" for key, value in (named or run.values).items())
    settings = {tuple(other.values.items()) for other, _ in wrong}
    more = f" (and {len(settings) - 1} more of the settings cannot run)" if len(settings) > 1 else ""
    for key, value in named.items():
        for said in (f"--{key}: ", f"{key}: ", f"{key}={value}: "):
            text = text.removeprefix(said)
    return f"{overs}: {text}{more}"


def _is_about(text: str, key: str) -> bool:
    """Whether a message names an option, in full or by its last parts."""
    parts = key.removesuffix(".class_path").split(".")
    return any(".".join(parts[start:]) in text for start in range(len(parts)))
