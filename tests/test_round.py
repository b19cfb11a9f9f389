"""A round without Lightning is that of `seal fit`, bit for bit: edits, rewards, kept set and policy."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from fault_injection import DEBUG, AnswerDigest

from seal_lightning import (
    CheckpointSelection,
    InnerLoop,
    LocalSampler,
    ModelSource,
    Plan,
    ReSTEMFilter,
    SEALDataModule,
    SEALModule,
    SEALTrainer,
)
from seal_lightning.data import read_contexts
from seal_lightning.m_step.batches import MStep
from seal_lightning.m_step.objectives import DPO
from seal_lightning.m_step.selection import group_rollouts
from seal_lightning.m_step.training import FineTuning
from seal_lightning.models.loading import load_model
from seal_lightning.policy.tuned import PolicyTuning, TunedPolicy
from seal_lightning.records.journal import read_rollouts
from seal_lightning.round import run_round

ROUNDS = 2
PASSAGES, HELD_OUT = (str(DEBUG / name) for name in ("passages.jsonl", "passages-validation.jsonl"))
FILTER = ReSTEMFilter(above=None)

CASES = {
    "a new adapter each round": {},
    "one adapter for all rounds, accumulated batches": {
        "tuning": PolicyTuning(rank=4, alpha=8, round_start="continue"),
        "accumulate_grad_batches": 3,
    },
    "all weights": {"tuning": PolicyTuning(method="full"), "m_step": MStep(learning_rate=1e-3, batch_size=2)},
    "pairs against the round's start": {
        "m_step": MStep(learning_rate=0.01, epochs=3, objective=DPO(beta=0.5)),
        "tuning": PolicyTuning(rank=4, alpha=8, round_start="continue", dropout=0.2),
    },
    "policy gradient": {"m_step": MStep(learning_rate=0.01, batch_size=2, objective="grpo")},
    "weights by advantage": {"m_step": MStep(learning_rate=0.01, objective="weighted")},
    "batches, dropout, warm-up and clipping": {
        "tuning": PolicyTuning(rank=4, alpha=8, dropout=0.2),
        "m_step": MStep(0.01, epochs=3, effective_batch=2, schedule="cosine", warmup=0.4, weight_decay=0.1),
        "gradient_clip_val": 0.05,
    },
}


def settings(*, tuning=PolicyTuning(rank=4, alpha=8), m_step=MStep(learning_rate=0.01), **trainer):
    """A module, and options of its trainer."""
    module = SEALModule(
        source=ModelSource("random/llama"),
        tuning=tuning,
        sampler=LocalSampler(max_new_tokens=12),
        inner_loop=InnerLoop(rank=4, alpha=8, epochs=2, learning_rate=0.06),
        grader=AnswerDigest(),
        e_step=Plan(edits=2, repeats=2),
        m_step=m_step,
        max_answer_tokens=6,
        seed=3,
    )
    return module, trainer


def fitted(run, module, options):
    """The module after `seal fit`."""
    data = SEALDataModule(train=PASSAGES, validation=HELD_OUT, limit_train=3, limit_validation=1, contexts_per_unit=2)
    trainer = SEALTrainer(
        accelerator="cpu", devices=1, max_epochs=ROUNDS, default_root_dir=str(run), logger=False, validate_first=False,
        callbacks=[FILTER, CheckpointSelection(include_untrained=False)], **options,
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    return module


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_two_rounds_equal_those_of_seal_fit_to_the_last_bit(case, tmp_path):
    module, options = settings(**case)
    model, tokenizer, chat = load_model(module.source)
    policy = TunedPolicy(model, tokenizer, chat, module.tuning, seed=module.seed)
    m_step = FineTuning(module.m_step, **options)
    contexts = read_contexts(PASSAGES)[:3]
    untrained, digests, rounds = policy.digest(), [], []
    for round in range(ROUNDS):
        digests.append(policy.digest())
        rounds.append(
            run_round(
                policy, contexts, e_step=module.e_step, keep=FILTER.select, m_step=m_step, round=round,
                contexts_per_unit=2,
            )
        )  # fmt: skip
    fit = fitted(tmp_path / "run", module, options)
    for round, (rollouts, kept) in enumerate(rounds):
        recorded = read_rollouts(tmp_path / "run" / "journal", f"train-{round:03d}")
        assert [replace(one, seconds={}) for one in rollouts] == [replace(one, seconds={}) for one in recorded]
        assert len({one.reward for one in rollouts}) > 2
        assert kept == FILTER.select(group_rollouts(recorded)) and kept
        stamps = list((tmp_path / "run" / "journal").glob(f"train-{round:03d}.*"))
        assert digests[round] in stamps[0].read_text().splitlines()[0]
    assert kept == fit.kept
    assert policy.digest() == fit.policy.digest()
    assert len({untrained, digests[1], policy.digest()}) == 3  # both rounds have taught something
    mine, theirs = policy.state(), fit.policy.state()
    for weights, others in zip([*mine.merged, mine.trained], [*theirs.merged, theirs.trained], strict=True):
        assert weights.keys() == others.keys()
        assert all(torch.equal(weight, others[name]) for name, weight in weights.items())


def test_a_round_needs_no_lightning():
    said = "import sys, seal_lightning.round; print(any(name.split('.')[0] == 'lightning' for name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", said], check=True, capture_output=True, encoding="utf-8")
    assert done.stdout.strip() == "False"
