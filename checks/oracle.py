"""The expected side of the proofs: the whole model once more, in loops and in other words.

It uses nothing of window.py, kernels.py, cache.py, rope.py, and differs from them on purpose:

    keys       a query's keys are listed, as two ranges; there is no mask
    rotation   nothing is rotated: RoPE's score depends on how far apart query and key are, and is
               computed from that distance (arXiv 2104.09864, equation 16)
    heads      query heads are walked one by one, each to the key head of its group

One text at a time, one query at a time, slow. Gradients run through it.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from model.config import ModelConfig

Window = int | None


def stack(config: ModelConfig) -> list[Window]:
    """The window of each layer, from the pattern in the config."""
    given = config.sliding_window
    pattern = [given] if given is None or isinstance(given, int) else list(given)
    return [pattern[layer % len(pattern)] for layer in range(config.n_layers)]


def kept(config: ModelConfig, window: Window) -> int:
    """How many first positions a layer with this window never loses."""
    return 0 if window is None else config.attention_sinks + (1 if config.sink_token else 0)


def keys_of(i: int, window: Window, sinks: int) -> list[int]:
    """The positions of the keys that the query at position i sees."""
    oldest = 0 if window is None else max(0, i - (window - 1))
    return [*range(min(sinks, oldest)), *range(oldest, i + 1)]


def sources(config: ModelConfig, length: int) -> list[Tensor]:
    """For each depth (T, T): does what a layer gives out in a row depend on a token, a column?"""
    front = 1 if config.sink_token else 0
    length += front
    reached, depths = torch.eye(length), []
    for window in stack(config):
        step = torch.zeros(length, length)
        for i in range(length):
            step[i, keys_of(i, window, kept(config, window))] = 1.0
        reached = (step @ reached > 0).float()
        depths.append(reached[front:, front:] > 0)
    return depths


def mix(scores: Tensor, values: Tensor, sink_logits: Tensor | None) -> Tensor:
    """One query's output (H, Dh) from its scores (H, S) and the values (K, S, Dh)."""
    n_heads, group = len(scores), len(scores) // len(values)
    out = []
    for head in range(n_heads):
        logits = scores[head]
        if sink_logits is not None:
            logits = torch.cat((logits, sink_logits[head : head + 1]))
        shares = torch.exp(logits - torch.logsumexp(logits, 0))
        out.append(shares[: values.shape[1]] @ values[head // group])
    return torch.stack(out)


def attention(
    q: Tensor, k: Tensor, v: Tensor, window: Window, sinks: int = 0, *,
    q_sinks: Tensor | None = None, documents: Tensor | None = None,
    sink_logits: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Attention of q (B, H, T, Dh) over k, v (B, K, T, Dh) already rotated; documents (B, T)."""
    group = q.shape[1] // k.shape[1]
    texts = []
    for b in range(len(q)):
        rows, begin = [], 0
        for t in range(q.shape[2]):
            if documents is not None and t and documents[b, t] != documents[b, t - 1]:
                begin = t
            seen = keys_of(t - begin, window, sinks)
            keys = k[b, :, [begin + s for s in seen]].repeat_interleave(group, dim=0)  # (H, S, Dh)
            scores = torch.einsum("hd,hsd->hs", q[b, :, t], keys)
            if q_sinks is not None:
                from_sinks = torch.einsum("hd,hsd->hs", q_sinks[b, :, t], keys)
                is_sink = torch.tensor([s < sinks for s in seen], device=q.device)
                scores = torch.where(is_sink, from_sinks, scores)
            values = v[b, :, [begin + s for s in seen]]
            rows.append(mix(scores / math.sqrt(q.shape[-1]), values, sink_logits))
        texts.append(torch.stack(rows, dim=1))
    return torch.stack(texts)


def speeds(config: ModelConfig, window: Window) -> tuple[list[float], float]:
    """Radians a position of each pair of numbers in a head, and what a score is multiplied by."""
    size, s = config.head_dim, config.rope_factor
    assert size is not None
    if window is not None and config.rope_theta_local is not None:
        return [config.rope_theta_local ** (-2 * n / size) for n in range(size // 2)], 1.0
    theta = config.rope_theta
    plain = [theta ** (-2 * n / size) for n in range(size // 2)]
    if config.rope_scaling == "linear":
        return [speed / s for speed in plain], 1.0
    if config.rope_scaling == "ntk":
        # What turns slowest (n = size / 2 - 1) slows down by s, others by a power of it.
        return [speed * s ** (-2 * n / max(size - 2, 1)) for n, speed in enumerate(plain)], 1.0
    if config.rope_scaling == "yarn":
        assert config.rope_original_len is not None
        turns = config.rope_original_len / (2 * math.pi)  # of a pair that turns by 1 a position
        fast, slow = (size * math.log(turns / many) / (2 * math.log(theta)) for many in (32, 1))
        first, last = max(math.floor(fast), 0), min(math.ceil(slow), size - 1)
        shares = [min(max((n - first) / max(last - first, 1e-3), 0.0), 1.0) for n in range(size)]
        scaled = [x * (1 - share) + x / s * share for x, share in zip(plain, shares, strict=False)]
        return scaled, (0.1 * math.log(s) + 1) ** 2
    return plain, 1.0


def rope_scores(q: Tensor, k: Tensor, apart: Tensor, speed: Tensor) -> Tensor:
    """Scores (H, S) of one query (H, Dh) and keys (H, S, Dh), neither rotated, `apart` (S,)."""
    angle = apart[:, None] * speed  # (S, Dh / 2)
    q = q[:, None]
    together = q[..., 0::2] * k[..., 0::2] + q[..., 1::2] * k[..., 1::2]
    across = q[..., 0::2] * k[..., 1::2] - q[..., 1::2] * k[..., 0::2]
    return (together * angle.cos() + across * angle.sin()).sum(-1)


def logits(
    weights: Mapping[str, Tensor],
    config: ModelConfig,
    tokens: Sequence[int],
    windows: Sequence[Window],
) -> Tensor:
    """Logits (T, V) of one text from float64 weights under Mistral's names; a window a layer."""
    x = torch.stack([weights["tok_embeddings.weight"][token] for token in tokens])
    if config.sink_token:
        x = torch.cat((weights["sink_token"][None], x))
    for n, window in enumerate(windows):
        w = {
            name.removeprefix(f"layers.{n}.").removesuffix(".weight"): weight
            for name, weight in weights.items()
            if name.startswith(f"layers.{n}.")
        }
        x = x + _attended(w, config, _normed(x, w["attention_norm"], config), window)
        h = _normed(x, w["ffn_norm"], config)
        gate = h @ w["feed_forward.w1"].T
        x = x + (gate * torch.sigmoid(gate) * (h @ w["feed_forward.w3"].T)) @ w["feed_forward.w2"].T
    x = _normed(x, weights["norm.weight"], config)[1 if config.sink_token else 0 :]
    name = "tok_embeddings.weight" if config.tie_embeddings else "output.weight"
    return F.linear(x, weights[name])


def _normed(x: Tensor, weight: Tensor, config: ModelConfig) -> Tensor:
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + config.norm_eps) * weight


def _attended(w: Mapping[str, Tensor], config: ModelConfig, x: Tensor, window: Window) -> Tensor:
    """What one layer's attention adds to its normed input x (T, D)."""
    size, sinks = config.head_dim, kept(config, window)
    group = config.n_heads // config.n_kv_heads
    assert size is not None
    q = (x @ w["attention.wq"].T).reshape(len(x), config.n_heads, size)
    k = (x @ w["attention.wk"].T).reshape(len(x), config.n_kv_heads, size)
    v = (x @ w["attention.wv"].T).reshape(len(x), config.n_kv_heads, size)
    numbers, magnitude = speeds(config, window)
    speed = torch.tensor(numbers, dtype=x.dtype, device=x.device)
    rows = []
    for i in range(len(x)):
        seen = keys_of(i, window, sinks)
        keys = k[seen].transpose(0, 1).repeat_interleave(group, dim=0)  # (H, S, Dh)
        furthest = i if window is None else min(i, window + sinks - 1)  # as a sink is seen
        apart = [(furthest if s < sinks else i) - s for s in seen]
        scores = rope_scores(q[i], keys, torch.tensor(apart, device=x.device), speed)
        scores = scores * magnitude / math.sqrt(size)
        values = v[seen].transpose(0, 1)
        rows.append(mix(scores, values, w.get("attention.sink_logits")).flatten())
    return torch.stack(rows) @ w["attention.wo"].T
