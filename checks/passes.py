"""Forward and backward passes: cached logits, outputs of all layers, gradients."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from model.cache import RollingKVCache
from model.transformer import Transformer


def cached_logits(model: Transformer, cache: RollingKVCache, tokens: Tensor, chunk: int) -> Tensor:
    """Return logits (B, T, V) of tokens (B, T) that continue `cache`, `chunk` tokens a pass."""
    return torch.cat([model(part, cache=cache) for part in tokens.split(chunk, dim=1)], dim=1)


@contextmanager
def recorded_outputs(model: Transformer) -> Iterator[list[list[Tensor]]]:
    """Record the outputs (B, T, D) of each layer: a list per layer, an entry per forward pass."""
    outputs: list[list[Tensor]] = [[] for _ in model.layers]
    hooks = [
        layer.register_forward_hook(lambda _m, _i, output, passes=passes: passes.append(output))
        for layer, passes in zip(model.layers, outputs, strict=True)
    ]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def weighted_gradients(
    output: Tensor, weights: Tensor, inputs: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Return the gradients of `(output * weights).sum()`; 0 for inputs that have no influence."""
    total = (output * weights).sum()
    return torch.autograd.grad(total, list(inputs), retain_graph=True, materialize_grads=True)


@torch.enable_grad()
def influence(model: Transformer, tokens: Tensor, query: int) -> tuple[Tensor, Tensor]:
    """Measure how strongly each token of a text (1, T) acts on the layer outputs at `query`.

    Returns the largest gradients, two tensors (layers, T): through that layer alone, and through
    that layer and all before it. Exactly 0 means no influence. A sink token has no column.
    """
    embedded: list[Tensor] = []
    hook = model.tok_embeddings.register_forward_hook(lambda _m, _i, out: embedded.append(out))
    with recorded_outputs(model) as outputs:
        model(tokens)
    hook.remove()
    alone: list[Tensor] = []
    through: list[Tensor] = []
    for depth, (output,) in enumerate(outputs):
        at_query = output[0, query - tokens.shape[1]]
        # Different weights: an equally weighted sum could be constant.
        weights = torch.linspace(1, 2, len(at_query), dtype=output.dtype)
        inputs = [outputs[depth - 1][0] if depth else embedded[0], embedded[0]]
        gradients = weighted_gradients(at_query, weights, inputs)
        for largest, gradient in zip((alone, through), gradients, strict=True):
            largest.append(gradient[0, -tokens.shape[1] :].abs().amax(-1))
    return torch.stack(alone), torch.stack(through)
