"""What a regulariser does to the inner loop: its gradients are stepped with the rest, and its projections hold."""

import torch

from seal_lightning.inner_loop.loop import InnerLoop
from seal_lightning.inner_loop.slots import Regulariser
from seal_lightning.models.random_models import build_tiny
from seal_lightning.policy.policy import Policy
from seal_lightning.types import AdapterJob, Directives, TrainingSequence

MODEL, TOKENIZER = build_tiny("llama", seed=0)
MODEL.eval().requires_grad_(False)
JOBS = [
    AdapterJob((TrainingSequence("a tarn is a lake"), TrainingSequence("it is small")), seed=1),
    AdapterJob((TrainingSequence("oil burns"),), seed=2),
]


def adapt(regulariser=None, jobs=JOBS):
    loop = InnerLoop(rank=2, alpha=4, epochs=2, learning_rate=1e-2)
    return loop.adapt(Policy(MODEL, TOKENIZER, chat=False), jobs, regulariser=regulariser).bank


class Noted(Regulariser):
    def __init__(self):
        self.steps, self.projected = [], []

    def add_gradients(self, bank, steps):
        self.steps.append(list(steps))

    def project(self, bank, slots):
        self.projected.append(list(slots))


def test_it_is_told_of_every_step_and_of_every_adapter_that_is_drawn():
    noted = Noted()
    adapt(noted)
    assert noted.steps == [[0, 0], [1, 1], [2], [3]]  # the second job has one sequence
    assert noted.projected == [[0], [1], [0, 1], [0, 1], [0], [0]]


def test_silence_changes_nothing():
    assert torch.equal(adapt(Regulariser()).parameters, adapt().parameters)


def test_a_penalty_on_the_weights_moves_them_towards_zero():
    class Decay(Regulariser):
        def add_gradients(self, bank, steps):
            rows = range(len(steps))
            bank.gradients[: len(rows)] += 1000.0 * bank.parameters[: len(rows)]  # clipped to the loop's norm

    plain, decayed = (bank.parameters.norm(dim=1) for bank in (adapt(), adapt(Decay())))
    assert torch.all(decayed < 0.9 * plain)


def test_a_projection_holds_at_the_end():
    class First(Regulariser):
        """Keeps the adapters from reading each layer's first input."""

        def project(self, bank, slots):
            for lora_A in bank.A.values():
                lora_A[list(slots), :, 0] = 0.0

    bank = adapt(First())
    assert all(not lora_A[:, :, 0].any() and lora_A[:, :, 1].all() for lora_A in (a[:, :2] for a in bank.A.values()))
    assert all(lora_B.any() for lora_B in bank.B.values())


def test_what_is_projected_has_made_a_step():
    """Where an adapter diverges the step is made again, and the others are as they would be without it."""

    class Shrink(Regulariser):
        def project(self, bank, slots):
            for slot in slots:
                bank.parameters[slot] *= 0.5

    broken = AdapterJob(JOBS[0].training_sequences, seed=3, directives=Directives(learning_rate=1e30))
    alone, beside = adapt(Shrink(), JOBS), adapt(Shrink(), [*JOBS, broken])
    assert (alone.parameters - beside.parameters[:2]).abs().max() <= 1e-5
