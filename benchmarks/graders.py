"""The offline graders against GPT-4.1: agreement, worth as a reward, speed, and what a recited passage earns.

    python benchmarks/graders.py VERDICTS --runs RUN ... --passages PASSAGES [--examples 20]

VERDICTS has {question, gold, answer, correct} on each line. Agreement, kappa and calibration error are means over five
draws of a third of the questions; the calibrated grader is fitted on the others each time. A second table has the
calibrated grader by what is held out: questions; articles (of the answers in RUNS, which tell their article); and all
the questions of RUNS, where a run is of another writer or model. Its intervals draw questions, articles and again
questions (95 %, bootstrap). RUNS are official run files: for each context the edit with the best mean score is chosen
(the first of equals), and

    reward = (judge's score of the chosen edits - of all edits) / (judge's score of the judge's choice - of all edits)

so 0 is chance and 1 the judge's own choice. There, too, nothing is fitted on the questions asked. PASSAGES is a list of
{context, questions: [{question, answer}]}: each passage is given as the answer to its questions, whole and cut to 48
words (64 tokens, as the paper cuts answers), and its share of right answers or mean score is printed.
"""

import argparse
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import numpy as np

from seal_lightning.commands.fit_grader import SEEDS, Measured, fit, measure_all, questions_of, split
from seal_lightning.files.rows import read_rows
from seal_lightning.grading import F1, Answer, Calibrated, Contains, ExactMatch, Grader, Recall, Verdict
from seal_lightning.grading.agreement import Agreement, compare
from seal_lightning.grading.calibrated.curves import Curves, load, probabilities
from seal_lightning.grading.calibrated.features import FEATURES
from seal_lightning.records.judged import Judged, read_judged
from seal_lightning.records.official import read_run
from seal_lightning.types import Rollout

CUT = 48
RESAMPLES = 2000
Make = Callable[[str | None], Grader]  # from a file of coefficients, which only the calibrated grader looks at
GRADERS: Mapping[str, Make] = {
    "exact match": lambda path: ExactMatch(),
    "F1": lambda path: F1(),
    "contains": lambda path: Contains(),
    "recall": lambda path: Recall(),
    "calibrated": lambda path: Calibrated(coefficients=path),
    "calibrated, soft": lambda path: Calibrated(coefficients=path, soft=True),
    "calibrated, 15 free words": lambda path: Calibrated(coefficients=path, free_words=15),
    "calibrated, 8 free words": lambda path: Calibrated(coefficients=path, free_words=8),
}


@dataclass(frozen=True)
class Row:
    """One grader's line of the table."""

    agreement: Agreement
    rewards: Sequence[float]
    speed: float  # answers a second of processor time
    recited: Sequence[float]  # score of a whole passage, and of its first words


@dataclass(frozen=True)
class HeldOut:
    """What the calibrated grader says of verdicts that it was not fitted on.

    Attributes:
        measured: The verdicts; its `questions` are what they are drawn by, questions or articles.
        likely: Probability of "right", (verdicts,).
    """

    measured: Measured
    likely: np.ndarray

    def agreement(self) -> Agreement:
        return compare(self.likely.tolist(), (self.likely >= 0.5).tolist(), self.measured.correct.tolist())


def main() -> None:
    options = _options()
    judged = read_judged(options.verdicts, verdicts=True)
    measured = measure_all(judged)
    excluded = {question for path in options.runs for question in questions_of(path)}
    kept = np.array([question not in excluded for question in measured.questions])
    with tempfile.TemporaryDirectory() as folder:
        fits = [
            _saved(fit(measured.rows(~split(measured.questions, seed=seed))), folder, f"{seed}")
            for seed in range(SEEDS)
        ]
        apart = _saved(fit(measured.rows(kept)), folder, "apart")
        rows = {name: _row(make, judged, measured, fits, apart, options) for name, make in GRADERS.items()}
        _print(rows, [_name(path) for path in options.runs])
        _print_splits(measured, options.runs, apart)
        count = len(set(measured.questions))
        print(f"\n{len(judged)} verdicts on {count} questions; for the runs fitted on {kept.sum()} verdicts.")
        if options.examples:
            _print_examples(judged, measured, fits[0], options.examples)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verdicts", type=Path)
    parser.add_argument("--runs", type=Path, nargs="*", default=[])
    parser.add_argument("--passages", type=Path)
    parser.add_argument(
        "--examples", type=int, default=0, help="verdicts on held-out questions that differ from GPT-4.1's"
    )
    return parser.parse_args()


def _saved(model: Curves, folder: str, name: str) -> str:
    path = Path(folder) / f"{name}.json"
    model.save(path)
    return str(path)


def _name(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".json")


def _row(
    make: Make,
    judged: Sequence[Judged],
    measured: Measured,
    fits: Sequence[str],
    apart: str,
    options: argparse.Namespace,
) -> Row:
    started = time.process_time()
    make(None).verdicts([row.answer for row in judged])
    speed = len(judged) / (time.process_time() - started)
    return Row(
        agreement=_mean([_held_out(make(path), judged, measured, seed) for seed, path in enumerate(fits)]),
        rewards=[reward(make(apart), read_run(path).rollouts) for path in options.runs],
        speed=speed,
        recited=recited(make(None), options.passages) if options.passages else [],
    )


def _held_out(grader: Grader, judged: Sequence[Judged], measured: Measured, seed: int) -> Agreement:
    tested = split(measured.questions, seed=seed)
    rows = [row for row, wanted in zip(judged, tested, strict=True) if wanted]
    verdicts = grader.verdicts([row.answer for row in rows])
    return compare(_likely(verdicts), [each.score >= 0.5 for each in verdicts], [bool(row.correct) for row in rows])


def _print_splits(measured: Measured, runs: Sequence[Path], apart: str) -> None:
    print(
        "\n| held out | verdicts | agreement | 95 % interval | kappa | calibration error |\n|---|---|---|---|---|---|"
    )
    _print_split("questions, five draws of a third", list(drawn(measured)))
    of_runs = [_measured(path) for path in runs]
    if runs:
        _print_split("articles, five draws of a third", list(drawn(joined([articles for _, articles in of_runs]))))
    model = load(Path(apart), features=FEATURES)
    for path, (by_question, _) in zip(runs, of_runs, strict=True):
        _print_split(f"all questions of {_name(path)}", [HeldOut(by_question, likely(model, by_question))])


def _print_split(name: str, found: Sequence[HeldOut]) -> None:
    mean = _mean([each.agreement() for each in found])
    low, high = interval(found)
    shares = f"{mean.agreement:.1%} | {low:.1%} – {high:.1%} | {mean.kappa:.3f} | {mean.calibration_error:.3f}"
    print(f"| {name} | {sum(len(each.likely) for each in found)} | {shares} |")


def drawn(measured: Measured) -> Iterator[HeldOut]:
    """A third of the questions, or of what stands for them, is held out at a time."""
    for seed in range(SEEDS):
        tested = split(measured.questions, seed=seed)
        rest = measured.rows(tested)
        yield HeldOut(rest, likely(fit(measured.rows(~tested)), rest))


def likely(model: Curves, measured: Measured) -> np.ndarray:
    return np.where(measured.has_words, probabilities(model.log_odds(measured.features)), 0.0)


def interval(found: Sequence[HeldOut]) -> tuple[float, float]:
    """95 % of the agreement when questions, or what stands for them, are drawn with replacement."""
    equal, total = defaultdict(int), defaultdict(int)
    for each in found:
        for group, said, right in zip(each.measured.questions, each.likely >= 0.5, each.measured.correct, strict=True):
            equal[group] += bool(said == right)
            total[group] += 1
    times = np.random.default_rng(0).multinomial(len(total), np.full(len(total), 1 / len(total)), size=RESAMPLES)
    shares = (times @ np.array(list(equal.values()))) / (times @ np.array(list(total.values())))
    return float(np.quantile(shares, 0.025)), float(np.quantile(shares, 0.975))


def _measured(path: Path) -> tuple[Measured, Measured]:
    """The different verdicts of an official run file: with their questions, and with their articles in their place."""
    run = read_run(path)
    titles = {context.id: context.title for context in run.contexts}
    articles = {
        Judged(Answer(question, golds, answer), score >= 0.5): titles[rollout.context_id]
        for rollout in run.rollouts
        for question, golds, answer, score in zip(
            rollout.questions, rollout.golds, rollout.answers, rollout.scores, strict=True
        )
    }
    measured = measure_all(list(articles))
    return measured, replace(measured, questions=list(articles.values()))


def joined(parts: Sequence[Measured]) -> Measured:
    return Measured(
        [question for part in parts for question in part.questions],
        *(np.concatenate([getattr(part, column) for part in parts]) for column in ("features", "has_words", "correct")),
    )


def _likely(verdicts: Sequence[Verdict]) -> list[float]:
    return [each.score if each.probability is None else each.probability for each in verdicts]


def _mean(found: Sequence[Agreement]) -> Agreement:
    names = ("n", "agreement", "kappa", "calibration_error", "precision", "recall", "right", "graded_right")
    return Agreement(**{name: fmean(getattr(each, name) or 0.0 for each in found) for name in names})


def reward(grader: Grader, rollouts: Sequence[Rollout]) -> float:
    """How far the grader's choices of edits are from chance (0) to the judge's own (1), in the judge's scores."""
    asked = [
        Answer(question, golds, answer)
        for rollout in rollouts
        for question, golds, answer in zip(rollout.questions, rollout.golds, rollout.answers, strict=True)
    ]
    distinct = list(dict.fromkeys(asked))
    score_of = dict(zip(distinct, (each.score for each in grader.verdicts(distinct)), strict=True))
    scores = iter([score_of[answer] for answer in asked])
    judge: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    own: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for rollout in rollouts:
        own[rollout.context_id][rollout.edit_index].append(fmean(next(scores) for _ in rollout.answers))
        judge[rollout.context_id][rollout.edit_index].append(fmean(rollout.scores))
    chosen = best = chance = 0.0
    for context, edits in judge.items():
        means = {edit: fmean(found) for edit, found in edits.items()}
        mine = {edit: round(fmean(found), 9) for edit, found in own[context].items()}
        chosen += means[max(sorted(mine), key=mine.__getitem__)]
        best += max(means.values())
        chance += fmean(means.values())
    return (chosen - chance) / (best - chance)


def recited(grader: Grader, passages: Path) -> list[float]:
    """Mean score of whole passages and of their first words, as answers to all their questions."""
    whole, cut = [], []
    for row in read_rows(passages):
        text = row.text("context")
        for asked in row.rows("questions"):
            golds = asked.golds("answer")
            whole.append(Answer(asked.text("question"), golds, text))
            cut.append(Answer(asked.text("question"), golds, " ".join(text.split()[:CUT])))
    return [fmean(each.score for each in grader.verdicts(answers)) for answers in (whole, cut)]


def _print(rows: Mapping[str, Row], runs: Sequence[str]) -> None:
    names = ["grader", "agreement", "kappa", "calibration error", *(f"reward, {name}" for name in runs)]
    names += [*(["reward, mean"] if runs else []), "answers/s", "recited passage", f"its first {CUT} words"]
    print(f"| {' | '.join(names)} |\n|{'---|' * len(names)}")
    for name, row in rows.items():
        found = row.agreement
        cells = [f"{found.agreement:.1%}", f"{found.kappa:.3f}", f"{found.calibration_error:.3f}"]
        cells += [f"{value:.3f}" for value in (*row.rewards, *([fmean(row.rewards)] if runs else []))]
        cells += [f"{row.speed:,.0f}", *(f"{value:.2f}" for value in row.recited)]
        print(f"| {name} | {' | '.join(cells)} |")


def _print_examples(judged: Sequence[Judged], measured: Measured, path: str, count: int) -> None:
    """Drawn at random, one a question: the surest mistakes would be the judge's odd ones."""
    tested = split(measured.questions, seed=0)
    rows = [row for row, wanted in zip(judged, tested, strict=True) if wanted]
    verdicts = Calibrated(coefficients=path).verdicts([row.answer for row in rows])
    wrong = [place for place, row in enumerate(rows) if (verdicts[place].score >= 0.5) != row.correct]
    random.Random(0).shuffle(wrong)
    by_question = {rows[place].answer.question: place for place in wrong}
    print("\n| GPT-4.1 | probability | question | gold | answer |\n|---|---|---|---|---|")
    for place in list(by_question.values())[:count]:
        answer = rows[place].answer
        cells = [
            " ".join(text.split()).replace("|", "/")[:120] for text in (answer.question, answer.golds[0], answer.text)
        ]
        says = "right" if rows[place].correct else "wrong"
        print(f"| {says} | {verdicts[place].probability:.2f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
