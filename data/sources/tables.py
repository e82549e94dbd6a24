"""Rows of tables: JSON lines, JSON, CSV and Parquet.

A value is read as it stands in the file. No type is guessed: "007" and "2024-01-01" stay text, and
the value does not depend on other rows or other columns. A broken row affects no other row.
"""

import csv
import io
import json
import re
from collections import deque
from collections.abc import Container, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import PurePath
from typing import IO, Any, AnyStr, BinaryIO

from data.sources.compression import content_suffix
from data.sources.kinds import Unreadable
from data.sources.rows import Columns, Row, RowCounts

LONGEST = 1 << 26  # characters of a CSV field or of a line of a table, at most
_BLOCK = 1 << 20  # characters of a JSON array that are read at once
_ROWS = 1000  # of a Parquet file that are read at once
_SPACE = re.compile(r"[ \t\r\n]*")
_BOM = b"\xef\xbb\xbf"
_DELIMITERS = ",;\t|"
_NO_DELIMITER = "\x1f"  # for a table of one column: a control character


class NoColumn(Unreadable):
    """A table without the column that is asked for."""

    def __init__(
        self, path: PurePath, read: Columns, columns: Sequence[str], advice: str = ""
    ) -> None:
        """`columns` are those of the table; one of `read` is not among them."""
        is_text = read.text not in columns
        names = ", ".join(column[:40] for column in columns)
        super().__init__(
            f"{path} has no column {read.text if is_text else read.prompt}, but {names}",
            f"name the column of the {'text' if is_text else 'prompts'}{advice}",
            "field" if is_text else "prompt_field",
        )
        self.suffix = content_suffix(path)


def lacks(read: Columns, columns: Container[str]) -> bool:
    """Return whether a table with `columns` lacks one that is read."""
    return any(name not in columns for name in read.names)


def no_text(path: PurePath, counts: RowCounts) -> Unreadable:
    """Return the error for a table in which no row has text."""
    if counts.columns and lacks(counts.read, counts.columns):
        return NoColumn(path, counts.read, list(counts.columns))
    others = ", ".join(column for column in counts.columns if column not in counts.read.names)
    remedy = f"name another column: {others}" if others else ""
    return Unreadable(f"{path} has no text: {counts}", remedy, "field" if others else "path")


def read_rows(stream: BinaryIO, kind: str, read: Columns, path: PurePath) -> Iterator[Row]:
    """Yield the rows of a table. One block of the file is in memory.

    `kind` is jsonl, json, csv or parquet; `path` names the file in errors. Blank lines are not
    rows. Raises `Unreadable` if the file is not of that kind, and `NoColumn` if a CSV or Parquet
    file lacks a column of `read`.
    """
    if kind == "jsonl":
        yield from _json_lines(stream, path)
    elif kind == "json":
        yield from _json_values(_text(stream), path)
    elif kind == "csv":
        yield from _csv_rows(_text(stream), read, path)
    else:
        yield from _parquet_rows(stream, read, path)


def _lines(stream: IO[AnyStr], path: PurePath) -> Iterator[AnyStr]:
    """Yield the lines. Raises `Unreadable` for a line longer than `LONGEST`: a small archive may
    hold one that fills the memory."""
    while line := stream.readline(LONGEST):
        if len(line) == LONGEST:
            raise Unreadable(f"{path} has a line of more than {LONGEST:,} characters: not a table")
        yield line


def _text(stream: BinaryIO) -> io.TextIOWrapper:
    """Decode a stream. Line ends are kept and a byte order mark is removed. A byte that is not
    UTF-8 becomes a surrogate, so that only its row has no text."""
    return io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="")


# ---------------------------------------------------------------------------- JSON


def json_layout(stream: BinaryIO, kind: str) -> str:
    """Return how a JSON file is read: "jsonl" if each line holds a value, "json" if the file is an
    array or one object over several lines. `kind` is the layout that the file's name suggests."""
    while line := stream.readline(LONGEST):  # an array may be one long line
        if content := line.removeprefix(_BOM).strip():
            if content.startswith(b"["):
                return "json"
            return "jsonl" if kind == "jsonl" or not _parse(content)[1] else "json"
    return kind


def _json_lines(stream: BinaryIO, path: PurePath) -> Iterator[Row]:
    number = 0
    for line_number, line in enumerate(_lines(stream, path), 1):
        content = (line.removeprefix(_BOM) if line_number == 1 else line).strip()
        if content:
            record, problem = _parse(content)
            yield Row(number, f"line {line_number:,}", record, problem)
            number += 1


def _parse(content: bytes) -> tuple[Any, str]:
    """Return (value, "") or (None, why `content` is not JSON)."""
    try:
        return json.loads(content.decode("utf-8", "surrogateescape")), ""
    except json.JSONDecodeError:
        return None, "not JSON"
    except ValueError:  # a number with more digits than Python converts
        return None, "a number that is too long"
    except RecursionError:
        return None, "lists or objects that are nested too deep"


def _json_values(text: io.TextIOWrapper, path: PurePath) -> Iterator[Row]:
    """Yield the elements of an array, or the values of a file without one."""
    buffer = _JsonBuffer(text, path)
    is_array = buffer.peek() == "["
    if is_array:
        buffer.expect("[")
    end = "]" if is_array else ""
    number = 0
    while buffer.peek() != end:
        if number and is_array:
            buffer.expect(",")
            buffer.peek()
        place = f"line {buffer.line:,}"
        yield Row(number, place, buffer.read_value())
        number += 1
    buffer.expect(end)
    if buffer.peek():
        raise buffer.error("there is more after the array")


class _JsonBuffer:
    """A stream of JSON values: a block of text, and the position of the next value in it."""

    _DECODER = json.JSONDecoder()
    # An error this close to the end of the block may come from a value that continues after it.
    _NEAR_END = 16  # characters

    def __init__(self, stream: io.TextIOWrapper, path: PurePath) -> None:
        self.line = 1
        self._stream, self._path = stream, path
        self._block, self._position, self._is_last = "", 0, False

    def peek(self) -> str:
        """Skip white space; return the next character, or "" at the end."""
        while True:
            space = _SPACE.match(self._block, self._position)
            self._advance(space.end() if space else self._position)
            if self._position < len(self._block) or self._is_last:
                return self._block[self._position : self._position + 1]
            self._read()

    def expect(self, character: str) -> None:
        """Read `character`; raise `Unreadable` if the next character is another."""
        if self.peek() != character:
            raise self.error(f"{character} is missing")
        self._advance(self._position + len(character))

    def read_value(self) -> Any:
        """Return the next value; raise `Unreadable` if it is not JSON."""
        while True:
            try:
                value, end = self._DECODER.raw_decode(self._block, self._position)
                if end < len(self._block) or self._is_last:
                    self._advance(end)
                    return value
            except json.JSONDecodeError as error:
                near_end = error.pos > len(self._block) - self._NEAR_END
                is_cut = near_end or error.msg.startswith("Unterminated string")
                if self._is_last or not is_cut:
                    raise self.error(error.msg) from None
            except (ValueError, RecursionError) as error:
                raise self.error(str(error)) from None
            self._read()

    def error(self, problem: str) -> Unreadable:
        """Return the error for the next value."""
        return Unreadable(f"{self._path} is not JSON: line {self.line:,}: {problem}")

    def _advance(self, position: int) -> None:
        self.line += self._block.count("\n", self._position, position)
        self._position = position

    def _read(self) -> None:
        """Drop the part of the block that was read, and at least double the rest."""
        self._block = self._block[self._position :]
        self._position = 0
        more = self._stream.read(max(_BLOCK, len(self._block)))
        self._is_last = not more
        self._block += more


# ---------------------------------------------------------------------------- CSV


def _csv_rows(text: io.TextIOWrapper, read: Columns, path: PurePath) -> Iterator[Row]:
    """Yield the rows of a table whose first line names the columns."""
    lines = enumerate(_lines(text, path), 1)
    start, first = next(((number, line) for number, line in lines if line.strip()), (0, ""))
    if not first:
        return
    delimiter = find_delimiter(first, read.text)
    rest = (line for _, line in lines)
    records = _csv_records(chain([first], rest), delimiter, start)
    _, header = next(records)
    columns = [column.strip() for column in header or ()]
    if lacks(read, columns):
        advice = "; a table needs a first line with the names of its columns"
        raise NoColumn(path, read, columns, advice)
    for number, (line, record) in enumerate(records):
        if record is None:
            yield Row(number, f"line {line:,}", problem="quotation marks that do not pair")
        elif any(record[len(columns) :]):
            problem = f"more fields than the {len(columns)} columns"
            yield Row(number, f"line {line:,}", problem=problem)
        else:
            # Reversed: of two columns with the same name, the first counts.
            pairs = zip(
                reversed(columns[: len(record)]), reversed(record[: len(columns)]), strict=True
            )
            yield Row(number, f"line {line:,}", dict(pairs))


def find_delimiter(header: str, field: str) -> str:
    """Return the delimiter of a table with the first line `header`: one that gives a column
    `field`; of several, the one that gives the most columns. A table of one column has no
    delimiter: then a control character is returned, so that a comma in its rows is text."""
    columns = {
        delimiter: [name.strip() for name in next(csv.reader([header], delimiter=delimiter), [])]
        for delimiter in _DELIMITERS
    }
    best = max(
        columns, key=lambda delimiter: (field in columns[delimiter], len(columns[delimiter]))
    )
    return best if len(columns[best]) > 1 else _NO_DELIMITER


def _csv_records(
    lines: Iterable[str], delimiter: str, line_number: int
) -> Iterator[tuple[int, list[str] | None]]:
    """Yield (number of its first line, fields) of each record. `line_number` is that of the first
    line. The fields of a broken record are None; reading continues with its second line."""
    csv.field_size_limit(LONGEST)
    stream, pushed_back = iter(lines), deque[str]()
    record_lines: list[str] = []  # the lines of the current record

    def next_lines() -> Iterator[str]:
        while (line := pushed_back.popleft() if pushed_back else next(stream, None)) is not None:
            record_lines.append(line)
            yield line

    while True:
        try:
            for record in csv.reader(next_lines(), delimiter=delimiter, strict=True):
                if any(line.strip(" \t\r\n") or delimiter in line for line in record_lines):
                    yield line_number, record
                line_number += len(record_lines)
                record_lines.clear()
            return
        except csv.Error:
            yield line_number, None
            line_number += 1
            pushed_back.extendleft(reversed(record_lines[1:]))
            record_lines.clear()


# ---------------------------------------------------------------------------- Parquet


def _parquet_rows(stream: BinaryIO, read: Columns, path: PurePath) -> Iterator[Row]:
    """Yield the rows of a Parquet file; of its columns only those of `read` are read."""
    from pyarrow import ArrowException, parquet  # type: ignore[import-untyped]  # 0.3 seconds

    try:
        file = parquet.ParquetFile(stream)
        columns = file.schema_arrow.names
        batches = () if lacks(read, columns) else file.iter_batches(_ROWS, columns=read.names)
        number = 0
        for batch in batches:
            places = map(batch.schema.names.index, read.names)
            for values in zip(*(batch.column(n).to_pylist() for n in places), strict=True):
                yield Row(number, f"row {number:,}", dict(zip(read.names, values, strict=True)))
                number += 1
    except (ArrowException, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise Unreadable(f"{path} cannot be read as Parquet: {reason}") from error
    if lacks(read, columns):
        raise NoColumn(path, read, columns)
