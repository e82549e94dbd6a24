"""The oracle: the expected results of the checks, from the same model written as slow loops.

It shares no code with `model/`, and computes three things in a different way on purpose:

    keys       the keys that a query sees are listed, as two ranges; there is no mask
    rotation   no vector is rotated: a RoPE score depends on the distance between query and key, and
               is computed from that distance (arXiv 2104.09864, equation 16)
    heads      a loop over query heads, each with the key head of its group

One text and one query at a time. Autograd works through all of it.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from model.config import ModelConfig

Window = int | None


def layer_windows(config: ModelConfig) -> list[Window]:
    """Return the window of each layer, from the pattern in the config."""
    setting = config.sliding_window
    pattern = [setting] if setting is None or isinstance(setting, int) else list(setting)
    return [pattern[layer % len(pattern)] for layer in range(config.n_layers)]


def n_sinks(config: ModelConfig, window: Window) -> int:
    """Return the number of first positions that a layer with this window always sees."""
    return 0 if window is None else config.attention_sinks + (1 if config.sink_token else 0)


def visible_keys(i: int, window: Window, sinks: int) -> list[int]:
    """Return the positions of the keys that the query at position i sees."""
    oldest = 0 if window is None else max(0, i - (window - 1))
    return [*range(min(sinks, oldest)), *range(oldest, i + 1)]


def dependencies(config: ModelConfig, length: int) -> list[Tensor]:
    """Return a bool matrix (T, T) for each layer: does its output at row i depend on token j?"""
    front = 1 if config.sink_token else 0
    length += front
    reached, layers = torch.eye(length), []
    for window in layer_windows(config):
        direct = torch.zeros(length, length)
        for i in range(length):
            direct[i, visible_keys(i, window, n_sinks(config, window))] = 1.0
        reached = (direct @ reached > 0).float()
        layers.append(reached[front:, front:] > 0)
    return layers


def attention(
    q: Tensor, k: Tensor, v: Tensor, window: Window, sinks: int = 0, *,
    q_sinks: Tensor | None = None, sink_logits: Tensor | None = None,
    rows: Sequence[int] | None = None,
) -> Tensor:  # fmt: skip
    """Return attention (B, H, T, Dh) of q (B, H, T, Dh) over k, v (B, K, T, Dh).

    All are rotated. q_sinks (B, H, T, Dh) are the queries as rotated for sinks; sink_logits (H,).
    With `rows`, only these queries are computed: (B, H, rows, Dh).
    """
    texts = []
    for b in range(len(q)):
        outputs = []
        for t in range(q.shape[2]) if rows is None else rows:
            seen = visible_keys(t, window, sinks)
            scores = _scores(q[b, :, t], k[b][:, seen])
            if q_sinks is not None:
                is_sink = torch.tensor([key < sinks for key in seen], device=q.device)
                scores = torch.where(is_sink, _scores(q_sinks[b, :, t], k[b][:, seen]), scores)
            scores = scores / math.sqrt(q.shape[-1])
            outputs.append(_attend(scores, v[b][:, seen], sink_logits))
        texts.append(torch.stack(outputs, dim=1))
    return torch.stack(texts)


def _scores(q: Tensor, k: Tensor) -> Tensor:
    """Return the scores (H, S) of one query (H, Dh) and keys (K, S, Dh), without the scale."""
    keys = k.repeat_interleave(len(q) // len(k), dim=0)  # (H, S, Dh)
    return torch.einsum("hd,hsd->hs", q, keys)


def _attend(scores: Tensor, values: Tensor, sink_logits: Tensor | None) -> Tensor:
    """Return the output (H, Dh) of one query from its scores (H, S) and values (K, S, Dh)."""
    n_heads, group = len(scores), len(scores) // len(values)
    outputs = []
    for head in range(n_heads):
        logits = scores[head]
        if sink_logits is not None:
            logits = torch.cat((logits, sink_logits[head : head + 1]))
        weights = torch.exp(logits - torch.logsumexp(logits, 0))
        outputs.append(weights[: values.shape[1]] @ values[head // group])
    return torch.stack(outputs)


def frequencies(config: ModelConfig, window: Window) -> tuple[list[float], float]:
    """Return radians per position of each pair in a head, and the factor on every score."""
    size, s = config.head_dim, config.rope_factor
    assert size is not None
    if window is not None and config.rope_theta_local is not None:
        return [config.rope_theta_local ** (-2 * n / size) for n in range(size // 2)], 1.0
    theta = config.rope_theta
    plain = [theta ** (-2 * n / size) for n in range(size // 2)]
    if config.rope_scaling == "linear":
        return [frequency / s for frequency in plain], 1.0
    if config.rope_scaling == "ntk":
        # The slowest pair (n = size / 2 - 1) slows down by s, the others by a power of s.
        return [plain[n] * s ** (-2 * n / max(size - 2, 1)) for n in range(size // 2)], 1.0
    if config.rope_scaling == "yarn":
        return _yarn_frequencies(config, plain), (0.1 * math.log(s) + 1) ** 2
    return plain, 1.0


def _yarn_frequencies(config: ModelConfig, plain: Sequence[float]) -> list[float]:
    """Slow down the pairs that make less than 32 turns in the trained length (arXiv 2309.00071)."""
    size, s, theta = config.head_dim, config.rope_factor, config.rope_theta
    assert size is not None and config.rope_original_len is not None
    turns = config.rope_original_len / (2 * math.pi)  # at a frequency of 1
    fast, slow = (size * math.log(turns / count) / (2 * math.log(theta)) for count in (32, 1))
    first, last = max(math.floor(fast), 0), min(math.ceil(slow), size - 1)
    shares = [min(max((n - first) / max(last - first, 1e-3), 0.0), 1.0) for n in range(size // 2)]
    return [x * (1 - share) + x / s * share for x, share in zip(plain, shares, strict=True)]


def rope_scores(q: Tensor, k: Tensor, distances: Tensor, frequency: Tensor) -> Tensor:
    """Return scores (H, S) of one query (H, Dh) and keys (H, S, Dh), neither of them rotated.

    `distances` (S,) from each key to the query, in positions; `frequency` (Dh / 2,).
    """
    angle = distances[:, None] * frequency  # (S, Dh / 2)
    q = q[:, None]
    dot = q[..., 0::2] * k[..., 0::2] + q[..., 1::2] * k[..., 1::2]
    cross = q[..., 0::2] * k[..., 1::2] - q[..., 1::2] * k[..., 0::2]
    return (dot * angle.cos() + cross * angle.sin()).sum(-1)


def logits(
    weights: Mapping[str, Tensor],
    config: ModelConfig,
    tokens: Sequence[int],
    windows: Sequence[Window],
) -> Tensor:
    """Return the logits (T, V) of one text from float64 weights under Mistral's names.

    `windows` has one window for each layer.
    """
    x = torch.stack([weights["tok_embeddings.weight"][token] for token in tokens])
    if config.sink_token:
        x = torch.cat((weights["sink_token"][None], x))
    for n, window in enumerate(windows):
        w = {
            name.removeprefix(f"layers.{n}.").removesuffix(".weight"): weight
            for name, weight in weights.items()
            if name.startswith(f"layers.{n}.")
        }
        x = x + _attention_layer(w, config, _rms_norm(x, w["attention_norm"], config), window)
        h = _rms_norm(x, w["ffn_norm"], config)
        gate = h @ w["feed_forward.w1"].T
        x = x + (gate * torch.sigmoid(gate) * (h @ w["feed_forward.w3"].T)) @ w["feed_forward.w2"].T
    x = _rms_norm(x, weights["norm.weight"], config)[1 if config.sink_token else 0 :]
    name = "tok_embeddings.weight" if config.tie_embeddings else "output.weight"
    return F.linear(x, weights[name])


def _rms_norm(x: Tensor, weight: Tensor, config: ModelConfig) -> Tensor:
    """Return x (..., D) divided by its root mean square, times the weight (D,)."""
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + config.norm_eps) * weight


def _attention_layer(
    w: Mapping[str, Tensor], config: ModelConfig, x: Tensor, window: Window
) -> Tensor:
    """Return the attention output (T, D) of one layer for its normed input x (T, D)."""
    size, sinks = config.head_dim, n_sinks(config, window)
    group = config.n_heads // config.n_kv_heads
    assert size is not None
    q = (x @ w["attention.wq"].T).reshape(len(x), config.n_heads, size)
    k = (x @ w["attention.wk"].T).reshape(len(x), config.n_kv_heads, size)
    v = (x @ w["attention.wv"].T).reshape(len(x), config.n_kv_heads, size)
    numbers, factor = frequencies(config, window)
    frequency = torch.tensor(numbers, dtype=x.dtype, device=x.device)
    rows = []
    for i in range(len(x)):
        seen = visible_keys(i, window, sinks)
        keys = k[seen].transpose(0, 1).repeat_interleave(group, dim=0)  # (H, S, Dh)
        # For a sink the query counts as being at the end of the cache, at most W + n - 1.
        sink_query = i if window is None else min(i, window + sinks - 1)
        distances = [(sink_query if key < sinks else i) - key for key in seen]
        scores = rope_scores(q[i], keys, torch.tensor(distances, device=x.device), frequency)
        scores = scores * factor / math.sqrt(size)
        values = v[seen].transpose(0, 1)
        rows.append(_attend(scores, values, w.get("attention.sink_logits")).flatten())
    return torch.stack(rows) @ w["attention.wo"].T
