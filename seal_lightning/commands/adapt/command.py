"""The command `seal adapt`: read documents, write edits, train and measure adapters, summarise, upload."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from seal_lightning.commands.adapt.baseline import ask_before
from seal_lightning.commands.adapt.edits import EditChoice, raced_for
from seal_lightning.commands.adapt.estimate import Estimate
from seal_lightning.commands.adapt.folders import check
from seal_lightning.commands.adapt.generated import (
    TOGETHER,
    check_texts,
    generated_each,
    generated_for_all,
    load_generating,
    read_by_generator,
    stamp_of,
)
from seal_lightning.commands.adapt.jobs import Adapter, Answers, Merging, Skill, Workplace, one_each, one_for_all
from seal_lightning.commands.adapt.keeping import Keeper, begin, to_do
from seal_lightning.commands.adapt.making import answers_or_none, make, outcomes_before
from seal_lightning.commands.adapt.measuring import said_of, set_apart
from seal_lightning.commands.adapt.options import read_options
from seal_lightning.commands.adapt.record import check_settings, digests_of_documents, wanted_of
from seal_lightning.commands.adapt.sharing import Sharing, processes_of
from seal_lightning.commands.adapt.skill import read_skill
from seal_lightning.commands.adapt.summary import Made, summarise
from seal_lightning.commands.adapt.unrelated import Unrelated, read_unrelated
from seal_lightning.commands.adapt.whole import make_whole
from seal_lightning.commands.adapt.writing import written_lessons
from seal_lightning.commands.fit import set_log_level
from seal_lightning.commands.standalone import (
    open_folder,
    write_settings,
)
from seal_lightning.data.base import units
from seal_lightning.data.documents import STDIN, Documents, read_sources
from seal_lightning.e_step.own_queries import OwnQueryStep
from seal_lightning.errors import DivergedError, Stopped
from seal_lightning.files.bounded import read_stdin
from seal_lightning.files.saving import tidy
from seal_lightning.generator.policy import GeneratingPolicy
from seal_lightning.models.loading import fingerprint
from seal_lightning.policy.loading import Device, load_policy
from seal_lightning.policy.policy import Policy
from seal_lightning.processes.cores import cores
from seal_lightning.processes.stopping import StopSignals, work_begins
from seal_lightning.progress.screen import Screen
from seal_lightning.sharing.card import base_of_source
from seal_lightning.sharing.hub import Export, destination_of, upload
from seal_lightning.stamps.values import digest
from seal_lightning.text.plural import counted
from seal_lightning.types import Context

_NONE_TRAINED = (
    "no adapter was written, because all trainings diverged: lower model.inner_loop.learning_rate (one for all: "
    "together.learning_rate) and start again in another --output"
)
_NONE_GENERATED = (
    "no adapter was written, because none that the generator made is finite: take another --generator, and another "
    "--output"
)


def main(args: Sequence[str]) -> None:
    """Run the command.

    Raises:
        ConfigError: An option has a value that cannot work.
        DataError: A document cannot be read.
        ModelError: The model cannot be loaded, or a passage does not fit into its window.
        RetryableError: A grader or an endpoint failed; finished work is kept.
        Stopped: A signal asked the command to stop; finished work is kept.
    """
    parser, settings = read_options(args)
    work_begins()
    options = parser.make(settings)
    set_log_level(options.log_level)
    output = Path(options.output).expanduser()
    destination = None if options.dry_run else destination_of(options, folder=output)
    read = _read(options)
    choice, unrelated = _choice(options), Unrelated(read_unrelated(options.unrelated, options.model.e_step.task))
    available = cores()  # before a tiny policy is loaded, which takes a single thread
    with nullcontext() if options.dry_run else open_folder(output, "adapt", resume=options.resume):
        policy = _checked_policy(options, read)
        skill = read_skill(options.skill, options.skill_scale, policy) if options.skill else None
        read = set_apart(read, choice, share=options.held_out, seed=options.model.seed)
        if options.dry_run:
            print(_estimate(options, policy, read, choice, unrelated))
            return
        write_settings(parser, settings, output)
        signals = StopSignals()
        with signals.noted():
            place = replace(_workplace(options, policy, read, output, signals, skill), unrelated=unrelated)
            jobs = _jobs(options, policy, read)
            processes = processes_of(policy, (place.e_step, choice), cores=available, jobs=jobs)
            load, stopping = partial(_loader(options), "cpu"), partial(_is_stopping, signals)
            with closing(Sharing(processes, policy, load, screen=place.screen, stopping=stopping)) as sharing:
                adapters = _adapt(options, place, read, choice, sharing)
        write_settings(parser, settings, output, finished=True)
    if destination is not None:
        exports = _exports(output, adapters, merged=options.merged, whole=options.tuning == "full")
        for address in upload(destination, exports):
            Screen().line(f"uploaded: {address}")


def _is_stopping(signals: StopSignals) -> bool:
    try:
        signals.check()
    except Stopped:
        return True
    return False


def _read(options: Namespace) -> Documents:
    from_stdin = STDIN in options.documents
    if from_stdin and sys.stdin.isatty():
        Screen().line("adapt: reading a document from the terminal, end it with Ctrl-D")
    return read_sources(
        options.documents,
        stdin=read_stdin(sys.stdin.buffer) if from_stdin else b"",
        queries=options.queries,
        passage_chars=options.passage_chars,
        strict=options.strict,
    )


def _choice(options: Namespace) -> EditChoice:
    plan = raced_for(options.model.e_step.plan, options.keep)
    own = options.model.step_for(replace(plan, queries="own")) if plan.score_by == "queries" else None
    assert own is None or isinstance(own, OwnQueryStep)
    learn = options.learn if options.generator is None else "passage"
    return EditChoice(learn, options.model.step_for(plan), own, options.keep)


def _loader(options: Namespace) -> Callable[[Device], Policy]:
    """Loads the policy, and the generator where there is one, to a device."""
    if options.generator is not None:
        return partial(load_generating, options.model.source, options.generator, trusted=options.trust_policy)
    return partial(load_policy, options.model.source, options.policy)


def _checked_policy(options: Namespace, read: Documents) -> Policy:
    """The policy, into whose window every passage fits, or whatever its generator reads."""

    def advice(passage: Context) -> str:  # the limit is in characters, some of which take several tokens
        tokens = 100 * policy.count(passage.passage) / max(1, len(passage.passage))
        taken = f"100 of this passage take {tokens:.0f} tokens"
        return f"lower --passage_chars, which is {options.passage_chars} characters ({taken})"

    policy, e_step = _loader(options)(options.device), options.model.e_step
    if isinstance(policy, GeneratingPolicy):
        check_texts(policy, e_step, read.documents)
        return policy
    e_step.check_model(policy)
    e_step.check_fits(policy, _passages(read), advice=advice)
    return policy


def _passages(read: Documents) -> list[Context]:
    return [passage for document in read.documents for passage in document.passages]


def _jobs(options: Namespace, policy: Policy, read: Documents) -> int:
    """In how many pieces the work comes at most."""
    generated = options.generator is not None
    slots = TOGETHER if generated else options.model.e_step.inner_loop.slots(policy.model)
    groups = (-(-len(read.documents) // slots) if options.adapters != "all" else 0) + (options.adapters != "each")
    writes = options.learn == "edits" and not generated
    written = len(units(_passages(read), options.contexts_per_unit)) if writes else 0
    return max(written, groups)


def _estimate(options: Namespace, policy: Policy, read: Documents, choice: EditChoice, unrelated: Unrelated) -> str:
    """The estimate of what is to be done; with `--resume`, of what is left."""
    documents, together, whole = read.documents, options.adapters != "each", options.tuning == "full"
    each, left = options.adapters != "all", list(documents)
    if options.resume:
        output, digests = Path(options.output).expanduser(), digests_of_documents(options, documents, choice)
        left, together, said = to_do(output, documents, digests, each=each, together=together)
        if said:
            Screen().line(said)
    if not (left or together):
        return "nothing is to be done"
    estimate = partial(
        Estimate,
        options.model.e_step,
        policy,
        contexts_per_unit=options.contexts_per_unit,
        unrelated=unrelated.asked_in_all(len(left) if each else 0, together),
    )
    if isinstance(policy, GeneratingPolicy):
        some = documents if together else left
        ways = each + together
        return estimate(documents=some, choice=replace(choice, learn="passage"), loops=(), generated=ways).text()
    loops = [options.model.e_step.inner_loop] * (each and bool(left)) + [options.together] * together
    known = [one for one in documents if one not in left] if together else []
    return estimate(documents=left, choice=choice, loops=loops, whole=whole, known=known).text()


def _workplace(
    options: Namespace, policy: Policy, read: Documents, output: Path, signals: StopSignals, skill: Skill | None
) -> Workplace:
    of_policy = (
        stamp_of(policy, options.generator) if isinstance(policy, GeneratingPolicy) else fingerprint(policy.model)
    )
    return Workplace(
        e_step=options.model.e_step,
        policy=policy,
        output=output,
        stamp=digest([of_policy, skill.stamp]) if skill else of_policy,
        every_steps=options.save_every,
        merged=options.merged,
        source=options.model.source,
        base=base_of_source(options.model.source),
        data_licence=options.data_licence,
        unread=read.unread,
        screen=Screen(),
        check_stop=signals.check,
        skill=skill,
    )


def _exports(output: Path, names: Sequence[str], *, merged: bool, whole: bool) -> list[Export]:
    """The folders to upload; a single adapter goes to the root of its repository."""
    single = len(names) == 1
    kinds = {"weights" if whole else "adapters": "", **({"merged": "-merged"} if merged else {})}
    return [
        Export(output / folder / name, inside="" if single else name, suffix=suffix)
        for folder, suffix in kinds.items()
        for name in names
    ]


# -- steps -------------------------------------------------------------------------------------------------------------


def _adapt(
    options: Namespace, place: Workplace, read: Documents, choice: EditChoice, sharing: Sharing[Any]
) -> list[str]:
    """Everything from the edits to the summary; returns the names of the adapters."""
    passages = _passages(read)
    unread = f"; {counted(read.unread, 'file')} left out" if read.unread else ""
    place.screen.line(f"{counted(len(read.documents), 'document')}, {counted(len(passages), 'passage')}{unread}")
    if queries := said_of(read.documents):
        place.screen.line(queries)
    keeper = _begun(options, place, read, choice)
    if options.generator:
        kinds = _generated(options, place, read, keeper)
    else:
        kinds = _learnt(options, place, read, choice, sharing, keeper)
    check(place, [adapter for adapters in kinds.values() for adapter in adapters])
    tidy(place.output)
    place = ask_before(place, read.documents)
    results = _whole(place, kinds, keeper) if options.tuning == "full" else make(place, kinds, sharing, keeper)
    made = [_made(kind, adapters, results[kind]) for kind, adapters in kinds.items()]
    names = [adapter.name for kind in made for adapter in kind.adapters]
    if not names:
        raise DivergedError(_NONE_GENERATED if options.generator else _NONE_TRAINED)
    summarise(place, read, made)
    for left in (place.output / "training").glob("*.safetensors"):  # of groups that a change of the documents ended
        left.unlink()
    return names


def _begun(options: Namespace, place: Workplace, read: Documents, choice: EditChoice) -> Keeper:
    """The folder, once outdated adapters are retired; what has changed since the run before is told."""
    settings = check_settings(options, place, choice)
    keeper = begin(place.output, wanted_of(options, place, read.documents, choice, settings=settings))
    for line in keeper.lines():
        place.screen.line(line)
    return keeper


def _learnt(
    options: Namespace,
    place: Workplace,
    read: Documents,
    choice: EditChoice,
    sharing: Sharing[Any],
    keeper: Keeper,
) -> dict[str, list[Adapter]]:
    """The adapters that are to be trained, by kind, once the edits that they learn from are written."""
    learnt = written_lessons(options, place, read.documents, choice, sharing)
    seed, kinds = options.model.seed, {}
    if options.adapters != "all":
        kinds["one each"] = one_each(learnt, place.e_step.inner_loop, seed=seed)
    if options.adapters != "each":
        whole = options.tuning == "full"
        kinds["one for all"] = [one_for_all(keeper.order(learnt), options.together, seed=seed, whole=whole)]
    return kinds


def _generated(options: Namespace, place: Workplace, read: Documents, keeper: Keeper) -> dict[str, list[Adapter]]:
    """The adapters that the generator is to write, by kind."""
    task, kinds = place.e_step.task, {}
    if options.adapters != "all":
        kinds["one each"] = generated_each(task, read.documents)
    if options.adapters != "each":
        merging = Merging(options.merging, options.merging_rank)
        lessons = keeper.order(read_by_generator(task, read.documents))
        kinds["one for all"] = [generated_for_all(lessons, merging)]
    return kinds


def _whole(place: Workplace, kinds: Mapping[str, Sequence[Adapter]], keeper: Keeper) -> dict[str, list[Answers | None]]:
    """What the model whose weights are all trained answers."""
    results: dict[str, list[Answers | None]] = {}
    for kind, adapters in kinds.items():
        known = outcomes_before(place, adapters, keeper)
        outcomes = [known[one.name] if one.name in known else make_whole(place, one) for one in adapters]
        keeper.note(place, list(zip(adapters, outcomes, strict=True)))
        results[kind] = [answers_or_none(outcome) for outcome in outcomes]
    return results


def _made(kind: str, adapters: Sequence[Adapter], results: Sequence[Answers | None]) -> Made:
    sound = [adapter for adapter, answers in zip(adapters, results, strict=True) if answers is not None]
    answers = {name: answered for answers in results if answers for name, answered in answers.items()}
    return Made(kind, sound, answers, len(adapters) - len(sound))
