"""The control keeps edits by lot."""

from collections import Counter

import pytest

from seal_lightning.callbacks import RandomFilter
from seal_lightning.errors import ConfigError
from seal_lightning.types import EditOutcome, RolloutGroup


def group(name, rewards, text="t"):
    outcomes = [
        EditOutcome(name, index, "p", f"{text}{index}", reward, reward or 0.0, 0.0, 1)
        for index, reward in enumerate(rewards)
    ]
    return RolloutGroup(name, tuple(outcomes))


def test_the_lot_is_blind_and_reproducible():
    groups = [group(str(number), [1.0, 0.0, 0.0, 0.0]) for number in range(400)]
    kept = RandomFilter().select(groups)
    assert kept == RandomFilter().select(groups) != RandomFilter(seed=1).select(groups)
    counts = Counter(outcome.edit_index for outcome in kept)
    assert len(kept) == 400 and all(70 < counts[index] < 130 for index in range(4))


def test_only_usable_edits_and_at_most_k():
    kept = RandomFilter(k=3).select([group("a", [None, 0.0, None, 0.5]), group("b", [None])])
    assert sorted(outcome.edit_index for outcome in kept) == [1, 3]


def test_the_lot_differs_between_rounds():
    one, two = ([group(str(n), [0.0] * 5, text) for n in range(50)] for text in ("first", "second"))
    assert [o.edit_index for o in RandomFilter().select(one)] != [o.edit_index for o in RandomFilter().select(two)]


def test_k_is_checked():
    with pytest.raises(ConfigError, match=r"filter\.k must be at least 1, got 0"):
        RandomFilter(k=0)
