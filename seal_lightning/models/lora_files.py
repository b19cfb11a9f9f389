"""Read the LoRA of a PEFT folder from an unknown source: numbers and names, checked, and nothing else.

peft's own loader builds what a configuration asks for, with ranks, classes and regular expressions of its choosing.
Here the weights say what ranks there are, and of the configuration only scales are used. Weights are safetensors; the
pickled `adapter_model.bin` is not read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from peft import LoraConfig
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.nn import functional

from seal_lightning.errors import ModelError
from seal_lightning.files.bounded import read_json
from seal_lightning.files.contained import check_regular, contained
from seal_lightning.models.finite import check_finite
from seal_lightning.models.lora import CONFIG, WEIGHTS, LoRA, check_undamaged

# Ways to draw a LoRA that change the base weights with it.
REBASED = ("pissa", "olora", "corda", "loftq", "lora_ga")
# Options that make it act otherwise than by adding a product of two matrices to the output of some layers.
OTHER_KINDS = {
    "use_dora": "DoRA",
    "alora_invocation_tokens": "aLoRA, which acts from its invocation tokens on alone",
    "use_qalora": "QALoRA",
    "use_bdlora": "BD-LoRA",
    "kasa_config": "KaSA",
    "monteclora_config": "MonteCLoRA",
    "arrow_config": "Arrow",
    "layer_replication": "layer_replication",
    "target_parameters": "target_parameters",
}
LONGEST = 300  # characters of a layer's name, or of an expression for some
LARGEST = 1e9  # of a scale
# Expressions that are matched in a time which grows with the third power of a name's length at most.
_PLAIN = re.compile(r"\^?(?:[\w-]|\\?\.|\\d\+|\.\*|\((?:\?:)?[\w.-]+(?:\|[\w.-]+)*\)|\[[\w-]+\])+\$?")


def read_lora(folder: str | Path) -> LoRA:
    """The LoRA of a PEFT folder.

    Raises:
        ModelError: There is no LoRA, it is damaged or not finite, or it does more than add the product of A and B.
    """
    folder = Path(folder)
    check_regular(folder, error=ModelError)
    check_undamaged(folder)
    try:
        config, weights = _config(folder), contained(folder, WEIGHTS, error=ModelError)
        state = load_file(weights)
    except (OSError, ValueError, SafetensorError) as error:
        if isinstance(error, ModelError):
            raise
        reason = " ".join(str(error).split())[:120]
        raise ModelError(
            f"{folder}: expected a PEFT folder with adapter_config.json and {WEIGHTS}, got {reason}: check the path"
        ) from error
    kind = _other_kind(config, state)
    if kind:
        raise ModelError(f"{folder}: expected a plain LoRA, got one with {kind}: merge it into its base with peft")
    _check_weights(folder, state)
    return _of_one_rank(state, _scales(folder, config, state))


def base_of(folder: str | Path) -> tuple[str | None, str | None]:
    """What the adapter of a PEFT folder is for, as its configuration calls that, and the base's revision.

    Raises:
        ModelError: There is no configuration, or they are not texts.
    """
    config = _config(Path(folder))

    def text(name: str) -> str | None:
        value = config.get(name) or None
        if isinstance(value, str | None):
            return value
        raise ModelError(f"{folder}: {name} in {CONFIG} must be a text, got {str(value)[:60]!r}: write it again")

    return text("base_model_name_or_path"), text("revision")


def _config(folder: Path) -> Mapping[str, object]:
    """The configuration as it is written. Raises `ModelError`, or `OSError` if it is missing."""
    config = read_json(contained(folder, CONFIG, error=ModelError), error=ModelError)
    if not isinstance(config, Mapping):
        raise ModelError(f"{folder / CONFIG}: expected a configuration of peft, got another JSON value: check the path")
    return config


def _other_kind(config: Mapping[str, object], state: Mapping[str, torch.Tensor]) -> str | None:
    """What an adapter does besides adding a product of two matrices; None if that is all."""
    if (kind := config.get("peft_type", "LORA")) != "LORA":
        return f"peft_type={str(kind)[:40]}"
    for option, kind in OTHER_KINDS.items():
        if config.get(option):
            return kind
    drawn = config.get("init_lora_weights")
    if isinstance(drawn, str) and drawn.startswith(REBASED):
        return f"init_lora_weights={drawn[:40]}, which has changed the base"
    other = sorted(name for name in state if not name.endswith((".lora_A.weight", ".lora_B.weight")))
    return f"{other[0]} besides" if other else None


def _layers(state: Mapping[str, torch.Tensor]) -> list[str]:
    return sorted({name.rsplit(".lora_", 1)[0] for name in state})


def _check_weights(folder: Path, state: Mapping[str, torch.Tensor]) -> None:
    """Raises `ModelError` unless there are weights, all of them finite pairs of A (r, in) and B (out, r)."""
    if not state:
        raise ModelError(f"{folder / WEIGHTS}: expected the weights of a LoRA, got none: save the adapter again")
    for name in _layers(state):
        if len(name) > LONGEST:
            raise ModelError(f"{folder / WEIGHTS}: expected names of layers, got {name[:60]!r}...: save it again")
        pair = [state.get(f"{name}.lora_{part}.weight") for part in "AB"]
        matrices = [one for one in pair if one is not None and one.dim() == 2]
        wrong = ""
        if len(matrices) < 2 or not matrices[0].shape[0]:
            got = " and ".join("nothing" if one is None else str(tuple(one.shape)) for one in pair)
            wrong = f"expected matrices A and B, got {got}: save the adapter again"
        elif (rank := matrices[0].shape[0]) != (other := matrices[1].shape[1]):
            wrong = f"expected A and B of one rank, got {rank} and {other}: save the adapter again"
        elif whole := [one.dtype for one in matrices if not one.is_floating_point()]:
            wrong = f"expected numbers, got {whole[0]}: take another adapter"
        if wrong:
            raise ModelError(f"{folder / WEIGHTS}: {name}: {wrong}")
    check_finite(state, str(folder), advice="it has diverged in training or is damaged, take another one")


def _scales(folder: Path, config: Mapping[str, object], state: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """What the product of each layer's matrices counts."""
    patterns = config.get("alpha_pattern") or {}
    if not isinstance(patterns, Mapping):
        raise ModelError(f"{folder / CONFIG}: alpha_pattern: expected layers with numbers, got others: repair it")
    special = [(_expression(folder, key), _number(folder, alpha)) for key, alpha in patterns.items()]
    plain = _number(folder, config.get("lora_alpha", LoraConfig.lora_alpha))
    scales = {}
    for layer in _layers(state):
        name = layer.removeprefix("base_model.model.")  # as peft compares it
        alpha = next((value for expression, value in special if expression.match(name)), plain)
        rank = state[f"{layer}.lora_A.weight"].shape[0]
        scales[layer] = alpha / (rank**0.5 if config.get("use_rslora") else rank)
    return scales


def _number(folder: Path, alpha: object) -> float:
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not abs(alpha) < LARGEST:
        raise ModelError(f"{folder / CONFIG}: lora_alpha: expected a number, got {str(alpha)[:40]!r}: repair it")
    return float(alpha)


def _expression(folder: Path, key: str) -> re.Pattern[str]:
    """A key of `alpha_pattern`, matched as peft does, if it is one that cannot take long."""
    wild = key.count("*") + key.count("+")
    if wild > 2 or len(key) > LONGEST or not _PLAIN.fullmatch(key):
        raise ModelError(
            f"{folder / CONFIG}: alpha_pattern: expected names of layers, with .* or \\d+ twice at most, got "
            f"{key[:60]!r}: write the layers' names"
        )
    return re.compile(rf"(.*\.)?({key})$")


def _of_one_rank(state: dict[str, torch.Tensor], scales: Mapping[str, float]) -> LoRA:
    """A LoRA whose layers may differ in rank and alpha, filled up with zeros to one rank and one scale."""
    ranks = {layer: state[f"{layer}.lora_A.weight"].shape[0] for layer in scales}
    if len(set(ranks.values())) == 1 and len(set(scales.values())) == 1:
        return LoRA(state, next(iter(scales.values())))
    filled: dict[str, torch.Tensor] = {}
    for layer, rank in ranks.items():
        lora_A, lora_B = (state[f"{layer}.lora_{part}.weight"].float() for part in "AB")
        missing = max(ranks.values()) - rank
        filled[f"{layer}.lora_A.weight"] = functional.pad(lora_A, (0, 0, 0, missing)).contiguous()
        filled[f"{layer}.lora_B.weight"] = functional.pad(scales[layer] * lora_B, (0, missing)).contiguous()
    return LoRA(filled, 1.0)
