"""What is not finite: an adapter is a rollout with status and reason, a policy stops the run and replaces nothing."""

import json
import math
from dataclasses import dataclass, replace

import fault_injection
import pytest
import torch
from safetensors.torch import load_file, save_file

from seal_lightning.callbacks import CheckpointSelection, RolloutTable
from seal_lightning.cli import main
from seal_lightning.e_step.plan import Plan
from seal_lightning.e_step.race_rule import Racing
from seal_lightning.e_step.step import EStep
from seal_lightning.e_step.variants import step_for
from seal_lightning.errors import GradingError, ModelError
from seal_lightning.fit.metrics import e_step_metrics
from seal_lightning.grading import Contains, Grader, Reward
from seal_lightning.inner_loop.loop import InnerLoop
from seal_lightning.m_step.selection import best_of, group_rollouts
from seal_lightning.models.loading import load_model
from seal_lightning.models.lora_files import read_lora
from seal_lightning.models.random_models import build_tiny
from seal_lightning.models.source import ModelSource
from seal_lightning.policy.policy import Policy
from seal_lightning.results.accuracy import accuracy_table
from seal_lightning.results.edits import figures_of, render_figures
from seal_lightning.results.left_out import render_left_out, total_left_out
from seal_lightning.results.verdict import Candidate
from seal_lightning.sampling import Sample, Sampler
from seal_lightning.sampling.generation import generate
from seal_lightning.tasks import Knowledge
from seal_lightning.types import Context, Query

TARN = Context("tarn", "Tarn", "A tarn is a lake.", (Query("What is a tarn?", ("a lake",)),))
LAMP = Context("lamp", "Lamp", "The lamp burns oil.", (Query("What burns?", ("oil",)), Query("Where?", ("here",))))
BLOWS = "It blows up."
STEPS = "the (loss|gradient's norm) is (nan|inf) at step 2 of "


@dataclass(frozen=True)
class Shaky(InnerLoop):
    """Trains what says so at a rate that no model stands, once or at every step."""

    rate: float = 3e38
    seeds: tuple[int, ...] = ()

    def plan(self, policy, job):
        plan = super().plan(policy, job)
        chosen = any(BLOWS in sequence.text for sequence in job.training_sequences)
        if chosen and (not self.seeds or job.seed in self.seeds):
            return replace(plan, rates=[self.rate] * len(plan.rates))
        return plan


class Lines(Sampler):
    """Writes fixed edits."""

    def __init__(self, *texts):
        self.texts = texts

    def sample(self, policy, requests, *, on_done=lambda count: None):
        return [Sample(self.texts[r.index], 5, 7) for r in requests]


LOOP = Shaky(rank=2, alpha=4.0, epochs=2, learning_rate=0.01)
EDITS = ("A tarn is small.", BLOWS, "It is a lake.")


def policy():
    model, tokenizer = build_tiny("llama")
    return Policy(model.requires_grad_(False), tokenizer, chat=False)


def e_step(*texts, loop=LOOP, grader=None):
    return EStep(
        task=Knowledge(), sampler=Lines(*texts), inner_loop=loop, grader=grader or Contains(), reward=Reward(),
        max_answer_tokens=6,
    )  # fmt: skip


def roll(*texts, loop=LOOP, repeats=1, contexts=(TARN,), grader=None, **plan):
    step = e_step(*texts, loop=loop, grader=grader)
    chosen = Plan(edits=len(texts), repeats=repeats, **plan)
    return step_for(chosen, step).run(policy(), contexts, round=0)


# -- an adapter --------------------------------------------------------------------------------------------------------


def test_a_diverged_adapter_is_a_rollout_with_a_reason_and_nothing_else_changes():
    rollouts = roll(*EDITS)
    assert [one.status for one in rollouts] == ["ok", "diverged", "ok"]
    bad = rollouts[1]
    assert (bad.answers, bad.scores, bad.reward, bad.terms) == ((), (), None, {})
    assert (bad.score, bad.gain) == (bad.baseline, 0.0) and bad.steps == 1
    assert bad.reason.rstrip("0123456789") in {
        f"{what} at step 2 of "
        for what in ("the loss is nan", "the loss is inf", "the gradient's norm is nan", "the gradient's norm is inf")
    }
    others = roll(EDITS[0], "It is wet.", EDITS[2])
    for place in (0, 2):
        found, expected = (replace(one[place], seconds={}, similarity=None) for one in (rollouts, others))
        assert found == expected  # similarity is that to the other texts, which differ


def test_finite_weights_of_which_nothing_finite_comes():
    """One step to weights near the end of float32: what diverges is the answer."""
    loop = Shaky(rank=2, alpha=4.0, epochs=1, batch_size=9, learning_rate=0.01, rate=1e37, target_modules="all-linear")
    rollouts = roll(*EDITS, loop=loop)
    assert [(one.status, one.reason) for one in rollouts] == [
        ("ok", ""), ("diverged", "the logits of its answers are not finite after step 1"), ("ok", ""),
    ]  # fmt: skip
    assert rollouts[1].answers == () and rollouts[1].reward is None
    others = roll(EDITS[0], "It is wet.", EDITS[2], loop=loop)
    assert [rollouts[place].answers for place in (0, 2)] == [others[place].answers for place in (0, 2)]


def test_it_is_counted_everywhere_and_kept_nowhere(caplog):
    rollouts = roll(*EDITS, repeats=2, passage_only=True)
    edits = [one for one in rollouts if one.kind == "edit"]
    groups = group_rollouts(rollouts)
    kept = best_of(groups[0], k=3)
    assert [outcome.edit_index for outcome in kept] == [0, 2]
    assert e_step_metrics(edits, groups, kept, 1.0)["e_step/diverged_frac"] == 1 / 3
    assert e_step_metrics(edits, groups, kept, 1.0)["left_out/diverged"] == 2.0
    assert figures_of(edits).diverged == 1 / 3 and figures_of(edits).rejected == 0.0
    assert "33.3%" in render_figures({"edits": figures_of(edits)})
    table = RolloutTable().render(rollouts, groups, kept, round=0)
    assert table.startswith("# Round 1: 2 scored edits, 0 rejected, 1 diverged, 2 kept")
    assert "## Diverged\n\n- tarn, edit 1: the " in table
    assert render_left_out(total_left_out(rollouts)).endswith(
        "; 2 adapters diverged, which count as the policy without them: lower inner_loop.learning_rate"
    )
    assert "2 of 7 adapters diverged and are thrown away" in caplog.text


def test_one_repeat_that_diverges_makes_the_edit_unusable():
    calm = roll(*EDITS, repeats=3)
    seed = next(one.seed for one in calm if one.edit_index == 1 and one.repeat == 2)
    rollouts = roll(*EDITS, repeats=3, loop=replace(LOOP, seeds=(seed,)))
    assert [one.status for one in rollouts if one.edit_index == 1] == ["ok", "ok", "diverged"]
    (group,) = group_rollouts(rollouts)
    assert [outcome.reward is None for outcome in group.outcomes] == [False, True, False]


def test_evaluation_counts_the_context_with_the_policys_own_score():
    class Half(Contains):
        def grade(self, *, question, golds, answer):
            return 0.5

    rollouts = roll(BLOWS, contexts=(TARN, LAMP), grader=Half(), passage_only=True)
    rows = {row.name: (row.accuracy, row.contexts, row.queries) for row in accuracy_table(rollouts, resamples=0)}
    assert rows == {"base": (0.5, 2, 3), "passage": (0.5, 2, 3), "edits": (0.5, 2, 3)}


def test_a_race_gives_the_place_to_another_edit():
    rollouts = roll(*EDITS, repeats=2, racing=Racing(budget=1.0, keep=1, together=1.0))
    mine = [one for one in rollouts if one.edit_index == 1]
    assert {one.status for one in mine if one.steps} == {"diverged"} and {one.dropped for one in mine} == {""}
    (group,) = group_rollouts(rollouts)
    assert [outcome.edit_index for outcome in best_of(group)] in ([0], [2])


# -- graders and the policy itself -------------------------------------------------------------------------------------


@pytest.mark.parametrize("score", [math.nan, math.inf, -0.1, 1.5, None, "1"])
def test_a_score_out_of_range_names_the_grader(score):
    class Odd(Grader):
        def grade(self, *, question, golds, answer):
            return score

    with pytest.raises(GradingError, match=rf"Odd must score with a number in \[0, 1\], got {score!r}: correct the"):
        roll(EDITS[0], grader=Odd())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_policy_whose_logits_are_not_finite_is_refused(value):
    broken = policy()
    generate(broken, [[5, 6, 7]], max_new_tokens=1)  # it was sound when it was probed
    with torch.no_grad():
        broken.model.lm_head.weight[3] = value
    with pytest.raises(ModelError, match="expected finite logits after a prompt of 3 tokens, got nan or infinity"):
        generate(broken, [[5, 6, 7]], max_new_tokens=4)


def test_tokens_that_a_model_rules_out_are_no_divergence():
    open_ended = policy()
    generate(open_ended, [[5, 6, 7]], max_new_tokens=1)
    forward = open_ended.model.forward

    def ruled_out(*args, **named):
        output = forward(*args, **named)
        output.logits[..., 5:] = -math.inf
        return output

    open_ended.model.forward = ruled_out
    assert all(token < 5 for token in generate(open_ended, [[5, 6, 7]], max_new_tokens=4)[0])


# -- what is read ------------------------------------------------------------------------------------------------------


def test_a_base_with_nan_is_refused_by_name(tmp_path):
    model, tokenizer = build_tiny("llama")
    with torch.no_grad():
        model.model.norm.weight[0] = math.nan
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    expected = rf"^model\.source\.name={tmp_path}: expected finite numbers, got nan in model\.norm\.weight: "
    with pytest.raises(ModelError, match=expected):
        load_model(ModelSource(str(tmp_path)))


# -- the policy that is learnt -----------------------------------------------------------------------------------------


def fit(run, *options, rounds=1):
    path = run.with_suffix(".json")
    path.write_text(json.dumps(fault_injection.config(run, max_epochs=rounds)))
    return main(["fit", "--config", str(path), *options])


@pytest.mark.parametrize(
    "options",
    [
        ["--model.m_step.learning_rate", "1e30"],
        ["--model.m_step.learning_rate", "1e36"],
        ["--model.m_step.learning_rate", "1e30", "--model.tuning.method", "full"],
        ["--model.m_step.learning_rate", "1e30", "--trainer.precision", "bf16-mixed"],
        ["--model.m_step.learning_rate", "1e30", "--checkpoint.every_n_steps", "1"],
        ["--model.m_step.learning_rate", "1e35", "--model.m_step.epochs", "1", "--model.m_step.batch_size", "64"],
    ],
    ids=["loss", "weights", "full", "bf16", "every-step", "logits"],
)
def test_a_policy_that_diverges_stops_the_run_and_is_never_saved(tmp_path, capsys, options):
    run = tmp_path / "run"
    assert fit(run, *options) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("seal: ")]
    assert line.startswith("seal: round 1, M-step: the policy's ") and " not finite in optimizer step " in line
    assert f"checkpoints and policy of {run} are those from before; start again in another folder" in line
    assert not [*run.glob("policy*"), *run.glob("checkpoints/*.part"), *run.glob("checkpoints/best.ckpt")]
    for path in run.glob("checkpoints/last.ckpt"):  # of a step before
        weights = torch.load(path, weights_only=True)["state_dict"]
        assert all(bool(value.isfinite().all()) for value in weights.values())


def test_the_good_checkpoint_stays_and_a_broken_one_is_refused(tmp_path, capsys, two_rounds):
    last = two_rounds / "checkpoints" / "last.ckpt"
    found = torch.load(last, weights_only=True)
    name = next(name for name in found["state_dict"] if "lora_B" in name)
    found["state_dict"][name] = found["state_dict"][name] * math.nan
    torch.save(found, tmp_path / "broken.ckpt")
    config = ["--config", str(two_rounds.with_suffix(".json")), "--trainer.default_root_dir", str(tmp_path / "run")]
    assert main(["validate", *config, "--ckpt_path", str(tmp_path / "broken.ckpt")]) == 2
    assert "not a checkpoint of seal fit: field state_dict is not finite; give last, best or" in capsys.readouterr().err


def test_an_adapter_with_nan_is_refused_by_name(tmp_path, two_rounds):
    folder = tmp_path / "adapter"
    folder.mkdir()
    for path in (two_rounds / "policy").glob("adapter_*"):
        (folder / path.name).write_bytes(path.read_bytes())
    weights = load_file(folder / "adapter_model.safetensors")
    name = sorted(weights)[0]
    weights[name][0, 0] = math.inf
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ModelError, match=f"^{folder}: expected finite numbers, got an infinite value in {name}: it has"
    ):
        read_lora(folder)


@pytest.mark.parametrize("mode", ["max", "min"])
def test_a_metric_that_is_not_finite_is_never_the_best(mode):
    chosen = CheckpointSelection(mode=mode)
    rounds = [Candidate(1, value, learnt=1) for value in (math.nan, math.inf, -math.inf, None, 0.4)]
    assert [chosen._is_better(one) for one in rounds] == [False, False, False, True, True]
    chosen.load_state_dict({"best": math.nan, "best_round": 1})  # of a checkpoint that an older version wrote
    assert chosen._is_better(rounds[-1]) and not chosen._is_better(rounds[0])
