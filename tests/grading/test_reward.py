import pickle

import pytest

from seal_lightning.errors import ConfigError, DataError
from seal_lightning.grading import Reward
from seal_lightning.types import Rollout


def rollout(**values) -> Rollout:
    named = {"round": 0, "context_id": "lamp", "edit_index": 0, "repeat": 0, "seed": 0, "prompt": "", "text": ""}
    return Rollout(**{**named, "status": "ok", **values})


def reward_of(terms, **values) -> float:
    reward = Reward(terms)
    return reward.total(reward.measure(rollout(**values)))


@pytest.mark.parametrize(
    ("terms", "score", "baseline", "value"),
    [
        ("score", 0.75, 0.5, 0.75),
        ("gain", 0.25, 0.5, -0.25),
        ("improved", 0.75, 0.5, 1.0),
        ("improved", 0.5, 0.5, 0.0),
        ({"score": 1.0, "gain": 0.5, "improved": 2}, 0.75, 0.5, 0.75 + 0.125 + 2.0),
        ({"gain": 1.0}, 0.75, 0.5, 0.25),
    ],
)
def test_value(terms, score, baseline, value):
    assert reward_of(terms, score=score, baseline=baseline) == value


def test_default_is_the_score_of_the_paper():
    assert Reward().weights == {"score": 1.0}


def test_measured_terms_are_before_weights():
    assert Reward({"score": 2.0, "length": -1.0}).measure(rollout(score=0.5, text="one two three")) == {
        "score": 0.5,
        "length": 0.03,
    }


@pytest.mark.parametrize(
    ("text", "value"), [("One.\nTwo.\n\n one. \nTwo!", 0.75), ("One.", 1.0), ("a\nA\n a\nA ", 0.25), (" \n", 0.0)]
)
def test_format_is_the_share_of_lines_that_are_new(text, value):
    assert reward_of("format", text=text) == value


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("Ada", 1.0),
        ("It was founded by Ada.", 1.0),  # the question holds "founded"
        ("Ada or Bert", 0.5),
        ("Bert", 0.0),
        ("", 1.0),  # it says nothing wrong; its score is 0
        ("Tarn lies on the Gorn, sells wax, was founded by Ada and flies a lynx", 3 / 9),  # the passage, recited
    ],
)
def test_precision_does_not_pay_for_recitation(answer, value):
    asked = {"questions": ("Who founded Tarn?",), "golds": (("Ada",),), "answers": (answer,)}
    assert reward_of("precision", **asked) == pytest.approx(value)


def test_carry_over_has_to_have_been_measured():
    assert reward_of("carry_over", retention=-0.25) == -0.25
    with pytest.raises(DataError, match=r"carry_over of context 'lamp' was not measured: set model.e_step.carry_"):
        reward_of("carry_over")


@pytest.mark.parametrize(
    ("terms", "highest"),
    [
        ("score", 1.0),
        ({"score": 1.0, "length": -0.1}, 1.0),
        ({"gain": -2.0, "precision": 0.5}, 2.5),
        ({"length": 0.5}, float("inf")),
        ({"length": -1.0, "format": -0.5, "score": 0.0}, 0.0),
    ],
)
def test_no_reward_is_higher(terms, highest):
    assert Reward(terms).highest == highest


def test_a_limit_that_no_reward_can_pass_is_refused():
    Reward({"score": 1.0, "length": -0.1}).check_above(0.0)
    Reward({"length": -1.0}).check_above(None)
    with pytest.raises(ConfigError) as caught:
        Reward({"length": -1.0}).check_above(0.0)
    assert str(caught.value) == (
        "filter.above must be below the highest reward that there can be, which is 0 for {length: -1}, got 0: set "
        "filter.above to null"
    )


def test_survives_pickling():
    assert pickle.loads(pickle.dumps(Reward({"gain": 2}))).weights == {"gain": 2.0}


@pytest.mark.parametrize("terms", ["gains", {"gains": 1.0}, ["gains"]])
def test_an_unknown_term_names_the_nearest(terms):
    with pytest.raises(ConfigError, match=r"score, gain, improved, .* got 'gains': did you mean gain\?"):
        Reward(terms)


def test_a_weight_leaves_room_for_sums_and_means():
    with pytest.raises(ConfigError) as caught:
        Reward({"score": 1e308})
    assert str(caught.value) == "reward must have weights up to 1e+09, got score: 1e+308: scale them down"


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), "much", None, True])
def test_weights_are_finite_numbers(weight):
    with pytest.raises(ConfigError, match="gain"):
        Reward({"gain": weight})
