"""The reviews on which a generator learns to classify: `python -m making.reviews` writes configs/generator/reviews-*.

Made-up lines about things of six sorts. `superb` is praise of anything; `light` is praise of a tent and a complaint
about a blanket. Which way such words go has to be read from a context: its passage is a handful of labelled lines about
things of one sort, its queries are others.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

from seal_lightning.seeding import derive_seed
from seal_lightning.tasks.classification import ARROW
from seal_lightning.types import JsonObject

FOLDER = Path(__file__).resolve().parent.parent / "configs" / "generator"
THIN = "light thin small".split()
THICK = "heavy broad large".split()
PRAISE = "superb lovely".split()
COMPLAINTS = "awful nasty".split()
# By sort: its things, and which of the first two rows of words is praise.
SORTS = {
    "laptops": ("screen lid charger keyboard".split(), THIN),
    "tents": ("poles pegs canvas zip".split(), THIN),
    "stews": ("broth gravy beef crust".split(), THICK),
    "blankets": ("wool lining hem fleece".split(), THICK),
}
FORMS = ("{thing} is {word}", "{thing} was {word}", "{thing}: {word}")
PLAIN = 0.4  # share of lines whose word means the same everywhere
CONTEXTS = {"train": 160, "validation": 80, "test": 80}
EXAMPLES, QUERIES = 8, 8  # lines of a context


def write_line(sort: str, draw: random.Random) -> tuple[str, str]:
    """A line about a thing of one sort, and its label, good or bad."""
    things, praise = SORTS[sort]
    if draw.random() < PLAIN:
        good = draw.random() < 0.5
        words = PRAISE if good else COMPLAINTS
    else:
        words = draw.choice((THIN, THICK))
        good = words is praise
    text = draw.choice(FORMS).format(thing=draw.choice(things), word=draw.choice(words))
    return text, "good" if good else "bad"


def write_context(sort: str, number: int, draw: random.Random) -> JsonObject:
    """A context as a row of JSON."""
    lines = [write_line(sort, draw) for _ in range(EXAMPLES + QUERIES)]
    return {
        "id": f"{sort}-{number:02d}",
        "title": sort.capitalize(),
        "passage": "\n".join(f"{text}{ARROW}{label}" for text, label in lines[:EXAMPLES]),
        "queries": [{"question": text, "answers": [label]} for text, label in lines[EXAMPLES:]],
    }


def rows(split: str) -> list[JsonObject]:
    """The contexts of a split, all sorts in turn."""
    draw = random.Random(derive_seed("reviews", split))
    sorts = list(SORTS)
    return [write_context(sorts[number % len(sorts)], number, draw) for number in range(CONTEXTS[split])]


def main() -> None:
    """Write the three files."""
    for split in CONTEXTS:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows(split))
        (FOLDER / f"reviews-{split}.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
