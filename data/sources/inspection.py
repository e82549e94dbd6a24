"""The first pass over the user's files: their kinds, their sections, and whether they have text.

Every file is read once before the first document is used, so errors come before training.
"""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from data.sources.compression import content_suffix, decompressed, is_compressed
from data.sources.kinds import HEAD, Unreadable, recognise
from data.sources.rows import Columns, RowCounts
from data.sources.tables import json_layout, no_text, read_rows
from data.sources.texts import BOM, decode, sections
from storage import sha256_of

_EXPANSION = 3  # decompressed size divided by compressed size, approximately


@dataclass(frozen=True)
class Reading:
    """How the files are read: the settings of `Files`."""

    field: str = "text"
    documents: str = "file"
    separator: str | None = None
    strict: bool = False
    prompt_field: str | None = None

    @property
    def columns(self) -> Columns:
        """The columns of tables that are read."""
        return Columns(self.field, self.prompt_field)

    @property
    def separator_bytes(self) -> bytes:
        """The separator in UTF-8; empty if there is none."""
        return (self.separator or "").encode()


@dataclass
class InspectedFile:
    """The results of the first pass over a file.

    `borders` are the positions, in decompressed bytes, at which the sections begin and the last
    section ends; for a table, 0 and its approximate size.
    """

    name: str
    path: Path
    kind: str  # jsonl, json, csv, parquet or text
    digest: str = ""
    borders: list[int] = field(default_factory=lambda: [0])
    has_text: bool = False
    has_bom: bool = False  # a byte order mark
    has_crlf: bool = False  # lines that end in \r\n
    longest_line: int = 0  # in characters
    n_separators: int = 0
    rows: RowCounts | None = None  # of a table

    @property
    def is_table(self) -> bool:
        """Whether each row is a document."""
        return self.kind != "text"

    @property
    def n_sections(self) -> int:
        """The number of sections of the file."""
        return len(self.borders) - 1

    def size(self, numbers: range) -> int:
        """Return the size of some sections in bytes."""
        return self.borders[numbers.stop] - self.borders[numbers.start]


def inspect_files(
    found: dict[str, Path], reading: Reading
) -> tuple[list[InspectedFile], list[Unreadable]]:
    """Read every file once. Return those that can be read, and the errors of the others.

    Raises `UserError` if the only file cannot be read, or for a row that `reading.strict` refuses.
    """
    from tqdm import tqdm

    files: list[InspectedFile] = []
    errors: list[Unreadable] = []
    sizes = {name: path.stat().st_size if path.is_file() else 0 for name, path in found.items()}
    with tqdm(desc="reading", total=sum(sizes.values()), unit="B", unit_scale=True, leave=False,
              dynamic_ncols=True, disable=None) as bar:  # fmt: skip
        for name, path in found.items():
            before = bar.n
            try:
                files.append(_inspect(name, path, reading, bar.update))
            except Unreadable as error:
                if len(found) == 1:
                    raise
                errors.append(error)
            bar.update(before + sizes[name] - bar.n)
    return files, errors


def _inspect(
    name: str, path: Path, reading: Reading, report: Callable[[int], object]
) -> InspectedFile:
    if not path.is_file():
        is_broken = path.is_symlink() and not path.exists()
        kind = "a broken symbolic link" if is_broken else "not a regular file"
        raise Unreadable(f"{path} is {kind}", "text is read from files only")
    if not os.access(path, os.R_OK):
        raise Unreadable(f"{path} may not be read", "change its permissions")
    file = InspectedFile(name, path, _kind_of(path))
    if file.is_table:
        _inspect_table(file, reading)
    else:
        _inspect_text(file, reading, report)
    return file


def _kind_of(path: Path) -> str:
    suffix = content_suffix(path)
    with decompressed(path) as (stream, _):
        kind = recognise(stream.read(HEAD), path, suffix)
    if kind == "parquet" and is_compressed(path):
        raise Unreadable(f"{path} is compressed twice", "unpack it: Parquet is compressed itself")
    if kind in ("json", "jsonl"):
        with decompressed(path) as (stream, _):
            return json_layout(stream, kind)
    return kind


# ---------------------------------------------------------------------------- tables


def _inspect_table(file: InspectedFile, reading: Reading) -> None:
    file.digest = sha256_of(file.path)
    counts = file.rows = RowCounts(str(file.path), reading.columns, reading.strict)
    with decompressed(file.path) as (stream, _):
        for row in read_rows(stream, file.kind, reading.columns, file.path):
            counts.document(row)
    file.has_text = counts.n_texts > 0
    if counts.n_rows and not file.has_text:
        raise no_text(file.path, counts)
    is_compact = is_compressed(file.path) or file.kind == "parquet"
    file.borders.append(file.path.stat().st_size * (_EXPANSION if is_compact else 1))


# ---------------------------------------------------------------------------- text


def _inspect_text(file: InspectedFile, reading: Reading, report: Callable[[int], object]) -> None:
    digest = hashlib.sha256()
    open_line = 0  # characters of the line that continues in the next section
    position = 0  # in the file on the disk, which may be compressed
    separator = reading.separator_bytes
    is_whole = reading.documents == "file" and not separator
    with decompressed(file.path) as (stream, raw):
        for section in sections(stream, separator):
            digest.update(section)
            text = decode(section, file.path, file.borders[-1])
            content = section
            if file.borders == [0] and section.startswith(BOM):
                file.has_bom = True
                content = section[len(BOM) :]
            # White space alone is a document only if the document is a whole file.
            file.has_text |= bool(content) and (is_whole or not content.isspace())
            file.has_crlf |= b"\r\n" in section
            file.n_separators += section.count(separator) if separator else 0
            lengths = [len(line) for line in text.replace("\r", "\n").split("\n")]
            lengths[0] += open_line
            file.longest_line = max(file.longest_line, max(lengths))
            open_line = lengths[-1]
            file.borders.append(file.borders[-1] + len(section))
            report(raw.tell() - position)
            position = raw.tell()
    file.digest = digest.hexdigest()
