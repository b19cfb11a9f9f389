"""A library: its answers are those of training, adapters are combined exactly, and what cannot be asked is named."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from small_library import make_library, random_lora

from seal_lightning import BM25, ConfigError, DataError, Knowledge, Library, ModelError
from seal_lightning.e_step.open_book import open_book_prompt
from seal_lightning.inner_loop.loop import TrainedBank
from seal_lightning.inner_loop.lora_bank import lora_bank
from seal_lightning.library.asking import weights_of
from seal_lightning.library.manifest import read_manifest, write_manifest
from seal_lightning.library.opening import combined, read_adapter
from seal_lightning.library.router import Match, RoutedQuestion
from seal_lightning.models.loading import load_model
from seal_lightning.models.lora import LoRA, save_lora, save_whole, stack, whole_state
from seal_lightning.models.source import ModelSource
from seal_lightning.policy.loading import load_policy
from seal_lightning.sampling import Asked, LocalAnswerer
from seal_lightning.types import Prompt, Query

QUESTION = "What does Frost Burrow sell?"
HILLS = "A trip through the western hills"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("library")
    make_library(place)
    return place


@pytest.fixture(scope="module")
def library(folder: Path) -> Library:
    return Library.open(folder, device="cpu")


def answer_of(folder: Path, library: Library, prompt: Prompt, loras: list[LoRA]) -> str:
    """What the model says to a prompt with adapters, asked past the library."""
    policy = load_policy(ModelSource(name="lab"), None, "cpu")
    trained = TrainedBank(lora_bank(policy.model, loras), ()) if loras else None
    asked = [Asked(0 if loras else None, (prompt,))]
    said = LocalAnswerer().answer(policy, asked, trained, max_new_tokens=library.max_answer_tokens)
    return Knowledge().read_answer(said[0].texts[0])


def test_the_three_answers_have_the_prompts_of_training(folder: Path, library: Library) -> None:
    answer = library.ask(QUESTION)
    entry = library.document(HILLS)
    assert [one.id for one in answer.documents] == [entry.id]
    assert answer.adapters == ((entry.adapter, 1.0),)
    context = next(one for one in library.router.documents if one.id == entry.id)
    query = Query(QUESTION, ())
    closed, opened = Knowledge().query_prompt(query, context), open_book_prompt(Knowledge(), query, context)
    lora = read_adapter(folder, str(entry.adapter), load_policy(ModelSource(name="lab"), None, "cpu"))
    assert answer.without_adapter == answer_of(folder, library, closed, [])
    assert answer.with_adapter == answer_of(folder, library, closed, [lora])
    assert answer.open_book == answer_of(folder, library, opened, [])
    assert (
        len({answer.without_adapter, answer.with_adapter, answer.open_book}) == 3
    )  # so that none is taken for another


def test_many_questions_in_one_batch_are_answered_as_each_alone(library: Library) -> None:
    questions = [query.question for document in library.router.documents for query in document.queries]
    together = library.ask_all(questions)
    alone = [library.ask(question) for question in questions]
    assert [replace(one, seconds=0) for one in together] == [replace(one, seconds=0) for one in alone]
    assert len({one.adapters for one in together}) > 2


def test_none_fits(library: Library) -> None:
    answer = library.ask("Who painted the Mona Lisa?")
    assert (answer.documents, answer.adapters) == ((), ())
    assert answer.without_adapter is not None
    assert (answer.with_adapter, answer.open_book) == (None, None)
    forced = library.ask("Who painted the Mona Lisa?", documents=[HILLS])
    assert forced.with_adapter is not None
    every = Library.open(library.folder, device="cpu", router=BM25(least_fit=0)).ask(
        "Which towns of the world sell gold?"
    )
    assert len(every.documents) == 1


def test_only_what_was_asked_for_is_answered(library: Library) -> None:
    answer = library.ask(QUESTION, ways=["with_adapter"])
    assert answer.with_adapter == library.ask(QUESTION).with_adapter
    assert (answer.without_adapter, answer.open_book) == (None, None)


def test_the_adapter_of_all_documents(library: Library) -> None:
    answer = library.ask(QUESTION, together=True)
    assert answer.adapters == (("adapters/all", 1.0),)
    assert answer.with_adapter != library.ask(QUESTION).with_adapter
    assert library.ask("Who painted the Mona Lisa?", together=True).with_adapter is not None


def test_documents_without_an_adapter_of_their_own_are_answered_by_that_of_all(tmp_path: Path) -> None:
    manifest = make_library(tmp_path)
    write_manifest(
        tmp_path, replace(manifest, documents=tuple(replace(one, adapter=None) for one in manifest.documents))
    )
    answer = Library.open(tmp_path, device="cpu").ask(QUESTION)
    assert answer.adapters == (("adapters/all", 1.0),)
    assert answer.documents[0].title == HILLS


def test_the_growing_answer_is_heard(library: Library) -> None:
    heard: list[str] = []
    answer = library.ask("Who leads Frost Burrow and what is sold there?", hear=heard.append)
    assert answer.with_adapter is not None
    assert heard
    assert all(answer.with_adapter.startswith(text) for text in heard)
    assert [len(text) for text in heard] == sorted(len(text) for text in heard)


# -- several adapters --------------------------------------------------------------------------------------------------


def test_k_adapters_are_the_weighted_sum_of_what_peft_adds(folder: Path) -> None:
    base = load_model(ModelSource(name="lab"))[0]
    policy = load_policy(ModelSource(name="lab"), None, "cpu")
    weights = (2 / 3, 1 / 3)
    both = combined([read_adapter(folder, f"adapters/town-{n}", policy) for n in (0, 1)], weights)
    deltas = []
    for number in (0, 1):
        model = PeftModel.from_pretrained(load_model(ModelSource(name="lab"))[0], folder / f"adapters/town-{number}")
        merged = dict(model.merge_and_unload().named_parameters())
        deltas.append({name: merged[name] - weight for name, weight in base.named_parameters() if name in merged})
    for layer in both.layers:
        expected = sum(weight * delta[f"{layer}.weight"] for weight, delta in zip(weights, deltas, strict=True))
        torch.testing.assert_close(both.delta(layer), expected, atol=1e-6, rtol=1e-5)


def test_k_documents_answer_by_rank_or_by_share(library: Library) -> None:
    answer = library.ask(QUESTION, k=2)
    assert [weight for _, weight in answer.adapters] == pytest.approx([2 / 3, 1 / 3])
    shares = library.ask(QUESTION, k=2, weighting="shares")
    assert [weight for _, weight in shares.adapters] == pytest.approx([match.share for match in shares.route.matches])
    named = library.ask(QUESTION, documents=[entry.title for entry in library.documents])
    assert [weight for _, weight in named.adapters] == pytest.approx([6 / 11, 3 / 11, 2 / 11])


def test_weights_add_up_to_one() -> None:
    route = RoutedQuestion(tuple(Match(name, 1.0, share, "") for name, share in (("a", 0.9), ("b", 0.1))), 1.0, True)
    assert weights_of(route, 2, "shares") == (0.9, 0.1)
    assert sum(weights_of(route, 5, "ranks")) == pytest.approx(1)


# -- other bases -------------------------------------------------------------------------------------------------------


def test_adapters_that_contain_a_policy_count_it_once(tmp_path: Path) -> None:
    model = load_model(ModelSource(name="lab"))[0]
    learned = random_lora(model, 7)
    save_lora(learned, tmp_path / "policy", model=model)
    manifest = make_library(tmp_path / "library", asked_with={"policy": str(tmp_path / "policy")})
    own = random_lora(model, 1)
    save_lora(stack([learned, own]), tmp_path / "library/adapters/town-1", model=model)
    policy = load_policy(ModelSource(name="lab"), str(tmp_path / "policy"), "cpu")
    change = read_adapter(tmp_path / "library", "adapters/town-1", policy)
    for layer in own.layers:
        torch.testing.assert_close(change.delta(layer), own.delta(layer), atol=1e-5, rtol=1e-4)
    with pytest.raises(ModelError, match="expected the base model that its adapters were trained on"):
        Library.open(tmp_path / "library", device="cpu")  # the manifest of this test names the bare base
    fitting = replace(manifest, base=replace(manifest.base, fingerprint=fingerprint_of(policy.model)))
    write_manifest(tmp_path / "library", fitting)
    library = Library.open(tmp_path / "library", device="cpu")
    alone = Library.open(make_bare(tmp_path / "bare"), device="cpu")
    assert library.ask(QUESTION).without_adapter != alone.ask(QUESTION).without_adapter


def test_a_policy_that_is_gone_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_library(tmp_path, asked_with={"policy": str(tmp_path / "gone")})
    assert Library.open(tmp_path, device="cpu").ask(QUESTION).with_adapter is not None
    assert "its adapters contain it, and without an adapter the base model answers instead" in caplog.text


def test_a_library_whose_weights_were_all_trained(tmp_path: Path) -> None:
    manifest = make_library(tmp_path, together=False)
    model, tokenizer, _ = load_model(ModelSource(name="lab"))
    lora = random_lora(model, 5)
    save_whole(model, tmp_path / "weights/all", whole_state(model, lora))
    tokenizer.save_pretrained(tmp_path / "weights/all")
    of_all = {
        "adapter": "weights/all", "documents": [one.id for one in manifest.documents[:3]], "status": "ready",
        "way": "retrained", "reason": "", "updated": "",
    }  # fmt: skip
    content = json.loads((tmp_path / "manifest.json").read_text())
    content["all"] = of_all
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    library = Library.open(tmp_path, device="cpu")
    answer = library.ask(QUESTION, together=True)
    assert answer.adapters == (("weights/all", 1.0),)
    context = next(one for one in library.router.documents if one.title == HILLS)
    closed = Knowledge().query_prompt(Query(QUESTION, ()), context)
    assert answer.with_adapter == answer_of(tmp_path, library, closed, [lora])
    assert answer.without_adapter == answer_of(tmp_path, library, closed, [])


def make_bare(folder: Path) -> Path:
    make_library(folder)
    return folder


def fingerprint_of(model: object) -> str:
    from seal_lightning.models.loading import fingerprint

    return fingerprint(model)  # type: ignore[arg-type]


# -- what cannot be asked ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("late", "late: expected a document that is learnt, and it is not learnt yet: run seal adapt with --resume"),
        ("old", "expected a document of the library, and its adapter was replaced by late"),
        ("nothing", r"expected a document of the library \('A road through the northern mountains', "),
    ],
)
def test_documents_that_cannot_be_asked_about(library: Library, named: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        library.ask(QUESTION, documents=[named])


@pytest.mark.parametrize(("question", "said"), [(" \n", "QUESTION is empty"), ("why " * 5000, "QUESTION is too long")])
def test_questions_that_cannot_be_asked(library: Library, question: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        library.ask(question, documents=[HILLS])


def test_bytes_that_are_no_text_are_asked_as_a_replacement_character(library: Library) -> None:
    broken, whole = (library.ask(f"What does Frost Burrow sell{mark}?") for mark in ("\udcff", "\ufffd"))
    assert replace(broken, seconds=0) == replace(whole, seconds=0)


def test_a_damaged_adapter_is_named_and_the_others_answer(tmp_path: Path) -> None:
    make_library(tmp_path)
    (tmp_path / "adapters/town-1/adapter_model.safetensors").write_bytes(b"broken")
    library = Library.open(tmp_path, device="cpu")
    with pytest.raises(ModelError, match="adapters/town-1"):
        library.ask(QUESTION, documents=["town-1"])
    assert library.ask(QUESTION, documents=["town-0"]).with_adapter is not None


def test_another_base_is_refused(tmp_path: Path) -> None:
    make_library(tmp_path)
    with pytest.raises(ModelError, match=r"expected the base model that its adapters were trained on \(lab\), got"):
        Library.open(tmp_path, device="cpu", base="random/llama")


@pytest.mark.parametrize(
    ("asked_with", "said"),
    [
        (
            {"task": {"class_path": "os.system"}},
            "task: class_path os.system names code, which a library may not choose",
        ),
        ({"source": {"name": "lab", "trust_remote_code": True}}, "source.trust_remote_code: true runs code"),
    ],
)
def test_a_strangers_library_chooses_no_code(tmp_path: Path, asked_with: dict[str, object], said: str) -> None:
    make_library(tmp_path, asked_with=asked_with)
    with pytest.raises(ConfigError, match=said):
        Library.open(tmp_path, device="cpu")


@pytest.mark.parametrize(
    "asked_with",
    [
        {"max_answer_tokens": "many"},
        {"source": None},
        {"task": {"class_path": "seal_lightning.Knowledge", "init_args": {"colour": 1}}},
    ],
)
def test_settings_of_another_form(tmp_path: Path, asked_with: dict[str, object]) -> None:
    make_library(tmp_path, asked_with=asked_with)
    with pytest.raises((DataError, ConfigError), match=r"asked_with|init_args\.colour"):
        Library.open(tmp_path, device="cpu")


def test_a_task_of_a_script_is_given_in_python(tmp_path: Path) -> None:
    make_library(tmp_path, asked_with={"task": None})
    with pytest.raises(ConfigError, match="expected a task that can be imported, got a class of a script"):
        Library.open(tmp_path, device="cpu")
    assert Library.open(tmp_path, device="cpu", task=Knowledge()).ask(QUESTION).with_adapter is not None


def test_nothing_is_ready(tmp_path: Path) -> None:
    manifest = make_library(tmp_path, together=False)
    failed = replace(manifest.documents[0], status="failed", reason="it diverged")
    write_manifest(tmp_path, replace(manifest, documents=(failed, manifest.documents[3])))
    assert read_manifest(tmp_path).documents[0].status == "failed"
    with pytest.raises(ConfigError, match=r"got 2 of which none is ready \(the first failed: it diverged\)"):
        Library.open(tmp_path, device="cpu")
