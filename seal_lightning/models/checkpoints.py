"""Read a checkpoint as people have it: plain, quantised, for text and images, or in one GGUF file.

transformers does the reading; here it is told which class, which file and which quantisation, and what it raises
becomes one line. Weights that gradients cannot pass through are dequantised while loading if transformers can do
that, and refused by name if it cannot.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto import modeling_auto
from transformers.quantizers.auto import AutoQuantizationConfig

from seal_lightning.errors import ConfigError, ModelError
from seal_lightning.files.bounded import read_json
from seal_lightning.files.contained import check_regular
from seal_lightning.files.extras import install
from seal_lightning.models.beside import is_quantised
from seal_lightning.models.lora import check_undamaged
from seal_lightning.models.source import ModelSource
from seal_lightning.results.verdict import why_no_policy

log = logging.getLogger(__name__)

EXPECTED = "a hub name, a folder with config.json, tokenizer and *.safetensors, lab, lab-grids, or random/llama"
FOLDER = {
    "configuration": ("config.json",),
    "weights": ("*.safetensors",),
    "tokenizer": ("tokenizer*", "vocab*", "*.model"),
}
# What reading a checkpoint raises; of a damaged one, as a configuration that contradicts itself.
FAILURES = (OSError, ValueError, LookupError, TypeError, ImportError, RuntimeError, AttributeError, ArithmeticError)
FAILURES += (SafetensorError, StrictDataclassError)
TEXTS = (".json", ".jinja", ".txt", ".model")  # of a model's folder; the longest known tokenizers have 40 MB
LONGEST = 512 << 20  # bytes
PACKED = 16  # weights in one stored number, at most
SMALL = 10_000_000  # weights that may be missing: that is said later, by their names
_SHARD = re.compile(r"[\w.-]+\.safetensors")


def read_checkpoint(source: ModelSource) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model, on the CPU or where its quantisation wants it, and its tokenizer.

    Raises:
        ModelError: The model is missing, not a causal language model, or cannot be loaded or trained here.
        ConfigError: The quantisation that was asked for does not fit the source.
    """
    config = read_model_config(source)
    loader = _loader(source, config)
    with explained(source, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(source.name, **source.hub_options)
    options = _quantisation(source, config)
    _check_size(source, config, loader)
    with explained(source, "weights", attentions=attentions_of(loader._model_mapping.get(type(config), None))):
        loaded: Any = loader.from_pretrained(
            source.name, config=config, dtype=source.dtype, attn_implementation=source.attention,
            use_safetensors=None if source.gguf_file else True, output_loading_info=True, **options,
            **source.hub_options,
        )  # fmt: skip
    model, report = loaded
    if missing := sorted(report["missing_keys"]):  # transformers would fill them with random numbers
        raise ModelError(
            f"{source.where}: {len(missing)} weights are missing (first: {missing[0]}); download or "
            "save the model again"
        )
    _let_gradients_pass(source, model)
    return model, tokenizer


def read_model_config(source: ModelSource) -> PretrainedConfig:
    """Its configuration; raises as `read_checkpoint`."""
    _check_folder(source)
    with explained(source, "gguf_file" if source.gguf_file else "config.json"):
        return AutoConfig.from_pretrained(source.name, **source.hub_options)


def _loader(source: ModelSource, config: PretrainedConfig) -> Any:
    """transformers' class for models that continue text, or that do so besides looking and listening."""
    kind = config.model_type
    if kind in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or hasattr(config, "auto_map"):
        return AutoModelForCausalLM
    for table, loader in (
        ("MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES", "AutoModelForImageTextToText"),
        ("MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES", "AutoModelForMultimodalLM"),
    ):
        if kind in getattr(modeling_auto, table, {}) and not getattr(config, "is_encoder_decoder", False):
            return getattr(transformers, loader)
    raise ModelError(
        f"{source.where}: expected a causal language model, got {kind}; give a model that continues text, such as "
        "HuggingFaceTB/SmolLM2-135M-Instruct"
    )


def _quantisation(source: ModelSource, config: PretrainedConfig) -> dict[str, object]:
    """Options for loading weights that are packed, or are to be."""
    stored = getattr(config, "quantization_config", None)
    if source.quantization is not None and (source.gguf_file or stored is not None):
        gguf = "weights of a GGUF file are dequantised"
        why = gguf if source.gguf_file else f"{source.name} is quantised already ({_method(stored)})"
        raise ConfigError(f"model.source.quantization={_shown(source)}: {why}; leave it out")
    if source.gguf_file:
        packed = getattr(transformers, "GgufConfig", None)  # older ones always unpack
        return {"quantization_config": packed(dequantize=True)} if packed else {}
    if stored is not None:
        _dequantise_while_loading(source, config, stored)
        return {}
    return {} if source.quantization is None else {"quantization_config": _wanted(source, config)}


def _dequantise_while_loading(source: ModelSource, config: PretrainedConfig, stored: Any) -> None:
    """Where transformers can: its kernels for such weights have no backward pass, or do not run on every device."""
    as_dict = stored if isinstance(stored, dict) else stored.to_dict()
    with explained(source, f"{_method(stored)} weights"):
        known = AutoQuantizationConfig.from_dict(dict(as_dict))
    if hasattr(known, "dequantize"):
        log.warning("%s: its %s weights are dequantised while they are loaded", source.where, _method(stored))
        config.quantization_config = {**as_dict, "dequantize": True}


def _wanted(source: ModelSource, config: PretrainedConfig) -> object:
    asked = source.quantization
    if asked == "8bit":
        options: dict[str, Any] = {"load_in_8bit": True}
    elif asked == "4bit":  # as QLoRA has it (arXiv 2305.14314); products in the dtype of the other weights
        stored = getattr(config.get_text_config(), "dtype", None) or getattr(config, "dtype", None) or torch.float32
        options = {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": True,
            "bnb_4bit_compute_dtype": stored if source.dtype == "auto" else getattr(torch, source.dtype),
        }
    else:
        options = dict(asked or {})
    try:
        return AutoQuantizationConfig.from_dict(options)
    except (ValueError, TypeError, ImportError, AttributeError) as error:
        raise ConfigError(
            f"model.source.quantization={_shown(source)}: {_first_sentence(' '.join(str(error).split()))}; expected "
            "4bit, 8bit, or the options of one of transformers' quantisation configs, such as "
            "{load_in_4bit: true, bnb_4bit_quant_type: nf4}"
        ) from error


def _method(stored: Any) -> str:
    method = stored.get("quant_method") if isinstance(stored, dict) else stored.quant_method
    return str(getattr(method, "value", method) or "bitsandbytes")


def _shown(source: ModelSource) -> str:
    asked = source.quantization
    return asked if isinstance(asked, str) else json.dumps(asked, default=str)


def _let_gradients_pass(source: ModelSource, model: PreTrainedModel) -> None:
    """Refuse weights that no gradient passes through, and keep those of bitsandbytes as they are.

    With AVX-512 it would repack 4-bit weights in the first pass without gradients, for a kernel that has no backward
    pass, so that later gradients would be lost without a word.
    """
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is not None and is_quantised(model) and not quantizer.is_trainable:
        raise ModelError(
            f"{source.where}: no gradient passes through weights quantised with "
            f"{_method(quantizer.quantization_config)}, so nothing can be trained on them; expected plain weights, or "
            "those of bitsandbytes"
        )
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def _check_folder(source: ModelSource) -> None:
    """What can be told about a local folder without loading it."""
    name, folder = source.name, Path(source.name)
    if not folder.exists() and (reason := why_no_policy(folder)):
        raise ModelError(f"model.source.name={name}: {reason}: name the base model instead")
    if not name.strip() or folder.is_file() or (name.startswith((".", "/", "~")) and not folder.is_dir()):
        raise ModelError(f"model.source.name={name}: there is no such folder; expected {EXPECTED}")
    if source.gguf_file and find_spec("gguf") is None:
        raise ModelError(
            f"model.source.gguf_file={source.gguf_file}: reading it needs the package gguf: {install('gguf')}"
        )
    if not folder.is_dir():
        return
    check_regular(folder, error=ModelError)
    _check_texts(folder)
    if not source.gguf_file:
        _check_files(name, folder)
        check_undamaged(folder)
    elif not (folder / source.gguf_file).is_file():
        there = ", ".join(sorted(path.name for path in folder.glob("*.gguf"))) or "none"
        raise ModelError(
            f"model.source.gguf_file={source.gguf_file}: there is no such file in {name}; GGUF files there: {there}"
        )


def _check_texts(folder: Path) -> None:
    """Texts are read into memory whole."""
    for file in sorted(folder.iterdir()):
        if file.suffix in TEXTS and file.is_file() and file.stat().st_size > LONGEST:
            got = f"{file.stat().st_size >> 20:,} MiB"
            raise ModelError(f"{file}: expected at most {LONGEST >> 20:,} MiB, got {got}: download the model again")


def _check_files(name: str, folder: Path) -> None:
    if (folder / "adapter_config.json").is_file():  # transformers would make the adapter by its configuration
        raise ModelError(
            f"model.source.name={name}: expected a model or an adapter, got a folder with config.json and "
            "adapter_config.json: move one of them and its weights away"
        )
    for what, patterns in FOLDER.items():
        if not any(any(folder.glob(pattern)) for pattern in patterns):
            gguf = sorted(path.name for path in folder.glob("*.gguf"))
            hint = f"; for a GGUF file, give model.source.gguf_file={gguf[0]}" if gguf else f"; expected {EXPECTED}"
            raise ModelError(f"model.source.name={name}: the folder holds no {what} ({', '.join(patterns)}){hint}")
    for index in folder.glob("*.safetensors.index.json"):
        # shards are files beside it: transformers would also open pickles and files elsewhere that it names
        content = read_json(index, error=ModelError)
        shards = content.get("weight_map") if isinstance(content, Mapping) else None
        for shard in shards.values() if isinstance(shards, Mapping) else [shards]:
            if not (isinstance(shard, str) and _SHARD.fullmatch(shard)):
                got = f"{str(shard)[:60]!r}"
                raise ModelError(f"{index}: expected *.safetensors files of that folder, got {got}: repair it")


def _check_size(source: ModelSource, config: PretrainedConfig, loader: Any) -> None:
    """Refuse a configuration of many more weights than a folder holds: transformers would draw the rest, in memory."""
    folder = Path(source.name)
    if not folder.is_dir() or source.gguf_file or source.trust_remote_code:
        return
    tensors, numbers = 0, 0
    with explained(source, "weights"):
        for file in sorted(folder.glob("*.safetensors")):
            with safe_open(file, framework="pt") as stored:
                shapes = [stored.get_slice(name).get_shape() for name in stored.keys()]  # noqa: SIM118 - no mapping
            tensors, numbers = tensors + len(shapes), numbers + sum(map(math.prod, shapes))
    layers = getattr(config.get_text_config(), "num_hidden_layers", 0) or 0
    expected = math.inf
    if layers <= tensors:
        with explained(source, "config.json"), torch.device("meta"):
            expected = sum(parameter.numel() for parameter in loader.from_config(config).parameters())
    if expected > PACKED * numbers + SMALL:
        claimed = f"{layers:,} layers" if expected == math.inf else f"{expected:,} weights"
        raise ModelError(
            f"{source.where}: config.json speaks of {claimed}, and the folder holds {numbers:,} numbers in "
            f"{tensors:,} tensors; download or save the model again"
        )


def attentions_of(model_class: type | None) -> list[str]:
    """The attention implementations of transformers that a model has without further packages."""
    return [*(["sdpa"] if getattr(model_class, "_supports_sdpa", False) else []), "eager"]


@contextmanager
def explained(source: ModelSource, part: str, *, attentions: Sequence[str] = ("eager",)) -> Iterator[None]:
    """Turn what transformers, tokenizers, safetensors and the hub raise into one line about `part`.

    Args:
        source: The model that is being read.
        part: The part of it that is being read.
        attentions: Advice if the attention that was asked for is what does not work.
    """
    try:
        yield
    except FAILURES as error:
        text = " ".join(str(error).split())
        if source.attention is not None and re.search("attn_impl|attention", text, re.IGNORECASE):
            others = " or ".join(other for other in attentions if other != source.attention)
            message = (
                f"model.source.attention={source.attention}: cannot be used for this model: {_first_sentence(text)}; "
                f"leave it out{f', or try {others}' if others else ''}"
            )
        elif "connect to" in text or "not a valid model identifier" in text:
            message = (
                f"{source.where}: there is no such folder, and the hub has no such model or cannot be reached (and it "
                f"is not in the cache); expected {EXPECTED}"
            )
        elif "contains custom code" in text:
            message = (
                f"{source.where}: {part} needs Python code that comes with the model, which is not run; read it, and "
                "set model.source.trust_remote_code=true if you trust it"
            )
        elif isinstance(error, ImportError):
            message = (
                f"{source.where}: {part} cannot be loaded here: {_first_sentence(text)}; install what is missing, or "
                "choose other weights of the model"
            )
        else:
            reason = "they have other sizes than config.json says" if "mismatched" in text else _first_sentence(text)
            message = f"{source.where}: {part} cannot be loaded: {reason}; expected {EXPECTED}"
        raise ModelError(message) from error


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[.!]) ", text)[0].rstrip(".")[:200]
