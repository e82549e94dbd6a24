"""The attention layer: project, rotate, (cache), attend, project.

Grouped-query attention (arXiv 2305.13245): H query heads share K key/value heads, so the cache is
H / K times smaller.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.cache import Ring
from model.config import ModelConfig
from model.kernels import attend, dense
from model.rope import Rope, rotate


class Positions(NamedTuple):
    """Where the tokens of a forward pass stand, for one layer."""

    positions: Tensor | None  # (B, T) in their documents, -1 for padding; None: 0..T-1
    documents: Tensor | None  # (B, T), 0 for what belongs to all; None: one document
    turn: Tensor  # rotation at the positions
    sink_turn: Tensor | None  # rotation of queries as they look at sinks; None: no sinks


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
        """Take what has no weights from the config: window, sinks, rotation."""
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

    def forward(self, x: Tensor, places: Positions, ring: Ring | None) -> Tensor:
        """Attend over x (B, T, D), whose tokens stand at `places`.

        Without a ring the tokens are a text from its beginning; with one they continue what the
        ring holds.
        """
        q = self.wq(x).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)  # (B, H, T, Dh)
        k = self.wk(x).unflatten(-1, (self.n_kv_heads, -1)).transpose(1, 2)  # (B, K, T, Dh)
        v = self.wv(x).unflatten(-1, (self.n_kv_heads, -1)).transpose(1, 2)
        q_sinks = None if places.sink_turn is None else rotate(q, places.sink_turn)
        q, k = rotate(q, places.turn), rotate(k, places.turn)
        if ring is None:
            out = attend(
                q, k, v, self.window, self.sinks, self.kernel, q_sinks=q_sinks,
                positions=places.positions, documents=places.documents,
                sink_logits=self.sink_logits,
            )  # fmt: skip
        else:
            assert places.positions is not None
            keys, values, at = ring.concat_with_cached(k, v, places.positions)
            out = dense(
                q, keys, values, places.positions, at, self.window, self.sinks,
                q_sinks=q_sinks, sink_logits=self.sink_logits,
            )  # fmt: skip
            ring.write(k, v, places.positions)
        return self.wo(out.transpose(1, 2).flatten(-2))
