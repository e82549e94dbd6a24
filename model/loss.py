"""The output layer and its cross-entropy in nats, some rows at a time.

The logits of a batch are the largest tensor of a small model's step. Here they never exist at once.
The logits of some rows become their loss and their gradient while they are in the processor's
cache, and the gradients of the hidden states and of the weights are added up from these.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from model.native import layers as native_layers
from model.native.loss import cross_entropy_ as native_cross_entropy_

# Logits in one chunk: on a CPU 4 MiB in bf16, which fits in its cache; elsewhere large products.
CHUNK_CPU, CHUNK_ELSEWHERE = 1 << 21, 1 << 26


class _LinearCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of x @ weight.T; the forward pass computes the gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        grad_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        matrix, n_rows = weight.to(x.dtype), len(x)
        chunk = CHUNK_CPU if x.device.type == "cpu" else CHUNK_ELSEWHERE
        total = x.new_zeros((), dtype=torch.promote_types(x.dtype, torch.float32))
        size = max(1, chunk // len(weight))
        for rows in (slice(start, start + size) for start in range(0, n_rows, size)):
            logits = x[rows] @ matrix.T
            total += cross_entropy_(logits, targets[rows], 1 / n_rows)
            if grad_x is not None:
                torch.mm(logits, matrix, out=grad_x[rows])
            if grad_weight is not None:
                grad_weight += logits.T @ x[rows]
        ctx.gradients = grad_x, grad_weight
        return total / max(1, n_rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        gradients, ctx.gradients = ctx.gradients, None  # scaled in place, so used once
        assert gradients is not None, "cross-entropy supports a single backward pass"
        return *(None if g is None else g.mul_(upstream) for g in gradients), None


def linear_cross_entropy(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Return the mean of -log softmax(x @ weight.T)[target], a scalar in fp32 at least.

    x (..., D), weight (V, D), targets (...). Rows whose target is negative are left out; if no row
    is left, the loss is 0. The products have the dtype of x, and the gradient of `weight` has its
    own.
    """
    if not torch.is_grad_enabled():  # inside the function torch no longer tells
        x, weight = x.detach(), weight.detach()
    x, targets = x.flatten(0, -2), targets.flatten()
    counted = targets >= 0
    if not counted.all():
        x, targets = x[counted], targets[counted]
    return _LinearCrossEntropy.apply(x, weight, targets)


def cross_entropy_(logits: Tensor, targets: Tensor, scale: float) -> Tensor:
    """Return the sum of the losses; `logits` (N, V) become `scale` times their gradient, in place.

    Sums are in fp32 at least. `targets` (N,).
    """
    if logits.dtype == torch.bfloat16 and native_layers.usable(logits):
        return native_cross_entropy_(logits, targets, scale)
    target = targets[:, None]
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    shifted = wide - wide.amax(-1, keepdim=True)
    target_logit = shifted.gather(-1, target)
    exponentials = shifted.exp_()
    normaliser = exponentials.sum(-1, keepdim=True)
    probs = exponentials.div_(normaliser)
    probs.scatter_add_(-1, target, torch.full_like(target_logit, -1.0))
    logits.copy_(probs.mul_(scale))
    return (normaliser.log() - target_logit).sum()


def next_token_loss(
    model: nn.Module, inputs: Tensor, targets: Tensor, bos_id: int | None = None
) -> Tensor:
    """Return the mean nats per token of `model` on inputs and targets (B, T), a scalar.

    The tokens of prompts are marked, ~id in place of id (data/prompts.py): negative targets do not
    count, and negative inputs are read without their mark.

    With `bos_id`, the documents of a sequence, each of which begins with that token, are masked
    from one another.
    """
    inputs = torch.where(inputs < 0, ~inputs, inputs)
    documents = None if bos_id is None else (inputs == bos_id).cumsum(dim=1)
    return model(inputs, documents=documents, targets=targets)
