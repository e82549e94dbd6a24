"""What does LoRA save? `python -m experiments.bench lora`

The same model is trained by full fine-tuning and with adapters (model/lora.py), both by AdamW on
the same batch, in one process, interleaved. Adapters begin as the function of the model: before the
clock starts, the logits and the loss of both are compared. Peak memory is that of a process of its
own, beyond what it held before the model was built.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from experiments.benchmarks import contenders
from experiments.benchmarks.benchmark import (
    Panel,
    WrongResult,
    add_rounds,
    refuse_rounds,
    table,
)
from experiments.benchmarks.contenders import BREEZE, LORA, LORA_RANK, Shape
from experiments.benchmarks.machine import Machine, describe_machine
from experiments.benchmarks.picture import bars
from experiments.benchmarks.timing import interleaved, timed
from model.config import ModelConfig

SHOWS = "Tokens per second and peak memory of LoRA, beside full fine-tuning."
EXAMPLE = "lora --rounds 3"

_SMALL = ModelConfig(4096, 192, 4, 4, 2, sliding_window=64)
SHAPES = (
    Shape(
        "quickstart",
        ModelConfig(4096, 192, 4, 4, 2, sliding_window=64, tie_embeddings=True),
        256,
        8,
    ),
    Shape("larger", ModelConfig(4096, 640, 8, 10, 2, sliding_window=64), 256, 2),
)


@dataclass(frozen=True)
class LoraResult:
    """Full fine-tuning and LoRA on each shape, in this order."""

    machine: Machine
    rounds: int
    parameters: dict[str, int]  # of each shape
    seconds: dict[str, dict[str, list[float]]]  # shape -> contender -> each round's step
    tokens: dict[str, int]  # of a step
    peaks: dict[str, dict[str, int]]  # bytes


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_rounds(parser)


refuse = refuse_rounds


def measure(arguments: argparse.Namespace) -> LoraResult:
    """Check and measure all shapes. Raises `WrongResult` if adapters change the function."""
    import torch

    from training.device import keep_freed_memory

    names = (BREEZE, LORA)
    found = {name: contenders.peaks(name, list(SHAPES)) for name in names}
    keep_freed_memory()  # as train.py does
    seconds = {}
    for shape in SHAPES:
        built = [contenders.build(name, shape) for name in names]
        (logits, loss, _), (adapted, adapted_loss, _) = (each.outputs() for each in built)
        if not torch.equal(adapted, logits) or adapted_loss != loss:  # B is zero
            raise WrongResult(f"{shape.name}: fresh adapters change the model's function")
        readings = {each.name: timed(each.step) for each in built}
        seconds[shape.name] = interleaved(readings, arguments.rounds, f"lora {shape.name}")
    return LoraResult(
        describe_machine(),
        arguments.rounds,
        {shape.name: sum(shape.config.parameter_counts().values()) for shape in SHAPES},
        seconds,
        {shape.name: shape.tokens for shape in SHAPES},
        {s.name: {name: found[name][n] for name in names} for n, s in enumerate(SHAPES)},
    )


def report(result: LoraResult) -> Iterator[str]:
    """Yield the table, then what its columns mean."""
    yield f"{result.machine}"
    yield ""
    titles = ["shape", "weights", "trained", "tokens/s", "ratio", "peak MB", "ratio"]
    yield from table(titles, list(_rows(result)), n_words=3)
    yield ""
    yield (
        f"Medians of {result.rounds} interleaved rounds; ratio: to full fine-tuning. Peak: "
        "weights, gradients, moments and activations, in a process of its own."
    )


def _rows(result: LoraResult) -> Iterator[list[str]]:
    for shape, times in result.seconds.items():
        middle = {name: median(found) for name, found in times.items()}
        for name, trained in ((BREEZE, "all weights"), (LORA, f"adapters of rank {LORA_RANK}")):
            peak, full_peak = result.peaks[shape][name], result.peaks[shape][BREEZE]
            yield [
                shape,
                f"{result.parameters[shape] / 1e6:.1f}M",
                trained,
                f"{result.tokens[shape] / middle[name]:,.0f}",
                f"{middle[BREEZE] / middle[name]:.2f}x",
                f"{peak / 1e6:,.0f}",
                f"{peak / full_peak:.2f}x",
            ]


def panels(result: LoraResult) -> list[Panel]:
    """Draw the tokens per second of each shape."""
    return [
        bars(
            f"LoRA, {shape}: tokens/s",
            {name: result.tokens[shape] / median(found) for name, found in times.items()},
            {},
        )
        for shape, times in result.seconds.items()
    ]
