"""From logits to a token, each filter against numbers worked out by hand."""

import math
from itertools import accumulate
from typing import Any

import pytest
import torch
from torch import Tensor

from errors import UserError
from model.sampling import RandomStreams, Sampling, choose, draw, probabilities, uniform

INF = math.inf
P = [0.1, 0.4, 0.2, 0.3]  # not sorted, so that a filter that does not restore the order fails


def filtered(p: list[float] = P, **settings: Any) -> list[float]:
    return probabilities(torch.tensor([p]).log(), Sampling(**settings))[0].tolist()


@pytest.mark.parametrize(
    ("settings", "hand"),
    [
        ({}, P),
        ({"temperature": 0.5}, [1 / 30, 16 / 30, 4 / 30, 9 / 30]),  # squares: .01 .16 .04 .09
        ({"temperature": 0.0}, [0, 1, 0, 0]),
        ({"temperature": 1e-6}, [0, 1, 0, 0]),
        ({"temperature": 5e-324}, [0, 1, 0, 0]),
        ({"temperature": 1e6}, [0.25] * 4),
        ({"top_k": 1}, [0, 1, 0, 0]),
        ({"top_k": 2}, [0, 4 / 7, 0, 3 / 7]),
        ({"top_k": 4}, P),
        ({"top_k": 99}, P),  # more than there are
        ({"top_p": 0.3}, [0, 1, 0, 0]),
        ({"top_p": 0.5}, [0, 4 / 7, 0, 3 / 7]),
        ({"top_p": 0.8}, [0, 4 / 9, 2 / 9, 3 / 9]),
        ({"top_p": 0.95}, P),
        ({"top_p": 1e-9}, [0, 1, 0, 0]),
        ({"top_p": 5e-324}, [0, 1, 0, 0]),
        ({"min_p": 0.3}, [0, 4 / 9, 2 / 9, 3 / 9]),  # at least 0.12
        ({"min_p": 0.7}, [0, 4 / 7, 0, 3 / 7]),  # at least 0.28
        ({"min_p": 0.99}, [0, 1, 0, 0]),
        # In order: of 4/7 and 3/7, which top_k leaves, the first alone reaches 0.55.
        ({"top_k": 2, "top_p": 0.55}, [0, 1, 0, 0]),
        # Temperature comes before top_p: of 16/30, ... the first alone reaches 0.5.
        ({"temperature": 0.5, "top_p": 0.5}, [0, 1, 0, 0]),
        # min_p comes last and is a share of the most likely: 0.6 * 4/9 = 0.27.
        ({"top_k": 3, "min_p": 0.6}, [0, 4 / 7, 0, 3 / 7]),
    ],
)
def test_filters_by_hand(settings: dict[str, Any], hand: list[float]) -> None:
    """A filter could keep one token too many, not normalise, or be applied in another order."""
    assert filtered(**settings) == pytest.approx(hand, abs=1e-6)


def test_rows_are_filtered_apart() -> None:
    """The most likely token of one row could filter another row."""
    p = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])
    both = probabilities(p.log(), Sampling(top_k=2, min_p=0.4))
    assert both.tolist() == [pytest.approx([1, 0, 0]), pytest.approx([0, 1 / 3, 2 / 3])]


@pytest.mark.parametrize("temperature", [0.0, 1e-30, 1e-6, 1.0, 1e30])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4, 1e30])
def test_probabilities_are_always_probabilities(temperature: float, scale: float) -> None:
    """NaN would make every draw the last token."""
    logits = scale * torch.randn(5, 9, generator=torch.Generator().manual_seed(0))
    p = probabilities(logits, Sampling(temperature, top_k=5, top_p=0.9, min_p=0.05))
    assert (p >= 0).all()
    torch.testing.assert_close(p.sum(-1), torch.ones(5))


@pytest.mark.parametrize("top_p", [0.02, 0.3, 0.6, 0.9, 0.999])
def test_top_p_is_that_of_a_full_sort(top_p: float) -> None:
    """A flat row needs more tokens than the first candidates; a peaked one next to it, fewer."""
    scales = torch.tensor([[0.0], [0.1], [1.0], [8.0]])
    p = (scales * torch.randn(4, 3000, generator=torch.Generator().manual_seed(0))).softmax(-1)
    p[0] = torch.arange(1, 3001) / 3000 / 1500.5  # no equal numbers
    actual = probabilities(p.log(), Sampling(top_p=top_p))
    for row, ours in zip(p.double().tolist(), actual, strict=True):
        order = sorted(range(3000), key=lambda n: -row[n])
        sums = [0.0, *accumulate(row[n] for n in order)]
        kept = {n for n, before in zip(order, sums, strict=False) if before < top_p}
        assert len(kept ^ set(ours.nonzero().flatten().tolist())) <= 1  # fp32 sums


def test_greedy_choice_is_the_largest_logit() -> None:
    """Greedy sampling does not pass through probabilities; it could ignore the penalty."""
    logits = torch.tensor([[2.0, -1.0, 1.0, 2.0], [0.0, 0.5, -1.0, 0.1]])
    numbers = torch.tensor([0.99, 0.0], dtype=torch.float64)
    assert choose(logits, Sampling(0.0), numbers).tolist() == [0, 1]
    assert choose(logits.bfloat16(), Sampling(0.0), numbers).tolist() == [0, 1]
    occurred = torch.tensor([[True, False, False, True], [False, True, False, False]])
    penalty = Sampling(0.0, repetition_penalty=10.0)
    assert choose(logits, penalty, numbers, occurred).tolist() == [2, 3]
    assert choose(logits, Sampling(), numbers).tolist() == [3, 0]


def test_repetition_penalty_by_hand() -> None:
    """Dividing a negative logit would reward the repetition."""
    logits = torch.tensor([[2.0, -1.0, 1.0, -3.0]])
    occurred = torch.tensor([[True, True, False, False]])
    p = probabilities(logits, Sampling(repetition_penalty=2.0), occurred)
    expected = torch.tensor([[1.0, -2.0, 1.0, -3.0]]).softmax(-1)
    torch.testing.assert_close(p, expected)
    greedy = Sampling(temperature=0.0, repetition_penalty=2.5)
    assert probabilities(logits, greedy, occurred).argmax().item() == 2  # 2.0 / 2.5 < 1.0


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("temperature", w) for w in (-0.1, INF, math.nan)]
    + [("top_k", w) for w in (0, -3)]
    + [("top_p", w) for w in (0.0, -0.5, 1.1, math.nan)]
    + [("min_p", w) for w in (-0.1, 1.0, math.nan)]
    + [("repetition_penalty", w) for w in (0.0, -1.0, INF, math.nan)],
)
def test_refusals_name_the_setting(name: str, wrong: float) -> None:
    """NaN, or no token to choose from, would give wrong tokens without an error."""
    with pytest.raises(UserError, match=rf"^{name} is {wrong}: it must be"):
        Sampling(**{name: wrong})


@pytest.mark.parametrize("sampling", [Sampling(temperature=0.0), Sampling(), Sampling(top_p=0.5)])
def test_nan_is_an_error(sampling: Sampling) -> None:
    """A model that diverged would write the same token again and again, or one that is none."""
    logits = torch.zeros(2, 9)
    logits[1, 4] = torch.nan
    with pytest.raises(UserError, match="NaN"):
        choose(logits, sampling, torch.tensor([0.5, 0.5], dtype=torch.float64))


def uniforms(seed: int, rows: int, steps: int) -> Tensor:
    """Return random numbers (rows, steps), computed step by step."""
    streams = torch.arange(rows)
    return torch.stack([uniform(seed, streams, step) for step in range(steps)], dim=1)


def test_a_random_number_depends_on_seed_row_and_step_only() -> None:
    """A text could depend on the other rows of its batch, or not be reproducible."""
    together = uniforms(1, 5, 6)
    for row in range(5):
        for step in range(6):
            alone = uniform(1, torch.tensor([row]), step)
            assert alone.dtype == torch.float64 and torch.equal(
                alone, together[row, step : step + 1]
            )
    assert together.unique().numel() == 30
    assert not set(together.flatten().tolist()) & set(uniforms(2, 5, 6).flatten().tolist())


def test_streams_are_these_numbers() -> None:
    """Numbers that are computed for many steps at once could be shifted between rows or steps."""
    expected, streams = uniforms(3, 5, 200), RandomStreams(3, 5)
    for step, n_steps in [(0, 1), (1, 1), (2, 4), (6, 1), (62, 4), (66, 70), (3, 2), (140, 60)]:
        actual = streams.at(step, n_steps)
        assert torch.equal(actual, expected[:, step : step + n_steps]), step


def test_the_hash_is_splitmix64() -> None:
    """A shift that repeats the sign, or a product that is not modulo 2^64, would still look
    random."""

    def mixed(state: int) -> int:  # in integers without a limit, reduced after each operation
        size = 2**64
        state = (state + 0x9E3779B97F4A7C15) % size
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % size
        state = (state ^ state >> 27) * 0x94D049BB133111EB % size
        return state ^ state >> 31

    assert mixed(0) == 0xE220A8397B1DCDAF  # the generator's first output for seed 0, as published
    for seed, row, step in ((0, 0, 0), (7, 3, 1000), (-5, 31, 2), (2**63 + 1, 0, 9)):
        bits = mixed((mixed((mixed(seed % 2**64) + row) % 2**64) + step) % 2**64)
        assert uniform(seed, torch.tensor([row]), step).item() == (bits >> 12) / 2**52


@pytest.mark.parametrize("seed", [0, 1, 2**40])
def test_random_numbers_are_uniform_and_independent(seed: int) -> None:
    """Rows or steps that share a stream would write the same text, or one could be predicted.

    Each statistic must be within six standard deviations of that of independent numbers.
    """
    u = uniforms(seed, 200, 500)
    n = u.numel()
    assert (u >= 0).all() and (u < 1).all()
    counts = torch.histc(u.float(), bins=64, min=0, max=1)
    chi_square = ((counts - n / 64) ** 2 / (n / 64)).sum().item()
    assert abs(chi_square - 63) < 6 * (2 * 63) ** 0.5
    centred = (u - 0.5) * 12**0.5  # variance 1
    pairs = {
        "neighbouring steps": (centred[:, :-1], centred[:, 1:]),
        "neighbouring rows": (centred[:-1], centred[1:]),
        "row r, step s and row s, step r": (centred[:, :200].triu(1), centred[:, :200].T.triu(1)),
        "the next seed": (centred, (uniforms(seed + 1, 200, 500) - 0.5) * 12**0.5),
    }
    for name, (a, b) in pairs.items():
        correlation = (a * b).sum().item() / n**0.5
        assert abs(correlation) < 6, name
    # Means of rows and of steps spread as those of independent numbers do.
    for dim, size in ((0, 200), (1, 500)):
        means = centred.mean(dim) * size**0.5
        assert means.abs().max() < 6
        assert means.var().item() == pytest.approx(1, abs=6 * (2 / means.numel()) ** 0.5)


def test_draws_follow_the_probabilities() -> None:
    """Tokens could be drawn from another distribution: a chi-square test over 40,000 draws."""
    rows, steps = 100, 400
    p = torch.rand(rows, 50, generator=torch.Generator().manual_seed(0)) ** 4
    p[:, ::7] = 0.0
    p /= p.sum(-1, keepdim=True)
    counts = torch.zeros(rows, 50)
    for step in range(steps):
        tokens = draw(p, uniform(3, torch.arange(rows), step))
        counts[torch.arange(rows), tokens] += 1
    assert not counts[p == 0].any()
    expected = (steps * p).sum(0)  # over all rows: enough for each token
    kept = expected > 20
    chi_square = ((counts.sum(0) - expected)[kept] ** 2 / expected[kept]).sum().item()
    freedom = int(kept.sum()) - 1
    assert chi_square < freedom + 6 * (2 * freedom) ** 0.5
    # Each row follows its own probabilities and not the average of all.
    deviation = (counts - steps * p) / (steps * p * (1 - p)).clamp(min=1).sqrt()
    assert deviation.abs().max() < 6


def test_a_draw_is_where_the_cumulative_sum_exceeds_the_number() -> None:
    """A draw could give the next token, a token without probability, or none at the upper end."""
    p = torch.tensor([[0.0, 0.25, 0.0, 0.5, 0.25, 0.0]])
    largest = 1 - 2.0**-52
    for number, token in ((0.0, 1), (0.2499, 1), (0.25, 3), (0.7499, 3), (0.75, 4), (largest, 4)):
        assert draw(p, torch.tensor([number], dtype=torch.float64)).tolist() == [token]
    for total in (0.9999, 1.0001):  # fp32 probabilities never sum to 1 exactly
        assert draw(p * total, torch.tensor([largest], dtype=torch.float64)).tolist() == [4]


def test_rows_draw_from_their_own_probabilities() -> None:
    """The number of one row could be used with the probabilities of another."""
    p = torch.eye(5)[[3, 0, 4, 1]]
    numbers = torch.tensor([0.0, 0.3, 0.6, 0.999], dtype=torch.float64)
    assert draw(p, numbers).tolist() == [3, 0, 4, 1]
