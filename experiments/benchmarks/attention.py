"""What does attention with a window cost? `python -m experiments.bench attention`

A mask over dense attention saves nothing: T * T scores are computed, and most are discarded. The
kernel `blocked` computes only the band, so its memory and time grow with T. This command measures
each kernel on the same inputs, each measurement in a new process, and compares every result with
the oracle of the checks. All compute in fp32, except `native`, which training uses and which exists
in bf16 only: its result may differ by the rounding of bf16.

Memory is the peak of the first call beyond what the process held before: torch, a short call of the
same kernel and the inputs are not counted; the output and, with --backward, the gradients are.
"""

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from errors import UserError
from experiments.benchmarks.benchmark import Panel, WrongResult
from experiments.benchmarks.kernel_cost import (
    KERNELS,
    Case,
    Measurement,
    Skipped,
    measure_in_process,
    refusal,
    short_difference,
)
from experiments.benchmarks.picture import curves
from experiments.benchmarks.timing import exponent
from experiments.process_memory import peak_bytes

MARKS = {
    "dense": "d",
    "blocked": "b",
    "full": "f",
    "native": "n",
    "flex": "x",
}  # letters of the plot
BANDED = ("blocked", "native")  # kernels that compute only the band of the window
LENGTHS = [2048, 4096, 8192, 16_384, 32_768]
TOLERANCE = 1e-4  # fp32 against float64, for values around 1
BF16_TOLERANCE = 0.05  # the same for bf16; a key too many or too few changes more than 0.15


@dataclass(frozen=True)
class Growth:
    """How the cost of a kernel grows: cost ~ T^exponent; None if fewer than two lengths."""

    kernel: str
    lengths: list[int]  # tokens
    memory_exponent: float | None
    time_exponent: float | None


@dataclass(frozen=True)
class BenchResult:
    """The costs of all kernels at all lengths, on the CPU, one text."""

    window: int  # keys
    sinks: int
    heads: int
    head_dim: int
    backward: bool
    repeat: int  # calls
    kernels: list[str]  # those that were measured
    left_out: dict[str, str]  # kernels that cannot run here, each with the reason
    lengths: list[int]  # tokens
    measurements: list[Measurement]
    skipped: list[Skipped]
    growth: list[Growth]


SHOWS = "What attention with a window costs: peak memory and time of each kernel by length of text."
EXAMPLE = "attention --lengths 1024 4096 --window 64"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("--lengths", nargs="+", type=int, default=LENGTHS, metavar="T",
        help=f"lengths of text in tokens ({' '.join(map(str, LENGTHS))})")  # fmt: skip
    add("--window", type=int, default=256, help="keys a query sees, its own included (256)")
    add("--sinks", type=int, default=0, help="first tokens that every query sees (0)")
    add("--heads", type=int, default=1, help="number of heads (1)")
    add("--head-dim", type=int, default=64, help="width of a head (64)")
    add("--kernels", nargs="+", choices=KERNELS, default=list(KERNELS[:4]),
        help="kernels to measure; full has no window, native computes in bf16, flex is made "
        "for CUDA")  # fmt: skip
    add("--backward", action="store_true", help="measure the gradients as well")
    add("--repeat", type=int, default=3, help="calls, of which the fastest counts (3)")


def refuse(arguments: argparse.Namespace) -> None:
    """Raise `UserError` for numbers that are too small; sort the lengths."""
    least = {"window": 1, "sinks": 0, "heads": 1, "head_dim": 1, "repeat": 1}
    for name, minimum in least.items():
        if getattr(arguments, name) < minimum:
            option = name.replace("_", "-")
            raise UserError(f"--{option} is {getattr(arguments, name)}: give {minimum} or more")
    arguments.lengths = sorted(set(arguments.lengths))
    arguments.kernels = list(dict.fromkeys(arguments.kernels))
    if arguments.lengths[0] < 1:
        raise UserError(f"--lengths {arguments.lengths[0]}: give numbers of tokens from 1")
    if arguments.backward and "flex" in arguments.kernels:
        raise UserError("--backward: flex computes no gradients on a CPU; leave one of them out")


def measure(arguments: argparse.Namespace) -> BenchResult:
    """Measure all cases. Raises `WrongResult` if a kernel differs from the oracle.

    Raises `UserError` if none of the kernels can run here.
    """
    names = ("window", "sinks", "heads", "head_dim", "backward", "repeat")
    settings = {name: getattr(arguments, name) for name in names}
    reasons = {kernel: refusal(kernel, arguments.head_dim) for kernel in arguments.kernels}
    left_out = {kernel: reason for kernel, reason in reasons.items() if reason is not None}
    kernels = [kernel for kernel in arguments.kernels if kernel not in left_out]
    if not kernels:
        raise UserError("; ".join(f"{name} cannot run: {why}" for name, why in left_out.items()))
    cases = [Case(kernel, length, **settings) for length in arguments.lengths for kernel in kernels]
    peak_bytes()  # raises before anything is measured, if the system has no such number
    for case in cases[-len(kernels) :]:
        difference = short_difference(case)
        if not difference <= _tolerance(case.kernel):  # also true for NaN
            raise _wrong(f"{case.kernel}, all rows of a short text", difference)
    measurements, skipped = [], []
    for case, outcome in _measured(cases):
        if isinstance(outcome, Skipped):
            skipped.append(outcome)
        elif outcome.max_difference <= _tolerance(outcome.kernel):
            measurements.append(outcome)
        else:
            raise _wrong(str(case), outcome.max_difference)
    growth = [_growth(kernel, measurements) for kernel in kernels]
    return BenchResult(
        kernels=kernels, left_out=left_out, lengths=arguments.lengths, measurements=measurements,
        skipped=skipped, growth=growth, **settings,
    )  # fmt: skip


def _tolerance(kernel: str) -> float:
    return BF16_TOLERANCE if kernel == "native" else TOLERANCE


def _wrong(where: str, difference: float) -> WrongResult:
    return WrongResult(f"{where}: differs from the oracle by {difference:.2g}")


def _measured(cases: Sequence[Case]) -> Iterator[tuple[Case, Measurement | Skipped]]:
    """Measure each case, with a progress bar that weights the cases by their expected time."""
    from tqdm import tqdm

    def work(case: Case) -> float:  # scored pairs, and the start of a process
        return case.length * (case.window if case.kernel in BANDED else case.length) + 2e7

    shape = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
    total = sum(map(work, cases))
    with tqdm(total=total, bar_format=shape, leave=False, disable=None) as bar:
        for case in cases:
            bar.set_description(str(case))
            yield case, measure_in_process(case)
            bar.update(work(case))


def _growth(kernel: str, measurements: Sequence[Measurement]) -> Growth:
    own = [m for m in measurements if m.kernel == kernel]
    lengths = [m.length for m in own]
    if len(own) < 2:
        return Growth(kernel, lengths, None, None)
    memory = exponent(lengths, [max(m.peak_bytes, 1) for m in own])
    return Growth(kernel, lengths, memory, exponent(lengths, [m.seconds for m in own]))


def report(result: BenchResult) -> Iterator[str]:
    """Yield the lines of the table, the growth, the skipped cases and the plot."""
    yield from _title(result)
    measured = {(m.kernel, m.length): m for m in result.measurements}
    for length in result.lengths:
        row = [measured.get((kernel, length)) for kernel in result.kernels]
        memory = _cells(row, lambda m: m.peak_bytes / 1e6)
        yield f"{length:>9,}{memory}   {_cells(row, lambda m: m.seconds * 1e3)}"
    yield ""
    for growth in result.growth:
        yield _growth_line(growth)
    yield from _worst(result)
    for kernel, reason in result.left_out.items():
        yield f"{kernel} was left out: {reason}"
    for case in result.skipped:
        yield f"{case.kernel} at T = {case.length:,} was not measured: {case.reason}"
    yield from _plot(result.measurements)


def _worst(result: BenchResult) -> Iterator[str]:
    """Yield the largest difference of the fp32 kernels, then that of `native`."""
    for is_native in (False, True):
        found = [
            m.max_difference for m in result.measurements if (m.kernel == "native") == is_native
        ]
        if found:
            name = "native's (bf16) largest difference" if is_native else "largest difference"
            yield f"{name} from the oracle in the compared rows: {max(found):.1g}"


def _title(result: BenchResult) -> Iterator[str]:
    names = list(result.kernels)
    text = (
        f"W = {result.window:,}, sinks {result.sinks:,}, heads {result.heads} x {result.head_dim}, "
        f"fp32, {'forward and backward' if result.backward else 'forward'}"
    )
    if "native" in names:
        text += "; native is bf16"
    if "full" in names:
        text += "; full sees every key"
    if len(names) > 1:
        text += f"; ratio = {names[0]} / {names[1]}"
        names.append("ratio")
    columns = "".join(f"{name:>10}" for name in names)
    yield f"{text}\n"
    yield f"{'':9}{'peak MB':>{len(columns)}}   {'ms':>{len(columns)}}"
    yield f"{'T':>9}{columns}   {columns}"


def _cells(row: Sequence[Measurement | None], cost: Callable[[Measurement], float]) -> str:
    """Return the cost of each kernel, and the ratio of the first two; - where one is missing."""
    costs = [None if m is None else cost(m) for m in row]
    words = ["-" if c is None else f"{c:,.1f}" for c in costs]
    if len(costs) > 1:
        words.append(_ratio(*costs[:2]))
    return "".join(f"{word:>10}" for word in words)


def _ratio(first: float | None, second: float | None) -> str:
    if first is None or second is None:
        return "-"
    return f"{first / max(second, 1e-9):,.1f}x"


def _growth_line(growth: Growth) -> str:
    if growth.memory_exponent is None or growth.time_exponent is None:
        return f"{growth.kernel:8} growth unknown: measured at fewer than two lengths"
    lengths = ", ".join(f"{length:,}" for length in growth.lengths)
    return (
        f"{growth.kernel:8} memory ~ T^{growth.memory_exponent:.2f}   "
        f"time ~ T^{growth.time_exponent:.2f}   over T = {lengths}"
    )


def _plot(measurements: Sequence[Measurement]) -> Iterator[str]:
    """Draw peak memory over T, both in doublings: linear cost is a line of slope 1."""
    lengths = sorted({m.length for m in measurements})
    if len(lengths) < 2:
        return
    points: dict[tuple[int, int], str] = {}
    for m in measurements:
        height = round(math.log2(max(m.peak_bytes, 2**19) / 2**20))
        column = round(math.log2(m.length / lengths[0]))
        points[height, column] = points.get((height, column), "") + MARKS[m.kernel]
    heights = [height for height, _ in points]
    columns = max(column for _, column in points) + 1
    yield ""
    for height in range(max(heights), min(heights) - 1, -1):
        row = "".join(f"{points.get((height, n), '.'):>7}" for n in range(columns))
        yield f"{2.0**height:>9,g} MiB{row}"
    yield f"{'T':>13}" + "".join(f"{lengths[0] * 2**n:>7}" for n in range(columns))


def panels(result: BenchResult) -> list[Panel]:
    """Draw peak memory and time over T, both axes logarithmic."""
    memory, seconds = {}, {}
    for kernel in result.kernels:
        own = [m for m in result.measurements if m.kernel == kernel]
        lengths = [m.length for m in own]
        memory[kernel] = lengths, [m.peak_bytes / 1e6 for m in own]
        seconds[kernel] = lengths, [m.seconds * 1e3 for m in own]
    return [
        curves("attention: peak MB", "T [tokens]", memory, log=True),
        curves("attention: ms", "T [tokens]", seconds, log=True),
    ]
