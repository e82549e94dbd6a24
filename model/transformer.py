"""Transformer: Mistral's decoder (arXiv 2310.06825, section 2), parameter names as in its weights.

tokens -> embedding -> L x [ x + attention(norm(x));  x + feed_forward(norm(x)) ] -> norm -> logits
"""

import torch
from torch import Tensor, nn

from model.attention import Attention
from model.cache import Ring, RollingKVCache
from model.config import ModelConfig
from model.layers import FeedForward, RMSNorm
from model.rope import rotation


class TransformerBlock(nn.Module):
    """One layer: attention and feed-forward, each behind a norm and beside a residual path."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        assert config.hidden_dim is not None
        self.attention = Attention(config, layer)
        self.feed_forward = FeedForward(config.dim, config.hidden_dim)
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.ffn_norm = RMSNorm(config.dim, config.norm_eps)

    def forward(self, x: Tensor, positions: Tensor, turn: Tensor, ring: Ring | None) -> Tensor:
        """Map x (B, T, D) to (B, T, D)."""
        x = x + self.attention(self.attention_norm(x), positions, turn, ring)
        return x + self.feed_forward(self.ffn_norm(x))


class Transformer(nn.Module):
    """The model. Weights are drawn from torch's global generator; seed it first."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.dim)
        self.layers = nn.ModuleList(
            TransformerBlock(config, layer) for layer in range(config.n_layers)
        )
        self.norm = RMSNorm(config.dim, config.norm_eps)
        self.output = nn.Linear(config.dim, config.vocab_size, bias=False)
        if config.tie_embeddings:
            self.output.weight = self.tok_embeddings.weight
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Draw the weights: matrices with standard deviation 1/sqrt(inputs), embeddings 0.02.

        The projections that write into the residual path start at zero, so that each block starts
        as the identity and the first steps are stable at high learning rates.
        """
        for name, weight in self.named_parameters():
            if name.endswith(("wo.weight", "w2.weight")):
                weight.zero_()
            elif name in ("tok_embeddings.weight", "output.weight"):
                weight.normal_(std=0.02)
            elif weight.dim() == 2:
                weight.normal_(std=weight.shape[1] ** -0.5)

    def forward(self, tokens: Tensor, cache: RollingKVCache | None = None) -> Tensor:
        """Compute logits (B, T, V) for tokens (B, T) int64.

        With a cache the tokens continue what it has seen: any chunk length, any number of calls. In
        a cached call a token of -1 is padding: it has no position, no other token sees it, and its
        own logits mean nothing.
        """
        config = self.config
        if cache is None:
            positions = torch.arange(tokens.shape[1], device=tokens.device)
        else:
            positions = cache.place(tokens)
            tokens = tokens.clamp(min=0)
        assert config.head_dim is not None
        x = self.tok_embeddings(tokens)
        turn = rotation(positions, config.head_dim, config.rope_theta, x.dtype)
        for n, layer in enumerate(self.layers):
            x = layer(x, positions, turn, None if cache is None else cache.layers[n])
        return self.output(self.norm(x))
