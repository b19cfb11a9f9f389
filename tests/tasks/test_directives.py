import json

import pytest

from seal_lightning.errors import ConfigError
from seal_lightning.tasks.directives import DirectiveLimits, split_directives
from seal_lightning.types import Directives

LIMITS = DirectiveLimits(epochs=(1, 10), learning_rate=(1e-4, 1e-2), batch_size=(1, 4))


@pytest.mark.parametrize(
    "text",
    [
        'Ada ruled.\n{"epochs": 3}',
        'Ada ruled. {"epochs": 3}',
        'Ada ruled.\n```json\n{"epochs": 3}\n```\n',
        'Ada ruled.\n```\n{\n  "epochs": 3\n}\n```',
        'Ada ruled.\n```json\n{"epochs": 3}',
        'Ada ruled.\n{"directives": {"epochs": 3}}',
    ],
)
def test_fenced_or_bare(text):
    assert split_directives(text) == ("Ada ruled.", {"epochs": 3})


def test_last_object_that_names_a_directive_counts():
    text = 'The set {a, b}.\n{"epochs": 1}\n{"epochs": 3, "why": "short"}\n{"note": 1}'
    body, asked = split_directives(text)
    assert asked == {"epochs": 3, "why": "short"}
    assert body == 'The set {a, b}.\n{"epochs": 1}\n{"note": 1}'


@pytest.mark.parametrize(
    "text", ['Ada ruled.\n{"epochs": 3, "lear', "Ada ruled.\n{epochs: 3}", "Ada ruled.\n```\n{'epochs': 3,}\n```"]
)
def test_malformed_is_cut_out_and_not_applied(text):
    assert split_directives(text) == ("Ada ruled.", {})


@pytest.mark.parametrize("text", ["", "Ada ruled.", "A set {1, 2}.", '{"name": "Ada"}', "{" * 10000, '{"a":' * 5000])
def test_text_without_directives_is_left_alone(text):
    assert split_directives(text) == (text, {})


@pytest.mark.parametrize(
    ("asked", "applied"),
    [
        ('{"epochs": 3, "learning_rate": 0.001, "batch_size": 2}', Directives(3, 0.001, 2)),
        ('{"epochs": 300, "learning_rate": 1, "batch_size": 0}', Directives(10, 0.01, 1)),
        ('{"epochs": -1, "learning_rate": 1e-9}', Directives(1, 1e-4)),
        ('{"epochs": 3.0}', Directives(3)),
        ('{"epochs": 3.5, "batch_size": "2", "learning_rate": null}', Directives()),
        ('{"epochs": true, "learning_rate": false, "batch_size": 2}', Directives(batch_size=2)),
        ('{"epochs": NaN, "learning_rate": NaN, "batch_size": Infinity}', Directives()),
        ('{"learning_rate": 1e999, "epochs": -Infinity}', Directives()),
        ('{"epochs": ' + "9" * 250 + ', "learning_rate": ' + "9" * 250 + "}", Directives(10, 0.01)),
        ('{"epochs": ' + "9" * 3900 + "}", Directives()),
        ('{"epochs": [3], "learning_rate": {"a": {"b": []}}, "batch_size": 2}', Directives(batch_size=2)),
        ('{"epochs": ' + "[" * 1500 + "]" * 1500 + "}", Directives()),
        ('{"schedule": "cosine", "epochs": 2}', Directives(2)),
    ],
)
def test_asked_is_clamped_or_not_applied(asked, applied):
    body, found = split_directives(f"Ada ruled.\n{asked}")
    assert LIMITS.apply(found) == applied
    assert body.startswith("Ada ruled.")
    json.dumps(found, allow_nan=False)


def test_asked_is_kept_as_written():
    _, asked = split_directives('{"epochs": 300, "learning_rate": NaN, "batch_size": "two", "schedule": "x", "a": [1]}')
    assert asked == {"epochs": 300, "learning_rate": "NaN", "batch_size": "two", "schedule": "x", "a": "[1]"}


def test_what_a_journal_could_not_write_is_kept_as_text():
    _, asked = split_directives('{"epochs": 3, "why": "\\ud83d", "\\udfff": ["\\ud83d"]}')
    assert asked == {"epochs": 3, "why": "\\ud83d", "\\udfff": "['\\ud83d']"}
    json.dumps(asked, ensure_ascii=False).encode()


@pytest.mark.parametrize("depth", range(900, 1000))
def test_nested_as_deeply_as_can_just_be_read(depth):
    _, asked = split_directives(f'{{"epochs": 3, "why": {"[" * depth + "]" * depth}}}')
    assert asked == {} or asked["why"] in ("list ...", "[" * depth + "]" * depth)


@pytest.mark.parametrize(
    "limits",
    [
        {"epochs": (5, 1)},
        {"epochs": (0, 5)},
        {"epochs": (1.5, 5)},
        {"batch_size": (1,)},
        {"learning_rate": (0.0, 1.0)},
        {"learning_rate": (1e-4, float("nan"))},
        {"learning_rate": (1e-4, float("inf"))},
    ],
)
def test_limits_are_validated(limits):
    (name,) = limits
    with pytest.raises(ConfigError, match=f"{name} must be two"):
        DirectiveLimits(**limits)


LAYERED = DirectiveLimits(layers=("depth", "kinds"))


@pytest.mark.parametrize(
    ("written", "asked", "applied"),
    [
        ('{"layers": "0-3"}', {"layers": "0-3"}, Directives(layers="0-3")),
        ('{"epochs": 2, "layers": [2, 0]}', {"epochs": 2, "layers": "[2, 0]"}, Directives(2, layers="0, 2")),
        ('{"layers": ["q_proj", "first half"]}', {"layers": "['q_proj', 'first half']"},
         Directives(layers="first half, q_proj")),
        ('{"layers": true}', {"layers": True}, Directives()),
        ('{"layers": "none", "batch_size": 2}', {"layers": "none", "batch_size": 2}, Directives(batch_size=2)),
        ('{"layers": {"from": 1}}', {"layers": "{'from': 1}"}, Directives(layers="1")),
    ],
)  # fmt: skip
def test_layers_where_they_are_asked_for(written, asked, applied):
    said, found = split_directives(f"Ada ruled.\n{written}", LAYERED.names)
    assert (said, found) == ("Ada ruled.", asked)
    assert LAYERED.apply(found) == applied


def test_layers_that_are_not_asked_for_are_neither_cut_out_nor_applied():
    text = 'The {layers of the cake}.\n{"layers": "0-3"}'
    assert split_directives(text) == (text, {})
    assert LIMITS.apply({"epochs": 2, "layers": "0-3"}) == Directives(2)
    assert "layers" not in LIMITS.request()


def test_layers_are_asked_for_as_they_may_be_named():
    assert LAYERED.request().endswith(
        'batch_size (1 to 8), layers (which layers are trained: "0-3", "first half", "attention", "mlp"). For example: '
        '{"epochs": 5, "learning_rate": 0.001, "batch_size": 1, "layers": "0-3"}'
    )
    kinds = DirectiveLimits(layers=("kinds",))
    assert '"first half"' not in kinds.request() and kinds.request().endswith('"layers": "attention"}')
    assert kinds.apply({"layers": "0-3, mlp"}) == Directives(layers="mlp")


def test_a_sort_of_layers_that_there_is_not_is_refused():
    with pytest.raises(ConfigError, match=r"layers must be some of depth, kinds, got 'heads': try \[depth, kinds\]"):
        DirectiveLimits(layers=("depth", "heads"))


AIMED = DirectiveLimits(objective=("sft", "distill"))


@pytest.mark.parametrize(
    ("written", "applied"),
    [
        ('{"objective": "distill"}', Directives(objective="distill")),
        ('{"epochs": 2, "objective": " SFT "}', Directives(epochs=2, objective="sft")),
        ('{"objective": "grpo", "batch_size": 2}', Directives(batch_size=2)),
        ('{"objective": ["sft"]}', Directives()),
    ],
)
def test_an_objective_where_it_may_be_chosen(written, applied):
    body, asked = split_directives(f"Ada ruled.\n{written}", AIMED.names)
    assert body == "Ada ruled." and AIMED.apply(asked) == applied
    assert DirectiveLimits().apply(asked).objective is None
    assert DirectiveLimits(objective=("sft",)).apply({"objective": "distill"}).objective is None


def test_a_policy_is_told_between_which_objectives_it_may_choose():
    assert '"distill" (what you would say with the passage before you)' in AIMED.request()
    assert "objective" not in DirectiveLimits().request()
    with pytest.raises(ConfigError, match=r"objective must be some of sft, distill, got 'dpo': try \[sft, distill\]"):
        DirectiveLimits(objective=("dpo",))
