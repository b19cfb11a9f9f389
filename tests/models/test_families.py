"""Every family is exact in the way that stands here, or refused: measured against plain peft (docs/families.py).

A family that gets slower, or is refused, fails here, and so does a page that says otherwise.
"""

from dataclasses import replace

import families
import pytest

from seal_lightning.models.random_models import FAMILIES, build_tiny
from seal_lightning.policy.policy import Policy

PACKED = """
    llama qwen2 olmo olmo2 smollm3 phi nemotron apertus arcee qwen3 gemma glm glm4 helium seed_oss ernie4_5
    hunyuan_v1_dense internlm3 phi3 bitnet nanochat jais2 hyperclovax diffllama gpt_neox gpt2 gpt_bigcode persimmon ctrl
    llama-tied granite cohere opt opt-projected minicpm3 ministral3
    mixtral granitemoe phimoe granitemoeshared qwen3_moe olmoe flex_olmo qwen2_moe hunyuan_v1_moe jetmoe
    deepseek_v2 deepseek_v3 glm4_moe dots1 ernie4_5_moe
    minimax_m2 glm4_moe_lite
    mistral3 llava qwen2_vl qwen2_5_vl qwen3_vl idefics3 smolvlm internvl
""".split()
PACKED_BY_TRANSFORMERS = """
    stablelm gpt_neox_japanese gptj codegen
    mistral starcoder2 ministral gemma2 gemma3_text vaultgemma cohere2 exaone4 cwm olmo3 phi3-window qwen2-window
    gpt_neo modernbert-decoder gemma3n_text llama4_text laguna gemma3
""".split()
PADDED = """
    falcon biogpt openai-gpt xglm bloom mpt falcon-alibi gpt_oss afmoe
    mamba falcon_mamba mamba2 rwkv xlstm jamba bamba falcon_h1 granitemoehybrid zamba zamba2 nemotron_h recurrent_gemma
    qwen3_next qwen3_5_text olmo_hybrid lfm2 lfm2_moe lfm3 kimi_linear minimax qwen3_5
""".split()
TRAINING = {
    **dict.fromkeys(PACKED, "packed"),
    **dict.fromkeys(PACKED_BY_TRANSFORMERS, "packed by transformers"),
    **dict.fromkeys(PADDED, "padded"),
    "paligemma": "refused",
    "bert": "refused",
}
ALONE = "one row at a time"
LEFT, EQUAL, ANEW = (
    "padded on the left",
    "only with rows of the same length",
    "without a cache, which takes much longer",
)
ANSWERING = {
    **dict.fromkeys(FAMILIES, LEFT),
    **dict.fromkeys(("mamba", "falcon_mamba", "xlstm"), EQUAL),
    **dict.fromkeys(("rwkv", "minimax"), ALONE),
    **dict.fromkeys(("openai-gpt", "recurrent_gemma"), ANEW),
    "paligemma": "refused",
    "bert": "refused",
}
EXPORT = {
    **dict.fromkeys(FAMILIES, "equal"),
    "paligemma": "not trained",
    "bert": "not trained",
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_exact_or_refused(family):
    outcome = families.measure(family)
    found = [text.partition(": ")[0] for text in (outcome.training, outcome.answering, outcome.export)]
    assert found == [TRAINING[family], ANSWERING[family], EXPORT[family]], families.row(family, outcome)
    assert families.row(family, outcome) in families.PAGE.read_text(), "run python docs/families.py"


def test_the_page_has_every_family_once():
    rows = families.PAGE.read_text().splitlines()
    listed = [line.split("`")[1] for line in rows if line.startswith("| `")]
    assert listed == list(FAMILIES)
    assert set(listed) == set(families.EXAMPLES)
    assert len(listed) >= 60
    assert families.PAGE.read_text().startswith(families.INTRODUCTION)


def test_a_difference_is_found():
    """The comparison itself: with adapters whose learning rate was one per cent higher, and with another model."""
    model, tokenizer = build_tiny("llama")
    model.requires_grad_(False)
    trained = families.LOOP.adapt(Policy(model, tokenizer, chat=False), families.jobs())
    assert families._training_differs("llama", families.LOOP, trained) == ""
    assert families._answers_differ("llama", model, trained) == ""
    assert families._export_differs("llama", trained) == ""
    other = replace(families.LOOP, learning_rate=1.01e-2).adapt(Policy(model, tokenizer, chat=False), families.jobs())
    assert families._training_differs("llama", families.LOOP, other).startswith("differs: by 0.0")
    stranger = build_tiny("llama", seed=1)[0]
    assert families._answers_differ("llama", stranger, None) == "differs: 6 of 6 answers without adapters"
