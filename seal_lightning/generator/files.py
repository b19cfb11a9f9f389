"""A generator as a folder: its weights, the settings that they belong to, and the base model that it reads and changes.

    generator.safetensors   the network's weights by name
    generator.json          class path and arguments, the base model, the task whose texts it reads, digests

A generator is of use with its own base alone, so another one is refused. The folder may be anybody's: its settings are
data, as those of a run are (`options/trust.py`), its weights are safetensors, and both are checked against each other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from seal_lightning import __version__
from seal_lightning.errors import ConfigError, ModelError
from seal_lightning.files.bounded import read_json
from seal_lightning.files.contained import check_regular, contained
from seal_lightning.files.digests import KEY, digests_of
from seal_lightning.files.saving import save_text, whole_files
from seal_lightning.files.served import write_tensors
from seal_lightning.fit.stamp import tokenizer_digest
from seal_lightning.generator.base import Generator, GeneratorNetwork
from seal_lightning.models.finite import check_finite
from seal_lightning.models.loading import fingerprint
from seal_lightning.models.lora import base_named, check_undamaged
from seal_lightning.options.parser import ParserError, PlainParser
from seal_lightning.options.trust import FLAG, also_refused, wishes_of_chosen
from seal_lightning.policy.policy import Policy
from seal_lightning.results.verdict import why_no_policy
from seal_lightning.stamps.settings import NotPlain, plain
from seal_lightning.tasks import Task

WEIGHTS = "generator.safetensors"
SETTINGS = "generator.json"
OPTION = "--generator"


def save_generator(
    network: GeneratorNetwork, folder: Path, *, policy: Policy, base: Mapping[str, str], task: Task | None
) -> None:
    """Write a generator and the tokenizer of its base, each file whole or not at all.

    Args:
        network: The generator.
        folder: Created if missing.
        policy: The base model and its tokenizer.
        base: Digests by which the base is known again, from `base_digests` when it was loaded.
        task: Makes the texts that the generator reads; None where that is not known.

    Raises:
        ConfigError: Its class cannot be imported elsewhere.
        SavingError: The folder cannot be written.
    """
    name, revision = base_named(policy.model)
    try:
        settings: dict[str, Any] = plain(network.settings)
    except NotPlain as error:
        raise ConfigError(
            f"model.generator: {error}, so the generator could not be read again: move it to a module"
        ) from (error)
    content = {
        "version": __version__,
        "generator": settings,
        "base": {"name": name, "revision": revision, **base},
        "layers": {layer: list(sizes) for layer, sizes in network.sizes.items()},
        "task": _plain_or_none(task),
    }
    with whole_files(folder) as aside:
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
        write_tensors(state, aside / WEIGHTS, metadata={"format": "pt"})
        policy.tokenizer.save_pretrained(aside)
        save_text(
            aside / SETTINGS, json.dumps({**content, KEY: digests_of(aside)}, ensure_ascii=False, indent=1) + "\n"
        )


def base_digests(policy: Policy) -> dict[str, str]:
    """The digests of a base model and its tokenizer, as a run's stamp has them."""
    return {"fingerprint": fingerprint(policy.model), "tokenizer": tokenizer_digest(policy.tokenizer)}


def _plain_or_none(task: Task | None) -> object:
    try:
        return plain(task)
    except NotPlain:  # whoever uses the generator has to name it
        return None


# -- reading -----------------------------------------------------------------------------------------------------------


def generator_folder(place: str | Path) -> Path:
    """The folder of a generator: the one that is named, or `policy/` of a run.

    Raises:
        ConfigError: There is none.
    """
    named = Path(place).expanduser()
    for folder in (named, named / "policy"):
        if (folder / SETTINGS).is_file():
            return folder if folder == named else contained(named, "policy", error=ConfigError)
    if reason := why_no_policy(named):
        raise ConfigError(f"{OPTION} {place}: {reason}: name a run with a better generator")
    if any((folder / "adapter_config.json").is_file() for folder in (named, named / "policy")):
        raise ConfigError(
            f"{OPTION} {place}: expected a generator, got a policy that writes texts: give it as --policy"
        )
    raise ConfigError(
        f"{OPTION} {place}: expected a run that trained a generator, or its folder policy, got neither: check the path"
    )


def read_settings(folder: Path) -> Mapping[str, Any]:
    """What `generator.json` says. Raises `ModelError` if that is not what was written there."""
    check_regular(folder, error=ModelError)
    content = read_json(contained(folder, SETTINGS, error=ModelError), error=ModelError)
    kinds = {"generator": Mapping, "base": Mapping, "layers": Mapping, "version": str}
    missing = [name for name, kind in kinds.items() if not isinstance(_of(content, name), kind)]
    if missing:
        raise ModelError(
            f"{folder / SETTINGS}: expected a generator's settings, got none of {missing[0]}: copy it again"
        )
    return content


def load_generator(place: str | Path, policy: Policy, *, trusted: bool = False) -> GeneratorNetwork:
    """The generator of a folder or a run, frozen, on the device of the base model that it is for.

    Args:
        place: A folder with a generator, or a run.
        policy: The base model as it was loaded, and its tokenizer.
        trusted: Whether the folder may name code and paths of its own, which run here.

    Raises:
        ConfigError: There is no generator, or it asks for what only the user may choose.
        ModelError: The generator is damaged, or for another base model.
    """
    folder = generator_folder(place)
    content = read_settings(folder)
    _check_base(folder, content["base"], policy)
    settings = _settings(folder, content["generator"], trusted=trusted)
    check_undamaged(folder)
    network = settings.network(policy.model, seed=0)
    if (wanted := {name: list(sizes) for name, sizes in network.sizes.items()}) != content["layers"]:
        named = {
            name for name in wanted.keys() | content["layers"].keys() if wanted.get(name) != content["layers"].get(name)
        }
        first = min(map(str, named))
        raise ModelError(
            f"{folder / SETTINGS}: layers: expected those of the base model, got others ({first[:80]}): take the base "
            "model and the version of seal-lightning that it was written with"
        )
    network.load_state_dict(_weights(folder, network))
    return network.to(policy.device).eval().requires_grad_(False)


def _of(content: object, name: str) -> object:
    return content.get(name) if isinstance(content, Mapping) else None


def _check_base(folder: Path, base: Mapping[str, object], policy: Policy) -> None:
    """Raises `ModelError` unless a generator's base model is that of the policy."""
    ours = base_digests(policy)
    for part, what in (("fingerprint", "base model"), ("tokenizer", "tokenizer")):
        if base.get(part) != ours[part]:
            revision = f" at {str(base['revision'])[:60]}" if base.get("revision") else ""
            theirs = f"{str(base.get('name'))[:100]}{revision}"
            raise ModelError(
                f"{OPTION} {folder}: expected the {what} that it was trained with ({theirs}), got another "
                f"({base_named(policy.model)[0]}): set model.source"
            )


def _settings(folder: Path, written: Mapping[str, Any], *, trusted: bool) -> Generator:
    """The settings that a folder names.

    Raises:
        ConfigError: They ask for what only the user may choose.
        ModelError: They are not those of a generator.
    """
    if not trusted and (wishes := wishes_of_chosen("generator", written, Generator, run=folder)):
        first = wishes[0]
        raise ConfigError(
            f"{OPTION} {folder}: {first.option}: {first.value} in {SETTINGS} {first.reason}, which it may not choose"
            f"{also_refused(wishes)}: add {FLAG} if you trust whoever made it"
        )
    parser = PlainParser(exit_on_error=False)
    parser.add_subclass_arguments(Generator, "generator", required=True)
    try:
        made = parser.instantiate(parser.parse_object({"generator": dict(written)}))
        return made.generator
    except (ParserError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{folder / SETTINGS}: expected the settings of a generator, got others: {reason}") from error


def _weights(folder: Path, network: GeneratorNetwork) -> dict[str, torch.Tensor]:
    """The weights, with the names and shapes of the network's. Raises `ModelError` if they are others."""
    path = contained(folder, WEIGHTS, error=ModelError)
    try:
        state = load_file(path)
    except (OSError, ValueError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ModelError(f"{path}: expected a generator's weights, got {reason}: copy the folder again") from error
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    got = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if differing := sorted(name for name in expected.keys() | got.keys() if expected.get(name) != got.get(name)):
        name = differing[0]
        raise ModelError(
            f"{path}: {name[:80]}: expected {expected.get(name, 'nothing')} as {SETTINGS} says, got "
            f"{got.get(name, 'nothing')}: copy the folder again"
        )
    check_finite(state, str(path), advice="it has diverged in training or is damaged, take another one")
    return state
