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

from seal_lightning.commands.adapt.baseline import BASELINE, ask_before
from seal_lightning.commands.adapt.edits import EditChoice, Lesson, kept_edits, lessons, raced_for, write_edits
from seal_lightning.commands.adapt.estimate import Estimate
from seal_lightning.commands.adapt.folders import RESULT, check
from seal_lightning.commands.adapt.generated import (
    TOGETHER,
    check_texts,
    generated_each,
    generated_for_all,
    load_generating,
    stamp_of,
)
from seal_lightning.commands.adapt.jobs import Adapter, Answers, Merging, Skill, Workplace, one_each, one_for_all
from seal_lightning.commands.adapt.making import make
from seal_lightning.commands.adapt.options import read_options
from seal_lightning.commands.adapt.sharing import Sharing, processes_of
from seal_lightning.commands.adapt.skill import read_skill
from seal_lightning.commands.adapt.summary import Made, summarise
from seal_lightning.commands.adapt.whole import make_whole
from seal_lightning.commands.fit import set_log_level
from seal_lightning.commands.standalone import (
    check_record,
    open_folder,
    open_journal,
    rules,
    write_settings,
)
from seal_lightning.data.base import units
from seal_lightning.data.documents import STDIN, Documents, read_sources
from seal_lightning.e_step.own_queries import OwnQueryStep
from seal_lightning.e_step.step import EStep
from seal_lightning.errors import DivergedError, Stopped
from seal_lightning.files.bounded import read_stdin
from seal_lightning.files.saving import tidy
from seal_lightning.fit.stamp import tokenizer_digest
from seal_lightning.fit.units import make_stamp
from seal_lightning.generator.policy import GeneratingPolicy
from seal_lightning.models.loading import fingerprint
from seal_lightning.policy.loading import Device, load_policy
from seal_lightning.policy.policy import Policy
from seal_lightning.processes.cores import cores
from seal_lightning.processes.stopping import StopSignals, work_begins
from seal_lightning.progress.screen import Screen
from seal_lightning.records.journal import is_begun
from seal_lightning.results.left_out import render_left_out, total_left_out
from seal_lightning.results.usage import render_usage, total_usage
from seal_lightning.sharing.card import base_of_source
from seal_lightning.sharing.hub import Export, destination_of, upload
from seal_lightning.stamps.run import save_record
from seal_lightning.stamps.values import CODE, VERSIONS, describe, digest, flat
from seal_lightning.text.plural import counted
from seal_lightning.types import Context, Json, JsonObject, Rollout

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
    choice = _choice(options)
    available = cores()  # before a tiny policy is loaded, which takes a single thread
    with nullcontext() if options.dry_run else open_folder(output, "adapt", resume=options.resume):
        policy = _checked_policy(options, read)
        skill = read_skill(options.skill, options.skill_scale, policy) if options.skill else None
        if options.dry_run:
            print(_estimate(options, policy, read, choice))
            return
        write_settings(parser, settings, output)
        signals = StopSignals()
        with signals.noted():
            place, jobs = _workplace(options, policy, read, output, signals, skill), _jobs(options, policy, read)
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
    return EditChoice(options.learn, options.model.step_for(plan), own, options.keep)


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


def _estimate(options: Namespace, policy: Policy, read: Documents, choice: EditChoice) -> str:
    e_step = options.model.e_step
    if isinstance(policy, GeneratingPolicy):
        ways, choice = 1 + (options.adapters == "both"), replace(choice, learn="passage")
        return Estimate(e_step, policy, read.documents, choice, (), options.contexts_per_unit, ways).text()
    each, together = [e_step.inner_loop], [options.together]
    loops = {"each": each, "all": together, "both": each + together}[options.adapters]
    whole = options.tuning == "full"
    return Estimate(e_step, policy, read.documents, choice, loops, options.contexts_per_unit, whole=whole).text()


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
    kinds = _generated(options, place, read) if options.generator else _learnt(options, place, read, choice, sharing)
    check(place, [adapter for adapters in kinds.values() for adapter in adapters])
    tidy(place.output)
    place = replace(place, before=ask_before(place, read.documents))
    if options.tuning == "full":
        results = {kind: [make_whole(place, adapter) for adapter in adapters] for kind, adapters in kinds.items()}
    else:
        results = make(place, kinds, sharing)
    made = [_made(kind, adapters, results[kind]) for kind, adapters in kinds.items()]
    names = [adapter.name for kind in made for adapter in kind.adapters]
    if not names:
        raise DivergedError(_NONE_GENERATED if options.generator else _NONE_TRAINED)
    summarise(place, read, made)
    return names


def _learnt(
    options: Namespace, place: Workplace, read: Documents, choice: EditChoice, sharing: Sharing[Any]
) -> dict[str, list[Adapter]]:
    """The adapters that are to be trained, by kind, once the edits that they learn from are written."""
    rollouts = _write(options, place, read, choice, sharing)
    learnt = lessons(place.e_step.task, read.documents, rollouts, choice)
    if choice.learn == "edits":
        _tell(place.screen, learnt, rollouts)
    seed, kinds = options.model.seed, {}
    if options.adapters != "all":
        kinds["one each"] = one_each(learnt, place.e_step.inner_loop, seed=seed)
    if options.adapters != "each":
        whole = options.tuning == "full"
        kinds["one for all"] = [one_for_all(learnt, options.together, seed=seed, whole=whole)]
    return kinds


def _generated(options: Namespace, place: Workplace, read: Documents) -> dict[str, list[Adapter]]:
    """The adapters that the generator is to write, by kind. Other documents may be added later."""
    _check_record(options, place, {**_always(_seen(place, place.e_step, [])), "generator": place.stamp})
    task, kinds = place.e_step.task, {}
    if options.adapters != "all":
        kinds["one each"] = generated_each(task, read.documents)
    if options.adapters != "each":
        merging = Merging(options.merging, options.merging_rank)
        kinds["one for all"] = [generated_for_all(task, read.documents, merging)]
    return kinds


def _made(kind: str, adapters: Sequence[Adapter], results: Sequence[Answers | None]) -> Made:
    sound = [adapter for adapter, answers in zip(adapters, results, strict=True) if answers is not None]
    answers = {name: answered for answers in results if answers for name, answered in answers.items()}
    return Made(kind, sound, answers, len(adapters) - len(sound))


def _write(
    options: Namespace, place: Workplace, read: Documents, choice: EditChoice, sharing: Sharing[list[list[Rollout]]]
) -> list[Rollout]:
    """The self-edits, from the journal or anew; none where passages are learnt themselves."""
    passages, policy = _passages(read), place.policy
    seen = _seen(place, choice.e_step, passages)
    seen |= {"rewarded": choice.rewarded, "contexts_per_unit": options.contexts_per_unit}
    _check_record(options, place, _depends(options, seen))
    if choice.learn == "passage":
        return []
    work = units(passages, options.contexts_per_unit)
    journal = open_journal(
        place.output / "journal",
        "adapt",
        stamp=seen,
        may_differ=rules(other_versions=options.allow_other_versions).may_differ,
        contexts=[[passage.id for passage in unit] for unit in work],
    )
    screen, check_stop = place.screen, place.check_stop
    rollouts = write_edits(policy, work, choice, journal, screen=screen, sharing=sharing, check_stop=check_stop)
    journal.keep(kept_edits(passages, rollouts, choice), round=0)
    return rollouts


def _seen(place: Workplace, e_step: EStep, passages: Sequence[Context]) -> JsonObject:
    """The stamp of what is written about passages."""
    chat, base = place.policy.chat_stamp, fingerprint(place.policy.model)
    return make_stamp(e_step, [passages], chat=chat, base=base, policy="")


def _check_record(options: Namespace, place: Workplace, depends: Mapping[str, Json]) -> None:
    """Refuse a folder of other settings, and write down those that all adapters of the folder depend on."""
    allowed = rules(other_versions=options.allow_other_versions)
    stamp = {**depends, "tokenizer": tokenizer_digest(place.policy.tokenizer)}
    stamp |= {"skill": place.skill.stamp} if place.skill else {}
    save_record(place.output, check_record(place.output, stamp, begun=_was_begun(place.output), rules=allowed))


def _always(seen: Mapping[str, Json]) -> JsonObject:
    """Of a stamp, what adapters depend on whether they learn from edits or not."""
    always = {key: value for key, value in seen.items() if key in ("base", "chat", "seed")}
    return always | {key: value for key, value in seen.items() if key.startswith((CODE, VERSIONS))}


def _depends(options: Namespace, seen: JsonObject) -> JsonObject:
    """What all adapters of the folder depend on, and with self-edits all rollouts.

    Documents and queries are in the stamps of what is made of them; where passages are learnt themselves, more of both
    may be added.
    """
    return {
        **(seen if options.learn == "edits" else _always(seen)),
        "learn": options.learn,
        "keep": options.keep,
        **flat("together.", describe(options.together)),
        **flat("inner_loop.", describe(options.model.e_step.inner_loop)),
        "save_every": options.save_every,
        "tuning": options.tuning,
    }


def _was_begun(output: Path) -> bool:
    """Whether the folder holds something that was computed."""
    folders = ("adapters", "weights")
    results = [path for folder in folders for path in (output / folder).glob(f"*/{RESULT}")]
    made = (output / BASELINE, *results, *(output / "training").glob("*"))
    return any(path.exists() for path in made) or is_begun(output / "journal", "adapt.rank-*.jsonl")


def _tell(screen: Screen, learnt: Sequence[Lesson], rollouts: Sequence[Rollout]) -> None:
    """Say what came of the writing."""
    edits = [rollout for rollout in rollouts if rollout.repeat == 0]
    rejected = sum(rollout.status == "rejected" for rollout in edits) / max(1, len(edits))
    rewards = [reward for lesson in learnt for reward in lesson.rewards]
    mean = f", kept at a mean reward of {sum(rewards) / len(rewards):.3f}" if rewards else ", none rewarded"
    kept = counted(sum(lesson.edits for lesson in learnt), "edit")
    screen.line(f"{counted(len(rollouts), 'rollout')}, {rejected:.0%} rejected; {kept}{mean}")
    if unwritten := sum(lesson.unwritten for lesson in learnt):
        screen.line(f"{counted(unwritten, 'passage')} without a usable edit, learnt in place of one")
    if missing := render_left_out(total_left_out(rollouts)):
        screen.line(f"cut or left out: {missing}")
    if usage := render_usage(total_usage(rollouts)):
        screen.line(usage)
