"""Ways to compute attention. All obey the one rule of `model/window.py`; they differ in cost.

    dense     scores every query against every key, then masks   O(T * S)   any positions
    blocked   scores only the blocks that the band touches       O(T * W)   a text of T tokens
    flex      the same blocks in one fused kernel (CUDA)         O(T * W)   a text of T tokens
    full      torch's fused causal attention                     O(T * T)   one document, W >= T

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

What all of them take, beside q (B, H, T, Dh), k and v (B, K, T, Dh), the window and the number of
sinks, where there is more than one plain text:

    positions     (B, T), counted from the beginning of each document; None: 0..T-1
    documents     (B, T), which document a token is of; None: one. Document 0 belongs to all
    q_sinks       (B, H, T, Dh), the queries as they look at sinks (`window.sink_view`); None: q
    sink_logits   (H,), a score in each row's softmax that no value belongs to (gpt-oss, arXiv
                  2508.10925, section 2.2): attention that is spent on nothing
"""

from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from model.window import Window, visible

# Queries per block: large enough for the matrix units, small enough to waste little of the band.
SMALLEST_BLOCK, LARGEST_BLOCK = 16, 64


def dense(
    q: Tensor, k: Tensor, v: Tensor, i: Tensor, j: Tensor, window: Window, sinks: int = 0, *,
    q_sinks: Tensor | None = None, documents: tuple[Tensor, Tensor] | None = None,
    sink_logits: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Attend with every score computed.

    q (B, H, T, Dh) at positions i (T,) or (B, T); k, v (B, K, S, Dh) at positions j (S,) or (B, S),
    where -1 marks a key that does not exist; `documents` of queries and of keys. Returns
    (B, H, T, Dh). A row that sees nothing (only a padded query can) is never NaN.
    """
    keys, values = k.unsqueeze(2), v.unsqueeze(2)  # (B, K, 1, S, Dh)
    i, j = i[..., None, None, :, None], j[..., None, None, None, :]  # (1, 1, T, 1), (1, 1, 1, S)
    scores = _grouped(q, k) @ keys.mT  # (B, K, G, T, S)
    if q_sinks is not None:
        scores = torch.where(j < sinks, _grouped(q_sinks, k) @ keys.mT, scores)
    if documents is not None:
        of_i, of_j = documents
        documents = of_i[:, None, None, :, None], of_j[:, None, None, None, :]
    seen = visible(i, j, window, sinks, documents) & (j >= 0)
    if sink_logits is not None:
        sink_logits = sink_logits.unflatten(0, (k.shape[1], -1))[..., None, None]  # (K, G, 1, 1)
    return (_softmax(scores, seen, sink_logits) @ values).flatten(1, 2)


def blocked(
    q: Tensor, k: Tensor, v: Tensor, window: int, sinks: int = 0, *,
    q_sinks: Tensor | None = None, positions: Tensor | None = None,
    documents: Tensor | None = None, sink_logits: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Attend within a text, computing only blocks inside the band: O(T * W).

    q (B, H, T, Dh); k, v (B, K, T, Dh). Returns (B, H, T, Dh), equal to `dense` up to rounding.
    """
    length = q.shape[2]
    block = max(SMALLEST_BLOCK, min(window // 2, LARGEST_BLOCK))
    before = -(-(window - 1) // block)  # blocks that the window reaches back into
    n_blocks = -(-length // block)
    tail = n_blocks * block - length  # keys added behind the text: they do not exist

    def cut(x: Tensor) -> Tensor:
        """The rows of each block: (..., T, n) to (..., N, C, n)."""
        return F.pad(x, (0, 0, 0, tail)).unflatten(-2, (n_blocks, block))

    def span(x: Tensor, filler: int = 0) -> Tensor:
        """The rows of the blocks before each block and its own: (B, K, T, n) to (B, K, N, S, n)."""
        parts = F.pad(x, (0, 0, before * block, tail), value=filler).unflatten(2, (-1, block))
        return torch.cat([parts[:, :, n : n + n_blocks] for n in range(before + 1)], dim=3)

    def queries(x: Tensor) -> Tensor:
        return cut(_grouped(x, k)).transpose(2, 3)  # (B, K, N, G, C, Dh)

    def numbers(x: Tensor) -> tuple[Tensor, Tensor]:
        """A number a token, of queries (B, 1, N, 1, C, 1) and of keys (B, 1, N, 1, 1, S)."""
        column = x[:, None, :, None]
        return cut(column)[:, :, :, None], span(column, -1).mT[:, :, :, None]

    scores = queries(q).flatten(3, 4) @ span(k).mT  # (B, K, N, G * C, S)
    scores = scores.unflatten(3, (-1, block))
    if positions is None:
        positions = torch.arange(length, device=q.device)[None]
    i, j = numbers(positions)
    of = None if documents is None else numbers(documents)
    seen = visible(i, j, window, sinks, of) & (j >= sinks)  # sinks come apart, and count once
    if sinks:
        columns = _sink_columns(positions, documents, sinks)
        # Each query's own: documents have sinks of their own. (B, K, N, C, n, Dh)
        k_sinks, v_sinks = (cut(_gather(x, columns)).unflatten(-1, (sinks, -1)) for x in (k, v))
        first = queries(q if q_sinks is None else q_sinks)
        first = torch.einsum("bkngcd,bkncsd->bkngcs", first, k_sinks)
        before_i = torch.arange(sinks, device=q.device) <= i
        scores = torch.cat((scores, first), dim=-1)
        seen = torch.cat((seen, before_i.expand(*seen.shape[:-1], -1)), dim=-1)
    if sink_logits is not None:
        sink_logits = sink_logits.unflatten(0, (k.shape[1], 1, -1))[..., None, None]
    weights = _softmax(scores, seen, sink_logits)
    width = (before + 1) * block
    out = weights[..., :width].flatten(3, 4) @ span(v)  # (B, K, N, G * C, Dh)
    out = out.unflatten(3, (-1, block))
    if sinks:
        out = out + torch.einsum("bkngcs,bkncsd->bkngcd", weights[..., width:], v_sinks)
    out = out.transpose(2, 3)  # (B, K, G, N, C, Dh)
    return out.flatten(3, 4).flatten(1, 2)[:, :, :length]


def flex(
    q: Tensor, k: Tensor, v: Tensor, window: Window, sinks: int = 0, *,
    q_sinks: Tensor | None = None, positions: Tensor | None = None,
    documents: Tensor | None = None, sink_logits: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Attend by torch's flex_attention, which skips the blocks that the rule hides. Shapes as in
    `blocked`. On a CPU it is not fused and only runs forward.

    The fused kernel gives each row's log-sum-exp as well, so what it knows nothing of, sinks seen
    from elsewhere and learned logits, joins its softmax afterwards.
    """
    from torch.nn.attention.flex_attention import AuxRequest

    length = q.shape[2]
    band_sinks = sinks if q_sinks is None else 0  # sinks that are keys like any other
    hidden = 0 if q_sinks is None else sinks
    if positions is None and documents is None:
        mask = _plain_block_mask(length, window, band_sinks, hidden, q.device)
    else:
        assert positions is not None
        mask = _block_mask(positions, documents, window, band_sinks, hidden)
    out, aside = _flex_attention(q.is_cuda)(
        q, k, v, block_mask=mask, enable_gqa=True, return_aux=AuxRequest(lse=True)
    )
    lse = aside.lse
    parts = [lse.unsqueeze(-1)]  # (B, H, T, 1)
    if q_sinks is not None:
        if positions is None:
            positions = torch.arange(length, device=q.device)[None]
        columns = _sink_columns(positions, documents, sinks)
        k_sinks, v_sinks = (_gather(x, columns).unflatten(-1, (sinks, -1)) for x in (k, v))
        scores = torch.einsum("bkgtd,bktsd->bkgts", _grouped(q_sinks, k), k_sinks).flatten(1, 2)
        hide = torch.arange(sinks, device=q.device) > positions[:, None, :, None]
        parts.append(scores.to(lse.dtype).masked_fill(hide, -torch.inf))
    if sink_logits is not None:
        parts.append(sink_logits[:, None, None].expand(*lse.shape, 1))
    if len(parts) == 1:
        return out
    weights = torch.cat([part.to(out.dtype) for part in parts], dim=-1).softmax(-1)
    out = weights[..., :1] * out
    if q_sinks is not None:
        groups = weights[..., 1 : 1 + sinks].unflatten(1, (k.shape[1], -1))
        out = out + torch.einsum("bkgts,bktsd->bkgtd", groups, v_sinks).flatten(1, 2)
    return out


def full(q: Tensor, k: Tensor, v: Tensor, sink_logits: Tensor | None = None) -> Tensor:
    """Attend to all that came before, by torch's fused kernel. Shapes as in `blocked`.

    A learned logit becomes a key in front of the text, with value 0, that every query sees: one
    more number in each head, 1 in that key alone, makes its score the logit.
    """
    if sink_logits is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    head_dim = q.shape[-1]
    scale = head_dim**-0.5
    wider = (0, 8, 1, 0)  # eight numbers, since fused kernels want multiples of 8; a row in front
    q, k, v = F.pad(q, wider), F.pad(k, wider), F.pad(v, wider)
    unit = torch.zeros(head_dim + 8, dtype=q.dtype, device=q.device)
    unit[head_dim] = 1.0
    q = q + (sink_logits / scale).to(q.dtype)[:, None, None] * unit
    k = torch.cat((unit.expand(*k.shape[:2], 1, -1), k[:, :, 1:]), dim=2)
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=True)
    return out[:, :, 1:, :head_dim]


def choose(
    attention: str, window: Window, n_tokens: int, *, device: str = "cpu", documents: bool = False
) -> tuple[str, str]:
    """Name the kernel for one layer over a text of n_tokens, and the reason in words."""
    if attention in ("dense", "flex"):
        return attention, "the config asks for it"
    if window is None or window >= n_tokens:
        hides = "full attention" if window is None else f"a window of {window:,} hides nothing"
        where = f"in {n_tokens:,} tokens"
        if not documents:
            return "full", f"{hides} {where}"
        return ("flex" if device == "cuda" else "dense"), f"{hides} {where}, documents kept apart"
    if attention == "blocked":
        return "blocked", "the config asks for it"
    name = "flex" if device == "cuda" else "blocked"
    return name, f"a window of {window:,} in {n_tokens:,} tokens: cost grows with the window"


def attend(
    q: Tensor, k: Tensor, v: Tensor, window: Window, sinks: int, attention: str = "auto", *,
    q_sinks: Tensor | None = None, positions: Tensor | None = None,
    documents: Tensor | None = None, sink_logits: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Attend within a text with the kernel that `choose` names.

    `full` reads no `q_sinks`: it is chosen where no query is further than the window from a sink.
    """
    length, device = q.shape[2], q.device
    name, _ = choose(attention, window, length, device=device.type, documents=documents is not None)
    with torch.autocast(device.type, enabled=False):  # it would copy every score to fp32 and back
        if name == "full":
            return full(q, k, v, sink_logits)
        if name == "dense":
            at = torch.arange(length, device=device) if positions is None else positions
            pair = None if documents is None else (documents, documents)
            return dense(
                q, k, v, at, at, window, sinks,
                q_sinks=q_sinks, documents=pair, sink_logits=sink_logits,
            )  # fmt: skip
        kernel: Any = flex if name == "flex" else blocked
        return kernel(
            q, k, v, window, sinks,
            q_sinks=q_sinks, positions=positions, documents=documents, sink_logits=sink_logits,
        )  # fmt: skip


def _grouped(q: Tensor, k: Tensor) -> Tensor:
    """Queries, scaled, by the key head they share: (B, H, T, Dh) to (B, K, G, T, Dh)."""
    return (q * q.shape[-1] ** -0.5).unflatten(1, (k.shape[1], -1))


def _softmax(scores: Tensor, seen: Tensor, sink_logits: Tensor | None = None) -> Tensor:
    """Softmax over the keys that are seen. torch sums in fp32 whatever the dtype of `scores`."""
    hidden = torch.finfo(scores.dtype).min  # not -inf: a row that sees nothing must not be NaN
    scores = scores.masked_fill_(~seen, hidden)  # in place: the scores are ours
    if sink_logits is None:
        return scores.softmax(-1)
    column = sink_logits.to(scores.dtype).expand(*scores.shape[:-1], 1)
    return torch.cat((scores, column), dim=-1).softmax(-1)[..., :-1]


def _sink_columns(positions: Tensor, documents: Tensor | None, sinks: int) -> Tensor:
    """Where in the row each query's sinks stand, 0..n-1 of its document: (B, T, n).

    A sink that the document is too short for gets any column; no query comes after it.
    """
    length, device = positions.shape[-1], positions.device
    begin = torch.arange(length, device=device) - positions
    columns = begin[..., None] + torch.arange(sinks, device=device)
    if documents is not None:  # a sink token stands in front, once for all documents
        columns[..., 0] = torch.where(documents[:, :1] == 0, 0, columns[..., 0])
    return columns.clamp(0, length - 1)


def _gather(x: Tensor, columns: Tensor) -> Tensor:
    """Rows of x (B, K, T, Dh) at columns (B, T, n), side by side: (B, K, T, n * Dh)."""
    index = columns.flatten(1)[:, None, :, None].expand(*x.shape[:2], -1, x.shape[-1])
    return x.gather(2, index).unflatten(2, (-1, columns.shape[-1])).flatten(3)


def _block_mask(
    positions: Tensor, documents: Tensor | None, window: Window, sinks: int, hidden: int
) -> Any:
    """The rule as flex_attention wants it; the first `hidden` positions are left out."""
    from torch.nn.attention.flex_attention import create_block_mask

    batch, length = positions.shape

    def rule(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        row = b if batch > 1 else 0  # a single row of positions serves all
        i, j = positions[row, query], positions[row, key]
        of = None if documents is None else (documents[row, query], documents[row, key])
        return visible(i, j, window, sinks, of) & (j >= hidden)

    rows = batch if batch > 1 else None
    with torch.inference_mode(False):  # a mask that is kept must serve training as well
        return create_block_mask(rule, rows, None, length, length, device=positions.device.type)


@lru_cache(maxsize=64)  # one for each kind of layer, and the lengths that a run has
def _plain_block_mask(
    length: int, window: Window, sinks: int, hidden: int, device: torch.device
) -> Any:
    with torch.inference_mode(False):
        positions = torch.arange(length, device=device)[None]
    return _block_mask(positions, None, window, sinks, hidden)


@cache
def _flex_attention(fused: bool) -> Any:
    """torch's kernel, compiled where it can be fused."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention) if fused else flex_attention
