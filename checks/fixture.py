"""The fixture of the checks: a copy of the model in float64, and inputs that suit its windows."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from checks import oracle
from checks.passes import cached_logits, recorded_outputs
from errors import UserError
from model.cache import RollingKVCache
from model.transformer import Transformer, empty_model

MAX_SPAN = 640  # largest W + n; wider windows would take minutes
MAX_LENGTH = 2048  # tokens of the longest text
MAX_PAIRWISE_LENGTH = 1024  # tokens of the longest text in which all pairs are checked


class Fixture:
    """A model in float64 with texts, caches and variants of it.

    All lengths follow from W, the widest window, and n, the number of sinks. Raises `UserError` if
    W + n exceeds `MAX_SPAN`.
    """

    def __init__(self, model: Transformer, seed: int = 0) -> None:
        self.config = model.config
        self.model = copy.deepcopy(model).double().requires_grad_(True)
        self.kernels = ["dense", "blocked"]
        self._variants: dict[str, Transformer] = {}
        if self.config.attention == "flex":  # flex has no gradients on a CPU: checked forward only
            self.kernels.append("flex")
            self.model = self.variant(attention="auto")
            self.config = self.model.config
        self.windows = oracle.layer_windows(self.config)
        self.layers = [(window, oracle.n_sinks(self.config, window)) for window in self.windows]
        self.layer_kinds = list(dict.fromkeys(self.layers))
        self.finite_windows = [window for window in self.windows if window is not None]
        self.widest = max(self.finite_windows, default=8)  # full attention: any length serves
        self.sinks = max(sinks for _, sinks in self.layers)
        if self.widest + self.sinks > MAX_SPAN:
            raise UserError(
                f"a window of {self.widest:,} keys and {self.sinks:,} sinks is too wide to check: "
                f"the checks need texts of ten windows, and allow {MAX_SPAN} keys in all"
            )
        # A text longer than every window, and a text longer than the reach of all layers.
        self.length = self.sinks + self.widest + min(self.widest + 3, 128)
        reach = 1 + sum(window - 1 for window in self.finite_windows)
        self.reach_length = max(16, self.length, min(self.sinks + reach + 4, MAX_PAIRWISE_LENGTH))
        self._generator = torch.Generator().manual_seed(seed)

    def text(self, length: int, rows: int = 1) -> Tensor:
        """Draw tokens (rows, length)."""
        return torch.randint(self.config.vocab_size, (rows, length), generator=self._generator)

    def noise(self, *shape: int) -> Tensor:
        """Draw normally distributed numbers."""
        return torch.randn(shape, generator=self._generator, dtype=torch.float64)

    def permutation(self, length: int) -> Tensor:
        """Return 0..length-1 in random order."""
        return torch.randperm(length, generator=self._generator)

    def variant(self, **changes: Any) -> Transformer:
        """Return a model with other settings and the same weight tensors. Do not write to it."""
        if str(changes) not in self._variants:
            variant = empty_model(replace(self.config, **changes))
            state = self.model.state_dict()
            shared = {name: state[name] for name in variant.state_dict()}
            variant.load_state_dict(shared, assign=True)
            if variant.config.tie_embeddings:
                variant.output.weight = variant.tok_embeddings.weight
            self._variants[str(changes)] = variant.requires_grad_(True)
        return self._variants[str(changes)]

    def cache(
        self, rows: int = 1, model: Transformer | None = None, **options: Any
    ) -> RollingKVCache:
        """Return an empty cache for the longest text of the checks."""
        defaults: dict[str, Any] = {
            "capacity": max(MAX_LENGTH, 11 * self.widest),
            "dtype": torch.float64,
        }
        return RollingKVCache((model or self.model).config, rows, **(defaults | options))

    def outputs(self, method: str, tokens: Tensor) -> list[Tensor]:
        """Return the output (T, D) of each layer for a text (1, T), then the logits (T, V).

        `method` is the name of a kernel, or "cache".
        """
        model = self.model if method == "cache" else self.variant(attention=method)
        with recorded_outputs(model) as recorded:
            if method == "cache":
                logits = cached_logits(model, self.cache(), tokens, self.widest + 1)
            else:
                logits = model(tokens)
        length = tokens.shape[1]
        return [*(torch.cat(passes, dim=1)[0, -length:] for passes in recorded), logits[0]]

    def expected_logits(
        self, tokens: Tensor, windows: Sequence[oracle.Window] | None = None
    ) -> Tensor:
        """Return the oracle's logits (T, V) for a text (1, T)."""
        weights = dict(self.model.named_parameters())
        return oracle.logits(weights, self.config, tokens[0].tolist(), windows or self.windows)


def rounded(model: Transformer, dtype: torch.dtype) -> tuple[Transformer, Transformer]:
    """Return copies of the model: in `dtype`, and in float64 with the same rounded weights."""
    narrow = copy.deepcopy(model).to(dtype)
    return narrow, copy.deepcopy(narrow).double()
