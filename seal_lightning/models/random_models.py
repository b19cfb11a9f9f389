"""Tiny causal language models with random weights and a byte-level tokenizer, built on the spot.

They are for trying a configuration without a download (`model.source.name: random/llama`) and for tests. They run the
real `transformers` code of their family and learn nothing that anybody would call language. The families and their
sizes are listed in `random_families.yaml`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from seal_lightning.errors import ConfigError
from seal_lightning.files.bounded_yaml import load_yaml
from seal_lightning.types import Json, JsonObject

_CHAT_TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}>\n{{ message['content'] }}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>\n{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Family:
    """How to make one tiny model.

    Attributes:
        model_type: Its name in transformers.
        sizes: Settings of its configuration, or of its text model's if it has a vision tower.
        whole: Settings of the whole configuration if it has a vision tower.
    """

    model_type: str
    sizes: JsonObject
    whole: JsonObject | None = None


def _families() -> Iterator[tuple[str, Family]]:
    table = load_yaml(Path(__file__).with_name("random_families.yaml").read_text(encoding="utf-8"))
    for row in table["families"]:
        sizes = _with_presets(row, table["presets"])
        names, model_type, whole = (sizes.pop(key, None) for key in ("names", "is", "whole"))
        for name in names.split():
            yield name, Family(model_type or name, sizes, whole)


def _with_presets(value: Json, presets: Mapping[str, JsonObject]) -> Any:
    """A value with the presets that its mappings are `like` written out."""
    if not isinstance(value, dict):
        return value
    like = [_with_presets(presets[name], presets) for name in str(value.get("like", "")).split()]
    own = {key: _with_presets(setting, presets) for key, setting in value.items() if key != "like"}
    return {key: setting for settings in (*like, own) for key, setting in settings.items()}


FAMILIES: Mapping[str, Family] = dict(_families())


def build_tiny(
    family: str, *, seed: int = 0, chat: bool = False, max_positions: int = 2048
) -> tuple[Any, PreTrainedTokenizerFast]:
    """A model of some ten thousand parameters and its tokenizer.

    Args:
        family: One of `FAMILIES`.
        seed: Seed of the weights; torch's global generator is left as it was.
        chat: Give the tokenizer a chat template.
        max_positions: The model's window in tokens (bytes).

    Raises:
        ConfigError: The family is unknown.
    """
    if family not in FAMILIES:
        near = get_close_matches(family, FAMILIES) or ["llama", "qwen3", "gpt2"]
        raise ConfigError(
            f"model.source.name=random/{family}: unknown family, expected {', '.join(near)} or another of "
            "docs/reference/families.md"
        )
    tokenizer = byte_tokenizer(chat=chat)
    config = _config(FAMILIES[family], tokenizer, max_positions)
    known = config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    make = AutoModelForCausalLM if known else AutoModelForImageTextToText
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make.from_config(config, dtype=torch.float32)
    model.config._name_or_path = f"random/{family}"
    return model.eval(), tokenizer


def _config(family: Family, tokenizer: PreTrainedTokenizerFast, max_positions: int) -> PretrainedConfig:
    text = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": max_positions,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "initializer_range": 0.1,  # the usual 0.02 leaves so small a model nearly linear
        **family.sizes,
    }
    if family.whole is None:
        return AutoConfig.for_model(family.model_type, **text)
    return AutoConfig.for_model(family.model_type, text_config=text, **family.whole)


def byte_tokenizer(*, chat: bool = False) -> PreTrainedTokenizerFast:
    """256 bytes and three special tokens; decoding gives back any text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(["<bos>", "<eos>", "<pad>", *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)  # type: ignore[assignment]
    backend.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )
    if chat:
        tokenizer.chat_template = _CHAT_TEMPLATE
    return tokenizer
