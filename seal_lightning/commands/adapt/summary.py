"""What `seal adapt` ends with: a table of accuracies, whether anything was learnt, and where the adapters are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from seal_lightning.commands.adapt.folders import read_alone, read_facts, read_unrelated_answers
from seal_lightning.commands.adapt.jobs import Adapter, Answers, Workplace
from seal_lightning.commands.adapt.measuring import said_of
from seal_lightning.commands.adapt.skill import compared
from seal_lightning.commands.adapt.verdict import LearningVerdict, accuracies_compared, count_edits, joined, judge
from seal_lightning.data.documents import Document, Documents
from seal_lightning.files.saving import save_text
from seal_lightning.results.averages import interval, say_interval
from seal_lightning.results.left_out import DIVERGED, MISSING, added, render_left_out
from seal_lightning.results.table import Table, to_markdown
from seal_lightning.sharing.card import OPEN
from seal_lightning.text.escaping import markdown_cell
from seal_lightning.text.plural import counted

NONE_KNOWN = "the model answers none of them, so they cannot show what learning costs: name others with --unrelated"
BEFORE = "closed book (before)"


@dataclass(frozen=True, slots=True)
class Made:
    """Adapters of one kind.

    Attributes:
        kind: `one each` or `one for all`, as tables call it.
        adapters: Those that were written.
        answers: What they answer, by document.
        diverged: Number of adapters that were not written.
    """

    kind: str
    adapters: Sequence[Adapter]
    answers: Answers
    diverged: int


def summarise(place: Workplace, read: Documents, made: Sequence[Made]) -> None:
    """Print the table and write it beside the adapters; say whether they learnt anything, and what to do with them."""
    before = place.before
    facts = {kind.kind: [read_facts(place, adapter) for adapter in kind.adapters] for kind in made if kind.adapters}
    verdicts = {
        kind.kind: judge(
            before,
            kind.answers,
            joined(facts[kind.kind]),
            count_edits([lesson for adapter in kind.adapters for lesson in adapter.lessons]),
        ).noting(_of_skill(place, kind))
        for kind in made
        if kind.adapters
    }
    trained = added([training.left_out for trainings in facts.values() for training in trainings])
    diverged = {DIVERGED: sum(kind.diverged for kind in made)}
    if missing := "; ".join(filter(None, map(render_left_out, (trained, diverged)))):
        place.screen.line(f"cut or left out in training the adapters: {missing}")
    asked = [document for document in read.documents if document.id in before]
    parts = [_table(asked, place, made)] if asked else []
    parts += ["\n".join(notes)] if (notes := [*_of_queries(asked, place), *_of_unrelated(place, made)]) else []
    parts += [f"{MISSING} {missing}."] if missing else []
    lines = [verdict.line(kind) for kind, verdict in verdicts.items()]
    learnt = "\n\n".join(markdown_cell(f"{line[:1].upper()}{line[1:]}.", 1000) for line in lines)
    left_out = "\n".join(f"- {markdown_cell(line, 400)}" for line in read.left_out)
    save_text(place.output / "adapt.md", "\n\n".join(filter(None, (*parts, learnt, left_out))) + "\n")
    if parts:
        print("\n\n".join(parts), flush=True)
    if not asked:
        place.screen.line("no queries, so no answers were measured: add some with --queries FILE")
    _last_words(place, made, verdicts)


def _of_skill(place: Workplace, kind: Made) -> str:
    if place.skill is None:
        return ""
    return compared(place.skill, [read_alone(place, adapter) for adapter in kind.adapters], kind.answers)


def _last_words(place: Workplace, made: Sequence[Made], verdicts: Mapping[str, LearningVerdict]) -> None:
    """Where the adapters are, and how to load one that learnt something; in red, at the end, which learnt nothing."""
    adapters, screen = [adapter for kind in made for adapter in kind.adapters], place.screen
    model = adapters[0].whole
    written, folder = counted(len(adapters), "model" if model else "adapter"), place.folder(adapters[0]).parent
    useful = [kind for kind in made if kind.kind in verdicts and verdicts[kind.kind].learnt != "no"]
    for kind in useful:
        screen.line(verdicts[kind.kind].line(kind.kind))
    if useful:
        example = useful[-1].adapters[-1].name
        screen.line(f"saved: {written} in {folder}, for example {example}")
        example = folder / example
        load = f"--model.source.name {example}" if model else f'PeftModel.from_pretrained(base, "{example}")'
        screen.line(f"load: {load}")
        screen.line(f'next: seal ask {place.output} "QUESTION"')
    else:
        screen.line(f"written, but of no use: {written} in {folder}")
    for name, verdict in verdicts.items():
        if verdict.learnt == "no":
            screen.line(verdict.line(name), style="bold red")


def _of_queries(asked: Sequence[Document], place: Workplace) -> list[str]:
    """What the figures of the table rest on."""
    said = [f"- {text}." for text in [said_of(asked)] if text]
    if parts := sum(answered.in_part for answered in place.open_book.values()):
        said.append(
            f"- Open book: for {counted(parts, 'query')} the document does not fit into the model's window; the pieces "
            "most like the question were shown."
        )
    return said


def _of_unrelated(place: Workplace, made: Sequence[Made]) -> list[str]:
    """What learning has cost: unrelated questions before and after, over the adapters of each kind."""
    said = []
    for kind in made:
        found = {adapter.name: read_unrelated_answers(place, adapter) for adapter in kind.adapters}
        known = {name: pair for name, pair in found.items() if pair is not None}
        if not known:
            continue
        before, after = ({name: pair[side] for name, pair in known.items()} for side in (0, 1))
        if not any(answered.accuracy for answered in (*before.values(), *after.values())):
            said.append(f"- Unrelated questions ({kind.kind}): {NONE_KNOWN}.")
            continue
        line = f"- Unrelated questions ({kind.kind}): {accuracies_compared(before, after, of='adapter')}"
        if len(known) > 1:
            worst = min(known, key=lambda name: (after[name].accuracy - before[name].accuracy, name))
            line += f"; worst: {worst}, {before[worst].accuracy:.3f} before, {after[worst].accuracy:.3f} after"
        said.append(f"{line}.")
    return said


def _table(documents: Sequence[Document], place: Workplace, made: Sequence[Made]) -> str:
    before = place.before
    columns = {BEFORE: before} | {kind.kind: kind.answers for kind in made}
    columns |= {OPEN: place.open_book} if place.open_book else {}
    rows = [
        (
            markdown_cell(document.context.title or document.id, 60),
            str(len(document.context.queries)),
            *(
                f"{answers[document.id].accuracy:.3f}" if document.id in answers else "diverged"
                for answers in columns.values()
            ),
        )
        for document in documents
    ]
    queries = sum(len(document.context.queries) for document in documents)
    known = [{**before, **answers} for answers in columns.values()]  # one that diverged counts as before
    scores = [[answers[document.id].accuracy for document in documents] for answers in known]
    rows.append(("mean", str(queries), *(f"{fmean(accuracies):.3f}" for accuracies in scores)))
    intervals = [say_interval(*interval(accuracies), len(accuracies)) for accuracies in scores]
    rows.append(("95 % interval", "", *intervals))
    return to_markdown(Table("", ("document", "queries", *columns), tuple(rows)))
