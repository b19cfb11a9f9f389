"""Generators that are trained end to end write adapters about towns that they have never read of."""

from collections.abc import Iterator

import pytest
import torch

from seal_lightning.generator import EndToEnd
from seal_lightning.generator.fast_weights import FastWeights
from seal_lightning.generator.lessons import Classroom, InWords, ScoredContext
from seal_lightning.generator.perceiver import Perceiver
from seal_lightning.generator.policy import GeneratingPolicy
from seal_lightning.generator.through_bank import fill_bank, make_bank
from seal_lightning.inner_loop.loop import TrainedBank
from seal_lightning.lab import LabPassages
from seal_lightning.models.loading import load_model
from seal_lightning.models.source import ModelSource
from seal_lightning.sampling.generation import generate
from seal_lightning.tasks import Knowledge

BATCH = 24
LAYERS = ["model.layers.2.mlp.down_proj", "model.layers.3.mlp.down_proj"]


def batches(contexts, *, seed) -> Iterator[list[ScoredContext]]:
    draw = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(contexts), generator=draw).tolist()
        for start in range(0, len(order) - BATCH, BATCH):
            yield [ScoredContext(contexts[place], ()) for place in order[start : start + BATCH]]


def learn(classroom, contexts, *, steps, learning_rate):
    optimizer = torch.optim.AdamW(classroom.network.parameters(), lr=learning_rate, weight_decay=0.0)
    for step, lessons in zip(range(steps), batches(contexts, seed=0), strict=False):
        optimizer.param_groups[0]["lr"] = learning_rate * min(1.0, (step + 1) / 10)
        optimizer.zero_grad()
        EndToEnd().loss(classroom, lessons).mean().backward()
        torch.nn.utils.clip_grad_norm_(classroom.network.parameters(), 1.0)
        optimizer.step()


@torch.no_grad()
def share_right(classroom, contexts):
    policy, task = classroom.policy, classroom.task
    bank = make_bank(classroom.network.settings, policy.model, slots=len(contexts), trainable=False)
    fill_bank(bank, classroom.network(classroom.read(contexts)))
    asked = [(slot, query, context) for slot, context in enumerate(contexts) for query in context.queries]
    prompts = [policy.encode(policy.format(task.query_prompt(query, context))) for _, query, context in asked]
    with TrainedBank(bank, ()).answering([slot for slot, _, _ in asked]) as used:
        written = generate(policy, prompts, max_new_tokens=4, on_keep=used.keep)
    answers = [policy.decode(ids, prompt=prompt).strip() for ids, prompt in zip(written, prompts, strict=True)]
    return sum(answer in query.golds for answer, (_, query, _) in zip(answers, asked, strict=True)) / len(asked)


LEARNERS = {
    "fast weights": (FastWeights(rank=32, alpha=32.0, target_modules=LAYERS), 2e-2),
    "perceiver": (Perceiver(rank=8, alpha=8.0, target_modules=LAYERS), 1e-2),
}


@pytest.mark.slow
@pytest.mark.parametrize(("settings", "learning_rate"), LEARNERS.values(), ids=LEARNERS)
def test_towns_never_read_of_are_answered_about(settings, learning_rate):
    model, tokenizer, chat = load_model(ModelSource(name="lab"))
    model.requires_grad_(False).eval()
    policy = GeneratingPolicy(model, tokenizer, chat, network=settings.network(model, seed=0))
    classroom = Classroom(policy, task := Knowledge(), InWords(task), seed=0, round=0)
    held_out = LabPassages("validation", count=48, attributes=1).read()
    assert share_right(classroom, held_out) <= 0.1
    learn(classroom, LabPassages("train", count=600, attributes=1).read(), steps=80, learning_rate=learning_rate)
    assert share_right(classroom, held_out) >= 0.6
