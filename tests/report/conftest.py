"""Runs for reports, made of a few rollouts whose figures can be told by heart."""

from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from seal_lightning.m_step.selection import ABOVE, best_of, group_rollouts
from seal_lightning.records.journal import Journal
from seal_lightning.results.accuracy import AccuracyRow, ResultFile
from seal_lightning.types import Rollout

PLAIN = Rollout(
    round=0,
    context_id="lamp",
    edit_index=0,
    repeat=0,
    seed=0,
    prompt="Read.\nPassage: The lamp burns oil.\n",
    text="It burns oil.\nWhat burns? The lamp.",
    status="ok",
    questions=("What does it burn?", "Who lit it?"),
    golds=(("oil",), ("Ada", "Ada Merrow")),
    baseline_answers=("gas", "Ada"),
    answers=("oil", "Bob"),
    baseline_scores=(0.0, 1.0),
    scores=(1.0, 0.0),
    baseline=0.5,
    score=0.5,
    gain=0.0,
    reward=0.5,
    tokens={"prompt": 20, "edit": 10, "trained": 100, "answers": 2},
    seconds={"sampling": 1.0, "inner loop": 3.0},
)
CONFIG = {
    "trainer": {"max_epochs": 1},
    "model": {"source": {"name": "lab"}, "grader": "exact_match", "api_key": "sk-123456"},
    "filter": {"class_path": "seal_lightning.callbacks.ReSTEMFilter", "init_args": {"k": 1}},
}


def scored(reward: float, **changes) -> Rollout:
    """A rollout with a reward, which is its score too."""
    return replace(PLAIN, **{"reward": reward, "score": reward, "gain": reward - 0.5, **changes})


def rejected(**changes) -> Rollout:
    return replace(PLAIN, **{"status": "rejected", "reason": "empty text", "reward": None, "answers": (), "scores": (),
                             "score": 0.5, **changes})  # fmt: skip


def dropped(score: float, **changes) -> Rollout:
    """A rollout of an edit that a race gave up."""
    return replace(scored(score, **changes), reward=None, dropped="racing: 1 of 2 repeats trained")


def write_run(
    folder: Path,
    journals: dict,
    *,
    config: dict | None = CONFIG,
    table: bool = False,
    tables=(),
    notes=(),
    kept: bool = True,
) -> Path:
    """A run folder: journals by name, each a list of units; `table` is what a fit writes when it is over."""
    for name, units in journals.items():
        journal = Journal(folder / "journal", name, stamp={"name": name})
        for number, unit in enumerate(units):
            journal.append(number, unit)
        if kept and name.startswith("train-"):
            groups, k = (
                group_rollouts(chain(*units)),
                (config or CONFIG).get("filter", {}).get("init_args", {}).get("k", 1),
            )
            journal.keep([one for group in groups for one in best_of(group, k=k, above=ABOVE)], round=int(name[-3:]))
    if config is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
    if table:
        rows = ["base", *(f"edits {name}" for name in journals if name.startswith("validation-"))]
        accuracy = [AccuracyRow(name, 0.5, None, None, 1, 2, 0, 0.0) for name in rows]
        ResultFile(accuracy, tables, notes).save(folder / "fit.json")
    return folder


def write_six(folder: Path) -> list[Path]:
    """Six finished fits of two rounds: two filters with three seeds each, on the same eight held-out passages."""
    made = []
    for name, gain in (("ReSTEMFilter", 0.125), ("RandomFilter", 0.03125)):
        for seed in range(3):
            train = [[scored(0.25 + 0.25 * edit, edit_index=edit, title="Lamp") for edit in range(3)]]
            journals = {f"train-{number:03}": train for number in range(2)}
            for number in range(3):
                score = 0.25 + gain * number * (1 + seed / 4)
                journals[f"validation-{number:03}"] = [
                    [scored(score, context_id=str(row), baseline=0.125, title=f"Passage {row}", passage_digest=f"{row}")
                     for row in range(8)]
                ]  # fmt: skip
            config = {
                "trainer": {"max_epochs": 2, "default_root_dir": f"runs/{name}-{seed}"},
                "model": {"source": {"name": "lab"}, "grader": "exact_match", "seed": seed},
                "filter": {"class_path": f"seal_lightning.callbacks.{name}", "init_args": {"k": 2}},
            }
            made.append(write_run(folder / f"{name}-{seed}", journals, config=config, table=True))
    return made


@pytest.fixture(scope="session")
def runs() -> SimpleNamespace:
    """`scored`, `rejected`, `dropped`, `write_run` and `write_six`, for tests that make runs of their own."""
    return SimpleNamespace(
        plain=PLAIN, scored=scored, rejected=rejected, dropped=dropped, write=write_run, config=CONFIG, six=write_six
    )


@pytest.fixture
def fitted(tmp_path) -> Callable[..., Path]:
    """A finished fit of one round: two contexts with two edits each, and two validations."""

    def make(name: str = "run", **options) -> Path:
        train = [scored(1.0), scored(0.0, edit_index=1), scored(0.5, context_id="tarn"),
                 scored(0.5, context_id="tarn", edit_index=1, text="It freezes.")]  # fmt: skip
        journals = {
            "train-000": [train],
            "validation-000": [[scored(0.5, context_id="fen"), scored(0.0, context_id="moor")]],
            "validation-001": [[scored(1.0, context_id="fen"), scored(0.5, context_id="moor")]],
        }
        return write_run(tmp_path / name, journals, **{"table": True, **options})

    return make
