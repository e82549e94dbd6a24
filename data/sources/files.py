"""The user's own files: text, JSON, CSV and Parquet, compressed or not.

    paths.py          which files a path stands for
    inspection.py     the first pass: the kind of each file (kinds.py, compression.py)
    texts.py          the documents of plain text        tables.py    the rows of a table

The chunks depend only on the bytes of the files. A chunk is a section of a large file, or several
small files whose sizes add up to at most one section.
"""

import hashlib
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import chain

from data.choices import DOCUMENTS
from data.documents import Document, Source
from data.sources import texts
from data.sources.compression import content_suffix, decompressed, is_compressed
from data.sources.inspection import InspectedFile, Reading, inspect_files
from data.sources.kinds import NotText, Unreadable
from data.sources.paths import find_files
from data.sources.rows import Columns, is_absent
from data.sources.tables import NoColumn, read_rows
from errors import UserError

LONG_LINE = 1_000_000  # characters; a longer line is reported
_NAMED = 10  # files with errors that are listed; the others are counted
# A file with such an ending is a table. If all tables lack the column, its name is probably wrong.
_TABLE_ENDINGS = (".jsonl", ".csv", ".tsv", ".parquet")


class Files(Source):
    """The user's files: `path` is a file, a folder (with its subfolders) or a glob.

    A document is a row of a table (.jsonl, .json, .csv, .tsv, .parquet), in the column `field`; a
    list of turns, {"role": ..., "content": ...}, becomes one line per turn. With `prompt_field`, a
    row begins with the prompt of that column, which may be empty. Rows without text or without the
    column of the prompts are skipped and reported, or refused (`strict`). Any other file is plain
    text in UTF-8, without prompts: a document is the file, a line or a paragraph (`documents`:
    file, line, paragraph), or the text between two separators (`separator`). Documents of white
    space alone are skipped, except whole files. If a file is longer than `texts.SECTION`, each of
    its sections is a document. A file may be compressed (.gz, .zst).

    Among several files, one that cannot be read is skipped and reported. Raises `UserError` if
    nothing can be read, and if a setting does not fit the files.
    """

    def __init__(
        self, path: str | None, field: str = "text", documents: str = "file",
        separator: str | None = None, strict: bool = False, prompt_field: str | None = None,
    ) -> None:  # fmt: skip
        if not path:
            raise UserError("path is missing: give a file, a folder or a glob", "path")
        self._reading = Reading(field, documents, separator, strict, prompt_field)
        _check(self._reading)
        files, errors = inspect_files(find_files(path), self._reading)
        _report_errors(path, files, errors)
        _report(files, self._reading)
        if not any(file.has_text for file in files):
            raise UserError(f"{path} holds no text: every document is empty", "path")
        if separator and not any(file.n_separators for file in files):
            raise UserError(
                f"separator is {separator!r}, which no text file of {path} has", "separator"
            )
        self._files = files
        has_table = any(file.is_table and file.has_text for file in files)
        self.has_prompts = prompt_field is not None and has_table
        self._chunks = _group(files)
        self.n_chunks = len(self._chunks)

    def fingerprint(self) -> str:
        reading = self._reading
        settings = f"{reading.field}\0{reading.documents}\0{texts.SECTION}\0{texts.REACH}"
        if reading.separator:
            settings += f"\0{reading.separator}"
        if self.has_prompts:
            settings += f"\0prompts {reading.prompt_field}"
        digest = hashlib.sha256(settings.encode("utf-8", "surrogateescape"))
        for file in self._files:
            content = f"\0{file.name}\0{file.digest}{_reading_mark(file)}"
            digest.update(content.encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def chunk(self, number: int) -> Iterator[Document]:
        for index, sections in self._chunks[number]:
            file = self._files[index]
            if file.is_table:
                yield from _row_documents(file, self._reading.columns)
            else:
                yield from _text_documents(file, sections, self._reading)

    def chunk_bytes(self, number: int) -> int:
        return sum(self._files[index].size(sections) for index, sections in self._chunks[number])


def _check(reading: Reading) -> None:
    """Raise `UserError` for settings that are not valid."""
    if reading.documents not in DOCUMENTS:
        known = ", ".join(DOCUMENTS)
        raise UserError(f"documents is {reading.documents!r}: one of {known}", "documents")
    if reading.separator == "":
        raise UserError("separator is empty: name the text between documents, or null", "separator")
    if reading.separator and reading.documents != "file":
        raise UserError(
            f"documents is {reading.documents} and separator is {reading.separator!r}: "
            "set only one of them",
            "documents",
            ["separator"],
        )


def _reading_mark(file: InspectedFile) -> str:
    """Return the text that the fingerprint of a file contains beside its content.

    It is empty if earlier versions read the file in the same way. If they read its rows
    differently, or as plain text, their shards must not be used.
    """
    if file.rows is None:
        return ""
    was_table = content_suffix(file.path) in (".jsonl", ".csv", ".parquet")
    had_these_rows = not file.rows.turns and all(map(is_absent, file.rows.skipped))
    return "" if was_table and had_these_rows else f"\0rows of {file.kind}"


def _group(files: list[InspectedFile]) -> list[list[tuple[int, range]]]:
    """Return the chunks. Each is a list of (index of a file, some of its sections)."""
    chunks: list[list[tuple[int, range]]] = []
    free_bytes = 0  # of the last chunk
    for index, file in enumerate(files):
        if not file.has_text:
            continue
        sections = range(file.n_sections)
        # A compressed file is not divided: to read its second section, the first must be read too.
        groups = [sections] if is_compressed(file.path) else [range(n, n + 1) for n in sections]
        for numbers in groups:
            size = file.size(numbers)
            if size > free_bytes:
                chunks.append([])
                free_bytes = texts.SECTION
            chunks[-1].append((index, numbers))
            free_bytes -= size
    return chunks


# ---------------------------------------------------------------------------- documents


def _row_documents(file: InspectedFile, columns: Columns) -> Iterator[Document]:
    """Yield the rows of a table that have text."""
    with decompressed(file.path) as (stream, _):
        for row in read_rows(stream, file.kind, columns, file.path):
            text, prompt_length, _ = row.document(columns)
            if text:
                yield Document(f"{file.name}#{row.number}", text, prompt_length=prompt_length)


def _text_documents(file: InspectedFile, numbers: range, reading: Reading) -> Iterator[Document]:
    """Yield the documents of some sections of a text file."""
    several = file.n_sections > 1
    for number, content in _contents(file, numbers):
        name = f"{file.name}#{number}" if several else file.name
        if reading.documents == "file" and not reading.separator:
            yield Document(name, content.decode())
            continue
        parts = texts.split_documents(content, reading.documents, reading.separator_bytes)
        for index, part in enumerate(parts):
            yield Document(f"{name}{'.' if several else '#'}{index}", part.decode())


def _contents(file: InspectedFile, numbers: range) -> Iterator[tuple[int, bytes]]:
    """Yield (number, content) of some sections of a file, without its byte order mark."""
    with decompressed(file.path) as (stream, _):
        if numbers.start:
            stream.seek(file.borders[numbers.start])
        for number in numbers:
            size = file.size(range(number, number + 1))
            content = stream.read(size)
            if len(content) < size:
                raise UserError(
                    f"{file.path} became shorter while it was read: run it again", "path"
                )
            yield number, content if number else content.removeprefix(texts.BOM)


# ---------------------------------------------------------------------------- reports


def _report_errors(path: str, files: list[InspectedFile], errors: list[Unreadable]) -> None:
    """Report the files that are skipped. Raises `UserError` if all files are skipped, or if all
    tables are skipped because they lack the column of the text."""
    kinds = Counter(error.kind for error in errors if isinstance(error, NotText))
    if kinds:
        counts = ", ".join(f"{kind} ({count:,})" for kind, count in kinds.most_common())
        _note(f"{path}: skipped as not text: {counts}")
    damaged = [error for error in errors if not isinstance(error, NotText)]
    for error in damaged[:_NAMED]:
        remedy = f": {error.remedy}" if error.remedy else ""
        _note(f"skipped: {error.reason}{remedy}")
    if len(damaged) > _NAMED:
        _note(f"{len(damaged) - _NAMED:,} more files cannot be read and are skipped")
    if not any(file.is_table and file.has_text for file in files):
        for error in errors:
            if isinstance(error, NoColumn) and error.suffix in _TABLE_ENDINGS:
                raise error
    if not files:
        raise UserError(f"none of the files of {path} can be read", "path")


def _report(files: list[InspectedFile], reading: Reading) -> None:
    """Report what is unusual in the files, one line for each kind."""
    plain = [file for file in files if not file.is_table]
    _report_tables(files)
    if empty := sum(not file.has_text for file in files):
        _note(f"{empty:,} of {len(files):,} files have no text: skipped")
    others = Counter(content_suffix(file.path) or "no ending" for file in plain)
    for usual in (".txt", ".md"):
        others.pop(usual, 0)
    if others and len(files) > 1:
        counts = ", ".join(f"{ending}: {count:,}" for ending, count in sorted(others.items()))
        _note(f"{others.total():,} of {len(files):,} files are read as plain text ({counts})")
    if with_bom := sum(file.has_bom for file in plain):
        _note(f"{with_bom:,} of {len(plain):,} files begin with a byte order mark: removed")
    crlf = sum(file.has_crlf for file in plain)
    if crlf and reading.documents != "line":
        _note(f"{crlf:,} of {len(plain):,} files end lines with \\r\\n: kept")
    if long_lined := [file for file in plain if file.longest_line > LONG_LINE]:
        longest = max(long_lined, key=lambda file: file.longest_line)
        _note(
            f"{len(long_lined):,} of {len(plain):,} files have a line of more than {LONG_LINE:,} "
            f"characters: kept; the longest, in {longest.name}, has {longest.longest_line:,}"
        )
    large = [file for file in plain if file.n_sections > 1]
    if large and reading.documents == "file" and not reading.separator:
        _note(
            f"{len(large):,} of {len(plain):,} files are longer than {texts.SECTION:,} bytes: each "
            f"section is a document, as {large[0].name}#0 to #{large[0].n_sections - 1}"
        )


def _report_tables(files: list[InspectedFile]) -> None:
    """Report conversations, and the rows that are skipped."""
    tables = [file.rows for file in files if file.rows]
    for column in dict.fromkeys(chain.from_iterable(counts.turns for counts in tables)):
        _note(f"column {column} holds the turns of conversations: each becomes a line "
              "'role: content'")  # fmt: skip
    incomplete = [counts for counts in tables if counts.skipped]
    for counts in incomplete[:_NAMED]:
        _note(f"{counts.name}: rows are skipped (data.strict=true refuses them): {counts}")
    if len(incomplete) > _NAMED:
        rows = sum(counts.n_rows - counts.n_texts for counts in incomplete[_NAMED:])
        _note(f"{rows:,} rows of {len(incomplete) - _NAMED:,} more files are skipped")


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)
