"""A generator that learns from scores: the gradient is that of the samples' likelihood, and it finds what pays."""

import copy
from types import SimpleNamespace

import pytest
import torch
from generator_fits import Passages, fit, module
from torch import nn

from seal_lightning.e_step.plan import Plan
from seal_lightning.e_step.step import attempt_seed
from seal_lightning.errors import ConfigError
from seal_lightning.generator import Reinforce
from seal_lightning.generator.lessons import Classroom, InWords, ScoredContext
from seal_lightning.generator.reinforce import advantages
from seal_lightning.generator.trials import drawn_noise
from seal_lightning.types import Context, EditOutcome

SEED, NOISE = 3, 0.4


class Toy(nn.Module):
    """A code of two numbers, the same for every context."""

    settings = SimpleNamespace(drift=0.0)

    def __init__(self, *code):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(code or (0.0, 0.0)))

    def codes(self, reading):
        return self.theta.expand(reading, 2)


def classroom(network, earlier, *, round=0):
    return SimpleNamespace(seed=SEED, round=round, network=network, earlier=earlier, read=len)


def noise_of(context, edit, *, round=0):
    return drawn_noise(attempt_seed(SEED, round, context, edit), torch.zeros(1, 2))


def outcome(context, edit, reward, *, repeats=1):
    return EditOutcome(context, edit, "", "", reward, 0.0, reward or 0.0, repeats)


def lesson(name, rewards):
    outcomes = tuple(outcome(name, edit, reward) for edit, reward in enumerate(rewards))
    return ScoredContext(Context(name, "", "text"), outcomes)


def gradient(objective, network, earlier, lessons):
    (grad,) = torch.autograd.grad(objective.loss(classroom(network, earlier), lessons).mean(), [network.theta])
    return grad


def test_the_gradient_is_that_of_the_likelihood_times_what_a_sample_earned_beyond_the_others():
    rewards = [0.25, 1.0, -0.5]
    network, earlier = Toy(0.3, -0.2), Toy(0.1, 0.5)
    found = gradient(Reinforce(noise=NOISE, normalise=False), network, earlier, [lesson("a", rewards)])
    others = [(1.0 - 0.5) / 2, (0.25 - 0.5) / 2, (0.25 + 1.0) / 2]
    wanted = torch.zeros(2)
    for edit, (reward, expected) in enumerate(zip(rewards, others, strict=True)):
        sample = earlier.theta.detach() + NOISE * noise_of("a", edit)
        wanted -= (reward - expected) * (sample - network.theta.detach()) / NOISE**2 / 3
    torch.testing.assert_close(found, wanted)


def test_what_earned_nothing_since_it_diverged_is_left_out():
    network, lessons = Toy(0.3, -0.2), [lesson("a", [0.25, None, 1.0]), lesson("b", [None])]
    objective = Reinforce(noise=NOISE, baseline="none", normalise=False)
    losses = objective.loss(classroom(network, Toy()), lessons)
    likelihoods = [
        -(NOISE * noise_of("a", edit) - network.theta.detach()).square().sum() / (2 * NOISE**2) for edit in (0, 2)
    ]
    torch.testing.assert_close(
        losses.detach(), torch.stack([-(0.25 * likelihoods[0] + likelihoods[1]) / 2, torch.tensor(0.0)])
    )
    assert objective.loss(classroom(network, Toy()), [lesson("b", [None])]).tolist() == [0.0]


@pytest.mark.parametrize("baseline", ["others", "batch"])
def test_a_baseline_takes_variance_away_and_leaves_the_expected_gradient(baseline):
    contexts, samples = 20_000, 4
    draw = torch.Generator().manual_seed(0)
    noise = torch.randn(contexts, samples, generator=draw)
    rewards = (5.0 + noise + 0.5 * torch.randn(contexts, samples, generator=draw)).flatten()
    owners = torch.arange(contexts).repeat_interleave(samples)

    def estimates(kind):
        gains = advantages(rewards, owners, baseline=kind, normalise=False)
        return (gains.view(contexts, samples) * noise).mean(dim=1)

    plain, better = estimates("none"), estimates(baseline)
    error = float(plain.std() / contexts**0.5)
    assert abs(float(better.mean()) - 1.0) < 4 * float(better.std() / contexts**0.5)
    assert abs(float(plain.mean()) - 1.0) < 4 * error
    assert better.var() < plain.var() / 5


def test_advantages_of_one_size_whatever_the_rewards_are():
    rewards, owners = torch.tensor([0.0, 0.02, 0.0, 0.0]), torch.tensor([0, 0, 1, 1])
    gains = advantages(rewards, owners, baseline="others", normalise=True)
    torch.testing.assert_close(gains, advantages(50 * rewards, owners, baseline="others", normalise=True))
    torch.testing.assert_close(gains.square().mean(), torch.tensor(1.0))
    assert advantages(torch.full((4,), 0.3), owners, baseline="others", normalise=True).tolist() == [0.0] * 4
    alone = advantages(torch.tensor([0.7]), torch.tensor([0]), baseline="others", normalise=False)
    assert alone.tolist() == [0.0]


@pytest.mark.parametrize(("reward", "moved", "is_held"), [(1.0, 0.5, True), (1.0, -0.5, False), (-1.0, -0.5, True)])
def test_a_density_that_has_changed_enough_is_not_pushed_on(reward, moved, is_held):
    """The code has `moved` towards the sample, or away from it."""
    step = moved * NOISE * noise_of("a", 0)
    objective = Reinforce(noise=NOISE, baseline="none", normalise=False, clip=0.2)
    grad = gradient(objective, Toy(*step.tolist()), Toy(), [lesson("a", [reward])])
    assert (grad.abs().max() == 0) == is_held


def test_at_first_the_clipped_gradient_is_the_plain_one():
    lessons = [lesson("a", [0.25, 1.0, -0.5]), lesson("b", [0.0, 0.5])]
    clipped, plain = (gradient(Reinforce(noise=NOISE, clip=clip), Toy(), Toy(), lessons) for clip in (0.2, None))
    torch.testing.assert_close(clipped, plain)


def test_it_finds_what_pays():
    """A bandit: only samples near (1, -1) earn something."""
    network, objective = Toy(), Reinforce(noise=0.5)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
    target = torch.tensor([1.0, -1.0])
    for round in range(60):
        earlier = Toy(*network.theta.tolist())
        lessons = []
        for name in ("a", "b", "c", "d"):
            samples = [earlier.theta.detach() + 0.5 * noise_of(name, edit, round=round) for edit in range(8)]
            lessons.append(lesson(name, [float((sample - target).norm() < 1.0) for sample in samples]))
        optimizer.zero_grad()
        objective.loss(classroom(network, earlier, round=round), lessons).mean().backward()
        optimizer.step()
    assert float((network.theta.detach() - target).norm()) < 0.4


def test_the_samples_are_those_of_the_e_step(monkeypatch):
    objective = Reinforce(noise=NOISE, baseline="none", normalise=False)
    made = module(objective=objective, e_step=Plan(edits=2, repeats=1))
    made.configure_model()
    network, contexts = made.policy.network, Passages(2).read()
    explored = []
    adapters = type(network).adapters
    monkeypatch.setattr(type(network), "adapters", lambda self, codes: explored.append(codes) or adapters(self, codes))
    step = made.step_for(Plan(edits=2, repeats=1))
    with made.policy.frozen() as policy:
        step.run(policy, contexts, round=5)
    (samples,) = explored
    earlier = copy.deepcopy(network)
    room = Classroom(made.policy.view, step.task, InWords(step.task), seed=made.seed, round=5, earlier=earlier)
    with torch.no_grad():
        network.reader.bias += 0.3  # the network has moved on
        current = network.codes(room.read(contexts))
    for number, (place, edit) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        chosen = ScoredContext(contexts[place], (outcome(contexts[place].id, edit, 1.0),))
        wanted = (samples[number] - current[place]).square().sum() / (2 * NOISE**2)
        torch.testing.assert_close(objective.loss(room, [chosen])[0].detach(), wanted)


def test_a_run_keeps_the_network_that_explored_until_its_next_e_step(tmp_path):
    made = module(objective=Reinforce(noise=1.0, baseline="none"), e_step=Plan(edits=3, repeats=1), reward="score")
    fit(tmp_path, made, rounds=1)
    room = made._classroom
    assert room.earlier is not None and room.earlier is not made.policy.network
    assert not any(parameter.requires_grad for parameter in room.earlier.parameters())
    assert "earlier" not in " ".join(name for name, _ in made.named_parameters())


def test_options_and_repeats_are_refused():
    with pytest.raises(ConfigError, match=r"objective\.noise must be above 0, got 0"):
        Reinforce(noise=0.0)
    with pytest.raises(ConfigError, match="baseline must be one of others, batch, none, got 'mean': use others"):
        Reinforce(baseline="mean")
    with pytest.raises(ConfigError, match="clip must be between 0 and 1, or null for none, got 1"):
        Reinforce(clip=1.0)
    several = ScoredContext(Context("a", "", "text"), (outcome("a", 0, 1.0, repeats=2),))
    with pytest.raises(ConfigError, match=r"e_step\.repeats must be 1 where codes are explored, got 2"):
        Reinforce().loss(classroom(Toy(), Toy()), [several])
