import pickle

import pytest

from seal_lightning.errors import ConfigError
from seal_lightning.grading import Reward


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
    assert Reward(terms).value(score=score, baseline=baseline) == value


def test_default_is_the_score_of_the_paper():
    assert Reward().value(score=0.4, baseline=0.9) == 0.4


def test_survives_pickling():
    assert pickle.loads(pickle.dumps(Reward({"gain": 2}))).terms == {"gain": 2.0}


@pytest.mark.parametrize("terms", ["gains", {"gains": 1.0}, {}])
def test_unknown_or_no_terms_name_the_allowed_ones(terms):
    with pytest.raises(ConfigError, match="score, gain, improved"):
        Reward(terms)


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), "much", None, True])
def test_weights_are_finite_numbers(weight):
    with pytest.raises(ConfigError, match="gain"):
        Reward({"gain": weight})
