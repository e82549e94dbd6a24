"""Sinks: kernels leave them out, and `merge` adds them to the output of every kernel.

A query attends to three kinds of terms in one softmax: the keys in its window, the sinks, which
it looks at with another rotation (`window.sink_view`), and the learned sink logit of its head,
which has no value (gpt-oss, arXiv 2508.10925, section 2.2). Kernels compute the first alone, and
its log-sum-exp L. A softmax can be merged from parts (FlashAttention, arXiv 2205.14135, section 3):
with the scores s_n of the sinks and the logit b,

    out = (exp(L) * out_window + sum_n exp(s_n) * v_n) / (exp(L) + sum_n exp(s_n) + exp(b))
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from model.kernels.scores import grouped
from model.kernels.visibility import Visibility

PADDING = 8  # numbers added to each head by `prepend_logit`: fused kernels need multiples of 8


def merge(
    out: Tensor,
    lse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    visibility: Visibility,
    sink_logits: Tensor | None,
) -> Tensor:
    """Add sinks and sink logits (H,) to the attention `out` (B, H, T, Dh) of all other keys.

    `lse` (B, H, T) is its log-sum-exp; q (B, H, T, Dh) are the queries as they look at sinks; k, v
    (B, K, S, Dh). With a cache, sinks are its first slots. Returns (B, H, T, Dh).
    """
    parts = [lse.unsqueeze(-1)]
    if visibility.sinks:
        columns, seen = _find_sinks(visibility, q.shape[2], k.shape[2], q.device)
        k_sinks, v_sinks = (_gather(x, columns, seen.shape[-1]) for x in (k, v))
        scores = torch.einsum("bkgtd,bktnd->bkgtn", grouped(q, k), k_sinks)
        scores = scores.flatten(1, 2).to(lse.dtype)  # (B, H, T, n)
        parts.append(scores.masked_fill(~seen[:, None], torch.finfo(lse.dtype).min))
    if sink_logits is not None:
        parts.append(sink_logits.to(lse.dtype)[:, None, None].expand(*lse.shape, 1))
    weights = torch.cat(parts, dim=-1).softmax(-1)  # (B, H, T, 1 + n + 1)
    merged = weights[..., :1] * out
    if visibility.sinks:
        sink_weights = weights[..., 1 : 1 + k_sinks.shape[3]].unflatten(1, (k.shape[1], -1))
        added = torch.einsum("bkgtn,bktnd->bkgtd", sink_weights, v_sinks.to(weights.dtype))
        merged = merged + added.flatten(1, 2)
    return merged.to(out.dtype)


def prepend_logit(
    q: Tensor, k: Tensor, v: Tensor, sink_logits: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Turn the sink logits (H,) into a key in front, for `full`, which gives no log-sum-exp.

    The key has the value 0, and every query sees it. One more number in each head, 1 in this key
    and 0 in all others, makes its score the logit. Returns q, k, v with one more token and PADDING
    more numbers in each head.
    """
    head_dim = q.shape[-1]
    q = q * ((head_dim + PADDING) / head_dim) ** 0.5  # kernels divide by the square root of a size
    q, k, v = (F.pad(x, (0, PADDING, 1, 0)) for x in (q, k, v))
    unit = torch.zeros(head_dim + PADDING, dtype=q.dtype, device=q.device)
    unit[head_dim] = 1.0
    logits = (sink_logits * (head_dim + PADDING) ** 0.5).to(q.dtype)
    k = torch.cat((unit.expand(*k.shape[:2], 1, -1), k[:, :, 1:]), dim=2)
    return q + logits[:, None, None] * unit, k, v


def drop_logit(out: Tensor) -> Tensor:
    """Remove the token and the numbers that `prepend_logit` added."""
    return out[:, :, 1:, :-PADDING]


def _find_sinks(
    visibility: Visibility, length: int, n_keys: int, device: torch.device
) -> tuple[Tensor | None, Tensor]:
    """Return the columns (B, T, n) of each query's sinks, and whether it sees them (B, T, n).

    Columns are None if sinks are the first n keys for all queries, which is so unless documents are
    packed. A sink beyond the end of a short document gets the column of another key, and no
    query sees it.
    """
    i = visibility.query_positions(length, device)[:, :, None]
    n_sinks = min(visibility.sinks, n_keys)
    sink_positions = torch.arange(n_sinks, device=device)
    if visibility.documents is None:
        if visibility.key_positions is not None:
            sink_positions = visibility.key_positions[:, None, :n_sinks]
        return None, (sink_positions <= i) & (sink_positions >= 0)
    columns = torch.arange(length, device=device)[:, None] - i + sink_positions
    has_token = visibility.documents[:, :1] == 0  # a sink token serves all documents of its row
    columns[..., 0] = torch.where(has_token, 0, columns[..., 0])
    return columns.clamp(0, length - 1), sink_positions <= i


def _gather(x: Tensor, columns: Tensor | None, n_sinks: int) -> Tensor:
    """Select the sinks' rows of x (B, K, S, Dh): (B, K, T, n, Dh), or (B, K, 1, n, Dh)."""
    if columns is None:
        return x[:, :, None, :n_sinks]
    index = columns.flatten(1)[:, None, :, None].expand(*x.shape[:2], -1, x.shape[-1])
    return x.gather(2, index).unflatten(2, (-1, columns.shape[-1]))
