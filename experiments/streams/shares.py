"""How much of its attention does each head pay to the first token, to a trained sink, to commas?

A hook computes the queries and keys of each layer once more, as `model/attention.py` does, and
their whole softmax: slow, and only for short texts. The share is the mean over queries, since a
softmax over i keys would give the first one 1 / i if it were even.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from model.attention import Attention, Positions
from model.kernels.scores import grouped
from model.layers import project
from model.rope import rotate
from model.window import visible

if TYPE_CHECKING:
    from model import Transformer

FROM = 32  # queries before this position are not counted: they see few keys


@dataclass(frozen=True)
class Shares:
    """Mean shares of attention, each (layers, heads), in queries from `FROM` on."""

    first: Tensor  # on the first token of the text
    sink: Tensor | None  # on the sink token or the sink logit, which a model may have
    kinds: Tensor  # (layers, heads, V): on all keys of each token of the vocabulary


@torch.inference_mode()
def attention_shares(model: "Transformer", texts: Tensor, first_query: int = FROM) -> Shares:
    """Measure the shares in texts (B, T) from their beginning, over queries from `first_query`."""
    found: list[Tensor] = []

    def note(layer: Attention, arguments: tuple[Any, ...]) -> None:
        found.append(attention_weights(layer, arguments[0], arguments[1]))

    hooks = [block.attention.register_forward_pre_hook(note) for block in model.layers]  # type: ignore[operator, union-attr]
    try:
        model(texts)
    finally:
        for hook in hooks:
            hook.remove()
    front = int(model.sink_token is not None)
    keys = torch.stack([weights[:, :, first_query + front :].mean(2) for weights in found], dim=1)
    means = keys.mean(0)  # keys: (B, layers, heads, keys)
    trained_sink = 0 if front else -1 if model.config.sink_logits else None
    of_text = keys[..., front : front + texts.shape[1]]
    which = texts[:, None, None].expand_as(of_text)
    kinds = keys.new_zeros(*keys.shape[:3], model.config.vocab_size)
    return Shares(
        first=means[..., front],
        sink=None if trained_sink is None else means[..., trained_sink],
        kinds=kinds.scatter_add_(-1, which, of_text).mean(0),
    )


def attention_weights(layer: Attention, x: Tensor, tokens: Positions) -> Tensor:
    """Return the softmax (B, H, T, T) of a layer over x (B, T, D), a text from its beginning.

    With sink logits there is one more column (B, H, T, T + 1), the last.
    """
    assert tokens.documents is None, "texts of one document a row"
    n_heads, n_kv_heads, length = layer.n_heads, layer.n_kv_heads, x.shape[1]
    heads = project(x, layer.wq, layer.wk).unflatten(-1, (n_heads + n_kv_heads, -1))
    q, k = heads.transpose(1, 2).split((n_heads, n_kv_heads), dim=1)
    k = rotate(k, tokens.rotation)
    scores = _scores(rotate(q, tokens.rotation), k)
    at = torch.arange(length)
    i, j = at[:, None], at[None]
    if layer.window is not None and tokens.sink_rotation is not None and layer.window < length:
        is_sink = j < layer.sinks
        scores = torch.where(is_sink, _scores(rotate(q, tokens.sink_rotation), k), scores)
    scores = scores.masked_fill(~visible(i, j, layer.window, layer.sinks), -torch.inf)
    if layer.sink_logits is not None:
        logits = layer.sink_logits[:, None, None].expand(len(x), n_heads, length, 1)
        scores = torch.cat((scores, logits), dim=-1)
    return scores.softmax(-1)


def _scores(q: Tensor, k: Tensor) -> Tensor:
    """Return the scaled products (B, H, T, S) of q (B, H, T, Dh) and k (B, K, S, Dh)."""
    return (grouped(q, k) @ k.mT[:, :, None]).flatten(1, 2)
