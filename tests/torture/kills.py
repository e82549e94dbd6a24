"""kill -9 of a training run: before and in the middle of its calls, and at random moments.

`python -m torture.kills`, with tests/ on the path, kills one run 100 times and prints the SHA-256
of its final checkpoint beside that of the run that nobody disturbed.
"""

import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tiny
from torture.family import Case
from torture.faults import ERRORS, Fault, attempt, cases_of, print_cases, recorded
from torture.forks import Child, Ended, forked
from torture.tiny_runs import Whole, problem_of_words, whole

from storage import sha256_of

KILLS = 100
LONG = ("train.max_steps=800", "train.save_interval=3", "train.eval_interval=20")
LATEST = 0.6  # seconds after its start in which a run is killed
SHARE = 0.7  # of the steps, in which all kills happen


# ------------------------------------------------------------------- at every call


def killed_at_calls(folder: Path, fast: bool) -> Iterator[Case]:
    """Kill a run before each of its calls to the disk, and in each write; resume it."""
    if fast:  # without a compiler, in this process
        undisturbed = whole()
        for number in (2, 9, 10, 11, 19):
            run = folder / f"run-{number}"
            ended = forked(lambda: killed_at(undisturbed, run, number))  # noqa: B023
            yield Case(f"operation {number}: kill", _killed(ended) or undisturbed.resumed(run))
    else:
        yield from cases_of("torture.kills", folder, fast)


def killed_at(undisturbed: Whole, run: Path, number: int) -> int:
    """Train, and kill this process just before an operation of `os` that changes the disk."""
    done = 0

    def counted(original: Any) -> Any:
        def call(*arguments: Any, **more: Any) -> Any:
            nonlocal done
            done += 1
            if done == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **more)

        return call

    for name in ("fsync", "replace", "rename", "unlink"):
        setattr(os, name, counted(getattr(os, name)))
    return undisturbed.act(run)


def cases(folder: Path, fast: bool) -> Iterator[Case]:
    """Put a kill, a torn write or an error into each call; faults.c is loaded."""
    undisturbed = whole()
    run, log = folder / "run", folder / "calls"
    forked(
        lambda: log.write_text(
            "\n".join(c.name for c in recorded(lambda: undisturbed.act(run), run))
        )
    )
    names, errors = log.read_text().split(), list(ERRORS)
    for number, name in enumerate(names, 1):
        faults = [Fault("kill"), Fault(errors[number % 3], lasts=number % 2 == 0)]
        for fault in faults + [Fault("torn")] * (name == "write"):
            shutil.rmtree(run, ignore_errors=True)
            ended = attempt(lambda: undisturbed.act(run), run, number, fault)
            if fault.kind in ERRORS:
                problem = problem_of_words(ended, "") if ended.code else None
            else:
                problem = _killed(ended)
            yield Case(f"call {number}, {name}: {fault}", problem or undisturbed.resumed(run))


def _killed(ended: Ended) -> str | None:
    if ended.code == -signal.SIGKILL:
        return None
    return f"it was not killed: exit code {ended.code}: {ended.printed[-300:]}"


# ------------------------------------------------------------------- at random moments


def killed_again_and_again(folder: Path, fast: bool) -> Iterator[Case]:
    """Kill one run at random moments, and resume it after each."""
    undisturbed = whole(("train.max_steps=40", *LONG[1:]) if fast else LONG)
    run = folder / "run"
    kills = 6 if fast else KILLS
    for number, (step, problem) in enumerate(_kills(undisturbed, run, kills), 1):
        yield Case(f"kill {number}, with a checkpoint of step {step}", problem)
    yield Case("the final checkpoint", undisturbed.resumed(run))


def _kills(undisturbed: Whole, run: Path, kills: int) -> Iterator[tuple[int, str | None]]:
    """Start or resume a run and kill it, `kills` times; yield its newest step and what is wrong.

    Every second process may save before it is killed, as long as a share of the steps is left, so
    that the run advances and does not end before the last kill.
    """
    draw, last = random.Random(0), int(undisturbed.more[0].partition("=")[2])
    for number in range(kills):
        before = _step(run)
        child = Child(lambda: undisturbed.act(run))
        is_late = before < SHARE * last * (number + 1) / kills
        time.sleep(draw.random() * (LATEST if is_late else LATEST / 4))
        if number % 2 and is_late:
            while child.is_running() and _step(run) == before:
                time.sleep(0.002)
        child.send(signal.SIGKILL)
        ended = child.wait()
        yield (
            _step(run),
            _killed(ended) or ("a checkpoint was lost" if _step(run) < before else None),
        )


def _step(run: Path) -> int:
    names = sorted(path.name for path in run.glob("checkpoints/step-*"))
    return tiny.step_of(names[-1]) if names else 0


def main() -> int:
    """Kill one run 100 times, and compare it with the undisturbed one."""
    with tempfile.TemporaryDirectory(prefix="torture-") as name:
        undisturbed = whole(LONG)
        run = Path(name) / "run"
        for number, (step, problem) in enumerate(_kills(undisturbed, run, KILLS), 1):
            print(f"\rkill {number} of {KILLS}, step {step} ", end="", file=sys.stderr, flush=True)
            if problem:
                print(problem)
                return 1
        print(file=sys.stderr)
        problem = undisturbed.resumed(run)
        print("SHA-256 of the final checkpoint:")
        print(f"undisturbed      {sha256_of(tiny.last(undisturbed.run))}")
        print(f"after {KILLS} kills  {sha256_of(tiny.last(run))}")
        if problem:
            print(problem)
        return 1 if problem else 0


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print_cases(cases)
    else:
        sys.exit(main())
