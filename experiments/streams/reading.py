"""A model reads a text far past its trained length: the nats of every token, in five ways.

    through the cache    the last W keys, and so many sinks; StreamingLLM (arXiv 2309.17453)
    ... and the sink token dropped, as soon as it leaves the window
    recomputed           each token from its last W tokens alone, as if the text began there
    as trained           the text cut into sequences of the trained length
    dense                all earlier tokens, also those further away than in training

Texts are rows of tokens (B, T + 1), and nats are (B, T): of all tokens but the first.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from model import RollingKVCache

if TYPE_CHECKING:
    from model import Transformer

CHUNK = 64  # tokens in a forward pass through the cache
BATCH = 4_096  # tokens in a forward pass without a cache


def texts_of(tokens: Tensor, length: int, n_texts: int) -> Tensor:
    """Cut up to `n_texts` texts (B, length + 1) from tokens (N,), evenly spaced, without overlap.

    If N is smaller than one text, the result is one shorter text.
    """
    length = min(length, len(tokens) - 1)
    n_texts = min(n_texts, len(tokens) // (length + 1))
    starts = torch.arange(n_texts) * (len(tokens) // n_texts)
    return tokens[starts[:, None] + torch.arange(length + 1)]


@torch.inference_mode()
def stream(model: "Transformer", texts: Tensor, label: str, drop_token_at: int = 0) -> Tensor:
    """Return the nats of texts read through the rolling cache.

    With `drop_token_at`, the model's sink token is hidden from that position on; 0: never. The
    position is rounded up to a multiple of `CHUNK`.
    """
    cache = RollingKVCache(model.config, batch_size=len(texts))
    inputs, targets = texts[:, :-1], texts[:, 1:]
    nats, position = [], 0
    parts = list(zip(inputs.split(CHUNK, 1), targets.split(CHUNK, 1), strict=True))
    for tokens, following in tqdm(parts, label, leave=False, disable=None):
        if drop_token_at and position >= drop_token_at:
            for ring in cache.layers:
                ring.positions[:, 0] = -1  # an empty slot: no query sees it
        nats.append(_nats(model(tokens, cache=cache), following))
        position += tokens.shape[1]
    return torch.cat(nats, dim=1)


@torch.inference_mode()
def recomputed(model: "Transformer", texts: Tensor, window: int, every: int) -> Tensor:
    """Return the nats of every `every`-th token, each read from its last `window` tokens alone.

    The first `window` tokens are all measured: they are the first ones of a text. Tokens that are
    not measured are NaN.
    """
    nats = torch.full((len(texts), texts.shape[1] - 1), torch.nan)
    nats[:, :window] = _nats(
        model(texts[:, : min(window, nats.shape[1])]), texts[:, 1 : window + 1]
    )
    ends = torch.arange(window, nats.shape[1], every)
    per_pass = max(1, BATCH // window // len(texts))
    parts = ends.split(per_pass) if len(ends) else ()
    for some in tqdm(parts, "recomputed", leave=False, disable=None):
        columns = some[:, None] + torch.arange(1 - window, 1)  # (n, W), the last one is the query
        windows = texts[:, columns].flatten(0, 1)
        logits = model(windows, last_only=True)[:, 0].unflatten(0, (len(texts), -1))
        nats[:, some] = _nats(logits, texts[:, some + 1])
    return nats


@torch.inference_mode()
def as_trained(model: "Transformer", texts: Tensor, trained_length: int) -> Tensor:
    """Return the nats of texts that are cut into sequences of the trained length."""
    parts = zip(
        texts[:, :-1].split(trained_length, 1), texts[:, 1:].split(trained_length, 1), strict=True
    )
    return torch.cat([_nats(model(inputs), targets) for inputs, targets in parts], dim=1)


@torch.inference_mode()
def dense(model: "Transformer", texts: Tensor) -> Tensor:
    """Return the nats of texts read whole, one after another."""
    rows = tqdm(texts[:, None], "dense", leave=False, disable=None)
    return torch.cat([_nats(model(row[:, :-1]), row[:, 1:]) for row in rows])


def interval_ends(trained_length: int, n_tokens: int, window: int | None = None) -> list[int]:
    """Return the ends of the intervals: the window, the trained length, its doubles, `n_tokens`."""
    ends = [] if window is None or window >= min(trained_length, n_tokens) else [window]
    end = trained_length
    while end < n_tokens:
        ends.append(end)
        end *= 2
    return [*ends, n_tokens]


def interval_means(nats: Tensor, ends: Sequence[int]) -> list[float]:
    """Return the mean of nats (B, T) over all rows, in each interval; NaN counts as unmeasured."""
    return [
        nats[:, start:end].nanmean().item() for start, end in zip([0, *ends], ends, strict=False)
    ]


def _nats(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy (B, T) of logits (B, T, V)."""
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="none").view_as(
        targets
    )
