"""The oracle: a Mistral decoder in slow, obvious loops. It shares no code with `model/`.

Written from arXiv 2310.06825 (window), 2104.09864 (RoPE), 1910.07467 (RMSNorm), 2002.05202 (SwiGLU)
and WINDOW.md, not from the code under test. Everything is float64, one vector at a time, and
autograd runs through it, so that gradients are compared as well.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def visible(i: int, j: int, window: int | None, sinks: int = 0) -> bool:
    """Say whether the query at i sees the key at j; a window counts the query's own key."""
    if j < 0:
        return False  # there is no such key
    if j > i:
        return False  # the future
    if window is None:
        return True
    if j < sinks:
        return True  # a sink is seen for ever
    keys_from_j_to_i = i - j + 1
    return keys_from_j_to_i <= window


def depends(windows: Sequence[int | None], sinks: int, length: int) -> list[set[int]]:
    """For each position, the input tokens that can influence it after layers with these windows."""
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


def attend_one(query: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor]) -> Tensor:
    """Softmax attention of one query (Dh,) over the keys that it sees."""
    scores = [(query * key).sum() / math.sqrt(len(query)) for key in keys]
    largest = max(score.item() for score in scores)
    exponentials = [(score - largest).exp() for score in scores]
    total = sum(exponentials)
    return sum(e / total * value for e, value in zip(exponentials, values, strict=True))


def attention(q: Tensor, k: Tensor, v: Tensor, window: int | None, sinks: int = 0) -> Tensor:
    """Attention of q (B, H, T, Dh) over k, v (B, K, T, Dh); heads 0..H/K-1 share key head 0, ..."""
    batch, heads, length, _ = q.shape
    heads_per_key_head = heads // k.shape[1]
    texts = []
    for b in range(batch):
        outs = []
        for h in range(heads):
            keys = k[b, h // heads_per_key_head].unbind()
            values = v[b, h // heads_per_key_head].unbind()
            rows = []
            for i in range(length):
                seen = [j for j in range(length) if visible(i, j, window, sinks)]
                rows.append(
                    attend_one(q[b, h, i], [keys[j] for j in seen], [values[j] for j in seen])
                )
            outs.append(torch.stack(rows))
        texts.append(torch.stack(outs))
    return torch.stack(texts)


def turned(x: Tensor, position: int, theta: float) -> Tensor:
    """Rotate the neighbouring pairs (x[2n], x[2n+1]) of x (Dh,) by position * theta^(-2n/Dh)."""
    size = len(x)
    out = []
    for n in range(size // 2):
        angle = position * theta ** (-2 * n / size)
        cos, sin = math.cos(angle), math.sin(angle)
        a, b = x[2 * n], x[2 * n + 1]
        out += [a * cos - b * sin, a * sin + b * cos]
    return torch.stack(out)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    mean_square = (x * x).sum() / len(x)
    return x / torch.sqrt(mean_square + eps) * weight


def swiglu(x: Tensor, w1: Tensor, w2: Tensor, w3: Tensor) -> Tensor:
    gate = w1 @ x
    return w2 @ (gate / (1 + torch.exp(-gate)) * (w3 @ x))


def logits(
    weights: Mapping[str, Tensor],
    tokens: Sequence[int],
    *,
    windows: Sequence[int | None],
    sinks: int,
    n_heads: int,
    n_kv_heads: int,
    head_dim: int,
    rope_theta: float,
    norm_eps: float,
) -> Tensor:
    """Logits (T, V) float64 of one text, from weights under Mistral's names; a window a layer."""
    w = {name: weight.double() for name, weight in weights.items()}
    xs = [w["tok_embeddings.weight"][token] for token in tokens]
    for n, window in enumerate(windows):
        layer = f"layers.{n}."
        q, k, v = [], [], []
        for position, x in enumerate(xs):
            h = rms_norm(x, w[layer + "attention_norm.weight"], norm_eps)
            queries = (w[layer + "attention.wq.weight"] @ h).reshape(n_heads, head_dim)
            keys = (w[layer + "attention.wk.weight"] @ h).reshape(n_kv_heads, head_dim)
            values = (w[layer + "attention.wv.weight"] @ h).reshape(n_kv_heads, head_dim)
            q.append(torch.stack([turned(head, position, rope_theta) for head in queries]))
            k.append(torch.stack([turned(head, position, rope_theta) for head in keys]))
            v.append(values)
        by_head = [torch.stack(part, dim=1).unsqueeze(0) for part in (q, k, v)]  # (1, H, T, Dh)
        out = attention(*by_head, window, sinks)[0]
        for position in range(len(xs)):
            joined = torch.cat([out[h, position] for h in range(n_heads)])
            x = xs[position] + w[layer + "attention.wo.weight"] @ joined
            h = rms_norm(x, w[layer + "ffn_norm.weight"], norm_eps)
            names = [f"{layer}feed_forward.{name}.weight" for name in ("w1", "w2", "w3")]
            xs[position] = x + swiglu(h, *(w[name] for name in names))
    return torch.stack([w["output.weight"] @ rms_norm(x, w["norm.weight"], norm_eps) for x in xs])
