"""The ARC self-edit: what is read, what is rejected and why, and that no text can break the reader."""

import json
import random
import time
from collections import Counter

import pytest

from seal_lightning.errors import ConfigError
from seal_lightning.models.random_models import build_tiny
from seal_lightning.policy.policy import Policy
from seal_lightning.sampling import LocalSampler, SampleRequest
from seal_lightning.tasks.arc.edit import REASONS, SCHEMA, ArcEdit, ArcLimits, read_edit, write_edit
from seal_lightning.types import Context

LIMITS = ArcLimits(learning_rate=(1e-5, 1e-2), epochs=(1, 10))
ASKED = {
    "basic": True,
    "size": False,
    "chained": False,
    "repeated": True,
    "loss": "outputs",
    "learning_rate": 0.0001,
    "epochs": 2,
}
EDIT = ArcEdit(families=("basic", "repeated"), loss="outputs", learning_rate=0.0001, epochs=2)
TEXT = json.dumps(ASKED)


def text(**changed) -> str:
    """The edit with other values; None leaves a field out."""
    return json.dumps({name: value for name, value in {**ASKED, **changed}.items() if value is not None})


def raw(name: str, value: str) -> str:
    """The edit with one value written as it stands."""
    return text(**{name: "@"}).replace('"@"', value)


# -- what is read ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "written",
    [
        TEXT,
        f"  {TEXT}\n\n",
        json.dumps(ASKED, indent=4),
        f"```json\n{TEXT}\n```",
        f"```\n{TEXT}",
        f"I think {{this}} is best:\n{TEXT}\nbecause of {{that}}.",
        f'{{"config": {TEXT}}}',
        f"[{TEXT}]",
        f"{text(epochs=9)}\n{TEXT}",
        f'{TEXT}\n{{"note": "size"}}',
        f"{TEXT}\n{TEXT[:40]}",
        f"{{{{{{ {TEXT} }}}}",
        json.dumps(dict(reversed(ASKED.items()))),
    ],
)
def test_the_last_readable_object_counts_whatever_is_around_it(written):
    assert read_edit(written, LIMITS) == (EDIT, ASKED, "")


def test_families_are_in_their_order():
    edit, _, _ = read_edit(text(basic=True, size=True, chained=True, repeated=True, loss="all"), LIMITS)
    assert edit == ArcEdit(("basic", "size", "chained", "repeated"), "all", 0.0001, 2)
    edit, _, _ = read_edit(text(basic=False, repeated=False), LIMITS)
    assert edit is not None and edit.families == ()


@pytest.mark.parametrize(
    ("name", "written", "asked", "applied"),
    [
        ("epochs", "2.0", 2.0, 2),
        ("epochs", "1e1", 10.0, 10),
        ("epochs", "300", 300, 10),
        ("epochs", "9" * 250, int("9" * 250), 10),
        ("learning_rate", "1", 1, 0.01),
        ("learning_rate", "1e-4", 1e-4, 1e-4),
        ("learning_rate", "1e-300", 1e-300, 1e-5),
        ("learning_rate", "9" * 250, int("9" * 250), 0.01),
    ],
)
def test_a_value_beyond_the_limits_is_moved_there_and_recorded_as_asked(name, written, asked, applied):
    edit, found, reason = read_edit(raw(name, written), LIMITS)
    assert reason == "" and found == {**ASKED, name: asked}
    assert type(getattr(edit, name)) is type(applied) and getattr(edit, name) == applied


def test_what_is_written_is_read_again():
    assert write_edit(EDIT) == TEXT
    assert read_edit(write_edit(EDIT), LIMITS)[0] == EDIT


# -- what is rejected --------------------------------------------------------------------------------------------------

REJECTED = {
    "no JSON object": [
        "",
        "   \n",
        "basic: true, size: false",
        "{}",
        "{a, b}",
        '{"note": 1}',
        "[1, 2]",
        "null",
        "{" * 1000,
        "}" * 10,
        '{"a":' * 1000,
    ],
    "broken JSON": [
        TEXT[:-1],
        TEXT[:60],
        '{"basic"',
        TEXT.replace('"', "'"),
        TEXT.replace("true", "True"),
        TEXT.replace("}", ",}"),
        TEXT.replace("{", "{// settings\n"),
        raw("loss", '"out\nputs"'),
        raw("learning_rate", "1e-4f"),
        raw("learning_rate", "01"),
        raw("learning_rate", ".5"),
        raw("learning_rate", "1" * 100 + "." * 2),
        raw("epochs", "[" * 5000 + "]" * 5000),
        raw("epochs", "{}"),
        text(loss="all}"),
    ],
    "repeated field": [TEXT.replace("{", '{"epochs": 2, '), TEXT.replace("{", '{"note": 1, "note": 1, ')],
    "unknown field": [text(batch_size=2), text(Basic=True), text(loss=None, Loss="all"), '{"epochs": 1, "": 1}'],
    "missing field": [*(text(**{name: None}) for name in ASKED), '{"epochs": 3}', f'{TEXT}\n{{"epochs": 3}}'],
    "a family is not a boolean": [
        *(text(**{name: value}) for name in ("basic", "repeated") for value in (1, 0, "true", [], [[True]])),
        raw("size", "null"),
        raw("size", "NaN"),
    ],
    "unknown loss": [
        *(text(loss=value) for value in ("", "Outputs", "output", " all", 1, True, ["all"])),
        raw("loss", "null"),
    ],
    "learning_rate is not a positive number": [
        *(raw("learning_rate", value) for value in ("0", "0.0", "-0.0", "-1e-4", "1e-400", "true", '"1e-4"', "null")),
        *(raw("learning_rate", value) for value in ("NaN", "Infinity", "-Infinity", "1e999", "[]", "1" * 5000)),
    ],
    "epochs is not a whole number of 1 or more": [
        *(raw("epochs", value) for value in ("0", "-1", "-0.0", "2.5", "0.5", "true", '"2"', "null", "NaN", "1e999")),
        *(raw("epochs", value) for value in ("Infinity", "[2]", "1" * 5000, "-" + "1" * 5000)),
    ],
}


@pytest.mark.parametrize(
    ("written", "reason"), [(written, reason) for reason, texts in REJECTED.items() for written in texts]
)
def test_what_is_no_edit_has_a_reason(written, reason):
    edit, asked, found = read_edit(written, LIMITS)
    assert (edit, found) == (None, reason)
    recorded = json.dumps(asked, allow_nan=False, ensure_ascii=False)
    recorded.encode()


def test_every_reason_has_cases():
    assert tuple(REJECTED) == REASONS


def test_what_was_asked_is_recorded_though_rejected():
    written = (
        raw("learning_rate", "Infinity").replace('"outputs"', '["a", "\\ud800"]').replace("2}", '2, "é\\udfff": 1}')
    )
    assert read_edit(written, LIMITS)[1:] == (
        {**ASKED, "learning_rate": "Infinity", "loss": "['a', '\\ud800']", "é\\udfff": 1},
        "unknown field",
    )


# -- no text breaks it -------------------------------------------------------------------------------------------------


def mutated(draw: random.Random) -> str:
    """An edit after a few accidents."""
    result = draw.choice([TEXT, json.dumps(ASKED, indent=2), text(epochs=7, loss="all"), f"{TEXT}\n{TEXT}"])
    for _ in range(draw.randint(1, 4)):
        result = draw.choice(ACCIDENTS)(result, draw)
    return result


def replaced(text: str, draw: random.Random) -> str:
    place = draw.randrange(len(text) + 1)
    new = draw.choice([*'{}[]":,\\ \n0e.-', "\ud800", "é", "\u2028", "\x00", chr(draw.randrange(0x110000)), ""])
    return text[:place] + new + text[place + 1 :]


def noise(draw: random.Random) -> str:
    return draw.randbytes(draw.randrange(200)).decode("latin-1")


JUNK = [
    "NaN",
    "-Infinity",
    "1e999",
    "1" * 5000,
    "true",
    "null",
    '"x"',
    "[" * 1200,
    '{"a": 1}',
    "0",
    "-1",
    "2.0",
    "1e-3",
]
ACCIDENTS = [
    lambda text, draw: text[: draw.randrange(len(text) + 1)],
    lambda text, draw: text[draw.randrange(len(text) + 1) :],
    lambda text, draw: text + text,
    lambda text, draw: f"```{draw.choice(['', 'json', 'x'])}\n{text}\n```",
    lambda text, draw: f'{{"edit": {text}}}',
    lambda text, draw: text.replace(draw.choice(["0.0001", "2", "true", "false", '"outputs"']), draw.choice(JUNK)),
    lambda text, draw: text.replace(draw.choice(list(ASKED)), draw.choice([*ASKED, "x", "\\ud800"])),
    lambda text, draw: "".join(draw.sample(text, len(text))) if draw.random() < 0.1 else text,
    lambda text, draw: noise(draw) + text + noise(draw),
    lambda text, draw: noise(draw) if draw.random() < 0.2 else text,
    replaced,
    replaced,
    replaced,
]


def test_ten_thousand_mutated_edits():
    draw, counts, began = random.Random(0), Counter(), time.perf_counter()
    for _ in range(10_000):
        edit, asked, reason = read_edit(mutated(draw), LIMITS)
        counts[reason] += 1
        json.dumps(asked, allow_nan=False, ensure_ascii=False).encode()
        assert (edit is None) == (reason in REASONS) and (edit is None) == (reason != "")
        if edit is not None:
            assert edit.loss in ("outputs", "all") and type(edit.learning_rate) is float and type(edit.epochs) is int
            assert 1e-5 <= edit.learning_rate <= 1e-2 and 1 <= edit.epochs <= 10
    assert time.perf_counter() - began < 10
    assert set(counts) == {"", *REASONS}  # the accidents reach every branch
    assert counts[""] > 1000


@pytest.mark.parametrize("depth", range(900, 1000))
def test_depths_that_are_just_readable_are_recorded_too(depth):
    _, asked, reason = read_edit(raw("epochs", "[" * depth + "]" * depth), LIMITS)
    assert reason in ("epochs is not a whole number of 1 or more", "broken JSON")
    json.dumps(asked)


@pytest.mark.parametrize(
    "unit",
    [
        "{",
        "}",
        "{}",
        '{"',
        '{"a":',
        "[",
        '{"epochs":',
        '{"epochs": 1}',
        "{epochs ",
        '"basic" ',
        "9",
        "```{\n",
        "\ud800",
    ],
)
def test_a_megabyte_of_anything_takes_no_time(unit):
    for start in ("", '{"epochs": '):
        began = time.perf_counter()
        _, _, reason = read_edit(start + unit * (1_000_000 // len(unit)), LIMITS)
        assert reason in REASONS
        assert time.perf_counter() - began < 5  # 0.8 s at most where nothing else runs; quadratic would be minutes


# -- schema and limits -------------------------------------------------------------------------------------------------


def test_schema():
    assert SCHEMA["required"] == list(SCHEMA["properties"]) == list(ASKED)
    assert SCHEMA["additionalProperties"] is False
    assert SCHEMA["properties"]["basic"] == {"type": "boolean"}
    assert SCHEMA["properties"]["loss"] == {"enum": ["outputs", "all"]}
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA


def test_schema_with_limits():
    schema = LIMITS.schema()
    rate = {"type": "number", "minimum": 1e-5, "maximum": 1e-2, "multipleOf": 1e-7}
    assert schema["properties"]["learning_rate"] == rate
    assert schema["properties"]["epochs"] == {"type": "integer", "minimum": 1, "maximum": 10}
    assert list(schema["properties"]) == schema["required"] == list(ASKED)
    assert SCHEMA["properties"]["epochs"] == {"type": "integer", "minimum": 1}


@pytest.mark.parametrize(
    "limits", [LIMITS, ArcLimits(), ArcLimits((3.3e-6, 0.25), (2, 3)), ArcLimits((1.0, 2000.0), (1, 1))]
)
def test_what_is_sampled_under_the_schema_is_an_edit_within_the_limits(limits):
    policy = Policy(*build_tiny("llama"), chat=False)
    context = Context(id="a", title="", passage="")
    requests = [SampleRequest("Settings:", context, seed, seed, schema=limits.schema()) for seed in range(24)]
    for temperature in (0.0, 1.0):
        sampler = LocalSampler(temperature=temperature, top_p=1.0, constrained=True)
        samples = sampler.sample(policy, requests if temperature else requests[:1])
        for sample in samples:
            edit, asked, reason = read_edit(sample.text, limits)
            assert edit is not None, (reason, sample.text)
            assert (edit.learning_rate, edit.epochs) == (asked["learning_rate"], asked["epochs"])
            assert sample.tokens < 120  # bytes


@pytest.mark.parametrize("limits", [{"epochs": (5, 1)}, {"epochs": (1.5, 5)}, {"learning_rate": (0.0, 1.0)}])
def test_limits_are_validated(limits):
    (name,) = limits
    with pytest.raises(ConfigError, match=f"{name} must be two"):
        ArcLimits(**limits)
