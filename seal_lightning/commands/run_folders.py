"""Which folder a fit takes: the one that its configuration names, or the same with a number, so that runs never mix.

    missing, empty, or without a run    that folder
    an unfinished run                   that folder if the settings are the same, to resume from its journal
    anything else                       the next number: runs/smollm2, runs/smollm2-2, runs/smollm2-3

With `--ckpt_path`, and in a job that SLURM requeued, the newest of them with the same settings resumes. A folder that
the command line names is taken as it is. Two fits that start at once take two folders, by the locks of
`files/ownership.py`.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import yaml

from seal_lightning.errors import ConfigError, JournalError
from seal_lightning.files.bounded_yaml import load_yaml
from seal_lightning.files.ownership import OWNER, FolderInUse, owning
from seal_lightning.files.saving import is_used
from seal_lightning.fit.stamp import LIMITS, TRAINER, is_noted
from seal_lightning.options.mistakes import flat_options
from seal_lightning.stamps.run import read_record

MOST = 10_000
_HEADER = "# seal fit "
# Options that tell runs apart besides model, data and filter; docs/resuming.md says which others may change.
_OF_TRAINER = {f"trainer.{name}" for name in (*TRAINER, *LIMITS, "accumulate_grad_batches", "validate_first")}
_COUNTED = {*_OF_TRAINER, "trainer.deterministic", "seed_everything", "checkpoint.monitor", "checkpoint.mode"}
_SECTIONS = ("model.", "data.", "filter.")
_NOT_COUNTED = {"model.predict", "model.answer_batch", "model.source.trust_remote_code", "data.predict"}


@dataclass(frozen=True, slots=True)
class Choice:
    """The folder of a fit, and why it is not simply the named one; empty if it is."""

    folder: Path
    reason: str = ""


def new_start(named: Path, settings: Mapping[str, object], held: ExitStack | None) -> Choice:
    """The folder of a fit that resumes from no checkpoint; no other process gets it until `held` closes.

    Args:
        named: The folder that the configuration names.
        settings: All options of the fit, as in its `config.yaml`.
        held: Gets the lock of the folder; None on ranks other than the first, which only look.

    Raises:
        ConfigError: The folder cannot be made, or all of its numbers are taken.
        SavingError: The disk is full.
    """
    reasons = []
    stem, number = _number(named)
    following = (named.with_name(f"{stem}-{later}") for later in range(number + 1, MOST))
    for folder in itertools.chain([named], following):
        why_not = _why_not(folder, settings)
        if not why_not and held is not None:
            try:
                held.enter_context(owning(folder, option=f"trainer.default_root_dir={folder}"))
                why_not = _why_not(folder, settings)  # another fit may have begun there before we had the lock
            except FolderInUse:
                why_not = "is in use"
        if not why_not:
            return Choice(folder, _said(folder, reasons))
        reasons.append(f"{folder} {why_not}")
    raise ConfigError(f"trainer.default_root_dir={named}: all of its numbers are taken; choose another folder")


def resumed(named: Path, settings: Mapping[str, object], *, checkpoint: str) -> Choice:
    """The folder of a fit that resumes from a checkpoint. It only looks, so that every rank finds the same.

    Args:
        named: The folder that the configuration names.
        settings: All options of the fit.
        checkpoint: `last`, `best` or a file.
    """
    begun = _begun(named)
    same = [folder for folder in begun if _settings_of(folder) == counted(settings)]
    own = [folder for folder in begun if Path(checkpoint).resolve().is_relative_to(folder.resolve())]
    folder = [*(begun or [named]), *same, *own][-1]
    return Choice(folder, f"resuming in {folder}" if folder != named else "")


def newest_after(named: Path) -> Path | None:
    """The newest fit in the numbered folders, if it is newer than the one in the folder that an evaluation takes."""
    begun = _begun(named)
    return begun[-1] if begun and begun[-1] != named else None


def requeued(named: Path, settings: Mapping[str, object]) -> Choice | None:
    """The folder of a fit whose job was stopped and restarted; None if it had not begun. It only looks."""
    same = [run for run in _begun(named) if _settings_of(run) == counted(settings) and not is_finished(run)]
    return Choice(same[-1], f"resuming in {same[-1]}") if same else None


def counted(settings: Mapping[str, object]) -> dict[str, object]:
    """The options that distinguish runs, by their full names: these may not change on a resume."""
    return {name: value for name, value in flat_options(settings) if value is not None and _counts(name)}


def is_first_process() -> bool:
    """Whether this is the first rank, as far as can be known before the ranks have met."""
    names = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")  # as Lightning looks for it
    rank = next((os.environ[name] for name in names if os.environ.get(name)), "0")
    of_node = os.environ.get("NODE_RANK") or os.environ.get("GROUP_RANK") or "0"
    return rank == "0" and of_node == "0"


def _begun(named: Path) -> list[Path]:
    """The folder and numbered ones that hold a fit, the most recently started last."""
    stem, number = _number(named)
    others = [named, *(path for path in named.parent.glob("*") if _number(path)[0] == stem)]
    begun = [path for path in dict.fromkeys(others) if _number(path)[1] >= number and _is_begun(path)]
    return sorted(begun, key=lambda folder: (folder / "config.yaml").stat().st_mtime_ns)


def _number(folder: Path) -> tuple[str, int]:
    """The name of a folder without its number, and the number."""
    match = re.fullmatch(r"(.+)-(\d{1,4})", folder.name)
    if match and int(match[2]) > 1 and folder.with_name(match[1]).exists():
        return match[1], int(match[2])
    return folder.name, 1


def _why_not(folder: Path, settings: Mapping[str, object]) -> str:
    """Why a new start cannot take a folder; empty if it can."""
    if folder.is_symlink() and not folder.exists():
        return "is a broken link"
    if not folder.exists() or (folder.is_dir() and not is_used(folder, besides=OWNER)):
        return ""
    if not folder.is_dir():
        return "is a file"
    if not _is_begun(folder):
        return "holds something else" if (folder / "config.yaml").exists() else ""
    if is_finished(folder):
        return "holds a finished run"
    return "" if _settings_of(folder) == counted(settings) else "holds a run with other settings"


def is_finished(folder: Path) -> bool:
    """Whether the run of a folder is finished, by its stamp, or by its table if the stamp does not say."""
    try:
        record = read_record(folder)
    except JournalError:
        return False
    if record is None or record.finished is None:
        return (folder / "fit.json").exists()
    return record.finished


def _is_begun(folder: Path) -> bool:
    """Whether a folder holds the settings of a fit."""
    try:
        with (folder / "config.yaml").open(encoding="utf-8") as file:
            return file.read(len(_HEADER)) == _HEADER
    except (OSError, ValueError):
        return False


def _settings_of(folder: Path) -> dict[str, object]:
    """The settings of a run that was begun; empty if they cannot be read."""
    try:
        settings = load_yaml((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return counted(settings) if isinstance(settings, Mapping) else {}


def _said(folder: Path, reasons: list[str]) -> str:
    more = f"; and {len(reasons) - 2} more" if len(reasons) > 2 else ""
    passed = f" ({'; '.join(reasons[:2])}{more})" if reasons else ""
    if _is_begun(folder):
        return f"resuming in {folder}, whose run is not finished{passed}"
    return f"run folder: {folder}{passed}" if reasons else ""


def _counts(name: str) -> bool:
    left_out = name in _NOT_COUNTED or is_noted(name)
    return not left_out and (name in _COUNTED or name.startswith(_SECTIONS))
