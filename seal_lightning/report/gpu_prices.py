"""What a GPU costs: dollars an hour, from a YAML file by name (configs/gpu_prices.yaml).

    H100: 2.69
    H100 PCIe: 1.99

A row is meant for every device whose name has all its words; where several rows are, that with the most words counts.
So "NVIDIA H100 80GB HBM3" costs 2.69, "NVIDIA H100 PCIe" 1.99, and an L40 is not an L40S. A run on CPUs costs what the
row `CPU` says of an hour of one process, and nothing that is known where there is no such row.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from seal_lightning.endpoints.prices import read_table, to_dollars
from seal_lightning.errors import ConfigError

CPU = "CPU"  # what a run on CPUs calls its device


@dataclass(frozen=True, slots=True)
class GPUPrices:
    """A table of prices.

    Attributes:
        source: The file, for messages.
        by_name: Dollars an hour by the words that a device's name has to have.
    """

    source: str
    by_name: Mapping[str, Decimal]

    def an_hour(self, device: str) -> Decimal | None:
        """Dollars an hour of a device; None for CPUs that have no row.

        Args:
            device: The name that the driver gives, such as "NVIDIA H100 80GB HBM3", or "CPU".

        Raises:
            ConfigError: No row is meant for this GPU.
        """
        words = _words(device)
        rows = [name for name in self.by_name if _words(name) <= words]
        if rows:
            return self.by_name[max(rows, key=lambda name: len(_words(name)))]
        if device == CPU:
            return None
        known = ", ".join(self.by_name)
        raise ConfigError(f"{self.source}: no price for {device}, only for {known}: add a row for it")


def read_gpu_prices(path: str) -> GPUPrices:
    """Read a table.

    Raises:
        ConfigError: The file cannot be read, or an amount in it cannot be used.
    """
    table = read_table(path, option="gpu_prices", by="GPU")
    return GPUPrices(path, {str(name): to_dollars(value, f"{path}: {name}") for name, value in table.items()})


def _words(name: str) -> frozenset[str]:
    """The words of a device's name: letters and digits, whatever stands between them.

    >>> sorted(_words("NVIDIA A100-SXM4-80GB"))
    ['80gb', 'a100', 'nvidia', 'sxm4']
    """
    return frozenset(re.findall(r"[a-z0-9]+", name.casefold()))
