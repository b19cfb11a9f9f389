"""What a library is asked with: base model, task and adapters, read as data from a folder that may be anybody's.

Settings choose no code, server or path beyond the base model's folder, unless they are trusted. Adapters are numbers
and names (`models/lora_files.py`); one that is damaged, retired or not ready is refused by name.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from seal_lightning.errors import ConfigError, DataError, ModelError
from seal_lightning.files.contained import contained
from seal_lightning.library.manifest import MANIFEST, LibraryEntry, Manifest, read_document
from seal_lightning.models.loading import fingerprint
from seal_lightning.models.lora import CONFIG, LoRA, check_fits, check_undamaged, stack
from seal_lightning.models.lora_files import read_lora
from seal_lightning.models.source import ModelSource
from seal_lightning.options.parser import ParserError, PlainParser
from seal_lightning.options.trust import FLAG, also_refused, wishes
from seal_lightning.policy.loading import Device, load_policy
from seal_lightning.policy.policy import Policy
from seal_lightning.tasks import Task
from seal_lightning.types import Context

log = logging.getLogger(__name__)

BASE = "source.name"  # a library's base may lie in any folder of this machine: of that only weights are read


@dataclass(frozen=True)
class AskedWith:
    """How the documents' queries were asked when the adapters were made.

    Attributes:
        source: The base model.
        task: Asks and reads.
        max_answer_tokens: Longest answer.
        policy: The run or PEFT folder whose change every adapter contains; None for none.
    """

    source: ModelSource
    task: Task
    max_answer_tokens: int
    policy: str | None = None


def read_asked_with(
    folder: Path, manifest: Manifest, *, base: str | None = None, task: Task | None = None, trusted: bool = False
) -> AskedWith:
    """What a manifest says about asking.

    Args:
        folder: The library.
        manifest: Its manifest.
        base: A base model in place of the one that it names.
        task: A task in place of the one that it names.
        trusted: Whether it may name classes, code and paths of its own, which run here.

    Raises:
        ConfigError: The manifest asks for what only the user may choose.
        DataError: The manifest lacks something, or has another form.
    """
    given = {name: manifest.asked_with.get(name) for name in ("source", "task", "max_answer_tokens", "policy")}
    source, written, most = given["source"], given["task"], given["max_answer_tokens"]
    where = folder / MANIFEST
    if task is not None:  # that of the manifest is not looked at
        written = {"class_path": "seal_lightning.Knowledge"}
    if written is None:
        raise ConfigError(
            f"{where}: expected a task that can be imported, got a class of a script: in Python, "
            "Library.open(folder, task=...) takes it"
        )
    if not isinstance(source, Mapping) or not isinstance(written, Mapping) or type(most) is not int or most < 1:
        raise DataError(
            f"{where}: asked_with: expected source, task and max_answer_tokens, got others: run seal adapt again"
        )
    named = {"source": {**source, **({"name": base} if base else {})}, "task": written}
    wished = [wish for wish in wishes(named, AskedWith, run=folder) if not wish.option.endswith(BASE)]
    if wished and not trusted:
        first = wished[0]
        raise ConfigError(
            f"{where}: {first.option.removeprefix('model.')}: {first.value} {first.reason}, which a library may not "
            f"choose{also_refused(wished)}: add {FLAG} if you trust whoever made it"
        )
    policy = given["policy"]
    settings = {**named, "max_answer_tokens": most, "policy": policy if isinstance(policy, str) else None}
    made = _made(where, settings)
    return made if task is None else replace(made, task=task)


def _made(where: Path, settings: Mapping[str, object]) -> AskedWith:
    parser = PlainParser(exit_on_error=False)
    parser.add_class_arguments(AskedWith, "asked_with")
    try:
        made = parser.instantiate(parser.parse_object({"asked_with": dict(settings)})).asked_with
    except (ParserError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{where}: asked_with: expected settings of this version, got others: {reason}") from error
    assert isinstance(made, AskedWith)
    return made


def load_base(folder: Path, manifest: Manifest, asked_with: AskedWith, device: Device) -> Policy:
    """The policy without any document's adapter, as the adapters were trained on it.

    If the folder of a policy (`--policy`) is gone, that is the base model, and adapters still contain the policy.

    Raises:
        ConfigError: The device does not exist.
        ModelError: The base model cannot be loaded, or is another.
    """
    try:
        policy = load_policy(asked_with.source, asked_with.policy, device)
    except ConfigError as error:
        if asked_with.policy is None:
            raise
        log.warning("%s; its adapters contain it, and without an adapter the base model answers instead", error)
        return load_policy(asked_with.source, None, device)
    if fingerprint(policy.model) != manifest.base.fingerprint:
        raise ModelError(
            f"{folder / MANIFEST}: expected the base model that its adapters were trained on "
            f"({manifest.base.name}), got another ({asked_with.source.name}): name it with --base"
        )
    return policy


def contexts_of(folder: Path, entries: Sequence[LibraryEntry]) -> list[Context]:
    """The documents of some entries, with their texts."""
    stored = [read_document(folder, entry.text) for entry in entries]
    return [Context(entry.id, one.title, one.text, one.queries) for entry, one in zip(entries, stored, strict=True)]


# -- adapters ----------------------------------------------------------------------------------------------------------


def read_adapter(folder: Path, adapter: str, policy: Policy) -> LoRA:
    """An adapter of a library, as a change of the policy: what the policy has learnt itself is taken out of it again.

    Raises:
        ModelError: The adapter is damaged, or for another base.
    """
    lora, learned = read_lora(contained(folder, adapter)), policy.learned()
    try:
        check_fits(policy.model, lora)
    except ModelError as error:
        raise ModelError(f"{folder / adapter}: {error}") from error
    return stack([lora, LoRA(learned.state, -learned.scale)]) if learned else lora


def combined(loras: Sequence[LoRA], weights: Sequence[float]) -> LoRA:
    """One LoRA whose change is the weighted sum of several, exactly: their ranks stand side by side.

    >>> combined([], [])
    Traceback (most recent call last):
    ValueError: expected adapters to combine, got none
    """
    if not loras:
        raise ValueError("expected adapters to combine, got none")
    if len(loras) == 1 and weights[0] == 1:
        return loras[0]
    return stack([LoRA(lora.state, weight * lora.scale) for lora, weight in zip(loras, weights, strict=True)])


def is_whole(folder: Path, adapter: str) -> bool:
    """Whether what a library calls an adapter is a whole model, all of whose weights were trained."""
    return not (folder / adapter / CONFIG).is_file() and (folder / adapter / "config.json").is_file()


def load_whole(folder: Path, adapter: str, asked_with: AskedWith, device: Device) -> Policy:
    """The model of a library all of whose weights were trained. Raises `ModelError` if it is damaged."""
    place = contained(folder, adapter)
    check_undamaged(place)
    return load_policy(replace(asked_with.source, name=str(place), revision=None, gguf_file=None), None, device)
