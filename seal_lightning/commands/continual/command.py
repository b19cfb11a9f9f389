"""The command `seal continual`: read data, run the streams with and without countermeasures, write the results."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jsonargparse import Namespace

from seal_lightning.commands.continual.countermeasure import Countermeasure
from seal_lightning.commands.continual.options import read_options, resolve
from seal_lightning.commands.continual.stream import Route, StreamRunner, check_queries, left_out_of
from seal_lightning.commands.continual.updates import UPDATES
from seal_lightning.commands.fit import set_log_level
from seal_lightning.commands.standalone import open_folder, rules, write_settings
from seal_lightning.data.detect import reader_for
from seal_lightning.e_step.plan import Plan
from seal_lightning.errors import ConfigError, Stopped
from seal_lightning.files.saving import save_text, tidy
from seal_lightning.fit.module import SEALModule
from seal_lightning.fit.stamp import tokenizer_digest
from seal_lightning.models.loading import fingerprint
from seal_lightning.options.parser import write_file
from seal_lightning.policy.loading import load_policy
from seal_lightning.processes.stopping import StopSignals, work_begins
from seal_lightning.progress.clock import Interrupted, interruptible
from seal_lightning.progress.screen import Screen
from seal_lightning.report.heatmap import heat_map
from seal_lightning.results.left_out import MISSING, added, render_left_out
from seal_lightning.results.retention import (
    FILE,
    ContextStream,
    RetentionMatrix,
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

PlannedStream = tuple[Countermeasure, Route, Path]  # what is tried, on which contexts, in which folder


def main(args: Sequence[str]) -> None:
    """Run the command.

    Raises:
        ConfigError: An option has a value that cannot work.
        DataError: Data or a matrix cannot be read.
        ModelError: The model cannot be loaded.
        JournalError: A step belongs to other settings.
        SavingError: A result cannot be written; finished steps are kept.
        RetryableError: A grader or an endpoint failed; finished steps are kept.
        Stopped: A signal asked the command to stop; finished steps are kept.
    """
    parser, settings = read_options(args)
    work_begins()
    options = parser.make(settings)
    set_log_level(options.log_level)
    if options.show:
        _show(options.show, options.heatmap)
        return
    measures = [Countermeasure(), *resolve(options.countermeasures)]
    if (labels := [measure.label for measure in measures]) != list(dict.fromkeys(labels)):
        raise ConfigError(
            f"countermeasures: expected different labels, got {', '.join(labels[1:])}: give each a label of its own"
        )
    contexts, unrelated, source = _data(options)
    routes = make_routes(
        contexts,
        count=options.contexts,
        orders=options.orders,
        seeds=options.seeds,
        seed=options.model.seed,
        own_contexts=options.own_contexts,
    )
    used = list({context.id: context for route in routes for context in route.contexts}.values())
    check_queries(used, name=f"--data {source}")
    output = Path(options.output).expanduser()
    planned = [
        (measure, route, output / "streams" / measure.label / route.folder) for measure in measures for route in routes
    ]
    with open_folder(output, "continual", resume=options.resume):
        runner = _runner(options, used, unrelated)
        for measure, route, folder in planned:
            runner.check(route, measure, folder)
        write_settings(parser, settings, output)
        tidy(output)
        _finish(_run(runner, planned, output, source), output, options.heatmap, [folder for _, _, folder in planned])
        write_settings(parser, settings, output, finished=True)


def _data(options: Namespace) -> tuple[list[Context], list[Context], str]:
    """The contexts to learn, unrelated ones that are only asked about, and what the data is called."""
    reader, beside = (None if source is None else reader_for(source) for source in (options.data, options.unrelated))
    assert reader is not None, "checked with the options"
    contexts, unrelated = reader.read(), beside.read() if beside else []
    check_queries(unrelated, name=f"--unrelated {beside.source if beside else ''}")
    return contexts, unrelated, reader.source


def _plan(options: Namespace) -> Plan:
    """How an edit is chosen; a single one has no race to run."""
    plan: Plan = options.model.e_step.plan
    racing = plan.racing if options.best_of > 1 else None
    return replace(plan, edits=options.best_of, passage_only=False, written=False, racing=racing)


def make_routes(
    contexts: Sequence[Context], *, count: int, orders: int, seeds: int, seed: int, own_contexts: bool
) -> list[Route]:
    """The streams: the same contexts in several orders, or other contexts in each order.

    Raises:
        ConfigError: There are too few contexts.
    """
    needed = count * orders if own_contexts else count
    if len(contexts) < needed:
        raise ConfigError(
            f"--contexts {count}: expected {needed} contexts in the data, got {len(contexts)}: lower --contexts"
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


def _runner(options: Namespace, contexts: Sequence[Context], unrelated: Sequence[Context]) -> StreamRunner:
    """What runs the streams, with a policy that can learn all contexts."""
    module: SEALModule = options.model
    policy = load_policy(module.source, options.policy, options.device)
    module.e_step.check_model(policy)
    module.e_step.check_fits(policy, [*contexts, *unrelated])
    return StreamRunner(
        e_step=module.step_for(_plan(options)),
        updates=UPDATES[options.combine](policy),
        unrelated=unrelated,
        origin={"base": fingerprint(policy.model), "tokenizer": tokenizer_digest(policy.tokenizer)},
        rules=rules(other_versions=options.allow_other_versions),
        source=module.source,
    )


def _run(runner: StreamRunner, planned: Sequence[PlannedStream], output: Path, dataset: str) -> list[RetentionMatrix]:
    """The matrix of each countermeasure; finished streams are written after each of them."""
    screen, signals = Screen(), StopSignals()
    streams: dict[str, list[ContextStream]] = {}
    matrices: dict[str, RetentionMatrix] = {}
    steps = sum(len(route.contexts) + 1 for _, route, _ in planned)
    with signals.noted(), screen.bar("steps", steps) as advance, screen.phases() as report:

        def after_step(count: int) -> None:
            advance(count)
            signals.check()

        report = interruptible(report, stopping=lambda: signals.received)
        runner = replace(runner, advance=after_step, report=report)
        try:
            for measure, route, folder in planned:
                stream = runner.run(route, measure, folder)
                last = stream.rows[-1]
                screen.line(f"{measure.label}, {route.name}: {sum(last) / len(last):.3f} at the end")
                known = streams.setdefault(measure.label, [])
                known.append(stream)
                matrices[measure.label] = average(measure.label, known, dataset=dataset, base_model=runner.source.name)
                write_matrices(output / FILE, list(matrices.values()))
        except Interrupted:
            raise Stopped(signals.received) from None
    return list(matrices.values())


# -- results -----------------------------------------------------------------------------------------------------------


def _finish(matrices: Sequence[RetentionMatrix], output: Path, heatmap: str | None, streams: Sequence[Path]) -> None:
    missing = render_left_out(added([left_out_of(folder) for folder in streams]))
    if missing:
        Screen().line(f"cut or left out: {missing}")
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


def _show(file: str, heatmap: str | None) -> None:
    path = Path(file).expanduser()
    matrices = read_matrices(path)
    parts = [f"{matrix.name}\n\n{to_markdown(matrix_table(matrix))}" for matrix in matrices]
    print("\n\n".join([*parts, to_markdown(summary_table(matrices))]))
    if heatmap:
        write_file("--heatmap", heatmap, heat_map(matrices), unlike=[path])
        print(f"saved: {heatmap}")
