"""Files compressed with gzip or Zstandard, read as streams: `a.txt.gz`, `b.jsonl.zst`."""

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any, BinaryIO, cast

from data.sources.kinds import Unreadable

COMPRESSED = (".gz", ".zst")


def is_compressed(file: PurePath) -> bool:
    """Return whether the file's name has the ending of a compressed file."""
    return file.suffix.lower() in COMPRESSED


def content_suffix(file: PurePath) -> str:
    """Return the ending of a file without that of its compression: `.txt` for `a.txt.gz`."""
    return PurePath(file.stem if is_compressed(file) else file.name).suffix.lower()


@contextmanager
def decompressed(path: Path) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """Open a file; yield the stream of its content and the open file, whose `tell()` gives the
    progress. The two are the same object if the file is not compressed.

    Raises `Unreadable` if the compressed data is damaged or incomplete.
    """
    with path.open("rb") as raw:
        try:
            yield decompress(raw, path), raw
        except (OSError, EOFError, zlib.error) as error:
            if getattr(error, "errno", None):  # an error of the disk, not of the content
                raise
            suffix = path.suffix.lower()
            raise Unreadable(f"{path} is not a complete {suffix} file: {error}") from None


def decompress(raw: Any, name: PurePath) -> BinaryIO:
    """Return the stream of the content of `raw`, an open file called `name`."""
    if name.suffix.lower() == ".gz":
        return cast(BinaryIO, gzip.GzipFile(fileobj=raw))
    if name.suffix.lower() == ".zst":
        import pyarrow  # type: ignore[import-untyped]  # takes 0.3 seconds

        return cast(BinaryIO, io.BufferedReader(pyarrow.CompressedInputStream(raw, "zstd")))
    return cast(BinaryIO, raw)
