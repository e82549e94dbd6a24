"""What attention with a window costs, by length of text: `python -m experiments.bench`

A mask over dense attention saves nothing: T * T scores are computed, then most are thrown away.
`blocked` computes the band alone, so that its memory and its time grow with T. Here it is measured:
every kernel on the same numbers, each measurement in a process of its own, and only after the
result was compared with attention that is written out one query at a time.

Memory is the peak of the first call beyond what the process held before: torch, a small call of the
same kernel and the inputs are not counted; the output and, with --backward, the gradients are.
"""

import argparse
import contextlib
import json
import math
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import linear_regression
from typing import TYPE_CHECKING

from errors import ArgumentParser, UserError, command
from model.window import Window

if TYPE_CHECKING:
    from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
MARKS = {"dense": "d", "blocked": "b", "full": "f", "flex": "x"}  # of the kernels in the plot
SHORT = 1024  # tokens: of the call before the measured one, and at most of the complete comparison
ROWS = 32  # of each measured result that are compared
TOLERANCE = 1e-4  # fp32 against float64, of numbers around 1


@dataclass(frozen=True)
class Case:
    """One measurement."""

    kernel: str
    length: int
    window: int
    sinks: int = 0
    heads: int = 1
    head_dim: int = 64
    backward: bool = False
    repeat: int = 3

    @property
    def seen(self) -> tuple[Window, int]:
        """The window and the sinks that the kernel obeys; `full` has neither."""
        return (None, 0) if self.kernel == "full" else (self.window, self.sinks)

    def __str__(self) -> str:
        return f"{self.kernel} at T = {self.length:,}"


@dataclass(frozen=True)
class Measured:
    """What came of it."""

    peak: int  # bytes
    seconds: float  # of the fastest call
    difference: float  # the largest in the rows compared


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Print a line for each length, then how each kernel's cost grows."""
    arguments = _arguments(argv)
    if arguments.child is not None:
        print(json.dumps(asdict(measure(Case(**json.loads(arguments.child))))))
        return 0
    names = ("window", "sinks", "heads", "head_dim", "backward", "repeat")
    setting = {name: getattr(arguments, name) for name in names}
    grid = [[Case(kernel, length, **setting) for kernel in arguments.kernels]
            for length in arguments.lengths]  # fmt: skip
    for case in grid[-1]:
        worst = compare_all(case)
        if not worst <= TOLERANCE:  # neither is NaN
            return _wrong(f"{case.kernel}, all rows of a short text", worst)
    print(_title(grid[0]), flush=True)
    measured: dict[Case, Measured] = {}
    notes = []
    for row, reasons in _run(grid, measured):
        notes += reasons
        print(_line(row, measured), flush=True)
        for case in row:
            if case in measured and not measured[case].difference <= TOLERANCE:
                return _wrong(str(case), measured[case].difference)
    print(*_growth(arguments.kernels, measured), *notes, *_plot(measured), sep="\n")
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(
        prog="python -m experiments.bench",
        description="What attention with a window costs: peak memory and time of each kernel by "
        "length of text.",
        epilog="example: python -m experiments.bench --lengths 1024 4096 --window 64",
    )
    add = parser.add_argument
    lengths = [2048, 4096, 8192, 16_384, 32_768]
    add("--lengths", nargs="+", type=int, default=lengths, metavar="T", help="tokens of text")
    add("--window", type=int, default=256, help="keys a query sees, its own included (256)")
    add("--sinks", type=int, default=0, help="first tokens that every query sees (0)")
    add("--heads", type=int, default=1, help="heads (1)")
    add("--head-dim", type=int, default=64, help="width of a head (64)")
    add("--kernels", nargs="+", choices=MARKS, default=[*MARKS][:3],
        help="what to measure; full has no window, flex is made for CUDA")  # fmt: skip
    add("--backward", action="store_true", help="the gradients too")
    add("--repeat", type=int, default=3, help="calls, the fastest counts (3)")
    add("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    least = {"window": 1, "sinks": 0, "heads": 1, "head_dim": 1, "repeat": 1}
    for name, smallest in least.items():
        if getattr(arguments, name) < smallest:
            word = name.replace("_", "-")
            raise UserError(f"--{word} is {getattr(arguments, name)}: {smallest} or more")
    arguments.lengths = sorted(set(arguments.lengths))
    arguments.kernels = list(dict.fromkeys(arguments.kernels))
    if arguments.lengths[0] < 1:
        raise UserError(f"--lengths {arguments.lengths[0]}: give numbers of tokens from 1")
    if arguments.backward and "flex" in arguments.kernels:
        raise UserError("--backward: flex computes no gradients on a CPU; leave one of them out")
    return arguments


# ------------------------------------------------------------------- the same numbers


def attention(case: Case) -> "Callable[[Tensor, Tensor, Tensor], Tensor]":
    """Give the kernel of `case` as a function of q, k, v, each (1, H, T, Dh)."""
    from model import kernels

    warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
    visibility = kernels.Visibility(case.window, case.sinks)
    return lambda q, k, v: kernels.attend_with(case.kernel, q, k, v, visibility)


def by_row(q: "Tensor", k: "Tensor", v: "Tensor", rows: Sequence[int], case: Case) -> "Tensor":
    """Attend from the queries in `rows`, one at a time, in float64: (1, H, rows, Dh).

    Slices of the keys in place of masks: this shares nothing with the kernels.
    """
    import torch

    window, sinks = case.seen
    out = []
    for i in rows:
        first = 0 if window is None else max(0, i + 1 - window)
        keys, values = (
            torch.cat((x[:, :, : min(sinks, first)], x[:, :, first : i + 1]), dim=2).double()
            for x in (k, v)
        )
        scores = q[:, :, i : i + 1].double() @ keys.mT / math.sqrt(q.shape[-1])
        out.append(scores.softmax(-1) @ values)
    return torch.cat(out, dim=2)


def compare_all(case: Case) -> float:
    """Give the largest difference in any row of a short text, and in any gradient."""
    import torch

    length = min(case.length, 3 * case.window + 5, SHORT)
    q, k, v, upstream = draw(case, length)
    out, expected = attention(case)(q, k, v), by_row(q, k, v, range(length), case)
    pairs = [(out, expected)]
    if case.backward:
        found = torch.autograd.grad(out, (q, k, v), upstream)
        gradients = torch.autograd.grad(expected, (q, k, v), upstream.double())
        pairs += zip(found, gradients, strict=True)
    return torch.stack([(a - b).abs().max() for a, b in pairs]).max().item()


def draw(case: Case, length: int) -> "list[Tensor]":
    """Draw q, k, v and the gradient that comes from above: (1, H, T, Dh) each."""
    import torch

    generator = torch.Generator().manual_seed(0)
    shape = (1, case.heads, length, case.head_dim)
    return [
        torch.randn(shape, generator=generator).requires_grad_(case.backward and n < 3)
        for n in range(4)
    ]


def _wrong(where: str, difference: float) -> int:
    """Say that a kernel does not compute attention, which makes its cost meaningless."""
    print(f"wrong numbers: {where}: off by {difference:.2g}", file=sys.stderr)
    return 1


# ------------------------------------------------------------------- one process a measurement


def measure(case: Case) -> Measured:
    """Measure in this process, which must be a fresh one that `start` has set up."""
    import torch

    from training.device import keep_freed_memory

    def call(q: "Tensor", k: "Tensor", v: "Tensor", upstream: "Tensor") -> "Tensor":
        out = attention(case)(q, k, v)
        if case.backward:
            torch.autograd.grad(out, (q, k, v), upstream)
        return out

    call(*draw(case, min(case.length, SHORT)))  # threads, code and buffers that all lengths need
    inputs = draw(case, case.length)
    before, seconds = _begin_peak(), []
    for number in range(case.repeat):
        began = time.perf_counter()
        out = call(*inputs)
        seconds.append(time.perf_counter() - began)
        if number == 0:
            peak = _peak() - before
            keep_freed_memory()  # the other calls run as in training
    rows = sorted({*range(0, case.length, -(-case.length // ROWS)), case.length - 1})
    with torch.no_grad():
        q, k, v, _ = inputs
        difference = (out[:, :, rows] - by_row(q, k, v, rows, case)).abs().max().item()
    return Measured(peak, min(seconds), difference)


def start(case: Case) -> Measured | str:
    """Measure in a process of its own; a string says why there is no result."""
    need, free = needed_bytes(case), free_bytes()
    if need > free:
        return f"{case} was not started: needs about {need / 1e9:.1f} GB, {free / 1e9:.1f} GB free"
    # With this, glibc gives every freed tensor back at once: what is resident is what is in use.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    words = [sys.executable, "-m", "experiments.bench", "--child", json.dumps(asdict(case))]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode < 0:
        return f"{case} was ended by signal {-done.returncode}: out of memory?"
    if done.returncode:
        raise RuntimeError(f"{case}: {done.stderr}")
    return Measured(**json.loads(done.stdout))


def needed_bytes(case: Case) -> int:
    """Estimate from above what `case` takes: mostly, what is kept for each pair that is scored.

    `dense` holds the scores and, while the mask is made, 10 bytes a pair more; then the mask with
    scores and weights, and their gradients.
    """
    width = {"full": 0, "blocked": min(case.length, case.window + 128) + case.sinks}
    pairs = case.length * width.get(case.kernel, case.length)
    scores = 4 * case.heads * pairs
    rows = 4 * case.heads * case.length * case.head_dim  # of queries, keys, values
    copied = 16 + 2 * case.sinks  # times: by blocks, and the sinks for every query
    if case.backward:
        return max(scores + 10 * pairs, 3 * scores + 2 * pairs) + 2 * copied * rows
    return max(scores + 10 * pairs, 2 * scores + 2 * pairs) + copied * rows


def free_bytes() -> int:
    """Memory that a new process can have."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except FileNotFoundError:  # not Linux: all there is
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))


def _begin_peak() -> int:
    """Forget earlier peaks of this process, where the system can; returns the bytes now held."""
    with contextlib.suppress(OSError):  # then the peak of importing torch stays, hardly more
        Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    """The most bytes this process held in RAM, on Linux since `_begin_peak`."""
    if sys.platform == "linux":
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _run(
    grid: list[list[Case]], measured: dict[Case, Measured]
) -> Iterator[tuple[list[Case], list[str]]]:
    """Measure row by row into `measured`; yield each row and what is missing in it."""
    from tqdm import tqdm

    def work(case: Case) -> float:  # so that the bar knows what is still to come
        return case.length * (case.window if case.kernel == "blocked" else case.length) + 2e7

    total = sum(work(case) for row in grid for case in row)
    shape = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
    with tqdm(total=total, bar_format=shape, leave=False, disable=None) as bar:
        for row in grid:
            reasons = []
            for case in row:
                bar.set_description(str(case))
                result = start(case)
                if isinstance(result, str):
                    reasons.append(result)
                else:
                    measured[case] = result
                bar.update(work(case))
            bar.clear()
            yield row, reasons


# ------------------------------------------------------------------- the table


def exponent(lengths: Sequence[float], costs: Sequence[float]) -> float:
    """Fit cost = c * T^e by least squares of the logarithms; returns e."""
    return linear_regression([math.log(n) for n in lengths], [math.log(c) for c in costs]).slope


def _title(row: list[Case]) -> str:
    case, names = row[0], [case.kernel for case in row]
    text = (
        f"W = {case.window:,}, sinks {case.sinks:,}, heads {case.heads} x {case.head_dim}, fp32, "
    )
    text += "forward and backward" if case.backward else "forward"
    if "full" in names:
        text += "; full sees every key"
    if len(names) > 1:
        text += f"; ratio = {names[0]} / {names[1]}"
        names.append("ratio")
    columns = "".join(f"{name:>10}" for name in names)
    peak = f"{'peak MB':>{len(columns)}}"
    return f"{text}\n\n{'':9}{peak}   {'ms':>{len(columns)}}\n{'T':>9}{columns}   {columns}"


def _line(row: list[Case], measured: dict[Case, Measured]) -> str:
    def cells(cost: Callable[[Measured], float]) -> str:
        numbers = [cost(measured[case]) if case in measured else math.nan for case in row]
        words = [f"{number:,.1f}" for number in numbers]
        if len(numbers) > 1:
            words.append(f"{numbers[0] / max(numbers[1], 1e-9):,.1f}x")
        return "".join(f"{'-' if 'nan' in word else word:>10}" for word in words)

    return (
        f"{row[0].length:>9,}{cells(lambda m: m.peak / 1e6)}   {cells(lambda m: m.seconds * 1e3)}"
    )


def _growth(kernels: Sequence[str], measured: dict[Case, Measured]) -> Iterator[str]:
    """Say for each kernel with which power of T its cost grows, and over which T."""
    yield ""
    for kernel in kernels:
        found = {case.length: m for case, m in measured.items() if case.kernel == kernel}
        if len(found) < 2:
            yield f"{kernel:8} measured at {len(found)} lengths: two are needed to see it grow"
            continue
        memory = exponent([*found], [max(m.peak, 1) for m in found.values()])
        duration = exponent([*found], [m.seconds for m in found.values()])
        lengths = ", ".join(f"{length:,}" for length in found)
        yield f"{kernel:8} memory ~ T^{memory:.2f}   time ~ T^{duration:.2f}   over T = {lengths}"
    worst = max((m.difference for m in measured.values()), default=0.0)
    yield f"rows compared with attention one query at a time: largest difference {worst:.1g}"


def _plot(measured: dict[Case, Measured]) -> Iterator[str]:
    """Draw peak memory over T, both in doublings: a line of slope 1 or 2."""
    lengths = sorted({case.length for case in measured})
    if len(lengths) < 2:
        return
    points: dict[tuple[int, int], str] = {}
    for case, m in measured.items():
        height = round(math.log2(max(m.peak, 2**19) / 2**20))
        column = round(math.log2(case.length / lengths[0]))
        points[height, column] = points.get((height, column), "") + MARKS[case.kernel]
    heights = [height for height, _ in points]
    columns = max(column for _, column in points) + 1
    yield ""
    for height in range(max(heights), min(heights) - 1, -1):
        row = "".join(f"{points.get((height, n), '.'):>7}" for n in range(columns))
        yield f"{2.0**height:>9,g} MiB{row}"
    yield f"{'T':>13}" + "".join(f"{lengths[0] * 2**n:>7}" for n in range(columns))


if __name__ == "__main__":
    sys.exit(main())
