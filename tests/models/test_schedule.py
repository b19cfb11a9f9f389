"""Learning rates over the steps of a training: the shares of the peak that transformers' schedules give."""

import pytest
import torch
import transformers

from seal_lightning.models.schedule import learning_rate_factor

MADE = {
    "linear": transformers.get_linear_schedule_with_warmup,
    "cosine": transformers.get_cosine_schedule_with_warmup,
    "constant": lambda optimizer, warmup, steps: transformers.get_constant_schedule_with_warmup(optimizer, warmup),
}


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("linear", [1.0, 0.75, 0.5, 0.25]), ("cosine", [1.0, 0.853553, 0.5, 0.146447]), ("constant", [1.0] * 4)],
)
def test_schedules_fall_to_zero_after_the_last_step(schedule, expected):
    assert [learning_rate_factor(schedule, step, 4) for step in range(4)] == pytest.approx(expected, abs=1e-6)
    end = 1.0 if schedule == "constant" else 0.0
    assert [learning_rate_factor(schedule, step, 4) for step in (4, 9)] == pytest.approx([end, end])


@pytest.mark.parametrize("schedule", list(MADE))
@pytest.mark.parametrize("warmup", [0, 1, 3])
def test_shares_are_those_of_transformers_with_a_warm_up_that_begins_above_zero(schedule, warmup):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    lambdas = MADE[schedule](optimizer, warmup, 8).lr_lambdas[0]
    rising = [(step + 1) / warmup for step in range(warmup)]  # transformers begins with a step of rate 0
    expected = [*rising, *[lambdas(step) for step in range(warmup, 8)]]
    assert [learning_rate_factor(schedule, step, 8, warmup=warmup) for step in range(8)] == pytest.approx(expected)
