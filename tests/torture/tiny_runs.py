"""Tiny training runs for torture: the undisturbed one, and what another must share with it."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import sentencepiece  # noqa: F401 - imported here, so that no child imports it again
import tiny
import torch._dynamo  # noqa: F401
from torture.forks import Ended, forked

import start
import summary  # noqa: F401 - as above
import train

SHORT = ("train.max_steps=5", "train.warmup_steps=1", "train.save_interval=1",
         "train.eval_interval=2", "sample.max_tokens=4")  # fmt: skip


class Whole(NamedTuple):
    """An undisturbed run: its command, and what it left."""

    run: Path
    text: Path
    cache: Path
    more: Sequence[str]
    checkpoints: list[str]
    metrics: list[dict[str, object]]
    samples: bytes

    def act(self, run: Path, *, cache: Path | None = None, measure: bool = False) -> int:
        """Start or resume this run in a folder, in this process, a child; return the exit code.

        Without `measure` the speed of the machine, which metrics name, is not measured.
        """
        os.environ["BREEZE_CACHE"] = str(cache or self.cache)
        if not measure:
            start.matmul_flops_per_s = lambda *_: 1e12
        return train.main(["--resume", *tiny.words(run, self.text, *self.more)])

    def difference(self, run: Path) -> str | None:
        """Return how a finished run differs from this one; None if it is equal."""
        others = set(tiny.saved(run)) ^ set(self.checkpoints)
        # A kill between the last save and its deletions leaves one older file more.
        if tiny.last(run).name != self.checkpoints[-1] or others - {*tiny.saved(run)[:1]}:
            return f"other checkpoints: {tiny.saved(run)}, not {self.checkpoints}"
        if tiny.measured(run) != self.metrics:
            return "other metrics"
        if (run / "samples.txt").read_bytes() != self.samples:
            return "other samples"
        return f"left: {left}" if (left := tiny.leftovers(run)) else None

    def resumed(self, run: Path) -> str | None:
        """Resume a run to its end in a child; return what is wrong then."""
        return self.ended(forked(lambda: self.act(run)), run)

    def ended(self, ended: Ended, run: Path) -> str | None:
        """Return what is wrong with a run that should have ended as this one."""
        if ended.code != 0:
            return f"it ended with {ended.code}: {ended.printed[-300:]}"
        return self.difference(run)


@cache
def whole(more: tuple[str, ...] = SHORT) -> Whole:
    """Train the undisturbed run, once in this process, with a cache of its own."""
    folder = Path(tempfile.mkdtemp(prefix="torture-"))
    atexit.register(shutil.rmtree, folder)
    text, run, cached = folder / "text.txt", folder / "whole", folder / "cache"
    text.write_text(tiny.english(20_000), encoding="utf-8")
    cached.mkdir()
    share_kernels(cached)
    undisturbed = Whole(run, text, cached, more, [], [], b"")
    ended = forked(lambda: undisturbed.act(run))
    assert ended.code == 0, ended.printed
    return undisturbed._replace(
        checkpoints=tiny.saved(run),
        metrics=tiny.measured(run),
        samples=(run / "samples.txt").read_bytes(),
    )


def share_kernels(cache: Path) -> None:
    """Let a cache use the compiled kernels of the tests, or of the last torture."""
    if not (cache / "native").exists():
        shared = Path(os.environ.get("BREEZE_CACHE", "")) / "native"
        if not shared.is_dir():
            shared = Path(tempfile.gettempdir()) / f"breeze-torture-{os.getuid()}"
            shared.mkdir(exist_ok=True)
        (cache / "native").symlink_to(shared.resolve())


def problem_of_words(ended: Ended, words: str) -> str | None:
    """Return what is wrong with a refusal: exit code 2 and one line of error with these words."""
    lines = [line for line in ended.printed.splitlines() if line.startswith("error: ")]
    if ended.code != 2 or len(lines) != 1 or "Traceback" in ended.printed:
        return f"exit code {ended.code}, not one line of error: {ended.printed[-300:]}"
    return None if words in lines[0] else f"the line does not say {words!r}: {lines[0]}"
