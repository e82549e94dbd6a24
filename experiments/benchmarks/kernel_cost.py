"""Peak memory and time of one attention kernel at one length, measured in its own process.

`measure_in_process` starts this module as a new process, so that no measurement depends on an
earlier one. Each result is compared with the oracle of the checks, which reads the same inputs in
float64. `native` computes in bf16 and gets bf16 inputs; the other kernels get fp32.
"""

import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.process_memory import free_bytes, peak_bytes, reset_peak
from model.window import Window

if TYPE_CHECKING:  # torch is imported only where something is computed
    import torch
    from torch import Tensor

    Attention = Callable[[Tensor, Tensor, Tensor], Tensor]

ROOT = Path(__file__).resolve().parents[2]
KERNELS = ("dense", "blocked", "full", "native", "flex")
SHORT_LENGTH = 1024  # tokens: of the warm-up call, and at most of the complete comparison
COMPARED_ROWS = 32  # rows of each measured result that are compared with the oracle


@dataclass(frozen=True)
class Case:
    """What to measure: attention of one text, shapes (1, heads, length, head_dim)."""

    kernel: str
    length: int  # tokens
    window: int  # keys
    sinks: int = 0
    heads: int = 1
    head_dim: int = 64
    backward: bool = False  # also compute the gradients
    repeat: int = 3  # calls; the fastest counts

    @property
    def rule(self) -> tuple[Window, int]:
        """Window and sinks that the kernel obeys; `full` has neither."""
        return (None, 0) if self.kernel == "full" else (self.window, self.sinks)

    @property
    def dtype(self) -> "torch.dtype":
        """The dtype of the inputs and of the result."""
        import torch

        return torch.bfloat16 if self.kernel == "native" else torch.float32

    def __str__(self) -> str:
        return f"{self.kernel} at T = {self.length:,}"


@dataclass(frozen=True)
class Measurement:
    """The cost of one case."""

    kernel: str
    length: int  # tokens
    peak_bytes: int  # of the first call, beyond what the process held before
    seconds: float  # of the fastest call
    max_difference: float  # from the oracle, in the compared rows


@dataclass(frozen=True)
class Skipped:
    """A case without a measurement."""

    kernel: str
    length: int
    reason: str


def refusal(kernel: str, head_dim: int) -> str | None:
    """Return why this kernel cannot run here, in words; None if it can. Builds `native`."""
    if kernel != "native":
        return None
    from model import native
    from model.native.build import refusal

    if head_dim % native.LANES:
        return f"it needs heads of a multiple of {native.LANES} numbers"
    return refusal("attention")


def attention(case: Case) -> "Attention":
    """Return the kernel of `case` as a function of q, k, v, each (1, H, T, Dh)."""
    from model.kernels import Visibility, attend_with

    warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
    visibility = Visibility(*case.rule)
    return lambda q, k, v: attend_with(case.kernel, q, k, v, visibility)


def draw(case: Case, length: int) -> "list[Tensor]":
    """Draw q, k, v and the gradient of the output: (1, H, T, Dh) each."""
    import torch

    generator = torch.Generator().manual_seed(0)
    shape = (1, case.heads, length, case.head_dim)
    return [
        torch.randn(shape, generator=generator)
        .to(case.dtype)
        .requires_grad_(case.backward and n < 3)
        for n in range(4)
    ]


def short_difference(case: Case) -> float:
    """Return the largest difference from the oracle, in all rows and gradients of a short text."""
    import torch

    from checks import oracle

    length = min(case.length, 3 * case.window + 5, SHORT_LENGTH)
    q, k, v, output_gradient = draw(case, length)
    actual = attention(case)(q, k, v)
    expected = oracle.attention(q.double(), k.double(), v.double(), *case.rule)
    pairs = [(actual, expected)]
    if case.backward:
        gradients = torch.autograd.grad(actual, (q, k, v), output_gradient)
        expected_gradients = torch.autograd.grad(expected, (q, k, v), output_gradient.double())
        pairs += zip(gradients, expected_gradients, strict=True)
    return torch.stack([(a - b).abs().max() for a, b in pairs]).max().item()


def measure(case: Case) -> Measurement:
    """Measure in this process, which must be a new one started by `measure_in_process`."""
    import torch

    from checks import oracle
    from training.device import keep_freed_memory

    def call(q: "Tensor", k: "Tensor", v: "Tensor", output_gradient: "Tensor") -> "Tensor":
        output = attention(case)(q, k, v)
        if case.backward:
            torch.autograd.grad(output, (q, k, v), output_gradient)
        return output

    call(*draw(case, min(case.length, SHORT_LENGTH)))  # threads and buffers that every length needs
    inputs = draw(case, case.length)
    before, seconds = reset_peak(), []
    for number in range(case.repeat):
        start = time.perf_counter()
        output = call(*inputs)
        seconds.append(time.perf_counter() - start)
        if number == 0:
            peak = peak_bytes() - before
            keep_freed_memory()  # the other calls run as in training
    rows = sorted({*range(0, case.length, -(-case.length // COMPARED_ROWS)), case.length - 1})
    with torch.no_grad():
        q, k, v = (x.double() for x in inputs[:3])
        expected = oracle.attention(q, k, v, *case.rule, rows=rows)
        difference = (output[:, :, rows] - expected).abs().max().item()
    return Measurement(case.kernel, case.length, peak, min(seconds), difference)


def measure_in_process(case: Case) -> Measurement | Skipped:
    """Measure `case` in a new process, if the machine has enough free memory."""
    need, free = needed_bytes(case), free_bytes()
    if free is not None and need > free:
        reason = f"needs about {need / 1e9:.1f} GB, {free / 1e9:.1f} GB are free"
        return Skipped(case.kernel, case.length, reason)
    # With this setting glibc returns freed tensors at once, so resident memory is memory in use.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    words = [sys.executable, "-m", "experiments.benchmarks.kernel_cost", json.dumps(asdict(case))]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode < 0:
        reason = f"ended by signal {-done.returncode}, possibly out of memory"
        return Skipped(case.kernel, case.length, reason)
    if done.returncode:
        raise RuntimeError(f"{case}: {done.stderr}")
    return Measurement(**json.loads(done.stdout))


def needed_bytes(case: Case) -> int:
    """Return an upper estimate of the memory of `case`: mostly what is kept for each scored pair.

    `dense` holds the scores and, while it makes the mask, 10 more bytes a pair; then the mask, the
    scores and the weights, and their gradients.
    """
    width = {"full": 0, "native": 0, "blocked": min(case.length, case.window + 128) + case.sinks}
    pairs = case.length * width.get(case.kernel, case.length)
    scores = 4 * case.heads * pairs
    rows = 4 * case.heads * case.length * case.head_dim  # queries, keys or values
    copies = 16 + 2 * case.sinks  # of the rows: blocks, and the sinks for every query
    if case.backward:
        return max(scores + 10 * pairs, 3 * scores + 2 * pairs) + 2 * copies * rows
    return max(scores + 10 * pairs, 2 * scores + 2 * pairs) + copies * rows


if __name__ == "__main__":  # the new process of `measure_in_process`
    print(json.dumps(asdict(measure(Case(**json.loads(sys.argv[1]))))))
