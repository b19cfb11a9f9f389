"""The command: its options, the streams it runs, and what it prints and writes."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from seal_lightning.commands.continual.countermeasure import Countermeasure
from seal_lightning.commands.continual.countermeasures import SHORT
from seal_lightning.commands.continual.stream import Route, StreamRunner, check_queries, left_out_of
from seal_lightning.commands.continual.updates import UPDATES, Combine
from seal_lightning.commands.fit import set_log_level
from seal_lightning.commands.standalone import add_model, load_policy, open_folder, rules, write_settings
from seal_lightning.data import Reader
from seal_lightning.data.detect import reader_for
from seal_lightning.e_step.plan import Plan
from seal_lightning.errors import ConfigError, Stopped, check_count
from seal_lightning.files.saving import save_text, tidy
from seal_lightning.fit.module import SEALModule
from seal_lightning.fit.stamp import tokenizer_digest
from seal_lightning.models.loading import fingerprint
from seal_lightning.options.parser import Parser, write_file
from seal_lightning.processes.stopping import StopSignals, work_begins
from seal_lightning.progress.clock import Interrupted, interruptible
from seal_lightning.progress.screen import Screen
from seal_lightning.report.heatmap import heat_map
from seal_lightning.results.left_out import MISSING, added, render_left_out
from seal_lightning.results.retention import (
    FILE,
    RetentionMatrix,
    Stream,
    average,
    matrix_table,
    read_matrices,
    summary_table,
    to_official,
    write_matrices,
)
from seal_lightning.results.table import to_markdown
from seal_lightning.seeding import derive_seed
from seal_lightning.types import Context

DESCRIPTION = """\
Contexts learnt one after another: for each, a self-edit is written, its adapter trained and added to the policy, then
the queries of all earlier contexts are asked again. The retention matrix is averaged over orders and seeds, for the
plain stream and for every countermeasure against forgetting, on the same orders and seeds. The options under model are
those of seal fit. With --show FILE, an existing matrix (ours or the authors' form) is printed instead.
"""
NUMBERS = {"contexts": 2, "orders": 1, "seeds": 1, "best_of": 1}  # at least


@dataclass(frozen=True, slots=True)
class Data:
    """What is learnt and asked."""

    contexts: list[Context]
    unrelated: list[Context]
    source: str


def main(args: Sequence[str]) -> None:
    """Run the command.

    Raises:
        ConfigError: An option has a value that cannot work.
        DataError: Data or a matrix cannot be read.
        ModelError: The model cannot be loaded.
        JournalError: A step belongs to other settings.
        SavingError: There is no room for a result; finished steps are kept.
        RetryableError: A grader or an endpoint failed; finished steps are kept.
        Stopped: A signal asked the command to stop; finished steps are kept.
    """
    parser, settings = _settings(args)
    work_begins()
    options = parser.make(settings)
    set_log_level(options.log_level)
    if options.show:
        _show(options)
        return
    measures = [Countermeasure(), *resolve(options.countermeasures)]
    if (labels := [one.label for one in measures]) != list(dict.fromkeys(labels)):
        raise ConfigError(f"countermeasures: expected different ones, got {', '.join(labels[1:])}: give each a label")
    data = _data(options)
    routes = make_routes(
        data.contexts,
        count=options.contexts,
        orders=options.orders,
        seeds=options.seeds,
        seed=options.model.seed,
        own_contexts=options.own_contexts,
    )
    used = {context.id: context for route in routes for context in route.contexts}
    data = replace(data, contexts=list(used.values()))
    check_queries(data.contexts, name=f"--data {data.source}")
    plan = _plan(options)
    output = Path(options.output).expanduser()
    with open_folder(output, "continual", resume=options.resume):
        _run(options, plan, data, routes, measures, output, begin=lambda: write_settings(parser, settings, output))
        write_settings(parser, settings, output, finished=True)


# -- options -----------------------------------------------------------------------------------------------------------


def _settings(args: Sequence[str]) -> tuple[Parser, Any]:
    parser = Parser("continual", description=DESCRIPTION, usage="seal continual --data PATH [--KEY VALUE ...]")
    parser.add_argument("--config", action="config", help="YAML with these options.")
    parser.add_argument(
        "--data", type=str | Reader | None, default=None, help="Contexts with queries: a file, a folder or a reader."
    )
    parser.add_argument("--contexts", type=int, default=8, help="In a stream; the first ones of the data.")
    parser.add_argument(
        "--orders", type=int, default=3, help="Streams that differ in the order; the first has the data's."
    )
    parser.add_argument("--seeds", type=int, default=1, help="Streams in each order, with different random choices.")
    parser.add_argument(
        "--own_contexts", action="store_true", help="Each order gets contexts of its own from the data, as the paper's."
    )
    parser.add_argument(
        "--unrelated", type=str | Reader | None, default=None, help="Contexts whose queries are asked at every step."
    )
    parser.add_argument(
        "--combine", type=Combine, default="merge", help="Merge updates into the weights, or stack them beside."
    )
    parser.add_argument(
        "--best_of", type=int, default=1, help="Self-edits a context, of which the best by reward is learnt."
    )
    parser.add_argument(
        "--countermeasures",
        type=str | list[str | Countermeasure],
        default=[],
        help=f"Tried beside the plain stream: {', '.join(list(SHORT)[1:])}, separated by commas, or a list with "
        "class_path and init_args; all takes all of these.",
    )
    parser.add_argument("--output", type=str, default="continual", help="Folder for matrices, adapters and self-edits.")
    parser.add_argument("--resume", action="store_true", help="Go on in a folder, or add streams to it.")
    parser.add_argument("--show", type=str | None, default=None, help="Print the matrices of this file, and stop.")
    parser.add_argument("--heatmap", type=str | None, default=None, help="Draw them as SVG into this file.")
    one = {"model.e_step.edits": 1, "model.e_step.repeats": 1}
    add_model(parser, args, defaults=one)
    settings = parser.settings(args)
    for name, least in NUMBERS.items():
        check_count(name, settings[name], least=least)
    if settings.heatmap and not settings.heatmap.endswith(".svg"):
        raise ConfigError(f"--heatmap {settings.heatmap}: expected a name that ends in .svg: rename it")
    settings.countermeasures = spelled(settings.countermeasures)
    if not settings.show and settings.data is None:
        raise ConfigError("--data is not set: name a file or folder with contexts and queries (seal continual --help)")
    return parser, settings


def spelled(wanted: str | Sequence[Any]) -> list[Any]:
    """A list of countermeasures, with every name in place of `all`."""
    listed = wanted.split(",") if isinstance(wanted, str) else wanted
    names = list(SHORT)[1:]
    return [name for one in listed for name in (names if isinstance(one, str) and one.strip() == "all" else [one])]


def resolve(wanted: str | Sequence[str | Countermeasure]) -> list[Countermeasure]:
    """Countermeasures by short name or as they are.

    Raises:
        ConfigError: There is none of that name.
    """
    names = list(SHORT)[1:]
    found: list[Countermeasure] = []
    for one in spelled(wanted):
        if isinstance(one, Countermeasure):
            found.append(one)
        elif one.strip() in names:
            found.append(SHORT[one.strip()]())
        else:
            raise ConfigError(f"countermeasures: expected some of {', '.join(names)} or all, got {one!r}")
    return found


def _data(options: Any) -> Data:
    reader, beside = (None if source is None else reader_for(source) for source in (options.data, options.unrelated))
    assert reader is not None, "checked with the options"
    contexts, unrelated = reader.read(), beside.read() if beside else []
    check_queries(unrelated, name=f"--unrelated {beside.source if beside else ''}")
    return Data(contexts, unrelated, reader.source)


def _plan(options: Any) -> Plan:
    """How an edit is chosen; a single one races against none."""
    plan: Plan = options.model.e_step.plan
    racing = plan.racing if options.best_of > 1 else None
    return replace(plan, edits=options.best_of, passage_only=False, written=False, racing=racing)


def make_routes(
    contexts: Sequence[Context], *, count: int, orders: int, seeds: int, seed: int, own_contexts: bool
) -> list[Route]:
    """The streams: the same contexts in several orders, or others in each.

    Raises:
        ConfigError: There are too few contexts.
    """
    needed = count * orders if own_contexts else count
    if len(contexts) < needed:
        raise ConfigError(
            f"--contexts {count}: expected {needed} contexts in the data, got {len(contexts)}: ask for fewer"
        )
    routes = []
    for order in range(orders):
        chosen = list(contexts[order * count : (order + 1) * count] if own_contexts else contexts[:count])
        if order:
            random.Random(derive_seed("order", seed, order)).shuffle(chosen)
        routes += [
            Route(f"order {order + 1}, seed {number + 1}", tuple(chosen), derive_seed("stream", seed, order, number))
            for number in range(seeds)
        ]
    return routes


# -- running -----------------------------------------------------------------------------------------------------------


def _run(
    options: Any,
    plan: Plan,
    data: Data,
    routes: Sequence[Route],
    measures: Sequence[Countermeasure],
    output: Path,
    *,
    begin: Callable[[], None],
) -> None:
    """Run the streams; `begin` is called once every check has passed, before anything else is written."""
    module: SEALModule = options.model
    policy = load_policy(module, options.policy, options.device)
    module.e_step.check_model(policy)
    module.e_step.check_fits(policy, [*data.contexts, *data.unrelated])
    origin = {"base": fingerprint(policy.model), "tokenizer": tokenizer_digest(policy.tokenizer)}
    screen, signals = Screen(), StopSignals()
    runner = StreamRunner(
        e_step=module.step_for(plan),
        updates=UPDATES[options.combine](policy),
        unrelated=data.unrelated,
        origin=origin,
        rules=rules(other_versions=options.allow_other_versions),
        source=module.source,
    )
    for measure in measures:
        for route in routes:
            runner.check(route, measure, _folder(output, measure, route))
    begin()
    tidy(output)
    steps = len(measures) * sum(len(route.contexts) + 1 for route in routes)
    with signals.noted(), screen.bar("steps", steps) as advance, screen.phases() as report:

        def after_step(count: int) -> None:
            advance(count)
            signals.check()

        def stopping() -> int:
            return signals.received

        runner = replace(runner, advance=after_step, report=interruptible(report, stopping=stopping))
        try:
            matrices = _matrices(runner, routes, measures, output, screen, data, module.source.name)
        except Interrupted:
            raise Stopped(signals.received) from None
    folders = [_folder(output, measure, route) for measure in measures for route in routes]
    missing = render_left_out(added([left_out_of(folder) for folder in folders]))
    if missing:
        screen.line(f"cut or left out: {missing}")
    _finish(matrices, output, options.heatmap, missing)


def _folder(output: Path, measure: Countermeasure, route: Route) -> Path:
    return output / "streams" / measure.label / route.folder


def _matrices(
    runner: StreamRunner,
    routes: Sequence[Route],
    measures: Sequence[Countermeasure],
    output: Path,
    screen: Screen,
    data: Data,
    base_model: str,
) -> list[RetentionMatrix]:
    """One for each measure; what is finished of them is written after every stream."""
    finished: list[RetentionMatrix] = []
    for measure in measures:
        streams: list[Stream] = []
        for route in routes:
            stream = runner.run(route, measure, _folder(output, measure, route))
            last = stream.rows[-1]
            screen.line(f"{measure.label}, {route.name}: {sum(last) / len(last):.3f} at the end")
            streams.append(stream)
            matrix = average(measure.label, streams, dataset=data.source, base_model=base_model)
            write_matrices(output / FILE, [*finished, matrix])
        finished.append(matrix)
    return finished


# -- results -----------------------------------------------------------------------------------------------------------


def _finish(matrices: Sequence[RetentionMatrix], output: Path, heatmap: str | None, missing: str) -> None:
    for matrix in matrices:
        text = json.dumps(to_official(matrix), indent=2) + "\n"
        save_text(output / "official" / f"{matrix.name}.json", text)
    sections = [f"## {matrix.name}\n\n{to_markdown(matrix_table(matrix))}\n" for matrix in matrices]
    summary = to_markdown(summary_table(matrices))
    text = f"# Retention\n\nAccuracies in percent.\n\n{summary}\n\n" + "\n".join(sections)
    text += f"\n{MISSING} {missing}.\n" if missing else ""
    save_text(output / "retention.md", text)
    drawn = heatmap or str(output / "retention.svg")
    write_file("--heatmap", drawn, heat_map(matrices), unlike=[])
    print(f"{to_markdown(matrix_table(matrices[0]))}\n\n{summary}", flush=True)
    print(f"saved: {output / FILE}, retention.md, {drawn}, official/ (the authors' form), streams/ (every adapter)")
    print(f"next: seal report {output}")


def _show(options: Any) -> None:
    path = Path(options.show).expanduser()
    matrices = read_matrices(path)
    parts = [f"{matrix.name}\n\n{to_markdown(matrix_table(matrix))}" for matrix in matrices]
    print("\n\n".join([*parts, to_markdown(summary_table(matrices))]))
    if options.heatmap:
        write_file("--heatmap", options.heatmap, heat_map(matrices), unlike=[path])
        print(f"saved: {options.heatmap}")
