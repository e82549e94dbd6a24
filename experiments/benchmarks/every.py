"""All benchmarks in turn: `python -m experiments.bench all`, and `make bench`.

Each runs with its own defaults, but attention up to a length that every machine has memory for.
Learning needs a text: it is left out unless its config or its changes name one.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

from errors import ArgumentParser
from experiments.benchmarks import attention, decode, learn, prompt, start, train
from experiments.benchmarks.attention import BenchResult
from experiments.benchmarks.benchmark import Benchmark, Panel, add_rounds, refuse_rounds
from experiments.benchmarks.decode import DecodeResult
from experiments.benchmarks.learn import LearnResult
from experiments.benchmarks.prompt import PromptResult
from experiments.benchmarks.start import StartResult
from experiments.benchmarks.train import TrainResult

SHOWS = "All of these, in turn; some minutes."
EXAMPLE = "all --rounds 3"

LENGTHS = [1024, 2048, 4096, 8192]  # of `attention`: 1 GB of memory
NO_TEXT = "learn was left out, because it needs a text: add data.path=FILE"


@dataclass(frozen=True)
class AllResult:
    """The results of all benchmarks; `learn` is None if there was no text."""

    train: TrainResult
    decode: DecodeResult
    prompt: PromptResult
    start: StartResult
    attention: BenchResult
    learn: LearnResult | None


def add_options(parser: ArgumentParser) -> None:
    """Declare CONFIG and its changes, of `learn`, and the options of several."""
    learn.add_words(parser)
    parser.add_argument("--compiled", action="store_true",
                        help="also train under torch.compile, which takes minutes")  # fmt: skip
    add_rounds(parser)


def refuse(arguments: argparse.Namespace) -> None:
    """Raise `UserError` for errors in the config or the options."""
    refuse_rounds(arguments)
    if arguments.words:
        learn.refuse(_own(learn, words=arguments.words))


def measure(arguments: argparse.Namespace) -> AllResult:
    """Run all benchmarks. Raises `WrongResult` and `UserError` as they do."""
    rounds = arguments.rounds
    return AllResult(
        train=train.measure(_own(train, rounds=rounds, compiled=arguments.compiled)),
        decode=decode.measure(_own(decode, rounds=rounds)),
        prompt=prompt.measure(_own(prompt, rounds=rounds)),
        start=start.measure(_own(start, rounds=rounds)),
        attention=attention.measure(_own(attention, lengths=LENGTHS)),
        learn=learn.measure(_own(learn, words=arguments.words)) if arguments.words else None,
    )


def _own(benchmark: Benchmark, **changes: object) -> argparse.Namespace:
    """Return the options of a benchmark: its defaults and these changes."""
    parser = ArgumentParser()
    benchmark.add_options(parser)
    options: argparse.Namespace = parser.parse_args([])
    vars(options).update(changes)
    return options


def report(result: AllResult) -> Iterator[str]:
    """Yield the tables of all, each under a heading."""
    for benchmark, own in _parts(result):
        yield f"## {benchmark.SHOWS}"
        yield ""
        yield from benchmark.report(own)
        yield ""
    if result.learn is None:
        yield NO_TEXT


def panels(result: AllResult) -> list[Panel]:
    """Return the parts of all pictures."""
    return [panel for benchmark, own in _parts(result) for panel in benchmark.panels(own)]


def _parts(result: AllResult) -> list[tuple[Benchmark, object]]:
    parts: list[tuple[Benchmark, object]] = [
        (train, result.train),
        (decode, result.decode),
        (prompt, result.prompt),
        (start, result.start),
        (attention, result.attention),
    ]
    return parts if result.learn is None else [*parts, (learn, result.learn)]
