"""The M-step's data: literal ids and labels, the plan of a round, resuming in its middle."""

import pytest
import torch

from seal_lightning.errors import ConfigError
from seal_lightning.m_step.batches import IGNORED, MStep, PlannedBatches, batch_plan, encode_example, encode_taught
from seal_lightning.m_step.batches import make_loader as loader_of
from seal_lightning.m_step.objectives import Taught
from seal_lightning.models.random_models import build_tiny
from seal_lightning.policy.policy import Policy
from seal_lightning.types import EditOutcome

EOS, PAD = 1, 2  # and "a" is 67 in the byte tokenizer


def policy(**options) -> Policy:
    model, tokenizer = build_tiny("llama", **options)
    return Policy(model, tokenizer, chat=False)


def kept(*pairs: tuple[str, str]) -> list[EditOutcome]:
    return [
        EditOutcome("lamp", index, prompt, text, reward=1.0, score=1.0, gain=0.0, repeats=1)
        for index, (prompt, text) in enumerate(pairs)
    ]


def make_loader(policy, edits, *, settings, **place):
    """Batches of edits, each of which is taught alone."""
    taught = encode_taught(policy, [Taught((edit,)) for edit in edits], settings=settings)
    return loader_of(taught, pad=PAD, settings=settings, **place)


def test_the_loss_is_on_the_edit_and_its_end():
    example = encode_example(policy(), "ab", "cd", max_length=100)
    assert example.input_ids == [67, 68, 69, 70, EOS]
    assert example.labels == [-100, -100, 69, 70, EOS]


def test_a_long_edit_loses_its_end():
    example = encode_example(policy(), "ab", "cd", max_length=4)
    assert example.input_ids == [67, 68, 69, 70]
    assert example.labels == [-100, -100, 69, 70]
    assert encode_example(policy(), "ab", "cd", max_length=3).labels == [-100, -100, 69]


def test_a_prompt_without_room_for_an_edit_is_refused():
    """Such a sequence has no loss, and the mean over no token is nan."""
    with pytest.raises(ConfigError, match=r"model\.m_step\.max_length must be above the 2 tokens .* got 2: raise it"):
        encode_example(policy(), "ab", "cd", max_length=2)
    settings = MStep(max_length=500)
    with pytest.raises(ConfigError, match=r"above the 40 tokens of the longest prompt, got 32"):
        make_loader(policy(max_positions=32), kept(("a" * 40, "b")), settings=settings, seed=0, round=0)


def test_without_an_end_token_the_text_is_the_end():
    model = policy()
    model.tokenizer.eos_token = None
    assert encode_example(model, "ab", "cd", max_length=100).input_ids == [67, 68, 69, 70]


def test_the_mask_covers_what_the_model_reads_before_the_edit():
    model, tokenizer = build_tiny("llama", chat=True)
    prompt = "<user>\na<eos>\n<assistant>\n"
    example = encode_example(Policy(model, tokenizer, chat=True), prompt, "b", max_length=100)
    start = len("<user>\na\n<assistant>\n") + 1
    assert example.labels == [IGNORED] * start + [68, EOS]
    assert example.input_ids.count(EOS) == 2  # the template's own and the end of the edit


# -- the plan of a round -----------------------------------------------------------------------------------------------


def test_the_plan_is_these_batches():
    settings = MStep(epochs=2, batch_size=2)
    plan = batch_plan(5, settings=settings, seed=0, round=0)
    assert plan == [[1, 2], [3, 0], [4], [4, 1], [0, 3], [2]]
    assert plan == batch_plan(5, settings=settings, seed=0, round=0)
    assert batch_plan(0, settings=settings, seed=0, round=0) == []
    assert batch_plan(1, settings=settings, seed=0, round=0) == [[0], [0]]


@pytest.mark.parametrize("batch_size", [1, 3, 20])
def test_every_epoch_is_a_permutation_of_its_own(batch_size):
    settings = MStep(epochs=3, batch_size=batch_size)
    plan = batch_plan(10, settings=settings, seed=4, round=1)
    flat = [number for batch in plan for number in batch]
    epochs = [flat[start : start + 10] for start in (0, 10, 20)]
    assert len(flat) == 30
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_the_plan_differs_by_round_and_by_seed():
    settings = MStep(epochs=1)
    plans = [batch_plan(10, settings=settings, seed=seed, round=round) for seed in (0, 1) for round in (0, 1)]
    assert all(one != two for index, one in enumerate(plans) for two in plans[:index])


def test_planned_batches_start_where_the_m_step_stopped():
    plan = [[0, 1], [2], [1, 0], [2]]
    assert list(PlannedBatches(plan)) == plan
    resumed = PlannedBatches(plan, start=3)
    assert list(resumed) == [[2]] and list(resumed) == [[2]]
    assert len(resumed) == 4  # of the whole plan


# -- batches -----------------------------------------------------------------------------------------------------------


def test_batches_are_these_tensors():
    loader = make_loader(policy(), kept(("ab", "c"), ("d", "efg")), settings=MStep(batch_size=2), seed=0, round=0)
    order = batch_plan(2, settings=MStep(batch_size=2), seed=0, round=0)[0]
    batch = next(iter(loader))
    rows = {
        0: ([67, 68, 69, EOS, PAD], [1, 1, 1, 1, 0], [-100, -100, 69, EOS, -100]),
        1: ([70, 71, 72, 73, EOS], [1, 1, 1, 1, 1], [-100, 71, 72, 73, EOS]),
    }
    assert batch["input_ids"].tolist() == [rows[number][0] for number in order]
    assert batch["attention_mask"].tolist() == [rows[number][1] for number in order]
    assert batch["labels"].tolist() == [rows[number][2] for number in order]
    assert batch["values"].tolist() == [1.0, 1.0]
    assert {name for name, tensor in batch.items() if tensor.dtype == torch.long} == set(batch) - {"values"}
    assert set(batch) == {"input_ids", "attention_mask", "labels", "values"}


def test_a_resumed_loader_gives_the_rest_of_the_batches():
    settings = MStep(epochs=2, batch_size=1)
    edits = kept(*((f"{number}", f"edit {number}") for number in range(4)))

    def ids(start):
        loader = make_loader(policy(), edits, settings=settings, seed=3, round=1, start=start)
        return [batch["input_ids"].tolist() for batch in loader]

    whole = ids(0)
    assert len(whole) == 8
    assert ids(5) == whole[5:] and ids(8) == []


def test_padding_changes_no_loss():
    model = policy()
    edits = kept(("ab", "c"), ("The lamp", " burns oil and kelp."))
    losses = []
    for batch_size in (1, 2):
        settings = MStep(epochs=1, batch_size=batch_size)
        loader = make_loader(model, edits, settings=settings, seed=0, round=0)
        with torch.no_grad():
            given = [(batch, settings.goal.batch_loss(model.model, batch)[0]) for batch in loader]
            losses.append(sum(float(loss) * int((batch["labels"] >= 0).sum()) for batch, loss in given))
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"learning_rate": 0.0}, r"learning_rate must be above 0, and at most 1e36, got 0\.0"),
        ({"epochs": 0}, r"epochs must be a whole number of at least 1, got 0"),
        ({"batch_size": -2}, r"batch_size must be a whole number of at least 1, got -2"),
        ({"max_length": 0}, r"max_length must be a whole number of at least 1, got 0"),
        ({"warmup": 1.0}, r"warmup must be in \[0, 1\), got 1\.0"),
        ({"warmup": -0.1}, r"warmup must be in \[0, 1\), got -0\.1"),
        ({"learning_rate": float("nan")}, r"learning_rate must be above 0, and at most 1e36, got nan"),
        ({"weight_decay": -1.0}, r"weight_decay must be 0 or more, got -1\.0"),
    ],
)
def test_settings_that_cannot_work_are_refused(options, said):
    with pytest.raises(ConfigError, match=rf"^model\.m_step\.{said}"):
        MStep(**options)


# -- several ranks -----------------------------------------------------------------------------------------------------


def test_ranks_share_the_plan_and_fill_up_the_last_step():
    settings, edits = MStep(epochs=1), kept(*[("a" * size, "b") for size in (5, 4, 3, 2, 6)])
    plan = batch_plan(5, settings=settings, seed=0, round=0)
    both = settings.shares(2, accumulation=2)
    loaders = [
        make_loader(policy(), edits, settings=settings, seed=0, round=0, rank=rank, shares=both) for rank in (0, 1)
    ]
    lengths = [[batch["input_ids"].shape[1] - 2 for batch in loader] for loader in loaders]
    wanted = [(5, 4, 3, 2, 6)[number] for (number,) in plan]
    assert lengths[0] == [wanted[0], wanted[2], wanted[4], 2]  # the shortest fills up to two steps of two and two
    assert lengths[1] == [wanted[1], wanted[3], 2, 2]
    assert [both.number(place, 5) for place in range(8)] == [0, 1, 2, 3, 4, None, None, None]


@pytest.mark.parametrize(
    ("ranks", "accumulation", "scale", "numbers"),
    [
        (1, 3, 1, [0, 1, 2, 3, None, None]),
        (2, 2, 4 / 3, [0, 1, 2, None, 3, None, None, None]),
        (3, 1, 1, [0, 1, 2, 3, None, None]),
        (4, 1, 4 / 3, [0, 1, 2, None, 3, None, None, None]),
    ],
)
def test_the_effective_batch_is_the_same_on_any_number_of_ranks(ranks, accumulation, scale, numbers):
    shares = MStep(effective_batch=6, batch_size=2).shares(ranks, accumulation=1)
    assert (shares.ranks, shares.accumulation, shares.batches, shares.weight(0)) == (ranks, accumulation, 3, scale)
    assert [shares.number(place, 4) for place in range(len(numbers))] == numbers  # four batches: three and one
    filled = shares.fill([[0], [1], [2], [3]], filler=[9])
    assert filled == [[9] if number is None else [number] for number in numbers]
    assert shares.steps(4) * shares.places == len(numbers)


def test_an_effective_batch_that_cannot_be_is_refused():
    with pytest.raises(ConfigError, match=r"accumulate_grad_batches must stay 1 with model\.m_step\.effective_batch"):
        MStep(effective_batch=4).shares(2, accumulation=2)
    with pytest.raises(ConfigError, match=r"effective_batch must be a multiple of batch_size 4, got 6"):
        MStep(effective_batch=6, batch_size=4)


def test_an_effective_batch_is_at_least_one():
    with pytest.raises(
        ConfigError, match=r"model\.m_step\.effective_batch must be a whole number of at least 1, got 0"
    ):
        MStep(effective_batch=0)
