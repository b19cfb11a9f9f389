"""Does a router find the document of a question, and does it see that none fits? Nothing is trained.

    python benchmarks/routing.py train.json val.json [--embedder FOLDER]

Each file holds rows `{"title", "context", "questions": [{"question", "answer"}]}`. Every context is a document; several
come from the same article, so many are about the same thing. Questions are asked as they are. "Whole articles" makes
one document of all contexts of an article. "None fits" is measured with the question's own article taken out of the
library, and with forty questions of general knowledge.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from seal_lightning.library.router import BM25, Embeddings, Router
from seal_lightning.types import Context, Query

GENERAL = """
What is the capital of Australia?
How do I boil an egg?
Who wrote Romeo and Juliet?
What is 17 times 23?
How many legs does a spider have?
Write a poem about the sea.
What year did the Titanic sink?
Which planet is closest to the sun?
How do I reverse a list in Python?
What is the boiling point of water at sea level?
Who painted the Mona Lisa?
What does HTTP stand for?
How long does it take to fly from Paris to Tokyo?
What is the largest ocean on Earth?
Who is the president of Brazil?
How can I fix a flat bicycle tyre?
Which language is spoken in Iceland?
What is the chemical formula of table salt?
How many players are on a basketball team?
What should I cook tonight?
What is the square root of 144?
Who discovered penicillin?
Where do kangaroos live?
How do vaccines work?
What is the speed of light?
Which gas do plants absorb?
When was the first iPhone released?
What is the tallest mountain in the world?
How do I tie a tie?
Who was the first man on the moon?
What colour is a ruby?
Why is the sky blue?
How many strings does a violin have?
What is the currency of Japan?
Which company makes the PlayStation?
What is the opposite of hot?
How do you say thank you in German?
How many days are in a leap year?
Who invented the telephone?
What is a good name for a cat?
""".strip().splitlines()


@dataclass(frozen=True, slots=True)
class Routed:
    """What a router did with a set: shares of questions, and seconds."""

    questions: int
    top_1: float
    top_3: float
    index_seconds: float
    seconds: float


def contexts_of(path: Path) -> list[Context]:
    """The contexts of a file, each a document of its own."""
    rows = json.loads(path.read_text(encoding="utf-8"))
    return [
        Context(f"{place}", row["title"], row["context"], tuple(Query(one["question"], ()) for one in row["questions"]))
        for place, row in enumerate(rows)
    ]


def articles_of(contexts: Sequence[Context]) -> list[Context]:
    """One document for each article."""
    by_title: dict[str, list[Context]] = {}
    for context in contexts:
        by_title.setdefault(context.title, []).append(context)
    return [
        Context(title, title, "\n\n".join(one.passage for one in some), tuple(q for one in some for q in one.queries))
        for title, some in by_title.items()
    ]


def routed(router: Router, documents: Sequence[Context]) -> Routed:
    """Ask all questions about their own documents."""
    begin = time.perf_counter()
    router.open(documents)
    indexed = time.perf_counter()
    places = []
    for document in documents:
        for query in document.queries:
            found = [match.document for match in router.route(query.question, k=3).matches]
            places.append(found.index(document.id) if document.id in found else 3)
    spent = time.perf_counter() - indexed
    return Routed(
        len(places),
        float(np.mean([place == 0 for place in places])),
        float(np.mean([place < 3 for place in places])),
        indexed - begin,
        spent / len(places),
    )


def fits(router: Router, documents: Sequence[Context]) -> tuple[list[float], list[float], list[float]]:
    """The fit of questions about the documents, of those about an article that is taken out, and of general ones."""
    with tempfile.TemporaryDirectory() as folder:
        return _fits(router, documents, Path(folder))


def _fits(router: Router, documents: Sequence[Context], cache: Path) -> tuple[list[float], list[float], list[float]]:
    router.open(documents, cache=cache)
    own = [router.route(query.question).fit for document in documents for query in document.queries]
    general = [router.route(question).fit for question in GENERAL]
    others: list[float] = []
    for title in dict.fromkeys(document.title for document in documents):
        router.open([document for document in documents if document.title != title], cache=cache)
        asked = [query for document in documents if document.title == title for query in document.queries]
        others += [router.route(query.question).fit for query in asked]
    return own, others, general


def table(name: str, make: Callable[[], Router], sets: dict[str, list[Context]]) -> Iterator[str]:
    """The rows of one router."""
    for label, documents in sets.items():
        for kind, some in (("contexts", documents), ("whole articles", articles_of(documents))):
            found = routed(make(), some)
            yield (
                f"| {name} | {label}, {kind} | {len(some)} | {found.questions} | {found.top_1:.1%} | {found.top_3:.1%} "
                f"| {found.index_seconds:.2f} | {found.seconds * 1000:.2f} |"
            )


def none_fits(name: str, make: Callable[[], Router], sets: dict[str, list[Context]]) -> Iterator[str]:
    """What the least fit of a router, and others around it, accept."""
    for label, documents in sets.items():
        router = make()
        own, others, general = fits(router, documents)
        for least in sorted({router.least_fit, *(round(router.least_fit + step, 2) for step in (-0.1, 0.1))}):
            kept, wrong = (np.mean(np.array(some) >= least) for some in (own, others))
            precision = kept * len(own) / (kept * len(own) + wrong * len(others))
            yield (
                f"| {name} | {label} | {least:.2f} | {kept:.1%} | {1 - wrong:.1%} | {precision:.1%} | "
                f"{np.mean(np.array(general) < least):.1%} |"
            )


def thousand(make: Callable[[], Router], documents: Sequence[Context]) -> str:
    """How long a library of a thousand documents takes to open and to ask."""
    many = [Context(f"{n}", one.title, one.passage) for n, one in zip(range(1000), [*documents] * 10, strict=False)]
    router = make()
    begin = time.perf_counter()
    router.open(many)
    opened = time.perf_counter()
    for question in GENERAL:
        router.route(question, k=3)
    asked = (time.perf_counter() - opened) / len(GENERAL)
    return f"{len(many)} documents: opened in {opened - begin:.2f} s, {asked * 1000:.2f} ms a question"


def main() -> None:
    """Print the tables of all routers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--embedder", help="A sentence-transformers folder, to compare with.")
    options = parser.parse_args()
    sets = {path.stem: contexts_of(path) for path in options.files}
    routers: dict[str, Callable[[], Router]] = {"BM25": BM25}
    if options.embedder:
        shared = Embeddings(options.embedder)  # loaded once
        shared._encode(["ready"])
        routers["embeddings"] = lambda: shared
    print("| router | documents | n | questions | top 1 | top 3 | index, s | a question, ms |")
    print("|---|---|---|---|---|---|---|---|")
    for name, make in routers.items():
        print(*table(name, make, sets), sep="\n", flush=True)
    print("\n| router | set | least fit | kept | refused, article taken out | precision | refused, general |")
    print("|---|---|---|---|---|---|---|")
    for name, make in routers.items():
        print(*none_fits(name, make, sets), sep="\n", flush=True)
    print("\nBM25,", thousand(BM25, next(iter(sets.values()))))


if __name__ == "__main__":
    main()
