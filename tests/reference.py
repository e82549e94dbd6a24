"""The oracle: a Mistral decoder in slow, obvious loops. It shares no code with `model/`.

Written from arXiv 2310.06825 (window), 2309.17453 (sinks), 2508.10925 (sink logits), 2104.09864
(RoPE), 2306.15595 and 2309.00071 (RoPE scaling), 1910.07467 (RMSNorm) and 2002.05202 (SwiGLU), and
not from the code under test. Everything is float64, one query at a time. Autograd
works, so that gradients can be compared too.

Documents packed in a row are separate texts (`runs`); the oracle computes each alone.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

Window = int | None


def visible(i: int, j: int, window: Window, sinks: int = 0) -> bool:
    """Return whether the query at i sees the key at j; a window counts the query's own key."""
    if j < 0:
        return False  # there is no such key
    if j > i:
        return False  # the future
    if window is None:
        return True
    if j < sinks:
        return True  # a sink stays visible
    keys_from_j_to_i = i - j + 1
    return keys_from_j_to_i <= window


def depends(windows: Sequence[Window], sinks: int, length: int) -> list[set[int]]:
    """Return, for each position, the positions that can influence it through these layers."""
    sources = [{i} for i in range(length)]
    for window in windows:
        after = []
        for i in range(length):
            union: set[int] = set()
            for j in range(length):
                if visible(i, j, window, sinks):
                    union |= sources[j]
            after.append(union)
        sources = after
    return sources


def runs(documents: Sequence[int]) -> list[list[int]]:
    """Return the columns of each document, a run of equal numbers: 7 7 5 7 are three documents."""
    columns: list[list[int]] = []
    for column, number in enumerate(documents):
        if column == 0 or number != documents[column - 1]:
            columns.append([])
        columns[-1].append(column)
    return columns


def streamed(i: int, window: Window, sinks: int) -> list[int]:
    """Return the positions of the keys in a streaming cache when position i is decoded.

    Sinks come first, then the window, whose last key is that of i. The index in this list is the
    position in the cache.
    """
    if window is None:
        return list(range(i + 1))
    first = max(0, i - window + 1)
    return [s for s in range(sinks) if s < first] + list(range(first, i + 1))


def attend_one(
    query: Tensor, keys: Tensor, values: Tensor, sink_logit: Tensor | None = None
) -> Tensor:
    """Softmax attention of one query (Dh,) over the keys and values (S, Dh) that it sees.

    The query may also be (S, Dh), one for each key. A sink logit is one more term of the softmax,
    without a value.
    """
    scores = (query * keys).sum(dim=1) / math.sqrt(keys.shape[1])
    if sink_logit is not None:
        scores = torch.cat([scores, sink_logit.reshape(1)])
    exponentials = (scores - scores.max().item()).exp()
    weights = exponentials / exponentials.sum()
    return weights[: len(keys)] @ values


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: Window,
    sinks: int = 0,
    *,
    q_sinks: Tensor | None = None,
    positions: Tensor | None = None,
    documents: Tensor | None = None,
    sink_logits: Tensor | None = None,
) -> Tensor:
    """Return attention of q (B, H, T, Dh) over k, v (B, K, T, Dh). Heads 0..H/K-1 share key head 0,
    and so on. `q_sinks` (B, H, T, Dh) are the queries for keys at positions below `sinks`.
    `positions` and `documents` are (B, T); by default 0..T-1 and one document. Document 0 is
    visible to all. `sink_logits` are (H,)."""
    batch, heads, length, _ = q.shape
    group = heads // k.shape[1]
    texts = []
    for b in range(batch):
        position = list(range(length)) if positions is None else positions[b].tolist()
        document = [1] * length if documents is None else documents[b].tolist()
        seen = [
            [
                key
                for key in range(length)
                if document[key] in (document[query], 0)
                and visible(position[query], position[key], window, sinks)
            ]
            for query in range(length)
        ]
        outs = []
        for h in range(heads):
            rows = []
            for t in range(length):
                query = q[b, h, t].expand(len(seen[t]), -1)
                if q_sinks is not None:
                    is_sink = torch.tensor([[position[key] < sinks] for key in seen[t]])
                    query = torch.where(is_sink, q_sinks[b, h, t], query)
                keys, values = k[b, h // group][seen[t]], v[b, h // group][seen[t]]
                logit = None if sink_logits is None else sink_logits[h]
                rows.append(attend_one(query, keys, values, logit))
            outs.append(torch.stack(rows))
        texts.append(torch.stack(outs))
    return torch.stack(texts)


class Rope(NamedTuple):
    """How a layer rotates pairs: the base, and the scaling for texts `factor` times longer."""

    theta: float
    scaling: str = "none"
    factor: float = 1.0
    original_len: int | None = None


@cache
def speeds(size: int, rope: Rope) -> list[float]:
    """Return the radians per position of each of the size / 2 pairs."""
    theta, factor = rope.theta, rope.factor
    pairs = range(size // 2)
    plain = [theta ** (-2 * n / size) for n in pairs]
    if rope.scaling == "none":
        return plain
    if rope.scaling == "linear":
        return [speed / factor for speed in plain]
    if rope.scaling == "ntk":
        stretched = theta * factor ** (size / (size - 2))
        return [stretched ** (-2 * n / size) for n in pairs]
    assert rope.scaling == "yarn" and rope.original_len is not None

    def rotations(n: int) -> float:
        """Return the number of full rotations of pair n in the trained length."""
        return rope.original_len * theta ** (-2 * n / size) / (2 * math.pi)

    kept = 0  # the last pair with 32 rotations or more: pairs up to it do not change
    while rotations(kept + 1) >= 32:
        kept += 1
    slow = 0  # the first pair with at most one: from it on all are slower by the factor
    while rotations(slow) > 1 and slow < size - 1:
        slow += 1
    mixed = []
    for n, speed in enumerate(plain):
        share = 0.0 if n <= kept else 1.0 if n >= slow else (n - kept) / (slow - kept)
        mixed.append((1 - share) * speed + share * speed / factor)
    return mixed


def rotated(x: Tensor, positions: Sequence[int], rope: Rope) -> Tensor:
    """Rotate the pairs (x[2n], x[2n+1]) of each row of x (N, Dh) by the angles of its position."""
    angles = [[position * speed for speed in speeds(x.shape[1], rope)] for position in positions]
    cos = torch.tensor([[math.cos(angle) for angle in row] for row in angles], dtype=x.dtype)
    sin = torch.tensor([[math.sin(angle) for angle in row] for row in angles], dtype=x.dtype)
    a, b = x[:, 0::2], x[:, 1::2]
    pairs = torch.stack([a * cos - b * sin, a * sin + b * cos], dim=2)
    magnitude = 0.1 * math.log(rope.factor) + 1 if rope.scaling == "yarn" else 1.0
    return magnitude * pairs.flatten(1)


def streaming_head(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: Window,
    sinks: int,
    rope: Rope,
    sink_logit: Tensor | None,
) -> Tensor:
    """Attention of one head over q, k, v (T, Dh), not rotated yet, as StreamingLLM decodes.

    The cache holds the sinks and the window of a query. Keys and query are rotated to their
    positions in the cache, whatever their distance in the text.
    """
    rows = []
    for i in range(len(q)):
        cached = streamed(i, window, sinks)
        keys = rotated(k[cached], range(len(cached)), rope)
        query = rotated(q[i : i + 1], [len(cached) - 1], rope)
        rows.append(attend_one(query[0], keys, v[cached], sink_logit))
    return torch.stack(rows)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Normalise one vector (D,)."""
    mean_square = (x * x).sum() / len(x)
    return x / torch.sqrt(mean_square + eps) * weight


def swiglu(x: Tensor, w1: Tensor, w2: Tensor, w3: Tensor) -> Tensor:
    """Return the feed-forward output of one vector (D,)."""
    gate = w1 @ x
    return w2 @ (gate / (1 + torch.exp(-gate)) * (w3 @ x))


def logits(
    weights: Mapping[str, Tensor],
    tokens: Sequence[int],
    *,
    windows: Sequence[Window],
    ropes: Sequence[Rope],
    sinks: int,
    n_heads: int,
    n_kv_heads: int,
    head_dim: int,
    norm_eps: float,
) -> Tensor:
    """Return the logits (T, V) float64 of one text, from weights with Mistral's names.

    `windows` and `ropes` have one entry per layer. A weight `sink_token` is one more token in front
    of the text, without logits; `sinks` counts it.
    """
    w = {name: weight.double() for name, weight in weights.items()}
    xs = [w["sink_token"]] if "sink_token" in w else []
    n_front = len(xs)
    xs += [w["tok_embeddings.weight"][token] for token in tokens]
    for n, (window, rope) in enumerate(zip(windows, ropes, strict=True)):
        layer = f"layers.{n}."
        hs = [rms_norm(x, w[layer + "attention_norm.weight"], norm_eps) for x in xs]
        q, k, v = (
            torch.stack([w[f"{layer}attention.{name}.weight"] @ h for h in hs])  # (T, heads * Dh)
            for name in ("wq", "wk", "wv")
        )
        outs = []
        for head in range(n_heads):
            key_head = head // (n_heads // n_kv_heads)
            own = slice(head * head_dim, (head + 1) * head_dim)
            shared = slice(key_head * head_dim, (key_head + 1) * head_dim)
            learned = w.get(layer + "attention.sink_logits")
            logit = None if learned is None else learned[head]
            outs.append(
                streaming_head(q[:, own], k[:, shared], v[:, shared], window, sinks, rope, logit)
            )
        for position in range(len(xs)):
            joined = torch.cat([out[position] for out in outs])
            x = xs[position] + w[layer + "attention.wo.weight"] @ joined
            h = rms_norm(x, w[layer + "ffn_norm.weight"], norm_eps)
            names = [f"{layer}feed_forward.{name}.weight" for name in ("w1", "w2", "w3")]
            xs[position] = x + swiglu(h, *(w[name] for name in names))
    xs = xs[n_front:]
    return torch.stack([w["output.weight"] @ rms_norm(x, w["norm.weight"], norm_eps) for x in xs])
