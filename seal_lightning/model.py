"""Load the policy's base model and tokenizer: a hub name, a local folder, or a tiny model with random weights.

`random/<family>` builds a model of a few thousand parameters on the spot (see `tiny.py`), for trying configurations
without a download. Safe by default: safetensors only, no remote code unless asked for.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from seal_lightning.chat import DATE, ChatTemplate, chosen_template, read_template
from seal_lightning.errors import ConfigError, ModelError
from seal_lightning.tiny import build_tiny

EXPECTED = "a hub name, a folder with config.json, tokenizer and *.safetensors, lab, lab-grids, or random/llama"
LAB = Path(__file__).parent / "lab" / "weights"
SHIPPED = {"lab": LAB, "lab-grids": LAB.parent / "grids" / "weights"}
FOLDER = {
    "configuration": ("config.json",),
    "weights": ("*.safetensors",),
    "tokenizer": ("tokenizer*", "vocab*", "*.model"),
}
Dtype = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class ModelSource:
    """Which causal language model to start from.

    Args:
        name: Hub name, local folder, `lab` or `lab-grids` for the small models that come with this package
            (docs/lab.md, docs/arc.md), or `random/llama` (also gpt2, gpt_neox, qwen2, qwen3, gemma) for random weights.
        dtype: Of the base weights; `auto` takes the checkpoint's own. Adapters are float32 in any case.
        chat: Whether prompts go through the tokenizer's chat template; `auto` uses it where the model stops at the
            token with which the template ends a turn: instruct models do, base models that carry a template do not.
        template_args: What the chat template is given beside the messages, by name, such as `enable_thinking: true`.
            Switches for thinking are off where nothing is said here.
        date: "Today" for chat templates that tell it, as YYYY-MM-DD; fixed, so that a run reads the same on any day.
        revision: Branch, tag or commit of a hub model.
        attention: Attention implementation of transformers (`sdpa`, `eager`, `flash_attention_2`, ...); its own choice
            for the model where unset.
        trust_remote_code: Run Python code that a hub repository carries. Leave off unless you have read that code.
        seed: Of the random weights of `random/...`.
    """

    name: str = "HuggingFaceTB/SmolLM2-135M-Instruct"
    dtype: Dtype = "auto"
    chat: bool | Literal["auto"] = "auto"
    template_args: dict[str, Any] = field(default_factory=dict)
    date: str = DATE
    revision: str | None = None
    attention: str | None = None
    trust_remote_code: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        try:
            datetime.date.fromisoformat(self.date)
        except (TypeError, ValueError):
            raise ConfigError(f"model.source.date must be a day as YYYY-MM-DD, got {self.date!r}: try {DATE}") from None


def load_model(source: ModelSource) -> tuple[Any, Any, ChatTemplate | Literal[False]]:
    """Load (model, tokenizer, chat) as `source` says; the model is on the CPU and its tokenizer has a pad token.

    The third is what `Policy` takes: the chat template, tried out, or False for plain prompts.

    Raises:
        ModelError: The name is neither a folder nor on the hub (or cache), weights or tokenizer are missing, the chat
            template was asked for where there is none, or it cannot be used.
    """
    source = replace(source, name=str(SHIPPED[source.name])) if source.name in SHIPPED else source
    model, tokenizer = _random(source) if source.name.startswith("random/") else _pretrained(source)
    if tokenizer.pad_token_id is None:  # padding is always masked, so any token will do
        if tokenizer.eos_token_id is None:
            raise ModelError(
                f"model.source.name={source.name}: the tokenizer has neither a pad nor an EOS token; set one"
            )
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer, _chat(source, model, tokenizer) or False


def _chat(source: ModelSource, model: Any, tokenizer: Any) -> ChatTemplate | None:
    """The chat template where prompts go through it."""
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


def _random(source: ModelSource) -> tuple[Any, Any]:
    model, tokenizer = build_tiny(source.name.removeprefix("random/"), seed=source.seed, chat=source.chat is True)
    if source.attention is not None:
        with _explained(source, "weights"):
            model.set_attn_implementation(source.attention)
    return model.to(_dtype(source.dtype)), tokenizer


def _dtype(name: Dtype) -> torch.dtype:
    return torch.float32 if name == "auto" else getattr(torch, name)


def _pretrained(source: ModelSource) -> tuple[Any, Any]:
    _check_folder(source)
    options: dict[str, Any] = {"revision": source.revision, "trust_remote_code": source.trust_remote_code}
    with _explained(source, "config.json"):
        config = AutoConfig.from_pretrained(source.name, **options)
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not hasattr(config, "auto_map"):
        raise ModelError(
            f"model.source.name={source.name}: expected a causal language model, got {config.model_type}; give a model "
            "that continues text, such as HuggingFaceTB/SmolLM2-135M-Instruct"
        )
    with _explained(source, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(source.name, **options)
    with _explained(source, "weights"):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source.name, config=config, dtype=source.dtype, attn_implementation=source.attention, use_safetensors=True,
            output_loading_info=True, **options,
        )  # fmt: skip
    model, report = loaded
    if missing := sorted(report["missing_keys"]):  # transformers would fill them with random numbers
        raise ModelError(
            f"model.source.name={source.name}: {len(missing)} weights are missing (first: {missing[0]}); download or "
            "save the model again"
        )
    return model, tokenizer


def _check_folder(source: ModelSource) -> None:
    """What can be told about a local folder without loading it."""
    name, folder = source.name, Path(source.name)
    if not name.strip() or folder.is_file() or (name.startswith((".", "/", "~")) and not folder.is_dir()):
        raise ModelError(f"model.source.name={name}: there is no such folder; expected {EXPECTED}")
    if folder.is_dir():
        for what, patterns in FOLDER.items():
            if not any(any(folder.glob(pattern)) for pattern in patterns):
                raise ModelError(
                    f"model.source.name={name}: the folder holds no {what} ({', '.join(patterns)}); expected {EXPECTED}"
                )


@contextmanager
def _explained(source: ModelSource, part: str) -> Iterator[None]:
    """Turn what transformers, tokenizers, safetensors and the hub raise into one line about `part`."""
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, ImportError, RuntimeError, SafetensorError) as error:
        text = " ".join(str(error).split())
        if source.attention is not None and re.search("attn_impl|attention", text, re.IGNORECASE):
            raise ModelError(
                f"model.source.attention={source.attention}: cannot be used: {_first_sentence(text)}; leave it out, or "
                "try sdpa or eager"
            ) from error
        if "connect to" in text or "not a valid model identifier" in text:
            raise ModelError(
                f"model.source.name={source.name}: there is no such folder, and the hub has no such model or cannot be "
                f"reached (and it is not in the cache); expected {EXPECTED}"
            ) from error
        if "mismatched" in text:
            text = "they have other sizes than config.json says"
        raise ModelError(
            f"model.source.name={source.name}: {part} cannot be loaded: {_first_sentence(text)}; expected {EXPECTED}"
        ) from error


def _first_sentence(text: str, longest: int = 200) -> str:
    return re.split(r"(?<=[.!]) ", text)[0].rstrip(".")[:longest]


def fingerprint(model: torch.nn.Module) -> str:
    """A digest of architecture and a sample of every weight: tells base models apart in an instant."""
    digest = hashlib.blake2b(json.dumps(type(model).__name__).encode(), digest_size=12)
    for name, parameter in model.named_parameters():
        flat = parameter.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // 64)][:64].float().cpu()
        digest.update(f"{name}{tuple(parameter.shape)}{parameter.dtype}".encode())
        digest.update(sample.numpy().tobytes())
    return digest.hexdigest()
