"""Writes docs/flags.md: what every flag of the trainer does in fit, validate, test and predict.

    python docs/flags.py

The table is `ROWS`. tests/fit/test_flags.py runs every row of it on the debug model, four training units and two of the
other phases, checks that each cell says what happens, and that the page is up to date.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parent / "flags.md"
COMMANDS = ("fit", "validate", "test", "predict")
UNITS = {"train": 4, "validation": 2, "test": 2, "predict": 2}  # of the debug run


@dataclass
class Run:
    """What a run of one row has done; `plain` is the same command without the flag."""

    returned: Any = None
    error: str = ""
    trainer: Any = None
    module: Any = None
    folder: Path = Path()
    units: dict[str, list[int]] = field(default_factory=dict)  # done in each phase, a number for each time it came
    batches: int = 0  # of all M-steps
    steps: int = 0  # of the optimizer
    outcome: Any = None  # what was sampled, answered and learnt
    printed: str = ""
    plain: Run | None = None

    @property
    def files(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()} if self.folder.exists() else set()


@dataclass(frozen=True)
class Cell:
    """What a flag does in a command, and how one sees it."""

    words: str
    holds: Callable[[Run], bool]


def _as_without_it(run: Run) -> bool:
    assert run.plain is not None
    return not run.error and run.outcome == run.plain.outcome and run.units == run.plain.units


SAME = Cell("changes no result", _as_without_it)
UNUSED = Cell("not used", _as_without_it)


def refused(*parts: str) -> Cell:
    """Before any work."""
    return Cell("refused", lambda run: all(part in run.error for part in parts) and not run.files)


def done(words: str, **phases: int | list[int]) -> Cell:
    """Units done by phase; a list has one number for each time."""
    expected = {phase: count if isinstance(count, list) else [count] for phase, count in phases.items()}
    return Cell(words, lambda run: not run.error and run.units == {k: v for k, v in expected.items() if v})


def also(cell: Cell, *checks: Callable[[Run], bool]) -> Cell:
    """A cell with a further visible effect."""
    return Cell(cell.words, lambda run: cell.holds(run) and all(check(run) for check in checks))


def limited(phase: str) -> Cell:
    """Half of two units, which is one."""
    return done("the first units", **{phase: 1})


def has(name: str, value: Any) -> Callable[[Run], bool]:
    """The trainer's attribute, with dots."""
    return lambda run: operator.attrgetter(name)(run.trainer) == value


def lacks(*kinds: str) -> Callable[[Run], bool]:
    """No callback of these classes."""
    return lambda run: not {type(one).__name__ for one in run.trainer.callbacks} & set(kinds)


@dataclass(frozen=True)
class Row:
    """A flag with a value that is tried, and its cells; those of the evaluations are alike unless they are given."""

    flag: str
    value: Any
    note: str
    fit: Cell = SAME
    rest: Cell = UNUSED
    validate: Cell | None = None
    test: Cell | None = None
    predict: Cell | None = None
    beside: dict[str, Any] = field(default_factory=dict)  # other flags that the trial needs

    def cell(self, command: str) -> Cell:
        return self.fit if command == "fit" else getattr(self, command) or self.rest

    @property
    def shown(self) -> str:
        value = getattr(self.value, "__name__", self.value)
        return value if isinstance(value, str) else json.dumps(value)


def _entries(run: Run) -> bool:
    """Of the phases, beside Lightning's own."""
    phases = {"sampling"} if "predict" in run.units else {"sampling", "inner loop", "answering", "grading"}
    return {f"[SEAL]{phase}" for phase in phases} <= set(run.trainer.profiler.recorded_durations)


def _phases_printed(run: Run) -> bool:
    phases = {"sampling"} if "predict" in run.units else {"sampling", "inner loop", "answering", "grading"}
    return "Profiler Report" in run.printed and all(f"[SEAL]{phase}" in run.printed for phase in phases)


def _half_precision(run: Run) -> bool:
    types = {one.requires_grad: str(one.dtype) for one in run.module.parameters()}
    exact = {str(one.dtype) for one in run.module.buffers() if one.is_floating_point()}
    return types == {False: "torch.bfloat16", True: "torch.float32"} and exact == {"torch.float32"}


def _nothing_left(run: Run) -> bool:
    return not run.folder.exists()


REPORTS = Cell("its report at the end, with sampling, inner loop, answering, grading", _phases_printed)
NO_FILES = "; no files"
ONE_ROUND: dict[str, Any] = {"max_epochs": 1}
TWO_ROUNDS: dict[str, Any] = {"max_epochs": 2, "validate_first": False}

ROWS = [
    # -- how much --------------------------------------------------------------------------------------------------
    Row(
        "fast_dev_run", True, "A trial of everything in seconds: nothing is saved, no checkpoint is needed. A number n "
        "tries n units and n batches. Where the filter keeps nothing, the M-step is tried on one edit all the same.",
        fit=also(
            done("one unit, one M-step batch, one validation unit" + NO_FILES, train=1, validation=1),
            _nothing_left,
            lambda run: run.batches == 1,
        ),
        validate=also(done("one unit" + NO_FILES, validation=1), _nothing_left),
        test=also(done("one unit" + NO_FILES, test=1), _nothing_left),
        predict=also(done("one unit" + NO_FILES, predict=1), _nothing_left),
    ),
    Row(
        "limit_train_batches", 2, "Units of each E-step: a number of them, or a share of all as 0.5. The M-step trains "
        "on everything that was kept of these; its batches are `model.m_step`'s. 0 runs no round.",
        fit=also(done("the first units of each E-step", train=2, validation=[2, 2]), lambda run: run.batches == 2),
    ),
    Row(
        "limit_val_batches", 1, "Units of each validation. With 0, `fit` does not validate.",
        fit=done("the first units of each validation", train=4, validation=[1, 1]),
        validate=limited("validation"),
    ),
    Row("limit_test_batches", 0.5, "Units; 0 tests nothing.", fit=UNUSED, test=limited("test")),
    Row(
        "limit_predict_batches", 1, "Units; 0 predicts nothing. An `edits.jsonl` with more edits stays as it is.",
        fit=UNUSED, predict=also(limited("predict"), lambda run: len(run.returned) == 1),
    ),
    Row(
        "overfit_batches", 1, "`limit_train_batches` and `limit_val_batches` at once. The contexts stay in their "
        "order, which is that of the data or `data.shuffle_seed`'s.",
        fit=done("the first units of E-step and validation", train=1, validation=[1, 1]),
        validate=limited("validation"),
    ),
    # -- how long --------------------------------------------------------------------------------------------------
    Row(
        "max_epochs", 2, "Rounds. -1 goes on until something else stops it, 0 runs none.",
        fit=done("the rounds", train=[4, 4], validation=[2, 2, 2]),
    ),
    Row(
        "min_epochs", 2, "Rounds before `max_time` or a callback such as `EarlyStopping` may end the fit.",
        fit=also(done("at least these rounds", train=[4, 4], validation=[2, 2, 2]), has("fit_loop.min_epochs", 2)),
        beside={"max_epochs": 2},
    ),
    Row(
        "max_steps", 3, "Optimizer steps of all M-steps together. The M-step at hand ends there, and its round with "
        "what it has learnt: merged, validated, saved.",
        fit=also(
            done("ends the M-step and the fit there", train=4, validation=[2, 2]), lambda run: run.steps == 3
        ),
        beside={"max_epochs": 2},
    ),
    Row(
        "min_steps", 2, "Optimizer steps before `max_time` or a callback may end the fit.",
        fit=also(SAME, has("fit_loop.min_steps", 2)),
    ),
    Row(
        "max_time", "00:00:00:00", "Looked at after every unit of the E-step and every optimizer step; a validation "
        "that has begun is finished. What was found is kept: `--ckpt_path last` with a longer time goes on there.",
        fit=done("ends after the unit or step at hand"),
    ),
    # -- validation ------------------------------------------------------------------------------------------------
    Row(
        "check_val_every_n_epoch", 2, "Rounds from one validation to the next.",
        fit=done("validates after every n-th round", train=[4, 4], validation=2), beside=TWO_ROUNDS,
    ),
    Row(
        "val_check_interval", 0.5, "Must stay 1.0: a policy is validated once its round is over and merged. Use "
        "`check_val_every_n_epoch`.",
        fit=refused("trainer.val_check_interval", "check_val_every_n_epoch"),
        rest=refused("trainer.val_check_interval"),
    ),
    Row(
        "num_sanity_val_steps", 1, "Units (-1: all), tried before the first E-step; 0 by default, since "
        "`validate_first` shows as much. What they find is reused by that validation, or lies in `sanity/` without it.",
        fit=done("units of a validation first", train=4, validation=[1, 2, 2]),
    ),
    Row(
        "validate_first", False, "Ours: whether the untrained policy is validated before the first round.",
        fit=done("no validation before the first round", train=4, validation=2),
    ),
    # -- optimisation ----------------------------------------------------------------------------------------------
    Row(
        "accumulate_grad_batches", 2, "Batches of the M-step for an optimizer step; `model.m_step.effective_batch` "
        "says it whatever the number of devices is, and excludes this one.",
        fit=Cell("batches for an optimizer step", lambda run: (run.batches, run.steps) == (4, 2)),
    ),
    Row(
        "gradient_clip_val", 1e-6, "Of the M-step; the inner loop has `model.inner_loop.gradient_clip`.",
        fit=Cell("clips the M-step's gradients", lambda run: run.outcome[-1] != run.plain.outcome[-1]),  # type: ignore
    ),
    Row(
        "gradient_clip_algorithm", "value", "`norm` or `value`, with `gradient_clip_val`.",
        fit=Cell("how they are clipped", lambda run: str(run.trainer.gradient_clip_algorithm.value) == "value"),
        beside={"gradient_clip_val": 0.5},
    ),
    Row(
        "precision", "bf16-true", "Of the policy, everywhere: in sampling, adapting and answering, too. `bf16-true` "
        "rounds what `model.source.dtype: bfloat16` rounds; LoRAs, AdamW's moments and positions stay float32. "
        "DeepSpeed keeps float32 copies of a LoRA instead.",
        fit=Cell("of the policy", _half_precision), rest=Cell("of the policy", _half_precision),
    ),
    Row(
        "detect_anomaly", True, "Of autograd, in the M-step and the inner loops of a fit; slow.",
        fit=also(SAME, has("_detect_anomaly", True)),
    ),
    Row(
        "deterministic", "warn", "As Lightning's. Everything random of SEAL comes from `model.seed` anyway.",
        rest=SAME,
    ),
    Row("benchmark", False, "As Lightning's, of cuDNN.", rest=SAME),
    Row(
        "inference_mode", True, "Whether Lightning's part of an evaluation is in inference mode; adapters train "
        "outside of it.",
        rest=SAME,
    ),
    Row("sync_batchnorm", True, "As Lightning's, of layers that language models do not have.", rest=SAME),
    # -- what is shown and kept ------------------------------------------------------------------------------------
    Row(
        "profiler", "simple", "`simple`, `advanced`, `pytorch` or an object. The entries `[SEAL]sampling` and so on "
        "come from the clock of the E-step itself. `pytorch` records every operation of the run: use it with "
        "`limit_train_batches=1`. The phases of worker processes and of Ray's are not in it.",
        fit=also(REPORTS, _entries), validate=also(REPORTS, _entries), test=also(REPORTS, _entries),
        predict=also(Cell("its report at the end, with sampling", _phases_printed), _entries),
    ),
    Row(
        "logger", True, "`true`: TensorBoard and CSV in the run folder, as by default; `false`: none; or Lightning's "
        "loggers.",
        fit=also(SAME, lambda run: {"tensorboard", "csv"} <= run.files),
        rest=also(SAME, lambda run: {"tensorboard", "csv"} <= run.files),
    ),
    Row(
        "log_every_n_steps", 2, "Optimizer steps of the M-step; 1 by default, since it is short. The E-step's figures "
        "are logged every round.",
        fit=also(SAME, has("log_every_n_steps", 2)),
    ),
    Row(
        "enable_checkpointing", False, "Off: no `checkpoints/` and no `policy/`, whatever `checkpoint` says; the "
        "journal still resumes E-steps.",
        fit=also(SAME, lacks("CheckpointSelection"), lambda run: not {"checkpoints", "policy"} & run.files),
    ),
    Row(
        "enable_checkpoint_selection", False, "Ours: off leaves checkpoints to Lightning's `ModelCheckpoint`, which "
        "writes no `policy/`.",
        fit=also(
            SAME, lacks("CheckpointSelection"), lambda run: "ModelCheckpoint" in map(_name, run.trainer.callbacks)
        ),
    ),
    Row(
        "enable_rollout_table", False, "Ours: off writes no `tables/`.",
        fit=also(SAME, lacks("RolloutTable"), lambda run: "tables" not in run.files),
    ),
    Row(
        "enable_trackers", False, "Ours: off tells loggers numbers alone, no settings, tables or artifacts.",
        fit=also(SAME, lacks("Trackers")),
        rest=also(SAME, lacks("Trackers")),
    ),
    Row(
        "enable_progress_bar", False, "Off: no bars and no status lines. A bar of Lightning's in `callbacks` takes our "
        "place.",
        fit=also(SAME, lacks("EStepProgress"), lambda run: not run.printed),
        rest=also(SAME, lacks("EStepProgress"), lambda run: "validation before" not in run.printed),
    ),
    Row(
        "enable_model_summary", True, "Off by default.",
        fit=also(SAME, lambda run: "Total params" in run.printed),
    ),
    Row(
        "callbacks", [], "Lightning's and yours beside ours, or in their place: a filter, a `CheckpointSelection`, a "
        "`RolloutTable` or a progress bar of yours is the one that the run has.",
        rest=SAME,
    ),
    Row(
        "barebones", True, "As Lightning's: no checkpoints, loggers, bars and logged metrics. The journal stays, and "
        "commands still print their tables.",
        fit=also(SAME, lacks("CheckpointSelection", "EStepProgress"), has("loggers", [])),
        rest=also(SAME, lacks("EStepProgress")),
    ),
    Row(
        "enable_autolog_hparams", False, "Whether loggers get the settings of the run.", rest=SAME,
    ),
    Row(
        "model_registry", "team/model", "Must stay null: nothing is uploaded to Lightning's registry.",
        fit=refused("trainer.model_registry"), rest=refused("trainer.model_registry"),
    ),
    Row(
        "default_root_dir", "elsewhere", "The run folder: everything that a run writes.",
        fit=also(SAME, lambda run: run.folder.name == "elsewhere" and "journal" in run.files),
        rest=also(SAME, lambda run: run.folder.name == "elsewhere" and bool(run.files)),
    ),
    # -- where it runs ---------------------------------------------------------------------------------------------
    Row("accelerator", "cpu", "As Lightning's.", rest=SAME),
    Row(
        "strategy", "auto", "`auto`, `ddp` or `seal_lightning.fit.strategies.ZeROStrategy`; others are refused. "
        "Units are shared among the ranks as they become free.",
        rest=SAME,
    ),
    Row("devices", 1, "As Lightning's. A limit counts units over all of them.", rest=SAME),
    Row("num_nodes", 1, "As Lightning's.", rest=SAME),
    Row("plugins", [], "As Lightning's.", rest=SAME),
    Row(
        "use_distributed_sampler", True, "Off by default, and refused with several devices: SEAL shares out units and "
        "batches itself.",
        rest=SAME,
    ),
    Row(
        "reload_dataloaders_every_n_epochs", 1, "The M-step's loader is made anew every round anyway, those of units "
        "are as often as this says. The contexts are read once.",
    ),
    Row("executor", None, "Ours: where units run: in a process a core for a small model on a CPU, in these processes, "
        "or on a Ray cluster.", rest=SAME),
    Row("allow_other_versions", True, "Ours: resume a run that other versions of the libraries began.", rest=SAME),
    Row("give_up_after", 60.0, "Ours: seconds without a sign of life from another rank.", rest=SAME),
]  # fmt: skip


def _name(callback: object) -> str:
    return type(callback).__name__


INTRODUCTION = """\
# Trainer flags

What every flag of `SEALTrainer` does, from Python (`SEALTrainer(limit_train_batches=1)`) and on the command line
(`--trainer.limit_train_batches 1`). A *unit* is what SEAL does at a time: `data.contexts_per_unit` contexts in an
E-step, validation, test or prediction. Limits on batches count units, over all devices together, and take the
first ones.

A limited figure says so: tables in the run folder and reports have a line as `Limited: validation 3 of 12 units
(trainer.limit_val_batches=3).` Journals of a limited test, validation or prediction are those of the whole one, so the
same command without the limit goes on from there; a fit in the same folder is refused with another limit, as with any
other setting that its figures depend on ([resuming](resuming.md)).

A value that cannot work is refused before any work, in one line, with exit code 2.

The groups of the command line are callbacks, too. `--checkpoint null`, `--table null` and `--progress null` leave one
out, a class path takes another (`--progress RichProgressBar`, `--filter my_filters.Longest`, from the working folder
too), and one in `trainer.callbacks` takes the place of a group that nobody set.

Metrics for `monitor=` of `EarlyStopping` and `ModelCheckpoint` are the logged ones, for example `val/edits` and
`reward/mean`. Before the first round there is no reward: who monitors it is not asked then.
One that nothing logs is refused before any work; where a callback or module of yours may log it, Lightning finds out
after the first round.

This page is made by docs/flags.py from the table that tests/fit/test_flags.py runs: the value in the second column
is the one that is tried there, on four training units and two of each other phase.
"""


def page() -> str:
    """The whole page."""
    head = ["| flag | tried | fit | validate | test | predict | |", "|---|---|---|---|---|---|---|"]
    rows = [
        f"| `{row.flag}` | `{row.shown}` | {' | '.join(row.cell(command).words for command in COMMANDS)} | {row.note} |"
        for row in ROWS
    ]
    return "\n".join([INTRODUCTION, *head, *rows, ""])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
