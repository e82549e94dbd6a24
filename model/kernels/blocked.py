"""blocked: score only the blocks that the window touches. O(T * W), for texts without a cache.

The idea of block-wise attention (FlashAttention, arXiv 2205.14135): divide the queries into blocks
of C. The keys that a block can see lie in that block and the `ceil((W-1)/C)` blocks before it;
nothing else is computed. For W = 3, C = 2 (`#`: visible, `x`: scored, then masked):

                key 0 1  2 3  4 5  6 7
    block 0     0   # x  .  .  .  .  .        each block of 2 queries is scored against
                1   # #  .  .  .  .  .        2 + 2 keys (1 block before it and its own),
    block 1     2   # #  # x  .  .  .         whatever the length of the text
                3   x #  # #  .  .  .
    block 2     4   .  .  # #  # x  .
                5   .  .  x #  # #  .
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from model.kernels.scores import grouped, masked_softmax
from model.kernels.visibility import Visibility

# Queries per block: large enough for matrix units, small enough to score few hidden keys.
SMALLEST_BLOCK, LARGEST_BLOCK = 16, 64


def blocked_attention(
    q: Tensor, k: Tensor, v: Tensor, visibility: Visibility, return_lse: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Attend within a text, from q (B, H, T, Dh) to k, v (B, K, T, Dh), sinks left out.

    Returns (B, H, T, Dh), equal to `dense` up to rounding, and the log-sum-exp (B, H, T) if asked.
    """
    assert visibility.window is not None and visibility.key_positions is None
    length = q.shape[2]
    block, before, n_blocks = _divide(length, visibility.window)
    tail = n_blocks * block - length  # padding after the text

    def by_block(x: Tensor) -> Tensor:
        """Rows of each block: (..., T, n) to (..., N, C, n)."""
        return F.pad(x, (0, 0, 0, tail)).unflatten(-2, (n_blocks, block))

    def with_earlier(x: Tensor, filler: int = 0) -> Tensor:
        """Rows of each block and of those before it: (B, K, T, n) to (B, K, N, S, n)."""
        parts = F.pad(x, (0, 0, before * block, tail), value=filler).unflatten(2, (-1, block))
        return torch.cat([parts[:, :, n : n + n_blocks] for n in range(before + 1)], dim=3)

    def pairs(x: Tensor) -> tuple[Tensor, Tensor]:
        """Integers (B, T) of the tokens as (B, 1, N, 1, C, 1) queries, (B, 1, N, 1, 1, S) keys."""
        column = x[:, None, :, None]
        return by_block(column)[:, :, :, None], with_earlier(column, -1).mT[:, :, :, None]

    queries = by_block(grouped(q, k)).transpose(2, 3)  # (B, K, N, G, C, Dh)
    scores = queries.flatten(3, 4) @ with_earlier(k).mT  # (B, K, N, G * C, S)
    scores = scores.unflatten(3, (-1, block))
    documents = None if visibility.documents is None else pairs(visibility.documents)
    i, j = pairs(visibility.query_positions(length, q.device))
    weights, lse = masked_softmax(scores, visibility.in_window(i, j, documents), return_lse)
    out = weights.flatten(3, 4) @ with_earlier(v)  # (B, K, N, G * C, Dh)

    def by_token(x: Tensor) -> Tensor:
        """(B, K, N, G, C, ...) to (B, H, T, ...)."""
        return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)[:, :, :length]

    return by_token(out.unflatten(3, (-1, block))), None if lse is None else by_token(lse)


def _divide(length: int, window: int) -> tuple[int, int, int]:
    """Return the queries per block, the earlier blocks that it sees, and the number of blocks."""
    block = max(SMALLEST_BLOCK, min(window // 2, LARGEST_BLOCK))
    return block, -(-(window - 1) // block), -(-length // block)
