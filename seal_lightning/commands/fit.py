"""`seal fit`, `validate`, `test` and `predict`: what is built from their options, run, and said in the end.

The options themselves are in `fit/parser.py`. All of this is kept apart from `cli.py` because it needs Lightning, torch
and transformers.
"""

import json
import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from transformers.utils import logging as transformers_logging

from seal_lightning.callbacks import CheckpointSelection
from seal_lightning.commands.names import COMMANDS
from seal_lightning.commands.outcome import save_answers, save_edits, tell_selection
from seal_lightning.commands.run_folders import is_first_process, new_start, newest_after, requeued, resumed
from seal_lightning.data import SEALDataModule
from seal_lightning.e_step.predictions import predict
from seal_lightning.errors import ConfigError, SealError, Stopped
from seal_lightning.files.saving import SavingError, disk_error, save_text
from seal_lightning.fit.ending import dev_run_said, early_end_said
from seal_lightning.fit.limits import limits_said
from seal_lightning.fit.model_class import chosen_class
from seal_lightning.fit.module import SEALModule
from seal_lightning.fit.parser import Arguments, LogLevel, OptionsCLI
from seal_lightning.fit.run_folder import plain_settings
from seal_lightning.fit.trainer import SEALTrainer
from seal_lightning.options.logger_options import place_loggers
from seal_lightning.options.mistakes import located, one_line
from seal_lightning.options.parser import find_modules_here
from seal_lightning.processes.stopping import work_begins
from seal_lightning.progress.screen import Screen
from seal_lightning.records.journal import read_fit
from seal_lightning.results.left_out import render_left_out, total_left_out
from seal_lightning.results.usage import render_usage, total_usage
from seal_lightning.results.verdict import read as read_selection
from seal_lightning.results.verdict import said as said_of
from seal_lightning.sharing.hub import Destination, Export, destination_of, upload
from seal_lightning.sharing.policy_card import EXPORTS, add_test_results
from seal_lightning.text.escaping import visible
from seal_lightning.types import Rollout

log = logging.getLogger(__name__)


def run_command(
    args: Sequence[str],
    files: Sequence[tuple[str, Mapping[str, Any]]] = (),
    *,
    kind: "type[SEALCLI] | None" = None,
) -> "SEALCLI":
    """Parse `args` and run their command; returns what did it.

    Args:
        args: The command and its options.
        files: What is in the config files that they name.
        kind: The class that does it.

    Raises:
        ConfigError: An option is unknown or has a value that cannot work.
    """
    set_log_level("warning")
    find_modules_here(args, files)
    model, args = chosen_class(args, files)
    with quiet_threads(), ExitStack() as held:
        arguments = Arguments(args, files)
        return (kind or SEALCLI)(
            model, trainer=SEALTrainer, command=args[0], args=arguments, description=COMMANDS[args[0]].about, held=held
        )


LIBRARIES = "lightning lightning.pytorch lightning.fabric transformers peft huggingface_hub bitsandbytes".split()
LIBRARIES += ["mlflow", "alembic"]


def set_log_level(level: LogLevel) -> None:
    """Of our own loggers; other libraries speak up only with `info` and `debug`.

    Their loggers set levels of their own when they are imported, so this comes after it.
    """
    number = getattr(logging, level.upper())
    logging.getLogger("seal_lightning").setLevel(number)
    others = max(number, logging.ERROR) if level in ("warning", "error") else number
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(others)
    profilers = logging.getLogger("lightning.pytorch.profilers")
    profilers.setLevel(min(number, logging.INFO))  # reports, which were asked for
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


class SEALCLI(OptionsCLI):
    """What a command builds from its options, runs, and says in the end."""

    trainer: SEALTrainer
    model: SEALModule
    datamodule: SEALDataModule
    arguments: Arguments
    destination: Destination | None = None  # of what a fit exports, on the hub

    def __init__(self, *args: Any, held: ExitStack, **options: Any) -> None:
        self.held = held
        super().__init__(*args, **options)

    # -- building --------------------------------------------------------------------------------------------------

    def before_instantiate_classes(self) -> None:
        work_begins()
        options = self.options.trainer
        run = str(options.default_root_dir)
        set_log_level(self.options.log_level)
        if visible(run) != run:  # TensorBoard writes no names that are not Unicode; others would act in what is shown
            raise ConfigError(f"trainer.default_root_dir={run}: expected a name of visible characters: choose another")
        if self.command == "fit":
            if self._numbers_folder:
                run = self._choose_folder(Path(run))
            self.destination = destination_of(self.options, folder=run, ask=is_first_process())
        elif self._numbers_folder and is_first_process():
            self._say_newer(Path(run))
        place_loggers(options, run)

    @property
    def _numbers_folder(self) -> bool:
        """Whether the run folder gets a number where it must: it is from a configuration, or nobody named it."""
        named = any(arg.partition("=")[0] == "--trainer.default_root_dir" for arg in self.arguments)
        return not named and not self.options.trainer.fast_dev_run

    def _choose_folder(self, named: Path) -> str:
        """Take a folder of its own for the fit, or that of the run that goes on."""
        options, first = self.options, is_first_process()
        settings = plain_settings(self.command_parser, options)
        chosen = requeued(named, settings) if os.environ.get("SLURM_RESTART_COUNT") else None
        if checkpoint := options.get("ckpt_path"):
            chosen = resumed(named, settings, checkpoint=checkpoint)
        elif chosen is None:
            chosen = new_start(named, settings, self.held if first else None)
        options.trainer.default_root_dir = str(chosen.folder)
        if chosen.reason and first:
            Screen().line(f"fit: {chosen.reason}")
        return str(chosen.folder)

    def _say_newer(self, run: Path) -> None:
        """That a later fit of the same configuration lies elsewhere, where none of its run folders was named."""
        own = {str((run / "config.yaml").resolve())}
        named = {str(Path(path).resolve()) for path, _ in self.arguments.files}
        if not named & own and (newer := newest_after(run)):
            Screen().line(
                f"{self.command}: of the run in {run}; a newer one is in {newer}: --config {newer / 'config.yaml'}"
            )

    def instantiate_classes(self) -> None:
        with located(self.options.as_dict()):
            super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        try:
            trainer: Any = super().instantiate_trainer(**kwargs)
            trainer.folder.follows_first = self.command == "fit" and self._numbers_folder
            return trainer
        except (ValueError, TypeError, RuntimeError, MisconfigurationException) as error:
            if isinstance(error, SealError):
                raise
            options = self.options.trainer
            device = ", ".join(f"{name}={options[name]}" for name in ("accelerator", "devices", "strategy"))
            raise ConfigError(f"trainer: {one_line(str(error))} ({device})") from error

    # -- running ---------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """The command, with the run folder in one hand until the last table is written."""
        with self.trainer.folder.owned():
            super().run()

    def validate(self, **options: Any) -> None:
        """As the trainer's, without Lightning's table of metrics above ours."""
        self.trainer.validate(**options, verbose=False)

    def test(self, **options: Any) -> None:
        """As `validate`."""
        self.trainer.test(**options, verbose=False)

    def predict(self, **options: Any) -> None:
        """Write self-edits to `edits.jsonl` in the run folder; where queries are answered, also the answers.

        What a generator writes has no text, so that the answers are all there is.
        """
        try:
            self.trainer.predict(**options, return_predictions=False)
        except (SealError, Stopped):
            self._say_so_far(self.model.phases.predicted_so_far())
            raise
        edits = [rollout for rollout in self.model.evaluated if not rollout.repeat]
        if limited := limits_said(self.model.limits):
            self._say(limited)
        if self.trainer.is_global_zero and edits and self.model.tuning.writes == "texts":
            saved = save_edits(self._run / "edits.jsonl", edits, only_more=bool(limited))
            self._say_edits(edits, saved=saved)
        if self.model.answers_queries:
            self._write_answers(self.model.evaluated)
        self._say_if_untrained()
        self._say_dev_run()

    @property
    def _run(self) -> Path:
        return Path(self.trainer.default_root_dir)

    def _say_so_far(self, rollouts: Sequence[Rollout]) -> None:
        """Of a run that stops: `edits.jsonl` with the self-edits that are finished, and where everything lies."""
        edits = [rollout for rollout in rollouts if not rollout.repeat]
        if not self.trainer.is_global_zero or not edits:
            return
        finished, contexts = len({edit.context_id for edit in edits}), len(self.datamodule.predict_contexts)
        path, kept = self._run / "edits.jsonl", f"in {self._run / 'predictions'}"
        if self.model.tuning.writes == "adapters":
            self._say(
                f"so far answers for {finished} of {contexts} contexts, {kept}; the same command goes on from there"
            )
            return
        try:
            if save_edits(path, edits, only_more=True):
                kept = f"in {path}"
            else:
                kept += f"; {path} has others and stays as it is until the end"
        except SavingError as error:  # the journal has them, and what stopped the run is said next
            log.warning("%s", error)
        self._say(f"so far {len(edits)} self-edits for {finished} of {contexts} contexts, {kept}; "
                  "the same command goes on from there")  # fmt: skip
        self._say_usage(edits)

    def _say_edits(self, edits: Sequence[Rollout], *, saved: bool) -> None:
        self._say_usage(edits)
        rejected = sum(edit.status != "ok" for edit in edits)
        path = self._run / "edits.jsonl"
        place = f"in {path}" if saved else f"in {self._run / 'predictions'}; {path} has others"
        place = "not saved" if self.trainer.fast_dev_run else place
        self._say(f"{len(edits)} self-edits, {rejected} of them rejected, {place}")
        if missing := render_left_out(total_left_out(edits)):
            self._say(f"cut or left out: {missing}")

    def _write_answers(self, rollouts: Sequence[Rollout]) -> None:
        """`answers.jsonl`, and the file of the task's own where it has one."""
        if not self.trainer.is_global_zero:
            return
        path, task = self._run / "answers.jsonl", self.model.e_step.task
        predictions = predict(task, self.datamodule.predict_contexts, rollouts)
        adapters = sum(bool(rollout.answers) for rollout in rollouts)
        answers = f"answers to {len(predictions)} queries by {adapters} adapters"
        if self.trainer.fast_dev_run:
            self._say(f"{answers}, not saved")
            return
        save_answers(path, predictions)
        self._say(f"{answers}, in {path}")
        if made := task.answer_file(predictions):
            save_text(self._run / made.name, made.text)
            self._say(f"{made.said}, in {self._run / made.name}")

    # -- last words ------------------------------------------------------------------------------------------------

    def after_fit(self) -> None:
        run = self._run
        self._print_table("fit")
        self._say_usage(read_fit(run))
        if self._say_dev_run():
            return
        if not self.trainer.table and read_fit(run) and (limited := limits_said(self.model.limits)):
            self._say(limited)
        if ended := early_end_said(self.trainer):
            self._say(ended)
        there = [name for name in ("journal", "checkpoints", "tables", "config.yaml") if (run / name).exists()]
        self._say(f"run folder: {run}  ({', '.join(there) or 'empty'})")
        callbacks: Sequence[object] = self.trainer.callbacks  # type: ignore[attr-defined]
        found = [each.selection for each in callbacks if isinstance(each, CheckpointSelection)]
        if self.trainer.is_global_zero and found and found[0].rounds:
            tell_selection(run, found[0], self.model.m_step)
            step, more = "test", "--ckpt_path best" + ("" if self.datamodule.sources["test"] else " --data.test FILE")
            if found[0].verdict in ("untrained", "nothing"):
                step, more = "fit", f"--model.m_step.learning_rate {self.model.m_step.learning_rate / 10:g}"
            self._say(f"next: seal {step} --config {run / 'config.yaml'} {more}")
        if self.destination is not None and self.trainer.is_global_zero:
            self._push(run, self.destination)

    def _push(self, run: Path, destination: Destination) -> None:
        """Upload what was exported. Raises `HubError`."""
        found = [(run / name, suffix) for name, suffix in EXPORTS.items() if (run / name / "README.md").is_file()]
        for address in upload(destination, [Export(folder, suffix=suffix) for folder, suffix in found]):
            self._say(f"uploaded: {address}")
        if not found:
            self._say("nothing was uploaded: the run has exported no policy")

    def _say_if_untrained(self) -> None:
        """That the best policy is the untrained one, whose figures these are."""
        asked = self.options.get("ckpt_path")
        if asked == "best" and self.model.rounds_done == 0 and (found := read_selection(self._run)):
            self._say(f"these are figures of the untrained policy: {said_of(found)[0]}")

    def _say_dev_run(self) -> bool:
        """What a `fast_dev_run` has tried; whether it was one."""
        if self.trainer.fast_dev_run:
            self._say(dev_run_said(self.model.limits, trained=self.trainer.fit_loop.total_batch_idx + 1))
        return bool(self.trainer.fast_dev_run)

    def after_validate(self) -> None:
        self._print_table("validation")
        self._say_if_untrained()
        self._say_usage(self.model.evaluated)
        self._say_dev_run()

    def after_test(self) -> None:
        self._print_table("test")
        self._say_if_untrained()
        if self.trainer.is_global_zero and not self.trainer.fast_dev_run:
            add_test_results(self._run, self.model)
        self._say_usage(self.model.evaluated)
        self._say_dev_run()

    def _say_usage(self, rollouts: Sequence[Rollout]) -> None:
        """What endpoints charged for these rollouts, where there are any; also in `usage.json` (of a fit)."""
        usage = total_usage(rollouts)
        if self.trainer.is_global_zero and (text := render_usage(usage)):
            name = "usage.json" if self.command == "fit" else f"usage-{self.command}.json"
            save_text(self._run / name, json.dumps(asdict(usage), indent=1) + "\n")
            self._say(text)

    def _print_table(self, name: str) -> None:
        """The table, which the trainer has saved; a `fast_dev_run` saves nothing."""
        if not self.trainer.is_global_zero or not self.trainer.table:
            return
        saved = "" if self.trainer.fast_dev_run else f"\nsaved: {self._run / name}.md and .json"
        self._say(f"{self.trainer.table}{saved}")

    def _say(self, text: str) -> None:
        if self.trainer.is_global_zero:
            print(text, flush=True)
