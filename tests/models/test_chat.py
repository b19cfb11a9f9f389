"""Chat templates as they come: each is tried out, and a prompt is what its model was trained to read."""

import logging

import pytest

from seal_lightning.errors import ConfigError, ModelError
from seal_lightning.m_step.batches import encode_example
from seal_lightning.models.chat import ChatTemplate, chosen_template, read_template
from seal_lightning.models.loading import load_model
from seal_lightning.models.random_models import build_tiny, byte_tokenizer
from seal_lightning.models.source import ModelSource
from seal_lightning.policy.policy import Policy
from seal_lightning.sampling.generation import stop_tokens
from seal_lightning.types import Prompt

ASK = Prompt("Who?", lead="\nAnswer:", system="Be short.")
END, START = "<|im_end|>", "<|im_start|>"
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('alternate') }}"
    "{% endif %}<|im_start|>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{{ m['content'] | trim }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>model\n{% endif %}"
)
QWEN3 = CHATML.removesuffix("{% endif %}") + (
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
LLAMA3 = (
    "{{- bos_token }}\n{%- if not date_string is defined %}\n    {%- if strftime_now is defined %}\n"
    '        {%- set date_string = strftime_now("%d %b %Y") %}\n    {%- else %}\n'
    '        {%- set date_string = "26 Jul 2024" %}\n    {%- endif %}\n{%- endif %}\n'
    "{%- if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}"
    "{% set messages = messages[1:] %}"
    "{%- else %}{% set system = '' %}{% endif %}"
    '{{- "<|im_start|>system\\nToday Date: " + date_string + "\\n\\n" + system + "<|im_end|>" }}\n'
    "{%- for m in messages %}{{- '<|im_start|>' + m['role'] + '\\n' + m['content'] | trim + '<|im_end|>' }}"
    "{% endfor %}\n"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
MISTRAL = (  # the system text goes before the last user's
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}"
    "{% set rest = messages[1:] %}{% else %}{% set rest = messages %}{% endif %}{% for m in rest %}"
    "{% if m['role'] == 'user' %}[INST]{% if loop.last and system is defined %}{{ system + '\n\n' }}{% endif %}"
    "{{ m['content'] }}[/INST]{% else %}{{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
DEEPSEEK = (
    "{% if not thinking is defined %}{% set thinking = false %}{% endif %}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ m['content'] }}{% elif m['role'] == 'user' %}<|im_start|>{{ m['content'] }}"
    "{% else %}<|reply|></think>{{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|reply|>{{ '<think>' if thinking else '</think>' }}{% endif %}"
)
ALWAYS_THINKS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
GPT_OSS = (
    "{% if reasoning_effort is not defined %}{% set reasoning_effort = 'medium' %}{% endif %}"
    "<|start|>system<|message|>Reasoning: {{ reasoning_effort }}, {{ strftime_now('%Y-%m-%d') }}<|end|>"
    "{% for m in messages %}{% if m['role'] == 'assistant' %}"
    "<|start|>assistant<|channel|>final<|message|>{{ m['content'] }}"
    "{% if loop.last %}<|return|>{% else %}<|end|>{% endif %}{% else %}"
    "<|start|>{{ 'developer' if m['role'] == 'system' else m['role'] }}<|message|>{{ m['content'] }}<|end|>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
PARTS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'][0]['text'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DROPS_SYSTEM = CHATML.replace("{% for m in messages %}", "{% for m in messages if m['role'] != 'system' %}")
SPECIAL = [START, END, "<|reply|>", "[INST]", "[/INST]", *(f"<|{n}|>" for n in ("start", "channel", "message", "end"))]


def speaking(template, *, special=SPECIAL):
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [*special, "<|return|>"]})
    tokenizer.chat_template = template
    return tokenizer


def policy_with(template, *, stops=(), **args):
    """A policy whose template is taken in any case; `stops` are the model's beside <eos>."""
    tokenizer = speaking(template)
    model, _ = build_tiny("llama")
    model.resize_token_embeddings(len(tokenizer))
    model.generation_config.eos_token_id = [1, *tokenizer.convert_tokens_to_ids(list(stops))]
    return Policy(model, tokenizer, read_template(tokenizer, args=args))


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (CHATML, "<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n"),
        (GEMMA, "<bos><|im_start|>user\nBe short.\n\nWho?<|im_end|>\n<|im_start|>model\n"),
        (DROPS_SYSTEM, "<|im_start|>user\nBe short.\n\nWho?<|im_end|>\n<|im_start|>assistant\n"),
        (QWEN3, "<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n"
                "<think>\n\n</think>\n\n"),
        (LLAMA3, "<bos><|im_start|>system\nToday Date: 01 Jan 2025\n\nBe short.<|im_end|>"
                 "<|im_start|>user\nWho?<|im_end|><|im_start|>assistant\n"),
        (MISTRAL, "<bos>[INST]Be short.\n\nWho?[/INST]"),
        (DEEPSEEK, "Be short.<|im_start|>Who?<|reply|></think>"),
        (GPT_OSS, "<|start|>system<|message|>Reasoning: low, 2025-01-01<|end|>"
                  "<|start|>developer<|message|>Be short.<|end|><|start|>user<|message|>Who?<|end|><|start|>assistant"),
        (PARTS, "<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n"),
        ({"default": MISTRAL, "tool_use": GEMMA}, "<bos>[INST]Be short.\n\nWho?[/INST]"),
    ],
)  # fmt: skip
def test_what_a_model_reads(template, expected):
    policy = policy_with(template)
    assert policy.format(ASK) == expected
    assert policy.encode(expected).count(0) == expected.count("<bos>")


def test_without_a_system_text_nothing_is_folded():
    assert policy_with(GEMMA).format(Prompt("Who?")) == "<bos><|im_start|>user\nWho?<|im_end|>\n<|im_start|>model\n"


@pytest.mark.parametrize(
    ("template", "ends", "reply"),
    [
        (CHATML, END, ""),
        (GEMMA, END, ""),
        (MISTRAL, "<eos>", ""),
        (DEEPSEEK, "<eos>", ""),
        (GPT_OSS, "<|return|>", "<|channel|>final<|message|>"),
        (ALWAYS_THINKS, END, "</think>\n\n"),
        (CHATML.replace("<|im_end|>\n", ""), START, ""),  # as GLM-4, which ends a turn with the next one's beginning
    ],
)
def test_the_m_step_ends_an_edit_as_the_template_ends_a_turn(template, ends, reply):
    policy = policy_with(template)
    prompt = policy.format(Prompt("Who?"))
    example = encode_example(policy, prompt, "Ida", max_length=500)
    trained = [token for token, label in zip(example.input_ids, example.labels, strict=True) if label != -100]
    assert policy.tokenizer.decode(trained) == f"{reply}Ida{ends}"
    assert trained[-1] == policy.tokenizer.convert_tokens_to_ids(ends)
    assert trained[-1] in stop_tokens(policy)


def test_arguments_reach_the_template():
    assert policy_with(QWEN3, enable_thinking=True).format(Prompt("Who?")).endswith("<|im_start|>assistant\n")
    assert "Today Date: 3 May 1999" in policy_with(LLAMA3, date_string="3 May 1999").format(ASK)
    assert "Reasoning: high" in policy_with(GPT_OSS, reasoning_effort="high").format(ASK)
    policy = policy_with(DEEPSEEK, thinking=True)
    assert policy.format(Prompt("Who?")) == "<|im_start|>Who?<|reply|><think>"
    assert policy.decode([75], prompt=policy.encode(policy.format(Prompt("Who?")))) == "<think>i"


@pytest.mark.parametrize(
    ("template", "knows"),
    [(QWEN3, "it knows enable_thinking"), (LLAMA3, "it knows date_string"), (CHATML, "it knows none")],
)
def test_an_argument_that_the_template_does_not_know(template, knows):
    with pytest.raises(ModelError, match=f"does not know enable_thinkin; {knows}"):
        read_template(speaking(template), name="m", args={"enable_thinkin": True})


def test_the_date_is_the_runs():
    tokenizer = speaking(GPT_OSS)
    text = read_template(tokenizer, date="2024-02-29").render(ASK)
    assert "2024-02-29" in text
    every = "{{ strftime_now('%A %a %B %b %-d %d %H:%M:%S %j %y %p') }} {{ messages[0]['content'] }}"
    assert read_template(speaking(every), date="2024-02-09").render(Prompt("x")) == (
        "Friday Fri February Feb 9 09 00:00:00 040 24 AM x"
    )


@pytest.mark.parametrize("day", ["yesterday", "2024-13-01", ""])
def test_a_date_that_is_none(day):
    with pytest.raises(ConfigError, match=r"model\.source\.date must be a day as YYYY-MM-DD"):
        ModelSource(date=day)


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{% for m in messages %}{{ raise_exception('No.') }}{% endfor %}", "No"),
        ("{{ customer.name }}{{ messages[0]['content'] }}", "'customer' is undefined"),
        ("{% for m in messages %}", "Unexpected end of template"),
        ("Hello.", "it leaves out what the user says"),
        ({"tool_use": CHATML}, "multiple chat templates"),
    ],
)
def test_a_template_that_cannot_be_used(template, why):
    with pytest.raises(ModelError, match=f"model.source.name=m: its chat template cannot be used: .*{why}") as caught:
        read_template(speaking(template), name="m")
    assert str(caught.value).endswith("; model.source.chat=false gives plain prompts")
    assert "\n" not in str(caught.value)


# -- instruct models and base models ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "stops", "chat"),
    [
        (CHATML, [], False),  # Qwen2.5 and Qwen3 -Base: stop at <eos>, carry ChatML
        (CHATML, [END], True),
        (MISTRAL, [], True),
        (CHATML.replace("<|im_end|>\n", "\n"), [START], True),
        (CHATML.replace("<|im_end|>\n", "\n"), [], False),
        ("{% for m in messages %}{{ m['content'] }}\n{% endfor %}", [], True),  # ends turns with nothing
        ("{% for m in messages %}{{ m['content'] }} [end]\n{% endfor %}", [], False),  # with what is no token
    ],
)
def test_auto_goes_by_the_models_stop_tokens(template, stops, chat, caplog):
    caplog.set_level(logging.INFO, logger="seal_lightning.models.chat")
    policy = policy_with(template, stops=stops)
    template = read_template(policy.tokenizer, name="m")
    assert (chosen_template(template, policy.model, name="m") is not None) is chat
    (line,) = caplog.messages
    assert line.startswith(
        "m: prompts go through its chat template" if chat else "m: prompts are plain, as for a base model"
    )


@pytest.fixture
def saved(tmp_path):
    def save(template, *, stops=()):
        policy = policy_with(CHATML, stops=stops)
        policy.tokenizer.chat_template = template
        policy.model.save_pretrained(tmp_path / "m")
        policy.tokenizer.save_pretrained(tmp_path / "m")
        return str(tmp_path / "m")

    return save


def test_a_base_model_with_a_template_gets_plain_prompts(saved):
    name = saved(CHATML)
    assert Policy(*load_model(ModelSource(name))).format(ASK) == "Be short.\n\nWho?\nAnswer:"
    policy = Policy(*load_model(ModelSource(name, chat=True)))
    assert policy.format(ASK).startswith("<|im_start|>system\nBe short.")
    assert policy.tokenizer.convert_tokens_to_ids(END) in stop_tokens(policy)


def test_several_templates_come_back_from_disk(saved):
    policy = Policy(*load_model(ModelSource(saved({"default": MISTRAL, "tool_use": GEMMA}))))
    assert policy.format(ASK) == "<bos>[INST]Be short.\n\nWho?[/INST]"


def test_arguments_without_a_template_are_refused(saved):
    name = saved(QWEN3)
    with pytest.raises(
        ModelError, match=r"template_args has no use: prompts of .* are plain; .*model\.source\.chat=true"
    ):
        load_model(ModelSource(name, template_args={"enable_thinking": True}))
    chat = load_model(ModelSource(name, chat=True, template_args={"enable_thinking": True}))[2]
    assert isinstance(chat, ChatTemplate) and chat.args == {"enable_thinking": True}


def test_a_template_that_fails_is_refused_at_load(saved):
    name = saved("{{ raise_exception('No chat.') }}")
    with pytest.raises(ModelError, match=r"its chat template cannot be used: No chat; model\.source\.chat=false"):
        load_model(ModelSource(name))
    assert load_model(ModelSource(name, chat=False))[2] is False


def test_what_a_journal_holds_against_other_prompts():
    assert policy_with(CHATML).chat_stamp is True
    assert Policy(*build_tiny("llama"), chat=False).chat_stamp is False
    stamps = [policy_with(QWEN3).chat_stamp, policy_with(QWEN3, enable_thinking=True).chat_stamp]
    stamps += [Policy(None, speaking(LLAMA3), read_template(speaking(LLAMA3), date=day)).chat_stamp
               for day in ("2024-01-01", "2024-01-02")]  # fmt: skip
    assert len(set(stamps)) == 4 and all(isinstance(stamp, str) for stamp in stamps)
