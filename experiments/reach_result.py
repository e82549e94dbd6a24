"""The results of `experiments.reach` as data. Reading them needs no torch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from experiments.intervals import Interval
from model.window import Window, reach, widest

LEVELS = (0.5, 0.9, 0.99)  # shares of the influence; the distances that hold them are reported


def walls(windows: Sequence[Window], sinks: int) -> list[int | None]:
    """Return for each layer how far back its output can depend on a token; None: no limit.

    `sinks` are first tokens that stay visible: with them there is no limit.
    """
    reached = [None if sinks else reach(windows[: n + 1]) for n in range(len(windows))]
    return [None if tokens is None else tokens - 1 for tokens in reached]


@dataclass(frozen=True)
class WallCheck:
    """The furthest token, in tokens back, on which a layer's output depends, beside its wall."""

    kernel: str
    layer: int
    wall: int  # sum of W - 1 over this layer and those below
    by_gradient: int
    by_substitution: int
    looked_back: int  # the furthest distance that was looked at

    @property
    def fault(self) -> str | None:
        """Say what is wrong; None if nothing is."""
        where = f"layer {self.layer} ({self.kernel} kernel)"
        found = {"gradient": self.by_gradient, "substitution": self.by_substitution}
        furthest = max(found.values())
        method = " and ".join(name for name, distance in found.items() if distance == furthest)
        if furthest > self.wall:
            return (
                f"{where}: the output depends on the token {furthest} back, and the wall is "
                f"{self.wall} (by {method}): the window is too large"
            )
        if self.by_gradient < self.wall:
            return (
                f"{where}: the output depends on no token further than {self.by_gradient} back, "
                f"and the wall is {self.wall} (by gradient): the window is too small"
            )
        return None


@dataclass(frozen=True)
class OutputReach:
    """How the influence on one output is spread over distances, in tokens back (0: the token)."""

    output: str  # "layer 0", ..., "prediction"
    method: str
    wall: int | None  # no influence from further back; None: no limit
    share: tuple[float, ...]  # of the whole influence, at distance 0, 1, ...
    low: tuple[float, ...]  # the interval of each share; empty if there is none
    high: tuple[float, ...]
    within: tuple[Interval, ...]  # the distances within which LEVELS of the influence lie
    beyond: Interval | None  # the share from W tokens back and further, through several layers
    tau: Interval | None  # tokens: from W on, influence falls by e within so many
    fit: float | None  # R^2 of the straight line through the logarithms

    def line(self) -> list[Interval | float | None]:
        """Return the shares for a chart, with their intervals."""
        if not self.low:
            return list(self.share)
        rows = zip(self.share, self.low, self.high, strict=True)
        return [Interval(mean, low, high, 0) for mean, low, high in rows]


@dataclass(frozen=True)
class GroupReach:
    """What was measured of one run, or of several that differ in their seed."""

    name: str
    runs: tuple[str, ...]  # checkpoints
    windows: tuple[Window, ...]
    sinks: int
    text_tokens: int  # tokens of a text
    texts: int  # of each run
    inside: bool  # whether each text lies inside one document
    outputs: tuple[OutputReach, ...]  # by gradient, then by substitution: layers, prediction
    checks: tuple[WallCheck, ...]

    @property
    def widest(self) -> Window:
        """The window, in keys; of several the widest, None if a layer sees everything."""
        return widest(self.windows)

    @property
    def wall(self) -> int | None:
        """The furthest token, in tokens back, that can act on the prediction; None: no limit."""
        return walls(self.windows, self.sinks)[-1]

    @property
    def random_walk(self) -> float | None:
        """W * sqrt(layers), in tokens; the root of the sum of the squares if windows differ."""
        if self.widest is None:
            return None
        return math.sqrt(sum(window**2 for window in self.windows if window is not None))

    @property
    def faults(self) -> list[str]:
        """Say what the checks of the walls found; nothing if all hold."""
        return list(dict.fromkeys(filter(None, (check.fault for check in self.checks))))

    def of(self, method: str, output: str = "prediction") -> OutputReach:
        """Return what one method found about one output."""
        return next(o for o in self.outputs if (o.method, o.output) == (method, output))


@dataclass(frozen=True)
class ReachResult:
    """The reach of one group of runs or more."""

    split: str
    groups: tuple[GroupReach, ...]
