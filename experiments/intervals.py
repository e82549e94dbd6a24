"""Means with intervals of 95 %. Every number that an experiment reports has one.

Over runs that differ in the seed: Student's t, n - 1 degrees of freedom. It holds for few runs, and
is wide for two (12.7 standard errors). Differences are paired: each seed is compared with itself.
Of a share of right answers in one run: Wilson's score interval (1927), over its questions.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean and its interval of 95 %; low and high are None if one value gives no interval."""

    mean: float
    low: float | None
    high: float | None
    n: int  # values that the mean is of: runs, or questions

    def text(self, form: str = ".4f") -> str:
        """Return "0.2298 (0.2280 to 0.2316)", with `form` for each number."""
        mean = _write(self.mean, form)
        if self.low is None or self.high is None:
            return mean
        return f"{mean} ({_write(self.low, form)} to {_write(self.high, form)})"


def over_runs(values: Sequence[float]) -> Interval:
    """Return the mean of the values, one or more, one of each run, and Student's interval."""
    mean, n = statistics.fmean(values), len(values)
    if n == 1:
        return Interval(mean, None, None, 1)
    half = t_quantile(n - 1) * statistics.stdev(values) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)


def paired(values: Sequence[float], base: Sequence[float]) -> Interval:
    """Return the mean of the differences values[i] - base[i], both of the same seed, over runs."""
    return over_runs([value - other for value, other in zip(values, base, strict=True)])


def share(right: int, n: int) -> Interval:
    """Return the share right / n with Wilson's interval; n is 1 or more."""
    z = statistics.NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    p, spread = right / n, z * z / n
    center = (p + spread / 2) / (1 + spread)
    half = math.sqrt(spread * (p * (1 - p) + spread / 4)) / (1 + spread)
    return Interval(p, max(0.0, center - half), min(1.0, center + half), n)


def of_next(values: Sequence[float], confidence: float) -> tuple[float, float]:
    """Return the interval that holds the next value with probability `confidence`, if it is drawn
    as the two or more values were, from a normal distribution: mean +- t s sqrt(1 + 1 / n)."""
    mean, n = statistics.fmean(values), len(values)
    half = t_quantile(n - 1, confidence) * statistics.stdev(values) * math.sqrt(1 + 1 / n)
    return mean - half, mean + half


def _write(value: float, form: str) -> str:
    """Write a number; one that rounds to 0 has no minus."""
    text = f"{value:{form}}"
    return text if any(digit in text for digit in "123456789") else f"{0.0:{form}}"


@cache
def t_quantile(freedom: int, confidence: float = CONFIDENCE) -> float:
    """Return t such that the share `confidence` of Student's distribution with `freedom` degrees
    lies in -t to t."""
    low, high = 0.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _inside(middle, freedom) < confidence else (low, middle)
    return high


def _inside(t: float, freedom: int) -> float:
    """Return the share of Student's distribution in -t to t: Simpson's rule over the angle.

    With x = sqrt(freedom) * tan(a), the density is proportional to cos(a) ** (freedom - 1).
    """

    def area(end: float) -> float:
        steps = 400
        heights = [math.cos(end * n / steps) ** (freedom - 1) for n in range(steps + 1)]
        inner = 4 * sum(heights[1:-1:2]) + 2 * sum(heights[2:-1:2])
        return (heights[0] + inner + heights[-1]) * end / steps / 3

    return area(math.atan(t / math.sqrt(freedom))) / area(math.pi / 2)
