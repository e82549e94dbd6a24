"""Times that can be compared: interleaved rounds in one process, and the growth of a cost.

Shared machines change their speed from second to second. So contenders take turns, A B C A B C, and
each is judged by the median of its rounds. Only ratios of such medians are claims.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import linear_regression

Reading = Callable[[], float]  # does the work once, and returns its seconds


def timed(work: Callable[[], object]) -> Reading:
    """Turn `work` into a reading of its wall time."""

    def reading() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return reading


def interleaved(
    readings: Mapping[str, Reading], rounds: int, title: str = ""
) -> dict[str, list[float]]:
    """Return the seconds of each reading in each of `rounds` rounds, in which all take turns.

    One round before is the warm-up and is not counted. A progress bar on a terminal shows the time
    that is left, estimated from the warm-up.
    """
    from tqdm import tqdm

    shape = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
    seconds: dict[str, list[float]] = {name: [] for name in readings}
    with tqdm(total=1, bar_format=shape, leave=False, disable=None) as bar:
        bar.set_description(f"{title}, warm-up")
        expected = {name: reading() for name, reading in readings.items()}
        bar.reset((1 + rounds) * sum(expected.values()))
        bar.update(sum(expected.values()))
        for _ in range(rounds):
            for name, reading in readings.items():
                bar.set_description(f"{title}, {name}")
                seconds[name].append(reading())
                bar.update(expected[name])
    return seconds


def exponent(lengths: Sequence[float], costs: Sequence[float]) -> float:
    """Fit cost = c * T^e by least squares of the logarithms; return e."""
    return linear_regression([math.log(n) for n in lengths], [math.log(c) for c in costs]).slope
