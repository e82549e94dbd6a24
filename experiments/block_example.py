"""An example of attention tile by tile, large scores, and the bytes that each way moves."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from experiments.benchmarks.block_times import BLOCK, HEAD_DIM
from experiments.tiles import (
    Step,
    Tile,
    Traffic,
    block_wise,
    block_wise_bytes,
    dense,
    dense_bytes,
    grid,
)
from model.window import Window

if TYPE_CHECKING:  # torch is imported only where something is computed
    from torch import Tensor

LARGE = 1000.0  # factor of the scores that overflow: exp(1000) is infinite even in float64


@dataclass(frozen=True)
class Example:
    """Attention of a few tokens, tile by tile, in float64."""

    length: int  # queries, and keys
    block: int
    window: int  # keys
    head_dim: int
    steps: list[Step]
    max_difference: float  # from dense attention

    @property
    def tiles(self) -> list[Tile]:
        """All tiles, also those that are not computed."""
        return list(grid(self.length, self.length, self.block, self.window))


@dataclass(frozen=True)
class LargeScores:
    """The same with scores of about +-1000."""

    with_maximum: float  # largest difference from dense attention
    lost_without: int  # numbers of the output that are not finite if m stays 0
    numbers: int  # of the output


@dataclass(frozen=True)
class Moved:
    """Bytes of one way at one length, in fp32, one head."""

    way: str
    window: Window
    length: int  # tokens
    n_bytes: int  # as counted
    formula: int  # as computed
    largest: int  # bytes of the largest tensor that a step makes


def walk(length: int, block: int, window: int, head_dim: int) -> Example:
    """Compute the example and record every tile."""
    q, k, v = _draw(length, head_dim)
    steps: list[Step] = []
    output = block_wise(q, k, v, window, block, watch=steps.append)
    difference = (output - dense(q, k, v, window)).abs().max().item()
    return Example(length, block, window, head_dim, steps, difference)


def large_scores(length: int, block: int, window: int, head_dim: int) -> LargeScores:
    """Compute it with scores of about +-`LARGE`, with the running maximum and without it."""
    q, k, v = _draw(length, head_dim)
    q = q * LARGE
    safe = block_wise(q, k, v, window, block)
    unsafe = block_wise(q, k, v, window, block, running_max=False)
    difference = (safe - dense(q, k, v, window)).abs().max().item()
    return LargeScores(difference, int((~unsafe.isfinite()).sum()), unsafe.numel())


def _draw(length: int, head_dim: int) -> "Tensor":
    """Draw q, k and v (3, T, Dh)."""
    import torch

    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, length, head_dim, generator=generator, dtype=torch.float64)


def count(lengths: Sequence[int], windows: Sequence[Window]) -> list[Moved]:
    """Run both ways over tensors without memory, and count the bytes of every read and write."""
    import torch

    rows = []
    for length in lengths:
        x = torch.empty(length, HEAD_DIM, device="meta")
        for window in windows:
            traffic = Traffic()
            block_wise(x, x, x, window, BLOCK, traffic)
            formula = block_wise_bytes(length, HEAD_DIM, window, BLOCK)
            rows.append(Moved("tiles", window, length, traffic.n_bytes, formula, traffic.largest))
        traffic = Traffic()
        dense(x, x, x, None, traffic)
        formula = dense_bytes(length, HEAD_DIM)
        rows.append(Moved("dense", None, length, traffic.n_bytes, formula, traffic.largest))
    return rows
