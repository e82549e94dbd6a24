"""SIGINT, SIGTERM and SIGHUP in each phase of a run and at random moments, once and twice.

One signal in training: the step is finished and saved, and the exit code is 128 + n. A second one,
or one before training, ends the process at once. After each, the resumed run must be the
undisturbed one.
"""

import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tiny
from torture.family import Case
from torture.forks import Child, Ended, forked
from torture.tiny_runs import Whole, whole

import run as run_module
import start
import train
from run import TrainingRun

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
RANDOM_MOMENTS = 60
PHASES: dict[str, tuple[Any, str, tuple[int, ...]]] = {  # owner, function, its calls
    "reading text": (start, "open_text", (1,)),
    "start": (start, "start_run", (1,)),
    "step": (train, "train_step", (1, 3, 5)),
    "log": (train, "log_step", (2, 5)),
    "evaluation": (TrainingRun, "score", (1, 2)),
    "sample": (TrainingRun, "sample", (1, 2)),
    "save": (TrainingRun, "save", (1, 4)),
    "fsync": (os, "fsync", (1, 3, 5, 6, 11)),
    "rename": (os, "replace", (1, 3, 5)),
    "prune": (run_module, "prune", (2, 4)),
    "end": (train, "finish", (1,)),
}
EARLY = ("reading text", "start")  # before training: every signal ends the process at once


def signals_sent(folder: Path, fast: bool) -> Iterator[Case]:
    """Send signals to a run."""
    undisturbed, draw = whole(), random.Random(0)
    run = folder / "run"
    phases = [(phase, call) for phase, (_, _, calls) in PHASES.items() for call in calls]
    for at, (phase, call) in enumerate(phases):
        for number in SIGNALS:
            for times in (1, 2):
                if fast and (at + number + times) % 23:
                    continue
                shutil.rmtree(run, ignore_errors=True)
                ended = forked(lambda: _signalled(undisturbed, run, phase, call, number, times))  # noqa: B023
                key = f"{number.name} {times} times in {phase}, call {call}"
                problem = _wrong_end(ended, run, phase, number, times)
                yield Case(key, problem or undisturbed.resumed(run))
    for n in range(1 if fast else RANDOM_MOMENTS):
        number, seconds = draw.choice(SIGNALS), draw.random() * 0.4
        shutil.rmtree(run, ignore_errors=True)
        yield Case(f"moment {n}: {number.name}", _at_a_moment(undisturbed, run, number, seconds))


def _signalled(
    undisturbed: Whole, run: Path, phase: str, call: int, number: int, times: int
) -> int:
    """Train, and send this process signals at a call of a function."""
    owner, name, _ = PHASES[phase]
    original, calls = getattr(owner, name), 0

    def counted(*arguments: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            for _ in range(times):
                os.kill(os.getpid(), number)
        return original(*arguments, **more)

    setattr(owner, name, counted)
    return undisturbed.act(run)


def _wrong_end(ended: Ended, run: Path, phase: str, number: int, times: int) -> str | None:
    """Return what is wrong with how a signalled process ended."""
    at_once = 130 if number == signal.SIGINT else -number
    said = f"{signal.Signals(number).name}: finishing this step" in ended.printed
    if times == 2 or not said:
        allowed = {at_once}
    else:
        allowed = {128 + number, 0}  # 0: it was the last step
        if ended.code and str(tiny.last(run)) not in ended.printed:
            return f"it does not name what it saved: {ended.printed[-300:]}"
    if said == (phase in EARLY) and phase not in ("fsync", "rename", "end"):
        return f"its message is wrong in this phase: {ended.printed[-300:]}"
    if ended.code not in allowed or "Traceback" in ended.printed:
        return f"exit code {ended.code}, not one of {allowed}: {ended.printed[-300:]}"
    return None


def _at_a_moment(undisturbed: Whole, run: Path, number: int, seconds: float) -> str | None:
    child = Child(lambda: undisturbed.act(run))
    time.sleep(seconds)
    if child.is_running():
        child.send(number)
    ended = child.wait()
    at_once = 130 if number == signal.SIGINT else -number
    if ended.code not in {0, 128 + number, at_once} or "Traceback" in ended.printed:
        return f"exit code {ended.code}: {ended.printed[-300:]}"
    return undisturbed.resumed(run)
