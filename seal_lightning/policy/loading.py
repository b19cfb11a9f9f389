"""A frozen policy to work with outside a trainer: a base model with what a run or a PEFT folder adds, on its device."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from seal_lightning.errors import ConfigError, ModelError
from seal_lightning.files.contained import contained
from seal_lightning.models.loading import load_model
from seal_lightning.models.lora import carried, merge_lora, stack
from seal_lightning.models.lora_files import base_of, read_lora
from seal_lightning.models.source import ModelSource
from seal_lightning.policy.policy import Policy
from seal_lightning.processes.cores import TINY
from seal_lightning.results.verdict import why_no_policy

Device = Literal["auto", "cpu", "cuda"]


def load_policy(source: ModelSource, policy: str | None, device: Device) -> Policy:
    """The frozen policy on its device: the base model, with a PEFT folder or a run's policy merged in.

    A tiny one gets a single CPU thread, because several only get in each other's way.

    Raises:
        ConfigError: The folder or the device does not exist.
        ModelError: Base and adapter cannot be loaded, or do not fit together.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: expected a GPU that torch can use, got none: use cpu or auto")
    folder = _policy_folder(policy) if policy else None
    # unless it says otherwise, a policy belongs to the bare base and contains what the run's source added to that
    above = folder is None or base_of(folder)[0] == source.name
    model, tokenizer, chat = load_model(source, adapter=above)
    learned = carried(model)
    if folder is not None:
        lora = read_lora(folder)
        try:
            merge_lora(model, lora)
        except ModelError as error:
            raise ModelError(f"--policy {policy}: {error}") from error
        learned = stack([learned, lora]) if learned else lora
    at = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    if at == "cpu" and sum(parameter.numel() for parameter in model.parameters()) < TINY:
        torch.set_num_threads(1)
    return Policy(model.to(at).eval().requires_grad_(False), tokenizer, chat, learned=lambda: learned)


def _policy_folder(policy: str) -> Path:
    folder = Path(policy).expanduser()
    places = [place for place in (folder, folder / "policy") if (place / "adapter_config.json").is_file()]
    if any((place / "generator.json").is_file() for place in (folder, folder / "policy")):
        raise ConfigError(
            f"--policy {policy}: expected a policy that writes texts, got a generator, which writes adapters: seal "
            "adapt takes it as --generator"
        )
    if not places and (reason := why_no_policy(folder)):
        raise ConfigError(
            f"--policy {policy}: {reason}: name a run with a better policy, or leave --policy out for the base model"
        )
    if not places:
        raise ConfigError(
            f"--policy {policy}: expected a run of seal fit with a policy, or a PEFT folder, got none: name the run's "
            "folder, or give whole weights as model.source.name"
        )
    return places[0] if places[0] == folder else contained(folder, "policy", error=ConfigError)
