"""Exact attention tile by tile, with every byte counted (FlashAttention, arXiv 2205.14135).

The scores of a block of queries against a block of keys are a tile. The softmax of a row needs the
largest score and the sum of the row, which are known only after its last tile. So each row carries
three numbers (section 3.1; the online softmax of arXiv 1805.02867):

    m   the largest score so far
    l   the sum of exp(score - m) so far
    o   the sum of exp(score - m) * value so far

A tile with a larger score makes m larger: l and o are multiplied by exp(m before - m after) first.
After the last tile, o / l is the output of dense attention, and no row of scores was ever stored.
Shapes are those of one head: q (T, Dh), k and v (S, Dh); the queries are the last T of S positions.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from model.window import Window, visible

if TYPE_CHECKING:  # torch is imported only where something is computed
    from torch import Tensor

FULL, PARTIAL, BEFORE, AFTER = "full", "partly masked", "before the window", "after the queries"
SKIPPED = (BEFORE, AFTER)  # kinds of tiles that are not computed


@dataclass(frozen=True)
class Tile:
    """Positions from the first to the last query and key of a tile, and its kind."""

    queries: tuple[int, int]
    keys: tuple[int, int]
    kind: str  # FULL, PARTIAL, BEFORE or AFTER

    def __str__(self) -> str:
        (a, b), (c, d) = self.queries, self.keys
        return f"queries {a} to {b}, keys {c} to {d}"


@dataclass(frozen=True)
class RowState:
    """The running numbers of one query after a tile."""

    query: int
    largest: float | None  # m; None: no key seen so far
    factor: float  # by which l and o were multiplied before this tile was added
    total: float  # l
    output: list[float]  # o, not yet divided by l


@dataclass(frozen=True)
class Step:
    """One computed tile and the rows after it."""

    tile: Tile
    pairs: int  # visible (query, key) pairs
    rows: list[RowState]


class Traffic:
    """Counts the bytes that are read from and written to the large, slow memory."""

    def __init__(self) -> None:
        self.n_bytes = 0
        self.largest = 0  # bytes of the largest tensor that a step makes, wherever it is kept

    def moved(self, x: "Tensor") -> "Tensor":
        """Count a tensor that is read or written."""
        self.n_bytes += x.nbytes
        return self.made(x)

    def made(self, x: "Tensor") -> "Tensor":
        """Note the size of a tensor that stays in the fast memory."""
        self.largest = max(self.largest, x.nbytes)
        return x


def kind_of(queries: tuple[int, int], keys: tuple[int, int], window: Window) -> str:
    """Return the kind of a tile; two of its pairs decide it.

    Of all pairs of a tile, (first query, last key) is the nearest to the future, and (last query,
    first key) the farthest back.
    """
    (first, last), (early, late) = queries, keys
    if visible(first, late, window) and visible(last, early, window):
        return FULL
    if early > last:
        return AFTER
    nearest = min(late, last)  # the pair of the least distance decides whether any is visible
    return PARTIAL if visible(max(first, nearest), nearest, window) else BEFORE


def grid(length: int, n_keys: int, block: int, window: Window) -> Iterator[Tile]:
    """Yield all tiles, row by row; the last ones of a row or column may be smaller."""
    offset = n_keys - length
    for row in range(0, length, block):
        queries = offset + row, offset + min(row + block, length) - 1
        for column in range(0, n_keys, block):
            keys = column, min(column + block, n_keys) - 1
            yield Tile(queries, keys, kind_of(queries, keys, window))


def block_wise(
    q: "Tensor", k: "Tensor", v: "Tensor", window: Window, block: int,
    traffic: Traffic | None = None, watch: Callable[[Step], None] | None = None,
    running_max: bool = True,
) -> "Tensor":  # fmt: skip
    """Return the output (T, Dh) of exact attention. A query that sees no key gets 0.

    `watch` is called after each tile. `running_max=False` leaves m at 0, to show what it is for.
    The queries are the outer loop, as in FlashAttention-2 (arXiv 2307.08691, section 3.2).
    """
    traffic = traffic or Traffic()
    out = q.new_zeros(q.shape)
    offset = len(k) - len(q)
    for row in range(0, len(q), block):
        queries = traffic.moved(q[row : row + block]) * q.shape[1] ** -0.5
        m = q.new_full(queries.shape[:1], -float("inf" if running_max else 0))
        state = m, q.new_zeros(m.shape), q.new_zeros(queries.shape)  # m, l, o
        span = offset + row, offset + row + len(queries) - 1
        for column in range(0, len(k), block):
            keys = column, min(column + block, len(k)) - 1
            kind = kind_of(span, keys, window)
            if kind == AFTER:
                break
            if kind == BEFORE:
                continue
            part = slice(column, column + block)
            scores = traffic.made(queries @ traffic.moved(k[part]).T)
            pairs = scores.numel()
            if kind == PARTIAL:
                mask = _mask(span, keys, window, scores)
                scores = scores.masked_fill(~mask, -float("inf"))
                pairs = int(mask.sum()) if watch else 0
            state, factor = _add(state, scores, traffic.moved(v[part]), running_max)
            if watch:
                watch(_step(Tile(span, keys, kind), pairs, state, factor))
        _, total, output = state
        out[row : row + block] = traffic.moved(output / total.where(total != 0, 1)[:, None])
    return out


def _add(
    state: "tuple[Tensor, Tensor, Tensor]", scores: "Tensor", values: "Tensor", running_max: bool
) -> "tuple[tuple[Tensor, Tensor, Tensor], Tensor]":
    """Add a tile to (m, l, o); return the sums after it and the factor of those before it."""
    m, total, output = state
    largest = m.maximum(scores.amax(dim=1)) if running_max else m
    # A row whose keys are all hidden so far has m = -inf, and -inf - (-inf) is not a number.
    base = largest.where(largest > -float("inf"), 0)
    factor, weights = (m - base).exp(), (scores - base[:, None]).exp()
    total = factor * total + weights.sum(dim=1)
    return (largest, total, factor[:, None] * output + weights @ values), factor


def _mask(span: tuple[int, int], keys: tuple[int, int], window: Window, like: "Tensor") -> "Tensor":
    import torch

    i = torch.arange(span[0], span[1] + 1, device=like.device)
    j = torch.arange(keys[0], keys[1] + 1, device=like.device)
    return visible(i[:, None], j, window)


def _step(tile: Tile, pairs: int, state: "tuple[Tensor, Tensor, Tensor]", factor: "Tensor") -> Step:
    m, total, output = (x.tolist() for x in state)
    rows = [
        RowState(
            tile.queries[0] + n, m[n] if m[n] > -float("inf") else None, factor[n].item(),
            total[n], output[n],
        )
        for n in range(len(m))
    ]  # fmt: skip
    return Step(tile, pairs, rows)


def dense(
    q: "Tensor", k: "Tensor", v: "Tensor", window: Window, traffic: Traffic | None = None
) -> "Tensor":
    """Return the same output (T, Dh) by whole matrices of scores, one operation after another."""
    import torch

    moved = (traffic or Traffic()).moved
    scores = moved(moved(q) @ moved(k).T * q.shape[1] ** -0.5)
    i = torch.arange(len(k) - len(q), len(k), device=q.device)
    j = torch.arange(len(k), device=q.device)
    mask = moved(visible(i[:, None], j, window))
    scores = moved(moved(scores).masked_fill(~moved(mask), -float("inf")))
    sees = mask.any(dim=1, keepdim=True)
    weights = moved(moved(scores).softmax(dim=1).where(sees, 0))
    return moved(moved(weights) @ moved(v))


def dense_bytes(length: int, head_dim: int, size: int = 4) -> int:
    """Count the bytes that `dense` moves: scores are written and read three times, the mask once.

    q, k and v are read and the output is written once. T = S; numbers have `size` bytes.
    """
    return size * (4 * length * head_dim + 6 * length**2) + 2 * length**2


def block_wise_bytes(length: int, head_dim: int, window: Window, block: int, size: int = 4) -> int:
    """Count the bytes that `block_wise` moves: k and v are read again for each block of queries.

    With n = ceil(T / C) blocks of C, a block of queries computes its own tile and those of at most
    c = ceil((W - 1) / C) blocks before it: n (c + 1) - c (c + 1) / 2 tiles, c at most n - 1. Only
    the last tile may be narrower, by n C - T keys.
    """
    n = -(-length // block)
    c = n - 1 if window is None else min(n - 1, -(-(window - 1) // block))
    tiles = n * (c + 1) - c * (c + 1) // 2
    keys_read = tiles * block - (n * block - length)
    return size * (2 * length * head_dim + 2 * keys_read * head_dim)
