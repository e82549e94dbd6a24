"""The parts of a source cut into tokens, by one process or by several, a part at a time.

    <folder>/00012.bin     the tokens of part 12, in blocks that are each of one split
    <folder>/00012.json    its blocks, [["train", 1048576], ["val", 52310], ...], and the counts

A part's two files follow from source, tokenizer and splitter alone. Each is written whole, the
.json last: what lies there is finished, and whoever was killed goes on with the parts that are
missing. A process holds a document and a block of each split in memory, however large the part.
"""

import json
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.documents import Document, Source
from data.splits import SPLITS, Splitter
from data.tokenizer import Tokenizer
from errors import UserError
from storage import atomic_write

BLOCK = 1 << 20  # tokens of a split that are held until they are written
NAMES_LISTED = 200  # more documents than these are counted, not named
WORTH = 32_000_000  # bytes; with less, starting processes takes longer than they save
_NOTHING: dict[str, Any] = {"n_documents": 0, "n_tokens": 0, "n_bytes": 0}
GLANCE = 0.2  # seconds between two looks at how far the processes are


class PartRecord(NamedTuple):
    """What a part's file holds: (split, tokens) of each block, and the counts of each split."""

    blocks: list[tuple[str, int]]
    counts: dict[str, dict[str, Any]]  # split -> n_documents, n_tokens, n_bytes, documents


@dataclass(frozen=True)
class Job:
    """What to cut, how, and where to put it."""

    source: Source
    splitter: Splitter
    tokenizer: Tokenizer
    folder: Path
    dtype: str

    def read(self, number: int) -> PartRecord | None:
        """Read the record of a part that is finished, or None."""
        place = self.folder / f"{number:05d}"
        try:
            record = PartRecord(**json.loads(place.with_suffix(".json").read_bytes()))
            size = place.with_suffix(".bin").stat().st_size
        except (OSError, ValueError, TypeError):  # there is none, or it is none
            return None
        whole = size == sum(n for _, n in record.blocks) * np.dtype(self.dtype).itemsize
        return record if whole else None

    def blocks(self, number: int, split: str) -> Iterator[NDArray]:
        """Yield the tokens that a finished part has for `split`, block after block."""
        record = self.read(number)
        assert record is not None, number
        start = 0
        for its, size in record.blocks:
            if its == split:
                yield np.fromfile(
                    self.folder / f"{number:05d}.bin", self.dtype, count=size,
                    offset=start * np.dtype(self.dtype).itemsize,
                )  # fmt: skip
            start += size

    def tokenize(self, number: int, report: Callable[[int], object]) -> None:
        """Cut one part into tokens and write it; `report` is told each document's bytes."""
        record = PartRecord(
            [],
            {split: _NOTHING | {"documents": []} for split in SPLITS},
        )
        documents = self.splitter.divide(number, self.source.part(number))
        place = self.folder / f"{number:05d}"
        blocks = self._blocks(documents, record, report)
        atomic_write(place.with_suffix(".bin"), (block.tobytes() for block in blocks))
        atomic_write(place.with_suffix(".json"), json.dumps(record._asdict()).encode())

    def _blocks(
        self, documents: Iterator[Document], record: PartRecord, report: Callable[[int], object]
    ) -> Iterator[NDArray]:
        held: dict[str, list[NDArray]] = {split: [] for split in SPLITS}
        sizes = dict.fromkeys(SPLITS, 0)  # tokens held

        def release(split: str) -> NDArray:
            block = np.concatenate(held[split])
            held[split].clear()
            sizes[split] = 0
            record.blocks.append((split, len(block)))
            return block

        for document in documents:
            assert document.split is not None
            count = record.counts[document.split]
            ids = self.tokenizer.encode_document(document.text)
            n_bytes = len(document.text.encode())
            count["n_documents"] += 1
            count["n_tokens"] += len(ids)
            count["n_bytes"] += n_bytes
            if count["n_documents"] <= NAMES_LISTED:
                count["documents"].append(document.name)
            held[document.split].append(np.array(ids, self.dtype))
            sizes[document.split] += len(ids)
            if sizes[document.split] >= BLOCK:
                yield release(document.split)
            report(n_bytes)
        for split in SPLITS:
            if held[split]:
                yield release(split)


def tokenize_parts(job: Job, processes: int | None) -> None:
    """Cut what is not there yet, in `processes` processes (None: one for each core, where there is
    enough to do). Raises `UserError` for what the user can mend, whoever met it."""
    from tqdm import tqdm

    numbers = range(job.source.n_parts)
    missing = [number for number in numbers if job.read(number) is None]
    if len(missing) < len(numbers):
        done = len(numbers) - len(missing)
        print(f"{done:,} of {len(numbers):,} parts are there from before", file=sys.stderr)
    left = sum(map(job.source.part_bytes, missing))
    if processes is None:
        processes = 1 if left < WORTH else os.cpu_count() or 1
    bar = tqdm(desc="tokenizing", total=left, unit="B", unit_scale=True, leave=False,
               dynamic_ncols=True, disable=None)  # fmt: skip
    with bar:
        if min(processes, len(missing)) <= 1:
            for number in missing:
                job.tokenize(number, bar.update)
        else:
            _in_processes(job, missing, min(processes, len(missing)), bar)


# ---------------------------------------------------------------------------- several processes


def _in_processes(job: Job, numbers: Sequence[int], processes: int, bar: Any) -> None:
    # Not forked: a fork of a process with threads (torch's) may hang.
    context = multiprocessing.get_context("spawn")
    progress, stopping = context.Value("q", 0), context.Value("b", 0, lock=False)
    about = (job.source, job.splitter, job.tokenizer.model_bytes, job.folder, job.dtype)
    with ProcessPoolExecutor(processes, context, _begin, (*about, progress, stopping)) as pool:
        futures = {pool.submit(_work, number) for number in numbers}
        try:
            while futures:
                finished, futures = wait(futures, GLANCE, FIRST_EXCEPTION)
                for future in finished:
                    future.result()
                bar.update(progress.value - bar.n)
        except BrokenProcessPool:
            raise UserError(
                "a process that cut text into tokens was killed, perhaps for want of memory: run "
                "the same command again, it goes on; data.processes=1 takes the least"
            ) from None
        finally:  # Ctrl-C, or a mistake that a process met: the others stop at their next document
            stopping.value = 1
            pool.shutdown(cancel_futures=True)


_worker: tuple[Job, Callable[[int], object]] | None = None  # of this process, if it is one of them


def _begin(
    source: Source, splitter: Splitter, model: bytes, folder: Path, dtype: str,
    progress: Any, stopping: Any,
) -> None:  # fmt: skip
    global _worker
    follow_parent()

    def report(n_bytes: int) -> None:
        if stopping.value:
            raise InterruptedError
        with progress.get_lock():
            progress.value += n_bytes

    _worker = Job(source, splitter, Tokenizer(model), folder, dtype), report


def follow_parent() -> None:
    """Leave Ctrl-C to the parent of this process, and end when it is gone, even by a kill -9."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _work(number: int) -> None:
    assert _worker is not None
    job, report = _worker
    job.tokenize(number, report)
