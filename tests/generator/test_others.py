"""`EndToEnd(others=...)`: how far an adapter takes answers that its passage does not tell from the frozen model's."""

import pytest
import torch

from seal_lightning.errors import ConfigError
from seal_lightning.generator import EndToEnd, FastWeights
from seal_lightning.generator.lessons import Classroom, InWords, ScoredContext, read_for, text_of
from seal_lightning.generator.merging import loras_of
from seal_lightning.generator.policy import GeneratingPolicy
from seal_lightning.inner_loop.loop import TrainedBank
from seal_lightning.inner_loop.lora_bank import lora_bank
from seal_lightning.lab import LabPassages
from seal_lightning.models.loading import load_model
from seal_lightning.models.source import ModelSource
from seal_lightning.tasks import Knowledge

TASK, TOWNS = Knowledge(), LabPassages("train", count=3).read()


@pytest.fixture
def classroom():
    model, tokenizer, chat = load_model(ModelSource(name="lab"))
    settings = FastWeights(rank=4, alpha=4.0, target_modules=["down_proj"], normalisation="frobenius")
    network = settings.network(model.requires_grad_(False).eval(), seed=0)
    policy = GeneratingPolicy(model, tokenizer, chat, network=network)
    return Classroom(policy, TASK, InWords(TASK), seed=0, round=0)


def draw(network):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for matrix in network.writing:
            matrix.copy_(torch.randn(matrix.shape, generator=generator))


def term(classroom, contexts):
    """What `others` adds to the loss of each lesson at weight 1."""
    lessons = [ScoredContext(context, ()) for context in contexts]
    with_it, without = (EndToEnd(others=weight).loss(classroom, lessons) for weight in (1.0, 0.0))
    return with_it - without


def test_it_is_the_divergence_on_the_next_contexts_queries(classroom):
    policy, network = classroom.policy, classroom.network
    draw(network)
    found = term(classroom, TOWNS)
    with torch.no_grad():
        adapters = network(read_for(policy, [text_of(TASK, town) for town in TOWNS]))
        trained = TrainedBank(lora_bank(policy.model, loras_of(adapters, scale=network.scale)), ())
        for number in range(3):
            town, wanted = TOWNS[(number + 1) % 3], 0.0
            for query in town.queries:
                ids = torch.tensor([policy.encode(policy.format(TASK.query_prompt(query, town)))])
                frozen = torch.log_softmax(policy.model(input_ids=ids).logits[0, -1], -1)
                with trained.answering([number]):
                    adapted = torch.log_softmax(policy.model(input_ids=ids).logits[0, -1], -1)
                wanted += (frozen.exp() * (frozen - adapted)).sum().item() / len(town.queries)
            assert wanted > 0.05
            assert found[number].item() == pytest.approx(wanted, rel=1e-3)


def test_adapters_that_change_nothing_cost_nothing(classroom):
    assert term(classroom, TOWNS).abs().max() < 1e-5


def test_it_leads_back_to_the_network(classroom):
    draw(classroom.network)
    term(classroom, TOWNS).sum().backward()
    assert all(matrix.grad.abs().max() > 1e-6 for matrix in classroom.network.writing)


def test_a_context_alone_has_no_others(classroom):
    draw(classroom.network)
    assert term(classroom, TOWNS[:1]).item() == 0.0


def test_a_weight_below_zero_is_refused():
    with pytest.raises(ConfigError, match=r"model\.objective\.others must be 0 or more, got -1"):
        EndToEnd(others=-1)
