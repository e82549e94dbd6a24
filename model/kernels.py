"""Ways to compute attention. All obey the one rule of `model/window.py`; they differ in cost.

    dense     scores every query against every key, then masks   O(T * S)   any positions
    blocked   scores only the blocks that the band touches       O(T * W)   positions 0..T-1
    full      torch's fused causal attention                     O(T * T)   positions 0..T-1, W >= T

`blocked` is the idea of block-wise attention (FlashAttention, arXiv 2205.14135): cut the queries
into blocks of C; the keys that one block can see lie in that block and the `ceil((W-1)/C)` blocks
before it, and nothing else is computed. For W = 3, C = 2 (`x`: scored, then masked):

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

from model.window import Window, visible

# Queries per block: large enough for the matrix units, small enough to waste little of the band.
SMALLEST_BLOCK, LARGEST_BLOCK = 16, 64


def dense(
    q: Tensor, k: Tensor, v: Tensor, i: Tensor, j: Tensor, window: Window, sinks: int = 0
) -> Tensor:
    """Attend with every score computed.

    q (B, H, T, Dh) at positions i (T,) or (B, T); k, v (B, K, S, Dh) at positions j (S,) or (B, S),
    where -1 marks a key that does not exist. Returns (B, H, T, Dh). A row that sees nothing (only a
    padded query can) returns the mean of v, never NaN.
    """
    heads, kv_heads = q.shape[1], k.shape[1]
    q = q.unflatten(1, (kv_heads, heads // kv_heads))  # (B, K, G, T, Dh)
    scores = (q * q.shape[-1] ** -0.5) @ k.unsqueeze(2).mT  # (B, K, G, T, S)
    i, j = i.unsqueeze(-1), j.unsqueeze(-2)
    seen = visible(i, j, window, sinks) & (j >= 0)  # (T, S) or (B, T, S)
    if seen.dim() == 3:
        seen = seen[:, None, None]
    return (_softmax(scores, seen) @ v.unsqueeze(2)).flatten(1, 2)


def blocked(q: Tensor, k: Tensor, v: Tensor, window: int, sinks: int = 0) -> Tensor:
    """Attend over positions 0..T-1, computing only blocks inside the band: O(T * W).

    q (B, H, T, Dh); k, v (B, K, T, Dh). Returns (B, H, T, Dh), equal to `dense` up to rounding.
    """
    length, heads, kv_heads = q.shape[2], q.shape[1], k.shape[1]
    block = max(SMALLEST_BLOCK, min(window // 2, LARGEST_BLOCK))
    before = -(-(window - 1) // block)  # blocks that the window reaches back into
    n_blocks = -(-length // block)
    tail = n_blocks * block - length  # keys added behind the text: causality hides them

    def span(x: Tensor) -> Tensor:
        """The keys each block may see: sinks, the blocks before, its own. (B, K, N, S, Dh)"""
        parts = F.pad(x, (0, 0, before * block, tail)).unflatten(2, (-1, block))
        shifted = [parts[:, :, n : n + n_blocks] for n in range(before + 1)]
        if sinks:
            first = F.pad(x, (0, 0, 0, max(0, sinks - length)))[:, :, None, :sinks]
            shifted.insert(0, first.expand(-1, -1, n_blocks, -1, -1))
        return torch.cat(shifted, dim=3)

    q = F.pad(q * q.shape[-1] ** -0.5, (0, 0, 0, tail)).unflatten(2, (n_blocks, block))
    q = q.unflatten(1, (kv_heads, heads // kv_heads)).transpose(2, 3)  # (B, K, N, G, C, Dh)
    scores = q.flatten(3, 4) @ span(k).mT  # (B, K, N, G * C, S)
    seen = _band(n_blocks, block, before, window, sinks, q.device)
    weights = _softmax(scores.unflatten(3, (-1, block)), seen[:, None])
    out = weights.flatten(3, 4) @ span(v)  # (B, K, N, G * C, Dh)
    out = out.unflatten(3, (-1, block)).transpose(2, 3)  # (B, K, G, N, C, Dh)
    return out.flatten(3, 4).flatten(1, 2)[:, :, :length]


def full(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend to all that came before, by torch's fused kernel. Shapes as in `blocked`."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def choose(attention: str, window: Window, n_tokens: int) -> tuple[str, str]:
    """Name the kernel for one layer over positions 0..n_tokens-1, and the reason in words."""
    if attention == "dense":
        return "dense", "the config asks for it"
    if window is None or window >= n_tokens:
        hides = "full attention" if window is None else f"a window of {window:,} hides nothing"
        return "full", f"{hides} in {n_tokens:,} tokens"
    if attention == "blocked":
        return "blocked", "the config asks for it"
    return "blocked", f"a window of {window:,} in {n_tokens:,} tokens: cost grows with the window"


def attend(
    q: Tensor, k: Tensor, v: Tensor, window: Window, sinks: int, attention: str = "auto"
) -> Tensor:
    """Attend over a text's own positions 0..T-1 with the kernel that `choose` names."""
    name, _ = choose(attention, window, q.shape[2])
    with torch.autocast(q.device.type, enabled=False):  # it would copy every score to fp32 and back
        if name == "full":
            return full(q, k, v)
        if name == "blocked":
            assert window is not None
            return blocked(q, k, v, window, sinks)
        positions = torch.arange(q.shape[2], device=q.device)
        return dense(q, k, v, positions, positions, window, sinks)


def _band(
    n_blocks: int, block: int, before: int, window: int, sinks: int, device: torch.device
) -> Tensor:
    """The mask of `blocked`, (N, C, S): the rule at the positions that each block holds."""
    start = torch.arange(n_blocks, device=device)[:, None] * block  # (N, 1)
    i = start + torch.arange(block, device=device)  # (N, C)
    j = start + torch.arange(-before * block, block, device=device)  # (N, (before + 1) * C)
    if sinks:
        # The sinks stand in front of every block; where the band holds them too, they count once.
        j = torch.where(j < sinks, -1, j)
        j = torch.cat((torch.arange(sinks, device=device).expand(n_blocks, -1), j), dim=1)
    i, j = i[:, :, None], j[:, None, :]
    return visible(i, j, window, sinks) & (j >= 0)


def _softmax(scores: Tensor, seen: Tensor) -> Tensor:
    """Softmax over the keys that are seen. torch sums in fp32 whatever the dtype of `scores`."""
    hidden = torch.finfo(scores.dtype).min  # not -inf: a row that sees nothing must not be NaN
    return scores.masked_fill_(~seen, hidden).softmax(-1)  # in place: the scores are ours
