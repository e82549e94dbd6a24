"""The user's own files: .txt, .md, .jsonl, .csv and .parquet, compressed or not.

Every file is looked at once, in blocks, before the first is used: is it text, where can it be cut?
What is odd is said aloud, then. The parts follow from the files' bytes alone:

    big.txt     |-- section 0 --|-- section 1 --|- 2 -|    about `SECTION` bytes each
    part              0               1            2       small files share a part

A section ends behind a blank line, if one comes soon after its `SECTION` bytes, or behind a line.
"""

import glob
import gzip
import hashlib
import io
import os
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

from data.documents import Document, Source
from errors import UserError
from storage import cache_folder, sha256_of

TABLES = {".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}  # suffix -> builder of `datasets`
TEXTS = (".txt", ".md")
PACKED = (".gz", ".zst")
DOCUMENTS = ("file", "line", "paragraph")
SECTION = 16_000_000  # bytes of a section, about, and of the small files in a part, at most
REACH = 1_000_000  # bytes after those in which the end of a paragraph or a line is looked for
LONG = 1_000_000  # characters of a line that are worth a word
NAMED = 10  # broken files are named, more are counted
MARK = b"\xef\xbb\xbf"  # the byte order mark; at the start of a file it is no text
_BREAK = (
    rb"(?:\r\n|\n|\r(?=[^\n]))"  # the end of a line; at the end of a window, \r may be half of it
)
_BORDERS = (re.compile(_BREAK + rb"(?:[ \t]*" + _BREAK + rb")+"), re.compile(_BREAK))
_LINE = re.compile(rb"([^\r\n]*)(?:\r\n|\n|\r|\Z)")  # after the last line, one that is empty


class _Broken(UserError):
    """A file that cannot be read: alone it is refused, among others it is passed over."""

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(reason + hint)
        self.reason, self.hint = reason, hint


@dataclass
class _File:
    """What is known of a file. `borders`: where its sections begin, and the last one ends, in
    unpacked bytes; of a table, 0 and about its size."""

    name: str
    path: Path
    digest: str = ""
    borders: list[int] = field(default_factory=lambda: [0])
    has_text: bool = False
    marked: bool = False  # with a byte order mark
    crlf: bool = False  # has lines that end in \r\n
    longest: int = 0  # line, in characters

    @property
    def n_sections(self) -> int:
        return len(self.borders) - 1


class Files(Source):
    """The user's files: `path` is a file, a folder (with all below it) or a glob.

    A .jsonl, .csv or .parquet file has a document in each row, in the column `field`; rows without
    text are passed over. Any other file is UTF-8, and a document is all of it, a line or a
    paragraph (`documents`: file, line, paragraph); blank lines are none. A file that is longer than
    `SECTION` is cut into sections, and "all of it" is a section. Each may end in .gz or .zst and be
    compressed. In a folder, only these suffixes, .txt and .md are looked at. Among several files,
    one that cannot be read is passed over, and named; alone, it is refused.

    Raises `UserError` for what cannot be read and where there is no text.
    """

    def __init__(self, path: str | None, field: str = "text", documents: str = "file") -> None:
        if not path:
            raise UserError("data.source=files needs data.path: a file, a folder or a glob")
        if documents not in DOCUMENTS:
            raise UserError(f"data.documents is {documents!r}: one of {', '.join(DOCUMENTS)}")
        self._field = field
        self._documents = documents
        self._files = _inspect(_find(path), field, documents)
        if not self._files:
            raise UserError(f"data.path={path}: none of its files can be read")
        _tell(self._files, documents)
        if not any(file.has_text for file in self._files):
            raise UserError(f"data.path={path} holds no text: every document is empty")
        self._parts = _group(self._files)
        self.n_parts = len(self._parts)

    def fingerprint(self) -> str:
        about = f"{self._field}\0{self._documents}\0{SECTION}\0{REACH}"
        digest = hashlib.sha256(about.encode())
        for file in self._files:
            digest.update(f"\0{file.name}\0{file.digest}".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def part(self, number: int) -> Iterator[Document]:
        for index, sections in self._parts[number]:
            file = self._files[index]
            if _builder(file.path):
                for row, text in _rows(file.path, self._field):
                    if text:
                        yield Document(f"{file.name}#{row}", text)
            else:
                yield from _texts(file, sections, self._documents)

    def part_bytes(self, number: int) -> int:
        return sum(_size(self._files[index], its) for index, its in self._parts[number])


def _size(file: _File, sections: range) -> int:
    return file.borders[sections.stop] - file.borders[sections.start]


def _group(files: list[_File]) -> list[list[tuple[int, range]]]:
    """Make the parts, each some sections of some files: (index of the file, its sections)."""
    parts: list[list[tuple[int, range]]] = []
    room = 0
    for index, file in enumerate(files):
        if not file.has_text:
            continue
        whole = range(file.n_sections)
        # To seek in a compressed file is to read it.
        each = [whole] if _packed(file.path) else [range(n, n + 1) for n in whole]
        for sections in each:
            size = _size(file, sections)
            if size > room:
                parts.append([])
                room = SECTION
            parts[-1].append((index, sections))
            room -= size
    return parts


# ---------------------------------------------------------------------------- which files


def _packed(file: Path) -> bool:
    return file.suffix.lower() in PACKED


def _suffix(file: Path) -> str:
    """What kind of file it is, compressed or not."""
    return Path(file.stem if _packed(file) else file.name).suffix.lower()


def _builder(file: Path) -> str | None:
    """Name what reads a table; None for text."""
    return TABLES.get(_suffix(file))


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


# ---------------------------------------------------------------------------- the first look


def _inspect(found: dict[str, Path], field: str, documents: str) -> list[_File]:
    """Read every file once; say which are passed over."""
    from tqdm import tqdm

    files: list[_File] = []
    broken: list[_Broken] = []
    total = sum(path.stat().st_size for path in found.values())
    with tqdm(desc="reading", total=total, unit="B", unit_scale=True, leave=False,
              dynamic_ncols=True, disable=None) as bar:  # fmt: skip
        for name, path in found.items():
            file, before = _File(name, path), bar.n
            try:
                if _builder(path):
                    _inspect_table(file, field)
                else:
                    _inspect_text(file, documents, bar.update)
                files.append(file)
            except _Broken as problem:
                if len(found) == 1:
                    raise
                broken.append(problem)
            bar.update(before + path.stat().st_size - bar.n)
    for error in broken[:NAMED]:
        _note(f"{error.reason}; passed over{error.hint}")
    if len(broken) > NAMED:
        _note(f"{len(broken) - NAMED:,} more files cannot be read and are passed over")
    return files


def _inspect_table(file: _File, field: str) -> None:
    file.digest = sha256_of(file.path)
    for _, text in _rows(file.path, field):
        file.has_text = file.has_text or bool(text)
    squeezed = _packed(file.path) or _suffix(file.path) == ".parquet"
    file.borders.append(file.path.stat().st_size * (3 if squeezed else 1))


def _inspect_text(file: _File, documents: str, report: Callable[[int], object]) -> None:
    digest = hashlib.sha256()
    line = 0  # characters of the line that goes on from section to section
    at = 0  # in the file as it is on the disk
    with _unpacked(file.path) as (stream, raw):
        for section in _sections(stream):
            digest.update(section)
            text = _decode(file, section)
            content = section
            if file.borders == [0] and section.startswith(MARK):
                file.marked = True
                content = section[len(MARK) :]
            # Of white space alone, a file is a document; lines and paragraphs are none.
            file.has_text |= bool(content) and (documents == "file" or not content.isspace())
            file.crlf |= b"\r\n" in section
            lengths = [len(piece) for piece in text.replace("\r", "\n").split("\n")]
            lengths[0] += line
            file.longest = max(file.longest, max(lengths))
            line = lengths[-1]
            file.borders.append(file.borders[-1] + len(section))
            report(raw.tell() - at)
            at = raw.tell()
    file.digest = digest.hexdigest()


def _tell(files: list[_File], documents: str) -> None:
    """Say what is odd in the files, a line for each kind."""
    texts = [file for file in files if not _builder(file.path)]
    if empty := sum(not file.has_text for file in files):
        _note(f"{empty:,} of {len(files):,} files hold no text: passed over")
    if marked := sum(file.marked for file in texts):
        _note(f"{marked:,} of {len(texts):,} files begin with a byte order mark: removed")
    crlf = sum(file.crlf for file in texts)
    if crlf and documents != "line":
        _note(f"{crlf:,} of {len(texts):,} files end lines with \\r\\n: kept")
    if long := [file for file in texts if file.longest > LONG]:
        most = max(long, key=lambda file: file.longest)
        _note(f"{len(long):,} of {len(texts):,} files have a line of more than {LONG:,} characters:"
              f" kept; the longest, in {most.name}, has {most.longest:,}")  # fmt: skip
    cut = [file for file in texts if file.n_sections > 1]
    if cut and documents == "file":
        _note(f"{len(cut):,} of {len(texts):,} files are longer than {SECTION:,} bytes: each is a "
              f"document a section, as {cut[0].name}#0 to #{cut[0].n_sections - 1}")  # fmt: skip


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)


# ---------------------------------------------------------------------------- text


@contextmanager
def _unpacked(path: Path) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """Open a file; yield the stream of its text, and the file itself, which knows how far it is."""
    suffix = path.suffix.lower()
    with path.open("rb") as raw:
        try:
            if suffix == ".gz":
                yield cast(BinaryIO, gzip.GzipFile(fileobj=raw)), raw
            else:
                yield _unzst(raw) if suffix == ".zst" else raw, raw
        except (OSError, EOFError, zlib.error) as error:
            if getattr(error, "errno", None):  # the disk's, not the content's
                raise
            raise _Broken(f"data.path: {path} is not a whole {suffix} file: {error}") from None


def _unzst(raw: Any, mode: str = "rb", **_: object) -> BinaryIO:
    import pyarrow  # type: ignore[import-untyped]

    return cast(BinaryIO, io.BufferedReader(pyarrow.CompressedInputStream(raw, "zstd")))


def _sections(stream: BinaryIO) -> Iterator[bytes]:
    """Cut a stream into its sections, with little more than one in memory."""
    held = b""
    inside = SECTION  # bytes of `held` that are surely of this section
    while True:
        held += stream.read(inside + REACH - len(held))
        if not held:
            return
        size = inside + _border(held[inside:])
        yield held[:size]
        inside += SECTION - size
        held = held[size:]


def _border(ahead: bytes) -> int:
    """Say how many of the `REACH` bytes ahead (fewer: it is the end) still belong to a section."""
    for border in _BORDERS:
        if found := border.search(ahead):
            return found.end()
    if len(ahead) < REACH:
        return len(ahead)
    return next((n for n in range(4) if ahead[n] & 0xC0 != 0x80), 0)  # where a character begins


def _decode(file: _File, section: bytes) -> str:
    """Decode the next section of a file, or say what it is instead of UTF-8."""
    zeros = section.count(0) > len(section) // 10  # UTF-16 may well be valid UTF-8
    try:
        text = section.decode()
        if not zeros:
            return text
        place = section.index(0)
    except UnicodeDecodeError as error:
        place = error.start
    encoding = ""
    if section.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "UTF-16"
    elif zeros:
        encoding = "UTF-16LE" if section[1::2].count(0) > section[::2].count(0) else "UTF-16BE"
    elif not re.search(rb"[\x00-\x08\x0e-\x1f\x81\x8d\x8f\x90\x9d]", section):
        encoding = "WINDOWS-1252"
    place += file.borders[-1]
    raise _Broken(
        f"data.path: {file.path} is not UTF-8 (byte {place:,}): save it as UTF-8",
        f"; it looks like {encoding}: iconv -f {encoding} -t UTF-8 OLD > NEW" if encoding else "",
    )


def _texts(file: _File, sections: range, documents: str) -> Iterator[Document]:
    """Yield the documents of some sections of a file."""
    several = file.n_sections > 1
    for number, content in _contents(file, sections):
        name = f"{file.name}#{number}" if several else file.name
        if documents == "file":
            yield Document(name, content.decode())
            continue
        pieces = _lines(content) if documents == "line" else _paragraphs(content)
        for place, piece in enumerate(pieces):
            yield Document(f"{name}{'.' if several else '#'}{place}", piece.decode())


def _contents(file: _File, sections: range) -> Iterator[tuple[int, bytes]]:
    """Yield (number, content) of some sections of a file, without its byte order mark."""
    with _unpacked(file.path) as (stream, _):
        if sections.start:
            stream.seek(file.borders[sections.start])
        for number in sections:
            size = _size(file, range(number, number + 1))
            content = stream.read(size)
            if len(content) < size:
                raise UserError(f"data.path: {file.path} was cut while it was read: run it again")
            yield number, content if number else content.removeprefix(MARK)


def _lines(content: bytes) -> Iterator[bytes]:
    """Yield the lines that are not blank, without their ends."""
    for line in _LINE.finditer(content):
        if line[1].strip():
            yield line[1]


def _paragraphs(content: bytes) -> Iterator[bytes]:
    """Yield what stands between blank lines, without the last line's end."""
    start = stop = None
    for line in _LINE.finditer(content):
        if line[1].strip():
            start = line.start() if start is None else start
            stop = line.end(1)
        elif start is not None:
            yield content[start:stop]
            start = None


# ---------------------------------------------------------------------------- tables


def _rows(path: Path, field: str) -> Iterator[tuple[int, str | None]]:
    """Yield (row, text) from a table, a few rows in memory at a time."""
    start = 0
    for columns, texts in _load_table(path, field):
        if texts is None:
            raise UserError(
                f"data.field={field}: {path} has no such column, but {', '.join(sorted(columns))}"
            )
        for number, text in enumerate(texts, start):
            if text is not None and not isinstance(text, str):
                raise UserError(
                    f"data.field={field}: row {number} of {path} holds {type(text).__name__}, "
                    "not text"
                )
            yield number, text
        start += len(texts)


def quiet_datasets() -> Any:
    """Import `datasets`, which takes seconds; what goes wrong is told by our own lines."""
    import datasets

    datasets.config.TORCH_AVAILABLE = False  # or each process that reads rows imports torch
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    return datasets


def _load_table(path: Path, field: str) -> Iterator[tuple[list[str], list[Any] | None]]:
    """Yield (names of the columns, values of `field`) of a thousand rows at a time."""
    builder = cast(str, _builder(path))
    with _unpacked(path) as (stream, _):
        if not stream.read(1):
            return
    if builder == "parquet" and _packed(path):
        raise _Broken(f"data.path: {path} is compressed twice, a .parquet is already: unpack it")
    import fsspec.compression  # type: ignore[import-untyped]

    fsspec.compression.register_compression("zstd", _unzst, "zst", force=True)
    datasets = quiet_datasets()
    # Without this the text "NA" or "null" in a .csv would be taken for a missing one.
    # Of JSON a megabyte at a time: of the usual ten each process would hold several copies.
    about: dict[str, dict[str, Any]] = {
        "csv": {"keep_default_na": False}, "json": {"chunksize": 1 << 20},
    }  # fmt: skip
    try:
        table = datasets.load_dataset(
            builder, data_files=glob.escape(str(path.resolve())), split="train", streaming=True,
            cache_dir=str(cache_folder() / "datasets"), **about.get(builder, {}),
        )  # fmt: skip
        for batch in table.with_format("arrow").iter(batch_size=1000):
            names = batch.column_names
            yield names, batch[field].to_pylist() if field in names else None
    except Exception as error:  # whatever a parser says of a broken file
        reason = " ".join(str(error).split()) or type(error).__name__
        raise _Broken(f"data.path: {path} cannot be read as {builder}: {reason[:200]}") from error
