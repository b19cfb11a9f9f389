"""The model of grids with a frame as it is shipped: what it knows, and what test-time training makes of it."""

from pathlib import Path

import pytest
import torch
import yaml

from making.frames import solved
from seal_lightning.data import SyntheticArc
from seal_lightning.e_step.plan import Plan
from seal_lightning.e_step.step import EStep
from seal_lightning.grading import Reward
from seal_lightning.inner_loop.loop import InnerLoop
from seal_lightning.models.loading import SHIPPED, load_model
from seal_lightning.models.source import ModelSource
from seal_lightning.policy.policy import Policy
from seal_lightning.sampling import WrittenEdits
from seal_lightning.tasks.arc import ArcTask, GridMatch
from seal_lightning.tasks.arc.edit import ArcLimits

CONFIG = yaml.safe_load((Path(__file__).resolve().parents[2] / "configs" / "arc" / "frames_lab.yaml").read_text())
MODEL, VALIDATION = CONFIG["model"], CONFIG["data"]["validation"]["init_args"]
OPTIONS = MODEL["task"]["init_args"]
TASK = ArcTask(**{**OPTIONS, "limits": ArcLimits(epochs=tuple(OPTIONS["limits"]["epochs"]))})


@pytest.fixture(scope="module")
def shipped():
    return load_model(ModelSource(name="lab-frames"))


def test_it_is_small_and_loads_in_float32(shipped):
    model, _, chat = shipped
    assert sum(path.stat().st_size for path in SHIPPED["lab-frames"].iterdir()) < 4_000_000
    assert model.dtype == torch.float32 and not chat


def test_its_tokenizer_is_that_of_the_grid_model(shipped):
    assert shipped[1].get_vocab() == load_model(ModelSource(name="lab-grids"))[1].get_vocab()


def test_it_copies_grids_and_puts_borders_around_them(shipped):
    model, tokenizer, _ = shipped
    shares = [
        float(part.split()[-1]) for part in solved(model, tokenizer, count=20).removeprefix("solved: ").split(", ")
    ]
    assert len(shares) == 2 and min(shares) > 0.9


def test_it_writes_valid_edits_of_many_kinds(shipped):
    model, tokenizer, chat = shipped
    policy = Policy(model.eval(), tokenizer, chat)
    torch.manual_seed(0)
    edits = []
    for context in SyntheticArc(**{**VALIDATION, "count": 2}).read():
        ids = torch.tensor([tokenizer.encode(policy.format(TASK.prompt(context)))] * 8)
        written = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=0, max_new_tokens=80
        )
        texts = tokenizer.batch_decode(written[:, ids.shape[1] :], skip_special_tokens=True)
        edits += [TASK.parse(text, context) for text in texts]
    assert sum(edit.reason == "" for edit in edits) >= 10
    assert len({edit.text for edit in edits}) >= 12


def test_test_time_training_solves_what_the_model_does_not_solve_in_context(shipped):
    """The fixed configuration, found on training rules, on held-out ones."""
    model, tokenizer, chat = shipped
    contexts = SyntheticArc(**{**VALIDATION, "count": 6}).read()
    step = EStep(
        TASK,
        WrittenEdits(),
        InnerLoop(**MODEL["inner_loop"]),
        GridMatch(),
        Reward(),
        Plan(1, 1),
        max_answer_tokens=MODEL["max_answer_tokens"],
    )
    rollouts = step.run(Policy(model.eval(), tokenizer, chat), contexts, round=0)
    assert [rollout.baseline for rollout in rollouts] == [0] * 6
    assert sum(rollout.score for rollout in rollouts) >= 2
