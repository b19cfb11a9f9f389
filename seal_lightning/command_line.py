"""The commands behind `seal`, on LightningCLI: the parser, what is built from it, and what is said at the end.

Each command takes the same groups: `trainer`, `model`, `data`, `filter`, `checkpoint`, `table`, `progress`. They are
kept apart from `cli.py` because everything here needs Lightning, torch and transformers.
"""

import json
import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from transformers.utils import logging as transformers_logging

from seal_lightning.bounded import parse_json
from seal_lightning.callbacks import CheckpointSelection, EStepProgress, RolloutTable
from seal_lightning.cli import COMMANDS
from seal_lightning.config_errors import Given, explain, located, one_line
from seal_lightning.config_files import naming_files, sections_of
from seal_lightning.data import SEALDataModule
from seal_lightning.digests import damage, read_record
from seal_lightning.errors import ConfigError, SealError, Stopped
from seal_lightning.escaping import visible
from seal_lightning.evaluation import Row, accuracy_table, render_table, render_usage, rounds_table, total_usage
from seal_lightning.fit_stamp import told_changes
from seal_lightning.help_order import order_groups
from seal_lightning.hooks import EditFilter
from seal_lightning.journal import read_fit, read_validations
from seal_lightning.left_out import MISSING, render_left_out, total_left_out
from seal_lightning.module import SEALModule
from seal_lightning.offline import Parser, ParserError, named_options, plain_options, refuse_nulls, without_backspaces
from seal_lightning.predicted import save_answers, save_edits
from seal_lightning.predictions import predict
from seal_lightning.run_config import SaveConfigBesideRun, check_folder, plain_settings
from seal_lightning.run_folders import is_first_process, new_start, requeued, resumed
from seal_lightning.saving import SavingError, disk_error, save_text
from seal_lightning.screen import Screen
from seal_lightning.stopping import work_begins
from seal_lightning.texts_as_given import TextsAsGiven
from seal_lightning.trainer import SEALTrainer
from seal_lightning.types import Rollout

LogLevel = Literal["debug", "info", "warning", "error"]
log = logging.getLogger(__name__)


def run_command(args: Sequence[str], files: Sequence[tuple[str, Mapping[str, Any]]] = ()) -> None:
    """Parse `args` and run their command; `files` is what is in the config files that they name.

    Raises:
        ConfigError: An option is unknown or has a value that cannot work.
    """
    command = args[0]
    set_log_level("warning")
    with quiet_threads(), ExitStack() as held:
        SEALCLI(
            SEALModule,
            SEALDataModule,
            subclass_mode_data=True,
            trainer_class=SEALTrainer,
            parser_class=SEALParser,
            parser_kwargs={
                command: {
                    "description": COMMANDS[command],
                    "usage": f"seal {command} [--config FILE ...] [--KEY VALUE ...]",
                }
            },
            save_config_callback=SaveConfigBesideRun,
            save_config_kwargs={"save_to_log_dir": False},
            seed_everything_default=False,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            args=Arguments(args, files),
            command=command,
            held=held,
        )


LIBRARIES = "lightning lightning.pytorch lightning.fabric transformers peft huggingface_hub bitsandbytes".split()


def set_log_level(level: LogLevel) -> None:
    """Of our own loggers; other libraries speak up only with `info` and `debug`.

    Their loggers set levels of their own when they are imported, so this comes after it.
    """
    number = getattr(logging, level.upper())
    logging.getLogger("seal_lightning").setLevel(number)
    others = max(number, logging.ERROR) if level in ("warning", "error") else number
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(others)
    if level == "debug":
        transformers_logging.enable_progress_bar()
    else:
        transformers_logging.disable_progress_bar()


@contextmanager
def quiet_threads() -> Iterator[None]:
    """What a logger's thread dies of on a full disk is told by who waits for it; others show their tracebacks."""
    before = threading.excepthook

    def told(what: Any) -> None:
        if what.exc_value is None or disk_error(what.exc_value) is None:
            before(what)

    threading.excepthook = told
    try:
        yield
    finally:
        threading.excepthook = before


class Arguments(list[str]):
    """The command line, with what is in its config files."""

    def __init__(self, args: Sequence[str], files: Sequence[tuple[str, Mapping[str, Any]]] = ()) -> None:
        super().__init__(args)
        self.files = files


class SEALParser(LightningArgumentParser, TextsAsGiven):
    """Raises instead of printing its usage, and takes options by their full names only."""

    error = Parser.error
    _get_option_tuples = Parser._get_option_tuples

    def format_help(self) -> str:
        return without_backspaces(super().format_help())


class SEALCLI(LightningCLI):
    """LightningCLI with SEAL's groups of options and its own last words."""

    trainer: SEALTrainer
    model: SEALModule
    datamodule: SEALDataModule

    # -- options ---------------------------------------------------------------------------------------------------

    def __init__(self, *args: Any, command: str, held: ExitStack, **kwargs: Any) -> None:
        self.command, self.held, self.arguments = command, held, kwargs["args"]
        super().__init__(*args, **kwargs)  # which does everything

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """The command and what of the trainer's method is none of its options; other commands would take time only."""
        everywhere = {"model", "datamodule", "weights_only"}
        skipped = {
            "fit": everywhere | {"train_dataloaders", "val_dataloaders"},
            "validate": everywhere | {"dataloaders", "verbose"},
            "test": everywhere | {"dataloaders", "verbose"},
            "predict": everywhere | {"dataloaders", "return_predictions"},
        }
        return {self.command: skipped[self.command]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--log_level", type=LogLevel, default="warning", help="Detail of the log; debug shows tracebacks."
        )
        parser.add_lightning_class_args(EditFilter, "filter", subclass_mode=True)
        parser.add_lightning_class_args(CheckpointSelection, "checkpoint")
        parser.add_lightning_class_args(RolloutTable, "table")
        parser.add_lightning_class_args(EStepProgress, "progress")
        parser.set_defaults(  # named here so that --filter.k 2 and --model.task.edit facts need no class_path
            {
                "data": {"class_path": "seal_lightning.data.SEALDataModule"},
                "filter": {"class_path": "seal_lightning.callbacks.ReSTEMFilter"},
                "model.task": {"class_path": "seal_lightning.tasks.Knowledge"},
                "model.sampler": {"class_path": "seal_lightning.sampling.LocalSampler"},
            }
        )

    def _prepare_subcommand_parser(self, *args: Any, **options: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(*args, **options)
        order_groups(parser)
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        actions = self._subcommand_parsers[args[0]]._actions
        with naming_files(args, args.files):
            try:
                with sections_of(plain_options(actions)):
                    self.config = parser.parse_args(args)
            except ParserError as error:
                raise ConfigError(explain(str(error), self._given(args))) from error
        refuse_nulls(actions, self.config[args[0]], self._given(args))

    def _given(self, args: Any) -> Given:
        return Given(args[0], args, args.files, *named_options(self._subcommand_parsers[args[0]]._actions))

    def _parse_ckpt_path(self) -> None:
        """The command line outranks a checkpoint's hyper-parameters, which ours do not carry anyway."""

    # -- building --------------------------------------------------------------------------------------------------

    def before_instantiate_classes(self) -> None:
        work_begins()
        set_log_level(self._get(self.config, "log_level"))
        run = str(self._get(self.config, "trainer").default_root_dir)
        if visible(run) != run:  # TensorBoard writes no names that are not Unicode; others would act in what is shown
            raise ConfigError(f"trainer.default_root_dir={run}: expected a name of visible characters: choose another")
        if self.command == "fit" and self._numbers_folder:
            self._choose_folder(Path(run))

    @property
    def _numbers_folder(self) -> bool:
        """Whether the run folder gets a number where it must: it is from a configuration, or nobody named it."""
        named = any(arg.partition("=")[0] == "--trainer.default_root_dir" for arg in self.arguments)
        return not named and not self._get(self.config, "trainer").fast_dev_run

    def _choose_folder(self, named: Path) -> None:
        """Take a folder of its own for the fit, or that of the run that goes on."""
        options, first = self.config[self.command], is_first_process()
        settings = plain_settings(self._parser(self.command), options)
        chosen = requeued(named, settings) if os.environ.get("SLURM_RESTART_COUNT") else None
        if checkpoint := options.get("ckpt_path"):
            chosen = resumed(named, settings, checkpoint=checkpoint)
        elif chosen is None:
            chosen = new_start(named, settings, self.held if first else None)
        options.trainer.default_root_dir = str(chosen.folder)
        if chosen.reason and first:
            Screen().line(f"fit: {chosen.reason}")

    def instantiate_classes(self) -> None:
        with located(self.config[str(self.subcommand)].as_dict()):
            super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        try:
            trainer: Any = super().instantiate_trainer(**kwargs)
            trainer.follows_first = self.command == "fit" and self._numbers_folder
            return trainer
        except (ValueError, TypeError, RuntimeError, MisconfigurationException) as error:
            if isinstance(error, SealError):
                raise
            options = self._get(self.config, "trainer")
            device = ", ".join(f"{name}={options[name]}" for name in ("accelerator", "devices", "strategy"))
            raise ConfigError(f"trainer: {one_line(str(error))} ({device})") from error

    # -- running ---------------------------------------------------------------------------------------------------

    def _run_subcommand(self, subcommand: str) -> None:
        """As Lightning's, with the run folder in one hand until the last table is written."""
        with self.trainer.owning_folder():
            check_folder(Path(self.trainer.default_root_dir), subcommand)
            super()._run_subcommand(subcommand)

    def validate(self, **options: Any) -> None:
        """As the trainer's, without Lightning's table of metrics above ours."""
        self.trainer.validate(**options, verbose=False)

    def test(self, **options: Any) -> None:
        """As the trainer's, without Lightning's table of metrics above ours."""
        self.trainer.test(**options, verbose=False)

    def predict(self, **options: Any) -> None:
        """Write self-edits to `edits.jsonl` in the run folder; where queries are answered, also the answers."""
        try:
            self.trainer.predict(**options, return_predictions=False)
        except (SealError, Stopped):
            self._say_so_far(self.model.predicted())
            raise
        edits = [rollout for rollout in self.model.evaluated if not rollout.repeat]
        if self.trainer.is_global_zero and edits:
            save_edits(self._edits, edits)
            self._say_edits(edits)
        if self.model.answers_queries:
            self._write_answers(self.model.evaluated)

    @property
    def _edits(self) -> Path:
        return Path(self.trainer.default_root_dir) / "edits.jsonl"

    def _say_so_far(self, rollouts: Sequence[Rollout]) -> None:
        """Of a run that stops: `edits.jsonl` with the self-edits that are finished, and where everything lies."""
        edits = [rollout for rollout in rollouts if not rollout.repeat]
        if not self.trainer.is_global_zero or not edits:
            return
        finished, contexts = len({edit.context_id for edit in edits}), len(self.datamodule.predict_contexts)
        kept = f"in {self._edits.parent / 'predictions'}"
        try:
            if save_edits(self._edits, edits, only_more=True):
                kept = f"in {self._edits}"
            else:
                kept += f"; {self._edits} has others and stays as it is until the end"
        except SavingError as error:  # the journal has them, and what stopped the run is said next
            log.warning("%s", error)
        self._say(f"so far {len(edits)} self-edits for {finished} of {contexts} contexts, {kept}; "
                  "the same command goes on from there")  # fmt: skip
        self._say_usage(edits)

    def _say_edits(self, edits: Sequence[Rollout]) -> None:
        self._say_usage(edits)
        rejected = sum(edit.status != "ok" for edit in edits)
        self._say(f"{len(edits)} self-edits, {rejected} of them rejected, in {self._edits}")
        if missing := render_left_out(total_left_out(edits)):
            self._say(f"cut or left out: {missing}")

    def _write_answers(self, rollouts: Sequence[Rollout]) -> None:
        """`answers.jsonl`, and the file of the task's own where it has one."""
        if not self.trainer.is_global_zero:
            return
        run, task = Path(self.trainer.default_root_dir), self.model.e_step.task
        predictions = predict(task, self.datamodule.predict_contexts, rollouts)
        save_answers(run / "answers.jsonl", predictions)
        adapters = sum(bool(rollout.answers) for rollout in rollouts)
        self._say(f"answers to {len(predictions)} queries by {adapters} adapters, in {run / 'answers.jsonl'}")
        if made := task.answer_file(predictions):
            save_text(run / made.name, made.text)
            self._say(f"{made.said}, in {run / made.name}")

    # -- last words ------------------------------------------------------------------------------------------------

    def after_fit(self) -> None:
        run = Path(self.trainer.default_root_dir)
        if validations := read_validations(run):
            self._print_table("fit", rounds_table(validations), validations, every=read_fit(run))
        self._say_usage(read_fit(run))
        self._say(f"run folder: {run}  (journal, checkpoints, tables, config.yaml)")
        if (run / "policy").exists() and self.trainer.is_global_zero:
            self._say_policy(run / "policy")
        test = "" if self.datamodule.sources["test"] else " --data.test FILE"
        self._say(f"next: seal test --config {run / 'config.yaml'} --ckpt_path best{test}")

    def _say_policy(self, folder: Path) -> None:
        """What the best policy is; one of an earlier start may have been damaged since."""
        try:
            chosen = parse_json((folder / "selection.json").read_bytes())
            value = "" if chosen["value"] is None else f", {chosen['monitor']} {chosen['value']:.3f}"
            said = f"best policy: {folder}  (round {chosen['round']}{value})"
            fault = damage(folder, read_record(chosen))
        except (OSError, ValueError, KeyError, TypeError) as error:
            said, fault = "", f"selection.json: {one_line(str(error))}"
        if fault:
            log.warning("%s: damaged (%s); checkpoints/best.ckpt holds the same policy", folder, fault)
        else:
            self._say(said)

    def after_validate(self) -> None:
        evaluated = self.model.evaluated
        self._print_table("validation", accuracy_table(evaluated), {self.model.rounds_done: evaluated})
        self._say_usage(self.model.evaluated)

    def after_test(self) -> None:
        evaluated = self.model.evaluated
        self._print_table("test", accuracy_table(evaluated), {self.model.rounds_done: evaluated})
        self._say_usage(self.model.evaluated)

    def _say_usage(self, rollouts: Sequence[Rollout]) -> None:
        """What endpoints charged for these rollouts, where there are any; also in `usage.json` (of a fit)."""
        usage = total_usage(rollouts)
        if self.trainer.is_global_zero and (text := render_usage(usage)):
            name = "usage.json" if self.command == "fit" else f"usage-{self.command}.json"
            path = Path(self.trainer.default_root_dir) / name
            save_text(path, json.dumps(asdict(usage), indent=1) + "\n")
            self._say(text)

    def _print_table(
        self,
        name: str,
        rows: Sequence[Row],
        validations: Mapping[int, Sequence[Rollout]],
        *,
        every: Sequence[Rollout] = (),
    ) -> None:
        """The accuracy table, and below it what the task has to add and what was cut or left out of all rollouts."""
        if not self.trainer.is_global_zero:
            return
        run = Path(self.trainer.default_root_dir)
        more = self.model.e_step.task.tables(validations)
        missing = render_left_out(total_left_out(every or self.model.evaluated))
        changed = told_changes(run) if name == "fit" else ""
        parts = (render_table(rows), more, changed, f"{MISSING} {missing}." if missing else "")
        text = "\n\n".join(part for part in parts if part)
        save_text(run / f"{name}.md", text + "\n")
        save_text(run / f"{name}.json", json.dumps([asdict(row) for row in rows], indent=1) + "\n")
        self._say(f"{text}\nsaved: {run / name}.md and .json")

    def _say(self, text: str) -> None:
        if self.trainer.is_global_zero:
            print(text, flush=True)
