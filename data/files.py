"""The user's own files: .txt, .md, .jsonl, .csv and .parquet, compressed or not."""

import glob
import gzip
import hashlib
import os
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.documents import Document, Source
from errors import UserError
from storage import cache_folder, sha256_of

TABLES = {".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}  # suffix -> builder of `datasets`
TEXTS = (".txt", ".md")


class Files(Source):
    """The user's files: `path` is a file, a folder (with all below it) or a glob.

    A .jsonl, .csv or .parquet file has a document in each row, in the column `field`; rows without
    text are passed over. Any other file is one document in UTF-8, read whole. Each may end in .gz
    and be compressed. In a folder, only these suffixes, .txt and .md are looked at. Among several
    files, one that is not UTF-8 is passed over, and named; alone, it is refused.
    """

    def __init__(self, path: str | None, field: str = "text", documents: str = "file") -> None:
        if not path:
            raise UserError("data.source=files needs data.path: a file, a folder or a glob")
        self._path = path
        self._field = field
        self._files = _find(path)  # name -> file, in the order of reading

    def fingerprint(self) -> str:
        digest = hashlib.sha256(self._field.encode())
        for name, file in self._files.items():
            digest.update(f"\0{name}\0{sha256_of(file)}".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def part(self, number: int) -> Iterator[Document]:
        empty = True
        for name, file in self._files.items():
            builder = TABLES.get(_suffix(file))
            rows = _rows(file, builder, self._field) if builder else self._whole(file)
            for row, text in rows:
                if text:
                    empty = False
                    yield Document(f"{name}#{row}" if builder else name, text)
        if empty:
            raise UserError(f"data.path={self._path} holds no text: every document is empty")

    def _whole(self, file: Path) -> Iterator[tuple[int, str]]:
        """Yield the one text of a file, unless it is none and others are there."""
        try:
            yield 0, _read_text(file)
        except UserError as error:
            if len(self._files) == 1:
                raise
            print(f"note: {error}; passed over", file=sys.stderr)


def _suffix(file: Path) -> str:
    """What kind of file it is, compressed or not."""
    return Path(file.name.lower().removesuffix(".gz")).suffix


def _find(path: str) -> dict[str, Path]:
    """Name the regular files that `path` stands for, by their path below their common folder, so
    that moving the folder changes nothing."""
    root = Path(path).expanduser()
    if root.is_dir():
        files, base = _walk(root), root
    elif root.exists():
        files, base = [root], root.parent
    elif glob.has_magic(path):
        # Path.glob knows no absolute patterns.
        found = sorted(map(Path, glob.glob(str(root), recursive=True)))  # noqa: PTH207
        files = [file for file in found if not file.is_dir()]
        if not files:
            raise UserError(f"data.path={path} matches no file: check the pattern")
        base = Path(os.path.commonpath([file.parent for file in files]))
    else:
        raise UserError(f"data.path={path} does not exist: check the spelling")
    for file in files:
        if not file.is_file():
            raise UserError(
                f"data.path: {file} is not a regular file: text is read from files only"
            )
        if not os.access(file, os.R_OK):
            raise UserError(f"data.path: {file} may not be read: change its permissions")
    return {file.relative_to(base).as_posix(): file for file in files}


def _walk(folder: Path) -> list[Path]:
    """List the files of text below `folder`, sorted; say how many others were passed over."""
    below = [file.relative_to(folder) for file in folder.rglob("*") if not file.is_dir()]
    seen = sorted(file for file in below if not any(part.startswith(".") for part in file.parts))
    files = [file for file in seen if _suffix(file) in (*TEXTS, *TABLES)]
    known = ", ".join((*TEXTS, *TABLES))
    if not files:
        raise UserError(f"data.path={folder} has no file of text in it: {known} are looked at")
    if len(files) < len(seen):
        others = len(seen) - len(files)
        print(f"note: {others} of {len(seen)} files in {folder} are none of {known}: not read",
              file=sys.stderr)  # fmt: skip
    return [folder / file for file in files]


def _read_text(file: Path) -> str:
    """Read a file of UTF-8 as it is; only a byte order mark at its start is not text."""
    mark = b"\xef\xbb\xbf"
    content = file.read_bytes()
    if file.name.lower().endswith(".gz"):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"data.path: {file} is not a whole .gz file: {error}") from None
    try:
        return content.decode("utf-8").removeprefix(mark.decode())
    except UnicodeDecodeError as error:
        raise UserError(
            f"data.path: {file} is not UTF-8 (byte {error.start:,}): save it as UTF-8"
        ) from None


def _rows(file: Path, builder: str, field: str) -> Iterator[tuple[int, str | None]]:
    """Yield (row, text) from a table, a few rows in memory at a time."""
    for number, row in enumerate(_load_table(file, builder)):
        if field not in row:
            raise UserError(
                f"data.field={field}: {file} has no such column, but {', '.join(sorted(row))}"
            )
        text = row[field]
        if text is not None and not isinstance(text, str):
            raise UserError(
                f"data.field={field}: row {number} of {file} holds {type(text).__name__}, not text"
            )
        yield number, text


def _load_table(file: Path, builder: str) -> Iterator[dict[str, Any]]:
    if file.stat().st_size == 0:
        return
    import datasets  # takes seconds to import

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    # Without this the text "NA" or "null" in a .csv would be taken for a missing one.
    options = {"keep_default_na": False} if builder == "csv" else {}
    try:
        yield from datasets.load_dataset(
            builder, data_files=glob.escape(str(file.resolve())), split="train", streaming=True,
            cache_dir=str(cache_folder() / "datasets"), **options,
        )  # fmt: skip
    except Exception as error:  # whatever a parser says of a broken file
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"data.path: {file} cannot be read as {builder}: {reason[:200]}") from error
