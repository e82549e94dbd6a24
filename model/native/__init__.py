"""Native kernels: what PyTorch's operators do slowly on a CPU, in a few short C++ files.

    guard.h         exceptions of C++ as text
    simd.h          16 numbers at a time: exp, bf16 rounding, tiles in the order of the matrix unit
    tiles.h         small blocks of a matrix, transposed and packed for the matrix unit
    attention.h     a block of queries, and the keys that it sees
    attention.cpp   sliding-window attention and its gradient, a block of 32 queries at a time
    layers.cpp      RMSNorm, SwiGLU and RoPE with their gradients, one pass over memory each
    loss.cpp        logits to loss and gradient, in place
    decode.cpp      the next tokens through the whole model; decode.py passes its arguments
    panels.h        products of a few rows with weights in the order of memory, fp32 or int8

No kernel is required. Each has a PyTorch counterpart, the same function up to rounding (of bf16 in
training, of fp32 in decoding), and the same tests judge both. A kernel is built with the machine's
own C++ compiler on first use (`build.py`). Decoding uses its kernel where it can
(`model/decoding.py`). The others run only inside `enabled()`:

    with native.enabled(hardware.native):
        loss = next_token_loss(model, x, y)
"""

from collections.abc import Iterator
from contextlib import contextmanager

LANES = 16  # numbers in a vector of the bf16 kernels: rows must be multiples of it
TRAINING = ("attention", "layers", "loss")  # the kernels of a training step

_enabled = False


@contextmanager
def enabled(on: bool = True) -> Iterator[None]:
    """Let layers, attention and loss use native kernels inside this context, or forbid them."""
    global _enabled
    before, _enabled = _enabled, on
    try:
        yield
    finally:
        _enabled = before


def is_enabled() -> bool:
    """Return whether native kernels may be used here."""
    return _enabled


def training_refusal() -> str | None:
    """Return why this machine cannot run the kernels of a training step, or None if it can.

    Builds them on first use.
    """
    from model.native.build import refusal  # it imports torch

    return refusal(*TRAINING)
