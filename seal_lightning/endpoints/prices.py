"""What an endpoint charges: dollars per million tokens, from a YAML file or a mapping by model.

    gpt-4.1-mini: {input: 0.40, output: 1.60, cached_input: 0.10, batch: 0.5}

`cached_input` is the price of prompt tokens that the server had in its own cache, `batch` the factor of its batch
routes. Sums are exact: dollars are decimal until a usage is reported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml

from seal_lightning.endpoints.wire import Reply
from seal_lightning.errors import ConfigError
from seal_lightning.files.bounded import read_bytes
from seal_lightning.files.bounded_yaml import load_yaml
from seal_lightning.files.shipped import find_file

_NEEDED, _OPTIONAL = ("input", "output"), ("cached_input", "batch")


@dataclass(frozen=True, slots=True)
class Price:
    """The prices of one model in dollars per million tokens; `batch` multiplies them."""

    input: Decimal
    output: Decimal
    cached_input: Decimal | None = None
    batch: Decimal = Decimal(1)

    def dollars(self, reply: Reply, *, batch: bool = False) -> Decimal:
        """What a reply costs."""
        reused = min(reply.cached_tokens, reply.prompt_tokens) if self.cached_input is not None else 0
        millionths = (
            (reply.prompt_tokens - reused) * self.input
            + reused * (self.cached_input or 0)
            + reply.completion_tokens * self.output
        )
        return millionths * (self.batch if batch else 1) / 1_000_000


def find_price(prices: str | Mapping[str, object] | None, model: str) -> Price | None:
    """The price of a model in a table, or None without a table.

    Raises:
        ConfigError: The table cannot be read, or the model is not in it.
    """
    if prices is None:
        return None
    source = prices if isinstance(prices, str) else "prices"
    table = read_table(prices)
    if model not in table:
        known = ", ".join(map(str, table))
        raise ConfigError(f"{source}: no price for model {model}, only for {known}; add it, or leave prices out")
    return _price(table[model], f"{source}, {model}")


def all_prices(prices: str) -> dict[str, Price]:
    """The price of every model in a file.

    Raises:
        ConfigError: The file cannot be read, or a price in it cannot be used.
    """
    return {str(model): _price(row, f"{prices}, {model}") for model, row in read_table(prices).items()}


def read_table(
    prices: str | Mapping[str, object], *, option: str = "prices", by: str = "model"
) -> Mapping[Any, object]:
    """A table of prices, from a YAML file or as it is.

    Args:
        prices: A path, or the content. `configs/...` may be a file of the package.
        option: The option that named it, for messages.
        by: What prices are looked up by, for messages.

    Raises:
        ConfigError: There is no such file, or it holds no table.
    """
    source: str = "prices"
    table: object = prices
    if isinstance(prices, str):
        try:
            source = prices
            table = load_yaml(read_bytes(find_file(Path(prices).expanduser()), error=ConfigError).decode())
        except ConfigError as error:
            raise ConfigError(f"{option}={error}") from error
        except (yaml.YAMLError, ValueError) as error:
            raise ConfigError(f"{option}={prices}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(table, Mapping) or not table:
        raise ConfigError(f"{source}: expected prices by {by}, got {table!r}; see configs/{option}.yaml")
    return table


def _price(row: object, where: str) -> Price:
    if not isinstance(row, Mapping) or not {*_NEEDED} <= {*row} <= {*_NEEDED, *_OPTIONAL}:
        raise ConfigError(f"{where}: expected input, output and perhaps cached_input and batch, got {row!r}")
    return Price(**{name: to_dollars(value, f"{where}: {name}") for name, value in row.items()})


def to_dollars(value: object, where: str) -> Decimal:
    """An amount of a table. Raises `ConfigError` unless it is a number of at least 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise ConfigError(f"{where} must be a number of at least 0, got {value!r}")
    return Decimal(str(value))
