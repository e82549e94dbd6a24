"""Scales of charts: round numbers on an axis, and the way from a value to its pixel."""

import math
from collections.abc import Callable


def scale(low: float, high: float, start: float, end: float, log: bool) -> Callable[[float], float]:
    """Return the function from values to pixels that maps low to start and high to end."""
    bend: Callable[[float], float] = math.log if log else float
    low, high = bend(low), bend(high)
    width = high - low or 1.0
    return lambda value: (
        start + (bend(max(value, 1e-300) if log else value) - low) / width * (end - start)
    )


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Return round numbers that enclose low to high, about so many of them."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [n * step for n in range(first, last + 1)]


def log_ticks(low: float, high: float, base: int) -> list[float]:
    """Return powers of `base` that enclose low to high, both above 0, at most ten of them."""
    first = math.floor(math.log(low, base) + 1e-9)
    last = max(first + 1, math.ceil(math.log(high, base) - 1e-9))
    step = max(1, math.ceil((last - first) / 9))
    last = first + step * math.ceil((last - first) / step)
    return [float(base) ** n for n in range(first, last + 1, step)]


def number(value: float, scientific: bool = False) -> str:
    """Write a tick: 0.25, 1,024, 2M or, scientific, 1e-6."""
    if scientific and value and not 1e-3 < abs(value) < 1e4:
        return f"1e{round(math.log10(value))}"
    for unit, name in ((1e9, "G"), (1e6, "M")):
        if abs(value) >= unit:
            return f"{value / unit:.4g}{name}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
