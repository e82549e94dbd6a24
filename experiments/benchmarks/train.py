"""How fast does it train? `python -m experiments.bench train`

Each shape is trained by Breeze and by transformers, with the same weights, batch and AdamW, in one
process, interleaved. Before the clock starts, the logits, losses and gradients of all contenders
are compared with those of Breeze in fp32 without native kernels. A contender that computes
something else ends the command.

Two numbers stand beside each speed. *Of product* is the arithmetic that a step needs
(`model/cost.py`) as a share of what matrix products alone reach on this machine, measured in the
same rounds. *Limit* is the ratio to transformers' best at 100 % of that: no goal above it can be
reached here.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING

from experiments.benchmarks import contenders
from experiments.benchmarks.benchmark import (
    Panel,
    WrongResult,
    add_rounds,
    refuse_rounds,
    spell,
    table,
)
from experiments.benchmarks.contenders import BREEZE, PEERS, Contender, Shape
from experiments.benchmarks.machine import Machine, describe_machine, product_rate, products
from experiments.benchmarks.peer import MISSING, has_transformers
from experiments.benchmarks.picture import bars
from experiments.benchmarks.timing import exponent, interleaved, timed
from model.config import ModelConfig
from model.cost import flops_per_token

if TYPE_CHECKING:
    from torch import Tensor

SHOWS = "Tokens per second and peak memory of a training step, beside transformers."
EXAMPLE = "train --shapes A --rounds 5"

SHAPES = {
    shape.name: shape
    for shape in (
        Shape("A", ModelConfig(65, 384, 6, 6, 6, sliding_window=64), 256, 16, goal=2.5),
        Shape("B", ModelConfig(2048, 256, 6, 8, 2, sliding_window=128), 512, 8, goal=4.0),
        Shape("C", ModelConfig(2048, 256, 6, 4, 2, sliding_window=256), 4096, 1, goal=8.0),
    )
}
GROWTH_LENGTHS = [512, 1024, 2048, 4096]  # tokens of a sequence; a step has as many as the longest
# Largest differences from Breeze in fp32 without native kernels: of the logits (relative, root mean
# square), the loss (nats per token) and the norm of the gradient (relative). bf16 has 8 bits.
TOLERANCES = {"float32": (1e-4, 1e-4, 1e-4), "bfloat16": (0.05, 0.01, 0.02)}


@dataclass(frozen=True)
class ContenderResult:
    """The speed and the memory of one contender."""

    name: str
    dtype: str  # of the matrix products
    seconds: list[float]  # of the step, in each round
    tokens_per_s: float  # of the median step
    ratio: float | None  # to the best of transformers
    product_share: float  # arithmetic, as a share of the rate of matrix products
    peak_bytes: int | None  # None: not measured
    differences: list[float]  # of logits, loss and gradient, as in TOLERANCES


@dataclass(frozen=True)
class ShapeResult:
    """One shape."""

    name: str
    parameters: int
    window: int | None  # keys
    seq_len: int  # tokens
    batch_size: int  # sequences
    flops_per_token: float
    product_flops: dict[str, float]  # FLOP/s of the matrix product by number format
    peer: str | None  # the fastest contender of transformers; None: it is not installed
    goal: float | None
    limit: float | None  # the ratio at 100 % of the product rate
    contenders: list[ContenderResult]


@dataclass(frozen=True)
class Growth:
    """How the time of a step of a fixed number of tokens grows with the sequences: ~ T^exponent."""

    name: str
    lengths: list[int]  # tokens
    seconds: list[float]  # of a step
    exponent: float


@dataclass(frozen=True)
class TrainResult:
    """All shapes."""

    machine: Machine
    native: str  # whether native kernels are used
    rounds: int
    shapes: list[ShapeResult]
    growth: list[Growth]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    sizes = "; ".join(map(_describe, SHAPES.values()))
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES),
                        help=f"what to train (all). {sizes}")  # fmt: skip
    parser.add_argument("--compiled", action="store_true",
                        help="also measure both under torch.compile; takes minutes")  # fmt: skip
    parser.add_argument("--growth", action="store_true",
                        help="also measure how the time grows with the sequences")  # fmt: skip
    add_rounds(parser)


refuse = refuse_rounds


def measure(arguments: argparse.Namespace) -> TrainResult:
    """Check and measure all shapes. Raises `WrongResult` if a contender differs."""
    from model import native
    from training.device import keep_freed_memory

    shapes = [SHAPES[name] for name in dict.fromkeys(arguments.shapes)]
    names = contenders.contender_names(arguments.compiled)
    refusal = native.training_refusal()
    peaks = {  # first, while this process is small
        name: contenders.peaks(name, shapes) for name in names if "compiled" not in name
    }
    keep_freed_memory()  # as train.py does, here for all contenders
    results = []
    for n, shape in enumerate(shapes):
        own_peaks = {name: found[n] for name, found in peaks.items()}
        results.append(_measure_shape(shape, names, own_peaks, arguments.rounds))
    growth = _growth(shapes[-1], results[-1], arguments.rounds) if arguments.growth else []
    reason = "yes" if refusal is None else f"no: {refusal}"
    return TrainResult(describe_machine(), reason, arguments.rounds, results, growth)


def _measure_shape(
    shape: Shape, names: Sequence[str], peaks: dict[str, int], rounds: int
) -> ShapeResult:
    built = [contenders.build(name, shape) for name in names]
    differences = _differences(shape, built)
    readings = products() | {each.name: timed(each.step) for each in built}
    seconds = interleaved(readings, rounds, f"train {shape.name}")
    middle = {name: median(found) for name, found in seconds.items()}
    speeds = {name: shape.tokens / middle[name] for name in names}
    peer = max((name for name in names if name in PEERS), key=speeds.__getitem__, default=None)
    best = None if peer is None else speeds[peer]
    rates = {name: product_rate(middle[name]) for name in products()}
    flops = flops_per_token(shape.config, shape.seq_len)
    (window,) = set(shape.config.windows)
    return ShapeResult(
        shape.name, sum(shape.config.parameter_counts().values()), window, shape.seq_len,
        shape.batch_size, flops, rates, peer, shape.goal,
        limit=None if best is None else max(rates.values()) / flops / best,
        contenders=[
            ContenderResult(
                each.name, str(each.dtype).removeprefix("torch."), seconds[each.name],
                speeds[each.name], None if best is None else speeds[each.name] / best,
                speeds[each.name] * flops / max(rates.values()), peaks.get(each.name),
                differences[each.name],
            )
            for each in built
        ],
    )  # fmt: skip


def _differences(shape: Shape, built: Sequence[Contender]) -> dict[str, list[float]]:
    """Compare all contenders with Breeze in fp32 without native kernels. Raises `WrongResult`."""
    import torch

    logits, loss, norm = contenders.build(contenders.PLAIN, shape, torch.float32).outputs()

    def relative(other: "Tensor") -> float:
        return ((other - logits).square().mean() / logits.square().mean()).sqrt().item()

    found = {}
    for each in built:
        other_logits, other_loss, other_norm = each.outputs()
        own = [relative(other_logits), abs(other_loss - loss), abs(other_norm / norm - 1)]
        tolerances = TOLERANCES[str(each.dtype).removeprefix("torch.")]
        for what, difference, most in zip(
            ("logits", "loss", "gradient"), own, tolerances, strict=True
        ):
            if not difference <= most:  # also true for NaN
                raise WrongResult(
                    f"{each.name}, shape {shape.name}: its {what} differs from that of Breeze in "
                    f"fp32 by {difference:.2g}, more than {most:g}"
                )
        found[each.name] = own
    return found


def _growth(shape: Shape, result: ShapeResult, rounds: int) -> list[Growth]:
    """Train the model of `shape` on shorter sequences, the same number of tokens a step."""
    names = [BREEZE] if result.peer is None else [BREEZE, result.peer]
    tokens = GROWTH_LENGTHS[-1]
    steps = {
        (name, length): contenders.build(
            name, replace(shape, seq_len=length, batch_size=tokens // length)
        ).step
        for length in GROWTH_LENGTHS
        for name in names
    }
    readings = {f"{name}, T = {length:,}": timed(step) for (name, length), step in steps.items()}
    seconds = iter(interleaved(readings, rounds, "growth").values())
    middle = {key: median(next(seconds)) for key in steps}
    growth = []
    for name in names:
        own = [middle[name, length] for length in GROWTH_LENGTHS]
        growth.append(Growth(name, GROWTH_LENGTHS, own, exponent(GROWTH_LENGTHS, own)))
    return growth


def _describe(shape: Shape) -> str:
    config = shape.config
    size = sum(config.parameter_counts().values()) / 1e6
    return (
        f"{shape.name}: {size:.1f}M parameters, T = {shape.seq_len:,}, batch {shape.batch_size}, "
        f"W = {config.sliding_window}"
    )


def report(result: TrainResult) -> Iterator[str]:
    """Yield the table, then what its columns mean."""
    yield f"{result.machine}; native kernels: {result.native}"
    yield ""
    titles = ["shape", "contender", "tokens/s", "ratio", "goal", "limit", "of product", "peak MB"]
    yield from table(titles, [row for shape in result.shapes for row in _rows(shape)], n_words=2)
    yield ""
    for shape in result.shapes:
        rates = ", ".join(f"{n} {rate / 1e9:,.0f}" for n, rate in shape.product_flops.items())
        yield (
            f"{shape.name}: {shape.parameters / 1e6:.1f}M parameters, T = {shape.seq_len:,}, "
            f"batch {shape.batch_size}, W = {spell(shape.window, ',')}; matrix product: {rates} "
            "GFLOP/s"
        )
    yield (
        f"Medians of {result.rounds} interleaved rounds. ratio: to the fastest of transformers; "
        "limit: the ratio at 100% of the faster matrix product; of product: share of it that is "
        "reached."
    )
    for dtype, (logits, loss, gradient) in TOLERANCES.items():
        yield (
            f"Checked before, {dtype}: logits within {logits:.2%}, loss within {loss:g} nats, "
            f"gradient's norm within {gradient:.2%} of Breeze in fp32."
        )
    if not has_transformers():
        yield MISSING
    for growth in result.growth:
        milliseconds = ", ".join(f"{seconds * 1e3:,.0f}" for seconds in growth.seconds)
        yield (
            f"{growth.name}: the time of a step ~ T^{growth.exponent:.2f} over T = "
            f"{', '.join(f'{length:,}' for length in growth.lengths)} ({milliseconds} ms)"
        )


def _rows(shape: ShapeResult) -> Iterator[list[str]]:
    for each in shape.contenders:
        is_breeze = each.name == BREEZE
        yield [
            shape.name,
            each.name,
            f"{each.tokens_per_s:,.0f}",
            spell(each.ratio, ".2f", "x"),
            spell(shape.goal if is_breeze else None, ".1f", "x"),
            spell(shape.limit if is_breeze else None, ".1f", "x"),
            f"{each.product_share:.0%}",
            spell(None if each.peak_bytes is None else each.peak_bytes / 1e6, ",.0f"),
        ]


def panels(result: TrainResult) -> list[Panel]:
    """Draw the tokens per second of each shape, with the goal."""
    drawn = []
    for shape in result.shapes:
        speeds = {each.name: each.tokens_per_s for each in shape.contenders}
        goals = {}
        if shape.peer is not None and shape.goal is not None:
            goals = {BREEZE: speeds[shape.peer] * shape.goal}
        drawn.append(bars(f"train, shape {shape.name}: tokens/s", speeds, goals))
    return drawn
