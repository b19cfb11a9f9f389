"""Generated adapters as PEFT folders: `PeftModel.from_pretrained` answers as the bank does."""

import pytest
import torch
from peft import PeftModel

from seal_lightning.generator.fast_weights import FastWeights
from seal_lightning.generator.merging import Concatenation, LeastSquares, members_of
from seal_lightning.generator.policy import GeneratingPolicy
from seal_lightning.inner_loop.loop import TrainedBank
from seal_lightning.inner_loop.lora_bank import lora_bank
from seal_lightning.lab import LabPassages
from seal_lightning.models.loading import load_model
from seal_lightning.models.lora import save_lora
from seal_lightning.models.source import ModelSource
from seal_lightning.sampling.answering import Asked, LocalAnswerer
from seal_lightning.tasks import Knowledge

TASK, TOWNS = Knowledge(), LabPassages("test", count=3).read()


@pytest.fixture(scope="module")
def policy():
    """The lab's model with a generator whose matrices are all drawn, so that its adapters change answers."""
    model, tokenizer, chat = load_model(ModelSource(name="lab"))
    network = FastWeights(rank=4, alpha=8.0).network(model.requires_grad_(False).eval(), seed=0)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for matrix in network.writing:
            matrix.copy_(0.1 * torch.randn(matrix.shape, generator=draw))
    return GeneratingPolicy(model, tokenizer, chat, network=network)


def merged(merger, members):
    for number, member in enumerate(members):
        merger.add(str(number), member)
    return merger.merged().lora


@pytest.fixture(scope="module")
def loras(policy):
    members = members_of(policy, [f"{town.title}\n{town.passage}" for town in TOWNS])
    return {
        "generated": members[1].lora,
        "concatenated": merged(Concatenation(), members),
        "concatenated, of lower rank": merged(Concatenation(rank=5), members),
        "least squares": merged(LeastSquares(), members),
    }


@pytest.mark.parametrize("name", ["generated", "concatenated", "concatenated, of lower rank", "least squares"])
@pytest.mark.parametrize("saved_by", ["bank", "lora"])
@torch.no_grad()
def test_a_peft_folder_answers_as_the_bank_does(policy, loras, name, saved_by, tmp_path):
    trained = TrainedBank(lora_bank(policy.model, [loras[name]]), ())
    if saved_by == "bank":
        trained.save(0, tmp_path)
    else:
        save_lora(loras[name], tmp_path, model=policy.model)
    prompts = tuple(TASK.query_prompt(query, town) for town in TOWNS for query in town.queries[:2])
    tokens = [policy.encode(policy.format(prompt)) for prompt in prompts]
    (wanted,) = LocalAnswerer().answer(policy, [Asked(0, prompts)], trained, max_new_tokens=4)
    with trained.answering([0]):
        logits = [policy.model(input_ids=torch.tensor([ids])).logits for ids in tokens]
    base = load_model(ModelSource(name="lab"))[0]
    plain = [base(input_ids=torch.tensor([ids])).logits for ids in tokens]
    loaded = PeftModel.from_pretrained(base, str(tmp_path)).eval()
    for ids, mine, unchanged in zip(tokens, logits, plain, strict=True):
        assert torch.allclose(loaded(input_ids=torch.tensor([ids])).logits, mine, rtol=0, atol=1e-5)
        assert not torch.allclose(mine, unchanged, rtol=0, atol=1e-2)
    ends = policy.tokenizer.eos_token_id
    answers = []
    for ids in tokens:
        written = loaded.generate(
            input_ids=torch.tensor([ids]), max_new_tokens=4, do_sample=False, eos_token_id=ends, pad_token_id=ends
        )
        answers.append(policy.decode(written[0, len(ids) :].tolist(), prompt=ids))
    assert answers == list(wanted.texts)
