"""From bits of single runs to bits per byte with intervals, for groups of runs.

Several runs: Student's interval over runs. One run: the same over its pieces of text. Differences
are paired: each run, or each piece, with itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.captions import range_names
from experiments.intervals import Interval, over_runs, paired
from experiments.position_loss import RunLoss


@dataclass(frozen=True)
class GroupLoss:
    """Bits per byte of the runs of a group by position, under one RoPE scaling."""

    name: str
    runs: tuple[str, ...]
    windows: tuple[int | None, ...]  # of each layer; None: full attention
    scaling: str
    tokens: int  # predicted at every position, by each run
    pieces: int  # of text that these tokens are in
    loss: tuple[Interval, ...]  # bits per byte at each range of positions
    change: tuple[Interval, ...]  # minus that at the last range within the trained length


@dataclass(frozen=True)
class PositionResult:
    """The loss of groups of runs by position; all predict the same tokens."""

    trained_length: int  # tokens
    edges: tuple[int, ...]  # positions: each range ends before the next begins
    split: str
    lines: tuple[GroupLoss, ...]

    @property
    def ranges(self) -> list[str]:
        """The names of the ranges of positions: "4-7"."""
        return range_names(self.edges)

    @property
    def last_trained(self) -> int:
        """The number of the last range within the trained length."""
        return self.edges.index(self.trained_length) - 1


def group_loss(
    name: str,
    runs: Sequence[Path],
    windows: tuple[int | None, ...],
    scaling: str,
    parts: Sequence[RunLoss],
    trained: int,
) -> GroupLoss:
    """Put the runs of a group together; `trained` is the last range within the trained length."""
    values = [_values(parts, n) for n in range(len(parts[0].bits))]
    return GroupLoss(
        name,
        tuple(map(str, runs)),
        windows,
        scaling,
        parts[0].tokens,
        len(parts[0].bits[0]),
        tuple(over_runs(column) for column in values),
        tuple(paired(column, values[trained]) for column in values),
    )


def _values(parts: Sequence[RunLoss], n: int) -> list[float]:
    """Return bits per byte at range n: of each run, or of each piece if there is one run.

    All pieces have the mean number of bytes here, so that their mean is that of all bytes.
    """
    if len(parts) > 1:
        return [sum(part.bits[n]) / max(1, part.n_bytes) for part in parts]
    (part,) = parts
    return [bits * len(part.bits[n]) / max(1, part.n_bytes) for bits in part.bits[n]]
