"""Muon: momentum that is made orthogonal before it is applied (kellerjordan.github.io/posts/muon),
scaled so that its learning rate is comparable with AdamW's (arXiv 2502.16982, section 2.2).

    B <- momentum B + (1 - momentum) G;  U <- G + momentum (B - G)        (Nesterov momentum)
    W <- (1 - lr decay) W - lr 0.2 sqrt(max(rows, columns)) orthogonalize(U)

It differs from torch.optim.Muon in two ways. Matrices of equal shape are orthogonalized together,
and the dtype of the products can be chosen. torch always multiplies in bf16, which takes seconds a
step on a CPU without bf16 instructions.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of a quintic polynomial with a large slope at 0
ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """For matrices only. The products use `dtype`, weights and momentum their own."""

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        *,
        lr: float,
        weight_decay: float,
        momentum: float,
        dtype: torch.dtype,
    ) -> None:
        super().__init__(matrices, {"lr": lr})
        self.weight_decay, self.momentum, self.dtype = weight_decay, momentum, dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient. `closure` is not supported."""
        assert closure is None
        (group,) = self.param_groups
        lr = group["lr"]
        by_shape: dict[torch.Size, list[tuple[nn.Parameter, Tensor]]] = {}
        for weight in group["params"]:
            if weight.grad is None:
                continue
            state = self.state[weight]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(weight)
            state["momentum_buffer"].lerp_(weight.grad, 1 - self.momentum)
            direction = weight.grad.lerp(state["momentum_buffer"], self.momentum)
            by_shape.setdefault(weight.shape, []).append((weight, direction))
        for shape, pairs in by_shape.items():
            updates = orthogonalize(
                torch.stack([direction.to(self.dtype) for _, direction in pairs])
            )
            for (weight, _), update in zip(pairs, updates, strict=True):
                weight.mul_(1 - lr * self.weight_decay)
                weight.add_(update, alpha=-lr * 0.2 * max(shape) ** 0.5)


def orthogonalize(x: Tensor) -> Tensor:
    """Return matrices like x (N, rows, columns), but with singular values between 0.7 and 1.2.

    Applies a polynomial in x several times (Newton-Schulz), so no decomposition is needed.
    """
    if x.shape[-2] > x.shape[-1]:
        return orthogonalize(x.mT).mT
    a, b, c = COEFFICIENTS
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)  # no singular value above 1
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x
