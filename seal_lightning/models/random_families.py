"""Sizes of the tiny random models, by family of transformers: what `random/<family>` builds (see `tiny.py`).

A family is named as transformers calls it (`model_type`), with a suffix where it comes in two forms that differ in how
they attend. Sizes are chosen so that what is special about a family happens within a few tokens: windows are 8 tokens
wide, every kind of layer of a hybrid is there, and routers choose among several experts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Sizes = Mapping[str, Any]
WINDOW = 8  # tokens that the layers of a sliding or chunked attention see


@dataclass(frozen=True, slots=True)
class Family:
    """How to make one tiny model.

    Attributes:
        model_type: What transformers calls it.
        sizes: Settings of its configuration; of its text model where it has a vision tower.
        parts: Settings of the whole where it has a vision tower, that tower's configuration among them.
    """

    model_type: str
    sizes: Sizes
    parts: Sizes | None = None


_WIDE: Sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
_GROUPED: Sizes = {**_WIDE, "num_key_value_heads": 2}
_HEADS: Sizes = {**_GROUPED, "head_dim": 8}  # where the size of a head is not what follows from the others
_SLIDING: Sizes = {"sliding_window": WINDOW}
_MIXED: Sizes = {**_SLIDING, "layer_types": ["sliding_attention", "full_attention"]}
_RECURRENT: Sizes = {"layer_types": ["linear_attention", "full_attention"]}
_FEW: Sizes = {"num_local_experts": 4, "num_experts_per_tok": 2}
_EXPERTS: Sizes = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_ROUTED: Sizes = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_LATENT: Sizes = {  # DeepSeek's attention
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "num_key_value_heads": 4,
}
_DELTA: Sizes = {  # gated delta rule
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
_MAMBA2: Sizes = {
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_n_groups": 1,
    "mamba_d_state": 8,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_chunk_size": 16,
}
_STATE: Sizes = {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "time_step_rank": 4}
_JAMBA: Sizes = {"mamba_d_state": 8, "mamba_dt_rank": 4, "use_mamba_kernels": False}
_GRANITE: Sizes = {
    "logits_scaling": 8.0,
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.22,
    "attention_multiplier": 0.3,
}
_YARN: Sizes = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 32.0, "original_max_position_embeddings": 64}
_LLAMA4_YARN: Sizes = {**_YARN, "llama_4_scaling_beta": 0.1}  # attention is scaled by the position
_SIGLIP: Sizes = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 14,
}
_QWEN_TOWER: Sizes = {"depth": 1, "num_heads": 4, "patch_size": 4, "hidden_size": 32, "out_hidden_size": 32}
_MROPE: Sizes = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}}
_QWEN_TOKENS: Sizes = {"image_token_id": 256, "video_token_id": 257, "vision_start_token_id": 258}
_IMAGE: Sizes = {"image_token_id": 256}
_IMAGE_INDEX: Sizes = {"image_token_index": 256}


def _plain(sizes: Sizes, *names: str) -> dict[str, Family]:
    return {name: Family(name, sizes) for name in names}


FAMILIES: Mapping[str, Family] = {
    # attention over everything before
    **_plain(_GROUPED, "llama", "qwen2", "olmo", "olmo2", "smollm3", "stablelm", "phi", "nemotron", "apertus", "arcee"),
    **_plain(
        _HEADS, "qwen3", "gemma", "glm", "glm4", "helium", "seed_oss", "ernie4_5", "hunyuan_v1_dense", "internlm3"
    ),
    **_plain(_GROUPED, "phi3", "bitnet", "nanochat", "jais2", "hyperclovax", "diffllama"),
    **_plain(_WIDE, "gpt_neox", "gpt_neox_japanese", "persimmon"),
    **_plain({**_WIDE, "n_inner": 48}, "gpt2", "gpt_bigcode"),
    **_plain({**_WIDE, "n_inner": 48, "rotary_dim": 4}, "gptj", "codegen"),
    **_plain(_WIDE, "falcon", "biogpt", "openai-gpt"),
    "ctrl": Family("ctrl", {**_WIDE, "dff": 48}),
    "llama-tied": Family("llama", {**_GROUPED, "tie_word_embeddings": True}),
    "granite": Family("granite", {**_GROUPED, **_GRANITE}),
    "cohere": Family("cohere", {**_GROUPED, "logit_scale": 0.0625}),
    "opt": Family("opt", {**_WIDE, "ffn_dim": 48, "word_embed_proj_dim": 32}),
    "opt-projected": Family("opt", {**_WIDE, "ffn_dim": 48, "word_embed_proj_dim": 16, "do_layer_norm_before": False}),
    "xglm": Family("xglm", {**_WIDE, "ffn_dim": 48}),
    "minicpm3": Family("minicpm3", {**_WIDE, **_LATENT}),
    "ministral3": Family("ministral3", {**_HEADS, "rope_parameters": _LLAMA4_YARN}),
    "bert": Family("bert", _WIDE),  # reads both ways: for what has to be refused
    # a bias for distance instead of positions
    **_plain(_WIDE, "bloom", "mpt"),
    "falcon-alibi": Family(
        "falcon", {**_WIDE, "alibi": True, "new_decoder_architecture": False, "multi_query": False, "bias": True}
    ),
    # attention in a window, in some layers or all
    **_plain({**_GROUPED, **_SLIDING}, "mistral", "starcoder2"),
    **_plain({**_HEADS, **_SLIDING}, "ministral"),
    **_plain({**_HEADS, **_MIXED}, "gemma2", "gemma3_text", "vaultgemma", "cohere2", "exaone4", "cwm", "olmo3"),
    "phi3-window": Family("phi3", {**_GROUPED, **_SLIDING}),
    "qwen2-window": Family("qwen2", {**_GROUPED, **_SLIDING, "use_sliding_window": True, "max_window_layers": 1}),
    "gpt_neo": Family("gpt_neo", {**_WIDE, "attention_types": [[["global", "local"], 1]], "window_size": WINDOW}),
    "modernbert-decoder": Family("modernbert-decoder", {**_WIDE, "local_attention": WINDOW}),
    "gemma3n_text": Family(
        "gemma3n_text",
        {
            **_HEADS,
            **_SLIDING,
            "num_hidden_layers": 4,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "intermediate_size": [48] * 4,
            "activation_sparsity_pattern": [0.0] * 4,
            "num_kv_shared_layers": 2,
            "vocab_size_per_layer_input": 259,
            "hidden_size_per_layer_input": 8,
            "laurel_rank": 4,
        },
    ),
    # mixtures of experts
    **_plain({**_GROUPED, **_FEW}, "mixtral", "granitemoe", "phimoe"),
    "granitemoeshared": Family("granitemoeshared", {**_GROUPED, **_FEW, **_GRANITE, "shared_intermediate_size": 16}),
    **_plain({**_HEADS, **_EXPERTS}, "qwen3_moe", "olmoe", "flex_olmo"),
    "qwen2_moe": Family("qwen2_moe", {**_GROUPED, **_EXPERTS, "shared_expert_intermediate_size": 16}),
    "hunyuan_v1_moe": Family("hunyuan_v1_moe", {**_HEADS, "num_experts": 4, "moe_topk": 2}),
    "gpt_oss": Family("gpt_oss", {**_HEADS, **_FEW, **_MIXED, "rope_parameters": _YARN}),
    "jetmoe": Family("jetmoe", {**_WIDE, **_FEW, "kv_channels": 8, "num_key_value_heads": 2}),
    "deepseek_v2": Family("deepseek_v2", {**_WIDE, **_LATENT, **_ROUTED, "n_shared_experts": 1}),
    "deepseek_v3": Family(
        "deepseek_v3", {**_WIDE, **_LATENT, **_ROUTED, "first_k_dense_replace": 1, "n_group": 2, "topk_group": 1}
    ),
    "glm4_moe": Family("glm4_moe", {**_HEADS, **_ROUTED, "first_k_dense_replace": 1}),
    "dots1": Family("dots1", {**_HEADS, **_ROUTED, "n_shared_experts": 1, "first_k_dense_replace": 1}),
    "ernie4_5_moe": Family("ernie4_5_moe", {**_GROUPED, "moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 16}),
    "minimax_m2": Family("minimax_m2", {**_HEADS, **_FEW}),
    "glm4_moe_lite": Family(
        "glm4_moe_lite", {**_WIDE, **_LATENT, **_ROUTED, "mlp_layer_types": ["dense", "sparse"], "n_shared_experts": 1}
    ),
    "afmoe": Family("afmoe", {**_HEADS, **_EXPERTS, **_MIXED, "num_shared_experts": 1}),
    "llama4_text": Family(
        "llama4_text",
        {
            **_HEADS,
            **_FEW,
            "num_experts_per_tok": 1,
            "intermediate_size_mlp": 48,
            "attention_chunk_size": WINDOW,
            "no_rope_layers": [1, 0],
            "layer_types": ["chunked_attention", "full_attention"],
        },
    ),
    "laguna": Family("laguna", {**_HEADS, **_EXPERTS, **_SLIDING, "mlp_layer_types": ["dense", "sparse"]}),
    # a state in place of attention
    "mamba": Family("mamba", {**_STATE, "use_mambapy": False}),
    "falcon_mamba": Family("falcon_mamba", {**_STATE, "use_mambapy": False}),
    "mamba2": Family(
        "mamba2",
        {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 1}
        | {"chunk_size": 16},
    ),
    "rwkv": Family("rwkv", {"hidden_size": 32, "num_hidden_layers": 2, "attention_hidden_size": 32}),
    "xlstm": Family("xlstm", {"hidden_size": 64, "num_hidden_layers": 2, "num_heads": 4, "qk_dim_factor": 1.0}),
    # both
    "jamba": Family(
        "jamba",
        {**_GROUPED, **_JAMBA, "num_experts": 4, "expert_layer_period": 2, "expert_layer_offset": 1}
        | {"attn_layer_period": 2, "attn_layer_offset": 1},
    ),
    "bamba": Family("bamba", {**_GROUPED, **_MAMBA2, "attn_layer_indices": [1]}),
    "falcon_h1": Family("falcon_h1", {**_GROUPED, **_MAMBA2, "mamba_d_ssm": 64}),
    "granitemoehybrid": Family(
        "granitemoehybrid", {**_GROUPED, **_MAMBA2, **_FEW, **_RECURRENT, "shared_intermediate_size": 16}
    ),
    "zamba": Family(
        "zamba",
        {**_GROUPED, **_JAMBA, "num_hidden_layers": 3, "layers_block_type": ["linear_attention", "hybrid", "hybrid"]}
        | {"attention_hidden_size": 64, "attention_head_dim": 16, "num_key_value_heads": 4},
    ),
    "zamba2": Family(
        "zamba2",
        {**_WIDE, "num_hidden_layers": 3, "layers_block_type": ["linear_attention", "hybrid", "hybrid"]}
        | {"mamba_d_state": 8, "n_mamba_heads": 8, "chunk_size": 16, "adapter_rank": 4, "num_key_value_heads": 4},
    ),
    "nemotron_h": Family(
        "nemotron_h",
        {**_HEADS, **_ROUTED, "layers_block_type": ["linear_attention", "moe", "full_attention", "mlp"]}
        | {"ssm_state_size": 8, "mamba_num_heads": 8, "mamba_head_dim": 8, "n_groups": 1, "chunk_size": 16}
        | {"num_hidden_layers": 4, "moe_shared_expert_intermediate_size": 16},
    ),
    "recurrent_gemma": Family(
        "recurrent_gemma",
        {**_WIDE, "lru_width": 32, "attention_window_size": WINDOW, "block_types": ["recurrent", "attention"]}
        | {"num_key_value_heads": 1},
    ),
    "qwen3_next": Family(
        "qwen3_next", {**_HEADS, **_EXPERTS, **_DELTA, **_RECURRENT, "shared_expert_intermediate_size": 16}
    ),
    "qwen3_5_text": Family("qwen3_5_text", {**_HEADS, **_DELTA, **_RECURRENT}),
    "olmo_hybrid": Family("olmo_hybrid", {**_GROUPED, **_DELTA, **_RECURRENT, "linear_num_key_heads": 4}),
    "lfm2": Family("lfm2", {**_GROUPED, "layer_types": ["conv", "full_attention"], "block_multiple_of": 16}),
    "lfm2_moe": Family(
        "lfm2_moe", {**_GROUPED, **_EXPERTS, "layer_types": ["conv", "full_attention"], "num_dense_layers": 1}
    ),
    "lfm3": Family("lfm3", {**_HEADS, **_SLIDING, "layer_types": ["conv", "sliding_attention"]}),
    "kimi_linear": Family(
        "kimi_linear",
        {**_WIDE, **_LATENT, **_FEW, **_RECURRENT, "moe_intermediate_size": 16, "mlp_layer_types": ["dense", "sparse"]}
        | {"linear_head_dim": 8, "linear_num_heads": 4, "n_shared_experts": 1},
    ),
    "minimax": Family("minimax", {**_HEADS, **_FEW, **_RECURRENT, "block_size": 16}),
    # a text model beside a vision tower
    "gemma3": Family(
        "gemma3",
        {**_HEADS, **_MIXED, "model_type": "gemma3_text"},
        {"vision_config": {**_SIGLIP, "model_type": "siglip_vision_model"}, "mm_tokens_per_image": 4}
        | {"boi_token_index": 257, "eoi_token_index": 258, **_IMAGE_INDEX},
    ),
    "qwen3_5": Family(
        "qwen3_5",
        {**_HEADS, **_DELTA, **_RECURRENT},
        {**_QWEN_TOKENS, "vision_config": {**_QWEN_TOWER, "intermediate_size": 48}},
    ),
    "mistral3": Family(
        "mistral3",
        {**_HEADS, "model_type": "mistral"},
        {**_IMAGE_INDEX, "vision_config": {**_SIGLIP, "model_type": "pixtral", "head_dim": 8}},
    ),
    "llava": Family(
        "llava",
        {**_GROUPED, "model_type": "llama"},
        {**_IMAGE_INDEX, "vision_config": {**_SIGLIP, "model_type": "clip_vision_model"}},
    ),
    "qwen2_vl": Family(
        "qwen2_vl",
        {**_GROUPED, **_MROPE},
        {**_QWEN_TOKENS, "vision_config": {**_QWEN_TOWER, "embed_dim": 32}},
    ),
    "qwen2_5_vl": Family(
        "qwen2_5_vl",
        {**_GROUPED, **_MROPE},
        {**_QWEN_TOKENS, "vision_config": {**_QWEN_TOWER, "intermediate_size": 48}},
    ),
    "qwen3_vl": Family(
        "qwen3_vl",
        {**_HEADS, **_MROPE},
        {
            **_QWEN_TOKENS,
            "vision_config": {
                **_QWEN_TOWER,
                "intermediate_size": 48,
                "num_position_embeddings": 16,
                "deepstack_visual_indexes": [0],
            },
        },
    ),
    "idefics3": Family(
        "idefics3", {**_GROUPED, "model_type": "llama"}, {**_IMAGE, "scale_factor": 2, "vision_config": _SIGLIP}
    ),
    "smolvlm": Family(
        "smolvlm", {**_GROUPED, "model_type": "llama"}, {**_IMAGE, "scale_factor": 2, "vision_config": _SIGLIP}
    ),
    "paligemma": Family(
        "paligemma",
        {**_HEADS, "model_type": "gemma"},
        {**_IMAGE_INDEX, "vision_config": {**_SIGLIP, "model_type": "siglip_vision_model"}},
    ),
    "internvl": Family(
        "internvl",
        {**_GROUPED, "model_type": "qwen2"},
        {**_IMAGE, "vision_config": {**_SIGLIP, "image_size": [28, 28], "patch_size": [14, 14]}},
    ),
}
