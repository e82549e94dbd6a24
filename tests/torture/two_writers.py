"""Several processes that write in one folder at the same time: one wins, or they wait in turn.

A file is the starting gun, and another one lets the process that holds the lock go on. So each case
has the same order of events on every machine.
"""

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import tiny
from torture.family import Case
from torture.forks import Child, forked
from torture.tiny_runs import Whole, problem_of_words, whole
from torture.writers import SPLIT, Sentences, tokenizer

import run as run_module
import start
from data.prepare import prepare

PATIENCE = 60.0  # seconds until a case fails that waits for ever
BUSY = "another process works in"


def two_writers(folder: Path, fast: bool) -> Iterator[Case]:
    """Start trainers and tokenizers in one folder."""
    undisturbed = whole()
    for number in range(1 if fast else 12):
        for n in (2,) if fast else (2, 3, 5):
            yield Case(f"{n} trainers, start {number}", _trainers(undisturbed, folder, n))
    for held in ("open_text", "rename") if fast else HOLDS:
        for way in WAYS if not fast else ("kill", "same folder"):
            yield Case(f"held in {held}: {way}", _second(undisturbed, folder, held, way))
    for number in range(1 if fast else 10):
        for n, killed in ((2, 0),) if fast else ((2, 0), (3, 0), (2, 1), (3, 2)):
            key = f"{n} tokenizers, {killed} killed, start {number}"
            yield Case(key, _tokenizers(folder, n, killed, 0.004 * number))


def _wait(until: Callable[[], object], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not until():
        assert time.monotonic() < end, f"{what} does not happen"
        time.sleep(0.002)


# ------------------------------------------------------------------- trainers


def _trainers(undisturbed: Whole, folder: Path, n: int) -> str | None:
    """Start `n` trainers at once; exactly one may train."""
    run, gun, go = folder / "run", folder / "gun", folder / "go"
    children = [Child(lambda: _held(undisturbed, run, "open_text", go, gun)) for _ in range(n)]
    gun.touch()
    _wait(lambda: sum(child.is_running() for child in children) <= 1, "one trainer that is left")
    go.touch()
    ended = [child.wait() for child in children]
    for path in (gun, go, folder / "held"):
        path.unlink()
    won = [one for one in ended if one.code == 0]
    problem = None if len(won) == 1 else f"{len(won)} trainers won"
    for one in ended:
        if one not in won:
            problem = problem or problem_of_words(one, f"run_dir: {BUSY} {run}: ")
    problem = problem or undisturbed.difference(run)
    shutil.rmtree(run)
    return problem


def _held(undisturbed: Whole, run: Path, held: str, go: Path, gun: Path | None = None) -> int:
    """Train after `gun` exists; wait in the first call of a function until `go` exists."""
    owner, name = HOLDS[held]
    original = getattr(owner, name)

    def waiting(*arguments: Any, **more: Any) -> Any:
        setattr(owner, name, original)
        go.with_name("held").touch()
        _wait(go.exists, "go")
        return original(*arguments, **more)

    setattr(owner, name, waiting)
    if gun is not None:
        _wait(gun.exists, "the start")
    return undisturbed.act(run)


HOLDS: dict[str, tuple[Any, str]] = {
    "open_text": (start, "open_text"), "rename": (os, "replace"),
    "save": (run_module, "save_tensors"), "prune": (run_module, "prune"),
}  # fmt: skip
WAYS = ("same folder", "symbolic link", "relative path", "renamed folder", "stopped", "kill")


def _second(undisturbed: Whole, folder: Path, held: str, way: str) -> str | None:
    """Start a second trainer while the first one holds the folder, or after it was killed."""
    run, go, mark = folder / "run", folder / "go", folder / "held"
    first = Child(lambda: _held(undisturbed, run, held, go))
    _wait(mark.exists, f"the call of {held}")
    before, path = _files(run), run
    if way == "symbolic link":
        path = folder / "link"
        path.symlink_to(run)
    elif way == "relative path":
        path = Path(os.path.relpath(run))
    elif way == "renamed folder":
        path = run.rename(folder / "moved")
    elif way in ("stopped", "kill"):
        first.send(signal.SIGSTOP if way == "stopped" else signal.SIGKILL)
    if way == "kill":
        first.wait()
        problem = undisturbed.resumed(run)
    else:
        problem = problem_of_words(forked(lambda: undisturbed.act(path)), BUSY)
        if _files(path) != before:
            problem = problem or "the second trainer changed the folder"
        if way == "renamed folder":
            path.rename(run)
        first.send(signal.SIGCONT)
        go.touch()
        problem = problem or undisturbed.ended(first.wait(), run)
        go.unlink()
    mark.unlink()
    (folder / "link").unlink(missing_ok=True)
    shutil.rmtree(run)
    return problem


def _files(folder: Path) -> list[tuple[str, int]]:
    return sorted((str(p.relative_to(folder)), p.stat().st_size) for p in folder.rglob("*"))


# ------------------------------------------------------------------- tokenizers


def _tokenizers(folder: Path, n: int, killed: int, after: float) -> str | None:
    """Write the same shards with `n` processes; kill some of them after a time."""
    target, gun = folder / "shards", folder / "gun"
    target.mkdir()

    def act() -> None:
        _wait(gun.exists, "the start")
        source = Sentences(4)
        corpus = prepare(source, tokenizer(), **SPLIT, folder=target, processes=1)
        assert corpus.n_tokens("train") > 1000

    children = [Child(act) for _ in range(n)]
    gun.touch()
    time.sleep(after)
    for child in children[:killed]:
        if child.is_running():
            child.send(signal.SIGKILL)
    ended = [child.wait() for child in children]
    gun.unlink()
    wrong = [one for one in ended[killed:] if one.code != 0]
    problem = f"exit code {wrong[0].code}: {wrong[0].printed[-300:]}" if wrong else None
    (shards,) = target.iterdir()
    names = sorted(path.name for path in shards.iterdir())
    if names != [".lock", "manifest.json", "test-00000.bin", "train-00000.bin", "val-00000.bin"]:
        problem = problem or f"other files: {names}"
    if left := tiny.leftovers(target):
        problem = problem or f"left: {left}"
    shutil.rmtree(target)
    return problem
