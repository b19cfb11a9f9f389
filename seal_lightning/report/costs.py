"""What the rounds of a run cost in hours and dollars, and what another model would have charged for the same edits.

Hours are the computing that the journal and the M-steps have logged, of all devices (on CPUs: of all processes)
together. Loading, waiting and idle devices are not in them, so a bill is higher. The device of a round is the one that
the run's record names for it; a round that was resumed on another counts as computed on that one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from seal_lightning.endpoints.prices import Price, all_prices
from seal_lightning.endpoints.wire import Reply
from seal_lightning.report.gpu_prices import CPU, GPUPrices, read_gpu_prices
from seal_lightning.report.read import Run
from seal_lightning.results.averages import by_context, by_edit
from seal_lightning.results.table import Cell, Table
from seal_lightning.results.usage import total_seconds, total_tokens, total_usage
from seal_lightning.stamps.run import Record
from seal_lightning.types import Json, Rollout

HOUR = 3600
LEAST = 0.0001  # dollars that are told
HOURS = "Hours are of computing, of all devices or processes together; loading, waiting and idling come on top."
EDITORS = (
    "By another model: the round's prompts and as many tokens of edits at the prices in {source}, as batch jobs where "
    "these are cheaper; tokens as the run's own model counts them."
)


@dataclass(frozen=True, slots=True)
class Prices:
    """The tables of prices that a report was given.

    Attributes:
        gpus: Dollars an hour by GPU; None where none was given.
        editors: Prices by model; empty where none were given.
        source: The file of these.
    """

    gpus: GPUPrices | None = None
    editors: Mapping[str, Price] = field(default_factory=dict)
    source: str = ""


@dataclass(frozen=True, slots=True)
class RoundCost:
    """A round with its M-step, or the validations and tests of a run.

    Attributes:
        name: What it is.
        device: What computed it; empty where the run does not say.
        hours: Hours of computing.
        dollars: Dollars for these; None where no price is known.
        endpoints: Dollars that endpoints charged; None where none was asked, or no price is known.
        contexts: Number of contexts.
        edits: Number of self-edits.
        editors: Dollars of another model for as many edits, by model; None where tokens were not counted.
    """

    name: str
    device: str
    hours: float
    dollars: Decimal | None
    endpoints: float | None
    contexts: int
    edits: int
    editors: Mapping[str, Decimal | None]


def read_prices(gpu_prices: str | None, prices: str | None) -> Prices:
    """The tables in two files, either of which may be left out.

    Raises:
        ConfigError: One cannot be read, or a price in it cannot be used.
    """
    return Prices(
        gpus=read_gpu_prices(gpu_prices) if gpu_prices else None,
        editors=all_prices(prices) if prices else {},
        source=prices or "",
    )


def costs_of(run: Run, prices: Prices) -> list[RoundCost]:
    """The rounds of a run, then its validations and tests; empty where no time was measured.

    Raises:
        ConfigError: The GPU of a round has no price in the table.
    """
    m_steps = _m_steps(run)
    rounds = [
        _cost(f"round {number + 1}", number, rollouts, run, prices, m_step=m_steps.get(number, 0.0))
        for number, rollouts in run.rounds.items()
    ]
    others = [rollout for rollouts in (*run.validations.values(), *run.others.values()) for rollout in rollouts]
    last = max(run.rounds, default=0)
    rows = rounds + ([_cost("validations and tests", last, others, run, prices)] if others else [])
    return [row for row in rows if row.hours]


def _cost(
    name: str, number: int, rollouts: Sequence[Rollout], run: Run, prices: Prices, *, m_step: float = 0.0
) -> RoundCost:
    device, ranks = _setting(run.record, "trainer.device", number), _setting(run.record, "trainer.ranks", number)
    device = device if isinstance(device, str) else ""
    each = ranks if isinstance(ranks, int) else 1
    hours = (sum(total_seconds(rollouts).values()) + m_step * each) / HOUR
    an_hour = prices.gpus.an_hour(device) if prices.gpus and device else None
    edits = [rollout for rollout in rollouts if rollout.kind == "edit"]
    used = total_usage(rollouts)
    return RoundCost(
        name=name,
        device=device,
        hours=hours,
        dollars=None if an_hour is None else an_hour * Decimal(hours),
        endpoints=used.dollars if used.requests else None,
        contexts=len(by_context(rollouts)),
        edits=len(by_edit(edits)),
        editors={model: dollars_of(edits, price) for model, price in prices.editors.items()},
    )


def dollars_of(edits: Iterable[Rollout], price: Price) -> Decimal | None:
    """Dollars for prompts and texts of as many tokens as those of some edits; None where these were not counted."""
    tokens = total_tokens(edits)
    if not tokens.get("prompt") or not tokens.get("edit"):
        return None
    reply = Reply("", prompt_tokens=tokens["prompt"], completion_tokens=tokens["edit"])
    return price.dollars(reply, batch=True)


def _m_steps(run: Run) -> dict[int, float]:
    """Seconds of the M-steps that were logged, by round."""
    seconds: dict[int, float] = {}
    for row in run.metrics:
        if "m_step/seconds" in row and "epoch" in row:
            number = int(row["epoch"])
            seconds[number] = seconds.get(number, 0.0) + row["m_step/seconds"]
    return seconds


def _setting(record: Record | None, key: str, number: int) -> Json:
    """A setting as it was in a round; None where the run does not say."""
    if record is None:
        return None
    changes = [change for change in record.changes if change.key == key]
    value = changes[0].was if changes else record.stamp.get(key)
    for change in changes:
        value = change.now if change.round <= number else value
    return value


# -- the table ---------------------------------------------------------------------------------------------------------


def costs_table(costs: Sequence[RoundCost], prices: Prices) -> Table | None:
    """A row for each round, and one for all; None where nothing was measured. Columns without figures are left out."""
    if not costs:
        return None
    together = RoundCost(
        name="together",
        device="",
        hours=sum(row.hours for row in costs),
        dollars=_total(row.dollars for row in costs),
        endpoints=sum(row.endpoints or 0 for row in costs) if any(row.endpoints for row in costs) else None,
        contexts=0,
        edits=0,
        editors={},
    )
    editors = [model for model in prices.editors if any(row.editors.get(model) for row in costs)]
    columns: dict[str, list[Cell]] = {"": [], "on": [], "hours": [], "dollars": [], "endpoints, dollars": []}
    columns |= {"contexts": [], "edits": []} | {f"by {model}, dollars": [] for model in editors}
    for row in (*costs, together) if len(costs) > 1 else costs:
        cells = [row.name, row.device, f"{row.hours:.3g}", _said(row.dollars), _said(row.endpoints)]
        cells += [f"{row.contexts}" if row.contexts else "", f"{row.edits}" if row.edits else ""]
        cells += [_said(row.editors.get(model)) if row.name.startswith("round") else "" for model in editors]
        for column, cell in zip(columns.values(), cells, strict=True):
            column.append(cell)
    used = {name: cells for name, cells in columns.items() if any(cells)}
    return Table("", tuple(used), tuple(zip(*used.values(), strict=True)))


def cost_notes(costs: Sequence[RoundCost], prices: Prices) -> list[str]:
    """What the figures of the table are, and why some have no dollars."""
    if not costs:
        return []
    notes = [HOURS]
    if prices.gpus:
        notes.append(f"Dollars an hour: {prices.gpus.source}.")
        unknown = {row.device for row in costs if row.dollars is None}
        if "" in unknown:
            notes.append("No dollars where the run does not name what computed it.")
        if CPU in unknown:
            notes.append(f"No dollars for CPUs: {prices.gpus.source} has no row CPU.")
    if any(row.editors.get(model) for row in costs for model in prices.editors):
        notes.append(EDITORS.format(source=prices.source))
    return notes


def _total(dollars: Iterable[Decimal | None]) -> Decimal | None:
    """The sum; None unless all are known."""
    amounts = list(dollars)
    known = [amount for amount in amounts if amount is not None]
    return sum(known, Decimal()) if len(known) == len(amounts) else None


def _said(dollars: Decimal | float | None) -> str:
    """Cents of a dollar and more, else four digits."""
    if dollars is None:
        return ""
    if 0 < dollars < LEAST:
        return f"< {LEAST}"
    return f"{dollars:.2f}" if dollars >= 1 or not dollars else f"{dollars:.4f}"
