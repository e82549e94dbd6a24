"""Signals where the terminal is gone, where they are ignored, and outside of training."""

import os
import pty
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import tiny
from torture.family import Case
from torture.forks import Ended, forked, print_to_descriptors
from torture.tiny_runs import Whole, whole
from torture.writers import SPLIT, Sentences, tokenizer

import train
from data.prepare import prepare
from run import TrainingRun
from storage import atomic_folder, atomic_write, remove_torn_files
from training.interrupt import StopRequest

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


def signals_elsewhere(folder: Path, fast: bool) -> Iterator[Case]:
    """Close terminals and pipes; ignore signals; send them to tokenization and to exports."""
    undisturbed, run = whole(), folder / "run"
    for step in (2,) if fast else (1, 2, 3, 4):
        for number in SIGNALS[:1] if fast else SIGNALS:
            name = number.name
            yield Case(
                f"{name}, closed pipe, step {step}", _closed_pipe(undisturbed, run, number, step)
            )
            yield Case(f"{name}, ignored, step {step}", _ignored(undisturbed, run, number, step))
        yield Case(f"terminal closed at step {step}", _closed_terminal(undisturbed, run, step))
    for number in SIGNALS:
        yield Case(f"{number.name} while handlers are set", _while_set(number))
    for number in SIGNALS[:1] if fast else SIGNALS:
        for call in range(1, 4 if fast else 25):
            yield Case(
                f"{number.name} in tokenization, fsync {call}", _tokenizing(folder, number, call)
            )
        for call in range(1, 2 if fast else 9):
            yield Case(
                f"{number.name} in a new folder, fsync {call}", _folder(folder, number, call)
            )


def _at_step(step: int, act: Callable[[], object]) -> None:
    """Call `act` in the middle of a step of a training in this process."""
    original = train.train_step

    def train_step(run: TrainingRun, *rest: Any) -> tuple[float, float]:
        if run.step + 1 == step:
            act()
        return original(run, *rest)

    train.train_step = train_step


def _saved(undisturbed: Whole, run: Path, code: int, expected: int, step: int) -> str | None:
    """Return what is wrong with a run that had to be saved at a step; remove it."""
    steps = [tiny.step_of(name) for name in tiny.saved(run)]
    problem = None
    if code != expected or steps[-1:] != [step]:
        problem = f"exit code {code}, not {expected}; checkpoints of {steps}"
    problem = problem or undisturbed.resumed(run)
    shutil.rmtree(run)
    return problem


def _closed_pipe(undisturbed: Whole, run: Path, number: int, step: int) -> str | None:
    """`train.py 2>&1 | tee log`: Ctrl-C ends tee as well, and nobody reads what is printed."""

    def act() -> int:
        reader, writer = os.pipe()
        os.dup2(writer, 1)
        os.dup2(writer, 2)
        print_to_descriptors()

        def close_and_send() -> None:
            os.close(reader)
            os.kill(os.getpid(), number)

        _at_step(step, close_and_send)
        os.close(writer)
        return undisturbed.act(run)

    return _saved(undisturbed, run, forked(act).code, 128 + number, step)


def _ignored(undisturbed: Whole, run: Path, number: int, step: int) -> str | None:
    """nohup ignores SIGHUP, a shell's `&` SIGINT: such a run must train to its end."""

    def act() -> int:
        signal.signal(number, signal.SIG_IGN)
        _at_step(step, lambda: os.kill(os.getpid(), number))
        return undisturbed.act(run)

    return _saved(undisturbed, run, forked(act).code, 0, 5)


def _closed_terminal(undisturbed: Whole, run: Path, step: int) -> str | None:
    """A terminal window that is closed: SIGHUP, and each later print fails."""
    child, terminal = pty.fork()
    if child == 0:
        code = 1
        try:
            print_to_descriptors()
            _at_step(step, lambda: (print("step"), time.sleep(0.3)))
            code = undisturbed.act(run)
        finally:
            os._exit(code)
    printed = b""
    while b"step\r\n" not in printed:
        printed += os.read(terminal, 1000)
    os.close(terminal)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return _saved(undisturbed, run, code, 128 + signal.SIGHUP, step)


def _while_set(number: int) -> str | None:
    """A signal that comes when only a part of the handlers is set."""

    def act() -> int:
        original = signal.signal

        def signal_at_once(one: int, handler: Any) -> Any:
            before = original(one, handler)
            if one == number and callable(handler) and handler is not signal.default_int_handler:
                os.kill(os.getpid(), number)
            return before

        with patch.object(signal, "signal", signal_at_once), StopRequest() as stop:
            assert stop.signal == number
        return 7

    ended = forked(act)
    return None if ended.code == 7 else f"exit code {ended.code}: {ended.printed[-300:]}"


def _sent_at_fsync(number: int, call: int) -> None:
    """Send this process a signal at an fsync."""
    original, calls = os.fsync, 0

    def fsync(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), number)
        original(descriptor)

    os.fsync = fsync


def _wrong_end(ended: Ended, number: int) -> str | None:
    at_once = 130 if number == signal.SIGINT else -number
    if ended.code in (0, at_once) and "Traceback" not in ended.printed:  # 0: there are fewer calls
        return None
    return f"exit code {ended.code}: {ended.printed[-300:]}"


def _tokenizing(folder: Path, number: int, call: int) -> str | None:
    shards = folder / "shards"
    shards.mkdir()

    def act() -> None:
        prepare(Sentences(2), tokenizer(), **SPLIT, folder=shards, processes=1)

    def signalled() -> None:
        _sent_at_fsync(number, call)
        act()

    problem = _wrong_end(forked(signalled), number)
    again = forked(act)
    (target,) = shards.iterdir()
    names = sorted(path.name for path in target.iterdir())
    if again.code or names[-3:] != ["test-00000.bin", "train-00000.bin", "val-00000.bin"]:
        problem = problem or f"exit code {again.code}, files: {names}"
    if left := tiny.leftovers(shards):
        problem = problem or f"left: {left}"
    shutil.rmtree(shards)
    return problem


def _folder(folder: Path, number: int, call: int) -> str | None:
    """An import or an export: all files or none."""
    out = folder / "out"

    def act() -> None:
        with atomic_folder(out) as part:
            for name in ("a", "b", "c"):
                atomic_write(part / name, name.encode() * 1000)

    def signalled() -> None:
        _sent_at_fsync(number, call)
        act()

    problem = _wrong_end(forked(signalled), number)
    if out.exists() and len(list(out.iterdir())) != 3:
        problem = problem or "a part of the files is there"
    if number == signal.SIGINT and tiny.leftovers(folder):
        problem = problem or "an unfinished folder is left"
    remove_torn_files(folder)
    shutil.rmtree(out, ignore_errors=True)
    again = forked(act)
    if again.code or len(list(out.iterdir())) != 3:
        problem = problem or f"made again: exit code {again.code}: {again.printed[-300:]}"
    shutil.rmtree(out)
    return problem
