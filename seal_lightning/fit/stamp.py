"""What the figures of a fit depend on, in one stamp, without what may change from one start to the next.

The base model counts by its weights and tokenizer, data by their contents and order, wherever they lie. Left out is
what only says where and how long the run goes: `docs/resuming.md` has the list, `tests/fit/test_stamp.py` every option.
"""

from __future__ import annotations

import inspect
import json
import logging
import os
from dataclasses import asdict, replace
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from seal_lightning.data import SEALDataModule
from seal_lightning.errors import SealError
from seal_lightning.fit.base import FitModule, FitTrainer
from seal_lightning.hooks import the_filter
from seal_lightning.records.journal import is_begun
from seal_lightning.stamps.arguments import given_arguments
from seal_lightning.stamps.run import (
    FILE,
    Record,
    Rules,
    compare,
    read_record,
    save_record,
    show_changes,
    to_record,
    without_record,
)
from seal_lightning.stamps.values import code_of, describe, digest, flat, versions
from seal_lightning.types import JsonObject

log = logging.getLogger(__name__)

# How work is batched and shared out: results agree up to rounding, and a run that is short of memory must go on.
NOTED = ("inner_loop.max_adapters", "inner_loop.max_tokens", "answerer.batch_size", "sampler.batch_size")
NOTED += ("evaluation_sampler.batch_size", "tuning.gradient_checkpointing", "m_step.max_length", "trainer.ranks")
NOTED += ("trainer.device",)
TRAINER = ("precision", "gradient_clip_val", "gradient_clip_algorithm", "fast_dev_run", "check_val_every_n_epoch")
TRAINER += ("use_distributed_sampler",)
# As texts: 1 batch is not 1.0, all of them.
LIMITS = ("limit_train_batches", "limit_val_batches", "overfit_batches", "val_check_interval")
MODULE = ("tuning", "m_step", "rubric", "query_writer")
PARTS = ("task", "inner_loop", "grader", "reward", "max_answer_tokens", "answerer", "seed")


def is_noted(key: str) -> bool:
    """Whether a key of a stamp may differ on a resume, and is written down then."""
    return any(key == name or key.endswith(f".{name}") for name in NOTED)


def rules_of(trainer: FitTrainer) -> Rules:
    """What of a run's stamp may change, and which options say so."""
    return Rules(
        folder_option="--trainer.default_root_dir",
        versions_option="--trainer.allow_other_versions true",
        other_versions=trainer.allow_other_versions,
        noted=is_noted,
    )


def fit_stamp(trainer: FitTrainer, module: FitModule) -> JsonObject:
    """The stamp of a fit whose model is loaded and whose data is read."""
    chosen = the_filter(trainer.callbacks)
    selection = {
        name: getattr(callback, name)
        for callback in trainer.callbacks
        if hasattr(callback, "best_round")
        for name in ("monitor", "mode", "include_untrained")
    }
    model = {
        **{name: getattr(module, name) for name in MODULE},
        **{name: getattr(module.e_step, name) for name in PARTS},
        "e_step": module.e_step.plan,
        "evaluation": module.evaluation.plan,
        "sampler": module.e_step.sampler,
        "evaluation_sampler": module.evaluation.sampler,
        "attention": module.source.attention,
        "matmul": module.source.matmul,
        **_own_settings(module),
    }
    of_trainer = {
        **{name: getattr(trainer, name) for name in TRAINER},
        **{name: str(getattr(trainer, name)) for name in LIMITS},
        "accumulate_grad_batches": trainer.given_accumulation,
        "validate_first": trainer.validate_first,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "ranks": trainer.world_size,
        "device": device_name(trainer.strategy.root_device),
    }
    return {
        **flat("model.", describe(model, private=True)),
        **flat("trainer.", describe(of_trainer)),
        **flat("filter.", describe(chosen, private=True)),
        **flat("checkpoint.", selection),
        **flat("data.", _data(trainer.datamodule)),
        **flat("", module.base_stamp),
        "seed_everything": os.environ.get("PL_GLOBAL_SEED"),
        **code_of(model, chosen, type(module), type(module.e_step)),
        **versions(),
    }


def device_name(device: torch.device) -> str:
    """What computes, for the costs in a report: a GPU by the name that its driver gives, or CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()


def _own_settings(module: FitModule) -> dict[str, object]:
    """Settings of a module of the user's own: its class, and the arguments that ours does not have."""
    if type(module).__module__ == "seal_lightning.fit.module":
        return {}
    ours = next(kind for kind in type(module).__mro__ if kind.__name__ == "SEALModule")
    known = inspect.signature(ours.__init__).parameters
    extra = {name: value for name, value in given_arguments(module).items() if name not in known}
    return {"class": type(module), **extra}


def _data(data: SEALDataModule) -> JsonObject:
    splits = {"train": data.train_contexts, "validation": data.validation_contexts, "test": data.test_contexts}
    digests = {
        name: digest([asdict(context) for context in contexts]) if contexts else None
        for name, contexts in splits.items()
    }
    return {**digests, "contexts_per_unit": data.contexts_per_unit}


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Digest of the vocabulary, rules and special tokens; how texts are cut and padded is set by every call."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    content = json.loads(fast.to_str()) if fast is not None else tokenizer.get_vocab()
    rest = {name: value for name, value in content.items() if name not in ("truncation", "padding")}
    return digest([rest, {name: str(token) for name, token in tokenizer.special_tokens_map.items()}])


# -- a start -----------------------------------------------------------------------------------------------------------


def begin_run(trainer: FitTrainer, module: FitModule, *, checkpoint: JsonObject | None) -> Record:
    """The record that this fit goes on with, from that of a `checkpoint` if it resumes; `save_run` writes it.

    A collective.

    Raises:
        StaleJournalError: The folder or the checkpoint was written with other settings.
        JournalError: The record of the folder is damaged.
    """
    stamp, rules, round = json.loads(json.dumps(fit_stamp(trainer, module))), rules_of(trainer), module.rounds_done
    earlier: Record | None = None
    try:
        if trainer.is_global_zero:  # the folder may be on the first rank's node alone
            earlier = read_record(_folder(trainer)) if checkpoint or _was_begun(trainer) else None
        begun = checkpoint is not None or (trainer.is_global_zero and _was_begun(trainer))
        result: Record | SealError = Record(stamp)
        if earlier is not None:
            where = str(_folder(trainer) / FILE)
            result = compare(earlier, stamp, where=where, round=round, rules=rules)
        elif begun and not checkpoint and not rules.other_versions:
            result = without_record(_folder(trainer), rules=rules)
        if checkpoint:
            of_checkpoint = to_record(checkpoint, where="--ckpt_path")
            going_on = compare(of_checkpoint, stamp, where="the checkpoint", round=round, rules=rules)
            result = result if earlier is not None else going_on
    except SealError as error:
        result = error
    first = trainer.processes.ranks.gather(result)[0]
    if isinstance(first, SealError):
        raise first
    module.record_saved = False
    before = len(earlier.changes) if earlier else 0
    if trainer.is_global_zero and (new := first.changes[before:]):
        log.warning("this run goes on with other settings, which are written down: %s", show_changes(new))
    return first


def save_run(trainer: FitTrainer, module: FitModule) -> None:
    """Write the record of a fit before the first line of a journal, once. A collective."""
    if module.record_saved:
        return
    error: SealError | None = None
    if trainer.is_global_zero:
        try:
            save_record(_folder(trainer), replace(module.record, finished=False))
        except SealError as caught:
            error = caught
    if error := trainer.processes.ranks.gather(error)[0]:
        raise error
    module.record_saved = True


def save_finished(run: Path) -> None:
    """Write into the record of a run that it has reached its end, where there is a record."""
    record = read_record(run)
    if record is not None and not record.finished:
        save_record(run, replace(record, finished=True))


def told_changes(run: Path) -> str:
    """What changed in the middle of a run, a line of Markdown; empty where nothing did."""
    record = read_record(run)
    lines = [
        f"from round {change.round + 1} on, {show_changes([change])}" for change in (record.changes if record else ())
    ]
    return f"Settings that changed: {'; '.join(lines)}." if lines else ""


def _folder(trainer: FitTrainer) -> Path:
    return Path(trainer.default_root_dir)


def _was_begun(trainer: FitTrainer) -> bool:
    """Whether the folder holds anything of a fit, which other settings would be mixed with."""
    phases = [f"{phase}-[0-9][0-9][0-9].rank-*.jsonl" for phase in ("train", "validation")]
    checkpoint = trainer.checkpoints / "last.ckpt"
    return checkpoint.exists() or any(is_begun(_folder(trainer) / "journal", pattern) for pattern in phases)
