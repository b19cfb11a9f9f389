"""What a reader should know before trusting a run, in plain words, and what to do about it.

Each check is a function of what was measured; its threshold stands beside it, with the reason for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from rapidfuzz import fuzz, process

from seal_lightning.errors import RESUME
from seal_lightning.report.measure import MeasuredRun
from seal_lightning.report.read import lookup, plain
from seal_lightning.results.accuracy import means_of
from seal_lightning.results.verdict import said
from seal_lightning.text.plural import counted

FLAT = 0.5  # share of contexts without spread from which choosing is mostly by chance
ALIKE = 95.0  # of 100, rapidfuzz's ratio: two texts that differ in a word of twenty
REPEATED = 0.2  # share of kept edits with a twin; a policy that learns from fewer still sees variety
POOR = 0.1  # share of kept edits without merit: an edit in ten teaches what did not help
REJECTED = 0.1  # an edit in ten is lost
QUERIES = 4  # a context with fewer gives rewards in steps of a third or more
CONTEXTS = 10  # with fewer the interval of a share is wider than 0.5
LEARNT = 0.05  # a rise on the training contexts that is worth comparing
COMPARED = 400  # texts; every pair of them is looked at
SEEN = 2000  # characters of a text


@dataclass(frozen=True, slots=True)
class Advice:
    """A warning: `title` is what is the matter, `text` how it shows, `action` what to do."""

    title: str
    text: str
    action: str


def advise(run: MeasuredRun) -> list[Advice]:
    """The warnings about a run, the gravest first."""
    return [advice for check in CHECKS for advice in check(run)]


def _is_not_over(run: MeasuredRun) -> Iterator[Advice]:
    if run.state != "unfinished":
        return
    units = counted(run.run.unfinished, "unit")
    torn = f" A crash left {units} torn, to be done again." if run.run.unfinished else ""
    fit = f"{RESUME}, as in: seal fit --config {run.run.source}/config.yaml --ckpt_path last"
    again = (
        fit if "trainer" in run.run.config else "start the same command again, with --resume where it has that option"
    )
    yield Advice(
        "This run has not come to its end",
        f"{run.progress[:1].upper()}{run.progress[1:]}. It may still be running, or it was stopped.{torn}",
        f"If nothing runs any more: {again}.",
    )


def _rewards_have_no_spread(run: MeasuredRun) -> Iterator[Advice]:
    if run.generates:  # which chooses no best edit
        return
    for found in run.rounds[-1:]:
        if found.figures.dropped:  # a race leaves the best edits of a context, which are alike in reward
            return
        rewards = [[round(one.reward, 9) for one in group.outcomes if one.reward is not None] for group in found.groups]
        groups = [of_context for of_context in rewards if len(of_context) > 1]
        flat = sum(max(of_context) == min(of_context) for of_context in groups)
        if groups and flat / len(groups) >= FLAT:
            yield Advice(
                "Rewards without spread",
                f"In round {found.number} all edits of {flat} of {counted(len(groups), 'context')} got the same "
                "reward: to choose the best of them is to choose by chance.",
                "Give every context more queries or edits (--model.e_step.edits), average more repeats "
                "(--model.e_step.repeats), sample with more temperature, or let answers be graded by "
                "probability where the task allows it (--model.grader calibrated).",
            )


def _edits_are_rejected(run: MeasuredRun) -> Iterator[Advice]:
    for found in run.rounds[-1:]:
        if found.figures.rejected >= REJECTED:
            reason = next(iter(found.reasons), "")
            most = f", most often for this reason: {reason}" if reason else ""
            yield Advice(
                "Many edits cannot be used",
                f"{100 * found.figures.rejected:.0f}\u00a0% of the edits of round {found.number} were rejected{most}.",
                "Look at rejected texts in the journal; a clearer edit prompt, more tokens for an edit "
                "(max_new_tokens of the sampler), less temperature, or an output schema makes them usable.",
            )


def _answers_are_unfinished(run: MeasuredRun) -> Iterator[Advice]:
    for found in run.rounds[-1:]:
        if unfinished := found.figures.thoughts.get("unfinished", 0):
            yield Advice(
                "Answers end within a thought",
                f"{counted(unfinished, 'answer')} of round {found.number} ended before the model had thought it out: "
                "they count as empty.",
                "Switch thinking off (model.source.template_args), or give answers more tokens "
                "(--model.max_answer_tokens).",
            )


def _kept_edits_repeat(run: MeasuredRun) -> Iterator[Advice]:
    if run.directives and all(found.lines is not None and found.lines.middle <= 1 for found in run.rounds):
        return  # choices among a few values, as in ARC, repeat by their nature
    for found in run.rounds[-1:]:
        texts = [edit.text for edit in found.kept or () if edit.text]
        share = repeated(texts)
        if share >= REPEATED:
            yield Advice(
                "Kept edits repeat each other",
                f"{100 * share:.0f}\u00a0% of the {counted(len(texts), 'edit')} that round {found.number} keeps have a "
                "near-identical twin among them: the policy is taught one text several times.",
                "Pass repeats of a context over (--filter.max_similarity), keep fewer of its edits (--filter.k), set a "
                "minimum (--filter.min_gain), or check that edits are about their passage and not a phrase that fits "
                "all.",
            )


def _nothing_was_kept(run: MeasuredRun) -> Iterator[Advice]:
    empty = [str(found.number) for found in run.rounds if found.kept is not None and not found.kept]
    if empty and not run.run.adapters:  # seal adapt filters nothing, and its policy stays as it was anyway
        yield Advice(
            "A round kept nothing",
            f"No edit of round {', '.join(empty)} passed the filter, so the policy stayed as it was.",
            "See why no edit earns a reward, sample more of them (--model.e_step.edits), or lower the filter's limits "
            "(--filter.above, --filter.min_reward, --filter.min_gain).",
        )


def _training_contexts_are_overfit(run: MeasuredRun) -> Iterator[Advice]:
    edits = run.edits
    if len(run.rounds) < 2 or len(edits) < 2:
        return
    before, after = (means_of(run.run.rounds[found.number - 1], "edits") for found in (run.rounds[0], run.rounds[-1]))
    both = [name for name in after if name in before]  # all but in a round that is not over
    learnt = fmean(after[name] - before[name] for name in both) if both else 0.0
    if learnt >= LEARNT and edits[-1].high is not None and edits[-1].high < edits[0].accuracy + learnt:
        yield Advice(
            "Better on the training contexts only",
            f"From the first to the last round the score of edits rose by {learnt:.3f} on the training contexts. On "
            f"held-out ones it went from {edits[0].accuracy:.3f} to {edits[-1].accuracy:.3f} (at most "
            f"{edits[-1].high:.3f} by its interval), which does not keep up.",
            "Train on more contexts, for fewer epochs (--model.m_step.epochs) or with a smaller learning rate "
            "(--model.m_step.learning_rate).",
        )


def _no_round_is_better(run: MeasuredRun) -> Iterator[Advice]:
    found = run.run.selection
    if found is None or not found.rounds:
        return
    sentence, advice = said(found)
    text = f"{sentence[:1].upper()}{sentence[1:]}."
    if found.verdict in ("untrained", "nothing") and any(one.learnt for one in found.rounds):
        yield Advice(
            "No round beat the untrained policy",
            f"{text} Nothing was exported as the best policy; checkpoints/best.ckpt is the untrained one.",
            _start_again(run),
        )
    elif found.verdict == "noise":
        yield Advice(
            "Better within noise only",
            f"Round {found.best} is exported as the best policy. {text}",
            f"{advice[:1].upper()}{advice[1:]}, or train for more rounds, with more contexts or edits.",
        )


def _start_again(run: MeasuredRun) -> str:
    rate = f"(--model.m_step.learning_rate{_here(run, 'model.m_step.learning_rate')})"
    epochs = f"(--model.m_step.epochs{_here(run, 'model.m_step.epochs')})"
    if run.generates:
        return (
            "Train for longer (--trainer.max_epochs) and with more contexts; where the loss does not fall, with "
            f"another learning rate {rate}."
        )
    return (
        f"Start again in another folder with a lower learning rate {rate}, fewer epochs {epochs}, more edits to choose "
        "from (--model.e_step.edits), or more contexts."
    )


def _here(run: MeasuredRun, key: str) -> str:
    value = lookup(run.run.config, key)
    return "" if value is None else f", here {plain(value)}"


def _kept_edits_lack_merit(run: MeasuredRun) -> Iterator[Advice]:
    for found in run.rounds[-1:]:
        kept = len(found.kept or ())
        if kept and not run.run.adapters and found.without_merit / kept >= POOR:
            yield Advice(
                "Kept edits without merit",
                f"{found.without_merit:,} of the {counted(kept, 'edit')} that round {found.number} keeps earned no "
                "reward above 0, or answer no better than the model by itself: the policy is taught what did not help.",
                "Keep only edits that helped (--filter.above 0, --filter.min_gain), fewer of a context (--filter.k), "
                "or sample more to choose from (--model.e_step.edits).",
            )


def _training_made_it_worse(run: MeasuredRun) -> Iterator[Advice]:
    exported = run.run.selection is None or run.run.selection.verdict not in ("untrained", "nothing")
    if not exported or len(run.edits) < 2:
        return
    first, last = run.edits[0], run.edits[-1]
    if last.high is not None and last.high < first.accuracy:
        yield Advice(
            "Edits got worse",
            f"Accuracy with own edits fell from {first.accuracy:.3f} to {last.accuracy:.3f} ({last.low:.3f} – "
            f"{last.high:.3f}).",
            "Use the best round's policy (the folder policy/ holds it), and see whether rewards pay for what you want.",
        )


def _passage_alone_does_as_well(run: MeasuredRun) -> Iterator[Advice]:
    passage = next((row for row in run.accuracy if row.name == "passage"), None)
    if passage and run.edits and run.base and passage.accuracy > max(run.base.accuracy, run.edits[-1].accuracy):
        yield Advice(
            "Edits do not beat the passage",
            f"Training on the context alone gives {passage.accuracy:.3f}, on own edits {run.edits[-1].accuracy:.3f}.",
            "The generator has not reached what training on each passage gives: train it longer, with more contexts."
            if run.generates
            else "Edits are worth their cost only above that line. Let edits contain their passage, change the edit "
            "prompt, or start with edits of a stronger model.",
        )


def _queries_are_few(run: MeasuredRun) -> Iterator[Advice]:
    for found in run.rounds[-1:]:
        queries = found.figures.queries / found.contexts
        if 0 < queries < QUERIES:
            yield Advice(
                "Few queries",
                f"A training context has {queries:.1f} queries on average, so rewards come in coarse steps and many "
                "edits tie.",
                "Add queries, let a model write some (--model.e_step.queries own), or average more repeats "
                "(--model.e_step.repeats).",
            )
    if run.accuracy and 0 < run.accuracy[0].contexts < CONTEXTS:
        yield Advice(
            "Few held-out contexts",
            f"Accuracies rest on {counted(run.accuracy[0].contexts, 'context')}; their intervals are wide.",
            "Validate on more contexts before drawing conclusions.",
        )


def _adapters_learnt_nothing(run: MeasuredRun) -> Iterator[Advice]:
    idle = [adapter for adapter in run.run.adapters if adapter.learnt == "no"]
    if idle:
        first, all_of_them = idle[0], f"{len(idle):,} of {counted(len(run.run.adapters), 'adapter')}"
        yield Advice(
            "Adapters learnt nothing",
            f"{all_of_them} learnt nothing, such as {first.title}: {first.how}. Why: {first.why}.",
            f"Try {first.advice}.",
        )


CHECKS: Sequence[Callable[[MeasuredRun], Iterator[Advice]]] = (
    _is_not_over,
    _adapters_learnt_nothing,
    _no_round_is_better,
    _training_made_it_worse,
    _training_contexts_are_overfit,
    _rewards_have_no_spread,
    _nothing_was_kept,
    _kept_edits_lack_merit,
    _kept_edits_repeat,
    _edits_are_rejected,
    _answers_are_unfinished,
    _passage_alone_does_as_well,
    _queries_are_few,
)


def repeated(texts: Sequence[str]) -> float:
    """The share of texts that have a near-identical one among the others."""
    step = -(-len(texts) // COMPARED) or 1
    compared = [" ".join(text[:SEEN].split()) for text in texts[::step]]
    if len(compared) < 2:
        return 0.0
    alike = process.cdist(compared, compared, scorer=fuzz.ratio, score_cutoff=ALIKE)
    return fmean(float((row > 0).sum() > 1) for row in alike)  # each is its own twin
