"""Where a base model comes from: its name on the hub and its licence, as its folder or the hub's cache tell.

Cards and adapters name a base by what everybody can load, never by a path of this machine. Nothing here is needed to
run; what cannot be told is left out.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers.utils.hub import cached_file

from seal_lightning.files.bounded import parse_json
from seal_lightning.files.bounded_yaml import load_yaml
from seal_lightning.files.contained import leads_out

log = logging.getLogger(__name__)

CARD = "README.md"
LARGEST = 2_000_000  # bytes of a card that is looked at
FILES = (".gguf", ".bin", ".pt", ".safetensors")  # names that end so are files
# What a training leaves beside its weights: the name in such a folder's configuration is what it started from.
TRAINED = ("training_args.bin", "trainer_state.json", "optimizer.pt", "selection.json", "adaptation.json")


@dataclass(frozen=True, slots=True)
class Origin:
    """A base model as a card names it.

    Attributes:
        name: Name on the hub, or if that is unknown, of the model or its folder.
        on_hub: Whether the name is one on the hub.
        revision: Commit, branch or tag, where it is known.
        licence: As its own card has it, by the identifiers of the hub; None where it is not known.
        licence_name: Name of a licence that the hub does not list.
        licence_link: Address of that licence.
        languages: As its own card has them.
        made_from: Base models that its own card names.
    """

    name: str
    on_hub: bool
    revision: str | None = None
    licence: str | None = None
    licence_name: str | None = None
    licence_link: str | None = None
    languages: tuple[str, ...] = ()
    made_from: tuple[str, ...] = ()


def is_hub_name(name: str) -> bool:
    """Whether a text can be a model's name on the hub, with the account it belongs to.

    >>> is_hub_name("HuggingFaceTB/SmolLM2-135M"), is_hub_name("/models/x"), is_hub_name("random/llama")
    (True, False, False)
    """
    if name.count("/") != 1 or name.startswith((".", "~", "random/")) or name.endswith(FILES):
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def hub_name(model: str, revision: str | None = None) -> tuple[str, str | None] | None:
    """The name on the hub, and the revision, of a model; None if they are not known.

    A folder is known by its place in the hub's cache, by the name that its `config.json` carries, or where its card
    mentions a model on the hub that is called like the folder.

    Args:
        model: A name, or a local folder.
        revision: Revision, if `model` is a name.
    """
    folder = Path(model).expanduser()
    if not folder.exists():
        return (model, revision) if is_hub_name(model) else None
    if not folder.is_dir():
        return None
    if found := _of_cache(folder):
        return found
    if any((folder / name).exists() for name in TRAINED):
        return None
    card = _metadata(folder / CARD)
    carried = _config(folder).get("_name_or_path")
    is_own = isinstance(carried, str) and is_hub_name(carried) and not Path(carried).exists()
    if is_own and carried not in _texts(card.get("base_model")):
        return str(carried), None
    mentioned = [word for word in _names_in(folder) if word.partition("/")[2].lower() == folder.resolve().name.lower()]
    return (mentioned[0], None) if mentioned else None


def origin_of(model: str, revision: str | None = None) -> Origin:
    """What can be told of a base model.

    Args:
        model: A name on the hub, a local folder, or the name of a model that comes with this package.
        revision: Revision, if `model` is a name on the hub.
    """
    found = hub_name(model, revision)
    folder = Path(model).expanduser()
    card = _metadata(folder / CARD) if folder.is_dir() else _cached_card(*found) if found else {}
    name, revision = found or (folder.resolve().name if folder.exists() else model, None)
    licence = card.get("license") or (_config(folder).get("license") if folder.is_dir() else None)
    languages = card.get("language")
    named = ["no" if one is False else one for one in (languages if isinstance(languages, list) else [languages])]
    links = _texts(card.get("license_link"))
    return Origin(
        name=name,
        on_hub=found is not None,
        revision=revision,
        licence=next(iter(_texts(licence)), None),
        licence_name=next(iter(_texts(card.get("license_name"))), None),
        licence_link=next((link for link in links if link.startswith("https://")), None),  # no file beside that card
        languages=tuple(word for word in _texts(named) if len(word) <= 20),  # `no`, Norwegian, is false to YAML
        made_from=tuple(word for word in _texts(card.get("base_model")) if is_hub_name(word)),
    )


def _of_cache(folder: Path) -> tuple[str, str | None] | None:
    """Name and commit of a folder `models--ORG--NAME/snapshots/COMMIT` of the hub's cache, or of a link to one."""
    for place in (folder.absolute(), folder.resolve()):
        repository = place.parent.parent.name
        if place.parent.name == "snapshots" and repository.startswith("models--"):
            name = repository.removeprefix("models--").replace("--", "/", 1)
            return (name, place.name) if is_hub_name(name) or "/" not in name else None
    return None


def _config(folder: Path) -> Mapping[str, object]:
    path = folder / "config.json"
    try:
        content = {} if leads_out(path, folder) else parse_json(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, Mapping) else {}


def _cached_card(name: str, revision: str | None) -> Mapping[str, object]:
    """The metadata of a model's card, from the hub's cache, or from the hub if it may be asked."""
    try:
        path = cached_file(
            name,
            CARD,
            revision=revision,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except (OSError, ValueError) as error:
        log.info("%s: no card to be had (%s)", name, " ".join(str(error).split())[:120])
        return {}
    return _metadata(Path(path)) if path else {}


def _metadata(card: Path) -> Mapping[str, object]:
    """What stands between two lines of three dashes at a card's beginning, read within bounds."""
    lines = [line.rstrip() for line in _text(card).lstrip("\ufeff\n ").split("\n")]
    if lines[0] != "---" or "---" not in lines[1:]:
        return {}
    try:
        found = load_yaml("\n".join(lines[1 : lines.index("---", 1)]))
    except (ValueError, yaml.YAMLError) as error:
        log.info("%s: its metadata cannot be read (%s)", card, " ".join(str(error).split())[:120])
        return {}
    return found if isinstance(found, Mapping) else {}


def _text(card: Path) -> str:
    try:
        if not card.is_file() or leads_out(card, card.parent) or card.stat().st_size > LARGEST:
            return ""
        return card.read_text(encoding="utf-8", errors="replace").replace("\r\n", "\n")
    except OSError:
        return ""


def _names_in(folder: Path) -> list[str]:
    """Models on the hub that the card in a folder mentions, those of quoted code and of addresses among them."""
    text = _text(folder / CARD)
    for separator in "\"'`()[]<>,;":
        text = text.replace(separator, " ")
    words = [word.removeprefix("https://huggingface.co/") for word in text.split() if "/" in word]
    return [name for word in words if is_hub_name(name := "/".join(word.split("/")[:2]).rstrip(".:"))]


def _texts(value: object) -> list[str]:
    """A text or a list of texts as a list, without anything but single lines of text."""
    values = value if isinstance(value, list) else [value]
    return [one.strip() for one in values if isinstance(one, str) and one.strip().isprintable() and one.strip()]
