"""Objectives of the M-step against literal values, most of them what TRL 1.16.0 gives for the same tensors."""

import math
from dataclasses import replace
from statistics import fmean

import pytest
import torch

from seal_lightning.callbacks import RandomFilter
from seal_lightning.errors import CheckpointError, ConfigError, DivergedError
from seal_lightning.m_step.batches import MStep, collated, encode_taught
from seal_lightning.m_step.objectives import (
    DPO,
    GRPO,
    EditTokens,
    Imitation,
    MStepObjective,
    Taught,
    WeightedImitation,
    resolve_objective,
)
from seal_lightning.m_step.references import joined, reference_logps, with_references
from seal_lightning.m_step.training import FineTuning
from seal_lightning.models.random_models import build_tiny
from seal_lightning.policy.tuned import PolicyTuning, TunedPolicy
from seal_lightning.types import EditOutcome, RolloutGroup

MASK = torch.tensor([[1.0, 1, 1], [1, 1, 0]])
REFERENCE = torch.tensor([[-0.9, -1.0, -2.1], [-1.0, -1.5, 0.0]])


def logps():
    return torch.tensor([[-0.5, -1.2, -2.0], [-0.3, -3.0, 0.0]], requires_grad=True)


def outcome(context, index, reward, text="A lamp."):
    return EditOutcome(context, index, f"{context}: ", f"{text} {index}", reward, reward or 0.0, 0.0, 1)


def group(context, *rewards):
    return RolloutGroup(context, tuple(outcome(context, index, reward) for index, reward in enumerate(rewards)))


def best(*groups, k=1):
    scored = [[one for one in group.outcomes if one.reward is not None] for group in groups]
    return [one for edits in scored for one in sorted(edits, key=lambda one: -(one.reward or 0))[:k]]


# -- losses ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "loss", "gradient"),
    [
        ({"beta": 0.0}, 0.357262, [[0.0, -0.109164, -0.147356], [0.553782, 0.0, 0.0]]),
        ({"beta": 0.04}, 0.379688, [[0.002198, -0.11064, -0.146722], [0.558816, -0.034817, 0.0]]),
        ({"beta": 0.0, "loss_type": "dr_grpo"}, 0.03725, [[0.0, -0.040937, -0.055259], [0.138445, 0.0, 0.0]]),
        ({"beta": 0.04, "loss_type": "dr_grpo"}, 0.042938, [[0.000824, -0.04149, -0.055021], [0.139704, -0.008704, 0]]),
    ],
)
def test_the_policy_gradient_is_that_of_trl(options, loss, gradient):
    learnt = logps()
    tokens = EditTokens(learnt, MASK, REFERENCE, torch.tensor([0.8, -1.1]))
    value, figures = GRPO(max_completion_length=8, **options).loss(tokens)
    value.backward()
    assert value.item() == pytest.approx(loss, abs=1e-6)
    assert torch.allclose(learnt.grad, torch.tensor(gradient), atol=1e-6)
    assert figures["clip_fraction"].item() == pytest.approx(2 / 5)  # the first of the first, the second of the second
    behind = [-0.4, 0.2, -0.1, -0.7, 1.5]
    assert figures["kl"].item() == pytest.approx(fmean(math.exp(one) - one - 1 for one in behind), abs=1e-6)
    assert figures["ratio"].item() == pytest.approx(fmean(math.exp(-one) for one in behind), abs=1e-6)
    assert set(figures) == set(GRPO.figures)


@pytest.mark.parametrize(("beta", "loss", "slope"), [(0.1, 0.639659, 0.047253), (0.5, 0.455492, 0.182932)])
def test_preferences_are_those_of_trl(beta, loss, slope):
    learnt = logps()
    value, figures = DPO(beta=beta).loss(EditTokens(learnt, MASK, REFERENCE, torch.ones(1)))
    value.backward()
    assert value.item() == pytest.approx(loss, abs=1e-6)
    assert torch.allclose(learnt.grad, slope * torch.tensor([[-1.0, -1, -1], [1, 1, 0]]), atol=1e-6)
    assert figures["preference_accuracy"].item() == 1.0
    assert figures["margin"].item() == pytest.approx(beta * 1.1, abs=1e-6)  # 0.3 more likely against 0.8 less
    assert set(figures) == set(DPO.figures)


def test_two_pairs_are_told_apart():
    learnt = torch.cat([logps(), logps().flip(0)]).detach()
    reference, mask = torch.cat([REFERENCE, REFERENCE.flip(0)]), torch.cat([MASK, MASK.flip(0)])
    value, figures = DPO(beta=0.1).loss(EditTokens(learnt, mask, reference, torch.ones(2)))
    assert value.item() == pytest.approx((0.639659 + math.log1p(math.exp(0.11))) / 2, abs=1e-6)
    assert figures["preference_accuracy"].item() == 0.5


def test_weights_are_on_the_tokens():
    tokens = EditTokens(logps(), MASK, torch.zeros(2, 3), torch.tensor([1.5, 0.5]))
    assert WeightedImitation().loss(tokens)[0].item() == pytest.approx((1.5 * 3.7 + 0.5 * 3.3) / 5)
    assert Imitation().loss(tokens)[0].item() == pytest.approx(7.0 / 5)


def test_a_loss_that_is_not_finite_is_a_divergence():
    model, tokenizer = build_tiny("llama")
    policy = TunedPolicy(model, tokenizer, False, PolicyTuning(rank=4, alpha=8.0), seed=0)
    lamp = group("lamp", 0.0, 1.0)
    settings = MStep(learning_rate=1e30, epochs=20, objective=GRPO(beta=0.1))
    with pytest.raises(DivergedError, match=r"round 1, M-step: the policy is not finite after \d+ batches"):
        FineTuning(settings).train(policy, best(lamp), groups=[lamp], round=0)


# -- what a round teaches ----------------------------------------------------------------------------------------------


def test_the_best_kept_edit_against_the_worst_of_the_others():
    lamp, tie, none = group("lamp", 0.2, 0.9, 0.0, 0.0, None), group("tie", 0.5, 0.5), group("none", 0.0, 1.0)
    kept = best(lamp, k=2) + best(tie)
    (pair,) = DPO().taught([lamp, tie, none], kept)
    assert [one.edit_index for one in pair.outcomes] == [1, 2]
    assert DPO().taught([lamp], list(lamp.outcomes)) == []  # nothing is left to be worse


def test_a_gap_of_rounding_is_a_tie():
    assert DPO().taught([group("lamp", 0.1 + 0.2, 0.3)], best(group("lamp", 0.1 + 0.2, 0.3))) == []


@pytest.mark.parametrize(
    ("scale", "first", "second"),
    [
        ("none", [0.5, -0.5, 0, 0], [-0.25, 0.25, 0.5, -0.5]),
        ("group", [1.224445, -1.224445, 0, 0], [-0.547603, 0.547603, 1.095205, -1.095205]),
        ("batch", [1.246908, -1.246908, 0, 0], [-0.623454, 0.623454, 1.246908, -1.246908]),
    ],
)
def test_advantages_are_those_of_trl(scale, first, second):
    groups = [group("lamp", 1.0, 0.0, 0.5, 0.5), group("tower", 0.25, 0.75, 1.0, 0.0)]
    taught = GRPO(scale_rewards=scale).taught(groups, best(*groups))
    assert [one.value for one in taught] == pytest.approx([*first, *second], abs=1e-6)
    assert [one.outcomes for one in taught] == [(one,) for group in groups for one in group.outcomes]


def test_groups_without_a_difference_or_a_kept_edit_teach_no_gradient():
    alike, unkept, scored = group("alike", 0.3, 0.3), group("unkept", 0.0, 1.0), group("scored", None, 0.0, 1.0)
    taught = GRPO().taught([alike, unkept, scored], best(alike, scored))
    assert [one.outcomes for one in taught] == [(edit,) for edit in scored.outcomes[1:]]


def test_weights_are_exponential_in_the_advantage_and_one_on_average():
    lamp, sole = group("lamp", 1.0, 0.0, 0.5, 0.5), group("sole", 0.7)
    weights = [one.value for one in WeightedImitation(beta=2.0).taught([lamp, sole], best(lamp, sole))]
    raw = [math.exp(gain / 2) for gain in (1.2244449, -1.2244449, 0, 0, 0)]
    assert weights == pytest.approx([one / fmean(raw) for one in raw], abs=1e-6)
    cut = [one.value for one in WeightedImitation(beta=0.01, most=3.0).taught([lamp], best(lamp))]
    assert cut == pytest.approx([3 / (5 / 4), 0.0, 1 / (5 / 4), 1 / (5 / 4)], abs=1e-6)


def test_the_kept_edits_are_imitated_whatever_the_groups():
    kept = best(group("lamp", 0.0, 1.0, 0.5), k=2)
    assert Imitation().taught([], kept) == [Taught((kept[0],)), Taught((kept[1],))]


# -- the control -------------------------------------------------------------------------------------------------------


def test_the_control_deals_rewards_out_by_lot():
    rewards = [index / 10 for index in range(8)]
    groups = [group(f"context {number}", *rewards) for number in range(200)]
    chosen = RandomFilter(k=2, seed=3)
    dealt, kept = chosen.compared(groups), chosen.select(groups)
    assert dealt == chosen.compared(groups)
    assert all(sorted(one.reward for one in group.outcomes) == rewards for group in dealt)
    pairs = DPO().taught(dealt, kept)
    assert len(pairs) == 200 and all(pair.outcomes[0].reward == 0.7 for pair in pairs)
    earned = [[rewards[one.edit_index] for one in pair.outcomes] for pair in pairs]
    assert abs(fmean(good - poor for good, poor in earned)) < 0.07  # whose standard error is 0.023
    gains = [(one.value, rewards[one.outcomes[0].edit_index]) for one in GRPO().taught(dealt, kept)]
    assert abs(fmean(gain * (reward - 0.35) for gain, reward in gains)) < 0.02


def test_dealing_leaves_out_what_has_no_reward():
    dealt = RandomFilter().compared([group("lamp", None, 0.1, 0.9, None)])[0]
    assert [one.reward is None for one in dealt.outcomes] == [True, False, False, True]


# -- references --------------------------------------------------------------------------------------------------------


def policy(**tuning):
    model, tokenizer = build_tiny("llama")
    return TunedPolicy(model, tokenizer, False, PolicyTuning(rank=4, alpha=8.0, **tuning), seed=0)


EDITS = [outcome("lamp", index, index / 4, "It burns oil. " * (index + 1)) for index in range(5)]


@pytest.mark.parametrize("ranks", [2, 3])
def test_references_are_the_same_on_any_number_of_ranks(ranks):
    tuned, settings = policy(dropout=0.5), MStep(batch_size=2)
    taught = encode_taught(tuned.view, [Taught((edit,)) for edit in EDITS], settings=settings)
    with tuned.frozen() as frozen:
        alone = reference_logps(frozen, taught, batch_size=2)
        shares = [reference_logps(frozen, taught, batch_size=2, rank=rank, ranks=ranks) for rank in range(ranks)]
    assert [len(share) for share in shares] == ([3, 2] if ranks == 2 else [2, 2, 1])
    both = joined(shares, batch_size=2)
    assert all(torch.equal(one, other) for (one,), (other,) in zip(alone, both, strict=True))


def test_a_reference_is_the_edits_own_log_probabilities():
    """An edit at a time, of a padded batch of pairs; the first step's ratios are 1, so its loss is known."""
    tuned, settings = policy(), MStep(batch_size=2)
    taught = encode_taught(tuned.view, [Taught((EDITS[3], EDITS[0])), Taught((EDITS[1], EDITS[4]))], settings=settings)
    with tuned.frozen() as frozen, torch.no_grad():
        known = with_references(taught, reference_logps(frozen, taught, batch_size=2))
        for one in known:
            for example, logps in zip(one.examples, one.reference, strict=True):
                said = frozen.model(input_ids=torch.tensor([example.input_ids])).logits[0].log_softmax(-1)
                ends = [place for place, label in enumerate(example.labels) if label >= 0]
                alone = torch.stack([said[place - 1, example.labels[place]] for place in ends])
                assert torch.allclose(logps, alone, atol=1e-5)
        loss, figures = DPO().batch_loss(frozen.model, collated(known, pad=2))
    assert loss.item() == pytest.approx(math.log(2), abs=1e-6)
    assert figures["margin"].item() == pytest.approx(0, abs=1e-6)


def test_references_of_a_checkpoint_are_cut_and_never_made_up():
    tuned = policy()
    whole, short = (
        encode_taught(tuned.view, [Taught((EDITS[1],))], settings=MStep(max_length=length)) for length in (100, 20)
    )
    with tuned.frozen() as frozen:
        known, less = (reference_logps(frozen, some, batch_size=1) for some in (whole, short))
    (cut,) = with_references(short, known)
    assert torch.allclose(cut.reference[0], less[0][0], atol=1e-6) and len(less[0][0]) < len(known[0][0])
    with pytest.raises(CheckpointError, match=r"references are of shorter edits: set model\.m_step\.max_length"):
        with_references(whole, less)


# -- options -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: MStep(objective="ppo"),
            r"objective must be one of sft, weighted, dpo, grpo or an .* got 'ppo'",
        ),
        (lambda: DPO(beta=0), r"objective\.beta must be above 0 and finite, got 0"),
        (lambda: DPO(beta=float("inf")), r"objective\.beta must be above 0 and finite, got inf"),
        (lambda: GRPO(beta=-1), r"objective\.beta must be 0 or more and finite, got -1"),
        (lambda: GRPO(beta=float("inf")), r"objective\.beta must be 0 or more and finite, got inf"),
        (lambda: GRPO(epsilon=0), r"objective\.epsilon must be above 0 and finite, got 0"),
        (lambda: GRPO(scale_rewards="all"), r"objective\.scale_rewards must be one of group, batch, none, got 'all'"),
        (lambda: GRPO(loss_type="dapo"), r"objective\.loss_type must be one of grpo, dr_grpo, got 'dapo'"),
        (lambda: WeightedImitation(beta=float("nan")), r"objective\.beta must be above 0 and finite, got nan"),
        (lambda: WeightedImitation(most=0), r"objective\.most must be above 0 and finite, got 0"),
        (lambda: GRPO().check(k=1, scored=1), r"objective: grpo compares the edits of a context, and 1 of them has"),
    ],
)
def test_options_that_cannot_work_are_refused(make, said):
    with pytest.raises(ConfigError, match=rf"model\.m_step\.{said}"):
        make()


def test_pairs_need_an_edit_that_is_not_kept():
    DPO().check(k=2, scored=3)
    DPO().check(k=None, scored=2)
    with pytest.raises(ConfigError, match=r"filter\.k must be below the 3 edits .* got 3: no other edit is left"):
        DPO().check(k=3, scored=3)
    Imitation().check(k=3, scored=1)


def test_without_all_edits_nothing_can_be_compared():
    with pytest.raises(ConfigError, match=r"FineTuning\.train: expected groups, .* got none: give group_rollouts"):
        FineTuning(MStep(objective="dpo")).train(policy(), best(group("lamp", 0.0, 1.0)), round=0)


def test_a_round_without_a_pair_leaves_the_policy_as_it_is():
    tuned, tie = policy(), group("tie", 0.5, 0.5)
    before = tuned.digest()
    assert FineTuning(MStep(objective="dpo")).train(tuned, best(tie), groups=[tie], round=0) == []
    assert tuned.digest() == before


class Shorter(MStepObjective):
    """Teaches short edits, whatever they earned."""

    needs_reference = False
    figures = ("length",)

    def taught(self, groups, kept):
        return [Taught((min(group.outcomes, key=lambda one: len(one.text)),), 2.0) for group in groups]

    def loss(self, tokens):
        return -(tokens.values[:, None] * tokens.logps).sum() / tokens.mask.sum(), {"length": tokens.mask.sum()}


def test_an_objective_of_ones_own():
    lamp = RolloutGroup("lamp", tuple(EDITS))
    assert resolve_objective(Shorter()).needs_reference is False
    losses = FineTuning(MStep(learning_rate=0.01, epochs=6, objective=Shorter())).train(
        policy(), best(lamp), groups=[lamp], round=0
    )
    assert len(losses) == 6 and losses[-1] < losses[0]


@pytest.mark.parametrize("objective", ["weighted", DPO(beta=0.5), GRPO(beta=0.0)])
def test_what_earned_more_becomes_likelier(objective):
    edits = tuple(replace(one, reward=float(one.edit_index == 2)) for one in EDITS)
    tuned, lamp = policy(), RolloutGroup("lamp", edits)
    settings = MStep(learning_rate=0.01, epochs=8, objective=objective)

    def lead():
        taught = encode_taught(tuned.view, [Taught((edit,)) for edit in EDITS], settings=settings)
        with tuned.frozen() as frozen:
            sums = [float(logps.mean()) for (logps,) in reference_logps(frozen, taught, batch_size=1)]
        return sums[2] - fmean([*sums[:2], *sums[3:]])

    before = lead()
    FineTuning(settings).train(tuned, best(lamp), groups=[lamp], round=0)
    assert lead() > before + 0.02
