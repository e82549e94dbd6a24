"""Commands of Breeze as child processes, timed by the parent's clock from their start."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from errors import UserError
from experiments.benchmarks.machine import ROOT
from training.metrics import read_metrics

TRAIN = str(ROOT / "train.py")


class Child:
    """A process, and the time since its start. `started` makes one."""

    def __init__(self, words: Sequence[str], output: IO[bytes] | int, errors: IO[bytes]) -> None:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        self._errors, self._name = errors, " ".join(words)
        self._start = time.perf_counter()
        self.process = subprocess.Popen(
            [sys.executable, *words], env=environment, stdin=subprocess.DEVNULL,
            stdout=output, stderr=errors,
        )  # fmt: skip

    @property
    def seconds(self) -> float:
        """Seconds since the start of the process."""
        return time.perf_counter() - self._start

    def wait_for(self, happened: Callable[[], bool], *, every: float = 0.005) -> bool:
        """Wait until something has happened, asked every few milliseconds, or the process ended.

        Returns whether it has happened.
        """
        while not (found := happened()) and self.process.poll() is None:
            time.sleep(every)
        return found or happened()

    def end(self, *expected: int) -> None:
        """Wait until the process ends.

        Raises `UserError` with its own error line if it ended with another exit code than 0 or
        those `expected`.
        """
        self.process.wait()
        if self.process.returncode not in (0, *expected):
            self._errors.seek(0)
            lines = self._errors.read().decode(errors="replace").strip().splitlines()
            errors = [line for line in lines if line.startswith("error: ")] or lines[-1:]
            raise UserError(f"{self._name}: {' '.join(errors).removeprefix('error: ')}")


@contextmanager
def started(*words: str, read: bool = False) -> Iterator[Child]:
    """Start Python with `words`; at the end the process is killed if it still runs.

    With `read`, its output is `child.process.stdout`, and must be short; otherwise it is dropped.
    """
    with tempfile.TemporaryFile() as errors:
        child = Child(words, subprocess.PIPE if read else subprocess.DEVNULL, errors)
        try:
            yield child
        finally:
            child.process.kill()
            child.process.wait()
            if child.process.stdout is not None:
                child.process.stdout.close()


def metrics_of(folder: Path) -> list[dict[str, float]]:
    """Return the measurements of a run so far; empty before the first."""
    path = folder / "metrics.jsonl"
    return read_metrics(path) if path.exists() else []
