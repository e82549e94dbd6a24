"""The loss over a whole split. Every token is predicted exactly once; nothing is drawn.

Negative targets, the tokens of prompts, do not count.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.distributed import ALONE, World

Loss = Callable[[Tensor, Tensor], Tensor]  # (inputs, targets), each (B, T) -> mean nats per token


@dataclass(frozen=True)
class Score:
    """The result. Nats per token depend on the vocabulary, bits per byte do not."""

    nats: float  # sum over all tokens that count
    n_tokens: int  # that count
    n_bytes: int

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.nats / self.n_tokens

    @property
    def perplexity(self) -> float:
        """exp(loss); infinite if that overflows."""
        return math.exp(self.loss) if self.loss < 700 else math.inf

    @property
    def bpb(self) -> float:
        """Bits per byte of the text."""
        return self.nats / math.log(2) / self.n_bytes


@torch.no_grad()
def evaluate(
    loss: Loss,
    sequences: Iterable[tuple[Any, Any]],
    n_bytes: int,
    device: torch.device,
    world: World = ALONE,
) -> Score:
    """Return the score of `loss` over batches of (inputs, targets), integer arrays (B, T).

    `n_bytes` is the size of the text that counts. The batches need not be equally large. The
    processes of `world` divide the batches, and each returns the score of all.
    """
    nats, n_tokens = 0.0, 0
    for inputs, targets in _dealt(sequences, world):
        n_counted = int((targets >= 0).sum())
        x, y = torch.from_numpy(inputs).to(device), torch.from_numpy(targets).to(device)
        nats += loss(x, y).item() * n_counted
        n_tokens += n_counted
    return Score(world.total(nats), round(world.total(n_tokens)), n_bytes)


def _dealt(sequences: Iterable[tuple[Any, Any]], world: World) -> Iterator[tuple[Any, Any]]:
    """Yield every size-th batch, from number `rank` on.

    With fsdp the processes exchange weights in each batch, so all get equally many. If there is
    none left for a process, it gets one that another has, whose targets are marked not to count.
    """
    number = -1
    for number, (inputs, targets) in enumerate(sequences):
        if number % world.size == world.rank:
            yield inputs, targets
    if 0 <= number % world.size < world.rank:
        yield inputs, np.full_like(targets, -1)
