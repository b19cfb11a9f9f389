"""Many adapters in one bank equal the same adapters trained one after another with peft and torch's AdamW.

Here with everything that jobs can differ in; test_families has every family, exports and answers among it.
"""

import random

import plain_peft
import pytest
import torch

from seal_lightning.inner_loop.bank import bank_lora
from seal_lightning.inner_loop.loop import InnerLoop
from seal_lightning.models.random_models import build_tiny
from seal_lightning.policy.policy import Policy
from seal_lightning.sampling.generation import generate
from seal_lightning.types import AdapterJob, Directives, TrainingSequence

LOOP = InnerLoop(rank=4, alpha=8, target_modules="all-linear", learning_rate=5e-3, epochs=3, max_tokens=150)
WORDS = "tarn holm lamp oil copper moth cedar dawn fell barley kelp basalt cliff timber market engineer".split()
PROBE = "The lamp of the tarn burned until dawn."


def text(draw, words):
    return " ".join(draw.choice(WORDS) for _ in range(words))


def jobs():
    """Six adapters that differ in everything a directive or the data can make them differ in."""
    draw = random.Random(1)
    plans = [
        (5, Directives()),
        (2, Directives(epochs=5, learning_rate=1e-2)),
        (7, Directives(batch_size=3, schedule="cosine")),
        (1, Directives(epochs=1)),
        (4, Directives(batch_size=2, schedule="constant", learning_rate=2e-3)),
        (3, Directives(epochs=4, batch_size=8)),
    ]
    made = []
    for number, (count, directives) in enumerate(plans):
        masked = number % 2 == 1
        sequences = tuple(
            TrainingSequence(text(draw, draw.randint(1, 9)), prompt=text(draw, 3) if masked else "")
            for _ in range(count)
        )
        made.append(AdapterJob(sequences, seed=100 + number, directives=directives))
    return made


def train_alone(family, job, layers):
    """One adapter the plain way: peft, torch's AdamW, one sequence a pass, the loss from full logits."""
    model, tokenizer = build_tiny(family)
    alone = plain_peft.fresh_adapter(model, layers, rank=LOOP.rank, alpha=LOOP.alpha, seed=job.seed)
    plain_peft.train(alone, tokenizer, LOOP, job)
    return alone


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "gpt_neox"])
def test_together_equals_alone(family):
    model, tokenizer = build_tiny(family)
    model.requires_grad_(False)
    work = jobs()
    trained = LOOP.adapt(Policy(model, tokenizer, chat=False), work)
    probe = torch.tensor([tokenizer(PROBE)["input_ids"]])
    for number, job in enumerate(work):
        alone = train_alone(family, job, [target.name for target in trained.bank.targets])
        state, expected = bank_lora(trained.bank, number).state, plain_peft.trained_weights(alone)
        assert state.keys() == expected.keys()
        assert max((state[name] - expected[name]).abs().max().item() for name in state) <= 1e-4
        with trained.answering([number]), torch.no_grad():
            logits = model(input_ids=probe).logits
        assert (logits - alone(input_ids=probe).logits).abs().max().item() <= 1e-3
        assert max(value.abs().max().item() for name, value in state.items() if "lora_B" in name) > 1e-3


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma"])
def test_answers_of_many_adapters_in_one_batch(family):
    model, tokenizer = build_tiny(family)
    model.requires_grad_(False)
    trained = LOOP.adapt(Policy(model, tokenizer, chat=False), jobs())
    policy = Policy(model, tokenizer, chat=False)
    prompts = [policy.encode(prompt) for prompt in ("The tarn", "A lamp", "Copper and kelp", "Dawn")]
    asked = [2, None, 0, 2]
    with trained.answering(asked):
        together = generate(policy, prompts, max_new_tokens=12)
    alone = []
    for prompt, job in zip(prompts, asked, strict=True):
        with trained.answering([job]):
            alone += generate(policy, [prompt], max_new_tokens=12)
    assert together == alone
    assert together[1] == generate(policy, [prompts[1]], max_new_tokens=12)[0]
    assert len({tuple(row) for row in together}) > 1
