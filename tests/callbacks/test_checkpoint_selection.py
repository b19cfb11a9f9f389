"""Which policy is the best one, what is written of it, and what becomes of one of an earlier start."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from samples import BARE

from seal_lightning.callbacks import CheckpointSelection
from seal_lightning.cli import main
from seal_lightning.results.verdict import read

DEBUG = "configs/debug/random.yaml"
CONTEXTS = [f"context {number}" for number in range(8)]


class FakeTrainer:
    """The border to Lightning: metrics go in, and a checkpoint is a file with the best round so far."""

    def __init__(self, run, *, enable_validation=True):
        self.default_root_dir, self.checkpoints = str(run), run / "checkpoints"
        self.callback_metrics, self.is_global_zero, self.sanity_checking = {}, True, False
        self.enable_validation, self.state = enable_validation, SimpleNamespace(fn="fit")
        self.strategy = SimpleNamespace(broadcast=lambda value: value)
        self.selection = None

    def save_checkpoint(self, path, weights_only):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.selection.state_dict()))


def scored(name, score):
    return replace(BARE, context_id=name, reward=0.0, score=score)


@pytest.fixture(autouse=True)
def no_cards(monkeypatch):
    """They ask the module for more than these have."""
    monkeypatch.setattr("seal_lightning.callbacks.checkpoint_selection.save_policy_card", lambda *args, **options: None)


class Fit:
    """Rounds without models: `values` are what the monitored metric comes to, None where it is not measured."""

    def __init__(self, run, *, validated=True, metric="val/edits", **options):
        self.trainer = FakeTrainer(run, enable_validation=validated)
        self.callback = CheckpointSelection(**options)
        self.trainer.selection = self.callback
        self.run, self.metric, self.validated = run, metric, validated
        policy = SimpleNamespace(export=lambda aside, merged, write: aside.mkdir())
        self.module = SimpleNamespace(rounds_done=0, kept=[], taught=[], evaluated=[], policy=policy)

    def validate(self, value):
        if self.metric == "val/edits":
            self.module.evaluated = [scored(name, value) for name in CONTEXTS]
        self.trainer.callback_metrics[self.metric] = value
        self.callback.on_validation_end(self.trainer, self.module)

    def round(self, value, *, kept=4, taught=None):
        self.module.rounds_done += 1
        self.module.kept = [None] * kept
        self.module.taught = [None] * (kept if taught is None else taught)
        if value is not None and self.validated:
            self.validate(value)
        self.callback.on_train_epoch_end(self.trainer, self.module)
        return self.callback.best_round

    @property
    def best(self):
        """The best round by the checkpoint, and whether a policy is exported."""
        state = json.loads((self.run / "checkpoints" / "best.ckpt").read_text())
        return state["selection"]["best"], (self.run / "policy").exists()


@pytest.fixture
def fit(tmp_path):
    return lambda *values, **options: Fit(tmp_path / "run", **options)


def test_rounds_that_only_get_worse_export_nothing(fit, caplog):
    run = fit()
    run.validate(0.4)
    assert [path.name for path in run.trainer.checkpoints.iterdir()] == ["untrained.ckpt"]
    assert [run.round(0.1), run.round(0.0)] == [0, 0]
    assert run.best == (0, False)
    assert sorted(path.name for path in run.trainer.checkpoints.iterdir()) == ["best.ckpt", "last.ckpt"]
    assert read(run.run).verdict == "untrained"
    assert caplog.messages[0] == (
        "round 1: val/edits 0.100 against 0.400 untrained (-0.300, 95 % interval -0.300 to -0.300, paired over 8 "
        "contexts), not the best policy"
    )


def test_a_round_that_is_better_is_exported_and_a_tie_is_not(fit):
    run = fit()
    run.validate(0.4)
    assert [run.round(0.4), run.round(0.6), run.round(0.5)] == [0, 2, 2]
    assert run.best == (2, True) and read(run.run).verdict == "beats"
    assert json.loads((run.run / "policy" / "selection.json").read_text()) == {
        "round": 2, "monitor": "val/edits", "value": 0.6, "sha256": {},
    }  # fmt: skip


def test_smaller_is_better_with_min(fit):
    run = fit(mode="min")
    run.validate(0.4)
    assert [run.round(0.5), run.round(0.3)] == [0, 2]


def test_a_round_that_learnt_nothing_is_the_policy_before(fit):
    run = fit()
    run.validate(0.4)
    assert [run.round(0.6, kept=0), run.round(0.5), run.round(0.9, kept=0)] == [0, 2, 2]
    assert run.round(0.9, kept=4, taught=0) == 2  # objectives that compare skip a round whose rewards are all alike


def test_without_validation_rounds_count_in_turn_once_they_learnt(fit):
    run = fit(validated=False)
    assert run.round(None, kept=0) == 0
    assert run.best == (0, False)
    assert [run.round(None), run.round(None, kept=0), run.round(None)] == [2, 2, 4]
    assert run.best == (4, True)
    assert read(run.run).left_out == "there is no validation data"


@pytest.mark.parametrize(
    ("options", "before", "reason"),
    [
        ({}, None, "it was not validated, with trainer.validate_first false"),
        ({"include_untrained": False}, 0.9, "checkpoint.include_untrained is false"),
        ({}, float("nan"), "its val/edits is nan"),
        ({"monitor": "reward/mean"}, 0.9, "reward/mean is not measured on it"),
    ],
)
def test_where_the_untrained_policy_is_no_candidate(fit, options, before, reason):
    run = fit(**options)
    if before is not None:
        run.validate(before)
    run.metric = run.callback.monitor
    assert [run.round(0.1), run.round(0.3), run.round(0.2)] == [1, 2, 2]
    assert run.best == (2, True)
    assert (read(run.run).verdict, read(run.run).left_out) == ("not compared", reason)


def test_a_metric_of_ones_own_is_compared_by_its_value(fit):
    run = fit(metric="my/metric", monitor="my/metric")
    run.validate(0.4)
    assert [run.round(0.3), run.round(0.5)] == [0, 2]
    assert read(run.run).verdict == "by value"


def test_a_round_that_was_not_validated_does_not_get_an_older_value(fit):
    run = fit()
    run.validate(0.4)
    assert [run.round(None), run.round(0.5), run.round(None)] == [0, 2, 2]
    assert [one.value for one in read(run.run).candidates] == [0.4, None, 0.5, None]


def test_values_that_are_not_finite_are_never_the_best(fit):
    run = fit(include_untrained=False)
    assert [run.round(float("nan")), run.round(0.1), run.round(float("inf"))] == [None, 2, 2]


def test_a_fit_that_goes_on_knows_what_it_has_chosen_from(fit):
    first = fit()
    first.validate(0.4)
    state = json.loads(json.dumps(first.callback.state_dict()))  # killed in the first round: best.ckpt is not there yet
    again = fit()
    again.callback.load_state_dict(state)
    assert again.round(0.1) == 0 and again.best == (0, False)
    third = fit()
    third.callback.load_state_dict(json.loads((again.run / "checkpoints" / "last.ckpt").read_text()))
    third.module.rounds_done = 1
    assert third.round(0.6) == 2
    found = read(third.run)
    assert [one.value for one in found.candidates] == [0.4, 0.1, 0.6] and found.verdict == "beats"


def test_a_checkpoint_of_an_earlier_version(fit):
    run = fit()
    run.callback.load_state_dict({"best": 0.5, "best_round": 1})
    run.module.rounds_done = 1
    assert [run.round(0.4), run.round(0.6)] == [1, 3]


def test_a_policy_of_an_earlier_start_is_not_taken_for_the_best(fit, caplog):
    earlier = fit()
    earlier.validate(0.4)
    assert earlier.round(0.6) == 1
    run = fit()
    run.validate(0.4)
    assert (run.run / "policy").exists()  # until a round of this start has ended
    assert run.round(0.3) == 0
    assert run.best == (0, False) and (run.run / "policy-of-an-earlier-start" / "selection.json").exists()
    assert f"{run.run / 'policy'} was of an earlier start" in caplog.text


# -- a real fit --------------------------------------------------------------------------------------------------------


def test_a_real_fit_that_no_round_makes_better(tmp_path, capfd):
    """Random weights answer everything wrong, before and after a round."""
    run = tmp_path / "run"
    options = ["--config", DEBUG, "--trainer.default_root_dir", str(run), "--checkpoint.include_untrained", "true"]
    assert main(["fit", *options, "--trainer.max_epochs", "1"]) == 0
    said = capfd.readouterr()
    words = (
        "no round beat the untrained policy (val/edits 0.000): the best of them is round 1 with 0.000 (+0.000, "
        "paired over 2 contexts, too few to tell from noise: 6 are needed)"
    )
    assert f"{words}; nothing was exported as the best policy\n" in said.out
    assert "checkpoints/best.ckpt is the untrained policy\n" in said.out
    assert "a lower --model.m_step.learning_rate (here 0.0003), fewer --model.m_step.epochs (here 2)" in said.out
    assert f"next: seal fit --config {run / 'config.yaml'} --model.m_step.learning_rate 3e-05\n" in said.out
    assert "best policy:" not in said.out and not (run / "policy").exists()
    assert "4 edits kept (4 of them without merit)" in said.out
    assert "4 kept (4 of them without merit)\n" in (run / "tables" / "round-000.md").read_text()

    assert main(["fit", *options, "--trainer.max_epochs", "2", "--ckpt_path", "last"]) == 0
    assert [one.round for one in read(run).candidates] == [0, 1, 2] and read(run).best == 0
    capfd.readouterr()
    assert main(["test", "--config", str(run / "config.yaml"), "--ckpt_path", "best"]) == 0
    assert f"these are figures of the untrained policy: {words}" in capfd.readouterr().out

    reason = f"no round of that run beat its untrained policy, so that none was exported ({run / 'selection.json'})"
    for policy in (run, run / "policy"):
        adapt = ["adapt", "README.md", "--output", str(tmp_path / "adapted")]
        assert main([*adapt, "--policy", str(policy)]) == 2
        assert f"seal: --policy {policy}: {reason}: name a run with a better policy" in capfd.readouterr().err
        assert not (tmp_path / "adapted" / "journal").exists()
    assert main(["fit", "--config", DEBUG, "--model.source.name", str(run / "policy")]) == 2
    assert f"model.source.name={run / 'policy'}: {reason}" in capfd.readouterr().err

    assert main(["report", str(run)]) == 0
    page = (run / "report.md").read_text()
    assert f"- best policy: {words}\n" in page
    assert "**No round beat the untrained policy.** No round beat" in page
    assert "lower learning rate (--model.m_step.learning_rate, here 0.0003)" in page
    assert "| 4 (4 without merit) |" in page
