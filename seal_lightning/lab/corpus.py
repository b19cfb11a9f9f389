"""What the lab model is pre-trained on: edit-writing documents, and short ones about the towns it knows.

Edit documents teach to read a passage and write lines about it, useful and useless ones alike; their towns are made up
for each document, so there is nothing to memorise. Short documents state facts of 160 known towns and ask about them
closed-book: that is what makes facts that are only stated extractable by questions (arXiv 2309.14316). The texts are
exactly those that SEAL's knowledge task makes in its default settings.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from seal_lightning.lab.lines import Style, write_edit, write_line
from seal_lightning.lab.world import ATTRIBUTES, Fact, Wording, facts_of, names_of, write_passage, write_title
from seal_lightning.policy.policy import Policy
from seal_lightning.seeding import derive_seed
from seal_lightning.tasks import Knowledge
from seal_lightning.types import Context, Prompt, Query

KNOWN_TOWNS = 160
ABOUT_KNOWN = 0.07  # share of edit documents about towns that are known
TRUE_STYLES: tuple[Style, ...] = ("question", "statement", "reversed", "pronoun")
NAMED = 0.3  # share of questions in the wording that self-edits never use


@dataclass(frozen=True, slots=True)
class LabText:
    """A text to learn, after a prompt that it continues."""

    prompt: str
    text: str


class Corpus:
    """An endless corpus; documents come from generators of the caller's.

    Args:
        seed: Seed of the known towns' facts.
    """

    def __init__(self, *, seed: int) -> None:
        self.task = Knowledge()
        names = names_of("pretraining")
        draw = random.Random(derive_seed("lab known towns", seed))
        draw.shuffle(names)
        self.known = {town: facts_of(town, ATTRIBUTES, draw) for town in names[:KNOWN_TOWNS]}
        self.fresh = names[KNOWN_TOWNS:]

    def edit_document(self, draw: random.Random, *, bare: bool = False) -> LabText:
        """A prompt for a self-edit with its passage, and an edit in a style drawn for the document.

        A `bare` one begins at the title, and its lines are true, in any style, and often about the same fact.
        """
        attributes = draw.sample(ATTRIBUTES, draw.choice((2, 3, 4, 6) if bare else (3, 4, 6, 6)))
        if draw.random() < ABOUT_KNOWN:
            chosen = [fact for fact in self.known[draw.choice(list(self.known))] if fact.attribute in attributes]
        else:
            chosen = facts_of(draw.choice(self.fresh), attributes, draw)
        passage = write_passage(chosen, draw)
        prompt = _plain(self.task.prompt(passage.context("document")))
        lines = draw.randint(4, 8)
        if not bare:
            return LabText(prompt, write_edit(passage.facts, draw, lines=lines))
        styles = draw.choices(TRUE_STYLES, weights=(2, 4, 1, 1), k=lines)
        text = "\n".join(write_line(draw.choice(passage.facts), style, draw) for style in styles)
        return LabText(prompt[prompt.index("Title:") :], text)

    def short_document(self, draw: random.Random) -> LabText:
        """A known fact: asked closed-book, stated under a title, or told as a passage does."""
        town = draw.choice(list(self.known))
        fact = draw.choice(self.known[town])
        title, kind = write_title(draw), draw.random()
        if kind < 0.5:
            return self.question(fact, title, "name" if draw.random() < NAMED else "ask")
        if kind < 0.6:
            passage = write_passage(draw.sample(self.known[town], draw.randint(1, 3)), draw)
            return LabText("", f"{title}\n{passage.text}")
        styles = ("question", "statement", "reversed")
        return LabText("", f"{title}\n{write_line(fact, draw.choices(styles, weights=(3, 3, 1))[0], draw)}")

    def question(self, fact: Fact, title: str, wording: Wording) -> LabText:
        """A closed-book query as the task asks it, with its answer."""
        query = Query(fact.question(wording), (fact.value,))
        context = Context(id="document", title=title, passage="")
        return LabText(_plain(self.task.query_prompt(query, context)), f" {fact.value}")

    def texts(self) -> Iterator[str]:
        """One text with every word of the world in every place where it can stand, for the tokenizer."""
        draw = random.Random(0)
        towns = [*self.known, *self.fresh]
        values = [(attribute, value) for attribute in ATTRIBUTES for value in attribute.values]
        for number, town in enumerate(towns):
            fact = Fact(town, *values[number % len(values)])
            for wording in ("ask", "name"):
                document = self.question(fact, write_title(draw), wording)
                yield document.prompt + document.text
            for style in ("question", "statement", "statement", "statement", "reversed", "pronoun", "vague"):
                yield write_line(fact, style, draw)
            yield fact.town
        for _ in range(2000):
            document = self.edit_document(draw)
            yield document.prompt + document.text


def _plain(prompt: Prompt) -> str:
    return Policy(None, None, chat=False).format(prompt)


def known_queries(corpus: Corpus, *, count: int, seed: int) -> Sequence[LabText]:
    """Closed-book queries about known facts, to see that the model can be asked at all."""
    draw = random.Random(derive_seed("lab known queries", seed))
    facts = draw.sample([fact for facts in corpus.known.values() for fact in facts], count)
    return [corpus.question(fact, write_title(draw), draw.choice(("ask", "name"))) for fact in facts]
