"""Every flag of the trainer does in every command what docs/flags.md says: the table of docs/flags.py, row by row."""

import inspect
import logging
from collections import defaultdict
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import flags
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import BasePredictionWriter, EarlyStopping, ModelCheckpoint, Timer

from seal_lightning.callbacks import ReSTEMFilter
from seal_lightning.cli import main
from seal_lightning.data import SEALDataModule
from seal_lightning.e_step.plan import Plan
from seal_lightning.fit.module import SEALModule
from seal_lightning.fit.trainer import SEALTrainer
from seal_lightning.hooks import SEALCallback
from seal_lightning.inner_loop.loop import InnerLoop
from seal_lightning.m_step.batches import MStep
from seal_lightning.models.source import ModelSource
from seal_lightning.policy.tuned import PolicyTuning
from seal_lightning.sampling import LocalSampler

DEBUG = Path(__file__).resolve().parents[2] / "configs" / "debug"
TRAIN, VALIDATION = DEBUG / "passages.jsonl", DEBUG / "passages-validation.jsonl"
ERRORS = (ValueError, TypeError, RuntimeError, MisconfigurationException)


class Recorder(SEALCallback):
    """Counts what a run does."""

    def __init__(self):
        self.units, self.batches, self.texts = defaultdict(list), 0, []

    def on_units_start(self, trainer, module, *, phase, units, finished):
        self.units[phase].append(0)

    def on_units_end(self, trainer, module, *, phase, rollouts, seconds):
        self.units[phase][-1] = len({rollout.context_id for rollout in rollouts})
        self.texts += [(phase, one.context_id, one.text, one.answers) for one in rollouts]

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.batches += 1


def make_module(**changes):
    return SEALModule(
        source=ModelSource(name="random/llama"),
        tuning=PolicyTuning(rank=2, alpha=4),
        sampler=LocalSampler(max_new_tokens=12),
        inner_loop=InnerLoop(rank=2, alpha=4, epochs=1),
        e_step=Plan(edits=1, repeats=1),
        evaluation=Plan(edits=1, repeats=1),
        m_step=MStep(epochs=1, batch_size=1),
        max_answer_tokens=2,
        **changes,
    )


def make_data(**changes):
    splits = {"train": TRAIN, "validation": VALIDATION, "test": VALIDATION, "predict": VALIDATION}
    return SEALDataModule(**splits, contexts_per_unit=1, **changes)


def make_trainer(folder, recorder=None, **options):
    callbacks = [
        options.pop("filter", None) or ReSTEMFilter(above=None),
        *([recorder] if recorder else []),
        *options.pop("callbacks", []),
    ]
    plain = {"default_root_dir": str(folder), "accelerator": "cpu", "devices": 1, "logger": False, "max_epochs": 1}
    return SEALTrainer(**{**plain, **options}, callbacks=callbacks)


@pytest.fixture
def runs(tmp_path, monkeypatch, capsys):
    """Run a command with flags: `runs("fit", max_epochs=2)` is a `flags.Run`."""
    monkeypatch.chdir(tmp_path)
    numbers = count()
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # which `deterministic` sets
    yield lambda command, **options: _run(command, tmp_path / f"run-{next(numbers)}", capsys, options)
    torch.use_deterministic_algorithms(before[0])
    torch.backends.cudnn.benchmark = before[1]


def _run(command, folder, capsys, options):
    folder = folder.parent / options.get("default_root_dir", folder)
    run, recorder = flags.Run(folder=folder), Recorder()
    capsys.readouterr()
    try:
        with reports_of_profilers() as reports:
            run.trainer = make_trainer(**{"folder": folder, "recorder": recorder, **options})
            run.module = make_module()
            run.returned = getattr(run.trainer, command)(run.module, datamodule=make_data())
    except ERRORS as error:
        run.error = str(error)
        return run
    run.printed = "\n".join([capsys.readouterr().out, *reports]).strip()
    run.units, run.batches, run.steps = dict(recorder.units), recorder.batches, run.trainer.global_step
    run.outcome = [*recorder.texts, run.module.policy.digest()]
    return run


@contextmanager
def reports_of_profilers(level: int | None = logging.INFO):
    """What Lightning's profilers report, which they do to their logger."""
    logger, said = logging.getLogger("lightning.pytorch.profilers"), []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(before if level is None else level)
    try:
        yield said
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


@pytest.fixture(scope="module")
def plain_runs():
    return {}


@pytest.fixture
def plain(plain_runs, runs):
    """The run of a command without any flag, made once."""
    return lambda command: plain_runs.get(command) or plain_runs.setdefault(command, runs(command))


SAME = (flags.SAME.words, flags.UNUSED.words)  # of cells that are tried several at once
# What cannot be tried with the others, since what is seen of one would be seen of another, too, or not at all.
APART = {"enable_checkpoint_selection": 1, "enable_progress_bar": 1, "enable_trackers": 1, "barebones": 2}


def changes_something(row):
    return any(row.cell(command).words not in SAME for command in flags.COMMANDS)


# -- the table ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", [pytest.param(row, id=row.flag) for row in flags.ROWS if changes_something(row)])
def test_a_flag_does_what_its_row_says(runs, plain, row):
    for command in flags.COMMANDS:
        if (cell := row.cell(command)).words in SAME:
            continue
        without = plain(command)
        run = runs(command, **{row.flag: row.value, **row.beside})
        run.plain = without
        assert cell.holds(run), (command, cell.words, run.error, run.units, run.batches, run.steps, sorted(run.files))


@pytest.mark.parametrize("together", [0, 1, 2])
@pytest.mark.parametrize("command", flags.COMMANDS)
def test_flags_that_change_no_result_or_are_not_used_change_nothing_all_at_once(runs, plain, command, together):
    rows = [row for row in flags.ROWS if row.cell(command).words in SAME and APART.get(row.flag, 0) == together]
    assert together or len(rows) > 20
    without = plain(command)
    run = runs(command, **{name: value for row in rows for name, value in {**row.beside, row.flag: row.value}.items()})
    run.plain = without
    assert flags.SAME.holds(run), (run.error, run.units)
    assert [row.flag for row in rows if not row.cell(command).holds(run)] == []  # what else is to be seen of each


def test_the_plain_runs_are_what_the_table_counts_from(plain):
    assert plain("fit").units == {"validation": [2, 2], "train": [4]}
    assert (plain("fit").batches, plain("fit").steps) == (4, 4)
    assert [plain(command).units for command in flags.COMMANDS[1:]] == [
        {"validation": [2]},
        {"test": [2]},
        {"predict": [2]},
    ]
    assert plain("validate").returned == [{"val/base": 0.0, "val/edits": 0.0}]
    assert plain("test").returned == [{"test/base": 0.0, "test/edits": 0.0}]
    assert [[row.context_id for row in unit] for unit in plain("predict").returned] == [
        [row.context_id] for unit in plain("predict").returned for row in unit
    ]
    assert len(plain("predict").returned) == 2


def test_every_option_of_the_trainer_has_a_row():
    names = set(inspect.signature(Trainer.__init__).parameters) | set(
        inspect.signature(SEALTrainer.__init__).parameters
    )
    assert names - {"self", "args", "kwargs"} == {row.flag for row in flags.ROWS}
    assert len(flags.ROWS) == len({row.flag for row in flags.ROWS})


def test_the_page_is_what_the_table_makes():
    assert flags.PAGE.read_text(encoding="utf-8") == flags.page(), "run python docs/flags.py"


# -- limits and journals -----------------------------------------------------------------------------------------------


def _lines(folder, pattern):
    return [line for path in sorted(folder.glob(pattern)) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(("command", "flag", "journal"), [
    ("predict", "limit_predict_batches", "predictions/predict-*"),
    ("test", "limit_test_batches", "journal/test-*"),
    ("validate", "limit_val_batches", "journal/validation-*"),
])  # fmt: skip
def test_a_run_without_the_limit_goes_on_from_the_limited_one(runs, plain, tmp_path, command, flag, journal):
    place = {"default_root_dir": str(tmp_path / "run")}
    assert runs(command, **{flag: 1}, **place).units[flags_phase(command)] == [1]
    first = _lines(tmp_path / "run", journal)
    run = runs(command, **place)
    assert run.outcome == plain(command).outcome
    assert _lines(tmp_path / "run", journal)[: len(first)] == first  # nothing was done again
    again = runs(command, **{flag: 1}, **place)
    assert again.units[flags_phase(command)] == [1]  # though the journal has all of them


def flags_phase(command):
    return {"validate": "validation"}.get(command, command)


def test_a_fit_with_another_limit_in_the_same_folder_is_refused(runs, tmp_path):
    place = {"default_root_dir": str(tmp_path / "run")}
    assert not runs("fit", limit_train_batches=1, limit_val_batches=0, **place).error
    assert 'trainer.limit_train_batches: was "1", is "1.0"' in runs("fit", limit_val_batches=0, **place).error


def test_a_share_of_less_than_a_unit_is_refused_before_the_model_is_loaded(runs):
    run = runs("fit", limit_val_batches=0.1)
    assert run.error == (
        "trainer.limit_val_batches must be at least 1/2 where validation has 2 units of data.contexts_per_unit "
        "contexts, got 0.1: try 1, which is one unit"
    )
    assert run.module.tuned is None


def test_a_limit_of_nothing_does_nothing(runs):
    assert runs("predict", limit_predict_batches=0).units == {}
    assert runs("fit", limit_train_batches=0).units == {}
    assert runs("fit", limit_val_batches=0).units == {"train": [4]}
    assert runs("test", limit_test_batches=0).returned == []


# -- ending early ------------------------------------------------------------------------------------------------------


class Over(Timer):
    """A time that is over as soon as so many units were begun."""

    def __init__(self, recorder, texts):
        super().__init__(duration="00:01:00:00")
        self.recorder, self.texts = recorder, texts

    def time_elapsed(self, stage="train"):
        return 1e9 if len(self.recorder.seen) >= self.texts else 0.0


class Seen(Recorder):
    def __init__(self):
        super().__init__()
        self.seen = []

    def on_unit_end(self, trainer, module, *, phase, unit, rollouts):
        self.seen.append((phase, unit))


def test_time_that_is_over_within_an_e_step_keeps_what_was_found(runs, plain, tmp_path):
    place, seen = {"default_root_dir": str(tmp_path / "run")}, Seen()
    run = runs("fit", callbacks=[seen, Over(seen, 4)], **place)  # two of validation, two of the E-step
    assert seen.seen == [("validation", 0), ("validation", 1), ("train", 0), ("train", 1)]
    assert not run.error and run.trainer.fit_loop.ended_early and run.batches == 0
    module, longer = make_module(), Over(seen, 100)
    make_trainer(tmp_path / "run", callbacks=[longer]).fit(module, datamodule=make_data(), ckpt_path="last")
    assert module.policy.digest() == plain("fit").outcome[-1]


def test_a_callback_that_stops_within_the_m_step_keeps_the_step(runs, plain, tmp_path, caplog):
    class Stopping(Recorder):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            trainer.should_stop = batch_idx == 1

    run = runs("fit", callbacks=[Stopping()], default_root_dir=str(tmp_path / "run"))
    assert run.steps == 2 and run.units == {"validation": [2], "train": [4]}
    module = make_module()
    make_trainer(tmp_path / "run").fit(module, datamodule=make_data(), ckpt_path="last")
    assert module.policy.digest() == plain("fit").outcome[-1]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    trial = make_trainer(tmp_path / "run", fast_dev_run=True)
    trial.fit(make_module(), datamodule=make_data(), ckpt_path="last")  # not from the finished round
    assert trial.global_step == 1 and "--ckpt_path last is not read" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before


@pytest.mark.parametrize(("least", "rounds"), [(None, 1), (2, 2)])
def test_early_stopping_ends_after_the_fewest_rounds(runs, least, rounds):
    stopping = EarlyStopping("reward/mean", mode="max", stopping_threshold=-1.0)
    run = runs("fit", callbacks=[stopping], max_epochs=3, min_epochs=least, limit_train_batches=1)
    assert run.units["train"] == [1] * rounds and run.trainer.current_epoch == rounds


def test_a_reward_is_not_asked_for_before_the_first_round(runs):
    stopping = EarlyStopping("reward/mean", mode="max", check_on_train_epoch_end=False)
    saving = ModelCheckpoint(monitor="val/edits", mode="max", filename="{epoch}")
    run = runs("fit", callbacks=[stopping, saving], limit_train_batches=1)
    assert not run.error and stopping.strict
    assert Path(saving.best_model_path).name == "epoch=0.ckpt"


# -- fast_dev_run and profilers ----------------------------------------------------------------------------------------


def test_a_fast_dev_run_tries_the_m_step_where_nothing_is_kept(runs, caplog):
    class Nothing(ReSTEMFilter):
        def select(self, groups):
            return []

    run = runs("fit", fast_dev_run=True, filter=Nothing())
    assert run.batches == 1
    assert "no self-edit was kept, the M-step is tried on one all the same" in caplog.text


@pytest.mark.parametrize("profiler", ["advanced", "pytorch"])
def test_other_profilers_have_the_phases_too(runs, profiler):
    run = runs("validate", profiler=profiler, limit_val_batches=1)
    assert all(f"[SEAL]{phase}" in run.printed for phase in ("sampling", "inner loop", "answering", "grading"))


def test_predictions_are_given_to_writers_of_predictions(runs):
    class Writer(BasePredictionWriter):
        def write_on_batch_end(self, trainer, module, prediction, indices, batch, batch_idx, dataloader_idx):
            written.append([rollout.context_id for rollout in prediction])

    written = []
    run = runs("predict", callbacks=[Writer("batch")])
    assert written == [[rollout.context_id for rollout in unit] for unit in run.returned] and len(written) == 2


# -- on the command line -----------------------------------------------------------------------------------------------

DEBUG_RUN = ["--config", str(DEBUG / "random.yaml"), "--trainer.logger", "false", "--trainer.max_epochs", "1"]
DEBUG_RUN += ["--trainer.limit_train_batches", "1", "--trainer.validate_first", "false"]
DEBUG_RUN += ["--data.train", str(TRAIN), "--data.test", "null"]
for split in ("validation", "predict"):
    DEBUG_RUN += [f"--data.{split}", str(VALIDATION)]


def seal(capsys, command, run, *options):
    """Exit code, output, errors and files."""
    code = main([command, *DEBUG_RUN, "--trainer.default_root_dir", str(run), *options])
    said = capsys.readouterr()
    return code, said.out, said.err, {path.name for path in run.iterdir()} if run.exists() else set()


def test_groups_are_left_out_by_null(capsys, tmp_path):
    null = ["--checkpoint", "null", "--table", "null", "--progress", "null"]
    code, out, err, files = seal(capsys, "fit", tmp_path / "run", *null)
    assert code == 0, err
    assert files == {"config.yaml", "settings.yaml", "journal", "run.json", "fit.md", "fit.json"}
    assert "E-step:" not in out
    assert "\nLimited: E-step 1 of 2 units (trainer.limit_train_batches=1).\n" in out
    assert "Limited: E-step 1 of 2 units (trainer.limit_train_batches=1)." in (tmp_path / "run" / "fit.md").read_text()


def test_a_group_is_another_class_and_a_listed_callback_takes_its_place(capsys, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_parts.py").write_text(
        "from lightning.pytorch.callbacks import TQDMProgressBar\n"
        "from seal_lightning.callbacks import RolloutTable\n\n\n"
        "class Quiet(TQDMProgressBar):\n    pass\n\n\n"
        "class Upper(RolloutTable):\n"
        "    def render(self, *args, **options):\n        return super().render(*args, **options).upper()\n"
    )
    own = ["--table", "own_parts.Upper", "--trainer.callbacks", "own_parts.Quiet", "--checkpoint", "ModelCheckpoint"]
    code, out, err, files = seal(capsys, "fit", tmp_path / "run", *own)
    assert code == 0, err
    assert (tmp_path / "run" / "tables" / "round-000.md").read_text().startswith("# ROUND 1: ")
    assert "E-step: reward" not in out and "policy" not in files
    assert [path.name for path in (tmp_path / "run").rglob("*.ckpt")] == ["epoch=0-step=4.ckpt"]


@pytest.mark.parametrize(("options", "said"), [
    (["--filter", "null"], "filter: expected a filter, got null"),
    (["--trainer.val_check_interval", "10"], "trainer.val_check_interval must be 1.0 or null, got 10"),
    (["--trainer.check_val_every_n_epoch", "null"], "trainer.check_val_every_n_epoch must be a whole number"),
    (["--trainer.limit_train_batches", "0.1"], "trainer.limit_train_batches must be at least 1/2"),
    (["--trainer.limit_val_batches", "1.5"], "invalid value 1.5 for limit_val_batches"),
])  # fmt: skip
def test_a_value_that_cannot_work_is_one_line_and_leaves_nothing(capsys, tmp_path, options, said):
    code, out, err, files = seal(capsys, "fit", tmp_path / "run", *options)
    assert (code, out, err.count("\n"), files) == (2, "", 1, set())
    assert said in err


def test_a_limited_prediction_says_so_and_keeps_a_longer_file(capsys, tmp_path):
    each = ["--data.contexts_per_unit", "1", "--model.sampler.max_new_tokens", "4"]
    limit = ["--trainer.limit_predict_batches", "1"]
    code, out, _, _ = seal(capsys, "predict", tmp_path / "run", *each, *limit)
    assert code == 0 and "Limited: prediction 1 of 2 units (trainer.limit_predict_batches=1).\n2 self-edits" in out
    code, out, _, _ = seal(capsys, "predict", tmp_path / "run", *each)
    assert code == 0 and "Limited" not in out and "\n4 self-edits, " in out
    code, out, _, _ = seal(capsys, "predict", tmp_path / "run", *each, *limit)
    assert f"{tmp_path / 'run' / 'edits.jsonl'} has others" in out
    assert len((tmp_path / "run" / "edits.jsonl").read_text().splitlines()) == 4


def test_a_fast_dev_run_and_a_profiler_on_the_command_line(capsys, tmp_path):
    code, out, err, files = seal(capsys, "fit", tmp_path / "run", "--trainer.fast_dev_run", "true")
    assert (code, files) == (0, set()), err
    assert out.endswith(
        "fast_dev_run: E-step 1 of 2 units, M-step 1 batch, validation 1 of 1 units; nothing was saved\n"
    )
    with reports_of_profilers(level=None) as reports:  # the command sees to the level
        code, _, err, _ = seal(capsys, "predict", tmp_path / "run", "--trainer.profiler", "simple")
    assert code == 0 and "PREDICT Profiler Report" in reports[0] and "[SEAL]sampling" in reports[0]


def test_a_fit_without_a_round_and_one_without_time_say_so(capsys, tmp_path):
    code, out, _, _ = seal(capsys, "fit", tmp_path / "none", "--trainer.max_epochs", "0")
    assert code == 0 and out.startswith("no round was run: trainer.max_epochs=0\n")
    code, out, _, _ = seal(capsys, "fit", tmp_path / "short", "--trainer.max_time", "00:00:00:00")
    assert code == 0 and "ended early, after round 0: trainer.max_time is over" in out
