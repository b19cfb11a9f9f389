"""The command `seal adapt`, from its options to its last words."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from seal_lightning.commands.adapt.edits import Learn, Lesson, Writing, kept_edits, lessons, raced_for, write_edits
from seal_lightning.commands.adapt.estimate import estimate
from seal_lightning.commands.adapt.making import (
    MERGED,
    RESULT,
    Adapted,
    Workplace,
    asked_stamp,
    check,
    make,
    missing_of,
    one_each,
    one_for_all,
    training_of,
    writing_of,
)
from seal_lightning.commands.adapt.scores import Measured, score_of
from seal_lightning.commands.adapt.verdict import Verdict, judge
from seal_lightning.commands.fit import set_log_level
from seal_lightning.commands.standalone import (
    add_model,
    check_record,
    load_policy,
    open_folder,
    open_journal,
    rules,
    write_settings,
)
from seal_lightning.data import units
from seal_lightning.data.documents import STDIN, Document, Documents, read_sources
from seal_lightning.e_step.closed_book import Answered, ask_closed_book
from seal_lightning.e_step.own_queries import OwnQueryStep
from seal_lightning.errors import ConfigError, DivergedError
from seal_lightning.files.bounded import parse_json, read_stdin
from seal_lightning.files.saving import save_text, tidy
from seal_lightning.fit.module import SEALModule
from seal_lightning.fit.stamp import tokenizer_digest
from seal_lightning.fit.units import make_stamp
from seal_lightning.inner_loop.loop import InnerLoop
from seal_lightning.models.loading import fingerprint
from seal_lightning.options.mistakes import read_config_files
from seal_lightning.options.parser import Parser
from seal_lightning.policy.policy import Policy
from seal_lightning.processes.stopping import StopSignals, work_begins
from seal_lightning.progress.screen import Screen
from seal_lightning.records.journal import is_begun
from seal_lightning.results.averages import say_interval
from seal_lightning.results.left_out import DIVERGED, MISSING, render_left_out, total_left_out
from seal_lightning.results.table import Table, to_markdown
from seal_lightning.results.usage import render_usage, total_usage
from seal_lightning.sharing import base_of_source
from seal_lightning.sharing.hub import Export, add_hub, destination_of, upload
from seal_lightning.stamps.run import save_record
from seal_lightning.stamps.values import CODE, VERSIONS, describe, flat
from seal_lightning.text.escaping import markdown_cell
from seal_lightning.types import Context, Rollout

log = logging.getLogger(__name__)

Adapters = Literal["each", "all", "both"]
DESCRIPTION = """\
Documents in, adapters out. A DOCUMENT is a file or folder of texts or Markdown, JSON or JSON Lines with passages (and
queries, where there are some), or - for standard input. The policy (or another editor: model.sampler) writes
self-edits about every passage; the best are kept, by the document's queries or by queries that a model writes; adapters
are trained on them and written as PEFT folders with a model card. The options under model are those of seal fit.
"""
BASELINE = "baseline.json"
OF_ALL = (CODE, VERSIONS)  # keys that a stamp has whatever is learnt


def main(args: Sequence[str]) -> None:
    """Run the command.

    Raises:
        ConfigError: An option has a value that cannot work.
        DataError: A document cannot be read.
        ModelError: The model cannot be loaded, or a passage does not fit into its window.
        RetryableError: A grader or an endpoint failed; what was finished is kept.
        Stopped: A signal asked the command to stop; what was finished is kept.
    """
    parser, settings = _settings(args)
    work_begins()
    options = parser.make(settings)
    set_log_level(options.log_level)
    output = Path(options.output).expanduser()
    destination = None if options.dry_run else destination_of(options, folder=output)
    read = read_sources(
        options.documents,
        stdin=_stdin() if STDIN in options.documents else b"",
        queries=options.queries,
        passage_chars=options.passage_chars,
        strict=options.strict,
    )
    writing = _writing(options)
    with nullcontext() if options.dry_run else open_folder(output, "adapt", resume=options.resume):
        written = _work(parser, settings, options, read, writing, output)
    if destination is not None:
        for address in upload(destination, _exports(output, written, merged=options.merged)):
            Screen().line(f"uploaded: {address}")


def _writing(options: Any) -> Writing:
    module: SEALModule = options.model
    plan = raced_for(module.e_step.plan, options.keep)
    own = module.step_for(replace(plan, queries="own")) if plan.score_by == "queries" else None
    assert own is None or isinstance(own, OwnQueryStep)
    return Writing(options.learn, module.step_for(plan), own, options.keep)


def _exports(output: Path, names: Sequence[str], *, merged: bool) -> list[Export]:
    """The folders of adapters, in the root of their repository where there is one, and those of whole weights."""
    single = len(names) == 1
    found = [Export(output / "adapters" / name, inside="" if single else name) for name in names]
    whole = [Export(output / MERGED / name, inside="" if single else name, suffix="-merged") for name in names]
    return found + (whole if merged else [])


def _work(parser: Parser, settings: Any, options: Any, read: Documents, writing: Writing, output: Path) -> list[str]:
    """What needs the policy: an estimate, or the adapters; the names of those."""
    module, documents = options.model, read.documents
    policy = load_policy(module, options.policy, options.device)
    module.e_step.check_model(policy)
    module.e_step.check_fits(
        policy,
        [passage for document in documents for passage in document.passages],
        advice=lambda passage: _shorter(policy, passage, options.passage_chars),
    )
    if options.dry_run:
        loops = {"each": [module.e_step.inner_loop], "all": [options.together]}
        loops["both"] = loops["each"] + loops["all"]
        chosen, size = loops[options.adapters], options.contexts_per_unit
        print(estimate(module.e_step, policy, documents, writing, chosen, contexts_per_unit=size))
        return []
    write_settings(parser, settings, output)
    signals = StopSignals()
    with signals.noted():
        written = _adapt(options, module, policy, read, writing, output, check_stop=signals.check)
    write_settings(parser, settings, output, finished=True)
    return written


# -- options -----------------------------------------------------------------------------------------------------------


def _settings(args: Sequence[str]) -> tuple[Parser, Any]:
    parser = Parser("adapt", description=DESCRIPTION, usage="seal adapt DOCUMENT ... --output FOLDER [--KEY VALUE ...]")
    parser.add_argument("documents", nargs="*", metavar="DOCUMENT", type=str, help="Files and folders, or -.")
    parser.add_argument("--config", action="config", help="YAML with these options.")
    parser.add_argument("--output", type=str, default="adapted", help="Folder for adapters, journal and table.")
    parser.add_argument("--adapters", type=Adapters, default="each", help="One a document, one for all, or both.")
    parser.add_argument("--learn", type=Learn, default="edits", help="Self-edits, or passages as they stand.")
    parser.add_argument(
        "--keep", type=int | None, default=1, help="Edits of a passage to train on, the best ones; null takes all."
    )
    parser.add_argument(
        "--queries", type=str | None, default=None, help="JSON rows with document, question and answer, to score with."
    )
    parser.add_argument("--passage_chars", type=int, default=2000, help="Longest passage; longer documents are cut.")
    parser.add_argument(
        "--strict", action="store_true", help="Stop at a document of a folder that cannot be used; else it is left out."
    )
    parser.add_argument("--contexts_per_unit", type=int, default=4, help="Passages that are worked on together.")
    parser.add_argument("--save_every", type=int, default=50, help="Optimizer steps between two checkpoints.")
    parser.add_argument("--merged", action="store_true", help="Write whole weights too, base and adapter added up.")
    parser.add_argument("--data_licence", type=str | None, default=None, help="Of the documents, for the model cards.")
    parser.add_argument("--resume", action="store_true", help="Go on in a folder in which a run was broken off.")
    parser.add_argument("--dry_run", action="store_true", help="Estimate tokens, time and memory, and write nothing.")
    parser.add_class_arguments(InnerLoop, "together")
    parser.set_defaults({"together.epochs": 3, "together.batch_size": 8})  # the paper's continued pre-training
    add_hub(parser)
    add_model(parser, args, defaults={"model.e_step.repeats": 1})
    settings = parser.settings(args)
    if not settings.documents:  # the empty list of the command line outranks that of a config file
        named = [content["documents"] for _, content in read_config_files(args) if content.get("documents")]
        settings.documents = named[-1] if named else []
    if not settings.documents:
        raise ConfigError("DOCUMENT is not set: name files or folders, or - for standard input (seal adapt --help)")
    for name, least in (("keep", 1), ("contexts_per_unit", 1), ("save_every", 1)):
        if settings[name] is not None and settings[name] < least:
            raise ConfigError(f"{name} must be at least {least}, got {settings[name]}")
    return parser, settings


def _stdin() -> bytes:
    """What comes through standard input, up to its end. Raises `DataError` as `read_stdin`."""
    if sys.stdin.isatty():
        Screen().line("adapt: reading a document from the terminal, Ctrl-D ends it")
    return read_stdin(sys.stdin.buffer)


# -- steps -------------------------------------------------------------------------------------------------------------


def _adapt(
    options: Any,
    module: SEALModule,
    policy: Policy,
    read: Documents,
    writing: Writing,
    output: Path,
    *,
    check_stop: Callable[[], None],
) -> list[str]:
    screen, e_step, documents = Screen(), writing.e_step, read.documents
    stamp, allowed = fingerprint(policy.model), rules(other_versions=options.allow_other_versions)
    passages = [passage for document in documents for passage in document.passages]
    unread = f"; {read.unread} files left out" if read.unread else ""
    screen.line(f"{_count(documents, 'document')}, {_count(passages, 'passage')}{unread}")
    rollouts: list[Rollout] = []
    seen = make_stamp(e_step, [passages], chat=policy.chat_stamp, base=stamp, policy="")
    seen |= {"rewarded": writing.rewarded, "contexts_per_unit": options.contexts_per_unit}
    depends = _depends(options, module, seen, tokenizer_digest(policy.tokenizer))
    save_record(output, check_record(output, depends, begun=_was_begun(output), rules=allowed))
    if writing.learn == "edits":
        work = units(passages, options.contexts_per_unit)
        journal = open_journal(
            output / "journal",
            "adapt",
            stamp=seen,
            may_differ=allowed.may_differ,
            contexts=[[passage.id for passage in unit] for unit in work],
        )
        rollouts = write_edits(
            policy,
            documents,
            writing,
            contexts_per_unit=options.contexts_per_unit,
            journal=journal,
            screen=screen,
            check_stop=check_stop,
        )
        journal.keep(kept_edits(documents, rollouts, writing), round=0)
    learnt = lessons(e_step.task, documents, rollouts, writing)
    _tell(screen, learnt, rollouts, writing)
    place = Workplace(
        e_step=e_step,
        policy=policy,
        output=output,
        stamp=stamp,
        every_steps=options.save_every,
        merged=options.merged,
        source=module.source,
        base=base_of_source(module.source),
        data_licence=options.data_licence,
        unread=read.unread,
        screen=screen,
        check_stop=check_stop,
    )
    each = one_each(learnt, e_step.inner_loop, seed=module.seed) if options.adapters != "all" else []
    together = [one_for_all(learnt, options.together, seed=module.seed)] if options.adapters != "each" else []
    check(place, [*each, *together])
    tidy(output)
    before = _baseline(place, documents)
    columns, written = {"before": before}, {}
    for name, adapters in {"one each": each, "one for all": together}.items():
        made = make(place, adapters, before)
        if adapters:
            columns[name] = {key: value for found in made if found for key, value in found.items()}
        if sound := [adapted for adapted, found in zip(adapters, made, strict=True) if found is not None]:
            written[name] = sound
    if not written:
        raise DivergedError(
            "no adapter was written, since all of their trainings diverged: lower model.inner_loop.learning_rate (one "
            "for all: together.learning_rate) and start again in another --output"
        )
    count = sum(map(len, written.values()))
    _finish(screen, output, read, columns, written, diverged=len(each) + len(together) - count)
    return [adapted.name for some in written.values() for adapted in some]


def _depends(options: Any, module: SEALModule, seen: Mapping[str, Any], tokenizer: str) -> dict[str, Any]:
    """What all adapters of the folder depend on, and with self-edits all rollouts.

    Documents and queries are in the stamps of what is made of them; where passages are learnt as they stand, more of
    both may be added.
    """
    common = {key: value for key, value in seen.items() if key in ("base", "chat", "seed") or key.startswith(OF_ALL)}
    return {
        **(seen if options.learn == "edits" else common),
        "tokenizer": tokenizer,
        "learn": options.learn,
        "keep": options.keep,
        **flat("together.", describe(options.together)),
        **flat("inner_loop.", describe(module.e_step.inner_loop)),
        "save_every": options.save_every,
    }


def _was_begun(output: Path) -> bool:
    """Whether something in the folder was computed already."""
    made = (output / BASELINE, *(output / "adapters").glob(f"*/{RESULT}"), *(output / "training").glob("*"))
    return any(path.exists() for path in made) or is_begun(output / "journal", "adapt.rank-*.jsonl")


def _shorter(policy: Policy, passage: Context, chars: int) -> str:
    """Advice for a passage that does not fit: the limit is in characters, of which some take several tokens."""
    tokens, length = policy.count(passage.passage), max(1, len(passage.passage))
    taken = f"100 of this passage take {100 * tokens / length:.0f} tokens"
    return f"lower --passage_chars, which is {chars} characters ({taken})"


def _tell(screen: Screen, learnt: Sequence[Lesson], rollouts: Sequence[Rollout], writing: Writing) -> None:
    """What came of the writing."""
    if writing.learn == "passage":
        return
    edits = [rollout for rollout in rollouts if rollout.repeat == 0]
    rejected = sum(rollout.status == "rejected" for rollout in edits) / max(1, len(edits))
    rewards = [reward for lesson in learnt for reward in lesson.rewards]
    mean = f", kept at a mean reward of {sum(rewards) / len(rewards):.3f}" if rewards else ", none rewarded"
    screen.line(
        f"{_count(rollouts, 'rollout')}, {rejected:.0%} rejected; {sum(one.edits for one in learnt)} edits{mean}"
    )
    if unwritten := sum(lesson.unwritten for lesson in learnt):
        screen.line(f"{unwritten} passages without a usable edit are learnt as they stand")
    if missing := render_left_out(total_left_out(rollouts)):
        screen.line(f"cut or left out: {missing}")
    if usage := render_usage(total_usage(rollouts)):
        screen.line(usage)


def _baseline(place: Workplace, documents: Sequence[Document]) -> Measured:
    """What the policy answers without an adapter, asked once."""
    path = place.output / BASELINE
    asked = [document for document in documents if document.context.queries]
    if not asked:
        return {}
    stamp = asked_stamp(place.e_step, asked)
    if (found := _read_baseline(path, stamp, asked)) is not None:
        return found
    place.check_stop()
    with place.screen.bar("answers before", 1), place.screen.phases() as report:
        scored = ask_closed_book(place.e_step, place.policy, [document.context for document in asked], report=report)
    found = {document.id: one for document, one in zip(asked, scored, strict=True)}
    content = {"asked": stamp, "answered": {name: asdict(one) for name, one in found.items()}}
    save_text(path, json.dumps(content, ensure_ascii=False))
    return found


def _read_baseline(path: Path, stamp: str, documents: Sequence[Document]) -> Measured | None:
    """What was answered before; None where it was not, or other things were asked.

    What is damaged is asked again, with a line in the log: answers without an adapter are quickly made.
    """
    if not path.exists():
        return None
    try:
        content = parse_json(path.read_bytes())
        if content["asked"] != stamp:
            return None
        found = {name: Answered.from_dict(row) for name, row in content["answered"].items()}
        if any(len(found[one.id].answers) != len(one.context.queries) for one in documents):
            raise ValueError("answers to other queries")
        return found
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:100]
        log.warning("%s: cannot be read (%s), what it holds is asked again", path, reason)
        return None


def _finish(
    screen: Screen,
    output: Path,
    read: Documents,
    columns: dict[str, Measured],
    adapters: Mapping[str, Sequence[Adapted]],
    *,
    diverged: int,
) -> None:
    """The table on stdout and beside the adapters, whether they learnt anything, and what to do with them."""
    everything = [adapted for found in adapters.values() for adapted in found]
    missing = missing_of(output, [one.name for one in everything])
    missing = "; ".join(part for part in (missing, render_left_out({DIVERGED: diverged})) if part)
    if missing:
        screen.line(f"cut or left out in training the adapters: {missing}")
    verdicts = {
        name: judge(columns["before"], columns[name], training_of(output, found), writing_of(_lessons(found)))
        for name, found in adapters.items()
    }
    asked = [document for document in read.documents if document.id in columns["before"]]
    said = [f"{verdict.line(name)[:1].upper()}{verdict.line(name)[1:]}." for name, verdict in verdicts.items()]
    parts = [_table(asked, columns)] if asked else []
    parts += [f"{MISSING} {missing}."] if missing else []
    left_out = "\n".join(f"- {markdown_cell(line, 400)}" for line in read.left_out)
    learnt = "\n\n".join(markdown_cell(line, 1000) for line in said)
    save_text(output / "adapt.md", "\n\n".join(filter(None, (*parts, learnt, left_out))) + "\n")
    if asked:
        print("\n\n".join(parts), flush=True)
    else:
        screen.line("no queries, so no answers were measured: add some with --queries FILE")
    _last_words(screen, output, adapters, verdicts)


def _last_words(
    screen: Screen, output: Path, adapters: Mapping[str, Sequence[Adapted]], verdicts: Mapping[str, Verdict]
) -> None:
    """Where the adapters are; what to do with those that learnt something, and at the end which learnt nothing."""
    written = sum(map(len, adapters.values()))
    useful = [name for name, verdict in verdicts.items() if verdict.learnt != "no"]
    for name in useful:
        screen.line(verdicts[name].line(name))
    place = f"{written:,} adapter{'' if written == 1 else 's'} in {output / 'adapters'}"
    if useful:
        example = adapters[useful[-1]][-1].name
        screen.line(f"saved: {place}, for example {example}")
        screen.line(f'next: PeftModel.from_pretrained(base, "{output / "adapters" / example}")')
    else:
        screen.line(f"written, though of no use: {place}")
    for name, verdict in verdicts.items():
        if verdict.learnt == "no":
            screen.line(verdict.line(name), style="bold red")


def _lessons(adapters: Sequence[Adapted]) -> list[Lesson]:
    return [lesson for adapted in adapters for lesson in adapted.lessons]


def _table(documents: Sequence[Document], columns: dict[str, Measured]) -> str:
    rows = [
        (
            markdown_cell(document.context.title or document.id, 60),
            str(len(document.context.queries)),
            *(_cell(found, document.id) for found in columns.values()),
        )
        for document in documents
    ]
    names = [document.id for document in documents]
    scores = [score_of({**columns["before"], **found}, names) for found in columns.values()]  # diverged: as before
    queries = sum(len(document.context.queries) for document in documents)
    rows.append(("mean", str(queries), *(f"{one.mean:.3f}" for one in scores)))
    rows.append(("95 % interval", "", *(say_interval(one.low, one.high, one.documents) for one in scores)))
    return to_markdown(Table("", ("document", "queries", *columns), tuple(rows)))


def _cell(found: Measured, document: str) -> str:
    return f"{found[document].accuracy:.3f}" if document in found else "diverged"


def _count(things: Sequence[Any], what: str) -> str:
    return f"{len(things):,} {what}{'' if len(things) == 1 else 's'}"
