"""Transformer: Mistral's decoder (arXiv 2310.06825, section 2), parameter names as in its weights.

tokens -> embedding -> L x [ x + attention(norm(x));  x + feed_forward(norm(x)) ] -> norm -> logits
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from model.attention import Attention, Positions
from model.cache import Ring, RollingKVCache
from model.config import ModelConfig
from model.layers import FeedForward, RMSNorm
from model.loss import linear_cross_entropy
from model.rope import Rope, rotation
from model.window import Window, sink_view


class TransformerBlock(nn.Module):
    """One layer: attention and feed-forward, each after a norm and added to the residual stream."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        assert config.hidden_dim is not None
        self.attention = Attention(config, layer)
        self.feed_forward = FeedForward(config.dim, config.hidden_dim)
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.ffn_norm = RMSNorm(config.dim, config.norm_eps)

    def forward(self, x: Tensor, tokens: Positions, ring: Ring | None) -> Tensor:
        """Map x (B, T, D) to (B, T, D)."""
        x = x + self.attention(self.attention_norm(x), tokens, ring)
        return x + self.feed_forward(self.ffn_norm(x))


class Transformer(nn.Module):
    """The model. Its weights are drawn from torch's global generator: seed it first."""

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

        The projections that are added to the residual stream start at zero. So each block starts as
        the identity, and the first steps are stable at high learning rates.
        """
        for name, weight in self.named_parameters():
            if name.endswith(("wo.weight", "w2.weight")):
                weight.zero_()
            elif name in ("tok_embeddings.weight", "output.weight", "sink_token"):
                weight.normal_(std=0.02)
            elif weight.dim() == 2:
                weight.normal_(std=weight.shape[1] ** -0.5)

    def compile_blocks(self, backend: str = "inductor") -> None:
        """Compile the layers with `torch.compile`; equal ones are compiled once.

        Each length of text is compiled by itself: the kernels are chosen by the length.
        """
        for block in self.layers:
            block.compile(dynamic=False, backend=backend)

    def set_windows(self, sliding_window: Window | Sequence[Window]) -> None:
        """Change the windows and keep the weights. Raises `UserError` as `ModelConfig` does."""
        self.config = replace(self.config, sliding_window=sliding_window)
        for n, layer in enumerate(self.layers):
            layer.attention.configure(self.config, n)  # type: ignore[operator, union-attr]

    def forward(
        self,
        tokens: Tensor,
        cache: RollingKVCache | None = None,
        documents: Tensor | None = None,
        targets: Tensor | None = None,
        last_only: bool = False,
    ) -> Tensor:
        """Compute logits (B, T, V) for tokens (B, T) int64; with `targets` (B, T) the mean loss.

        The loss is the cross-entropy in nats, a scalar; negative targets do not count (see
        `loss.linear_cross_entropy`). With `last_only`, logits (B, 1, V) are computed after the last
        token only.

        `documents` (B, T) numbers the documents that are packed in a row: neighbouring tokens with
        equal numbers are one document, and each is read as if it were alone.

        With a cache the tokens continue the cached text: any chunk length, any number of calls. A
        token of -1 is padding there: it has no position, no other token sees it, and its own logits
        have no meaning.
        """
        if cache is None:
            x = self._read(tokens, documents)
        else:
            assert documents is None, "a cache holds one document a row"
            x = self._continue(tokens, cache)
        x = self.norm(x[:, -1:] if last_only else x)
        if targets is not None:
            return linear_cross_entropy(x, self.output.weight, targets)
        return self.output(x)

    def _read(self, tokens: Tensor, documents: Tensor | None) -> Tensor:
        """Pass whole texts (B, T) through the layers: (B, T, D)."""
        x, positions, numbers = self.tok_embeddings(tokens), None, None
        n_front = 0 if self.sink_token is None else 1
        if documents is not None:
            numbers, positions = number_documents(documents)
            positions = positions + n_front
        if self.sink_token is not None:  # at position 0, in document 0, which all documents see
            x = torch.cat((self.sink_token.to(x.dtype).expand(len(x), 1, -1), x), dim=1)
            if numbers is not None and positions is not None:
                zero = numbers.new_zeros(len(numbers), 1)
                numbers, positions = (torch.cat((zero, n), dim=1) for n in (numbers, positions))
        return self._blocks(x, positions, numbers, None)[:, n_front:]

    def _continue(self, tokens: Tensor, cache: RollingKVCache) -> Tensor:
        """Pass the next tokens (B, T) of the cached texts through the layers: (B, T, D)."""
        if not cache.primed:
            self.cache_sink_token(cache)
        positions = cache.assign_positions(tokens)
        return self._blocks(self.tok_embeddings(tokens.clamp(min=0)), positions, None, cache)

    def _blocks(
        self,
        x: Tensor,
        positions: Tensor | None,
        documents: Tensor | None,
        cache: RollingKVCache | None,
    ) -> Tensor:
        """Pass x (B, T, D) through the layers."""
        at = torch.arange(x.shape[1], device=x.device) if positions is None else positions
        computed: dict[tuple[Rope, int | None], Tensor] = {}  # equal layers share a rotation

        def rotation_for(rope: Rope, window: Window, sinks: int) -> Tensor:
            cache_size = None if window is None or not sinks else window + sinks
            if (rope, cache_size) not in computed:
                rotated_at = at if cache_size is None else sink_view(at, window, sinks)
                head_dim = self.config.head_dim
                assert head_dim is not None
                computed[rope, cache_size] = rotation(rotated_at, head_dim, rope, x.dtype)
            return computed[rope, cache_size]

        for n, layer in enumerate(self.layers):
            attention: Attention = layer.attention  # type: ignore[assignment]
            rope, window, sinks = attention.rope, attention.window, attention.sinks
            sink_rotation = rotation_for(rope, window, sinks) if sinks else None
            tokens = Positions(positions, documents, rotation_for(rope, None, 0), sink_rotation)
            x = layer(x, tokens, None if cache is None else cache.layers[n])
        return x

    def cache_sink_token(self, cache: RollingKVCache) -> None:
        """Write the sink token, at position 0, to every row of an empty cache."""
        assert self.sink_token is not None
        rows = len(cache.seen)
        positions = cache.seen.new_zeros(rows, 1)
        self._blocks(self.sink_token.expand(rows, 1, -1), positions, None, cache)
        cache.primed = True


def number_documents(documents: Tensor) -> tuple[Tensor, Tensor]:
    """Number the runs of equal integers in documents (B, T) from 1, and count positions in each.

    7 7 7 2 2 7 gives 1 1 1 2 2 3 and 0 1 2 0 1 0.
    """
    column = torch.arange(documents.shape[1], device=documents.device).expand_as(documents)
    begins = torch.ones_like(documents, dtype=torch.bool)
    begins[:, 1:] = documents[:, 1:] != documents[:, :-1]
    return begins.cumsum(dim=1), column - torch.where(begins, column, 0).cummax(dim=1).values


def empty_model(config: ModelConfig) -> Transformer:
    """Build a model without weights, for names and shapes or for weights that are assigned later.

    Its tensors are on the device "meta": no memory is allocated and nothing is drawn.
    """
    with torch.device("meta"), _NothingDrawn():
        return Transformer(config)


def weight_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of all weights, in the order of `named_parameters`.

    One layer is built, not all: a file may ask for a thousand layers that it does not have.
    """
    one = empty_model(replace(config, n_layers=1, sliding_window=None))
    shapes = {name: tuple(weight.shape) for name, weight in one.named_parameters()}
    block = {name: shape for name, shape in shapes.items() if name.startswith("layers.0.")}
    every: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        if name not in block:
            every[name] = shape
        elif name not in every:  # the first of the block
            for layer in range(config.n_layers):
                prefix = f"layers.{layer}."
                every |= {prefix + n.removeprefix("layers.0."): s for n, s in block.items()}
    return every


class _NothingDrawn(TorchFunctionMode):
    """Skip what draws initial weights: to draw on "meta", torch imports its compiler (a second)."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if getattr(func, "__name__", None) in ("normal_", "kaiming_uniform_"):
            return None
        return func(*args, **(kwargs or {}))
