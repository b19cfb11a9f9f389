"""Load the policy's base model and tokenizer: a hub name, a local folder, or a tiny model with random weights.

`random/<family>` builds a model of a few thousand parameters on the spot (see `random_models.py`), for trying
configurations without a download. Safe by default: safetensors only, no remote code unless asked for.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.hub import cached_file
from transformers.utils.peft_utils import find_adapter_config_file

from seal_lightning.errors import ConfigError, ModelError
from seal_lightning.files.bounded_yaml import load_yaml
from seal_lightning.models.chat import ChatTemplate, chosen_template, read_template, stop_ids
from seal_lightning.models.checkpoints import FOLDER, attentions_of, explained, read_checkpoint, read_model_config
from seal_lightning.models.finite import check_finite
from seal_lightning.models.layers import parts_without_adapter
from seal_lightning.models.lora import CONFIG, WEIGHTS, carried, carry, note_base
from seal_lightning.models.lora_files import base_of, read_lora
from seal_lightning.models.origins import hub_name, is_hub_name
from seal_lightning.models.precision import sparing_float32
from seal_lightning.models.random_models import build_tiny
from seal_lightning.models.source import ModelSource

log = logging.getLogger(__name__)

LAB = Path(__file__).parents[1] / "lab" / "weights"
SHIPPED = {"lab": LAB, "lab-grids": LAB.parent / "grids" / "weights"}


def load_model(source: ModelSource, *, adapter: bool = True) -> tuple[Any, Any, ChatTemplate | Literal[False]]:
    """Load (model, tokenizer, chat) as `source` says; the model is on the CPU and its tokenizer has a pad token.

    The third is what `Policy` takes: the chat template, tried out, or False for plain prompts. Quantised weights are
    where transformers puts them, on a GPU if there is one.

    Args:
        source: The model to load.
        adapter: Whether to load the adapter of a PEFT folder, or only its base and tokenizer.

    Raises:
        ModelError: The name is neither a folder nor on the hub (or cache), weights or tokenizer are missing, the chat
            template was asked for but is missing, or it cannot be used.
    """
    if source.matmul is not None:
        torch.set_float32_matmul_precision(source.matmul)
    model, tokenizer = _read(source, adapter)
    check_finite(
        dict(model.named_parameters()),
        f"model.source.name={source.name}",
        advice="the weights are damaged, or too large for model.source.dtype; load others, or try float32",
    )
    for reason, names in parts_without_adapter(model).items():
        log.warning("%s: no adapter for %d parts, %s (first: %s)", source.name, len(names), reason, names[0])
    if tokenizer.pad_token_id is None:  # padding is always masked, so any token will do
        if tokenizer.eos_token_id is None:
            raise ModelError(
                f"model.source.name={source.name}: the tokenizer has neither a pad nor an EOS token; set one"
            )
        tokenizer.pad_token = tokenizer.eos_token
    if wrong := [token for token in stop_ids(model, tokenizer) if type(token) is not int]:
        raise ModelError(
            f"model.source.name={source.name}: eos_token_id: expected token ids, got {wrong[0]!r:.40}; repair its "
            "generation_config.json"
        )
    return model, tokenizer, _chat(source, model, tokenizer) or False


def check_source(source: ModelSource) -> None:
    """Whether there is such a model, as far as its configuration tells; no weights are read. Raises as `load_model`."""
    if source.name.startswith("random/"):
        _random(source)
    elif source.name not in SHIPPED and adapter_folder(source.name, source.revision) is None:
        read_model_config(_with_file(source))


def _chat(source: ModelSource, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> ChatTemplate | None:
    """The chat template, if prompts go through it."""
    has_template = getattr(tokenizer, "chat_template", None) is not None
    if source.chat is True and not has_template:
        raise ModelError(
            f"model.source.chat=true, but the tokenizer of {source.name} has no chat template; set it to false"
        )
    template = None
    if source.chat is not False and has_template:
        template = read_template(tokenizer, name=source.name, args=source.template_args, date=source.date)
        if source.chat == "auto":
            template = chosen_template(template, model, name=source.name)
    if template is None and source.template_args:
        if not has_template:
            raise ModelError(f"model.source.template_args has no use: {source.name} has no chat template; leave it out")
        raise ModelError(
            f"model.source.template_args has no use: prompts of {source.name} are plain; leave it out, or set "
            "model.source.chat=true"
        )
    return template


def _read(
    source: ModelSource, adapter: bool, met: tuple[Path, ...] = ()
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer; `met` are the PEFT folders that stand on it."""
    if source.name.startswith("random/"):
        return _random(source)
    place = str(SHIPPED.get(source.name, source.name))
    here = _with_file(replace(source, name=place))
    peft = None if here.gguf_file else adapter_folder(here.name, here.revision)
    model, tokenizer = read_checkpoint(here) if peft is None else _adapted(here, peft, adapter, met)
    if known := (source.name, None) if source.name in SHIPPED else hub_name(place, source.revision):
        note_base(model, *known)  # a PEFT folder's own base comes first
    return model, tokenizer


def _random(source: ModelSource) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    for option in ("quantization", "gguf_file"):
        if getattr(source, option) is not None:
            raise ConfigError(
                f"model.source.{option}={getattr(source, option)}: {source.name} is made on the spot and not read from "
                "files; leave it out"
            )
    model, tokenizer = build_tiny(source.name.removeprefix("random/"), seed=source.seed, chat=source.chat is True)
    if source.attention is not None:
        with explained(source, "weights", attentions=attentions_of(type(model))):
            model.set_attn_implementation(source.attention)
    with sparing_float32(model):
        return model.to(torch.float32 if source.dtype == "auto" else getattr(torch, source.dtype)), tokenizer


def _with_file(source: ModelSource) -> ModelSource:
    """The folder and the file of it where the name is the path of a GGUF file."""
    path = Path(source.name)
    named = path.suffix == ".gguf" and path.is_file()
    return replace(source, name=str(path.parent), gguf_file=path.name) if named else source


def adapter_folder(name: str, revision: str | None) -> Path | None:
    """The folder of the adapter that a name stands for; None if the name is a whole model's."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        whole = (folder / "config.json").is_file()
        return folder if (folder / CONFIG).is_file() and not whole else None
    if name.startswith((".", "/", "~")):
        return None
    try:
        config = find_adapter_config_file(name, revision=revision)
    except (OSError, ValueError):
        return None  # loading the model says what is wrong
    if config is None:
        return None
    with explained(ModelSource(name=name, revision=revision), "adapter"):
        return Path(str(cached_file(name, WEIGHTS, revision=revision))).parent


def _adapted(
    source: ModelSource, folder: Path, adapter: bool, met: tuple[Path, ...]
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The base of a PEFT folder with its adapter, and the folder's own tokenizer if it has one."""
    lora = read_lora(folder)
    base = _base_of(source, folder, met)
    if source.trust_remote_code:
        raise ModelError(
            f"model.source.trust_remote_code=true: expected the model whose code you have read, got {source.name}, an "
            f"adapter that names another ({base.name}): give that as model.source.name, and the adapter with --policy"
        )
    model, tokenizer = _read(base, adapter, (*met, folder.resolve()))
    own = any(any(folder.glob(pattern)) for pattern in FOLDER["tokenizer"])
    if own:
        with explained(source, "tokenizer"):
            tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    known = model.get_input_embeddings().get_parameter("weight").shape[0]
    if len(tokenizer) > known:
        raise ModelError(
            f"model.source.name={source.name}: its tokenizer has {len(tokenizer)} tokens and {base.name} knows "
            f"{known}: merge the adapter into its base with peft"
        )
    if not adapter:
        return model, tokenizer
    try:
        carry(model, lora)
    except ModelError as error:
        raise ModelError(f"model.source.name={source.name}: {error}") from error
    log.warning(
        "%s is a LoRA of rank %d for %s: both are loaded, with the %s's tokenizer; what is exported is for that base "
        "and contains this LoRA", source.name, lora.rank, base.name, "adapter" if own else "base",
    )  # fmt: skip
    return model, tokenizer


def _base_of(source: ModelSource, folder: Path, met: tuple[Path, ...]) -> ModelSource:
    if folder.resolve() in met:
        raise ModelError(
            f"model.source.name={source.name}: expected an adapter on a model, got adapters that name one another as "
            f"their base: repair base_model_name_or_path in {folder / CONFIG}"
        )
    name, revision = base_of(folder)
    if not name:
        raise ModelError(
            f"model.source.name={source.name}: its {CONFIG} names no base model (base_model_name_or_path); "
            "write it there"
        )
    near = folder / name  # a relative path may be meant from where the adapter lies
    name = str(near) if near.is_dir() and not Path(name).is_dir() else name
    if here := _trained_on(folder, name):
        return replace(source, name=here, revision=None)
    return replace(source, name=name, revision=revision)


def _trained_on(folder: Path, name: str) -> str | None:
    """The local folder of the base that a run was made on, if the adapter names the base as the hub does.

    The run's `config.yaml` says where it lies: beside `policy/`, or above `adapters/NAME/`.
    """
    if not is_hub_name(name) or Path(name).is_dir():
        return None
    for run in (folder.absolute().parent, folder.absolute().parent.parent):
        path = run / "config.yaml"
        try:
            found = load_yaml(path.read_text(encoding="utf-8"))["model"]["source"]["name"]
            if isinstance(found, str) and Path(found).expanduser().is_dir() and (hub_name(found) or ("",))[0] == name:
                return found
        except (OSError, ValueError, LookupError, TypeError, yaml.YAMLError):
            continue
    return None


def base_name(source: ModelSource, met: tuple[Path, ...] = ()) -> str:
    """The base that adapters made on this source are for: its own name, or its base's if it is a PEFT folder."""
    source = _with_file(source)
    if source.name in SHIPPED or source.name.startswith("random/") or source.gguf_file:
        return source.name
    peft = adapter_folder(source.name, source.revision)
    return source.name if peft is None else base_name(_base_of(source, peft, met), (*met, peft.resolve()))


def fingerprint(model: PreTrainedModel) -> str:
    """A digest of architecture and a sample of every weight: tells base models apart in an instant."""
    digest = hashlib.blake2b(json.dumps(type(model).__name__).encode(), digest_size=12)
    for name, parameter in model.named_parameters():
        flat = parameter.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // 64)][:64].float().cpu()
        digest.update(f"{name}{tuple(parameter.shape)}{parameter.dtype}".encode())
        digest.update(sample.numpy().tobytes())
    if (adapter := carried(model)) is not None:  # where weights are quantised it is not in them
        for name, tensor in sorted(adapter.state.items()):
            digest.update(name.encode() + tensor.float().contiguous().numpy().tobytes())
    return digest.hexdigest()
