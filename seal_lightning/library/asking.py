"""A folder of `seal adapt` as a library that answers: with the adapter of the document that a question is about.

    question -> router: document, or none fits -> its adapter on the fly -> the prompts of training -> answer

Beside it the same question is answered without an adapter, and with the document in the prompt.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from seal_lightning.e_step.open_book import fitting_passage, open_book_prompt
from seal_lightning.e_step.replies import read_replies
from seal_lightning.errors import ConfigError, check_count
from seal_lightning.library.learnt import check_ready, learnt, names_of, unavailable
from seal_lightning.library.manifest import LibraryEntry, Manifest, read_manifest
from seal_lightning.library.opening import (
    AskedWith,
    contexts_of,
    load_base,
    read_asked_with,
)
from seal_lightning.library.router import Match, RoutedQuestion, Router, make_router
from seal_lightning.library.speaking import Blend, Held, LocalSpeaker, ServerSpeaker, Speaker, ToSay
from seal_lightning.policy.loading import Device
from seal_lightning.policy.policy import Policy
from seal_lightning.sampling import Answers
from seal_lightning.tasks import Task
from seal_lightning.text.escaping import sound
from seal_lightning.types import Context, Prompt, Query

Way = Literal["without_adapter", "with_adapter", "open_book"]
Weighting = Literal["ranks", "shares"]
WAYS: tuple[Way, ...] = ("without_adapter", "with_adapter", "open_book")
CACHE = "router"  # a folder beside the manifest
Hear = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class LibraryAnswer:
    """What a library answers; an answer that was not asked for, or that there is no document for, is None.

    Attributes:
        question: The question.
        route: Where it leads; a document that was named has no scores.
        documents: The documents that answered, best first; empty where none fits.
        adapters: The adapters that answered, with the weight of each.
        without_adapter: The answer of the model alone.
        with_adapter: Its answer with the adapters.
        open_book: Its answer with the documents in the prompt.
        seconds: How long the answers took, together where several questions were asked together.
    """

    question: str
    route: RoutedQuestion
    documents: tuple[LibraryEntry, ...]
    adapters: tuple[tuple[str, float], ...]
    without_adapter: str | None
    with_adapter: str | None
    open_book: str | None
    seconds: float


@dataclass(frozen=True, slots=True)
class _Chosen:
    """What a question is answered with: documents, the context that its prompts name, and the adapters."""

    question: str
    route: RoutedQuestion
    documents: tuple[LibraryEntry, ...]
    context: Context
    blend: Blend


class Library:
    """Documents that a model has learnt.

    Args:
        folder: The folder.
        manifest: Its manifest.
        asked_with: How it is asked.
        policy: The policy without adapters.
        speaker: Who answers.
        router: Finds the document of a question.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        asked_with: AskedWith,
        policy: Policy,
        speaker: Speaker,
        router: Router,
    ) -> None:
        self.folder = folder
        self.manifest = manifest
        self.router = router
        self.max_answer_tokens = asked_with.max_answer_tokens
        self._task = asked_with.task
        self._policy = policy
        self._speaker = speaker
        self._entries = {entry.id: entry for entry in learnt(manifest)}
        self._contexts = {one.id: one for one in contexts_of(folder, list(self._entries.values()))}
        router.open(list(self._contexts.values()), cache=folder / CACHE)

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        device: Device = "auto",
        router: str | Router = "bm25",
        base: str | None = None,
        server: str | None = None,
        server_model: str | None = None,
        task: Task | None = None,
        trusted: bool = False,
    ) -> Library:
        """Open a folder of `seal adapt`.

        Args:
            folder: The folder, with `manifest.json`.
            device: Where the model runs.
            router: `bm25`, `embeddings`, or a router.
            base: The base model where it does not lie where the library says.
            server: Address of an OpenAI-compatible server, up to `/v1`, that has loaded the adapters by their names.
            server_model: The base model as the server calls it.
            task: The task where the library's own is a class of a script.
            trusted: Whether the library may name classes and code of its own, which run here.

        Raises:
            ConfigError: There is no library, nothing in it is ready, or it asks for what only the user may choose.
            DataError: The library is damaged.
            ModelError: Its base model cannot be loaded, or is another.
        """
        place = Path(folder).expanduser()
        manifest = read_manifest(place)
        check_ready(place, manifest)
        asked_with = read_asked_with(place, manifest, base=base, task=task, trusted=trusted)
        finds = router if isinstance(router, Router) else make_router(router)
        held = None if server is None else Held.by(server, server_model)  # before a model is loaded for nothing
        policy = load_base(place, manifest, asked_with, device)
        speaker: Speaker = LocalSpeaker(place, policy, asked_with, device)
        if held is not None:
            speaker = ServerSpeaker(policy, held)
        return cls(place, manifest, asked_with, policy, speaker, finds)

    @property
    def documents(self) -> tuple[LibraryEntry, ...]:
        """The documents that can be asked about."""
        return tuple(self._entries.values())

    def document(self, named: str) -> LibraryEntry:
        """A document by its id, title, source or adapter's name. Raises `ConfigError` if it cannot be asked about."""
        for entry in self._entries.values():
            if named in names_of(entry):
                return entry
        raise unavailable(self.manifest, named)

    def route(self, question: str, k: int = 1) -> RoutedQuestion:
        """The k documents that a question is most likely about."""
        return self.router.route(sound(question)[0], k=check_count("k", k))

    def ask(
        self,
        question: str,
        *,
        k: int = 1,
        documents: Sequence[str] | None = None,
        together: bool = False,
        weighting: Weighting = "ranks",
        ways: Sequence[Way] = WAYS,
        hear: Hear | None = None,
    ) -> LibraryAnswer:
        """Answer a question.

        Args:
            question: One question.
            k: How many documents' adapters answer together.
            documents: Names of documents in place of those that the router finds, the most important first.
            together: Whether the adapter of all documents answers.
            weighting: What the change of each of k adapters counts by: the reciprocal of its rank, or its share of the
                scores; the weights add up to 1.
            ways: What is answered.
            hear: Told the text of the answer with the adapter as it grows; a server tells nothing.

        Raises:
            ConfigError: The question is empty or too long, or a document cannot be asked about.
            ModelError: An adapter is damaged.
        """
        chosen = self._choose(question, k=k, documents=documents, together=together, weighting=weighting)
        return self._answer([chosen], ways, hear)[0]

    def ask_all(
        self,
        questions: Sequence[str],
        *,
        k: int = 1,
        documents: Sequence[str] | None = None,
        together: bool = False,
        weighting: Weighting = "ranks",
        ways: Sequence[Way] = WAYS,
    ) -> list[LibraryAnswer]:
        """Answer questions together, many adapters in one batch; as `ask` answers each of them."""
        chosen = [
            self._choose(question, k=k, documents=documents, together=together, weighting=weighting)
            for question in questions
        ]
        return self._answer(chosen, ways, None)

    # -- choosing --------------------------------------------------------------------------------------------------

    def _choose(
        self, question: str, *, k: int, documents: Sequence[str] | None, together: bool, weighting: Weighting
    ) -> _Chosen:
        question, _ = sound(question)
        if not question.strip():
            raise ConfigError("QUESTION is empty: expected a question about the documents")
        if documents:
            entries = [self.document(named) for named in documents]
            matches = [self._named(question, entry, len(entries)) for entry in entries]
            route = RoutedQuestion(tuple(matches), 1.0, True)
        else:
            route = self.route(question, k)
            entries = [self._entries[match.document] for match in route.matches] if route.fits else []
        blend = self._blend(route, entries, together=together, weighting=weighting)
        return _Chosen(question, route, tuple(entries), self._context(question, entries), blend)

    def _named(self, question: str, entry: LibraryEntry, count: int) -> Match:
        return Match(entry.id, 0.0, 1 / count, self.router.best_passage(question, entry.id))

    def _blend(
        self, route: RoutedQuestion, entries: Sequence[LibraryEntry], *, together: bool, weighting: Weighting
    ) -> Blend:
        of_all = self.manifest.together
        ready = of_all is not None and of_all.status == "ready"
        if together and not ready:
            raise ConfigError(
                "--adapter all: expected a library with an adapter of all documents, got none that is ready"
            )
        own = [entry.adapter if entry.status == "ready" else None for entry in entries]
        if of_all and ready and (together or None in own):
            return Blend((of_all.adapter,), (1.0,))
        adapters = tuple(adapter for adapter in own if adapter is not None)
        return Blend(adapters, weights_of(route, len(adapters), weighting))

    def _context(self, question: str, entries: Sequence[LibraryEntry]) -> Context:
        """What prompts are about: the best document, with the others' best passages behind its text."""
        if not entries:
            return Context("", "", "")
        first = self._contexts[entries[0].id]
        others = [self._contexts[entry.id] for entry in entries[1:]]
        behind = [f"{one.title}\n{self.router.best_passage(question, one.id)}".strip() for one in others]
        return replace(first, passage="\n\n".join([first.passage.strip(), *behind]), queries=(), edits=())

    # -- answering -------------------------------------------------------------------------------------------------

    def _answer(self, chosen: Sequence[_Chosen], ways: Sequence[Way], hear: Hear | None) -> list[LibraryAnswer]:
        begin = time.perf_counter()
        answers: dict[Way, list[str | None]] = {way: [None] * len(chosen) for way in WAYS}
        groups: list[list[Way]] = [[], []]
        for way in ways:
            groups[way == "open_book"].append(way)
        for group in groups:  # long prompts would pad the short ones
            asked: list[tuple[Way, int]] = [
                (way, place) for place, one in enumerate(chosen) for way in group if _is_due(way, one)
            ]
            for (way, place), text in zip(
                asked, self._texts([(way, chosen[at]) for way, at in asked], hear), strict=True
            ):
                answers[way][place] = text
        seconds = time.perf_counter() - begin
        return [
            LibraryAnswer(
                question=one.question,
                route=one.route,
                documents=one.documents,
                adapters=tuple(zip(one.blend.adapters, one.blend.weights, strict=True)),
                without_adapter=answers["without_adapter"][place],
                with_adapter=answers["with_adapter"][place],
                open_book=answers["open_book"][place],
                seconds=seconds,
            )
            for place, one in enumerate(chosen)
        ]

    def _texts(self, asked: Sequence[tuple[Way, _Chosen]], hear: Hear | None) -> list[str]:
        """The answers to prompts that are short together, or long together."""
        if not asked:
            return []
        queries = [[(one.context, Query(one.question.strip(), ()))] for _, one in asked]
        ways = [[self._prompts(way, one)] for way, one in asked]
        said = [
            ToSay(one.blend if way == "with_adapter" else Blend(), prompts, self._hearing(hear, way, one))
            for (way, one), (prompts,) in zip(asked, ways, strict=True)
        ]
        answers: list[Answers] = self._speaker.say(said, max_new_tokens=self.max_answer_tokens)
        return [reply.answers[0] for reply in read_replies(self._task, queries, ways, answers)]

    def _prompts(self, way: Way, one: _Chosen) -> tuple[Prompt, ...]:
        query, room = Query(one.question.strip(), ()), self._speaker.window() - self.max_answer_tokens
        prompts = self._task.query_prompts(query, replace(one.context, passage=""))
        longest = max(len(self._policy.encode(self._policy.format(prompt))) for prompt in prompts)
        if longest > room:
            raise ConfigError(
                f"QUESTION is too long: its prompt has {longest} tokens, which with {self.max_answer_tokens} for the "
                f"answer exceed the model's window of {self._speaker.window()}: ask a shorter one"
            )
        if way != "open_book":
            return prompts
        shown = fitting_passage(self._task, self._policy, query, one.context, room=room)
        return (open_book_prompt(self._task, query, shown),)

    def _hearing(self, hear: Hear | None, way: Way, one: _Chosen) -> Hear | None:
        """Reads the growing text as the finished one is read."""
        if hear is None or way != "with_adapter":
            return None
        query = Query(one.question.strip(), ())
        return lambda text: hear(self._task.read_answers([text], query, one.context))


def weights_of(route: RoutedQuestion, count: int, weighting: Weighting) -> tuple[float, ...]:
    """What each of `count` adapters counts, best first: by rank or share, made to add up to 1.

    >>> weights_of(RoutedQuestion((), 1.0, True), 2, "ranks")
    (0.6666666666666666, 0.3333333333333333)
    """
    shares = [match.share for match in route.matches[:count]]
    raw = [1 / rank for rank in range(1, count + 1)] if weighting == "ranks" or not sum(shares) else shares
    return tuple(part / sum(raw) for part in raw)


def _is_due(way: Way, one: _Chosen) -> bool:
    """Whether there is something to answer with."""
    return way == "without_adapter" or bool(one.blend.adapters if way == "with_adapter" else one.documents)
