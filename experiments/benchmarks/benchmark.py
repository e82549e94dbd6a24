"""The interface of a benchmark, its tables, and the error for a wrong result.

A benchmark is a module. `experiments.bench` calls its functions in the order of `Benchmark`.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from errors import ArgumentParser, UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Panel = Callable[["Axes"], None]  # draws one part of a picture


class WrongResult(Exception):
    """A contender computes something else than the others, so its speed has no meaning."""


class Benchmark(Protocol):
    """What a module of this package defines."""

    @property
    def SHOWS(self) -> str:
        """What the benchmark shows, in one sentence."""

    @property
    def EXAMPLE(self) -> str:
        """Words after `python -m experiments.bench` that run as printed."""

    def add_options(self, parser: ArgumentParser, /) -> None:
        """Declare the options."""

    def refuse(self, arguments: argparse.Namespace, /) -> None:
        """Raise `UserError` for an option that makes no sense, before anything is measured."""

    def measure(self, arguments: argparse.Namespace, /) -> Any:
        """Return the results, a dataclass. Raises `WrongResult`."""

    def report(self, result: Any, /) -> Iterator[str]:
        """Yield the lines of the tables."""

    def panels(self, result: Any, /) -> list[Panel]:
        """Return the parts of the picture."""


def table(titles: Sequence[str], rows: Sequence[Sequence[str]], n_words: int = 1) -> Iterator[str]:
    """Yield the lines of a table that is readable as plain text and as Markdown.

    The first `n_words` columns are words, on the left; the others are numbers, on the right.
    """
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if n < n_words else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    yield line(titles)
    rule = [
        "-" * (width + 2) if n < n_words else "-" * (width + 1) + ":"
        for n, width in enumerate(widths)
    ]
    yield f"|{'|'.join(rule)}|"
    yield from map(line, rows)


def spell(value: float | None, form: str, unit: str = "") -> str:
    """Format a number that may be missing; `-` if it is."""
    return "-" if value is None else f"{value:{form}}{unit}"


def add_rounds(parser: argparse.ArgumentParser) -> None:
    """Declare `--rounds`."""
    parser.add_argument("--rounds", type=int, default=5, metavar="N",
                        help="interleaved rounds, of which the median counts (5)")  # fmt: skip


def refuse_rounds(arguments: argparse.Namespace) -> None:
    """Raise `UserError` if `--rounds` is below 1."""
    if arguments.rounds < 1:
        raise UserError(f"--rounds is {arguments.rounds}: give 1 or more")
