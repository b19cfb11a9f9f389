"""Code for a card that loads the weights and asks them with exactly the prompt that is used here.

The policy's own functions render the prompt, chat template and all, and the code contains it as text. So the code gives
the same tokens, whatever a library makes of the template later.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from seal_lightning.e_step.step import EStep
from seal_lightning.models.encoding import MARK
from seal_lightning.models.loading import SHIPPED
from seal_lightning.models.origins import Origin
from seal_lightning.models.source import ModelSource
from seal_lightning.policy.policy import Policy
from seal_lightning.sampling.generation import stop_tokens
from seal_lightning.sharing.card import Relation
from seal_lightning.tasks import Knowledge
from seal_lightning.types import Context, Prompt

WEIGHTS = "WEIGHTS = "  # the beginning of the line that says where the weights are


@dataclass(frozen=True, slots=True)
class Asking:
    """What the code asks.

    Attributes:
        prompt: The request.
        texts: Parts of the request that a reader replaces, by the variable that holds each.
        max_new_tokens: Longest text that is written.
        first_line: Whether only the first line of the text counts.
        sampled: Sampling options of transformers; empty where the most likely text was taken.
        tokenizer_beside: Whether a tokenizer lies beside the weights.
    """

    prompt: Prompt
    texts: Mapping[str, str]
    max_new_tokens: int
    first_line: bool = False
    sampled: Mapping[str, float] | None = None
    tokenizer_beside: bool = True


def usage(policy: Policy, source: ModelSource, base: Origin, *, place: str, relation: Relation, asking: Asking) -> str:
    """Markdown with a block of Python.

    Args:
        policy: The policy, with its tokenizer and chat template.
        source: The base model as it was loaded.
        base: The base model as cards name it.
        place: Path of the weights from the run's folder.
        relation: What the weights are to their base.
        asking: What they are asked.
    """
    code = "\n".join(
        [
            *_imports(source, relation),
            "",
            f"{WEIGHTS}{_text(place)}  # from the run's folder; elsewhere its path, or its name on the hub",
            *_loading(source, base, relation, beside=asking.tokenizer_beside),
            "",
            *_prompt(policy, asking),
            *_encoding(policy, asking.prompt),
            *_writing(policy, asking),
        ]
    )
    return f"```python\n{code}\n```" + _remarks(policy, source, base, relation, asking)


def query_usage(
    policy: Policy,
    source: ModelSource,
    base: Origin,
    e_step: EStep,
    context: Context,
    *,
    place: str,
    relation: Relation,
    tokenizer_beside: bool = True,
) -> str:
    """Markdown with code that asks a context's first query as the E-step does. The arguments are those of `usage`."""
    query = context.queries[0]
    asking = Asking(
        e_step.task.query_prompt(query, context),
        {"question": query.question.strip()},
        max_new_tokens=e_step.max_answer_tokens,
        first_line=isinstance(e_step.task, Knowledge),
        tokenizer_beside=tokenizer_beside,
    )
    return usage(policy, source, base, place=place, relation=relation, asking=asking)


def at(text: str, place: str, *, inside: str = "") -> str:
    """The card with code that loads the weights from another place: a repository on the hub, or a folder inside it."""
    lines = [f"{WEIGHTS}{_text(place)}" if line.startswith(WEIGHTS) else line for line in text.splitlines()]
    moved = "\n".join(lines) + "\n"
    for call in ("from_pretrained(base, WEIGHTS", "from_pretrained(WEIGHTS") if inside else ():
        moved = moved.replace(call, f"{call}, subfolder={_text(inside)}")
    return moved


def _imports(source: ModelSource, relation: Relation) -> list[str]:
    peft = ["from peft import PeftModel"] if relation == "adapter" else []
    if not peft or not _needs_us(source):
        return [*peft, "from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig"]
    ours = ["from seal_lightning import ModelSource", "from seal_lightning.models.loading import load_model"]
    return [*peft, "from transformers import AutoTokenizer, GenerationConfig", "", *ours]


def _needs_us(source: ModelSource) -> bool:
    """Whether it takes this package to load the base: a model that it ships, random or quantised weights, GGUF."""
    made = source.name in SHIPPED or source.name.startswith("random/")
    return made or source.gguf_file is not None or source.name.endswith(".gguf") or source.quantization is not None


def _loading(source: ModelSource, base: Origin, relation: Relation, *, beside: bool) -> list[str]:
    dtype = f"dtype={_text(source.dtype)}"
    if relation != "adapter":
        model = f"model = AutoModelForCausalLM.from_pretrained(WEIGHTS, {dtype})"
        return [model, "tokenizer = AutoTokenizer.from_pretrained(WEIGHTS)", _plain("model")]
    if _needs_us(source):
        lines = [f"base, tokenizer, _ = load_model({_source(source, base)})"]
        lines += ["tokenizer = AutoTokenizer.from_pretrained(WEIGHTS)"] if beside else []
    else:
        options = [dtype]
        options += [f"revision={_text(base.revision)}"] if base.revision else []
        options += ["trust_remote_code=True"] if source.trust_remote_code else []
        note = "" if base.on_hub else "  # a folder: put its path here"
        lines = [f"base = AutoModelForCausalLM.from_pretrained({_text(base.name)}, {', '.join(options)}){note}"]
        where = "WEIGHTS" if beside else _text(base.name)
        more = f", revision={_text(base.revision)}" if base.revision and not beside else ""
        lines += [f"tokenizer = AutoTokenizer.from_pretrained({where}{more})"]
    return [*lines, _plain("base"), "model = PeftModel.from_pretrained(base, WEIGHTS).eval()"]


def _plain(model: str) -> str:
    note = "drops penalties and other defaults that come with a model"
    return f"{model}.generation_config = GenerationConfig()  # {note}"


def _source(source: ModelSource, base: Origin) -> str:
    options = {
        "name": base.name,
        "dtype": source.dtype if source.dtype != "auto" else None,
        "seed": source.seed or None,
        "gguf_file": source.gguf_file,
        "quantization": source.quantization,
        "chat": True if source.chat is True else None,
    }
    shown = ", ".join(f"{name}={value!r}" for name, value in options.items() if value is not None)
    return f"ModelSource({shown})"


def _prompt(policy: Policy, asking: Asking) -> list[str]:
    """The texts that a reader replaces, and the prompt with their variables in it."""
    pieces: list[tuple[str, str]] = [("", policy.format(asking.prompt).replace(MARK, ""))]  # variable, literal after it
    for name in sorted(asking.texts, key=lambda name: -len(asking.texts[name])):  # a title may stand in its passage
        pieces = _split(pieces, name, asking.texts[name])
    used = {name for name, _ in pieces}
    lines = [f"{name} = {_text(value)}" for name, value in asking.texts.items() if name in used]
    lines.append("prompt = (")
    for name, literal in pieces:
        parts = [_text(line) for line in literal.splitlines(keepends=True)]
        if name:
            parts = [f"+ {name}", *([f"+ {parts[0]}", *parts[1:]] if parts else [])]
        lines += [f"    {part}" for part in parts]
    return [*lines, ")"]


def _split(pieces: list[tuple[str, str]], name: str, value: str) -> list[tuple[str, str]]:
    """The pieces with a variable in place of a text that occurs in them exactly once."""
    if not value or sum(literal.count(value) for _, literal in pieces) != 1:
        return pieces
    split: list[tuple[str, str]] = []
    for variable, literal in pieces:
        before, separator, after = literal.partition(value)
        split += [(variable, before), (name, after)] if separator else [(variable, literal)]
    return split


def _encoding(policy: Policy, prompt: Prompt) -> list[str]:
    opening, closing = policy.encoder.opening, policy.encoder.closing
    if policy.template is not None or not opening:
        special = ", add_special_tokens=False"  # the prompt's text already has them
    elif not closing:
        special = ""
    else:
        ids = 'tokenizer(prompt, add_special_tokens=False)["input_ids"]'
        return [
            "import torch",
            "",
            f"ids = torch.tensor([{list(opening)} + {ids}])",
            "inputs = {'input_ids': ids, 'attention_mask': torch.ones_like(ids)}",
        ]
    return [f'inputs = tokenizer(prompt{special}, return_tensors="pt", return_token_type_ids=False)']


def _writing(policy: Policy, asking: Asking) -> list[str]:
    ends, pad = stop_tokens(policy), policy.tokenizer.pad_token_id
    line = '.partition("\\n")[0]' if asking.first_line else ""
    options = f"max_new_tokens={asking.max_new_tokens}, do_sample=False, eos_token_id={ends}, pad_token_id={pad}"
    return [
        f"written = model.generate(**inputs, {options})",
        'text = tokenizer.decode(written[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)',
        f"print(text.strip(){line})",
    ]


def _remarks(policy: Policy, source: ModelSource, base: Origin, relation: Relation, asking: Asking) -> str:
    remarks = []
    if asking.sampled:
        options = ", ".join(f"{name}={value!r}" for name, value in asking.sampled.items())
        remarks.append(
            f"This takes the most likely text; in training, texts were sampled: `do_sample=True, {options}`."
        )
    if relation == "adapter" and _needs_us(source):
        remarks.append("The base model needs the Python package `seal-lightning` to be installed.")
    elif relation == "adapter" and not base.on_hub:
        remarks.append(f"`{base.name}` was a local folder; its name on the hub, if any, is unknown.")
    if policy.template is not None:
        remarks.append("The model's chat template has already been applied to the prompt.")
    return "".join(f"\n\n{remark}" for remark in remarks)


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)
