"""Dollars: exact, from a table that a person can read."""

from decimal import Decimal
from pathlib import Path

import pytest
import yaml

from seal_lightning.endpoints.prices import find_price
from seal_lightning.endpoints.wire import Reply
from seal_lightning.errors import ConfigError

SHIPPED = Path(__file__).resolve().parents[2] / "configs" / "prices.yaml"
TABLE = {"m": {"input": 0.1, "output": 0.4}}


@pytest.mark.parametrize(("model", "dollars"), [("gpt-4.1", 10.0), ("gpt-4.1-mini", 2.0), ("gpt-4.1-nano", 0.5)])
def test_the_shipped_table(model, dollars):
    price = find_price(str(SHIPPED), model)
    million = Reply("", prompt_tokens=10**6, completion_tokens=10**6)
    assert float(price.dollars(million)) == dollars
    assert float(price.dollars(million, batch=True)) == dollars / 2
    assert price.cached_input < price.input
    assert {*yaml.safe_load(SHIPPED.read_text())} == {"gpt-4.1", "gpt-4.1-mini", "gpt-4.1-nano"}


def test_sums_are_exact():
    price = find_price(TABLE, "m")
    replies = [Reply("", prompt_tokens=1, completion_tokens=1)] * 3_000_000
    assert price.dollars(replies[0]) == Decimal("0.0000005")
    assert float(price.dollars(replies[0]) * len(replies)) == 1.5
    assert float(sum((price.dollars(reply) for reply in replies[:30_000]), Decimal(0))) == 0.015


def test_tokens_from_the_servers_cache_are_cheaper_where_the_table_says_so():
    reply = Reply("", prompt_tokens=1000, cached_tokens=900, completion_tokens=0)
    assert float(find_price(TABLE, "m").dollars(reply)) == 0.0001
    assert float(find_price({"m": {**TABLE["m"], "cached_input": 0.01}}, "m").dollars(reply)) == 0.000019


def test_no_table_no_price():
    assert find_price(None, "m") is None


@pytest.mark.parametrize(
    ("prices", "words"),
    [
        ({"other": TABLE["m"], "third": TABLE["m"]}, ["no price for model m", "other, third"]),
        ({"m": {"input": 1}}, ["m: expected input, output", "{'input': 1}"]),
        ({"m": {**TABLE["m"], "inptu": 1}}, ["m: expected input, output"]),
        ({"m": 3}, ["m: expected input, output", "got 3"]),
        ({"m": {"input": "1", "output": 1}}, ["input must be a number of at least 0, got '1'"]),
        ({"m": {"input": -1, "output": 1}}, ["got -1"]),
        ({"m": {"input": float("nan"), "output": 1}}, ["got nan"]),
        ({"m": {"input": True, "output": 1}}, ["got True"]),
        ({}, ["prices: expected prices by model, got {}"]),
        ("none.yaml", ["none.yaml: expected a file, got nothing there"]),
        ("broken.yaml", ["broken.yaml: not valid YAML"]),
        ("latin.yaml", ["latin.yaml: not valid YAML"]),
        ("list.yaml", ["list.yaml: expected prices by model, got [1]"]),
    ],
)
def test_tables_that_cannot_work(monkeypatch, tmp_path, prices, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.yaml").write_text("m: {input: [")
    (tmp_path / "latin.yaml").write_bytes(b"caf\xe9: 1")
    (tmp_path / "list.yaml").write_text("[1]")
    with pytest.raises(ConfigError) as caught:
        find_price(prices, "m")
    message = str(caught.value)
    assert [word for word in words if word not in message] == [] and "\n" not in message
