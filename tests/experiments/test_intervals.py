"""experiments/intervals.py: Student's t and Wilson's interval, compared with published tables."""

import math
import random
import statistics

import pytest

from experiments.intervals import Interval, of_next, over_runs, paired, share, t_quantile

# Student's t, two-sided 95 %: the column 0.975 of any printed table.
TABLE = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 9: 2.262, 10: 2.228, 19: 2.093,
         30: 2.042, 60: 2.000, 120: 1.980}  # fmt: skip


@pytest.mark.parametrize("freedom", TABLE)
def test_quantiles_of_student(freedom: int) -> None:
    """Whiskers of few seeds would be too short: with 3 seeds 4.303, not the 1.96 of many."""
    assert t_quantile(freedom) == pytest.approx(TABLE[freedom], abs=6e-4)


def test_quantiles_fall_to_those_of_the_normal_distribution() -> None:
    """The integration could lose accuracy for many runs."""
    assert t_quantile(2000) == pytest.approx(statistics.NormalDist().inv_cdf(0.975), abs=2e-3)


def test_an_interval_over_runs() -> None:
    """The spread of the values would be taken for that of the mean, or divided by n."""
    found = over_runs([1.0, 2.0, 4.0])
    half = 4.303 * math.sqrt(((4 / 3) ** 2 + (1 / 3) ** 2 + (5 / 3) ** 2) / 2) / math.sqrt(3)
    assert (found.mean, found.n) == (pytest.approx(7 / 3), 3)
    assert found.low == pytest.approx(7 / 3 - half, abs=1e-3)
    assert found.high == pytest.approx(7 / 3 + half, abs=1e-3)


def test_one_run_has_no_interval() -> None:
    """One seed would seem certain."""
    found = over_runs([0.25])
    assert (found.mean, found.low, found.high, found.n) == (0.25, None, None, 1)
    assert found.text() == "0.2500"


def test_paired_differences_leave_out_what_seeds_share() -> None:
    """The spread between seeds would hide a difference that every seed has."""
    found = paired([1.1, 2.1, 3.1], [1.0, 2.0, 3.0])
    assert found.mean == pytest.approx(0.1)
    assert found.low == pytest.approx(0.1) and found.high == pytest.approx(0.1)
    with pytest.raises(ValueError):
        paired([1.0, 2.0], [1.0])


# Wilson's score interval without correction, from Newcombe (1998), Statistics in Medicine 17,
# table I, method 3.
WILSON = {(81, 263): (0.2553, 0.3662), (15, 148): (0.0624, 0.1605), (0, 20): (0.0, 0.1611),
          (1, 29): (0.0061, 0.1718)}  # fmt: skip


@pytest.mark.parametrize(("right", "n"), WILSON)
def test_wilsons_interval(right: int, n: int) -> None:
    """The interval of the normal approximation would reach below 0, and be 0 wide for 0 of 20."""
    found = share(right, n)
    low, high = WILSON[right, n]
    assert (found.mean, found.n) == (pytest.approx(right / n), n)
    assert found.low == pytest.approx(low, abs=5e-5)
    assert found.high == pytest.approx(high, abs=5e-5)


def test_all_right_mirrors_none_right() -> None:
    """The upper end could exceed 1."""
    none, every = share(0, 20), share(20, 20)
    assert every.high == 1 and none.low == 0
    assert every.low == pytest.approx(1 - none.high)  # type: ignore[operator]


def test_text_of_an_interval() -> None:
    """The ends could be swapped or lose the form."""
    assert over_runs([1.0, 3.0]).text(".1f") == "2.0 (-10.7 to 14.7)"


def test_a_number_that_rounds_to_zero_has_no_minus() -> None:
    """ "-0.0000 (-0.0000 to -0.0000)" would be read as a loss."""
    assert Interval(-1e-9, -2e-9, 1e-9, 3).text("+.4f") == "+0.0000 (+0.0000 to +0.0000)"
    assert Interval(-0.25, -0.5, 0.0, 3).text(".2f") == "-0.25 (-0.50 to 0.00)"


@pytest.mark.parametrize(("freedom", "t"), [(1, 63.657), (2, 9.925), (4, 4.604), (10, 3.169)])
def test_quantiles_of_99_percent(freedom: int, t: float) -> None:
    """Two-sided 99 %: the column 0.995 of any printed table."""
    assert t_quantile(freedom, 0.99) == pytest.approx(t, abs=6e-4)


def test_the_interval_of_the_next_value() -> None:
    """The interval of the mean would be taken, which most values do not lie in."""
    low, high = of_next([1.0, 2.0, 3.0, 4.0, 5.0], 0.99)
    half = 4.604 * math.sqrt(2.5) * math.sqrt(1.2)
    assert (low, high) == (pytest.approx(3 - half, abs=2e-3), pytest.approx(3 + half, abs=2e-3))


def test_99_of_100_next_values_lie_in_it() -> None:
    """The promise itself, for five runs drawn from a normal distribution."""
    draw, inside = random.Random(0), 0
    for _ in range(4000):
        *values, following = (draw.gauss(0.7, 0.01) for _ in range(6))
        low, high = of_next(values, 0.99)
        inside += low <= following <= high
    assert inside / 4000 == pytest.approx(0.99, abs=0.005)
