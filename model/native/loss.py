"""The cross-entropy of `loss.cpp` as a function of bf16 logits on a CPU."""

import ctypes

import torch
from torch import Tensor

from model.native.build import call, pointer


def cross_entropy_(logits: Tensor, targets: Tensor, scale: float) -> Tensor:
    """Return the sum of the losses; `logits` (N, V) become `scale` times their gradient, in place.

    As `model.loss.cross_entropy_`; targets (N,) int64. Raises `AssertionError` for a target that
    is no index of a logit, because C++ would read and write another tensor's memory there.
    """
    rows, vocab = logits.shape
    assert logits.is_contiguous() and targets.dtype == torch.int64
    assert rows == 0 or 0 <= int(targets.min()) <= int(targets.max()) < vocab
    losses, targets = torch.empty(rows), targets.contiguous()
    call(
        "loss", "cross_entropy", *map(pointer, (logits, targets, losses)),
        *map(ctypes.c_int64, (rows, vocab)), ctypes.c_float(scale),
    )  # fmt: skip
    return losses.sum()
