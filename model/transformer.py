"""Transformer: Mistral's decoder (arXiv 2310.06825, section 2), parameter names as in its weights.

tokens -> embedding -> L x [ x + attention(norm(x));  x + feed_forward(norm(x)) ] -> norm -> logits
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from model.attention import Attention, Positions
from model.cache import Ring, RollingKVCache
from model.config import ModelConfig
from model.layers import FeedForward, RMSNorm
from model.rope import Rope, rotation
from model.window import Window, sink_view


class TransformerBlock(nn.Module):
    """One layer: attention and feed-forward, each behind a norm and beside a residual path."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        assert config.hidden_dim is not None
        self.attention = Attention(config, layer)
        self.feed_forward = FeedForward(config.dim, config.hidden_dim)
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.ffn_norm = RMSNorm(config.dim, config.norm_eps)

    def forward(self, x: Tensor, places: Positions, ring: Ring | None) -> Tensor:
        """Map x (B, T, D) to (B, T, D)."""
        x = x + self.attention(self.attention_norm(x), places, ring)
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
        self.sink_token = nn.Parameter(torch.empty(config.dim)) if config.sink_token else None
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
            elif name in ("tok_embeddings.weight", "output.weight", "sink_token"):
                weight.normal_(std=0.02)
            elif weight.dim() == 2:
                weight.normal_(std=weight.shape[1] ** -0.5)

    def set_windows(self, sliding_window: Window | Sequence[Window]) -> None:
        """Give the same weights other windows; raises `UserError` as `ModelConfig` does."""
        self.config = replace(self.config, sliding_window=sliding_window)
        for n, layer in enumerate(self.layers):
            layer.attention.configure(self.config, n)  # type: ignore[operator, union-attr]

    def forward(
        self,
        tokens: Tensor,
        cache: RollingKVCache | None = None,
        documents: Tensor | None = None,
    ) -> Tensor:
        """Compute logits (B, T, V) for tokens (B, T) int64.

        `documents` (B, T) says what is packed in a row: tokens with equal numbers, side by side,
        are a document, and each is read as if it were alone.

        With a cache the tokens continue what it has seen: any chunk length, any number of calls. In
        a cached call a token of -1 is padding: it has no position, no other token sees it, and its
        own logits mean nothing.
        """
        if cache is not None:
            assert documents is None, "a cache holds one document a row"
            if not cache.primed:
                self._prime(cache)
            positions = cache.place(tokens)
            x = self._blocks(self.tok_embeddings(tokens.clamp(min=0)), positions, None, cache)
            return self.output(self.norm(x))
        x = self.tok_embeddings(tokens)
        first = 0 if self.sink_token is None else 1
        places = None
        if documents is not None:
            documents, places = runs(documents)
            places = places + first
        if self.sink_token is not None:  # it stands in front, at position 0, and belongs to all
            x = torch.cat((self.sink_token.to(x.dtype).expand(len(x), 1, -1), x), dim=1)
            if documents is not None and places is not None:  # its document, 0, belongs to all
                front = documents.new_zeros(len(documents), 1)
                documents, places = (torch.cat((front, n), dim=1) for n in (documents, places))
        x = self._blocks(x, places, documents, None)
        return self.output(self.norm(x[:, first:]))

    def _blocks(
        self,
        x: Tensor,
        positions: Tensor | None,
        documents: Tensor | None,
        cache: RollingKVCache | None,
    ) -> Tensor:
        """Pass x (B, T, D) through the layers."""
        at = torch.arange(x.shape[1], device=x.device) if positions is None else positions
        turns: dict[tuple[Rope, int | None], Tensor] = {}  # layers that are alike share theirs

        def turn(rope: Rope, window: Window, sinks: int) -> Tensor:
            last = None if window is None or not sinks else window + sinks
            if (rope, last) not in turns:
                seen_from = at if last is None else sink_view(at, window, sinks)
                head_dim = self.config.head_dim
                assert head_dim is not None
                turns[rope, last] = rotation(seen_from, head_dim, rope, x.dtype)
            return turns[rope, last]

        for n, layer in enumerate(self.layers):
            attention: Attention = layer.attention  # type: ignore[assignment]
            rope, window, sinks = attention.rope, attention.window, attention.sinks
            sink_turn = turn(rope, window, sinks) if sinks else None
            places = Positions(positions, documents, turn(rope, None, 0), sink_turn)
            x = layer(x, places, None if cache is None else cache.layers[n])
        return x

    def _prime(self, cache: RollingKVCache) -> None:
        """Put the sink token, at position 0, into every row of an empty cache."""
        assert self.sink_token is not None
        rows = len(cache.seen)
        positions = cache.seen.new_zeros(rows, 1)
        self._blocks(self.sink_token.expand(rows, 1, -1), positions, None, cache)
        cache.primed = True


def runs(documents: Tensor) -> tuple[Tensor, Tensor]:
    """Number the runs of equal numbers in documents (B, T) from 1, and count positions in each:
    7 7 7 2 2 7 gives 1 1 1 2 2 3 and 0 1 2 0 1 0."""
    column = torch.arange(documents.shape[1], device=documents.device).expand_as(documents)
    begins = torch.ones_like(documents, dtype=torch.bool)
    begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
    return begins.cumsum(dim=1), column - torch.where(begins, column, 0).cummax(dim=1).values
