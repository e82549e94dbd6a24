"""Cross-entropy in nats, a few rows at a time.

The logits of a batch are the largest tensor of a small model's step. The loss and the gradient of
each few rows are computed together, while these rows are in the processor's cache, and no fp32 copy
of all logits exists.
"""

from typing import Any

import torch
from torch import Tensor, nn

ROWS = 256  # rows of logits in one chunk


class _CrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of logits (N, V) and targets (N,), whose forward computes the gradient."""

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
            target_logit = chunk.gather(-1, target)
            exponentials = chunk.exp_()
            normaliser = exponentials.sum(-1, keepdim=True)
            total += (normaliser.log() - target_logit).sum()
            if gradient is not None:
                probs = exponentials.div_(normaliser)
                probs.scatter_add_(-1, target, torch.full_like(target_logit, -1.0))
                gradient[rows] = probs.div_(len(logits))
        ctx.gradient = gradient
        return total / len(logits)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        gradient, ctx.gradient = ctx.gradient, None  # scaled in place, so used once
        assert gradient is not None, "cross_entropy supports a single backward pass"
        return gradient.mul_(upstream), None


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean of -log softmax(logits)[target], a scalar: logits (..., V), targets (...)."""
    return _CrossEntropy.apply(logits.flatten(0, -2), targets.flatten())


def next_token_loss(
    model: nn.Module, inputs: Tensor, targets: Tensor, bos_id: int | None = None
) -> Tensor:
    """Return the mean nats per token of `model` on inputs and targets (B, T), a scalar.

    With `bos_id`, the documents of a sequence, each of which begins with that token, are masked
    from one another.
    """
    documents = None if bos_id is None else (inputs == bos_id).cumsum(dim=1)
    return cross_entropy(model(inputs, documents=documents), targets)
