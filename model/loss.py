"""Cross-entropy in nats, a few rows at a time.

The logits of a batch are the largest tensor of a small model's step. Their gradient is computed
while a chunk is still in the processor's cache, so that no fp32 copy of the whole exists.
"""

from typing import Any

import torch
from torch import Tensor, nn

ROWS = 256  # rows of logits handled at once


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        wide = torch.promote_types(logits.dtype, torch.float32)
        gradient = torch.empty_like(logits) if logits.requires_grad else None
        total = torch.zeros((), dtype=wide, device=logits.device)
        for start in range(0, len(logits), ROWS):
            rows = slice(start, start + ROWS)
            target = targets[rows, None]
            chunk = logits[rows].to(wide)
            chunk = chunk - chunk.amax(-1, keepdim=True)
            hit = chunk.gather(-1, target)
            exponentials = chunk.exp_()
            normaliser = exponentials.sum(-1, keepdim=True)
            total += (normaliser.log() - hit).sum()
            if gradient is not None:
                probs = exponentials.div_(normaliser)
                probs.scatter_add_(-1, target, torch.full_like(hit, -1.0))
                gradient[rows] = probs.div_(len(logits))
        ctx.gradient = gradient
        return total / len(logits)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        gradient, ctx.gradient = ctx.gradient, None  # ours alone: scaled in place, so used once
        assert gradient is not None, "backward a second time through the same cross_entropy"
        return gradient.mul_(upstream), None


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean of -log softmax(logits)[target]: logits (..., V), targets (...); a scalar."""
    return _CrossEntropy.apply(logits.flatten(0, -2), targets.flatten())


def next_token_loss(
    model: nn.Module, inputs: Tensor, targets: Tensor, bos_id: int | None = None
) -> Tensor:
    """Mean nats per token of `model` on inputs and targets (B, T); a scalar.

    With `bos_id`, documents that share a sequence are kept apart: each begins with that token.
    """
    documents = None if bos_id is None else (inputs == bos_id).cumsum(dim=1)
    return cross_entropy(model(inputs, documents=documents), targets)
