"""Run for long and see that nothing grows: `python -m torture.soak [generate] [train]`.

    generate    200,000 tokens of one text, far past the window, decoded as a stream
    train       5,000 steps of training with logs, evaluations, samples and checkpoints

Prints a table of memory, open files, threads and speed over time, and a verdict. A leak of 1 KB in
a training step would be 5 MB in this run and gigabytes in a long one. Memory may grow by `NOISE`
from the second quarter to the end, open files and threads not at all. Speed is printed only.

Training grows with its log, by some 200 bytes a step here: each evaluation reads metrics.jsonl.
"""

import argparse
import contextlib
import gc
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tiny
import torch

import train
from inference.text import TextStream
from inference.trained import open_trained
from model.generation import generate
from run import TrainingRun

NOISE = 2.0  # MB
TOKENS, STEPS = 200_000, 5_000
ROWS = 20  # measurements
WINDOW = ["model.sliding_window=64", "data.seq_len=128"]


class Measured(NamedTuple):
    """The state of this process after `done` tokens or steps."""

    done: int
    memory: float  # resident, in MB
    files: int
    threads: int
    speed: float  # tokens or steps per second, since the row before


class Gauge:
    """Measures this process `ROWS` times, at equal distances."""

    def __init__(self, total: int) -> None:
        self.rows: list[Measured] = []
        self._every = total // ROWS
        self._clock = time.perf_counter()

    def done(self, number: int) -> None:
        """Measure, if it is time to."""
        if number % self._every:
            return
        gc.collect()
        now = time.perf_counter()
        speed = self._every / (now - self._clock)
        self.rows.append(Measured(number, *process_state(), speed))
        self._clock = time.perf_counter()

    @property
    def growth(self) -> float:
        """The growth of memory over the last three quarters, in MB: the slope of a straight line
        through the rows, times their distance."""
        later = self.rows[len(self.rows) // 4 :]
        at = torch.tensor([row.done for row in later], dtype=torch.float64)
        memory = torch.tensor([row.memory for row in later], dtype=torch.float64)
        centred = at - at.mean()
        slope = (centred * (memory - memory.mean())).sum() / centred.square().sum()
        return float(slope * (at[-1] - at[0]))

    @property
    def speed_kept(self) -> float:
        """The speed of the last quarter as a share of that of the second quarter."""
        quarter = len(self.rows) // 4
        first, last = self.rows[quarter : 2 * quarter], self.rows[-quarter:]
        return sum(row.speed for row in last) / sum(row.speed for row in first)

    def failures(self) -> list[str]:
        """Return what grew."""
        later = self.rows[len(self.rows) // 4 :]
        found = [f"memory grew by {self.growth:.2f} MB"] if self.growth > NOISE else []
        for name in ("files", "threads"):
            counts = {getattr(row, name) for row in later}
            if max(counts) > min(counts):
                found.append(f"open {name}: {min(counts)} to {max(counts)}")
        return found


def process_state() -> tuple[float, int, int]:
    """Return resident memory in MB, the number of open files, and that of threads."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    memory = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    count = {name: len(list(Path(f"/proc/self/{name}").iterdir())) for name in ("fd", "task")}
    return memory, count["fd"] - 1, count["task"]  # one is that of listing


def generate_text(folder: Path, tokens: int = TOKENS) -> Gauge:
    """Generate and decode one text of `tokens` tokens under a window of 64."""
    text, run = folder / "text.txt", folder / "generating"
    text.write_text(tiny.english(5_000))
    with silent():
        assert tiny.start(run, text, *WINDOW, "train.max_steps=4") == 0
    trained = open_trained(run)
    stream, gauge = TextStream(trained.tokenizer.stream()), Gauge(tokens)
    prompts = [trained.tokenizer.encode_prompt("The king ")]
    # `continue_text` would end the text at the first </s>; `generate` without `stop` goes on.
    for done, (token,) in enumerate(generate(trained.model, prompts, tokens), 1):
        assert token is not None
        stream.push(token)
        gauge.done(done)
    return gauge


def train_steps(folder: Path, steps: int = STEPS) -> Gauge:
    """Train a tiny model for `steps` steps; evaluate, sample and save again and again."""
    text, gauge = folder / "text.txt", Gauge(steps)
    text.write_text(tiny.english(5_000))
    step = train.train_step

    def counted(run: TrainingRun, *rest: Any) -> tuple[float, float]:
        result = step(run, *rest)
        gauge.done(run.step + 1)
        return result

    settings = [f"train.max_steps={steps}", "train.eval_interval=25", "train.save_interval=10",
                "train.log_interval=5"]  # fmt: skip
    train.train_step = counted
    try:
        with silent():
            assert tiny.start(folder / "training", text, *settings) == 0
    finally:
        train.train_step = step
    return gauge


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Drop what is printed, instead of keeping it: it would be growth."""
    with (
        Path(os.devnull).open("w") as nothing,
        contextlib.redirect_stdout(nothing),
        contextlib.redirect_stderr(nothing),
    ):
        yield


SOAKS = {"generate": (generate_text, "tokens"), "train": (train_steps, "steps")}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the soaks that are named, or all. Returns 1 if something grew."""
    parser = argparse.ArgumentParser(prog="python -m torture.soak", description=__doc__)
    parser.add_argument("soaks", nargs="*", metavar="SOAK", help=", ".join(SOAKS))
    chosen = parser.parse_args(argv).soaks or list(SOAKS)
    if unknown := set(chosen) - SOAKS.keys():
        parser.error(f"no such soak: {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    failures = []
    for name in chosen:
        run, unit = SOAKS[name]
        with tempfile.TemporaryDirectory(prefix="soak-") as folder:
            gauge = run(Path(folder))
        print(table(gauge, unit))
        verdict = "; ".join(gauge.failures()) or "nothing grew"
        print(
            f"{name}: {verdict}; memory {gauge.growth:+.2f} MB over the last three quarters "
            f"(allowed: {NOISE:.0f}), speed of the last quarter {gauge.speed_kept:.2f} of that of "
            "the second\n"
        )
        failures += gauge.failures()
    return 1 if failures else 0


def table(gauge: Gauge, unit: str) -> str:
    """Return the measurements as text."""
    lines = [f"{unit:>9} {'memory MB':>10} {'files':>6} {'threads':>8} {unit + '/s':>10}"]
    for row in gauge.rows:
        counts = f"{row.memory:>10.2f} {row.files:>6} {row.threads:>8}"
        lines.append(f"{row.done:>9,} {counts} {row.speed:>10,.0f}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
