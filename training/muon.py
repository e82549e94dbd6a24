"""Muon: momentum that is made orthogonal before it is applied (kellerjordan.github.io/posts/muon),
scaled so that its learning rate is comparable with AdamW's (arXiv 2502.16982, section 2.2).

    B <- momentum B + (1 - momentum) G;  U <- G + momentum (B - G)        (Nesterov momentum)
    W <- (1 - lr decay) W - lr 0.2 sqrt(max(rows, columns)) orthogonalize(U)

It differs from torch.optim.Muon in three ways. Matrices of equal shape are orthogonalized together.
The dtype of the products can be chosen: torch always multiplies in bf16, which takes seconds a step
on a CPU without bf16 instructions. And it works in several processes. A part of a matrix cannot be
orthogonalized, so each process takes every size-th matrix, whole, and sends its result to all:

    parts of U -> whole U (all-gather) -> orthogonalize every size-th U -> send to all (broadcast)
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from training.distributed import ALONE, World, part_of, whole

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
        world: World = ALONE,
    ) -> None:
        super().__init__(matrices, {"lr": lr})
        self.weight_decay, self.momentum, self.dtype = weight_decay, momentum, dtype
        self.world = world

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
            directions = [direction.to(self.dtype) for _, direction in pairs]
            updates = self._orthogonalized(directions)
            for (weight, _), update in zip(pairs, updates, strict=True):
                weight.mul_(1 - lr * self.weight_decay)
                weight.add_(part_of(update, weight), alpha=-lr * 0.2 * max(shape) ** 0.5)

    def _orthogonalized(self, directions: list[Tensor]) -> Iterable[Tensor]:
        """Orthogonalize matrices of one shape, each in one process; return all of them, whole."""
        rank, size = self.world.rank, self.world.size
        whole_ones = [whole(direction) for direction in directions]
        own = whole_ones[rank::size]
        results = iter(orthogonalize(torch.stack(own)) if own else ())
        if size == 1:
            return results
        return [
            self.world.sent_from(n % size, next(results) if n % size == rank else matrix)
            for n, matrix in enumerate(whole_ones)
        ]


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
