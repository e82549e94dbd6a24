"""Rows of tables: JSON lines, JSON, CSV and Parquet.

A value is read as it stands in the file. No type is guessed: "007" and "2024-01-01" stay text, and
what other rows and other columns hold changes nothing. A row that is broken costs only itself.
"""

import csv
import io
import json
import re
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import PurePath
from typing import Any, BinaryIO

from data.sources.compression import content_suffix
from data.sources.kinds import Unreadable
from data.sources.rows import Row, RowCounts

LONGEST = 1 << 26  # characters of a CSV field, at most
_BLOCK = 1 << 20  # characters of a JSON array that are read at once
_ROWS = 1000  # of a Parquet file that are read at once
_SPACE = re.compile(r"[ \t\r\n]*")
_BOM = b"\xef\xbb\xbf"
_SEPARATORS = ",;\t|"
_NO_SEPARATOR = "\x1f"  # for a table of one column: the control character "unit separator"


class NoColumn(Unreadable):
    """A table without the column that is asked for."""

    def __init__(
        self, path: PurePath, field: str, columns: Iterable[str], advice: str = ""
    ) -> None:
        names = ", ".join(column[:40] for column in columns)
        super().__init__(
            f"{path} has no column {field}, but {names}",
            f"name the column of the text{advice}",
            "field",
        )
        self.suffix = content_suffix(path)


def no_text(path: PurePath, counts: RowCounts) -> Unreadable:
    """Return the error for a table of which no row has text."""
    if counts.columns and counts.column not in counts.columns:
        return NoColumn(path, counts.column, counts.columns)
    others = ", ".join(column for column in counts.columns if column != counts.column)
    remedy = f"name another column: {others}" if others else ""
    return Unreadable(f"{path} has no text: {counts}", remedy, "field" if others else "path")


def read_rows(stream: BinaryIO, kind: str, field: str, path: PurePath) -> Iterator[Row]:
    """Yield the rows of a table, with a block of the file in memory.

    `kind` is jsonl, json, csv or parquet; `path` names the file in errors. Blank lines are not
    rows. Raises `Unreadable` if the file is not of that kind, and `NoColumn` if a CSV or Parquet
    file does not have the column `field`.
    """
    if kind == "jsonl":
        yield from _json_lines(stream)
    elif kind == "json":
        yield from _json_values(_text(stream), path)
    elif kind == "csv":
        yield from _csv_rows(_text(stream), field, path)
    else:
        yield from _parquet_rows(stream, field, path)


def _text(stream: BinaryIO) -> io.TextIOWrapper:
    """Decode a stream. Line ends are kept and a byte order mark is removed. A byte that is not
    UTF-8 becomes a surrogate, so that only its own row is refused."""
    return io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="")


# ---------------------------------------------------------------------------- JSON


def json_layout(stream: BinaryIO, kind: str) -> str:
    """Return how a JSON file is read: "jsonl" if each line holds a value, "json" if the file is an
    array or one object over several lines. `kind` is the one of the two that its name suggests."""
    for line in stream:
        if content := line.removeprefix(_BOM).strip():
            if content.startswith(b"["):
                return "json"
            return "jsonl" if kind == "jsonl" or not _parse(content)[1] else "json"
    return kind


def _json_lines(stream: BinaryIO) -> Iterator[Row]:
    number = 0
    for line_number, line in enumerate(stream, 1):
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
    except ValueError:  # a number of more digits than Python converts
        return None, "a number that is too long"
    except RecursionError:
        return None, "lists or objects that are nested too deep"


def _json_values(text: io.TextIOWrapper, path: PurePath) -> Iterator[Row]:
    """Yield the elements of an array, or the values of a file without one."""
    buffer = _JsonBuffer(text, path)
    is_array = buffer.following() == "["
    if is_array:
        buffer.take("[")
    end = "]" if is_array else ""
    number = 0
    while buffer.following() != end:
        if number and is_array:
            buffer.take(",")
            buffer.following()
        place = f"line {buffer.line:,}"
        yield Row(number, place, buffer.take_value())
        number += 1
    buffer.take(end)
    if buffer.following():
        raise buffer.error("there is more after the array")


class _JsonBuffer:
    """A stream of JSON values: a block of text and the place of the next value in it."""

    _DECODER = json.JSONDecoder()
    # An error this close to the end of the block may come from a value that continues after it.
    _NEAR_END = 16  # characters

    def __init__(self, stream: io.TextIOWrapper, path: PurePath) -> None:
        self.line = 1
        self._stream, self._path = stream, path
        self._block, self._place, self._is_last = "", 0, False

    def following(self) -> str:
        """Skip white space; return the next character, or "" at the end."""
        while True:
            space = _SPACE.match(self._block, self._place)
            self._advance(space.end() if space else self._place)
            if self._place < len(self._block) or self._is_last:
                return self._block[self._place : self._place + 1]
            self._read()

    def take(self, character: str) -> None:
        """Read `character`; raise `Unreadable` if another one is next."""
        if self.following() != character:
            raise self.error(f"{character} is missing")
        self._advance(self._place + len(character))

    def take_value(self) -> Any:
        """Return the next value; raise `Unreadable` if it is not JSON."""
        while True:
            try:
                value, end = self._DECODER.raw_decode(self._block, self._place)
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

    def _advance(self, place: int) -> None:
        self.line += self._block.count("\n", self._place, place)
        self._place = place

    def _read(self) -> None:
        """Read another block, at least as much as is already there, and drop what is used."""
        self._block = self._block[self._place :]
        self._place = 0
        more = self._stream.read(max(_BLOCK, len(self._block)))
        self._is_last = not more
        self._block += more


# ---------------------------------------------------------------------------- CSV


def _csv_rows(text: io.TextIOWrapper, field: str, path: PurePath) -> Iterator[Row]:
    """Yield the rows of a table whose first line names the columns."""
    lines = enumerate(text, 1)
    start, first = next(((number, line) for number, line in lines if line.strip()), (0, ""))
    if not first:
        return
    separator = find_separator(first, field)
    rest = (line for _, line in lines)
    records = _csv_records(chain([first], rest), separator, start)
    _, header = next(records)
    columns = [column.strip() for column in header or ()]
    if field not in columns:
        advice = "; a table needs a first line with the names of its columns"
        raise NoColumn(path, field, columns, advice)
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


def find_separator(header: str, field: str) -> str:
    """Return the separator of a table with the first line `header`: the one that gives a column
    `field`, then the one that gives most columns. A table of one column has none: the answer is a
    control character, so that a comma in its rows is text."""
    found = {
        separator: [name.strip() for name in next(csv.reader([header], delimiter=separator), [])]
        for separator in _SEPARATORS
    }
    best = max(found, key=lambda separator: (field in found[separator], len(found[separator])))
    return best if len(found[best]) > 1 else _NO_SEPARATOR


def _csv_records(
    lines: Iterable[str], separator: str, line_number: int
) -> Iterator[tuple[int, list[str] | None]]:
    """Yield (number of its first line, fields) of each record. `line_number` is that of the first
    line. The fields of a broken record are None; reading continues with its second line."""
    csv.field_size_limit(LONGEST)
    stream, again = iter(lines), deque[str]()
    taken: list[str] = []  # the lines of the current record

    def feed() -> Iterator[str]:
        while (line := again.popleft() if again else next(stream, None)) is not None:
            taken.append(line)
            yield line

    while True:
        try:
            for record in csv.reader(feed(), delimiter=separator, strict=True):
                if any(line.strip(" \t\r\n") or separator in line for line in taken):
                    yield line_number, record
                line_number += len(taken)
                taken.clear()
            return
        except csv.Error:
            yield line_number, None
            line_number += 1
            again.extendleft(reversed(taken[1:]))
            taken.clear()


# ---------------------------------------------------------------------------- Parquet


def _parquet_rows(stream: BinaryIO, field: str, path: PurePath) -> Iterator[Row]:
    """Yield the rows of a Parquet file; of its columns only `field` is read."""
    from pyarrow import ArrowException, parquet  # type: ignore[import-untyped]  # 0.3 seconds

    try:
        file = parquet.ParquetFile(stream)
        columns = file.schema_arrow.names
        batches = file.iter_batches(_ROWS, columns=[field]) if field in columns else ()
        number = 0
        for batch in batches:
            for value in batch.column(0).to_pylist():
                yield Row(number, f"row {number:,}", {field: value})
                number += 1
    except (ArrowException, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise Unreadable(f"{path} cannot be read as Parquet: {reason}") from error
    if field not in columns:
        raise NoColumn(path, field, columns)
