"""How long until something happens? `python -m experiments.bench start`

Each command is started as a user starts it, in a process of its own, and the clock stops at its
first result: the first training step, the first token of a text, or the end. The text is prepared
and the native kernels are built before, by a run that is not counted; so is what the system reads
from the disk.
"""

import argparse
import signal
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import median

from arguments import add_config, read_config
from errors import ArgumentParser
from experiments.benchmarks.benchmark import Panel, add_rounds, refuse_rounds, table
from experiments.benchmarks.children import TRAIN, metrics_of, started
from experiments.benchmarks.machine import Machine, describe_machine
from experiments.benchmarks.picture import bars
from experiments.benchmarks.timing import Reading, interleaved

SHOWS = "Seconds until a command shows its first result."
EXAMPLE = "start --rounds 5"

FIRST_STEP_GOAL, GOAL = 8.0, 2.0  # seconds: of the first training step, and of all others


@dataclass(frozen=True)
class StartRow:
    """The time of one command."""

    name: str
    seconds: list[float]  # in each round
    median: float  # seconds
    goal: float  # seconds


@dataclass(frozen=True)
class StartResult:
    """All commands."""

    machine: Machine
    words: list[str]  # the config and its changes, as given
    rounds: int
    rows: list[StartRow]


def add_options(parser: ArgumentParser) -> None:
    """Declare CONFIG, its changes, and the options."""
    add_config(parser)
    add_rounds(parser)


def refuse(arguments: argparse.Namespace) -> None:
    """Raise `UserError` for errors in the config or the options."""
    refuse_rounds(arguments)
    read_config(arguments)


def measure(arguments: argparse.Namespace) -> StartResult:
    """Measure all commands. Raises `UserError` if one fails."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _first_step(arguments.words, folder / "run", save=True)
        seconds = interleaved(_readings(arguments.words, folder), arguments.rounds, "start")
    rows = [
        StartRow(name, found, median(found), GOAL if n else FIRST_STEP_GOAL)
        for n, (name, found) in enumerate(seconds.items())
    ]
    return StartResult(describe_machine(), list(arguments.words), arguments.rounds, rows)


def _readings(words: Sequence[str], folder: Path) -> dict[str, Reading]:
    """Return the commands; `folder` holds a run, `run`, with a checkpoint."""
    numbers = count()
    run, missing = str(folder / "run"), str(folder / "missing")

    def train() -> float:
        return _first_step(words, folder / f"run-{next(numbers)}", save=False)

    def sample() -> float:
        options = ["--prompt", "", "--max-tokens", "1"]
        with started("-m", "scripts.sample", run, *options, read=True) as child:
            assert child.process.stdout is not None
            child.process.stdout.read(1)  # comes with the first token
            seconds = child.seconds
            child.end()
            return seconds

    return {
        "train.py, to the first step": train,
        "scripts.sample, to the first token": sample,
        "scripts.sample, a run that does not exist": lambda: _to_the_end(
            2, "-m", "scripts.sample", missing, "--prompt", ""
        ),
        "train.py --help": lambda: _to_the_end(0, TRAIN, "--help"),
        "scripts.plan": lambda: _to_the_end(0, "-m", "scripts.plan", *words),
    }


def _first_step(words: Sequence[str], run: Path, save: bool) -> float:
    """Return the seconds to the first step of a new run; it then saves a checkpoint, or not."""
    with started(TRAIN, *words, f"run_dir={run}", "train.log_interval=1") as child:
        is_done = child.wait_for(lambda: bool(metrics_of(run)))
        seconds = child.seconds
        if save or not is_done:
            child.process.send_signal(signal.SIGTERM)
            child.end(128 + signal.SIGTERM)
    return seconds


def _to_the_end(code: int, *words: str) -> float:
    """Return the seconds to the end of a command that ends with this exit code."""
    with started(*words) as child:
        child.end(code)
        return child.seconds


def report(result: StartResult) -> Iterator[str]:
    """Yield the table."""
    yield f"{result.machine}"
    yield ""
    rows = [
        [row.name, f"{row.median:.2f}", f"{min(row.seconds):.2f}", f"{max(row.seconds):.2f}",
         f"{row.goal:g}"]
        for row in result.rows
    ]  # fmt: skip
    yield from table(["command", "s", "least", "most", "goal"], rows)
    yield ""
    yield f"Medians of {result.rounds} interleaved rounds, from the start of the process."


def panels(result: StartResult) -> list[Panel]:
    """Draw the times, with the goals."""
    times = {row.name: row.median for row in result.rows}
    return [bars("start: seconds", times, {row.name: row.goal for row in result.rows})]
