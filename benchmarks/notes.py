"""Five Markdown notes in a small model's weights, asked by thirty questions: how right, how fast, and at what cost.

    python benchmarks/notes.py --out FOLDER [--model NAME_OR_FOLDER] [--config NAME] [--documents PATH] [--queries FILE]
                               [--json FILE] [-- OPTION ...]

Runs `seal adapt` on the notes as a user would (the options after `--` are its own), then asks the finished library
every question without saying which document it is about: the router chooses. One table: closed book, with each
document's own adapter, with the adapter of the document that the router chose, of the best three together, open book;
and unrelated questions before and after. A folder that is finished is only asked.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from seal_lightning.grading import Answer, Calibrated
from seal_lightning.library.asking import Library, LibraryAnswer
from seal_lightning.library.manifest import MANIFEST, read_document, read_manifest
from seal_lightning.results.averages import interval, say_interval

GENERAL = Path(__file__).resolve().parent.parent / "configs" / "unrelated" / "general.jsonl"


def adapt(options: argparse.Namespace) -> float:
    """Make the library; the seconds that it took, 0 where it was there."""
    if (options.out / MANIFEST).exists():
        return 0.0
    command = [sys.executable, "-m", "seal_lightning", "adapt", options.documents, "--config", options.config]
    command += ["--output", str(options.out), *(["--queries", options.queries] if options.queries else [])]
    command += ["--model.source.name", options.model] if options.model else []
    began = time.monotonic()
    subprocess.run([*command, *options.rest], check=True)
    return time.monotonic() - began


def questions_of(folder: Path) -> list[tuple[str, str, tuple[str, ...]]]:
    """Each question with the id of its document and the accepted answers."""
    entries = read_manifest(folder).documents
    stored = [read_document(folder, entry.text) for entry in entries]
    return [(query.question, one.id, query.golds) for one in stored for query in one.queries]


def right(asked: Sequence[tuple[str, str, tuple[str, ...]]], answers: Sequence[str | None]) -> list[float]:
    """The grade of each answer; that there is none is wrong."""
    given = [Answer(question, golds, answer or "") for (question, _, golds), answer in zip(asked, answers, strict=True)]
    return [verdict.score for verdict in Calibrated().verdicts(given)]


def measured(folder: Path) -> dict[str, object]:
    """The rows of the table."""
    library, asked = Library.open(folder), questions_of(folder)
    questions = [question for question, _, _ in asked]
    began = time.monotonic()
    first = [library.route(question, 3) for question in questions]
    routing = (time.monotonic() - began) / len(questions)
    names = [[match.document for match in route.matches] if route.fits else [] for route in first]
    own: list[LibraryAnswer] = []
    for document in dict.fromkeys(document for _, document, _ in asked):  # their order is that of the questions
        its = [question for question, about, _ in asked if about == document]
        own += library.ask_all(its, documents=[document])
    routed, three = library.ask_all(questions, k=1), library.ask_all(questions, k=3, ways=("with_adapter",))
    rows = {
        "closed book": right(asked, [one.without_adapter for one in own]),
        "its own adapter": right(asked, [one.with_adapter for one in own]),
        "the router's adapter": right(asked, [one.with_adapter for one in routed]),
        "the router's three adapters": right(asked, [one.with_adapter for one in three]),
        "document in the context": right(asked, [one.open_book for one in own]),
    }
    return {
        "rows": {name: (fmean(scores), say_interval(*interval(scores), len(scores))) for name, scores in rows.items()},
        "questions": len(asked),
        "router top 1": fmean(document in found[:1] for found, (_, document, _) in zip(names, asked, strict=True)),
        "router top 3": fmean(document in found for found, (_, document, _) in zip(names, asked, strict=True)),
        "router seconds": routing,
        "unrelated, each adapter": unrelated(folder),
        "unrelated, as the router answers": routed_unrelated(library),
    }


def unrelated(folder: Path) -> dict[str, float]:
    """How many unrelated questions are right, on average over the adapters, without and with them."""
    found = [json.loads(file.read_text()) for file in sorted((folder / "adapters").glob("*/adaptation.json"))]
    kept = [one["unrelated"] for one in found if one.get("unrelated")]
    if not kept:
        return {}
    return {
        "questions": len(kept[0]["questions"]),
        "before": fmean(fmean(one["before"]["scores"]) for one in kept),
        "after": fmean(fmean(one["scores"]) for one in kept),
    }


def routed_unrelated(library: Library) -> dict[str, float]:
    """How many general questions are right as `seal ask` answers them: by the model alone where no document fits."""
    rows = [json.loads(line) for line in GENERAL.read_text(encoding="utf-8").splitlines()]
    asked = [(row["question"], "", tuple(row.get("answers") or [row["answer"]])) for row in rows]
    answers = library.ask_all([question for question, _, _ in asked], ways=("without_adapter", "with_adapter"))
    chosen = [one.with_adapter if one.with_adapter is not None else one.without_adapter for one in answers]
    return {
        "questions": len(rows),
        "none fits": fmean(not one.route.fits for one in answers),
        "before": fmean(right(asked, [one.without_adapter for one in answers])),
        "after": fmean(right(asked, chosen)),
    }


def main() -> None:
    args, rest = sys.argv[1:], []
    if "--" in args:
        args, rest = args[: args.index("--")], args[args.index("--") + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="")
    parser.add_argument("--config", default="adapt/smollm2")
    parser.add_argument("--documents", default="configs/notes")
    parser.add_argument("--queries", default="configs/notes/questions.jsonl")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(args)
    options.rest = rest
    seconds = adapt(options)
    found = {"seconds": round(seconds), **measured(options.out)}
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    print(f"\n| {found['questions']} questions | right | 95 % interval |\n|---|---|---|")
    rows: dict[str, tuple[float, str]] = found.pop("rows")  # pyright: ignore[reportAssignmentType]
    for name, (mean, bounds) in rows.items():
        print(f"| {name} | {mean:.3f} | {bounds} |")
    print("\n" + "\n".join(f"{name}: {value}" for name, value in found.items()))


if __name__ == "__main__":
    main()
