"""Clocks that jump: no decision reads the clock, so the files of a run do not depend on it."""

import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from torture.family import Case
from torture.forks import forked
from torture.kills import killed_at
from torture.tiny_runs import Whole, whole

FUNCTIONS = ("time", "monotonic", "perf_counter", "process_time")


def _stopped(value: float) -> float:
    return 0.0


def _backwards(value: float) -> float:
    return -value


def _jumping(draw: random.Random) -> Callable[[float], float]:
    return lambda value: value + draw.choice((-1e6, -1.0, 0.0, 1.0, 1e6))


def clock_jumps(folder: Path, fast: bool) -> Iterator[Case]:
    """Train under each clock, from the start and after an interruption; change files' times."""
    undisturbed = whole()
    clocks: dict[str, Callable[[float], float]] = {
        "stopped": _stopped, "backwards": _backwards, "far": lambda value: value + 1e12,
        **{f"jumping {seed}": _jumping(random.Random(seed)) for seed in range(1 if fast else 12)},
    }  # fmt: skip
    names = [*([(name,) for name in FUNCTIONS] if not fast else []), FUNCTIONS]
    for clock, change in clocks.items():
        for functions in names:
            run = folder / "run"
            ended = forked(lambda: _under(change, functions, undisturbed, run))  # noqa: B023
            yield Case(f"{clock}: {'+'.join(functions)}", undisturbed.ended(ended, run))
            shutil.rmtree(run, ignore_errors=True)
    yield from _times_of_files(undisturbed, folder / "run", fast)


def _under(
    change: Callable[[float], float], functions: tuple[str, ...], undisturbed: Whole, run: Path
) -> int:
    for name in functions:
        original = getattr(time, name)
        setattr(time, name, lambda original=original: change(original()))
    return undisturbed.act(run, measure=True)


def _times_of_files(undisturbed: Whole, run: Path, fast: bool) -> Iterator[Case]:
    """Resume a run whose files have random times, the newest checkpoint the oldest among them."""
    for seed in range(2 if fast else 20):
        draw = random.Random(seed)
        number = 9 + draw.randrange(12)
        forked(lambda: killed_at(undisturbed, run, number))  # noqa: B023
        for path in sorted(run.rglob("*")):
            seconds = draw.choice((0, 1e9, 2e9, 4e9)) + draw.random()
            os.utime(path, (seconds, seconds))
        yield Case(f"times of files {seed}", undisturbed.resumed(run))
        shutil.rmtree(run)
