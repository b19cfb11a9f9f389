"""The commands behind `seal`, on LightningCLI: the parser, what is built from it, and what is said at the end.

Each command takes the same groups: `trainer`, `model`, `data`, `filter`, `checkpoint`, `table`, `progress`. They are
kept apart from `cli.py` because everything here needs Lightning, torch and transformers.
"""

import json
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, NoReturn

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback

from seal_lightning.callbacks import CheckpointSelection, EStepProgress, RolloutTable
from seal_lightning.data import SEALDataModule
from seal_lightning.errors import ConfigError
from seal_lightning.evaluation import accuracy_table, render_table
from seal_lightning.hooks import EditFilter
from seal_lightning.journal import rollout_to_dict
from seal_lightning.module import SEALModule
from seal_lightning.trainer import SEALTrainer

LogLevel = Literal["debug", "info", "warning", "error"]


def run_command(args: Sequence[str]) -> None:
    """Parse `args` and run their command."""
    SEALCLI(
        SEALModule,
        SEALDataModule,
        trainer_class=SEALTrainer,
        parser_class=SEALParser,
        save_config_callback=SaveConfigBesideRun,
        save_config_kwargs={"save_to_log_dir": False},
        seed_everything_default=False,
        auto_configure_optimizers=False,
        load_from_checkpoint_support=False,
        args=list(args),
    )


class SEALParser(LightningArgumentParser):
    """Says what is wrong in one line, and takes options by their full names only."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:  # type: ignore[override]
        raise ConfigError(one_line(message)) from ex

    def _get_option_tuples(self, option_string: str) -> list:
        return []


class SaveConfigBesideRun(SaveConfigCallback):
    """Writes the whole configuration into the run folder: `config.yaml` for fit, `config-<command>.yaml` otherwise."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        name = "config.yaml" if stage == "fit" else f"config-{stage}.yaml"
        self.parser.save(self.config, Path(trainer.default_root_dir) / name, overwrite=True, multifile=False)


class SEALCLI(LightningCLI):
    """LightningCLI with SEAL's groups of options and its own last words."""

    trainer: SEALTrainer
    model: SEALModule

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--log_level", type=LogLevel, default="warning", help="Detail of the log; debug shows tracebacks."
        )
        parser.add_lightning_class_args(EditFilter, "filter", subclass_mode=True)
        parser.set_defaults({"filter": {"class_path": "seal_lightning.callbacks.ReSTEMFilter"}})
        parser.add_lightning_class_args(CheckpointSelection, "checkpoint")
        parser.add_lightning_class_args(RolloutTable, "table")
        parser.add_lightning_class_args(EStepProgress, "progress")

    def _parse_ckpt_path(self) -> None:
        """The command line outranks a checkpoint's hyper-parameters, which ours do not carry anyway."""

    def before_instantiate_classes(self) -> None:
        logging.basicConfig(format="%(name)s: %(message)s")
        logging.getLogger("seal_lightning").setLevel(self._get(self.config, "log_level").upper())
        run = Path(self._get(self.config, "trainer").default_root_dir)
        try:
            run.mkdir(parents=True, exist_ok=True)
            probe = run / f".writable-{os.getpid()}"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise ConfigError(
                f"trainer.default_root_dir={run}: {error.strerror or error}; choose a folder you can write to"
            ) from error

    def after_fit(self) -> None:
        run = Path(self.trainer.default_root_dir)
        self._say(f"run folder: {run}  (journal, checkpoints, tables, config.yaml)")
        if (run / "policy").exists():
            chosen = json.loads((run / "policy" / "selection.json").read_text())
            value = "" if chosen["value"] is None else f", {chosen['monitor']} {chosen['value']:.3f}"
            self._say(f"best policy: {run / 'policy'}  (round {chosen['round']}{value})")
        self._say(f"next: seal test --config {run / 'config.yaml'} --ckpt_path best --data.test FILE")

    def after_validate(self) -> None:
        self._print_table("validation")

    def after_test(self) -> None:
        self._print_table("test")

    def _print_table(self, name: str) -> None:
        rows = accuracy_table(self.model.evaluated)
        run = Path(self.trainer.default_root_dir)
        text = render_table(rows)
        (run / f"{name}.md").write_text(text + "\n", encoding="utf-8")
        (run / f"{name}.json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
        self._say(f"{text}\nsaved: {run / name}.md and .json")

    def predict(self, **options: Any) -> None:
        """Write self-edits to `edits.jsonl` in the run folder."""
        batches = self.trainer.predict(**{**options, "return_predictions": True}) or []
        path = Path(self.trainer.default_root_dir) / "edits.jsonl"
        rows = [rollout for batch in batches for rollout in batch]
        wanted = (
            "context_id",
            "edit_index",
            "seed",
            "prompt",
            "text",
            "status",
            "reason",
            "asked",
            "applied",
            "tokens",
        )
        with path.open("w", encoding="utf-8") as file:
            for rollout in rows:
                row = rollout_to_dict(rollout)
                file.write(json.dumps({key: row[key] for key in wanted}, ensure_ascii=False) + "\n")
        rejected = sum(rollout.status == "rejected" for rollout in rows)
        self._say(f"{len(rows)} self-edits, {rejected} of them rejected, in {path}")

    def _say(self, text: str) -> None:
        if self.trainer.is_global_zero:
            print(text, flush=True)


def one_line(message: str) -> str:
    """jsonargparse's message without usage and line breaks, cut to what names the option and the value."""
    flat = re.sub(r"\s+", " ", message).strip()
    return flat if len(flat) <= 600 else flat[:597] + "..."
