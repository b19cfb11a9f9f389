"""Which document a question is about: a router reads passages once, scores them for each question, or finds none fit.

A document is cut into passages, each under its title; its score is that of its best passage. Whether a question is
about the documents at all is a second figure, the fit: scores only compare documents with one another. Your own router
subclasses `Router` and is given to `Library.open`.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from seal_lightning.data.splitting import split
from seal_lightning.errors import ConfigError, ModelError, check_count, reason_of
from seal_lightning.files.extras import install
from seal_lightning.library.terms import Terms, terms
from seal_lightning.library.vectors import KeptVectors
from seal_lightning.stamps.arguments import Remembers
from seal_lightning.types import Context

ROUTERS = ("bm25", "embeddings")
PRIOR = 50  # passages without any of its words that a collection is taken to have besides its own
MANY = 200  # passages from which on a word of any question is found in one of them by chance


@dataclass(frozen=True, slots=True)
class Match:
    """A document that a question may be about.

    Attributes:
        document: Its id.
        score: What the router gave its best passage.
        share: Share of the scores of all matches of the route; 0 where the score is not above 0.
        passage: Its best passage.
    """

    document: str
    score: float
    share: float
    passage: str


@dataclass(frozen=True, slots=True)
class RoutedQuestion:
    """Where a question leads.

    Attributes:
        matches: The best documents, best first.
        fit: From 0 to 1, how well the best one's passage fits the question.
        fits: Whether that is enough; if not, none of the documents is what the question is about.
    """

    matches: tuple[Match, ...]
    fit: float
    fits: bool


class Router(Remembers, ABC):
    """Finds the document of a question.

    Args:
        least_fit: The least fit, from 0 to 1, at which a document is taken; 0 always takes one.
        passage_chars: The most characters of a passage.
    """

    def __init__(self, *, least_fit: float = 0.0, passage_chars: int = 1000) -> None:
        if isinstance(least_fit, bool) or not isinstance(least_fit, int | float) or not 0 <= least_fit <= 1:
            raise ConfigError(f"least_fit must be a number from 0 to 1, got {least_fit!r}: leave it out")
        self.least_fit = float(least_fit)
        self.passage_chars = check_count("passage_chars", passage_chars, least=50, advice="try 1000")
        self.documents: tuple[Context, ...] = ()
        self.passages: list[str] = []
        self.owners = np.zeros(0, dtype=int)

    @abstractmethod
    def read(self, texts: Sequence[str], *, cache: Path | None) -> None:
        """Get ready for questions about these texts, passages under their titles; `cache` may keep what is slow."""

    @abstractmethod
    def scores(self, question: str) -> np.ndarray:
        """The score of each text (P,): the higher, the likelier is the question about it."""

    @abstractmethod
    def fit(self, question: str, text: int, score: float) -> float:
        """From 0 to 1, how well a text with this score, given by its place, fits the question."""

    def open(self, documents: Sequence[Context], *, cache: Path | None = None) -> None:
        """Read documents.

        Args:
            documents: Documents by id, title and text.
            cache: A folder for what takes long to compute; None computes it each time.
        """
        cut = [split(document.passage, self.passage_chars) or [""] for document in documents]
        self.documents = tuple(documents)
        self.passages = [passage for passages in cut for passage in passages]
        self.owners = np.array([place for place, passages in enumerate(cut) for _ in passages], dtype=int)
        titles = [documents[owner].title.strip() for owner in self.owners]
        self.read([f"{title}\n{text}".strip() for title, text in zip(titles, self.passages, strict=True)], cache=cache)

    def route(self, question: str, *, k: int = 1) -> RoutedQuestion:
        """The k documents that a question is most likely about."""
        if not self.documents:
            return RoutedQuestion((), 0.0, False)
        scores = np.asarray(self.scores(question), dtype=float)
        best: dict[int, int] = {}  # by document, in the order of their scores: its best passage
        for place in np.argsort(-scores, kind="stable"):
            best.setdefault(int(self.owners[place]), int(place))
        first = best[next(iter(best))]
        fit = float(np.clip(self.fit(question, first, scores[first]), 0.0, 1.0))
        return RoutedQuestion(self._matches(best, scores, k), fit, bool(fit >= self.least_fit and fit > 0))

    def best_passage(self, question: str, document: str) -> str:
        """The passage of one document that a question is most likely about; "" for one that is not there."""
        scores = np.asarray(self.scores(question), dtype=float)
        own = [at for at, owner in enumerate(self.owners) if self.documents[owner].id == document]
        return self.passages[max(own, key=lambda at: scores[at])] if own else ""

    def _matches(self, best: Mapping[int, int], scores: np.ndarray, k: int) -> tuple[Match, ...]:
        chosen = list(best.items())[:k]
        total = sum(max(0.0, scores[place]) for _, place in chosen)
        return tuple(
            Match(
                document=self.documents[owner].id,
                score=float(scores[place]),
                share=float(max(0.0, scores[place]) / total) if total else 0.0,
                passage=self.passages[place],
            )
            for owner, place in chosen
        )


class BM25(Router):
    """Finds the document that has the question's rare words, by BM25 (library bm25s); nothing is loaded or downloaded.

    Words are stems without stop words, by language (`terms`); where no blanks part words, pairs of characters. The fit
    is the share of the question's words that the passage has, each counted by how rare it is among the passages, twice
    if the document's title has it, and with one more word that no passage has: so one word of two that is found makes a
    fit only in a small library, where few words are found by chance.

    Args:
        least_fit: The least fit, from 0 to 1, at which a document is taken; 0 takes any with a word of the question.
        passage_chars: The most characters of a passage.
        k1: How slowly a word counts more when a passage has it more often.
        b: How much long passages are put back, from 0 to 1.
    """

    def __init__(self, *, least_fit: float = 0.34, passage_chars: int = 1000, k1: float = 1.2, b: float = 0.75) -> None:
        super().__init__(least_fit=least_fit, passage_chars=passage_chars)
        if not k1 >= 0 or not 0 <= b <= 1:
            raise ConfigError(f"k1 must be 0 or more and b from 0 to 1, got {k1!r} and {b!r}: leave them out")
        self.k1 = k1
        self.b = b
        self._terms = Terms(())
        self._index: Any = None
        self._held: list[set[str]] = []
        self._counts: Counter[str] = Counter()
        self._titles: list[set[str]] = []

    def read(self, texts: Sequence[str], *, cache: Path | None) -> None:
        import bm25s  # takes a third of a second, and not every library is asked through it

        self._terms = Terms([document.passage for document in self.documents])
        languages = [self._terms.languages[owner] for owner in self.owners]
        tokens = [terms(text, language) for text, language in zip(texts, languages, strict=True)]
        self._held = [set(some) for some in tokens]
        titled = zip(self.documents, self._terms.languages, strict=True)
        self._titles = [set(terms(document.title, language)) for document, language in titled]
        self._counts = Counter(word for some in self._held for word in some)
        self._index = None
        if self._counts:
            self._index = bm25s.BM25(k1=self.k1, b=self.b)
            self._index.index(tokens, show_progress=False)

    def scores(self, question: str) -> np.ndarray:
        known = [word for word in dict.fromkeys(self._terms.of_question(question)) if word in self._counts]
        return self._index.get_scores(known) if known else np.zeros(len(self._held))

    def fit(self, question: str, text: int, score: float) -> float:
        title = self._titles[self.owners[text]]
        weights = {word: self._weight(word) * (1 + (word in title)) for word in self._terms.of_question(question)}
        found = sum(weight for word, weight in weights.items() if word in self._held[text])
        by_chance = min(1.0, math.sqrt(math.log1p(len(self._held)) / math.log1p(MANY)))
        return found / (sum(weights.values()) + by_chance * self._weight(""))

    def _weight(self, word: str) -> float:
        """How rare a word is; in a small collection all that a passage has are about alike."""
        return math.log((len(self._held) + PRIOR + 1) / (self._counts[word] + 1))


class Embeddings(Router):
    """Finds the document whose meaning is nearest to the question's, by a sentence-transformers model.

    The score and the fit are the cosine of question and passage. Needs the extra `embeddings`. Code that a model's
    folder carries is never run.

    Args:
        model: A local folder of sentence-transformers, or a name on the hub.
        least_fit: The least cosine at which a document is taken; 0.4 suits all-MiniLM-L6-v2, other models differ.
        passage_chars: The most characters of a passage; what is beyond the model's window is not read.
        device: `cpu`, `cuda` and the like.
    """

    def __init__(
        self,
        model: str = "sentence-transformers/all-MiniLM-L6-v2",
        *,
        least_fit: float = 0.4,
        passage_chars: int = 1000,
        device: str = "cpu",
    ) -> None:
        super().__init__(least_fit=least_fit, passage_chars=passage_chars)
        if find_spec("sentence_transformers") is None:
            raise ConfigError(f"the router embeddings needs packages that are not installed: {install('embeddings')}")
        self.model = model
        self._device = device
        self._loaded: Any = None
        self._vectors = np.zeros((0, 0), dtype=np.float32)

    def read(self, texts: Sequence[str], *, cache: Path | None) -> None:
        kept = KeptVectors(None if cache is None else cache / f"{self._name()}.safetensors")
        self._vectors = kept.of(texts, self._encode)

    def scores(self, question: str) -> np.ndarray:
        return self._vectors @ self._encode([question])[0] if len(self._vectors) else np.zeros(0)

    def fit(self, question: str, text: int, score: float) -> float:
        return score

    def _name(self) -> str:
        """A file name for this model: what a folder holds may change, so its configuration and size count too."""
        folder = Path(self.model).expanduser()
        files = sorted(folder.glob("*.safetensors")) + sorted(folder.glob("*.json")) if folder.is_dir() else []
        facts = [self.model, *(f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files)]
        return f"embeddings-{hashlib.blake2b(repr(facts).encode(), digest_size=8).hexdigest()}"

    def _encode(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of length 1, (texts, width)."""
        model = self._model()
        return np.asarray(
            model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False), dtype=np.float32
        )

    def _model(self) -> Any:
        if self._loaded is None:
            sentence_transformers = import_module("sentence_transformers")  # takes seconds, and is an extra
            try:
                self._loaded = sentence_transformers.SentenceTransformer(
                    self.model, device=self._device, trust_remote_code=False
                )
            except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
                raise ModelError(
                    f"--embedder {self.model}: expected a folder of sentence-transformers or a name on the hub, got "
                    f"{reason_of(error)[:160]}: check the path, or take --router bm25"
                ) from error
        return self._loaded


def make_router(name: str, *, embedder: str | None = None, least_fit: float | None = None) -> Router:
    """The router of that name, with its own least fit where none is given.

    Raises:
        ConfigError: There is no such router, or its extra is missing.
    """
    fits: dict[str, Any] = {} if least_fit is None else {"least_fit": least_fit}
    if name == "embeddings":
        return Embeddings(embedder, **fits) if embedder else Embeddings(**fits)
    if name != "bm25":
        raise ConfigError(f"--router must be one of {', '.join(ROUTERS)}, got {name!r}: choose one")
    if embedder:
        raise ConfigError("--embedder is of use with --router embeddings alone: leave it out, or add that")
    return BM25(**fits)
