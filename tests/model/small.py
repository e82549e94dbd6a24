"""The small models and the grid of windows and lengths that this folder's tests share."""

from typing import Any

import reference
import torch
from torch import Tensor

from model.config import ModelConfig
from model.transformer import Transformer

VOCAB = 61

# (W, T): each W with lengths 1, W-1, W, W+1, 2W-1, 2W, 2W+1, 5W+3, so that W is also T-1, T, T+1.
GRID = [
    (window, length)
    for window in (1, 2, 3, 7)
    for length in sorted(
        {1, window - 1, window, window + 1, *range(2 * window - 1, 2 * window + 2), 5 * window + 3}
        - {0}
    )
] + [(5, 13), (None, 13)]

# What model.sliding_window may be, with a length that is well past the window.
STACKS = [
    *[(1, 8), (2, 13), (3, 18), (7, 38), (12, 13), (13, 13), (14, 13), (None, 13)],
    *[((3, None), 18), ((1, 3, None), 18)],
]


def config(sliding_window: Any = 3, **changes: Any) -> ModelConfig:
    """Three layers, four query heads on two key heads."""
    sizes: dict[str, Any] = {"vocab_size": VOCAB, "dim": 16, "n_layers": 3, "hidden_dim": 24}
    heads = {"n_heads": 4, "n_kv_heads": 2}
    return ModelConfig(sliding_window=sliding_window, **(sizes | heads | changes))


def build(
    sliding_window: Any = 3, *, seed: int = 0, dtype: torch.dtype = torch.float64, **changes: Any
) -> Transformer:
    """A model whose every weight matters; the same weights for the same seed and shapes.

    (A fresh model will not do: its residual projections are zero.)
    """
    model = Transformer(config(sliding_window, **changes)).to(dtype)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=draw, dtype=torch.float64)
            if "norm" in name:
                weight.copy_(1 + 0.2 * noise)
            else:
                weight.copy_(noise * (1 if "tok" in name else weight.shape[1] ** -0.5))
    return model


def text(length: int, rows: int = 1, seed: int = 1) -> Tensor:
    """Random tokens (rows, length); within a row all differ as long as the vocabulary lasts."""
    draw = torch.Generator().manual_seed(seed)
    copies = -(-length // VOCAB)
    order = [torch.cat([torch.randperm(VOCAB, generator=draw) for _ in range(copies)])[:length]]
    order += [torch.randint(VOCAB, (length,), generator=draw) for _ in range(rows - 1)]
    return torch.stack(order)


def oracle(model: Transformer, tokens: Tensor) -> Tensor:
    """What `reference` says the model's logits (T, V) for tokens (T,) are."""
    shape = model.config
    pattern = shape.sliding_window if isinstance(shape.sliding_window, tuple) else None
    windows = [
        pattern[n % len(pattern)] if pattern else shape.sliding_window
        for n in range(shape.n_layers)
    ]
    return reference.logits(
        dict(model.state_dict(keep_vars=True)),
        tokens.tolist(),
        windows=windows,  # type: ignore[arg-type]
        sinks=shape.attention_sinks,
        n_heads=shape.n_heads,
        n_kv_heads=shape.n_kv_heads,
        head_dim=shape.head_dim,  # type: ignore[arg-type]
        rope_theta=shape.rope_theta,
        norm_eps=shape.norm_eps,
    )
