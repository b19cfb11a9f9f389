"""`seal grade FILE`: grade the answers in a file, and report how a grader agrees with the verdicts in the file.

files -> answers -> a grader's verdicts -> each verdict with its reasons, or their agreement with `correct`
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from jsonargparse import Namespace

from seal_lightning.errors import ConfigError, DataError
from seal_lightning.grading import Grader, Verdict, checked, resolve
from seal_lightning.grading.agreement import RIGHT, Agreement, compare
from seal_lightning.options.parser import Parser, write_file
from seal_lightning.progress.screen import watched
from seal_lightning.records.judged import Judged, read_judged
from seal_lightning.results.usage import render_usage
from seal_lightning.text.escaping import visible, visible_json
from seal_lightning.types import Chooser, JsonObject, Usage

DESCRIPTION = """\
Grades the answers in files, and reports how the grader agrees with a judge's verdicts. A FILE has {question, gold,
answer} on each line, or a JSON list of them, and may be packed (.gz); gold (or golds) is a text or a list of texts, of
which the best counts. Without "correct", every verdict is printed with its probability and its reasons in log-odds,
strongest first (positive ones speak for the answer). With "correct": true or false in every row, the agreement is
printed: n, the share of equal verdicts, Cohen's kappa, and the calibration error over ten bins (of the score, if a
grader gives no probability). A score of at least a half counts as right. The cost of endpoints comes last.
"""


def main(args: Sequence[str]) -> None:
    """Run the command.

    Raises:
        ConfigError: An option has a value that cannot work.
        DataError: A file cannot be used.
        GradingError: The grader failed.
    """
    options = _options(args)
    grader = resolve(options.grader)
    rows = [row for name in options.files for row in read_judged(Path(name).expanduser())]
    _tell_thoughts(rows)
    judged = _is_judged(rows)
    verdicts = _graded(grader, rows, _policy(options.policy))
    if options.output:
        lines = [json.dumps(_row(row, each), ensure_ascii=False) for row, each in zip(rows, verdicts, strict=True)]
        text = "".join(f"{line}\n" for line in lines)
        write_file("--output", options.output, text, unlike=[Path(name).expanduser() for name in options.files])
    usage = sum((each.usage for each in verdicts), Usage())
    spent = f"\n{line}" if (line := render_usage(usage)) and not options.json else ""
    if not judged:
        print("\n".join(_each(rows, verdicts, as_json=options.json)) + spent)
        return
    agreement = compare(
        _probabilities(verdicts), [each.score >= RIGHT for each in verdicts], [bool(row.correct) for row in rows]
    )
    asked = {"usage": usage.as_dict()} if usage.as_dict() else {}
    print(json.dumps({**asdict(agreement), **asked}) if options.json else _summary(agreement) + spent)
    if options.examples and not options.json:
        print("\n".join(["", *_worst(rows, verdicts, options.examples)]))


def _options(args: Sequence[str]) -> Namespace:
    parser = Parser("grade", description=DESCRIPTION, usage="seal grade FILE ... [--config FILE ...] [--KEY VALUE ...]")
    parser.add_argument("files", nargs="*", metavar="FILE", type=str, help="Files with questions, golds and answers.")
    parser.add_argument(
        "--config", action="config", help="YAML file with these options, such as a grader with options of its own."
    )
    parser.add_argument("--grader", type=Grader | str, default="calibrated", help="A short name or a class_path.")
    parser.add_argument("--output", type=str | None, help="Write each row with its verdict, one a line (.gz packs).")
    parser.add_argument(
        "--json", action="store_true", help="Print JSON: one object, or one for each verdict, one a line."
    )
    parser.add_argument(
        "--examples", type=int, default=0, help="Number of verdicts to print, those that differ most from correct."
    )
    parser.add_argument(
        "--policy",
        type=str | None,
        help="Model for a grader that asks one, such as judge, if it has no endpoint.",
    )
    options = parser.read(args)
    if not options.files:
        raise ConfigError("FILE is not set: name a .jsonl or .json with question, gold and answer (seal grade --help)")
    if options.examples < 0:
        raise ConfigError(f"examples must be at least 0, got {options.examples}: try 20")
    return options


def _is_judged(rows: Sequence[Judged]) -> bool:
    """Whether the rows carry verdicts: all of them, or none."""
    given = sum(row.correct is not None for row in rows)
    if 0 < given < len(rows):
        raise DataError(
            f"field correct must be in every row or in none, but is in {given} of {len(rows)}: add it or drop it"
        )
    return given > 0


def _tell_thoughts(rows: Sequence[Judged]) -> None:
    """Say on stderr from how many answers thoughts were removed before grading."""
    said = [row.said for row in rows if row.said and row.said.thoughts]
    unfinished = sum(answer.unfinished for answer in said)
    if said:
        ended = f"; {unfinished} of them end in the middle of one and count as empty" if unfinished else ""
        print(f"grade: thoughts were removed from {len(said)} of {len(rows)} answers{ended}", file=sys.stderr)


def _policy(name: str | None) -> Chooser | None:
    """A model that is asked like the policy in a run."""
    if name is None:
        return None
    from seal_lightning.models.loading import load_model  # torch and transformers take seconds
    from seal_lightning.models.source import ModelSource
    from seal_lightning.policy.policy import Policy
    from seal_lightning.sampling import PolicyWriter

    model, tokenizer, chat = load_model(ModelSource(name))
    return PolicyWriter(Policy(model.eval().requires_grad_(False), tokenizer, chat))


def _graded(grader: Grader, rows: Sequence[Judged], policy: Chooser | None) -> list[Verdict]:
    """The verdicts, with a progress bar on a terminal: a judge behind an endpoint takes its time."""
    with watched("grading", total=len(rows)) as advance:
        answers = [row.answer for row in rows]
        return list(checked(grader, grader.verdicts(answers, policy=policy, on_done=advance)))


def _probabilities(verdicts: Sequence[Verdict]) -> list[float]:
    return [each.score if each.probability is None else each.probability for each in verdicts]


def _row(row: Judged, verdict: Verdict) -> JsonObject:
    golds = row.answer.golds
    fields = {
        "question": row.answer.question,
        "gold": golds[0] if len(golds) == 1 else list(golds),
        "answer": row.answer.text,
        "correct": row.correct,
        "score": verdict.score,
        "probability": verdict.probability,
        "reasons": {name: round(value, 3) for name, value in verdict.reasons.items()} or None,
        "usage": verdict.usage.as_dict() or None,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _each(rows: Sequence[Judged], verdicts: Sequence[Verdict], *, as_json: bool) -> Iterator[str]:
    for row, verdict in zip(rows, verdicts, strict=True):
        yield visible_json(json.dumps(_row(row, verdict), ensure_ascii=False)) if as_json else _line(row, verdict)


def _line(row: Judged, verdict: Verdict) -> str:
    sure = "" if verdict.probability is None else f" ({verdict.probability:.0%})"
    lines = [
        f"{verdict.score:.2f}{sure}  {_short(row.answer.question)}",
        f"    gold    {' | '.join(map(_short, row.answer.golds))}",
        f"    answer  {_short(row.answer.text) or '(nothing)'}",
    ]
    if verdict.reasons:
        reasons = ", ".join(f"{name} {value:+.2f}" for name, value in verdict.reasons.items())
        lines.append(f"    reasons {reasons}")
    return "\n".join(lines)


def _short(text: str, longest: int = 160) -> str:
    """On one line, and not too long."""
    flat = visible(" ".join(text.split()))
    return flat if len(flat) <= longest else f"{flat[: longest - 3]}..."


def _summary(agreement: Agreement) -> str:
    def share(value: float | None) -> str:
        return "none" if value is None else f"{value:.1%}"

    rows = {
        "n": f"{agreement.n:,}",
        "agreement": share(agreement.agreement),
        "kappa": "none" if agreement.kappa is None else f"{agreement.kappa:.3f}",
        "calibration error": f"{agreement.calibration_error:.3f}",
        "precision": share(agreement.precision),
        "recall": share(agreement.recall),
        "right by the judge": share(agreement.right),
        "right by the grader": share(agreement.graded_right),
    }
    return "\n".join(f"{name:<20}{value:>10}" for name, value in rows.items())


def _worst(rows: Sequence[Judged], verdicts: Sequence[Verdict], count: int) -> Iterator[str]:
    """The verdicts that differ from the judge's, the surest first."""
    likely = _probabilities(verdicts)
    wrong = [place for place, row in enumerate(rows) if (verdicts[place].score >= RIGHT) != row.correct]
    wrong.sort(key=lambda place: (-abs(likely[place] - float(bool(rows[place].correct))), place))
    for place in wrong[:count]:
        judge = "right" if rows[place].correct else "wrong"
        yield f"judge: {judge}\n{_line(rows[place], verdicts[place])}"
