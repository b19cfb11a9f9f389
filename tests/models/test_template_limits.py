"""Chat templates of others: they come to an end, touch nothing, and say in one line why they cannot be used."""

import resource
import sys

import pytest

from seal_lightning.cli import main
from seal_lightning.errors import ModelError, SealError
from seal_lightning.models.chat import read_template
from seal_lightning.models.random_models import build_tiny, byte_tokenizer
from seal_lightning.models.template_limits import NUMBER, RANGE, TemplateOverrun, limited, short_range
from seal_lightning.types import Prompt

CHATML = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"
LONG = (
    "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}"
)
GROWS = "{% set n = namespace(a='x') %}{% for i in range(99) %}{% set n.a = n.a ~ n.a %}{% endfor %}"


def with_template(source: str):
    tokenizer = byte_tokenizer(chat=True)
    tokenizer.chat_template = source
    return tokenizer


# ten gigabytes in one operation: while it is compiled, while it is rendered, and with filters of other names
FILLED = "{{ ('a' * 99999)|replace('a', 'b' * 99999) }}"
FILLED_LATER = "{% set n = 99999 %}{{ ('a' * n)|replace('a', 'b' * n) }}"
INDENTED = "{% set n = 99999 %}{{ ('\\n' * n)|indent(n, blank=true) }}"


@pytest.mark.parametrize(
    "source",
    [LONG, GROWS, "{% macro m(x) %}{{ m(x) }}{{ m(x) }}{% endmacro %}" + LONG, FILLED, FILLED_LATER, INDENTED],
)
def test_a_template_that_runs_on_is_stopped(source):
    with pytest.raises(SealError, match=r"the chat template of .* cannot be used: it takes more than") as caught:
        read_template(with_template(source + CHATML))
    assert "\n" not in str(caught.value) and str(caught.value).endswith("model.source.chat=false gives plain prompts")
    assert sys.gettrace() is None or sys.gettrace().__module__ != "seal_lightning.models.template_limits"


def test_the_limit_on_memory_is_gone_afterwards():
    before = resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(SealError, match="it takes more than 512 MiB of memory"):
        read_template(with_template(FILLED + CHATML))
    assert resource.getrlimit(resource.RLIMIT_AS) == before


def test_one_that_runs_on_later_is_stopped_too():
    """It cannot tell a trial from the real thing."""
    template = read_template(with_template("{% if 'Marr' in messages[0]['content'] %}" + LONG + "{% endif %}" + CHATML))
    assert template.render(Prompt("Who?")) == "<|im_start|>Who?<|im_end|>"
    with pytest.raises(TemplateOverrun, match="it takes more than"):
        template.render(Prompt("Where is Marr?"))


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ 9 ** 9 ** 9 ** 9 }}", "line 1: powers are not computed"),
        ("{{ 'a' * 99999 * 99999 }}", "line 1: products of more than two names or numbers"),
        ("{{ 'a' * (99999 * 99999) }}", "line 1: products of more than two names or numbers"),
        ("{% set n = 9 %}{{ n * n }}", "line 1: products of two names are not computed"),
        ("{{ 'a' * 1000000000000 }}", "line 1: expected numbers up to 100,000, got 1000000000000"),
        ("\n{{ 'a'|center(10000000000) }}", "line 2: expected numbers up to 100,000"),
        ("{{ '%99999999999d' % 1 }}", "line 1: expected widths of up to 4 digits"),
        ("{{ '{:>99999999999}'.format(1) }}", "line 1: expected widths of up to 4 digits"),
        ("{% for i in range(10001) %}{% endfor %}", "expected a range of at most 10,000 numbers, got 10,001"),
        ("x" * 200_001, "expected at most 200,000 characters, got 200,076"),
        ("{{ " + "(" * 50_000 + ")" * 50_000 + " }}", "its chat template cannot be used"),
        ("{% macro m(x) %}{{ m(x) }}{% endmacro %}{{ m(1) }}", "its chat template cannot be used"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "access to attribute '__class__'"),
        ("{{ messages.append({'role': 'x'}) }}", "append"),
        ("{{ lipsum.__globals__['os'].system('x') }}", "__globals__"),
        ("{% include '/etc/passwd' %}", "no loader for this environment"),
        ("{% import 'os' as os %}", "no loader for this environment"),
    ],
)
def test_what_a_template_may_not_do(source, reason):
    with pytest.raises(ModelError) as caught:
        read_template(with_template(source + CHATML), name="theirs")
    assert reason in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_ordinary_arithmetic_stays():
    source = "{% for i in range(3) %}{{ '-' * i }}{{ '%03d' % i }}{{ 2 * 512 }}{% endfor %}" + CHATML
    assert (
        read_template(with_template(source)).render(Prompt("Who?")).startswith("0001024-0011024--0021024<|im_start|>")
    )
    assert NUMBER >= 16_384 and list(short_range(2, 8, 3)) == [2, 5]
    with pytest.raises(OverflowError):
        short_range(RANGE + 1)


def test_tracing_is_left_as_it_was():
    def mine(frame, event, argument):
        return None

    before = sys.gettrace()
    sys.settrace(mine)
    try:
        with limited():
            pass
        assert sys.gettrace() is mine
    finally:
        sys.settrace(before)


def test_a_model_with_such_a_template_ends_a_command_in_a_line(tmp_path, capsys):
    model, _ = build_tiny("llama")
    model.save_pretrained(tmp_path / "model")
    with_template(LONG + CHATML).save_pretrained(tmp_path / "model")
    (tmp_path / "doc.md").write_text("The Marr is a river.\n")
    args = ["adapt", str(tmp_path / "doc.md"), "--model.source.name", str(tmp_path / "model"), "--dry_run"]
    assert main([*args, "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert f"the chat template of {tmp_path / 'model'} cannot be used: it takes more than" in error
    assert error.splitlines()[-1].startswith("seal: ")
