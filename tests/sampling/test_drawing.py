"""Drawing a token: the distribution, the nucleus to the word, and that a row's draw is its own."""

import math

import numpy as np
import pytest
import torch

from seal_lightning.sampling.drawing import Uniforms, draw, drawing

DRAWS = 100_000
WORDS = 40


def exact(logits: torch.Tensor, *, temperature: float, top_p: float) -> np.ndarray:
    """The distribution in float64, with the nucleus as it is defined."""
    chances = (logits.double() / temperature).softmax(dim=-1).numpy()
    order = np.argsort(-chances, kind="stable")
    before = np.cumsum(chances[order]) - chances[order]
    least = chances[order][before < top_p].min()
    kept = np.where(chances >= least, chances, 0.0)
    return kept / kept.sum()


def critical(freedom: int) -> float:
    """The 1e-4 point of chi-square (Wilson and Hilferty)."""
    return freedom * (1 - 2 / (9 * freedom) + 3.719 * math.sqrt(2 / (9 * freedom))) ** 3


def uniforms(count: int, *, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def spread(words: int, *, scale: float = 2.0, seed: int = 1) -> torch.Tensor:
    return torch.randn(words, generator=torch.Generator().manual_seed(seed)) * scale


# -- the distribution --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("temperature", "top_p"), [(1.0, 1.0), (0.6, 1.0), (1.7, 1.0), (1.0, 0.95), (1.0, 0.5), (0.8, 0.9), (1.5, 0.7)]
)
@pytest.mark.parametrize("way", ["uniform numbers", "a seed for each row", "one row, token after token"])
def test_draws_have_the_exact_distribution(temperature, top_p, way):
    logits = spread(WORDS)
    options = {"temperature": temperature, "top_p": top_p}
    if way == "uniform numbers":
        chosen = draw(logits.expand(DRAWS, -1), uniforms(DRAWS), **options)
    elif way == "a seed for each row":  # neighbouring seeds must not give neighbouring numbers
        chosen = drawing(range(DRAWS), **options)(logits.expand(DRAWS, -1), range(DRAWS), [])
    else:
        one = Uniforms([7])
        chosen = draw(logits.expand(DRAWS, -1), torch.cat([one.take([0]) for _ in range(DRAWS)]), **options)
    expected = exact(logits, temperature=temperature, top_p=top_p) * DRAWS
    counts = np.bincount(chosen.numpy(), minlength=WORDS)
    assert counts[expected == 0].sum() == 0
    rare = (expected > 0) & (expected < 5)  # together, as the test wants it
    counts = np.append(counts[expected >= 5], counts[rare].sum())
    expected = np.append(expected[expected >= 5], expected[rare].sum())
    chi_square = ((counts - expected)[expected > 0] ** 2 / expected[expected > 0]).sum()
    assert chi_square < critical(int((expected > 0).sum()) - 1)


def test_the_distribution_test_sees_a_wrong_temperature():
    logits = spread(WORDS)
    counts = draw(logits.expand(DRAWS, -1), uniforms(DRAWS), temperature=1.05).bincount(minlength=WORDS).numpy()
    expected = exact(logits, temperature=1.0, top_p=1.0) * DRAWS
    assert ((counts - expected) ** 2 / expected).sum() > critical(WORDS - 1)


def test_the_place_of_a_number_in_the_cumulative_distribution_is_the_token():
    logits = torch.tensor([0.125, 0.5, 0.25, 0.125]).log().expand(6, -1)
    places = torch.tensor([0.0, 0.1249, 0.1251, 0.6249, 0.6251, 1 - 2**-53], dtype=torch.float64)
    assert draw(logits, places).tolist() == [0, 0, 1, 1, 2, 3]
    assert draw(logits, places, top_p=0.6).tolist() == [1, 1, 1, 1, 1, 2]  # 0.5 alone is less than 0.6
    assert draw(logits, places, top_p=0.5).tolist() == [1] * 6


# -- a vocabulary of any size ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("top_p", [0.2, 0.9, 0.95, 0.999, 1.0])
def test_over_a_large_vocabulary_nothing_outside_of_the_nucleus_is_drawn(top_p):
    words = 152_064
    logits = spread(words, scale=3.0).repeat(2, 1)
    logits[:, torch.arange(0, words, 3)] = -torch.inf
    logits[1] += 40  # far from 0, where float32 is coarse
    wanted = [exact(row, temperature=1.0, top_p=top_p) > 0 for row in logits]
    edges = torch.tensor([0.0, 2**-53, 1e-9, 0.5, 1 - 1e-9, 1 - 2**-53], dtype=torch.float64)
    for number in torch.cat([edges, uniforms(30)]):
        chosen = draw(logits, number.expand(2), top_p=top_p).tolist()
        for row, token in enumerate(chosen):
            # a word at the very border may fall to either side of it by float32's rounding of its probability
            assert wanted[row][token] or _at_border(logits[row], token, top_p)
            assert token % 3


def _at_border(logits: torch.Tensor, token: int, top_p: float) -> bool:
    chances = logits.double().softmax(dim=-1)
    return abs(float(chances[chances > chances[token]].sum()) - top_p) < 1e-6


def test_the_large_vocabulary_has_the_right_distribution_too():
    """Forty words hold nearly all of it, far from each other, with a long tail between them."""
    words, places = 152_064, torch.arange(40) * 3_801
    logits = torch.full((words,), -9.0)
    logits[places] = spread(40, scale=1.0) + 6
    chances = exact(logits, temperature=1.0, top_p=1.0)
    numbers = uniforms(600)
    chosen = torch.cat([draw(logits.expand(len(some), -1), some) for some in numbers.split(100)])
    counts = np.array([(chosen == place).sum() for place in places.tolist()])
    expected = chances[places.numpy()] * len(numbers)
    counts, expected = (
        np.append(counts, len(numbers) - counts.sum()),
        np.append(expected, len(numbers) - expected.sum()),
    )
    assert ((counts - expected) ** 2 / expected).sum() < critical(len(expected) - 1)
    # to the word: a running sum in float64 finds the same places, but for a number between two of the tail
    sums = np.cumsum(logits.softmax(dim=-1).double().numpy())
    found = np.searchsorted(sums, numbers.numpy() * sums[-1], side="right")
    assert (found != chosen.numpy()).sum() <= 2


# -- edges -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0.0, 2**-53, 0.5, 1 - 2**-53])
@pytest.mark.parametrize("options", [{}, {"top_p": 0.9}, {"top_p": 1e-30}, {"temperature": 1e-30}, {"temperature": 50}])
def test_what_is_ruled_out_is_never_drawn(number, options):
    logits = torch.tensor([[-torch.inf, 2.0, -torch.inf], [-torch.inf, -torch.inf, -80.0], [-1e30, 3e38, -3e38]])
    numbers = torch.full((3,), number, dtype=torch.float64)
    assert draw(logits, numbers, **options).tolist() == [1, 2, 1]


def test_equally_likely_words_are_in_the_nucleus_together():
    logits = torch.tensor([2.0, 1.0, 1.0, 1.0, -3.0]).expand(3_000, -1)
    assert set(draw(logits, uniforms(3_000), top_p=0.6).tolist()) == {0, 1, 2, 3}
    assert set(draw(logits, uniforms(3_000), top_p=0.4).tolist()) == {0}
    assert set(draw(torch.zeros(3_000, 5), uniforms(3_000), top_p=0.1).tolist()) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("top_p", [0.9, 1.0])
def test_broken_logits_give_some_token_and_leave_the_other_rows_alone(value, top_p):
    logits = torch.stack([spread(WORDS), torch.full((WORDS,), value), spread(WORDS, seed=5)])
    logits[1, 7:] = 0.0
    numbers = uniforms(3)
    mixed = draw(logits, numbers, top_p=top_p)
    assert 0 <= int(mixed[1]) < WORDS
    assert mixed[[0, 2]].tolist() == draw(logits[[0, 2]], numbers[[0, 2]], top_p=top_p).tolist()
    all_out = draw(torch.full((1, WORDS), -torch.inf), numbers[:1], top_p=top_p)
    assert 0 <= int(all_out) < WORDS


def test_logits_are_left_as_they_are():
    logits = spread(WORDS)[None]
    before = logits.clone()
    draw(logits, uniforms(1), temperature=0.5, top_p=0.5)
    assert torch.equal(logits, before)


# -- a row's draw is its own -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"temperature": 0.7}, {"top_p": 0.9}, {"temperature": 1.3, "top_p": 0.8}])
@pytest.mark.parametrize("words", [WORDS, 5_003])
def test_a_row_draws_the_same_in_every_company(options, words):
    """Alone, in another order, and after others have left: bit for bit, over more tokens than are drawn ahead."""
    seeds, steps = [3, 14, 15, 92], 150
    logits = [torch.stack([spread(words, seed=100 * step + row) for row in range(4)]) for step in range(steps)]
    alone = []
    for row in range(4):
        choose = drawing([seeds[row]], **options)
        alone.append([int(choose(logits[step][row : row + 1], [0], [])) for step in range(steps)])
    together = drawing(seeds, **options)
    turned = drawing(seeds[::-1], **options)
    for step in range(steps):
        rows = [row for row in range(4) if step < 20 * row + 60]
        if rows:
            assert together(logits[step][rows], rows, []).tolist() == [alone[row][step] for row in rows]
        assert turned(logits[step].flip(0), range(4), []).tolist() == [alone[row][step] for row in (3, 2, 1, 0)]


def test_numbers_come_from_the_seeds_alone():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one, other = Uniforms([1, 2]), Uniforms([2, 1])
    first = [one.take([0, 1]) for _ in range(70)]
    assert all(torch.equal(pair, other.take([0, 1]).flip(0)) for pair in first)
    assert torch.equal(torch.get_rng_state(), state)
    every = torch.stack(first)
    assert every.min() >= 0 and every.max() < 1 and len(every.unique()) == every.numel()


# -- on a GPU ----------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("words", [1_024, 152_064])
@pytest.mark.parametrize("top_p", [1.0, 0.95])
def test_a_gpu_draws_what_a_cpu_draws(words, top_p):
    """But for a number that falls onto the edge of a word, which moves by the rounding of its probability."""
    logits = torch.stack([spread(words, scale=3.0, seed=seed) for seed in range(64)])
    numbers = uniforms(64)
    here = draw(logits, numbers, temperature=0.8, top_p=top_p)
    there = draw(logits.cuda(), numbers.cuda(), temperature=0.8, top_p=top_p).cpu()
    assert (here != there).sum() <= 1
    alone = [
        int(draw(row[None], number[None], temperature=0.8, top_p=top_p))
        for row, number in zip(logits.cuda(), numbers.cuda(), strict=True)
    ]
    assert alone == there.tolist()
