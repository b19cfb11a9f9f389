"""The options under `model.source`: which causal language model to start from."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from typing import Any, Literal

from seal_lightning.errors import ConfigError
from seal_lightning.models.chat import DATE

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class ModelSource:
    """Which causal language model to start from.

    Args:
        name: Hub name, local folder of a model or of a PEFT adapter (its base is loaded with it), GGUF file, `lab` or
            `lab-grids` for the small models that come with this package (docs/lab.md, docs/arc.md), or `random/llama`
            (or another of docs/reference/families.md) for random weights.
        dtype: Type of the base weights; `auto` takes the checkpoint's own. Adapters are always float32.
        chat: Whether prompts go through the tokenizer's chat template; `auto` uses it if the model stops at
            the token that ends a turn in the template: instruct models do, base models that carry a template do not.
        template_args: Arguments of the chat template besides the messages, such as `enable_thinking: true`. Switches
            for thinking are off unless set here.
        date: "Today" for chat templates that tell it, as YYYY-MM-DD; fixed, so that a run reads the same on any day.
        revision: Branch, tag or commit of a hub model.
        attention: Attention implementation of transformers (`sdpa`, `eager`, `flash_attention_2`, ...); by default
            its own choice for the model.
        matmul: How exact float32 products are, for the whole process: `highest`, or `high` (TF32 on a GPU, faster where
            adapters or the model are float32; off by 3e-4), or `medium` (also bfloat16); by default torch's own
            setting, which is `highest`. Products of bfloat16 weights are what they are.
        quantization: Quantise the weights while loading: `4bit` (NF4 as in QLoRA) or `8bit` by bitsandbytes, or the
            options of one of transformers' quantisation configs; a checkpoint that is quantised needs none.
        gguf_file: The file of that folder or hub repository that holds the weights, for GGUF checkpoints.
        trust_remote_code: Run Python code that the repository carries. Leave off unless you have read that code.
        seed: Seed of the random weights of `random/...`.
    """

    name: str = "HuggingFaceTB/SmolLM2-135M-Instruct"
    dtype: Dtype = "auto"
    chat: bool | Literal["auto"] = "auto"
    template_args: dict[str, Any] = field(default_factory=dict)
    date: str = DATE
    revision: str | None = None
    attention: str | None = None
    matmul: Literal["highest", "high", "medium"] | None = None
    quantization: Literal["4bit", "8bit"] | dict[str, Any] | None = None
    gguf_file: str | None = None
    trust_remote_code: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.matmul not in (None, "highest", "high", "medium"):
            raise ConfigError(f"model.source.matmul must be highest, high or medium, got {self.matmul!r}: leave it out")
        try:
            datetime.date.fromisoformat(self.date)
        except (TypeError, ValueError):
            raise ConfigError(f"model.source.date must be a day as YYYY-MM-DD, got {self.date!r}: try {DATE}") from None

    @property
    def where(self) -> str:
        """The options that name the weights, for messages."""
        file = f", model.source.gguf_file={self.gguf_file}" if self.gguf_file else ""
        return f"model.source.name={self.name}{file}"

    @property
    def hub_options(self) -> dict[str, str | bool | None]:
        """What every `from_pretrained` is given beside the name."""
        options: dict[str, str | bool | None] = {"revision": self.revision, "trust_remote_code": self.trust_remote_code}
        return options | ({"gguf_file": self.gguf_file} if self.gguf_file else {})
