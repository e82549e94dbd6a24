"""How results are compared. A difference is a number: 0 if two results are equal.

The difference is infinity if it has no size: a false condition, another shape, a value that is not
finite.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor


def require(condition: object) -> float:
    """Return 0 if the condition is true, infinity otherwise."""
    return 0.0 if condition else math.inf


def row_differences(actual: Tensor, expected: Tensor) -> Iterator[float]:
    """Yield the largest difference in each row of two tensors (T, N).

    Differences are relative to the largest magnitude in `expected` if that magnitude exceeds 1.
    """
    if actual.shape != expected.shape or not bool(actual.isfinite().all()):
        yield math.inf
    else:
        scale = max(1.0, expected.abs().max().item())
        yield from ((actual - expected).abs().amax(-1) / scale).tolist()


def max_difference(actual: Tensor, expected: Tensor) -> float:
    """Return the largest difference between two tensors, scaled as in `row_differences`."""
    return max(row_differences(actual.reshape(-1, 1), expected.reshape(-1, 1)))


def rounding_error(actual: Tensor, exact: Tensor) -> float:
    """Return the relative error of a tensor, in units of its dtype's epsilon."""
    error = (actual.double() - exact).norm() / exact.norm()
    return error.item() / torch.finfo(actual.dtype).eps


def exact_difference(actual: Tensor, expected: Tensor) -> float:
    """Return 0 if all values are exactly equal, otherwise the largest difference, above 0."""
    if torch.equal(actual, expected):
        return 0.0
    return max(max_difference(actual, expected), math.ulp(0.0))
