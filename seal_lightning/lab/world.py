"""The lab's world: towns with six attributes, passages about them, and closed-book questions.

A tiny stand-in for SQuAD in which the right answer to every question is known and nothing has been heard before. Names
are two words, 80 x 80 of them, dealt to splits by a digest of the name: no town of the training, validation or test
passages occurs in the lab model's pre-training. Everything is a pure function of its seed.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from seal_lightning.seeding import derive_seed
from seal_lightning.types import Context, Query

Split = Literal["pretraining", "train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
Wording = Literal["ask", "name"]

FIRST = (
    "Amber Ash Aspen Autumn Badger Barley Birch Black Blue Bramble Bright Bronze Cedar Chalk Cherry Clay Clover Cold "
    "Copper Coral Crane Crow Crystal Dawn Deer Dry East Elder Elm Ember Falcon Far Fern Flint Fog Fox Frost Golden "
    "Grain Granite Green Grey Hawk Hazel Heron High Holly Honey Iron Ivy Jade Kestrel Larch Lark Lime Linden Long Low "
    "Maple Marble Misty Moon Moss North Oak Old Otter Owl Pale Pearl Pine Quiet Raven Red Rose Rowan Silver South "
    "Stone Willow"
).split()
SECOND = (
    "Acre Arch Bank Barrow Basin Bay Beach Bend Bluff Bridge Brook Burrow Camp Cape Castle Chapel Cliff Combe Cove "
    "Creek Crest Crossing Dale Dam Dell Down Edge End Falls Farm Fell Ferry Field Ford Fork Garden Gate Glade Glen "
    "Grange Grove Hall Harbour Haven Heath Hill Hollow Holt Isle Junction Keep Knoll Lake Landing Lane Lea Lodge "
    "Manor Marsh Meadow Mead Mill Moor Mount Nook Orchard Park Pass Peak Point Pond Port Quay Reach Ridge Rock Shore "
    "Spring Tower Vale"
).split()
JOURNEYS = "journey ride walk voyage road trip path march".split()
PLACES = "hills plains valleys forests mountains islands marshes coasts".split()
DIRECTIONS = "northern southern eastern western upper lower inner outer".split()


@dataclass(frozen=True, slots=True)
class Attribute:
    """One thing to know about a town; `{town}` and `{value}` stand for its name and the answer.

    Attributes:
        name: Also the word for it in statements.
        clause: How a passage says it after the name.
        question: How it is usually asked (and how question-answer lines of a self-edit ask it).
        values: Forty possible answers, one word each, shared with no other attribute.
    """

    name: str
    clause: str
    question: str
    values: tuple[str, ...]


def _attribute(name: str, clause: str, question: str, values: str) -> Attribute:
    return Attribute(name, clause, question, tuple(values.split()))


ATTRIBUTES = (
    _attribute(
        "founder",
        "was founded by {value}",
        "Who founded {town}?",
        "Adela Bruno Cecil Doran Edith Fabian Gilda Hector Ingrid Jasper Katrin Lorenz Matilda Nestor Odette "
        "Pascal Quentin Rosalind Silas Tamsin Ulric Verena Wilfred Xenia Yorick Zelda Ansel Beatrix Conrad "
        "Dorothea Emeric Freya Gideon Hedwig Isidor Judith Klemens Leonora Magnus Norbert",
    ),
    _attribute(
        "river",
        "lies on the {value}",
        "Which river runs by {town}?",
        "Velda Orm Tarn Isk Brenn Lodra Suvi Marr Kell Dwin Ruva Neth Alda Posk Tiva Gorn Hesla Ulm Varn Zira "
        "Eddra Fjell Jorla Khem Laska Mirn Nidda Olva Prut Quell Ravna Sorn Tessa Umber Vistra Wend Yarrow Zorn "
        "Aske Birsa",
    ),
    _attribute(
        "trade",
        "sells {value}",
        "What does {town} sell?",
        "salt wool cheese rope glass paper silk leather wine beer bread tea coffee sugar pepper ink soap candles "
        "nails bricks tiles pottery baskets carpets lace felt oil vinegar mustard hops flax hemp tar coal tin "
        "lead dye wax parchment saddles",
    ),
    _attribute(
        "emblem",
        "bears a {value} on its flag",
        "What is on the flag of {town}?",
        "wolf bear lion stag boar horse bull goat ram swan eagle goose rooster pigeon salmon pike trout eel crab "
        "whale seal beaver hare mole mouse rat cat dog lynx weasel ferret hedgehog toad frog snake lizard bee "
        "wasp beetle moth",
    ),
    _attribute(
        "mayor",
        "is led by {value}",
        "Who leads {town}?",
        "Abbott Barker Cooper Draper Ellis Foster Gibson Harper Irving Jensen Kepler Larkin Mercer Norton Osborne "
        "Palmer Quincy Ritter Sawyer Tanner Upton Vogler Walker Xander Yates Zimmer Archer Baxter Carver Dalton "
        "Easton Fisher Garner Hunter Ingram Judson Keller Lawson Miller Nolan",
    ),
    _attribute(
        "feast",
        "celebrates {value}",
        "What does {town} celebrate?",
        "harvest lanterns snowfall thaw blossom midsummer midwinter kites masks bonfires apples pumpkins "
        "chestnuts mushrooms shearing ploughing sowing vintage fishing sailing rowing archery wrestling dancing "
        "singing drumming poetry fireworks bells banners wreaths garlands ribbons eggs pancakes soup cider plums "
        "cherries walnuts",
    ),
)
BY_NAME = {attribute.name: attribute for attribute in ATTRIBUTES}


@dataclass(frozen=True, slots=True)
class Fact:
    """`value` is what `attribute` is in `town`."""

    town: str
    attribute: Attribute
    value: str

    def fill(self, form: str) -> str:
        """A form with town, value and the attribute's name in it."""
        return form.format(town=self.town, value=self.value, name=self.attribute.name)

    def question(self, wording: Wording = "ask") -> str:
        """The closed-book question: the usual one, or `name`, in words that no self-edit uses."""
        return self.fill(self.attribute.question if wording == "ask" else "Name the {name} of {town}.")


@dataclass(frozen=True, slots=True)
class Passage:
    """A titled text and the facts in it, in reading order. The title names no town."""

    title: str
    text: str
    facts: tuple[Fact, ...]

    def context(self, name: str, *, wording: Wording = "ask", edits: Sequence[str] = ()) -> Context:
        """As a context with one query a fact; `edits` are self-edits written beforehand."""
        queries = tuple(Query(fact.question(wording), (fact.value,)) for fact in self.facts)
        return Context(id=name, title=self.title, passage=self.text, queries=queries, edits=tuple(edits))


def split_of(town: str) -> Split:
    """Which split a name belongs to: 70 % pre-training, 10 % each of the others, by a digest of the name."""
    share = hashlib.blake2b(town.encode(), digest_size=1).digest()[0]
    return SPLITS[0] if share < 179 else SPLITS[1 + (share - 179) * 3 // 77]


def names_of(split: Split) -> list[str]:
    """All names of a split, in a fixed order."""
    names = (f"{first} {second}" for first in FIRST for second in SECOND)
    return [name for name in names if split_of(name) == split]


def facts_of(town: str, attributes: Sequence[Attribute], draw: random.Random) -> list[Fact]:
    """One drawn value for each attribute of a town."""
    return [Fact(town, attribute, draw.choice(attribute.values)) for attribute in attributes]


def write_passage(facts: Sequence[Fact], draw: random.Random) -> Passage:
    """The facts in a shuffled order, three to a sentence."""
    told = draw.sample(list(facts), len(facts))
    clauses = [fact.fill(f"{{town}} {fact.attribute.clause}") for fact in told]
    sentences = []
    for start in range(0, len(clauses), 3):
        *others, last = clauses[start : start + 3]
        sentences.append(f"They say that {', '.join(others)} and {last}." if others else f"They say that {last}.")
    return Passage(write_title(draw), " ".join(sentences), tuple(told))


def write_title(draw: random.Random) -> str:
    """A title that tells passages apart only a little, as titles do."""
    return f"A {draw.choice(JOURNEYS)} through the {draw.choice(DIRECTIONS)} {draw.choice(PLACES)}"


def passages(split: Split, *, count: int, towns: int, attributes: int, seed: int) -> list[Passage]:
    """Passages whose towns are all different, each passage about the same attributes of its towns.

    Args:
        split: Where the names come from.
        count: How many passages.
        towns: In each passage.
        attributes: Told of each town, of the six.
        seed: Two seeds give other towns, values and words.

    Raises:
        ValueError: The split has too few names, or there are too few attributes.
    """
    draw = random.Random(derive_seed("lab passages", split, seed))
    names = draw.sample(names_of(split), count * towns)
    written = []
    for start in range(0, len(names), towns):
        asked = draw.sample(ATTRIBUTES, attributes)
        facts = [fact for town in names[start : start + towns] for fact in facts_of(town, asked, draw)]
        written.append(write_passage(facts, draw))
    return written
