"""Routers: the document of a question, its passage, and when none fits."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace

from seal_lightning import BM25, ConfigError, Context, Embeddings, ModelError, Router
from seal_lightning.library.router import make_router
from seal_lightning.library.vectors import KeptVectors

BRIDGE = Context(
    "bridge",
    "The Harrow Bridge",
    "The bridge was opened in 1874. It was built by Ada Merrow and crosses the river Lenn.",
)
MILL = Context("mill", "The Lenn Mill", "The mill grinds rye for three villages. Its wheel was made by Tom Sorrel.")
HOUSE = Context(
    "house", "Opening hours", "The museum is closed on Mondays. Tickets are sold at the gate for two crowns."
)
NOTES = [BRIDGE, MILL, HOUSE]


def opened(router: Router, documents: Sequence[Context] = NOTES) -> Router:
    router.open(documents)
    return router


def test_the_document_with_the_questions_rare_words_comes_first() -> None:
    route = opened(BM25()).route("Who made the wheel of the mill?", k=3)
    assert [match.document for match in route.matches] == ["mill", "bridge", "house"]
    assert route.fits
    assert route.matches[0].passage == MILL.passage
    assert sum(match.share for match in route.matches) == pytest.approx(1)
    assert route.matches[0].share > 0.9


def test_word_forms_and_titles_count() -> None:
    router = opened(BM25())
    assert router.route("What do the villagers' mills grind?").matches[0].document == "mill"
    assert router.route("When did the opening of the Harrow bridges take place?").matches[0].document == "bridge"


@pytest.mark.parametrize(
    "question",
    ["What is the capital of Australia?", "Who painted the Mona Lisa?", "", "?!", "Quel est le prix du pain?"],
)
def test_a_question_about_other_things_fits_none(question: str) -> None:
    assert not opened(BM25()).route(question).fits


def test_the_fit_is_the_share_of_what_is_asked_that_the_passage_has() -> None:
    router = opened(BM25())
    fits = [router.route(question).fit for question in ("Who made the wheel?", "Which wheel has no spokes?")]
    assert fits == pytest.approx([0.76, 0.25], abs=0.01)  # two words and one word, and somewhat more that is not there
    assert opened(BM25(least_fit=0.2)).route("Which wheel has no spokes?").fits


def test_a_word_of_the_title_counts_twice() -> None:
    wheel = Context("wheel", "The wheel", "It turns.")
    fits = [opened(BM25(), [one, BRIDGE]).route("Whose wheel?").fit for one in (wheel, replace(wheel, title=""))]
    assert fits[0] > fits[1] == 0


def test_one_word_of_two_fits_in_a_small_library_alone() -> None:
    bees = Context("bees", "Hives", "Tomas keeps the bees.")
    many = [Context(f"other {number}", "", f"Paragraph {number} tells of barley.") for number in range(300)]
    question = "Who looks after the bees?"
    assert opened(BM25(), [bees, *many[:4]]).route(question).fits
    assert not opened(BM25(), [bees, *many]).route(question).fits


def test_a_long_document_is_judged_by_its_best_passage() -> None:
    filler = "\n\n".join(f"Paragraph {number} tells of barley, of weather and of roads." * 4 for number in range(40))
    long = Context("long", "A chronicle", f"{filler}\n\nIn 1911 a comet was seen by Nils Ekeby.\n\n{filler}")
    router = opened(BM25(passage_chars=300), [long, BRIDGE])
    route = router.route("Who saw the comet in 1911?")
    assert route.matches[0].document == "long"
    assert "Nils Ekeby" in route.matches[0].passage
    assert len(route.matches[0].passage) <= 300
    assert "Nils Ekeby" in router.best_passage("Who saw the comet?", "long")
    assert router.best_passage("Who saw the comet?", "gone") == ""


@pytest.mark.parametrize(
    ("question", "document"),
    [
        ("谁造的水车？", "zh"),
        ("水車は誰が作りましたか。", "ja"),
        ("Кто построил мельницу?", "ru"),
        ("Wer baute die Brücke?", "de"),
    ],
)
def test_other_scripts_and_languages(question: str, document: str) -> None:
    documents = [
        Context("zh", "村史", "李明在1803年造的水车，灌溉三个村庄。"),
        Context("ja", "川の歴史", "水車は1803年に田中が作りました。"),
        Context("ru", "Деревня", "Мельницу построил Иван Петров в 1803 году."),
        Context("de", "Dorf", "Die Brücken baute Anna Weber im Jahr 1803."),
    ]
    route = opened(BM25(), documents).route(question)
    assert route.matches[0].document == document
    assert route.fits


def test_nothing_to_choose_from() -> None:
    assert opened(BM25(), []).route("Who?").matches == ()
    blank = opened(BM25(), [Context("blank", "", "")]).route("Who built it?")
    assert not blank.fits
    assert [match.document for match in blank.matches] == ["blank"]


def test_equal_scores_keep_the_order_of_the_documents() -> None:
    twins = [Context(name, "Twin", "The same words stand here.") for name in "abc"]
    assert [match.document for match in opened(BM25(), twins).route("same words", k=3).matches] == ["a", "b", "c"]


class ByLength(Router):
    """A router of one's own: the longest text, always."""

    def read(self, texts: Sequence[str], *, cache: Path | None) -> None:
        self.sizes = np.array([len(text) for text in texts])

    def scores(self, question: str) -> np.ndarray:
        return self.sizes

    def fit(self, question: str, text: int, score: float) -> float:
        return 1.0


def test_a_router_of_ones_own() -> None:
    route = opened(ByLength()).route("anything")
    assert route.fits
    assert route.matches[0].document == "bridge"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: BM25(least_fit=2), "least_fit must be a number from 0 to 1, got 2"),
        (lambda: BM25(passage_chars=3), "passage_chars must be a whole number of at least 50"),
        (lambda: BM25(b=3), "b from 0 to 1"),
        (lambda: make_router("tfidf"), "--router must be one of bm25, embeddings"),
        (lambda: make_router("bm25", embedder="x"), "--embedder is of use with --router embeddings alone"),
    ],
)
def test_options_that_cannot_work(make: object, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make()  # type: ignore[operator]


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seal_lightning.library.router.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="router embeddings needs packages that are not installed: pip install"):
        make_router("embeddings")


def test_vectors_are_computed_once_and_a_damaged_file_is_written_anew(tmp_path: Path) -> None:
    asked: list[str] = []

    def compute(texts: Sequence[str]) -> np.ndarray:
        asked.extend(texts)
        return np.array([[len(text), 1] for text in texts], dtype=np.float32)

    kept = KeptVectors(tmp_path / "cache" / "vectors.safetensors")
    assert kept.of(["a", "bb"], compute).tolist() == [[1, 1], [2, 1]]
    assert kept.of(["bb", "ccc"], compute).tolist() == [[2, 1], [3, 1]]
    assert asked == ["a", "bb", "ccc"]
    assert kept.path is not None
    kept.path.write_bytes(b"nothing")
    assert kept.of(["bb"], compute).tolist() == [[2, 1]]
    assert asked[3:] == ["bb"]


# What a model of meaning knows, by hand: words that mean the same have the same vector.
MEANINGS = [
    "bridge crossing",
    "river stream lenn",
    "built constructed opened",
    "tickets admission cost crowns sold",
    "closed mondays museum",
    "rye grinds mill wheel villages",
    "capital australia",
]


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of sentence-transformers that has those meanings, with a vector for every word that is in none."""
    static_embedding = pytest.importorskip("sentence_transformers.sentence_transformer.modules").StaticEmbedding
    meaning = {word: number for number, words in enumerate(MEANINGS) for word in words.split()}
    vocabulary = {"[UNK]": 0, **{word: number for number, word in enumerate(meaning, start=1)}}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = Lowercase(), Whitespace()
    weights = np.zeros((len(vocabulary), len(MEANINGS) + 1), dtype=np.float32)
    weights[0, -1] = 0.05  # an unknown word says next to nothing
    for word, number in meaning.items():
        weights[vocabulary[word], number] = 1
    static = static_embedding(tokenizer, embedding_weights=weights)
    folder = tmp_path_factory.mktemp("embedder")
    pytest.importorskip("sentence_transformers").SentenceTransformer(modules=[static], device="cpu").save(str(folder))
    return str(folder)


@pytest.mark.filterwarnings("ignore")  # of sentence-transformers' own imports
def test_embeddings_find_what_shares_no_word(embedder: str, tmp_path: Path) -> None:
    router = Embeddings(embedder)
    router.open(NOTES, cache=tmp_path)
    assert router.route("Which engineer constructed the crossing over the stream?").matches[0].document == "bridge"
    assert router.route("How much does admission cost?").matches[0].document == "house"
    assert not router.route("What is the capital of Australia?").fits
    assert len(list(tmp_path.glob("embeddings-*.safetensors"))) == 1


@pytest.mark.filterwarnings("ignore")
def test_an_embedder_that_is_not_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sentence_transformers")
    (tmp_path / "model").mkdir()
    with pytest.raises(ModelError, match="expected a folder of sentence-transformers or a name on the hub"):
        opened(make_router("embeddings", embedder=str(tmp_path / "model")))
