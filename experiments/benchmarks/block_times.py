"""Time of attention by length: whole matrices of scores against tiles, and the project's kernels.

All contenders get the same inputs, one head, and are compared with the oracle of the checks before
they are timed. `native` computes in bf16; the others compute in fp32.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from experiments.benchmarks.attention import BF16_TOLERANCE, TOLERANCE
from experiments.benchmarks.benchmark import WrongResult
from experiments.benchmarks.kernel_cost import COMPARED_ROWS, Case, draw, needed_bytes, refusal
from experiments.benchmarks.timing import interleaved, timed
from experiments.process_memory import free_bytes
from experiments.tiles import block_wise
from model.window import Window

if TYPE_CHECKING:  # torch is imported only where something is computed
    from torch import Tensor

HEAD_DIM, BLOCK = 64, 128  # numbers in a head; queries and keys of a tile
LENGTHS = (512, 1024, 2048, 4096, 8192)  # tokens
SHORT = 4096  # tokens: with half of them there are twice as many rounds
WINDOWS: tuple[Window, ...] = (None, 128)
DTYPES = (
    "native computes in bf16, the others in fp32: its time also shows the smaller dtype, not only "
    "the algorithm."
)


@dataclass(frozen=True)
class Time:
    """One contender at one length."""

    way: str  # dense, tile loop, or a kernel of the project
    window: Window
    length: int  # tokens
    seconds: list[float]  # of each round
    max_difference: float  # from the oracle, in the compared rows

    @property
    def median(self) -> float:
        """The seconds that are reported."""
        return statistics.median(self.seconds)


def measure(
    lengths: Sequence[int], windows: Sequence[Window], rounds: int
) -> tuple[list[Time], dict[str, str]]:
    """Time every contender at every length; return the times, and why some were left out.

    There are `rounds` rounds, and more of them for texts shorter than `SHORT`.
    Raises `WrongResult` if a contender differs from the oracle.
    """
    times, left_out = [], {}
    reason = refusal("native", HEAD_DIM)
    if reason is not None:
        left_out["native"] = reason
    for window in windows:
        for length in lengths:
            calls = _contenders(length, window)
            need, free = needed_bytes(Case("dense", length, window or length)), free_bytes()
            if free is not None and need > free:
                left_out[f"dense at {length:,} tokens"] = f"needs about {need / 1e9:.1f} GB"
                del calls["dense"]
            if "native" in left_out:
                del calls["native"]
            differences = _compare(calls, length, window)
            title = f"{length:,} tokens, window {window or 'full'}"
            readings = {way: timed(call) for way, call in calls.items()}
            more = max(1, SHORT // length)  # rounds of a short call are cheap, and vary more
            for way, seconds in interleaved(readings, rounds * more, title).items():
                times.append(Time(way, window, length, seconds, differences[way]))
    return times, left_out


def _contenders(length: int, window: Window) -> dict[str, "Callable[[], Tensor]"]:
    """Return calls that compute the output (1, 1, T, Dh)."""
    from model.kernels import Visibility, attend_with

    q, k, v = draw(Case("dense", length, window or length), length)[:3]
    q16, k16, v16 = (x.bfloat16() for x in (q, k, v))
    seen = Visibility(window, 0)
    kernel = "full" if window is None else "blocked"
    return {
        "dense": lambda: attend_with("dense", q, k, v, seen),
        "tile loop": lambda: block_wise(q[0, 0], k[0, 0], v[0, 0], window, BLOCK)[None, None],
        kernel: lambda: attend_with(kernel, q, k, v, seen),
        "native": lambda: attend_with("native", q16, k16, v16, seen),
    }


def _compare(
    calls: dict[str, "Callable[[], Tensor]"], length: int, window: Window
) -> dict[str, float]:
    """Return each contender's largest difference from the oracle. Raises `WrongResult`."""
    from checks import oracle

    rows = sorted({*range(0, length, -(-length // COMPARED_ROWS)), length - 1})
    q, k, v = (x.double() for x in draw(Case("dense", length, window or length), length)[:3])
    expected = oracle.attention(q, k, v, window, 0, rows=rows)
    differences = {}
    for way, call in calls.items():
        difference = (call()[:, :, rows] - expected).abs().max().item()
        if not difference <= (BF16_TOLERANCE if way == "native" else TOLERANCE):
            raise WrongResult(f"{way} at {length:,} tokens differs by {difference:.2g}")
        differences[way] = difference
    return differences
