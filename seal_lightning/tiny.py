"""Tiny causal language models with random weights and a byte-level tokenizer, built on the spot.

For trying a configuration without a download (`model.source.name: random/llama`) and for tests. They run the real
`transformers` code of their family and learn nothing that anybody would call language.
"""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from seal_lightning.errors import ConfigError

_WIDE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
_GROUPED = {**_WIDE, "num_key_value_heads": 2}
_CONFIGS: dict[str, tuple[Any, dict[str, Any]]] = {
    "llama": (LlamaConfig, _GROUPED),
    "qwen2": (Qwen2Config, _GROUPED),
    "qwen3": (Qwen3Config, {**_GROUPED, "head_dim": 8}),
    "gpt2": (GPT2Config, {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 48}),
    "gpt_neox": (GPTNeoXConfig, _WIDE),
    "gemma": (GemmaConfig, {**_GROUPED, "head_dim": 8}),
    "gemma2": (Gemma2Config, {**_GROUPED, "head_dim": 8, "sliding_window": 64}),
    "gemma3": (Gemma3TextConfig, {**_GROUPED, "head_dim": 8, "sliding_window": 64}),
}
FAMILIES = tuple(_CONFIGS)
_SPECIAL = ["<bos>", "<eos>", "<pad>"]
_CHAT_TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}>\n{{ message['content'] }}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>\n{% endif %}"
)


def build_tiny(
    family: str, *, seed: int = 0, chat: bool = False, max_positions: int = 2048
) -> tuple[Any, PreTrainedTokenizerFast]:
    """A model of about 30,000 parameters and its tokenizer.

    Args:
        family: One of `FAMILIES`.
        seed: Of the weights; torch's global generator is left as it was.
        chat: Give the tokenizer a chat template.
        max_positions: The model's window in tokens (bytes).

    Raises:
        ConfigError: The family is unknown.
    """
    if family not in _CONFIGS:
        raise ConfigError(f"model.source.name=random/{family}: unknown family, expected one of {', '.join(FAMILIES)}")
    tokenizer = byte_tokenizer(chat=chat)
    make, sizes = _CONFIGS[family]
    config = make(
        vocab_size=len(tokenizer),
        max_position_embeddings=max_positions,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.1,  # the usual 0.02 leaves so small a model nearly linear
        **sizes,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.config._name_or_path = f"random/{family}"
    return model.eval(), tokenizer


def byte_tokenizer(*, chat: bool = False) -> PreTrainedTokenizerFast:
    """256 bytes and three special tokens; decoding gives back any text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*_SPECIAL, *alphabet])}
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
