"""The attention layer: project, rotate, (cache), attend, project.

Grouped-query attention (arXiv 2305.13245): H query heads share K key/value heads, so the cache is
H / K times smaller.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.cache import Ring
from model.config import ModelConfig
from model.kernels import Visibility, attend
from model.layers import project
from model.rope import Rope, rotate


class Positions(NamedTuple):
    """Positions and rotations of the tokens of one forward pass, for one layer."""

    positions: Tensor | None  # (B, T) in their documents, -1 for padding; None: 0..T-1
    documents: Tensor | None  # (B, T); 0: visible to all documents; None: one document a row
    rotation: Tensor  # complex factors for queries and keys
    sink_rotation: Tensor | None  # the same for queries as they look at sinks; None: no sinks


class Attention(nn.Module):
    """Sliding-window attention with the window of layer `layer`."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        assert config.head_dim is not None
        self.n_heads, self.n_kv_heads = config.n_heads, config.n_kv_heads
        self.kernel = config.attention
        self.configure(config, layer)
        self.wq = nn.Linear(config.dim, config.n_heads * config.head_dim, bias=False)
        self.wk = nn.Linear(config.dim, config.n_kv_heads * config.head_dim, bias=False)
        self.wv = nn.Linear(config.dim, config.n_kv_heads * config.head_dim, bias=False)
        self.wo = nn.Linear(config.n_heads * config.head_dim, config.dim, bias=False)
        self.sink_logits = nn.Parameter(torch.zeros(config.n_heads)) if config.sink_logits else None

    def configure(self, config: ModelConfig, layer: int) -> None:
        """Set the attributes that carry no parameters: window, sinks, rotary base."""
        self.window = config.windows[layer]
        self.sinks = 0 if self.window is None else config.sinks
        local = self.window is not None and config.rope_theta_local is not None
        self.rope = (
            Rope(config.rope_theta_local)  # type: ignore[arg-type]
            if local
            else Rope(
                config.rope_theta, config.rope_scaling, config.rope_factor, config.rope_original_len
            )
        )

    def forward(self, x: Tensor, tokens: Positions, ring: Ring | None) -> Tensor:
        """Map x (B, T, D), the tokens at these positions, to (B, T, D).

        Without a ring the tokens are a text from its beginning; with one they continue the cached
        text.
        """
        heads = project(x, self.wq, self.wk, self.wv)
        heads = heads.unflatten(-1, (self.n_heads + 2 * self.n_kv_heads, -1)).transpose(1, 2)
        q, k, v = heads.split((self.n_heads, self.n_kv_heads, self.n_kv_heads), dim=1)
        k, key_positions = rotate(k, tokens.rotation), None
        if ring is not None:
            assert tokens.positions is not None
            k, v, key_positions = ring.update(k, v, tokens.positions)
            q = q.to(k.dtype)  # under autocast the cache keeps the dtype of the weights
        q_sinks = None if tokens.sink_rotation is None else rotate(q, tokens.sink_rotation)
        q = rotate(q, tokens.rotation)
        visibility = Visibility(
            self.window, self.sinks, tokens.positions, key_positions, tokens.documents
        )
        out = attend(
            q, k, v, visibility, self.kernel, q_sinks=q_sinks, sink_logits=self.sink_logits
        )
        return self.wo(out.transpose(1, 2).flatten(-2))
