"""Tokenize the chunks of a source, in one process or in several, one chunk at a time.

    <folder>/00012.bin     the tokens of chunk 12, in blocks; each block belongs to one split
    <folder>/00012.json    its blocks, [["train", 1048576], ["val", 52310], ...], and the counts

The two files of a chunk depend on source, tokenizer and splitter only. Each is written atomically,
the .json last, so a chunk that has both is finished, and an interrupted job continues with the
missing chunks. A process holds one document and one block per split in memory, however large the
chunk is.
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

from data.corpus import hash_of
from data.documents import Source
from data.prompts import encode_marked
from data.splits import SPLITS, Passage, Splitter
from data.tokenizer import Tokenizer, open_tokenizer
from errors import UserError
from storage import atomic_write, sha256_of

BLOCK = 1 << 20  # tokens of one split that are collected before they are written
COUNTS = ("n_documents", "n_tokens", "n_bytes", "n_prompt_tokens")  # bytes of prompts: left out
NAMES_LISTED = 200  # a split with more documents records their number, not their names
PARALLEL_BYTES = 32_000_000  # of text; for less text, one process is faster than several
POLL_SECONDS = 0.2  # between two updates of the progress bar

Report = Callable[[int], object]  # called with the bytes of each document that is tokenized


class ChunkRecord(NamedTuple):
    """The .json file of a chunk: (split, tokens) of each block, the counts of each split, and the
    SHA-256 of both and of the .bin file."""

    blocks: list[tuple[str, int]]
    counts: dict[str, dict[str, Any]]  # split -> `COUNTS` and documents, which are names
    sha256: str = ""

    def hash_with(self, tokens: Path) -> str:
        """Return the hash of this record and of the .bin file."""
        parts = {"blocks": self.blocks, "counts": self.counts, "tokens": sha256_of(tokens)}
        return hash_of(parts)


@dataclass(frozen=True)
class Job:
    """What is tokenized, with which splitter and tokenizer, and into which folder; `dtype` is the
    type of the token ids on disk."""

    source: Source
    splitter: Splitter
    tokenizer: Tokenizer
    folder: Path
    dtype: str

    def read(self, number: int) -> ChunkRecord | None:
        """Read the record of a finished chunk; None if it is missing or damaged.

        Raises `OSError` if the disk cannot be read.
        """
        path = self.folder / f"{number:05d}"
        tokens, record = path.with_suffix(".bin"), path.with_suffix(".json")
        if not tokens.is_file() or not record.is_file():  # reading a pipe may never return
            return None
        try:
            found = ChunkRecord(**json.loads(record.read_bytes()))
            return found if found.sha256 == found.hash_with(tokens) else None
        except (FileNotFoundError, ValueError, TypeError, RecursionError):
            return None

    def blocks(self, number: int, record: ChunkRecord, split: str) -> Iterator[NDArray]:
        """Yield the tokens of `split` in a finished chunk, block after block."""
        start = 0
        for block_split, size in record.blocks:
            if block_split == split:
                yield np.fromfile(
                    self.folder / f"{number:05d}.bin", self.dtype, count=size,
                    offset=start * np.dtype(self.dtype).itemsize,
                )  # fmt: skip
            start += size

    def tokenize(self, number: int, report: Report) -> None:
        """Tokenize one chunk and write its files. Raises `UserError` if it cannot be read."""
        counts = {split: {**dict.fromkeys(COUNTS, 0), "documents": []} for split in SPLITS}
        record = ChunkRecord([], counts)
        passages = self.splitter.divide(number, self.source.chunk(number))
        path = self.folder / f"{number:05d}"
        blocks = self._blocks(passages, record, report)
        tokens = path.with_suffix(".bin")
        atomic_write(tokens, (block.tobytes() for block in blocks))
        record = record._replace(sha256=record.hash_with(tokens))
        atomic_write(path.with_suffix(".json"), json.dumps(record._asdict()).encode())

    def _blocks(
        self, passages: Iterator[Passage], record: ChunkRecord, report: Report
    ) -> Iterator[NDArray]:
        """Yield the blocks of a chunk in the order in which they fill; add each to `record`."""
        pending: dict[str, list[NDArray]] = {split: [] for split in SPLITS}
        sizes = dict.fromkeys(SPLITS, 0)  # tokens in `pending`

        def release(split: str) -> NDArray:
            block = np.concatenate(pending[split])
            pending[split].clear()
            sizes[split] = 0
            record.blocks.append((split, len(block)))
            return block

        for passage in passages:
            ids = encode_marked(self.tokenizer, passage.text, passage.prompt_length)
            _count(record.counts[passage.split], passage, ids)
            pending[passage.split].append(np.array(ids, self.dtype))
            sizes[passage.split] += len(ids)
            if sizes[passage.split] >= BLOCK:
                yield release(passage.split)
            report(len(passage.text.encode()))
        for split in SPLITS:
            if pending[split]:
                yield release(split)


def _count(counts: dict[str, Any], passage: Passage, ids: list[int]) -> None:
    """Add a passage, with its marked ids, to the counts of its split."""
    counts["n_documents"] += passage.begins
    counts["n_tokens"] += len(ids)
    counts["n_bytes"] += len(passage.text[passage.prompt_length :].encode())
    counts["n_prompt_tokens"] += sum(id < 0 for id in ids) if passage.prompt_length else 0
    if len(counts["documents"]) < NAMES_LISTED:
        counts["documents"].append(passage.name)


def tokenize_chunks(job: Job, processes: int | None) -> None:
    """Tokenize the chunks that are missing, in `processes` processes.

    None means one process per core, or one in all for less than `PARALLEL_BYTES`. Raises the
    `UserError` of any process.
    """
    from tqdm import tqdm

    numbers = range(job.source.n_chunks)
    missing = [number for number in numbers if job.read(number) is None]
    if len(missing) < len(numbers):
        done = len(numbers) - len(missing)
        print(f"{done:,} of {len(numbers):,} chunks are already tokenized", file=sys.stderr)
    n_bytes = sum(map(job.source.chunk_bytes, missing))
    if processes is None:
        processes = 1 if n_bytes < PARALLEL_BYTES else os.cpu_count() or 1
    bar = tqdm(desc="tokenizing", total=n_bytes, unit="B", unit_scale=True, leave=False,
               dynamic_ncols=True, disable=None)  # fmt: skip
    with bar:
        if min(processes, len(missing)) <= 1:
            for number in missing:
                job.tokenize(number, bar.update)
        else:
            _tokenize_in_parallel(job, missing, min(processes, len(missing)), bar)


# ---------------------------------------------------------------------------- several processes


def _tokenize_in_parallel(job: Job, numbers: Sequence[int], processes: int, bar: Any) -> None:
    # Spawned, not forked: a fork of a process with threads (torch's) may hang.
    context = multiprocessing.get_context("spawn")
    progress, stopping = context.Value("q", 0), context.Value("b", 0, lock=False)
    shared = (job.source, job.splitter, job.tokenizer.model_bytes, job.folder, job.dtype,
              progress, stopping)  # fmt: skip
    with ProcessPoolExecutor(processes, context, _start_worker, shared) as pool:
        futures = {pool.submit(_work, number) for number in numbers}
        try:
            while futures:
                finished, futures = wait(futures, POLL_SECONDS, FIRST_EXCEPTION)
                for future in finished:
                    future.result()
                bar.update(progress.value - bar.n)
        except BrokenProcessPool:
            raise UserError(
                "a process that tokenized text was killed, possibly out of memory: run the same "
                "command again to continue; data.processes=1 needs the least memory"
            ) from None
        finally:  # after Ctrl-C or an error in a process, the others stop at their next document
            stopping.value = 1
            pool.shutdown(cancel_futures=True)


_worker: tuple[Job, Report] | None = None  # set in the processes that `_start_worker` starts


def _start_worker(
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

    _worker = Job(source, splitter, open_tokenizer(model), folder, dtype), report


def follow_parent() -> None:
    """Ignore Ctrl-C in this child process, and end it when its parent ends, even by kill -9."""
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
