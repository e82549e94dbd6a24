"""The rows of a dataset of the Hub.

`datasets` guesses the types of JSON and CSV from their first rows and converts later rows to them:
a number among texts changes the spelling of every text around it. So JSON and CSV files are read by
tables.py. Parquet and Arrow files state their types; `datasets` reads them.
"""

import io
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from data.sources.compression import content_suffix, decompress
from data.sources.kinds import TABLES
from data.sources.rows import Columns, Row
from data.sources.tables import json_layout, read_rows

ROWS = 10_000  # in a chunk of a downloaded dataset
CHUNK_BYTES = 16_000_000  # approximate; used if the dataset does not state its size
_PREFIX = "hf://datasets/"


class HubRows(ABC):
    """The rows of a dataset, in chunks that can be read separately."""

    n_chunks: int
    size: int | None = None  # of all chunks in bytes, if the dataset states it

    @abstractmethod
    def rows(self, chunk: int) -> Iterator[tuple[str, Row]]:
        """Yield (name, row) for each row of a chunk. The name follows from the row's position."""


class LibraryRows(HubRows):
    """Rows that `datasets` reads. A chunk is a file, or `ROWS` rows of a downloaded dataset."""

    def __init__(self, dataset: Any, split: str, *, streaming: bool) -> None:
        self._dataset, self._streaming = dataset, streaming
        self.n_chunks = dataset.num_shards if streaming else -(-len(dataset) // ROWS)
        info = (dataset.info.splits or {}).get(split)
        self.size = info.num_bytes if info and info.num_bytes else None

    def rows(self, chunk: int) -> Iterator[tuple[str, Row]]:
        if self._streaming:
            shard = self._dataset.shard(num_shards=self.n_chunks, index=chunk)
            for number, record in enumerate(shard):
                yield f"{chunk}.{number}", Row(number, f"row {chunk}.{number}", record)
        else:
            numbers = range(chunk * ROWS, min((chunk + 1) * ROWS, len(self._dataset)))
            for number, record in zip(numbers, self._dataset.select(numbers), strict=True):
                yield str(number), Row(number, f"row {number}", record)


class TableRows(HubRows):
    """Rows of JSON and CSV files. A chunk is a file. A downloaded dataset is one chunk, because its
    rows are numbered from the first file to the last."""

    def __init__(self, files: list[str], columns: Columns, folder: str | None) -> None:
        self._files, self._columns = files, columns
        self._folder = folder  # where files are downloaded to; None: they are streamed
        self.n_chunks = 1 if folder else len(files)

    def rows(self, chunk: int) -> Iterator[tuple[str, Row]]:
        if self._folder is None:
            for row in self._file_rows(self._files[chunk]):
                yield f"{chunk}.{row.number}", row
        else:
            all_rows = (row for file in self._files for row in self._file_rows(file))
            for number, row in enumerate(all_rows):
                yield str(number), row

    def _file_rows(self, file: str) -> Iterator[Row]:
        path = PurePosixPath(file)
        kind = TABLES[content_suffix(path)]
        if kind in ("json", "jsonl"):
            with self._open(file) as raw:
                kind = json_layout(decompress(raw, path), kind)
        with self._open(file) as raw:
            for row in read_rows(decompress(raw, path), kind, self._columns, path):
                yield replace(row, place=f"{path.name}, {row.place}")

    def _open(self, file: str) -> BinaryIO:
        """Open the file owner/name@commit/path of the Hub."""
        from huggingface_hub import HfFileSystem, hf_hub_download

        if self._folder is None:
            # The library's own file cannot limit the length of a line.
            return io.BufferedReader(HfFileSystem().open(f"datasets/{file}", "rb"))
        owner, name_and_commit, path = file.split("/", 2)
        name, _, commit = name_and_commit.partition("@")
        local_path = hf_hub_download(
            f"{owner}/{name}", path, repo_type="dataset", revision=commit, cache_dir=self._folder
        )
        return open(local_path, "rb")  # noqa: PTH123


def table_files(builder: Any, split: str) -> list[str]:
    """Return the files of a split, owner/name@commit/path, if they are JSON or CSV, whose types
    `builder` would guess. Otherwise, or if the dataset sets options for reading, which only
    `datasets` applies, return an empty list."""
    config = builder.config
    ignored = {"name", "version", "data_dir", "data_files", "description", "features"}
    options = (option for option in fields(config) if option.name not in ignored)
    if builder.name not in ("json", "csv") or any(
        getattr(config, option.name) != option.default for option in options
    ):
        return []
    files = [str(file) for file in (config.data_files or {}).get(split, ())]
    kinds = {TABLES.get(content_suffix(PurePosixPath(file))) for file in files}
    known = kinds <= {"json", "jsonl", "csv"} and all(file.startswith(_PREFIX) for file in files)
    return [file.removeprefix(_PREFIX) for file in files] if known else []
