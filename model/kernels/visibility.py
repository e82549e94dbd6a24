"""Visibility: which keys each query of one attention call may see, as one value for all kernels."""

from typing import NamedTuple

import torch
from torch import Tensor

from model.window import Window, visible


class Visibility(NamedTuple):
    """The rule of `model/window.py`, with the positions and documents that it is applied to.

    In training the keys are the tokens of the queries, S = T. With a cache, `key_positions` are
    those that its slots hold, in any order.
    """

    window: Window
    sinks: int = 0
    positions: Tensor | None = None  # of queries: (B, T), -1 for padding; None: 0..T-1
    key_positions: Tensor | None = None  # (B, S), -1 for empty slots; None: those of the queries
    documents: Tensor | None = None  # (B, T), no cache; 0: visible to all; None: one a row

    def query_positions(self, length: int, device: torch.device) -> Tensor:
        """Return the positions of `length` queries: (B, T), or (1, T) if all rows have the same."""
        if self.positions is None:
            return torch.arange(length, device=device)[None]
        return self.positions

    def has_sink_token(self) -> bool:
        """Return whether documents share a row behind a token of document 0, which all see."""
        return self.documents is not None and bool((self.documents[:, 0] == 0).any())

    def without_idle_sinks(self, n_keys: int) -> "Visibility":
        """Treat sinks as ordinary keys if the window hides none of `n_keys` keys."""
        hides = self.window is not None and self.window < n_keys
        return self if hides else self._replace(sinks=0)

    def in_window(
        self, i: Tensor, j: Tensor, documents: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """Return whether the query at i sees the key at j; i, j and the result broadcast.

        False for sinks, which `sinks.merge` adds to every kernel's output, and for empty slots.
        `documents` are those of the queries and of the keys.
        """
        return visible(i, j, self.window, 0, documents) & (j >= self.sinks)
