"""The lab's model as it is shipped: tokenizer, what it knows, and its size."""

import pytest
import torch

from making.towns import known, unknown
from seal_lightning.lab.corpus import Corpus
from seal_lightning.lab.lines import style_counts
from seal_lightning.lab.tokenizer import build_tokenizer
from seal_lightning.lab.world import ATTRIBUTES, FIRST, SECOND, passages
from seal_lightning.models.loading import LAB, load_model
from seal_lightning.models.source import ModelSource
from seal_lightning.policy.policy import Policy
from seal_lightning.sampling import LocalSampler, SampleRequest
from seal_lightning.tasks import Knowledge

CORPUS = Corpus(seed=0)


@pytest.fixture(scope="module")
def lab():
    return load_model(ModelSource(name="lab"))


def test_it_is_small_and_loads_in_float32(lab):
    model, _, chat = lab
    assert sum(path.stat().st_size for path in LAB.iterdir()) < 4_000_000
    assert model.dtype == torch.float32 and not chat


def test_its_tokenizer_is_the_one_of_the_corpus(lab):
    assert lab[1].get_vocab() == build_tokenizer(CORPUS.texts()).get_vocab()


def test_every_word_of_the_world_is_one_token_and_any_text_comes_back(lab):
    tokenizer = lab[1]
    words = [*FIRST, *SECOND, *(value for attribute in ATTRIBUTES for value in attribute.values)]
    assert {len(tokenizer(f" {word}")["input_ids"]) for word in words} == {1}
    text = "The mayor of Amber Hollow is Barker.\n\n  naïve 日本 <b>&amp;</b> 3.14"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_it_knows_its_towns_and_no_others(lab):
    model, tokenizer, _ = lab
    assert known(model, tokenizer, CORPUS) > 0.9
    assert unknown(model, tokenizer, CORPUS) < 0.1


def test_it_writes_lines_about_the_passage(lab):
    model, tokenizer, chat = lab
    policy = Policy(model.eval(), tokenizer, chat)
    found = passages("test", count=6, towns=1, attributes=6, seed=5)
    contexts = [passage.context(str(number)) for number, passage in enumerate(found)]
    requests = [SampleRequest(policy.format(Knowledge().prompt(c)), c, 0, seed) for seed, c in enumerate(contexts)]
    samples = LocalSampler(temperature=0.7, top_p=1.0, max_new_tokens=192).sample(policy, requests)
    counts = [style_counts(sample.text, passage.facts) for sample, passage in zip(samples, found, strict=True)]
    assert sum(count["other"] for count in counts) <= 2
    assert sum(count.total() for count in counts) >= 22
