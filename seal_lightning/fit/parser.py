"""The options of `seal fit`, `validate`, `test` and `predict`: LightningCLI's parser with SEAL's groups of options.

Each command takes the same groups: `trainer`, `model`, `data`, `filter`, `checkpoint`, `table`, `progress` and
`trackers`. A run from Python goes through the same parser (`parse_settings`), so that its configuration is what the
command would have written. What a command builds from its options and runs is in `commands/fit.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import yaml
from jsonargparse import Namespace
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger

from seal_lightning.data import SEALDataModule
from seal_lightning.errors import ConfigError
from seal_lightning.fit.model_class import imported, with_class
from seal_lightning.fit.module import SEALModule
from seal_lightning.fit.run_callbacks import DEFAULTS, GROUPS, choose
from seal_lightning.fit.run_folder import SaveConfigBesideRun
from seal_lightning.options.config_files import sections_of
from seal_lightning.options.help_order import order_groups
from seal_lightning.options.logger_options import need_no_folder
from seal_lightning.options.mistakes import Given, explain
from seal_lightning.options.parser import (
    ParserError,
    PlainParser,
    named_options,
    parsed,
    plain_options,
    refuse_nulls,
)
from seal_lightning.sharing.hub import add_hub
from seal_lightning.types import Json

LogLevel = Literal["debug", "info", "warning", "error"]


class Arguments(list[str]):
    """The command line, with what is in its config files."""

    def __init__(self, args: Sequence[str], files: Sequence[tuple[str, Mapping[str, Json]]] = ()) -> None:
        super().__init__(args)
        self.files = files


class SEALParser(LightningArgumentParser, PlainParser):
    """LightningCLI's parser, which knows of classes of one's own and of run folders."""

    model_class: type[SEALModule] = SEALModule

    def dump(self, namespace: Namespace, format: str = "parser_mode", **options: Any) -> str:
        """As jsonargparse's, with the class of the module where it is not ours."""
        text = super().dump(namespace, format=format, **options)
        if self.model_class is SEALModule:
            return text
        config = with_class(yaml.safe_load(text) or {}, self.model_class)
        return json.dumps(config) if format.startswith("json") else yaml.safe_dump(config, sort_keys=False)

    def add_class_arguments(self, theclass: Any, *args: Any, **options: Any) -> Any:
        """As jsonargparse's; a logger that is told no folder writes into the run's."""
        added = super().add_class_arguments(theclass, *args, **options)
        if isinstance(theclass, type) and issubclass(theclass, Logger):
            need_no_folder(self._actions)
        return added


class OptionsCLI(LightningCLI):
    """LightningCLI with SEAL's groups of options, for one of fit, validate, test and predict.

    `args` is the command line; or nested settings, for a class that reads those.
    """

    def __init__(
        self,
        model: type[SEALModule],
        *,
        trainer: type[Trainer],
        command: str,
        args: Sequence[str] | Mapping[str, Json],
        description: str = "",
    ) -> None:
        self.command, self.arguments = command, args
        usage = f"seal {command} [--config FILE ...] [--KEY VALUE ...]"
        super().__init__(  # which does everything
            model,
            SEALDataModule,
            subclass_mode_data=True,
            trainer_class=trainer,
            parser_class=SEALParser,
            parser_kwargs={command: {"description": description, "usage": usage}},
            save_config_callback=SaveConfigBesideRun,
            save_config_kwargs={"save_to_log_dir": False},
            seed_everything_default=False,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            args=args,
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """The command and what of the trainer's method is none of its options; other commands would take time only."""
        ours = {"fit": set[str](), "predict": {"return_predictions"}}.get(self.command, {"verbose"})
        return {self.command: LightningCLI.subcommands()[self.command] | ours | {"weights_only"}}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        if isinstance(parser, SEALParser):
            kind: Any = self._model_class
            parser.model_class = kind
        parser.add_argument(
            "--log_level", type=LogLevel, default="warning", help="Detail of the log; debug shows tracebacks."
        )
        for name, kind in GROUPS.items():
            parser.add_lightning_class_args(kind, name, subclass_mode=True, required=False)
        add_hub(parser)
        defaults = {  # named here so that --filter.k 2 and --model.task.edit facts need no class_path
            "data": "seal_lightning.data.SEALDataModule",
            **{name: f"seal_lightning.callbacks.{kind.__name__}" for name, kind in DEFAULTS.items()},
            "model.task": "seal_lightning.tasks.Knowledge",
            "model.sampler": "seal_lightning.sampling.LocalSampler",
        }
        options = {action.dest for action in parser._actions}  # a module of one's own may have fewer
        parser.set_defaults({name: {"class_path": path} for name, path in defaults.items() if name in options})

    def _prepare_subcommand_parser(self, *args: Any, **options: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(*args, **options)
        order_groups(parser, self.trainer_class)
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        actions = self.command_parser._actions
        given = Given(args[0], args, args.files, *named_options(actions))
        self.config = parsed(parser, args, given, actions)
        refuse_nulls(actions, self.options, given)
        grader = self.options.get("model.grader")
        if isinstance(grader, str) and "." in grader:  # the parser takes a class that it cannot import for a name
            imported(given.where("model.grader"), grader)

    def _parse_ckpt_path(self) -> None:
        """The command line outranks a checkpoint's hyper-parameters, which ours do not carry anyway."""

    @property
    def command_parser(self) -> LightningArgumentParser:
        """The parser of the command."""
        return self._subcommand_parsers[self.command]

    @property
    def options(self) -> Namespace:
        """The options of the command, once they are parsed."""
        return self.config[self.command]

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Any]) -> Trainer:
        """The groups are callbacks as a user's own are: null leaves one out, and so do flags and others of its kind."""
        groups = dict(zip(self.command_parser.callback_keys, callbacks, strict=True))
        defaults = self.command_parser.get_defaults()
        untouched = {name for name in groups if self.options.get(name) == defaults[name]}
        listed = config["callbacks"] or []
        given = [listed] if isinstance(listed, Callback) else list(listed)
        chosen, flags = choose(config, given, groups, untouched=untouched)
        return super()._instantiate_trainer({**config, **flags, "callbacks": given}, chosen)

    def run(self) -> None:
        """Do what the command is for, with the objects made."""
        super()._run_subcommand(self.command)

    def _run_subcommand(self, subcommand: str) -> None:
        self.run()


class _ParsedOnly(OptionsCLI):
    """Reads settings instead of a command line, and stops there."""

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        actions = self.command_parser._actions
        try:
            with sections_of(plain_options(actions)):
                self.config = parser.parse_object({"subcommand": self.command, self.command: dict(args)})
        except (ParserError, TypeError, ValueError) as error:
            raise ConfigError(explain(str(error))) from error

    def _set_seed(self) -> None:
        """Nothing runs."""

    def instantiate_classes(self) -> None:
        """Nothing is made."""

    def run(self) -> None:
        """Nothing runs."""


def parse_settings(
    command: str, model: type[SEALModule], settings: Mapping[str, Json], *, trainer: type[Trainer]
) -> tuple[LightningArgumentParser, Namespace]:
    """A command's parser, and settings as it reads them: checked, with the defaults of what they leave out.

    Raises:
        ConfigError: The command would not take them.
    """
    cli = _ParsedOnly(model, trainer=trainer, command=command, args=settings)
    return cli.command_parser, cli.options
