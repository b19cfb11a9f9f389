"""Which folder a fit takes: the one that its configuration names, or the same with a number, so that runs never mix.

    not there, empty, or without a run   that one
    a run that is not finished           that one, where the settings are the same: it goes on from its journal
    anything else                        the next number: runs/smollm2, runs/smollm2-2, runs/smollm2-3

With `--ckpt_path`, and in a job that SLURM requeued, the newest of them with the same settings goes on. A folder that
the command line names is taken as it is. Two fits that start at once take two folders, by the locks of `ownership`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
# What belongs to a run besides model, data and filter; of the others, docs/resuming.md says that they may change.
_OF_TRAINER = {f"trainer.{name}" for name in (*TRAINER, *LIMITS, "accumulate_grad_batches", "validate_first")}
_COUNTED = {*_OF_TRAINER, "trainer.deterministic", "seed_everything", "checkpoint.monitor", "checkpoint.mode"}
_SECTIONS = ("model.", "data.", "filter.")
_NOT_COUNTED = {"model.predict", "model.answer_batch", "model.source.trust_remote_code", "data.predict"}


@dataclass(frozen=True, slots=True)
class Choice:
    """The folder of a fit, and why it is not simply the one that is named; empty where it is."""

    folder: Path
    reason: str = ""


def new_start(named: Path, settings: Mapping[str, Any], held: ExitStack | None) -> Choice:
    """The folder of a fit that resumes from no checkpoint; nobody else has it until `held` is left.

    Args:
        named: By the configuration.
        settings: All options of the fit, as its `config.yaml` has them.
        held: Gets the lock of the folder; None on other ranks than the first, which look only.

    Raises:
        ConfigError: The folder cannot be made, or all of its numbers are taken.
        SavingError: The disk is full.
    """
    reasons = []
    for folder in _candidates(named):
        why_not = _why_not(folder, settings)
        if not why_not and held is not None:
            try:
                held.enter_context(owning(folder, option=f"trainer.default_root_dir={folder}"))
                why_not = _why_not(folder, settings)  # another fit may have begun there before the lock was ours
            except FolderInUse:
                why_not = "is in use"
        if not why_not:
            return Choice(folder, _said(folder, reasons))
        reasons.append(f"{folder} {why_not}")
    raise ConfigError(f"trainer.default_root_dir={named}: all of its numbers are taken; choose another folder")


def resumed(named: Path, settings: Mapping[str, Any], *, checkpoint: str) -> Choice:
    """The folder of a fit that resumes from a checkpoint. It looks only, so that every rank finds the same.

    Args:
        named: By the configuration.
        settings: All options of the fit.
        checkpoint: `last`, `best` or a file.
    """
    begun = _begun(named)
    same = [folder for folder in begun if _settings_of(folder) == counted(settings)]
    own = [folder for folder in begun if Path(checkpoint).resolve().is_relative_to(folder.resolve())]
    folder = [*(begun or [named]), *same, *own][-1]
    return Choice(folder, f"going on in {folder}" if folder != named else "")


def newest_after(named: Path) -> Path | None:
    """The newest fit in the folders of other numbers, where it was started after that in the folder itself; else None.

    Args:
        named: The folder that an evaluation takes.
    """
    begun = _begun(named)
    return begun[-1] if begun and begun[-1] != named else None


def requeued(named: Path, settings: Mapping[str, Any]) -> Choice | None:
    """The folder of a fit whose job was stopped and started again; None where it had not begun. It looks only."""
    same = [one for one in _begun(named) if _settings_of(one) == counted(settings) and not is_finished(one)]
    return Choice(same[-1], f"going on in {same[-1]}") if same else None


def counted(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The options that tell one run from another, by their full names: what may not change on a resume."""
    options = {name: value for name, value in flat_options(settings) if _counts(name)}
    return {name: value for name, value in options.items() if value is not None}


def is_first_process() -> bool:
    """Whether this is the first rank, as far as one can tell before the ranks have met."""
    names = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")  # as Lightning looks for it
    rank = next((os.environ[name] for name in names if os.environ.get(name)), "0")
    of_node = os.environ.get("NODE_RANK") or os.environ.get("GROUP_RANK") or "0"
    return rank == "0" and of_node == "0"


# -- folders -----------------------------------------------------------------------------------------------------------


def _candidates(named: Path) -> Iterator[Path]:
    """The folder and those with the next numbers behind its name."""
    stem, number = _number(named)
    yield named
    for one in range(number + 1, MOST):
        yield named.with_name(f"{stem}-{one}")


def _begun(named: Path) -> list[Path]:
    """The folder and those of other numbers that hold a fit, the last to be started last."""
    stem, number = _number(named)
    others = [named, *(path for path in named.parent.glob("*") if _number(path)[0] == stem)]
    begun = [path for path in dict.fromkeys(others) if _number(path)[1] >= number and _is_begun(path)]
    return sorted(begun, key=lambda folder: (folder / "config.yaml").stat().st_mtime_ns)


def _number(folder: Path) -> tuple[str, int]:
    """The name of a folder without its number, and that."""
    found = re.fullmatch(r"(.+)-(\d{1,4})", folder.name)
    if found and int(found[2]) > 1 and folder.with_name(found[1]).exists():
        return found[1], int(found[2])
    return folder.name, 1


def _why_not(folder: Path, settings: Mapping[str, Any]) -> str:
    """Why a new start does not take a folder; empty where it can."""
    if folder.is_symlink() and not folder.exists():
        return "leads nowhere"
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
    """Whether the run of a folder has reached its end, by its stamp; one of an earlier version, by its table."""
    try:
        record = read_record(folder)
    except JournalError:
        return False
    if record is None or record.finished is None:
        return (folder / "fit.json").exists()
    return record.finished


def _is_begun(folder: Path) -> bool:
    """Whether a folder has the settings of a fit."""
    try:
        with (folder / "config.yaml").open(encoding="utf-8") as file:
            return file.read(len(_HEADER)) == _HEADER
    except (OSError, ValueError):
        return False


def _settings_of(folder: Path) -> dict[str, Any]:
    """Of a run that was begun; empty where they cannot be read."""
    try:
        found = load_yaml((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return counted(found) if isinstance(found, Mapping) else {}


def _said(folder: Path, reasons: list[str]) -> str:
    more = f"; and {len(reasons) - 2} more" if len(reasons) > 2 else ""
    passed = f" ({'; '.join(reasons[:2])}{more})" if reasons else ""
    if _is_begun(folder):
        return f"going on in {folder}, whose run is not finished{passed}"
    return f"run folder: {folder}{passed}" if reasons else ""


def _counts(name: str) -> bool:
    if name in _NOT_COUNTED or is_noted(name):
        return False
    return name in _COUNTED or name.startswith(_SECTIONS)
