"""Muon: momentum whose matrix is made orthogonal before it is applied (kellerjordan.github.io/
posts/muon), scaled so that its learning rate reads like AdamW's (arXiv 2502.16982, section 2.2).

    B <- momentum B + (1 - momentum) G;  U <- G + momentum (B - G)        (Nesterov's look ahead)
    W <- (1 - lr decay) W - lr 0.2 sqrt(max(rows, columns)) orthogonal(U)

As torch.optim.Muon, with two differences: matrices of one shape are orthogonalised together, and in
a dtype of choice. torch's always multiplies in bf16, which takes seconds a step on a CPU that has
no instruction for it.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic whose slope at 0 is greatest
ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """For matrices only. `dtype` is that of the products; weights and momentum keep their own."""

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
        """Update every matrix that has a gradient."""
        assert closure is None
        (group,) = self.param_groups
        lr = group["lr"]
        alike: dict[torch.Size, list[tuple[nn.Parameter, Tensor]]] = {}
        for weight in group["params"]:
            if weight.grad is None:
                continue
            state = self.state[weight]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(weight)
            state["momentum_buffer"].lerp_(weight.grad, 1 - self.momentum)
            ahead = weight.grad.lerp(state["momentum_buffer"], self.momentum)
            alike.setdefault(weight.shape, []).append((weight, ahead))
        for shape, pairs in alike.items():
            updates = orthogonal(torch.stack([ahead.to(self.dtype) for _, ahead in pairs]))
            for (weight, _), update in zip(pairs, updates, strict=True):
                weight.mul_(1 - lr * self.weight_decay)
                weight.add_(update, alpha=-lr * 0.2 * max(shape) ** 0.5)


def orthogonal(x: Tensor) -> Tensor:
    """Bring the singular values of matrices x (N, rows, columns) near 1, by a polynomial in x that
    needs no decomposition (Newton-Schulz); they end between 0.7 and 1.2."""
    if x.shape[-2] > x.shape[-1]:
        return orthogonal(x.mT).mT
    a, b, c = COEFFICIENTS
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)  # no singular value above 1
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x
