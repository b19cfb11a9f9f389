"""Writes docs/reference/families.md: which families of models are exact, and by which way.

    python docs/families.py                     measure all families (about three minutes) and write the page
    python docs/families.py bloom gpt_oss       measure these, print their rows, and write nothing

Every family is a tiny model with random weights (`random/<family>`). What the bank makes of three adapters at once is
compared with plain peft, one adapter, one sequence and one prompt at a time (docs/plain_peft.py): the adapters after
training, greedy answers, and the logits of the exported folder and of merged weights.
tests/models/test_families.py measures the same and compares it with the page.
"""

from __future__ import annotations

import re
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import plain_peft
import torch
from peft import PeftModel
from torch import nn
from transformers.pytorch_utils import Conv1D

from seal_lightning.errors import ConfigError, ModelError
from seal_lightning.inner_loop.bank import bank_lora
from seal_lightning.inner_loop.isolation import answering_way, training_way
from seal_lightning.inner_loop.loop import InnerLoop, TrainedBank
from seal_lightning.models.layers import find_targets
from seal_lightning.models.lora import merge_lora
from seal_lightning.models.lora_files import read_lora
from seal_lightning.models.random_models import FAMILIES, build_tiny
from seal_lightning.policy.policy import Policy
from seal_lightning.sampling.generation import generate_all
from seal_lightning.types import AdapterJob, Directives, TrainingSequence

PAGE = Path(__file__).resolve().parent / "reference" / "families.md"
LOOP = InnerLoop(rank=4, alpha=8, target_modules="all-linear", learning_rate=1e-2, epochs=2, batch_size=2)
TOLERANCE = 1e-3  # of the norm of B: AdamW makes much of single entries whose gradient is nearly zero
LARGEST = 2e-2  # of the largest B, for single entries
SAME_LOGITS = 1e-4
NEW = 8  # tokens of an answer
TEXT = "The lamp of the tarn burned until dawn and oil ran out in the copper mill."


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was found for one family.

    Attributes:
        architecture: transformers' class.
        training: The way in which adapters train together and become what each becomes alone; `refused: ...`; or how
            they differ.
        answering: The way in which rows answer together as each does alone; or as above.
        export: `equal` where the folder and merged weights say what the bank says; or as above.
        left_out: Kinds of layers that get no adapter, of those that are linear.
    """

    architecture: str
    training: str
    answering: str
    export: str
    left_out: str = ""


def jobs() -> list[AdapterJob]:
    """Three adapters that share steps with each other, in sequences of 2 to 40 tokens; some with a prompt."""

    def sequences(*shapes: tuple[int, int, int]) -> tuple[TrainingSequence, ...]:
        return tuple(TrainingSequence(TEXT[at : at + n], prompt=TEXT[at + n :][:m]) for at, n, m in shapes)

    return [
        AdapterJob(sequences((0, 39, 0), (7, 2, 0), (3, 16, 0), (20, 8, 5)), seed=11),
        AdapterJob(sequences((30, 8, 0), (12, 20, 9), (41, 1, 0)), seed=12, directives=Directives(learning_rate=2e-2)),
        AdapterJob(sequences((25, 30, 0), (2, 3, 14)), seed=13, directives=Directives(epochs=3, schedule="constant")),
    ]


# -- measuring ---------------------------------------------------------------------------------------------------------


def measure(family: str) -> Outcome:
    """Hold everything that the bank does with a family against plain peft."""
    model, tokenizer = build_tiny(family)
    model.requires_grad_(False)
    outcome = Outcome(type(model).__name__, "", "", "not trained")
    try:
        trained = LOOP.adapt(Policy(model, tokenizer, chat=False), jobs())
    except ModelError as error:
        return replace(outcome, training=_refused(error), answering=_answering(family, model, None, []))
    names = [target.name for target in trained.bank.targets]
    outcome = replace(outcome, left_out=_left_out(model, set(names)))
    try:
        _adapted(family, trained, 0)
    except ValueError as error:
        differs = replace(outcome, training=f"differs: {error}", export="not compared")
        return replace(differs, answering=_answering(family, model, None, []))
    wrong = _training_differs(family, LOOP, trained)
    if not wrong and _has_default(model):
        loop = replace(LOOP, target_modules="default")
        wrong = _training_differs(
            family, loop, loop.adapt(Policy(model, tokenizer, chat=False), jobs()), which="default layers: "
        )
    return replace(
        outcome,
        training=wrong or str(training_way(model, names, longest=41)),
        answering=_answering(family, model, trained, names),
        export=_export_differs(family, trained) or "equal",
    )


def _has_default(model: Any) -> bool:
    try:
        return bool(find_targets(model, "default"))
    except ConfigError:
        return False


def _answering(family: str, model: Any, trained: TrainedBank | None, layers: list[str]) -> str:
    try:
        return _answers_differ(family, model, trained) or str(answering_way(model, layers))
    except ModelError as error:
        return _refused(error)


def _refused(error: ModelError) -> str:
    """The reason in a refusal, without the model before it and the advice after it."""
    return "refused: " + re.sub(r"^model\.source\.name=\S+: \w+ |; [^;]*$", "", str(error))


def _left_out(model: Any, adapted: set[str]) -> str:
    """The kinds of layers without an adapter, of those in the text model that look linear."""
    head = model.get_output_embeddings()
    kinds = set()
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | Conv1D) and module is not head and name not in adapted:
            tower = re.search("vision|visual|projector|connector", name)
            kinds.add("what is for images" if tower else name.rpartition(".")[2])
    if any(parameter.dim() == 3 and "expert" in name for name, parameter in model.named_parameters()):
        kinds.add("experts")
    return ", ".join(sorted(kinds))


def _training_differs(family: str, loop: InnerLoop, trained: TrainedBank, which: str = "") -> str:
    """How far the trained adapters are from each trained alone; empty where that is float noise."""
    layers = [target.name for target in trained.bank.targets]
    for number, job in enumerate(jobs()):
        model, tokenizer = build_tiny(family)
        alone = plain_peft.fresh_adapter(model, layers, rank=loop.rank, alpha=loop.alpha, seed=job.seed)
        loss = plain_peft.train(alone, tokenizer, loop, job)
        expected, state = plain_peft.trained_weights(alone), bank_lora(trained.bank, number).state
        b = torch.cat([value.flatten() for name, value in expected.items() if ".lora_B." in name])
        off = torch.cat([(state[name] - expected[name]).flatten() for name in expected])
        share = (off.norm() / b.norm()).item()
        if not (share <= TOLERANCE and off.abs().max() <= LARGEST * b.abs().max()):
            return f"differs: {which}by {share:.2g} of the norm of B"
        if not abs(trained.stats[number].loss - loss) <= TOLERANCE * loss:
            return f"differs: {which}loss {trained.stats[number].loss:.5f}, alone {loss:.5f}"
        if not b.abs().max() > 1e-3:
            return f"differs: {which}nothing was learnt"
    return ""


@torch.no_grad()
def _answers_differ(family: str, model: Any, trained: TrainedBank | None) -> str:
    """How many answers of a mixed batch are not those of each prompt alone; empty where all are."""
    tokenizer = build_tiny(family)[1]
    policy = Policy(model, _Numbers(tokenizer.eos_token_id), chat=False)
    shapes = ((0, 40), (5, 3), (11, 17), (2, 9), (30, 1), (9, 9))
    prompts = [tokenizer(TEXT[at : at + n])["input_ids"] for at, n in shapes]
    nobody: list[int | None] = [None] * len(prompts)
    asked: list[int | None] = [2, 0, None, 1, 0, 2]
    alone = {job: _adapted(family, trained, job) for job in {None, *(asked if trained else ())}}
    for who in (nobody, asked) if trained else (nobody,):
        free = [plain_peft.continued(alone[job], p, tokens=NEW) for job, p in zip(who, prompts, strict=True)]
        for stop in (None, _stop(free)):  # with it rows leave the batch one after another
            ends = {stop, tokenizer.eos_token_id}
            expected = [_until(ends, row) for row in free]
            policy.model.generation_config.eos_token_id = stop
            found = generate_all(policy, prompts, size=64, max_new_tokens=NEW, adapters=trained, jobs=who)
            wrong = sum(text != policy.tokenizer.decode(row) for (text, _), row in zip(found, expected, strict=True))
            if wrong:
                kind = "without adapters" if who is nobody else "with adapters"
                return f"differs: {wrong} of {len(prompts)} answers {kind}" + (", rows leave" if stop else "")
    return ""


def _until(ends: set[int | None], row: list[int]) -> list[int]:
    return list(takewhile(lambda token: token not in ends, row))


@dataclass(frozen=True, slots=True)
class _Numbers:
    """In place of a tokenizer: texts are the numbers of their tokens, so that none looks like another."""

    eos_token_id: int

    def decode(self, tokens: Sequence[int], skip_special_tokens: bool = True) -> str:
        return " ".join(map(str, tokens))


def _stop(rows: list[list[int]]) -> int:
    """A token at which some rows end early and others do not."""
    tokens = {token for row in rows for token in row}
    return max(tokens, key=lambda token: (sum(token in row[1:] for row in rows) % len(rows), token))


@torch.no_grad()
def _adapted(family: str, trained: TrainedBank | None, job: int | None) -> Any:
    """A plain peft model with one adapter of the bank; the plain model for None."""
    model = build_tiny(family)[0]
    if job is None or trained is None:
        return model
    layers = [target.name for target in trained.bank.targets]
    adapted = plain_peft.fresh_adapter(model, layers, rank=LOOP.rank, alpha=LOOP.alpha, seed=0)
    weights, state = plain_peft.trained_weights(adapted), bank_lora(trained.bank, job).state
    for name, weight in weights.items():
        weight.copy_(state[name])
    return adapted


@torch.no_grad()
def _export_differs(family: str, trained: TrainedBank) -> str:
    """How far the logits of the saved folder, and of weights with it merged in, are from the bank's."""
    tokens = build_tiny(family)[1](TEXT)["input_ids"][:40]
    plain = plain_peft.logits(trained.bank.model, tokens)
    with trained.answering([1]):
        expected = plain_peft.logits(trained.bank.model, tokens)
    if not (plain - expected).abs().max().item() > 1e-3:
        return "differs: the adapter does nothing"
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        trained.save(1, folder)
        lora = read_lora(folder)
        loaded = PeftModel.from_pretrained(build_tiny(family)[0], folder).eval()
    if keys := [str(one.message) for one in said if re.search("missing|unexpected", str(one.message), re.IGNORECASE)]:
        return f"differs: loading it warns: {keys[0][:80]}"
    if fault := _logits_differ(loaded, tokens, expected):
        return f"differs: folder, {fault}"
    merged = build_tiny(family)[0]
    try:
        merge_lora(merged, lora)
    except ModelError as error:
        return f"equal; merging {_refused(error)}"
    fault = _logits_differ(merged, tokens, expected)
    return f"differs: merged weights, {fault}" if fault else ""


def _logits_differ(model: Any, tokens: Sequence[int], expected: torch.Tensor) -> str:
    off = (plain_peft.logits(model, tokens) - expected).abs().max().item()
    return "" if off <= SAME_LOGITS else f"logits by {off:.2g}"


# -- the page ----------------------------------------------------------------------------------------------------------

INTRODUCTION = f"""\
<!-- Written by docs/families.py from what it measures; change that, and run it again. -->

# Families of models

Which families of `transformers` are exact, and by which way. Each was measured as a tiny model with random weights,
which `model.source.name: random/<family>` loads as well: three adapters with sequences of 2 to 40 tokens train together
with adapters on all linear layers (and on the default layers where there are some), answer together, and are
exported. The reference is plain peft, with one adapter, one sequence and one prompt at a time, and no cache.

- **Training**: the adapters become what each becomes alone (float32: to {TOLERANCE:g} of the norm of B). `packed` puts
  sequences end to end with attention of our own, `packed by transformers` with the mask that transformers makes;
  `padded` gives every sequence a row; `one sequence a pass` shares nothing and is the slowest.
- **Answering**: the greedy answers of a batch are, token for token, those of each prompt alone, also when rows end at
  different times and when rows of the batch have different adapters.
- **Export**: the folder that is saved, loaded by `PeftModel.from_pretrained`, and the merged weights give the bank's
  logits (to {SAME_LOGITS:g}).
- **No adapter**: linear layers without one, because texts do not pass them, peft cannot adapt them, or (experts)
  transformers keeps them as one stacked weight. A run's log names them, too.

The way is found on the model that is loaded (see [the inner loop](../inner_loop.md)), so a family that is not here
works or is refused in the same manner: what no way does exactly is refused before anything is trained. Settings that a
tiny model does not have, such as another attention or precision, can lead to another way than the table's.
"""

# What people load of each family.
EXAMPLES: Mapping[str, str] = {
    "llama": "meta-llama/Llama-3.1-8B, HuggingFaceTB/SmolLM2-135M, TinyLlama",
    "qwen2": "Qwen/Qwen2.5-7B",
    "olmo": "allenai/OLMo-7B-hf",
    "olmo2": "allenai/OLMo-2-1124-7B",
    "smollm3": "HuggingFaceTB/SmolLM3-3B",
    "stablelm": "stabilityai/stablelm-2-1_6b",
    "phi": "microsoft/phi-2",
    "nemotron": "nvidia/Minitron-4B-Base",
    "apertus": "swiss-ai/Apertus-8B-2509",
    "arcee": "arcee-ai/AFM-4.5B",
    "qwen3": "Qwen/Qwen3-8B",
    "gemma": "google/gemma-2b",
    "glm": "zai-org/glm-4-9b-hf",
    "glm4": "zai-org/GLM-4-9B-0414",
    "helium": "kyutai/helium-1-2b",
    "seed_oss": "ByteDance-Seed/Seed-OSS-36B-Instruct",
    "ernie4_5": "baidu/ERNIE-4.5-0.3B-PT",
    "hunyuan_v1_dense": "tencent/Hunyuan-7B-Instruct",
    "internlm3": "internlm/internlm3-8b-instruct",
    "phi3": "microsoft/Phi-3.5-mini-instruct, microsoft/phi-4",
    "bitnet": "microsoft/bitnet-b1.58-2B-4T",
    "nanochat": "karpathy/nanochat-d32",
    "jais2": "inceptionai/Jais-2-8B-Chat",
    "hyperclovax": "naver-hyperclovax/HyperCLOVAX-SEED-Think-14B",
    "diffllama": "kajuma/DiffLlama-0.3B-handcut",
    "gpt_neox": "EleutherAI/pythia-160m",
    "gpt_neox_japanese": "abeja/gpt-neox-japanese-2.7b",
    "gpt2": "openai-community/gpt2",
    "gpt_bigcode": "bigcode/starcoderbase-1b",
    "persimmon": "adept/persimmon-8b-base",
    "gptj": "EleutherAI/gpt-j-6b",
    "codegen": "Salesforce/codegen-350M-mono",
    "falcon": "tiiuae/falcon-7b",
    "biogpt": "microsoft/biogpt",
    "openai-gpt": "openai-community/openai-gpt",
    "ctrl": "Salesforce/ctrl",
    "llama-tied": "meta-llama/Llama-3.2-1B",
    "granite": "ibm-granite/granite-3.3-2b-base",
    "cohere": "CohereLabs/c4ai-command-r-v01",
    "opt": "facebook/opt-125m",
    "opt-projected": "facebook/opt-350m",
    "xglm": "facebook/xglm-564M",
    "minicpm3": "openbmb/MiniCPM3-4B",
    "ministral3": "mistralai/Ministral-3-8B-Base-2512",
    "bert": "google-bert/bert-base-uncased",
    "bloom": "bigscience/bloom-560m",
    "mpt": "mosaicml/mpt-7b",
    "falcon-alibi": "tiiuae/falcon-rw-1b",
    "mistral": "mistralai/Mistral-7B-v0.1",
    "starcoder2": "bigcode/starcoder2-3b",
    "ministral": "mistralai/Ministral-8B-Instruct-2410",
    "gemma2": "google/gemma-2-2b",
    "gemma3_text": "google/gemma-3-270m, google/gemma-3-1b-it",
    "vaultgemma": "google/vaultgemma-1b",
    "cohere2": "CohereLabs/c4ai-command-r7b-12-2024",
    "exaone4": "LGAI-EXAONE/EXAONE-4.0-1.2B",
    "cwm": "facebook/cwm",
    "olmo3": "allenai/Olmo-3-1025-7B",
    "phi3-window": "microsoft/Phi-3-mini-4k-instruct",
    "qwen2-window": "Qwen2 with `use_sliding_window`",
    "gpt_neo": "EleutherAI/gpt-neo-125m",
    "modernbert-decoder": "jhu-clsp/ettin-decoder-150m",
    "gemma3n_text": "the text model of google/gemma-3n-E2B",
    "mixtral": "mistralai/Mixtral-8x7B-v0.1",
    "granitemoe": "ibm-granite/granite-3.1-1b-a400m-base",
    "phimoe": "microsoft/Phi-3.5-MoE-instruct",
    "granitemoeshared": "ibm-research/moe-7b-1b-active-shared-experts",
    "qwen3_moe": "Qwen/Qwen3-30B-A3B",
    "olmoe": "allenai/OLMoE-1B-7B-0924",
    "flex_olmo": "allenai/FlexOlmo-7x7B-1T",
    "qwen2_moe": "Qwen/Qwen1.5-MoE-A2.7B",
    "hunyuan_v1_moe": "tencent/Hunyuan-A13B-Instruct",
    "gpt_oss": "openai/gpt-oss-20b",
    "jetmoe": "jetmoe/jetmoe-8b",
    "deepseek_v2": "deepseek-ai/DeepSeek-V2-Lite",
    "deepseek_v3": "deepseek-ai/DeepSeek-V3",
    "glm4_moe": "zai-org/GLM-4.5-Air",
    "dots1": "rednote-hilab/dots.llm1.base",
    "ernie4_5_moe": "baidu/ERNIE-4.5-21B-A3B-PT",
    "minimax_m2": "MiniMaxAI/MiniMax-M2",
    "glm4_moe_lite": "zai-org/GLM-4.7-Flash",
    "afmoe": "arcee-ai/Trinity-Nano-Base",
    "llama4_text": "the text model of meta-llama/Llama-4-Scout-17B-16E",
    "laguna": "poolside/laguna-XS.2",
    "mamba": "state-spaces/mamba-130m-hf",
    "falcon_mamba": "tiiuae/falcon-mamba-7b",
    "mamba2": "mistralai/Mamba-Codestral-7B-v0.1",
    "rwkv": "RWKV/rwkv-4-169m-pile",
    "xlstm": "NX-AI/xLSTM-7b",
    "jamba": "ai21labs/Jamba-v0.1",
    "bamba": "ibm-ai-platform/Bamba-9B-v2",
    "falcon_h1": "tiiuae/Falcon-H1-0.5B-Base",
    "granitemoehybrid": "ibm-granite/granite-4.0-tiny-preview",
    "zamba": "Zyphra/Zamba-7B-v1",
    "zamba2": "Zyphra/Zamba2-1.2B",
    "nemotron_h": "nvidia/Nemotron-H-8B-Base-8K",
    "recurrent_gemma": "google/recurrentgemma-2b",
    "qwen3_next": "Qwen/Qwen3-Next-80B-A3B-Instruct",
    "qwen3_5_text": "the text model of Qwen/Qwen3.5-27B",
    "olmo_hybrid": "allenai/Olmo-Hybrid-7B",
    "lfm2": "LiquidAI/LFM2-350M",
    "lfm2_moe": "LiquidAI/LFM2-8B-A1B",
    "lfm3": "LiquidAI/LFM3-1.7B",
    "kimi_linear": "moonshotai/Kimi-Linear-48B-A3B-Base",
    "minimax": "MiniMaxAI/MiniMax-Text-01-hf",
    "gemma3": "google/gemma-3-4b-it",
    "qwen3_5": "Qwen/Qwen3.5-27B",
    "mistral3": "mistralai/Mistral-Small-3.1-24B-Instruct-2503",
    "llava": "llava-hf/llava-1.5-7b-hf",
    "qwen2_vl": "Qwen/Qwen2-VL-2B-Instruct",
    "qwen2_5_vl": "Qwen/Qwen2.5-VL-3B-Instruct",
    "qwen3_vl": "Qwen/Qwen3-VL-4B-Instruct",
    "idefics3": "HuggingFaceM4/Idefics3-8B-Llama3",
    "smolvlm": "HuggingFaceTB/SmolVLM-256M-Instruct",
    "paligemma": "google/paligemma-3b-pt-224",
    "internvl": "OpenGVLab/InternVL3-1B-hf",
}
HEADINGS = ("family", "class", "for example", "training", "answering", "export", "no adapter")


def row(family: str, outcome: Outcome) -> str:
    """One line of the table."""
    cells = (f"`{family}`", f"`{outcome.architecture}`", EXAMPLES[family], outcome.training, outcome.answering)
    return f"| {' | '.join(cells)} | {outcome.export} | {outcome.left_out} |"


def page(outcomes: Mapping[str, Outcome]) -> str:
    heading = f"| {' | '.join(HEADINGS)} |\n|{'---|' * len(HEADINGS)}"
    return "\n".join([INTRODUCTION, heading, *(row(family, outcome) for family, outcome in outcomes.items())]) + "\n"


def main(families: list[str]) -> int:
    torch.set_num_threads(1)  # for models as small as these more only wait for each other
    outcomes = {}
    for family in families or FAMILIES:
        outcomes[family] = measure(family)
        print(row(family, outcomes[family]), flush=True)
    if not families:
        PAGE.write_text(page(outcomes), encoding="utf-8")
    return int(any("differs" in row(family, outcome) for family, outcome in outcomes.items()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
