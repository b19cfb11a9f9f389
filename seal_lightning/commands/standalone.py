"""What `seal adapt` and `seal continual` share: the options under `model`, and the output folder.

Both run the E-step outside a trainer, in one process and on one device. Their options under `model` are those of
`seal fit` without what only a fit needs, so one `model` section serves all three, and `--policy RUN` takes that of a
finished run.
"""

from __future__ import annotations

import inspect
import json
import logging
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Literal

import yaml
from jsonargparse import Namespace

from seal_lightning.errors import ConfigError, misread, reason_of
from seal_lightning.files.bounded_yaml import load_yaml
from seal_lightning.files.contained import contained
from seal_lightning.files.ownership import OWNER, owning
from seal_lightning.files.saving import NOT_HERE, SavingError, is_used
from seal_lightning.fit.module import SEALModule
from seal_lightning.fit.stamp import is_noted
from seal_lightning.options.config_files import without_class
from seal_lightning.options.mistakes import given_options, one_line, read_config_files
from seal_lightning.options.parser import Parser, save_settings
from seal_lightning.options.trust import FLAG, allowed_settings
from seal_lightning.policy.loading import Device
from seal_lightning.records.journal import Journal
from seal_lightning.stamps.run import FILE, Record, Rules, compare, read_record, show_changes, without_record
from seal_lightning.types import Json

log = logging.getLogger(__name__)

FIT_ONLY: set[str | int] = {"tuning", "evaluation", "evaluation_sampler", "m_step"}
# Options of a single start, which are not saved.
ONE_RUN = ("resume", "dry_run", "allow_other_versions", "trust_policy")


# -- options -----------------------------------------------------------------------------------------------------------


def add_model(parser: Parser, args: Sequence[str], *, defaults: Mapping[str, object] | None = None) -> None:
    """Add the options `model.*`, `policy`, `device` and `log_level`; with `--policy RUN`, that run has the defaults.

    Args:
        parser: The parser that gets the options.
        args: The command line, which is searched for `--policy`.
        defaults: This command's defaults, by option, where they differ from those of a fit.

    Raises:
        ConfigError: The run's configuration cannot be read.
    """
    parser.add_class_arguments(SEALModule, "model", skip=FIT_ONLY)
    parser.set_defaults(
        {
            "model.task": {"class_path": "seal_lightning.tasks.Knowledge"},
            "model.sampler": {"class_path": "seal_lightning.sampling.LocalSampler"},
            **(defaults or {}),
        }
    )
    parser.add_argument(
        "--policy",
        type=str | None,
        help="A run of `seal fit`, whose best policy writes and is adapted, with the run's settings of `model`; or a "
        "PEFT folder for model.source.",
    )
    parser.add_argument(
        FLAG,
        action="store_true",
        help="Let the run that is named name classes, remote code, endpoints, keys and paths of its own; they run here "
        "as you. Only on the command line.",
    )
    parser.add_argument("--device", type=Device, default="auto", help="auto takes a GPU if there is one.")
    parser.add_argument(
        "--log_level",
        type=Literal["debug", "info", "warning", "error"],
        default="warning",
        help="Detail of the log; debug shows tracebacks.",
    )
    parser.add_argument(
        "--allow_other_versions",
        action="store_true",
        help="Resume what other versions of seal-lightning or its libraries began; run.json records that.",
    )
    if holders := [path for path, content in read_config_files(args) if FLAG[2:] in content]:
        raise ConfigError(f"{FLAG[2:]} in {holders[-1]}: expected it on the command line, for one start: write {FLAG}")
    if named := given(args, "policy"):
        set_model(parser, settings_of(named, args), f"--policy {named}")


def set_model(parser: Parser, settings: Mapping[str, object], origin: str) -> None:
    """Make a run's settings the defaults of `model`, or raise `ConfigError` where there is no such option."""
    try:
        parser.set_defaults({f"model.{name}": value for name, value in settings.items()})
    except KeyError as error:  # of another version, say
        option = re.search(r'"([^"]*)"', str(error))
        raise ConfigError(
            f"{origin}: {one_line(option[1] if option else str(error))} in its config.yaml is not an option here: "
            "remove it there"
        ) from error


def given(args: Sequence[str], option: str) -> str | None:
    """The last value of an option on the command line, or else in its config files."""
    values = [content[option] for _, content in read_config_files(args) if option in content]
    for arg, following in pairwise([*args, ""]):
        name, equals, value = arg.partition("=")
        values += [value if equals else following] if name == f"--{option}" else []
    return values[-1] if values and isinstance(values[-1], str) else None


def settings_of(
    named: str, args: Sequence[str], *, option: str = "--policy", names: Collection[str] | None = None
) -> dict[str, object]:
    """The `model` section of a run's configuration, without what only a fit needs and what only the user may choose.

    Args:
        named: The run, as the user named it.
        args: The command line.
        option: The option with which it is named.
        names: The only options that are wanted; None for all.

    Returns:
        No settings for a folder that is not a run's.

    Raises:
        ConfigError: The configuration cannot be read, or asks for what a run may not choose.
    """
    run = Path(named).expanduser()
    if not (run / "config.yaml").is_file():
        return {}
    path = contained(run, "config.yaml", error=ConfigError)
    try:
        content = load_yaml(path.read_text(encoding="utf-8"))
        options = without_class(content)["model"]
        if names is None:
            settings = _of_ours(content["model"], options, str(path))
        else:
            settings = {name: value for name, value in options.items() if name in names}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise ConfigError(
            f"{option} {named}: expected a run, got an unusable config.yaml ({misread(error)}): check the path"
        ) from error
    return allowed_here(settings, args, f"{option} {run}", run=run)


def allowed_here(settings: Mapping[str, object], args: Sequence[str], origin: str, *, run: Path) -> dict[str, object]:
    """The settings of a run without those that this command line replaces. Raises as `allowed_settings`."""
    given, trusted = given_options(args, read_config_files(args)), FLAG in args
    return allowed_settings(settings, SEALModule, run=run, given=given, trusted=trusted, origin=origin)


def _of_ours(model: Mapping[str, object], options: Mapping[str, object], path: str) -> dict[str, object]:
    """The options without those that only a fit needs, and those of a module class of the run's own."""
    kind = str(model.get("class_path") or "")
    known = inspect.signature(SEALModule.__init__).parameters
    if own := [name for name in options if kind and name not in known]:
        log.warning("%s: options of %s are ignored here: %s", one_line(path), one_line(kind), ", ".join(own))
    return {name: value for name, value in options.items() if name not in FIT_ONLY and name not in own}


@contextmanager
def open_folder(output: Path, command: str, *, resume: bool) -> Iterator[None]:
    """Make the folder of `--output` and own it within the block.

    Raises:
        FolderInUse: Another process owns it.
        ConfigError: The folder holds files of another command, or of this one without `--resume`.
    """
    with owning(output, option=f"--output {output}"):
        used = is_used(output, besides=OWNER)
        if used and not resume:
            raise ConfigError(
                f"--output {output}: expected a new folder, got one with files: add --resume, or choose another"
            )
        config = output / "config.yaml"
        if used and not (config.is_file() and config.read_text(encoding="utf-8").startswith(_header(command))):
            raise ConfigError(
                f"--output {output}: expected a folder of seal {command}, got another: choose a new folder"
            )
        yield


def write_settings(parser: Parser, settings: Namespace, output: Path, *, finished: bool = False) -> None:
    """Write `config.yaml` with the settings that began a folder, and at the end with those that finished it.

    Settings that are refused in between leave no trace. Options of a single start are left out.

    Raises:
        ConfigError: Nothing can be written there.
    """
    path = output / "config.yaml"
    if finished or not path.exists():
        kept = settings.clone()
        for name in ONE_RUN:
            kept.pop(name, None)
        header = f"{_header(parser.command)}--config {path}".removeprefix("# ")
        try:
            save_settings(path, parser.dump(kept, skip_unset=False, skip_validation=True), header=header)
        except OSError as error:
            cause = error.cause if isinstance(error, SavingError) else error
            if isinstance(error, SavingError) and cause.errno not in NOT_HERE:
                raise
            raise ConfigError(f"--output {output}: {reason_of(cause)}; choose a folder you can write to") from error


def _header(command: str) -> str:
    return f"# seal {command} "


def rules(*, other_versions: bool = False) -> Rules:
    """What may differ on a resume with `--resume`."""
    return Rules("--output", "--allow_other_versions", other_versions, is_noted)


open_journal = partial(Journal, folder_option="--output", resume_option="--resume")  # a journal below `--output`


def check_record(folder: Path, stamp: Mapping[str, Json], *, begun: bool, rules: Rules) -> Record:
    """The record with which a run in this folder starts or resumes; nothing is written.

    Args:
        folder: The output folder, with `run.json` if a run was begun there.
        stamp: What the run depends on from now on.
        begun: Whether the folder already holds results.
        rules: What may differ.

    Raises:
        StaleJournalError: The run was begun with other settings.
        JournalError: `run.json` is damaged.
    """
    stamp, known = json.loads(json.dumps(stamp)), read_record(folder) if begun else None
    if known is not None:
        record = compare(known, stamp, where=str(folder / FILE), round=0, rules=rules)
        if new := record.changes[len(known.changes) :]:
            log.warning("this run resumes with other settings, which run.json records: %s", show_changes(new))
        return record
    if begun and not rules.other_versions:
        raise without_record(folder, rules=rules)
    return Record(stamp)
