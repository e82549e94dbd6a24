"""Everything in the project that writes files, each with an earlier state that it replaces.

The families system_calls and power_cut put faults into them. `LIGHT` need no torch.
"""

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from unittest.mock import patch
from uuid import UUID

from tiny import english

from data.documents import Document, Source
from data.prepare import prepare, tokenizer_for
from data.tokenizer import Tokenizer, open_tokenizer
from data.vocabulary import train_tokenizer
from experiments import result, run_parts
from experiments.benchmarks.machine import describe_machine
from storage import atomic_folder, atomic_write, lock
from training.loggers import run_id
from training.metrics import MetricsLog, SamplesLog, read_metrics
from training.run_log import RunLog


@dataclass(frozen=True)
class Writer:
    """`before(folder)` makes the earlier state in an empty folder, `write(folder)` writes.

    Files in `appended` are written line by line; each other file must appear whole. `torn(folder)`
    returns what is wrong with a state that a fault left, or None. With `as_one` either all files
    are there or none. With `rebuilt`, files that a power cut removes are computed again. A `slow`
    one gets fewer faults.
    """

    name: str
    before: Callable[[Path], object]
    write: Callable[[Path], object]
    appended: tuple[str, ...] = ()
    as_one: bool = False
    rebuilt: bool = False
    slow: bool = False
    torn: Callable[[Path], str | None] = lambda folder: None


def nothing(folder: Path) -> None:
    """There is no earlier state."""


# ------------------------------------------------------------------- storage.py


def _pieces(content: bytes, size: int) -> bytes | Iterator[bytes]:
    """Return the content, or pieces of `size` bytes if it is not 0."""
    if not size:
        return content
    return (content[at : at + size] for at in range(0, len(content), size))


def _one_file(size: int, piece: int, earlier: int | None) -> Writer:
    content = bytes(range(1, 252)) * (size // 251 + 1)

    def before(folder: Path) -> None:
        if earlier is not None:
            (folder / "file").write_bytes(b"earlier " * earlier)

    def write(folder: Path) -> None:
        atomic_write(folder / "file", _pieces(content[:size], piece))

    form = f"pieces of {piece}" if piece else "bytes"
    had = "a new file" if earlier is None else f"over {8 * earlier} bytes"
    return Writer(f"atomic_write {size} {form} {had}", before, write)


def _folder(n_files: int, nested: bool, earlier: bool) -> Writer:
    def before(folder: Path) -> None:
        (folder / "beside").write_bytes(b"of the user")
        if earlier:
            (folder / "out").mkdir()

    def write(folder: Path) -> None:
        with atomic_folder(folder / "out") as out:
            if nested:
                (out / "deep").mkdir()
                atomic_write(out / "deep/file", b"nested" * 1000)
            for number in range(n_files):
                atomic_write(out / f"file-{number}", bytes([65 + number]) * 20_000 * number)

    name = f"atomic_folder of {n_files} files" + ", nested" * nested + ", over an empty" * earlier
    return Writer(name, before, write, as_one=True)


# ------------------------------------------------------------------- the logs of a run


def _metrics(step: int, n_before: int, n_after: int, torn: bytes) -> Writer:
    def lines(steps: range) -> bytes:
        return b"".join(b'{"step": %d, "train_loss": %.2f}\n' % (n, 5 - n / 10) for n in steps)

    def before(folder: Path) -> None:
        if n_before:
            (folder / "metrics.jsonl").write_bytes(lines(range(1, n_before + 1)) + torn)

    def write(folder: Path) -> None:
        log = MetricsLog(folder / "metrics.jsonl", step)
        for number in range(step + 1, step + n_after + 1):
            log.write(number, train_loss=5 - number / 10, text="x" * 50 * number)

    def broken(folder: Path) -> str | None:
        path = folder / "metrics.jsonl"
        steps = [record["step"] for record in read_metrics(path)] if path.is_file() else []
        kept = list(range(1, min(step, n_before) + 1))
        return None if steps[: len(kept)] == kept else f"lines of saved steps are lost: {steps}"

    name = f"MetricsLog from {step}, {n_before} lines before, {n_after} after, {torn!r}"
    return Writer(name, before, write, appended=("metrics.jsonl",), torn=broken)


def _samples(step: int, n_before: int, torn: bytes) -> Writer:
    def before(folder: Path) -> None:
        if n_before:
            parts = (f"=== step {n}, 1.0000 bits per byte ===\né {n}\n\n" for n in range(n_before))
            (folder / "samples.txt").write_bytes("".join(parts).encode() + torn)

    def write(folder: Path) -> None:
        log = SamplesLog(folder / "samples.txt", step)
        for number in range(step + 1, step + 3):
            log.write(number, 1.5, "Once upon a time " * 300 * (number - step))

    def broken(folder: Path) -> str | None:
        if not n_before:
            return None
        content = (folder / "samples.txt").read_text(encoding="utf-8", errors="replace")
        kept = range(min(step + 1, n_before))
        lost = [n for n in kept if f"=== step {n}," not in content]
        return f"samples of saved steps are lost: {lost}" if lost else None

    name = f"SamplesLog from {step}, {n_before} before, {torn!r}"
    return Writer(name, before, write, appended=("samples.txt",), torn=broken)


def _run_log(folder: Path) -> None:
    with RunLog(folder, 2, ["jsonl"], {}) as log:
        for step in (3, 4):
            log.write(step, train_loss=4.5)
            log.sample(step, 2.5, "Once upon a time")
        log.saved()


def _run_id(folder: Path) -> None:
    with patch("uuid.uuid4", lambda: UUID(int=7)):  # it is drawn: each time the same
        run_id(folder)


# ------------------------------------------------------------------- tokens


@cache
def _text(seed: int) -> str:
    return english(400, seed)


class Sentences(Source):
    """Made-up text in several chunks."""

    def __init__(self, n_chunks: int) -> None:
        self.n_chunks = n_chunks

    def fingerprint(self) -> str:
        return f"sentences {self.n_chunks}"

    def chunk(self, number: int) -> Iterator[Document]:
        for part in range(3):
            yield Document(f"{number}-{part}", _text(3 * number + part))


SPLIT = {"split": "tail", "val_fraction": 0.1, "test_fraction": 0.1}


@cache
def tokenizer() -> Tokenizer:
    """Return a tokenizer of these sentences."""
    texts = (document.text for document in Sentences(3).documents())
    return open_tokenizer(train_tokenizer(texts, type="char", vocab_size=400))


def _shards(n_chunks: int, shard_tokens: int, damage: str | None) -> Writer:
    def write(folder: Path) -> None:
        prepare(
            Sentences(n_chunks), tokenizer(), **SPLIT, folder=folder, processes=1,
            shard_tokens=shard_tokens,
        )  # fmt: skip

    def before(folder: Path) -> None:
        if damage is not None:
            write(folder)
            (path,) = folder.rglob(damage)
            path.write_bytes(path.read_bytes()[:-3])

    damaged = f", {damage} damaged" if damage else ""
    name = f"shards of {n_chunks} chunks, {shard_tokens} each{damaged}"
    return Writer(name, before, write, rebuilt=True)


def _tokenizer_file(folder: Path) -> None:
    os.environ["BREEZE_CACHE"] = str(folder)
    tokenizer_for([(Sentences(2), 1.0)], type="char", vocab_size=400, **SPLIT)
    if os.environ["BREEZE_CACHE"] != str(folder):
        raise OSError("the cache moved to another folder, because this one cannot be written")


# ------------------------------------------------------------------- experiments


@dataclass(frozen=True)
class Measured:
    """A result as experiments store them."""

    loss: float
    curve: list[float]


_machine = cache(describe_machine)
_RESULT = Measured(1.5, [n / 7 for n in range(2000)])


def _with_run(folder: Path) -> None:
    (folder / "checkpoints").mkdir()


def _store(folder: Path) -> None:
    about = result.About("torture", False, "2026-01-01 00:00", 1.0, _machine())
    result.store(folder, "torture", about, _RESULT)


def _part(folder: Path) -> None:
    run_parts.measured_once(str(folder), "part", [1, "x"], [], Measured, lambda: _RESULT)


def _lock(folder: Path) -> None:
    with lock(folder, wait=False):
        atomic_write(folder / "file", b"held")


LIGHT: list[Writer] = [
    *(_one_file(*shape) for shape in itertools.product(
        (0, 1, 5_000, 300_000), (0, 1_000, 70_000), (None, 0, 1, 20_000)
    ) if shape[1] <= shape[0] <= 100 * shape[1] or not shape[1]),
    *(_folder(*shape) for shape in itertools.product((1, 2, 4), (False, True), (False, True))),
    *(_metrics(step, n, after, torn) for step, n, after, torn in [
        (0, 0, 3, b""), (2, 4, 3, b""), (4, 4, 2, b'{"step": 5, "tr'), (3, 9, 5, b"\0" * 40),
    ]),
    *(_samples(step, n, torn) for step, n, torn in [
        (0, 0, b""), (2, 4, b""), (4, 4, b"=== step 5, 1.0000 bits per byte ===\nhal"),
    ]),
    Writer("RunLog", nothing, _run_log, appended=("metrics.jsonl", "samples.txt")),
    Writer("run_id", nothing, _run_id),
    Writer("lock", nothing, _lock),
    *(_shards(*shape) for shape in [
        (1, 1 << 20, None), (2, 900, None), (1, 1 << 20, "manifest.json"),
        (2, 900, "train-00001.bin"),
    ]),
    Writer("tokenizer cache", nothing, _tokenizer_file, rebuilt=True),
    Writer("experiments.result", _with_run, _store),
    Writer("experiments.run_parts", _with_run, _part),
]  # fmt: skip
