"""Terms of the reader's own: how they are named and passed, what they say of themselves, and mistakes."""

import math
import pickle
import sys

import pytest

from seal_lightning.errors import ConfigError, GradingError
from seal_lightning.grading import Reward, RewardTerm, Weighted
from seal_lightning.grading.reward import writable
from seal_lightning.grading.terms import BUILT_IN, as_term
from seal_lightning.stamps.settings import NotPlain, plain
from seal_lightning.stamps.values import code_of, describe
from seal_lightning.types import Rollout

ROLLOUT = Rollout(0, "lamp", 0, 0, 0, "", "It burns oil.", "ok", score=0.5, baseline=0.25)


def brevity(rollout):
    """Hundreds of words below a hundred."""
    return 1 - len(rollout.text.split()) / 100


class Brevity(RewardTerm):
    """Whether an edit is short."""

    bounds = (0.0, 1.0)
    needs_answers = False

    def __init__(self, limit: int = 50) -> None:
        self.limit = limit

    def __call__(self, rollout):
        return len(rollout.text.split()) <= self.limit


class Plain:
    """Callable, and no `RewardTerm`."""

    def __call__(self, rollout):
        return 2


@pytest.mark.parametrize(
    ("terms", "measured"),
    [
        (brevity, {"brevity": 0.97}),
        (f"{__name__}.brevity", {"brevity": 0.97}),
        (Brevity, {"Brevity": 1.0}),
        (f"{__name__}.Brevity", {"Brevity": 1.0}),
        (Brevity(limit=2), {"Brevity": 0.0}),
        (Plain(), {"Plain": 2.0}),
        (lambda rollout: 1, {"lambda": 1.0}),
        ({"score": 1.0, brevity: -0.1}, {"score": 0.5, "brevity": 0.97}),
        ({"score": 1.0, f"{__name__}.brevity": -0.1}, {"score": 0.5, "brevity": 0.97}),
        ({Brevity(limit=2): 2}, {"Brevity": 0.0}),
        (["score", brevity, Weighted(Brevity(), 3)], {"score": 0.5, "brevity": 0.97, "Brevity": 1.0}),
    ],
)
def test_a_term_is_named_or_passed(terms, measured):
    reward = Reward(terms)
    assert reward.measure(ROLLOUT) == measured
    assert all(type(value) is float for value in reward.measure(ROLLOUT).values())


def test_weights_of_a_list():
    reward = Reward(["score", Weighted(Brevity(limit=2), -0.5), Weighted(brevity)])
    assert reward.weights == {"score": 1.0, "Brevity": -0.5, "brevity": 1.0}
    assert reward.total(reward.measure(ROLLOUT)) == pytest.approx(0.5 + 0.97)


def test_what_is_known_of_terms():
    assert Reward({Brevity(): 2.0, "score": 1.0}).highest == 3.0
    assert Reward({"score": 1.0, brevity: 0.1}).highest == math.inf  # nobody knows: nothing is refused
    assert Reward({"score": 1.0, brevity: 0.0}).highest == 1.0
    terms = Reward(["score", "carry_over", brevity, Brevity])
    assert terms.names(lambda term: term.needs_answers) == ["brevity", "carry_over"]
    assert terms.names(lambda term: term.needs_carry_over) == ["carry_over"]
    assert terms.names(lambda term: term.follows_score) == ["score"]
    assert {name for name, kind in BUILT_IN.items() if not kind.needs_answers} == {
        "score",
        "length",
        "format",
        "diversity",
    }
    assert {name for name, kind in BUILT_IN.items() if kind.follows_score} == {"score", "gain"}


def test_two_terms_of_a_class_need_names_of_their_own():
    with pytest.raises(ConfigError, match="each term once, got Brevity twice: set the name attribute of one of them"):
        Reward([Brevity(2), Brevity(50)])
    short = Brevity(2)
    short.name = "very short"
    assert Reward([short, Brevity(50)]).measure(ROLLOUT) == {"very short": 0.0, "Brevity": 1.0}
    with pytest.raises(ConfigError, match="got score twice"):
        Reward(["score", Weighted("score", 2.0)])


class Needy(RewardTerm):
    """Cannot be made from nothing."""

    def __init__(self, limit) -> None:
        self.limit = limit

    def __call__(self, rollout):
        return 0.0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("scor", "got 'scor': did you mean score?"),
        ("brevity", "got 'brevity': one of yours is written as my_module.my_term"),
        ("no_such_module_of_test.brevity", "got 'no_such_module_of_test.brevity': No module named 'no_such_module"),
        (f"{__name__}.nothing", f"module '{__name__}' has no attribute 'nothing'"),
        (f"{__name__}.ROLLOUT", "name one, or pass a function of a rollout or a RewardTerm"),
        ("{class_path: my.Term}", "got '{class_path: my.Term}': check its class_path, init_args and weights"),
        (f"{__name__}.Plain", "name one, or pass a function of a rollout or a RewardTerm"),
        (f"{__name__}.Needy", "Needy.__init__() missing 1 required positional argument: 'limit'"),
        (3, "got 3: name one"),
    ],
)
def test_what_is_not_a_term_is_said_in_one_line(given, said):
    with pytest.raises(ConfigError) as caught:
        as_term(given)
    assert str(caught.value).startswith("reward must ") and said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_module_with_a_mistake_in_it(tmp_path, monkeypatch):
    (tmp_path / "broken_my_terms.py").write_text("def brevity(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"got 'broken_my_terms.brevity': invalid syntax \(broken_my_terms"):
        Reward("broken_my_terms.brevity")


@pytest.mark.parametrize("value", [math.nan, math.inf, "much", None, 1j])
def test_a_term_that_is_not_a_number_is_named_with_its_context(value):
    def odd(rollout):
        return value

    with pytest.raises(GradingError) as caught:
        Reward(odd).measure(ROLLOUT)
    assert str(caught.value) == (
        f"reward term odd must be a finite number, got {value!r} for context 'lamp': correct the term, and resume"
    )


def test_what_a_term_raises_comes_through():
    def broken(rollout):
        raise GradingError("the service is down")

    with pytest.raises(GradingError, match="the service is down"):
        Reward({"score": 1.0, broken: 0.1}).measure(ROLLOUT)


def test_a_configuration_holds_terms_by_their_import_paths():
    path = brevity.__module__
    assert plain(writable({"score": 1.0, brevity: -0.1})) == {"score": 1.0, f"{path}.brevity": -0.1}
    assert plain(writable({"score": 1.0, Brevity(limit=2): -0.1})) == [
        {"term": "score", "weight": 1.0},
        {"term": {"class_path": f"{path}.Brevity", "init_args": {"limit": 2}}, "weight": -0.1},
    ]
    with pytest.raises(NotPlain, match="is defined in a function"):
        plain(writable({(lambda rollout: 1.0): 1.0}))
    with pytest.raises(NotPlain, match="a Brevity is the key of a mapping"):
        plain({Brevity(): 1.0})


def test_options_and_code_of_a_term_are_in_the_stamp(tmp_path, monkeypatch):
    assert describe(Reward([Weighted("length", -0.1), Brevity(limit=2)]), private=True) == {
        "class": "seal_lightning.grading.reward.Reward",
        "terms": {
            "length": {"class": "seal_lightning.grading.terms.Length"},
            "Brevity": {"class": f"{__name__}.Brevity", "limit": 2},
        },
        "weights": {"length": -0.1, "Brevity": 1.0},
    }
    monkeypatch.syspath_prepend(tmp_path)
    digests = []
    for words in (100, 200):
        source = f"def brevity(rollout):\n    return len(rollout.text.split()) / {words}\n"
        (tmp_path / "my_my_terms.py").write_text(source)
        code = code_of(Reward({"score": 1.0, "my_my_terms.brevity": -0.1}))
        assert list(code) == ["code.my_my_terms.brevity"]
        digests.append(code)
        del sys.modules["my_my_terms"]
    assert digests[0] != digests[1]


def test_terms_go_to_other_processes():
    reward = pickle.loads(pickle.dumps(Reward({brevity: 1.0, Brevity(limit=2): 2.0})))
    assert reward.measure(ROLLOUT) == {"brevity": 0.97, "Brevity": 0.0}
