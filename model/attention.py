"""The attention layer: project, rotate, (cache), attend, project.

Grouped-query attention (arXiv 2305.13245): H query heads share K key/value heads, so the cache is
H / K times smaller.
"""

from torch import Tensor, nn

from model.cache import Ring
from model.config import ModelConfig
from model.kernels import attend, dense
from model.rope import rotate


class Attention(nn.Module):
    """Sliding-window attention with the window of layer `layer`."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        assert config.head_dim is not None
        self.n_heads, self.n_kv_heads = config.n_heads, config.n_kv_heads
        self.window = config.windows[layer]
        self.sinks = config.attention_sinks
        self.kernel = config.attention
        self.wq = nn.Linear(config.dim, config.n_heads * config.head_dim, bias=False)
        self.wk = nn.Linear(config.dim, config.n_kv_heads * config.head_dim, bias=False)
        self.wv = nn.Linear(config.dim, config.n_kv_heads * config.head_dim, bias=False)
        self.wo = nn.Linear(config.n_heads * config.head_dim, config.dim, bias=False)

    def forward(self, x: Tensor, positions: Tensor, turn: Tensor, ring: Ring | None) -> Tensor:
        """Attend over x (B, T, D); `positions` and `turn` are those of its tokens.

        Without a ring the tokens are a text from its beginning; with one they continue what the
        ring holds.
        """
        q = self.wq(x).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)  # (B, H, T, Dh)
        k = self.wk(x).unflatten(-1, (self.n_kv_heads, -1)).transpose(1, 2)  # (B, K, T, Dh)
        v = self.wv(x).unflatten(-1, (self.n_kv_heads, -1)).transpose(1, 2)
        q, k = rotate(q, turn), rotate(k, turn)
        if ring is None:
            out = attend(q, k, v, self.window, self.sinks, self.kernel)
        else:
            held = ring.held_and_new(k, v, positions)
            out = dense(q, held[0], held[1], positions, held[2], self.window, self.sinks)
            ring.write(k, v, positions)
        return self.wo(out.transpose(1, 2).flatten(-2))
