"""How fast does it learn? `python -m experiments.bench learn CONFIG data.path=FILE`

Trains a config with `train.py` in a process of its own and reads the validation loss of each
evaluation against the time since that process was started: imports, preparing the text (if the
cache does not hold it), building native kernels (once) and all evaluations are included. A *mark*
is a loss to reach, and its time is that of the first evaluation at or below it.

nanoGPT's published marks on the last tenth of tiny Shakespeare, in nats per character, are 1.8857
(its settings for a CPU) and 1.4697 (those for a GPU).
"""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from configs.load import load_config, split_arguments
from configs.settings import Config
from configs.spelling import advice
from errors import ArgumentParser, UserError
from experiments.benchmarks.benchmark import Panel, spell, table
from experiments.benchmarks.children import TRAIN, metrics_of, started
from experiments.benchmarks.machine import Machine, describe_machine
from experiments.benchmarks.picture import curves

SHOWS = "Validation loss against the time since the start of train.py."
EXAMPLE = "learn configs/char.yaml data.path=README.md data.seq_len=64 train.max_steps=260"
CONFIG = "configs/char.yaml"  # if none is given
MARK = 1.8857  # nats per character


@dataclass(frozen=True)
class Point:
    """One evaluation."""

    step: int
    seconds: float  # since the start of the process
    stepping_s: float  # of it, spent in training steps
    val_loss: float  # nats per token
    val_bpb: float  # bits per byte


@dataclass(frozen=True)
class Mark:
    """A loss to reach, and the first evaluation that reached it; None if none did."""

    loss: float  # nats per token
    seconds: float | None
    step: int | None


@dataclass(frozen=True)
class LearnResult:
    """One run."""

    machine: Machine
    config: str
    changes: list[str]  # section.key=value
    points: list[Point]
    marks: list[Mark]
    seconds: float  # until the process ended


def add_options(parser: ArgumentParser) -> None:
    """Declare CONFIG, its changes, and the options."""
    add_words(parser)
    parser.add_argument("--mark", nargs="+", type=float, default=[MARK], metavar="LOSS",
                        help=f"losses to reach, in nats per token ({MARK:g})")  # fmt: skip


def add_words(parser: ArgumentParser) -> None:
    """Declare `[CONFIG] [section.key=value ...]`; CONFIG is another than that of most commands."""
    parser.add_argument("words", nargs="*", metavar="[CONFIG] [section.key=value ...]",
                        help=f"a YAML file (default {CONFIG}) and changes to it")  # fmt: skip
    parser.advise = advice


def refuse(arguments: argparse.Namespace) -> None:
    """Raise `UserError` for errors in the config, before a process is started."""
    _, _, config = _config(arguments.words)
    if config.data.source == "files" and config.data.path is None:
        raise UserError("a text is needed: add data.path=FILE")
    for mark in arguments.mark:
        if not 0 < mark < float("inf"):
            raise UserError(f"--mark {mark:g}: give losses above 0")


def measure(arguments: argparse.Namespace) -> LearnResult:
    """Train to the end. Raises `UserError` if `train.py` fails."""
    path, changes, config = _config(arguments.words)
    with ExitStack() as stack:
        folder, more = config.folder, []
        if not any(change.startswith("run_dir=") for change in changes):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "run"
            more = [f"run_dir={folder}"]
        points, seconds = _watch([TRAIN, path, *changes, *more], folder, config)
    marks = [_reached(loss, points) for loss in arguments.mark]
    return LearnResult(describe_machine(), path, changes, points, marks, seconds)


def _config(words: Sequence[str]) -> tuple[str, list[str], Config]:
    """Return path, changes and the config itself. Raises `UserError` with all errors in it."""
    path, changes = split_arguments(words)
    path = path if path in words else CONFIG
    return path, changes, load_config(path, changes)


def _watch(words: Sequence[str], folder: Path, config: Config) -> tuple[list[Point], float]:
    """Run the process; return its evaluations as they came, and the time of its end."""
    from tqdm import tqdm

    points: list[Point] = []
    n_read = 0
    with (
        started(*words) as child,
        tqdm(total=config.train.max_steps, desc="learn", unit="step", leave=False,
             disable=None) as bar,
    ):  # fmt: skip

        def is_new() -> bool:
            return len(metrics_of(folder)) > n_read

        while child.wait_for(is_new, every=0.02):
            now = child.seconds
            records = metrics_of(folder)
            for record in records[n_read:]:
                bar.update(record["step"] - bar.n)
                if "val_loss" in record:
                    points.append(
                        Point(
                            int(record["step"]), now, record["stepping_s"], record["val_loss"],
                            record["val_bpb"],
                        )
                    )  # fmt: skip
            n_read = len(records)
        child.end()
        return points, child.seconds


def _reached(loss: float, points: Sequence[Point]) -> Mark:
    first = next((point for point in points if point.val_loss <= loss), None)
    return Mark(loss, None, None) if first is None else Mark(loss, first.seconds, first.step)


def report(result: LearnResult) -> Iterator[str]:
    """Yield the table of evaluations, then the marks."""
    yield f"{result.machine}"
    yield f"{' '.join([result.config, *result.changes])}"
    yield ""
    titles = ["step", "s since start", "s in steps", "val loss", "bits per byte"]
    rows = [
        [
            f"{point.step:,}", f"{point.seconds:.1f}", f"{point.stepping_s:.1f}",
            f"{point.val_loss:.4f}", f"{point.val_bpb:.4f}",
        ]
        for point in result.points
    ]  # fmt: skip
    yield from table(titles, rows, n_words=0)
    yield ""
    for mark in result.marks:
        reached = "was not reached"
        if mark.seconds is not None:
            reached = f"was reached within {mark.seconds:.1f} s, at step {spell(mark.step, ',')}"
        yield f"mark {mark.loss:g} nats per token {reached}"
    yield f"the process ended after {result.seconds:.1f} s"


def panels(result: LearnResult) -> list[Panel]:
    """Draw the loss over the time."""
    line = [p.seconds for p in result.points], [p.val_loss for p in result.points]
    marks = [mark.loss for mark in result.marks]
    name = Path(result.config).stem
    return [curves("learn: val loss [nats per token]", "s since start", {name: line}, marks)]
