"""What a policy reads: plain text or its chat template, one beginning of a sequence, and how much of it."""

import pytest
from tokenizers.processors import TemplateProcessing

from seal_lightning.models.random_models import build_tiny
from seal_lightning.policy.policy import Policy
from seal_lightning.types import Prompt


def test_a_base_model_reads_plain_text():
    policy = Policy(*build_tiny("llama"), chat=False)
    assert policy.format(Prompt(user="Who?", lead="\nAnswer:")) == "Who?\nAnswer:"
    assert policy.format(Prompt(user="Who?", lead="\nAnswer:", system="Be short.")) == "Be short.\n\nWho?\nAnswer:"
    assert policy.encode("ab") == [67, 68]


def test_an_instruct_model_reads_its_template():
    policy = Policy(*build_tiny("llama", chat=True), chat=True)
    assert policy.format(Prompt(user="Who?", lead="\nAnswer:")) == "<user>\nWho?<eos>\n<assistant>\n"
    assert policy.format(Prompt(user="Who?", system="Be short.")) == (
        "<system>\nBe short.<eos>\n<user>\nWho?<eos>\n<assistant>\n"
    )


@pytest.mark.parametrize("chat", [False, True])
def test_there_is_one_bos(chat):
    model, tokenizer = build_tiny("llama", chat=chat)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    if chat:
        tokenizer.chat_template = "<bos>" + tokenizer.chat_template
    policy = Policy(model, tokenizer, chat)
    ids = policy.encode(policy.format(Prompt(user="ab", lead="")))
    assert ids[0] == tokenizer.bos_token_id == 0
    assert ids.count(0) == 1


def test_the_window_is_the_models():
    assert Policy(*build_tiny("llama", max_positions=96), chat=False).window == 96
    assert Policy(*build_tiny("gpt2", max_positions=96), chat=False).window == 96
