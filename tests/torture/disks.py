"""Disks that are full or read-only: real file systems of a few kilobytes.

A run must end with exit code 2 and one line that names the remedy. With space, or when the disk can
be written again, the same command must end with the checkpoint of the undisturbed run.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torture.family import Case
from torture.forks import Ended, forked
from torture.tiny_runs import SHORT, Whole, problem_of_words, share_kernels, whole

import train

SMALLEST = 4  # KB; the size grows until everything fits, each time by
STEPS = {"the run": 24, "the cache": 4}


def _mount(*words: object) -> str | None:
    """Run mount(8); return why it failed."""
    line = ["mount", *map(str, words)]
    try:
        done = subprocess.run(line, capture_output=True, text=True)
    except OSError as error:
        return str(error)
    return done.stderr.strip() or "it failed" if done.returncode else None


def _unmount(folder: Path) -> None:
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


class Disk:
    """A file system of its own at a folder, as long as the `with` block lasts."""

    def __init__(self, folder: Path, size: str) -> None:
        self.folder, self._size = folder, size

    def __enter__(self) -> "Disk":
        self.folder.mkdir(exist_ok=True)
        _must_mount("-t", "tmpfs", "-o", f"size={self._size}", "torture", self.folder)
        return self

    def __exit__(self, *_: object) -> None:
        _unmount(self.folder)

    def grow(self) -> None:
        """Let everything fit."""
        _must_mount("-o", "remount,size=100m", self.folder)

    def make_read_only(self) -> None:
        """Put a read-only mount of the same files on top, which open files do not prevent."""
        _must_mount("--bind", self.folder, self.folder)
        _must_mount("-o", "remount,bind,ro", self.folder)

    def make_writable(self) -> None:
        """Take the read-only mount away."""
        _unmount(self.folder)


def _must_mount(*words: object) -> None:
    problem = _mount(*words)
    assert problem is None, problem


def can_mount(folder: Path) -> bool:
    """Return whether this process may mount; if not, say so on stderr."""
    folder.mkdir()
    problem = _mount("-t", "tmpfs", "-o", "size=4k", "torture", folder)
    if problem is None:
        _unmount(folder)
        return True
    print(f"not run: small and read-only disks need root on Linux: {problem}", file=sys.stderr)
    return False


# ------------------------------------------------------------------- full


def full_disk(folder: Path, fast: bool) -> Iterator[Case]:
    """Train on disks of growing sizes: each fills at another point of the run."""
    if not can_mount(folder / "probe"):
        return
    undisturbed = whole((*SHORT, "train.native=false"))
    for where, act in (("the run", _on_run), ("the cache", _on_cache)):
        size, fits = SMALLEST, 0
        while fits < 1:
            with Disk(folder / "disk", f"{size}k") as disk:
                ended = forked(lambda: act(undisturbed, disk.folder, folder))  # noqa: B023
                fits += ended.code == 0
                problem = _full(ended) if ended.code else None
                disk.grow()
                again = forked(lambda: act(undisturbed, disk.folder, folder))  # noqa: B023
                run = disk.folder / "run" if where == "the run" else folder / "run"
                problem = problem or undisturbed.ended(again, run)
            shutil.rmtree(folder / "run", ignore_errors=True)
            yield Case(f"{where} on a disk of {size} KB", problem)
            size += STEPS[where] * (24 if fast else 1)


def _full(ended: Ended) -> str | None:
    return problem_of_words(ended, "No space left on device") or problem_of_words(
        ended, "free some space"
    )


def _on_run(undisturbed: Whole, disk: Path, folder: Path) -> int:
    return undisturbed.act(disk / "run")


def _on_cache(undisturbed: Whole, disk: Path, folder: Path) -> int:
    cache = disk / "cache"
    cache.mkdir(exist_ok=True)
    share_kernels(cache)
    return undisturbed.act(folder / "run", cache=cache)


# ------------------------------------------------------------------- read-only


POINTS: dict[str, tuple[Any, str, tuple[int, ...]]] = {  # owner, function, its calls
    "start": (train, "checkpoint_to_resume", (1,)),
    "log": (train, "log_step", (1, 3)),
    "evaluation": (train, "validate", (1, 2)),
    "fsync": (os, "fsync", (1, 3, 5, 6, 7, 8, 9, 11)),
    "rename": (os, "replace", (1, 2, 3, 5)),
    "deletion": (os, "unlink", (1, 2)),
}


def read_only_disk(folder: Path, fast: bool) -> Iterator[Case]:
    """Make the disk read-only before a run, and in the middle of it."""
    if not can_mount(folder / "probe"):
        return
    undisturbed = whole()
    for point, (_, _, calls) in list(POINTS.items())[:: 3 if fast else 1]:
        for call in calls[:1] if fast else calls:
            with Disk(folder / "disk", "10m") as disk:
                ended = forked(lambda: _remounting(undisturbed, disk, point, call))  # noqa: B023
                disk.make_writable()
                problem = problem_of_words(ended, "Read-only file system") or problem_of_words(
                    ended, "change its permissions or choose another folder"
                )
                problem = problem or undisturbed.resumed(disk.folder / "run")
            yield Case(f"read-only at {point} {call}", problem)
    with Disk(folder / "disk", "10m") as disk:
        yield from _from_the_start(undisturbed, disk)


def _remounting(undisturbed: Whole, disk: Disk, point: str, call: int) -> int:
    owner, name, _ = POINTS[point]
    original, calls = getattr(owner, name), 0

    def counted(*arguments: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            disk.make_read_only()
        return original(*arguments, **more)

    setattr(owner, name, counted)
    return undisturbed.act(disk.folder / "run")


def _from_the_start(undisturbed: Whole, disk: Disk) -> Iterator[Case]:
    """A run that cannot begin, and a finished run."""
    run = disk.folder / "run"
    disk.make_read_only()
    ended = forked(lambda: undisturbed.act(run))
    yield Case("read-only from the start", problem_of_words(ended, "choose another folder"))
    disk.make_writable()
    yield Case("writable again", undisturbed.resumed(run))
    disk.make_read_only()
    ended = forked(lambda: undisturbed.act(run))
    disk.make_writable()
    yield Case("a finished run", problem_of_words(ended, "choose another folder"))
