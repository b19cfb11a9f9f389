"""Skill vectors: what a run's M-step has learnt, added to adapters that were trained without it (`--skill`).

A run of `seal fit` that trains a LoRA leaves the difference between its policy and the base in `policy/`. Documents are
learnt on the plain base, and then the difference, times a scale, is added to each adapter; a LoRA holds both exactly.
The idea is PaST's (arXiv 2601.11258). Whole weights are not read: their difference is as large as the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from seal_lightning.commands.adapt.jobs import Answers, Skill
from seal_lightning.commands.adapt.verdict import points_between
from seal_lightning.errors import ConfigError, JournalError, ModelError
from seal_lightning.files.digests import digests_of
from seal_lightning.inner_loop.bank import bank_lora
from seal_lightning.inner_loop.loop import TrainedBank
from seal_lightning.inner_loop.lora_bank import lora_bank
from seal_lightning.models.loading import fingerprint
from seal_lightning.models.lora import CONFIG, LoRA, base_named, carried, check_fits, stack
from seal_lightning.models.lora_files import base_of, read_lora
from seal_lightning.policy.policy import Policy
from seal_lightning.results.verdict import why_no_policy
from seal_lightning.stamps.run import read_record
from seal_lightning.stamps.values import digest

OPTION = "--skill"


def read_skill(named: str, scale: float, policy: Policy) -> Skill:
    """The skill vector of a run, or of a PEFT folder for the same base.

    Raises:
        ConfigError: There is no LoRA.
        ModelError: The LoRA is damaged, or for another base or shape.
    """
    folder = _skill_folder(named)
    _check_base(named, folder, policy)
    lora, model = read_lora(folder), policy.model
    if (before := carried(model)) is not None:  # what a run exports contains the adapter of its source
        lora = stack([lora, LoRA(before.state, -before.scale)])
    try:
        check_fits(model, lora)
    except ModelError as error:
        raise ModelError(f"{OPTION} {named}: {error}") from error
    scaled = LoRA(lora.state, scale * lora.scale)
    return Skill(_run_of(folder).resolve().name, scaled, scale, digest([digests_of(folder), scale]))


def _skill_folder(named: str) -> Path:
    folder = Path(named).expanduser()
    for place in (folder, folder / "policy"):
        if (place / CONFIG).is_file():
            return place
    if any((folder / part / "config.json").is_file() for part in ("", "policy")):
        raise ConfigError(
            f"{OPTION} {named}: expected the LoRA of a policy, got whole weights, whose difference from their base is "
            "as large as the model: take a run with model.tuning.method=lora"
        )
    if reason := why_no_policy(folder):
        raise ConfigError(f"{OPTION} {named}: {reason}: name a run with a better policy, or leave {OPTION} out")
    raise ConfigError(
        f"{OPTION} {named}: expected a run of seal fit with a policy, or a PEFT folder, got none: name the run's folder"
    )


def _run_of(folder: Path) -> Path:
    return folder.resolve().parent if folder.name == "policy" else folder


def _check_base(named: str, folder: Path, policy: Policy) -> None:
    """Raises `ModelError` unless a vector's base is the policy's: by the run's record, else by name."""
    try:
        record = read_record(_run_of(folder))
    except JournalError:
        record = None
    theirs, ours = record.stamp.get("base") if record else None, fingerprint(policy.model)
    if theirs is None:
        theirs, ours = base_of(folder)[0], base_named(policy.model)[0]
    if theirs != ours:
        raise ModelError(
            f"{OPTION} {named}: expected the base model that the policy was trained on "
            f"({str(base_of(folder)[0])[:100]}), got another ({base_named(policy.model)[0]}): set model.source"
        )


def with_skill(trained: TrainedBank, skill: Skill, policy: Policy) -> TrainedBank:
    """The same adapters with a skill vector added, exactly; one that has diverged stays as it is."""
    loras = [bank_lora(trained.bank, job) for job in range(len(trained.stats))]
    return replace(trained, bank=lora_bank(policy.model, [stack([lora, skill.lora]) for lora in loras]), states=())


def compared(skill: Skill, alone: Sequence[Answers], after: Answers) -> str:
    """What a skill vector did to the answers of some adapters; empty where nothing was asked."""
    without = {name: answered for answers in alone for name, answered in answers.items() if name in after}
    if not without:
        return f"with {skill.said}"
    return f"with {skill.said}: {points_between(without, after, list(without))} against the adapters alone"
