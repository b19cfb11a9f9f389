"""The result files of the SEAL authors (`run_*.json`, plain or .gz), read into rollouts and written from them.

One file is one E-step, or one evaluation with one edit a context: every answer of every repeat with the judge's
verdict, and figures about them. The figures are rounded on their way up (accuracies of single repeats, then those of
contexts, then of the whole file); `to_official` rounds at the same places, so that what it computes from the single
answers equals what was published, to the last digit. Every standard deviation there is that of a sample.

An edit without answers is a rejected rollout. What the format has no place for is left out on export: seeds, token
counts, further accepted answers, adapters that were trained on the passage alone, edits that a race dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, mean
from typing import Any

from seal_lightning.data.base import context_id
from seal_lightning.files.rows import Row, read_rows
from seal_lightning.results.averages import by_context, by_edit, spread
from seal_lightning.results.pairing import digest_of
from seal_lightning.types import Context, Rollout

DIGITS = 4
UNANSWERED = "the file has no answers for this edit"


@dataclass(frozen=True, slots=True)
class OfficialRun:
    """What an official file holds.

    Attributes:
        rollouts: By context, edit and repeat, in the file's order.
        contexts: Titles and passages, without queries.
        header: What else stands at the top: settings, and the published figures as `overall`.
    """

    rollouts: tuple[Rollout, ...]
    contexts: tuple[Context, ...]
    header: Mapping[str, Any]


def read_run(path: Path) -> OfficialRun:
    """Read an official file.

    Raises:
        DataError: The file cannot be read, or a field of it cannot be used.
    """
    rows = read_rows(path)
    if len(rows) > 1 or "articles" not in rows[0].values:
        fields = ", ".join(list(rows[0].values)[:8]) or "(none)"
        got = f"{len(rows)} rows" if len(rows) > 1 else f"the fields {fields}"
        raise rows[0].error("", expected="an official run with articles", got=got, advice="name a run_*.json")
    contexts: dict[str, Context] = {}
    rollouts: list[Rollout] = []
    for article in _filled(rows[0], "articles"):
        context = _context(article, taken=contexts)
        contexts[context.id] = context
        rollouts += _group(article, context)
    header = {name: value for name, value in rows[0].values.items() if name != "articles"}
    return OfficialRun(tuple(rollouts), tuple(contexts.values()), header)


def to_official(
    rollouts: Iterable[Rollout], *, contexts: Iterable[Context] = (), header: Mapping[str, object] | None = None
) -> dict[str, Any]:
    """The content of an official file.

    Args:
        rollouts: The rollouts of one round; only self-edits that no race dropped are written.
        contexts: The contexts with titles and passages; one that is missing goes by its id, without a passage.
        header: Further fields to write at the top.
    """
    known = {context.id: context for context in contexts}
    groups = by_context([one for one in rollouts if one.kind == "edit" and not one.dropped])
    articles = [_article(group, known.get(name, Context(name, name, ""))) for name, group in groups.items()]
    edits = [edit for article in articles for edit in article["completions"]]
    counts = {
        "n_articles": len(articles),
        "k_completions": max(len(article["completions"]) for article in articles),
        "eval_times": max(rollout.repeat for group in groups.values() for rollout in group) + 1,
    }
    overall = _overall([article["stats"] for article in articles], [edit["stats"] for edit in edits])
    return {**(header or {}), "overall": overall, **counts, "articles": articles}


def published_figures(run: OfficialRun) -> dict[str, tuple[float, float]]:
    """The `overall` figures of a file, each beside what its single answers give; none where the file has none."""
    published = run.header.get("overall")
    computed = to_official(run.rollouts)["overall"]
    return {
        name: (published[name], value)
        for name, value in computed.items()
        if isinstance(published, Mapping) and isinstance(published.get(name), int | float)
    }


# -- reading -----------------------------------------------------------------------------------------------------------


def _context(article: Row, *, taken: Mapping[str, Context]) -> Context:
    """A passage that was not known when the file was written left its context's id as the title."""
    title, passage = article.title(required=True), article.text("context", may_be_blank=True)
    name = context_id(title, passage) if passage or not title else title
    repeats = sum(known == name or known.startswith(f"{name}#") for known in taken)
    return Context(f"{name}#{repeats + 1}" if repeats else name, title, passage)


def _group(article: Row, context: Context) -> list[Rollout]:
    """The rollouts of one context; where nothing was trained, the policy answers as before."""
    prompt = article.text("prompt", may_be_blank=True) if "prompt" in article.values else ""
    rollouts = []
    for index, edit in enumerate(_filled(article, "completions")):
        text = edit.text("text", may_be_blank=True)
        rollout = Rollout(
            round=0,
            context_id=context.id,
            edit_index=index,
            repeat=0,
            seed=0,
            prompt=prompt,
            text=text,
            status="ok",
            title=context.title,
            passage_digest=digest_of(context.passage),
        )
        rollouts += _repeats(edit, rollout)
    answered = [rollout.baseline for rollout in rollouts if rollout.status == "ok"]
    baseline = fmean(answered) if answered else 0.0
    return [
        replace(rollout, baseline=baseline, score=baseline) if rollout.status == "rejected" else rollout
        for rollout in rollouts
    ]


def _repeats(edit: Row, rollout: Rollout) -> list[Rollout]:
    by_repeat: dict[int, list[Row]] = {}
    for row in edit.rows("questions", required=False):
        repeat = row.values.get("rep", 0)
        if isinstance(repeat, bool) or not isinstance(repeat, int) or repeat < 0:
            raise row.error("rep", expected="a whole number from 0", got=row.got("rep"), advice="count the repeats")
        by_repeat.setdefault(repeat, []).append(row)
    if not by_repeat:
        return [replace(rollout, status="rejected", reason=UNANSWERED)]
    return [_answered(by_repeat[repeat], replace(rollout, repeat=repeat)) for repeat in sorted(by_repeat)]


def _answered(rows: Sequence[Row], rollout: Rollout) -> Rollout:
    before = tuple(_verdict(row, "baseline_correct") for row in rows)
    after = tuple(_verdict(row, "adapter_correct") for row in rows)
    return replace(
        rollout,
        questions=tuple(row.text("question") for row in rows),
        golds=tuple(row.golds("answer") for row in rows),
        baseline_answers=tuple(row.text("baseline_answer", may_be_blank=True) for row in rows),
        answers=tuple(row.text("adapter_answer", may_be_blank=True) for row in rows),
        baseline_scores=before,
        scores=after,
        baseline=fmean(before),
        score=fmean(after),
        gain=fmean(after) - fmean(before),
        reward=round(fmean(after), DIGITS),  # as the authors' filter saw it: edits that tie exactly may differ here
    )


def _filled(row: Row, field: str) -> list[Row]:
    """A list of objects with at least one in it."""
    if rows := row.rows(field):
        return rows
    raise row.error(field, expected="at least one object", got="an empty list", advice="write the file again")


def _verdict(row: Row, field: str) -> float:
    value = row.values.get(field)
    if not isinstance(value, bool | int | float) or not 0 <= value <= 1:
        raise row.error(field, expected="true, false or a score", got=row.got(field), advice="grade the answer")
    return float(value)


# -- writing -----------------------------------------------------------------------------------------------------------


def _article(group: Sequence[Rollout], context: Context) -> dict[str, Any]:
    edits = list(map(_edit, by_edit(sorted(group, key=lambda rollout: (rollout.edit_index, rollout.repeat)))))
    every = [edit["stats"] for edit in edits]
    after = [edit["adapter_mean"] for edit in every]
    stats = {
        "baseline_accuracy": mean(edit["baseline_mean"] for edit in every),
        "adapter_mean_accuracy": mean(after),
        "adapter_std_over_completions": spread(after),
        "mean_adapter_std_within_completions": mean(edit["adapter_std"] for edit in every),
        "mean_gain": mean(edit["gain_mean"] for edit in every),
    }
    return {
        "stats": {name: round(value, DIGITS) for name, value in stats.items()},
        "title": context.title,
        "context": context.passage,
        **({"prompt": group[0].prompt} if group[0].prompt else {}),
        "completions": edits,
    }


def _edit(repeats: Sequence[Rollout]) -> dict[str, Any]:
    before = [round(rollout.baseline, DIGITS) for rollout in repeats]
    after = [round(rollout.score, DIGITS) for rollout in repeats]
    stats = {
        "baseline_mean": mean(before),
        "baseline_std": spread(before),
        "adapter_mean": mean(after),
        "adapter_std": spread(after),
        "gain_mean": mean(round(rollout.score - rollout.baseline, DIGITS) for rollout in repeats),
    }
    questions = [
        {
            "rep": rollout.repeat,
            "question": question,
            "answer": rollout.golds[number][0],
            "baseline_answer": rollout.baseline_answers[number],
            "adapter_answer": rollout.answers[number],
            "baseline_correct": _as_verdict(rollout.baseline_scores[number]),
            "adapter_correct": _as_verdict(rollout.scores[number]),
        }
        for rollout in repeats
        for number, question in enumerate(rollout.questions)
        if rollout.answers  # a rejected edit has none
    ]
    return {"text": repeats[0].text, "stats": stats, "questions": questions}


def _as_verdict(score: float) -> bool | float:
    return bool(score) if score in (0.0, 1.0) else score


def _overall(articles: Sequence[Mapping[str, float]], edits: Sequence[Mapping[str, float]]) -> dict[str, float]:
    before = [article["baseline_accuracy"] for article in articles]
    after = [article["adapter_mean_accuracy"] for article in articles]
    stats = {
        "baseline_mean_accuracy": mean(before),
        "baseline_std_of_article_means": spread(before),
        "adapter_mean_accuracy": mean(after),
        "adapter_std_of_article_means": spread(after),
        "mean_adapter_std_over_completions": mean(article["adapter_std_over_completions"] for article in articles),
        "mean_adapter_std_within_completions": mean(edit["adapter_std"] for edit in edits),
        "mean_gain": mean(article["mean_gain"] for article in articles),
    }
    return {name: round(value, DIGITS) for name, value in stats.items()}
