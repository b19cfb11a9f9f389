"""What a round of SEAL costs, before it is run: hours and dollars, beside another model that writes the same edits.

    python benchmarks/round_costs.py                                           # the published runs
    python benchmarks/round_costs.py --seconds 40 --gpu H100 --devices 2       # your own, by arithmetic

A round trains contexts x edits x repeats adapters. `--seconds` is what one of them takes with its answers on one
device, as a short run has measured (docs/recipes.md); the M-step is added. Prices are those of configs/gpu_prices.yaml
and configs/prices.yaml, or of other files. The other model is charged for the prompt and text of every edit, as a batch
job where that is cheaper; the defaults are the mean lengths in the authors' published E-step of Qwen2.5-7B
(`rank_iter0`, 930 and 1,058 characters) at 4 characters a token.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from seal_lightning.endpoints.prices import Price, all_prices
from seal_lightning.endpoints.wire import Reply
from seal_lightning.errors import ConfigError
from seal_lightning.report.gpu_prices import GPUPrices, read_gpu_prices
from seal_lightning.results.table import Table, to_markdown

BASE, INSTRUCT = "base", "instruct"


@dataclass(frozen=True)
class Published:
    """A model before and after its rounds, closed-book accuracy on SQuAD in percent.

    Attributes:
        model: Its name.
        kind: Whether it was tuned to follow instructions.
        before: With its own edits, untrained.
        after: With its edits after the rounds.
        source: Who says so.
        gpu: What computed a round; empty where that was not published, as are hours then.
        hours: GPU hours a round: devices times hours.
    """

    model: str
    kind: str
    before: float
    after: float
    source: str
    gpu: str = ""
    hours: tuple[float, ...] = ()


# The paper: about 6 hours a round on two H100. Waterloo (October 2025): 3 hours a round on two L40 with Qwen2.5-3B, 1
# hour with Ray. Both train 750 adapters a round. The instruct model of 3B is as large, so its rounds are taken to last
# as long. Qwen3 models without -Base in their names are tuned to follow instructions.
PUBLISHED = (
    Published("Qwen2.5-7B", BASE, 39.7, 47.0, "paper", "H100", (12.0,)),
    Published("Qwen2.5-3B", BASE, 31.9, 37.0, "authors, August 2025"),
    Published("Qwen2.5-3B", BASE, 31.3, 38.9, "Waterloo", "L40", (6.0, 2.0)),
    Published("Qwen2.5-3B-Instruct", INSTRUCT, 54.1, 56.5, "Waterloo", "L40", (6.0, 2.0)),
    Published("Llama-3.2-1B-Instruct", INSTRUCT, 38.0, 38.9, "Waterloo"),
    Published("Qwen3-0.6B", INSTRUCT, 40.6, 43.5, "Waterloo"),
    Published("Qwen3-4B", INSTRUCT, 64.8, 67.2, "Waterloo"),
)


@dataclass(frozen=True)
class Edits:
    """What another model is asked to write: a number of edits, each of a prompt and a text of so many tokens."""

    count: int
    prompt: int
    text: int

    def dollars(self, price: Price) -> Decimal:
        reply = Reply("", prompt_tokens=self.count * self.prompt, completion_tokens=self.count * self.text)
        return price.dollars(reply, batch=True)


def hours_of(adapters: int, seconds: float, m_step: float, devices: int) -> float:
    """Device hours of a round: the adapters share the devices, and the M-step, in minutes, takes all of them."""
    return adapters * seconds / 3600 + devices * m_step / 60


def published_table(gpus: GPUPrices, editors: dict[str, Price], edits: Edits) -> Table:
    """Base and instruct models, what a round of theirs takes, and what other models charge for as many edits."""
    header = ("model", "", "untrained", "trained", "gain", "from", "GPU hours a round", "dollars a round")
    rows = []
    for one in PUBLISHED:
        dollars = [(gpus.an_hour(one.gpu) or 0) * Decimal(hours) for hours in one.hours]
        rows.append(
            (
                one.model,
                one.kind,
                f"{one.before:.1f}",
                f"{one.after:.1f}",
                f"{one.after - one.before:+.1f}",
                one.source,
                f"{' or '.join(f'{hours:g}' for hours in one.hours)} ({one.gpu})" if one.hours else "–",
                " or ".join(f"{amount:.2f}" for amount in dollars) or "–",
                *(f"{edits.dollars(price):.2f}" for price in editors.values()),
            )
        )
    return Table("", (*header, *(f"by {name}" for name in editors)), tuple(rows))


def own_table(options: argparse.Namespace, gpus: GPUPrices, editors: dict[str, Price], edits: Edits) -> Table:
    adapters = options.contexts * options.edits * options.repeats
    hours = hours_of(adapters, options.seconds, options.m_step, options.devices)
    an_hour = gpus.an_hour(options.gpu)
    header = ("adapters", "device hours", "hours", "dollars", "edits", *(f"by {name}" for name in editors))
    dollars = "–" if an_hour is None else f"{an_hour * Decimal(hours):.2f}"
    row = (f"{adapters:,}", f"{hours:.3g}", f"{hours / options.devices:.3g}", dollars, f"{edits.count:,}")
    return Table("", header, ((*row, *(f"{edits.dollars(price):.2f}" for price in editors.values())),))


def options_of(args: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contexts", type=int, default=50)
    parser.add_argument("--edits", type=int, default=5, help="of each context")
    parser.add_argument("--repeats", type=int, default=3, help="adapters of each edit")
    parser.add_argument("--seconds", type=float, help="what an adapter takes with its answers, on one device")
    parser.add_argument("--m_step", type=float, default=10.0, help="minutes of the M-step, with --seconds")
    parser.add_argument("--devices", type=int, default=1, help="with --seconds")
    parser.add_argument("--gpu", default="CPU", help="its name in the table of prices, with --seconds")
    parser.add_argument("--prompt_tokens", type=int, default=233, help="of each edit")
    parser.add_argument("--edit_tokens", type=int, default=265, help="of each edit")
    parser.add_argument("--gpu_prices", default="configs/gpu_prices.yaml")
    parser.add_argument("--prices", default="configs/prices.yaml")
    options = parser.parse_args(args)
    numbers = ("contexts", "edits", "repeats", "devices", "prompt_tokens", "edit_tokens")
    if low := [name for name in numbers if getattr(options, name) < 1]:
        parser.error(f"--{low[0]} must be at least 1, got {getattr(options, low[0])}")
    if options.m_step < 0 or (options.seconds is not None and options.seconds <= 0):
        parser.error("--seconds must be above 0, and --m_step at least 0")
    return options


def main(args: Sequence[str] | None = None) -> None:
    options = options_of(args)
    edits = Edits(options.contexts * options.edits, options.prompt_tokens, options.edit_tokens)
    try:
        gpus, editors = read_gpu_prices(options.gpu_prices), all_prices(options.prices)
        if options.seconds is None:
            table = published_table(gpus, editors, edits)
        else:
            table = own_table(options, gpus, editors, edits)
    except ConfigError as error:
        print(f"round_costs.py: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    print(to_markdown(table))
    what = f"{edits.count:,} edits of {edits.prompt} + {edits.text} tokens"
    print(f"\ndollars: {options.gpu_prices}; by another model: {what}, {options.prices}, as a batch job")


if __name__ == "__main__":
    main()
