"""data/sources/files.py: the user's files, unchanged, in chunks; errors are one line.

Tests of the rows of tables are in test_tables.py, of folders and globs in test_paths.py, of kinds
of files in test_kinds.py.
"""

import gzip
import os
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from data.sources import files, texts
from data.sources.files import Files
from data.sources.open import open_source
from errors import UserError


def read(path: Path | str, field: str = "text") -> list[tuple[str, str]]:
    source = open_source("files", path=str(path), field=field)
    return [(document.name, document.text) for document in source.documents()]


def refusal(path: Path | str | None, field: str = "text") -> str:
    with pytest.raises(UserError) as caught:
        list(
            open_source("files", path=None if path is None else str(path), field=field).documents()
        )
    return str(caught.value)


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A folder of files, some of which are not text."""
    folder = tmp_path / "library"
    (folder / "deep").mkdir(parents=True)
    (folder / ".git").mkdir()
    (folder / "b.txt").write_bytes(b"\xef\xbb\xbf b\r\n\tB\r\r\n \n")
    (folder / "a.md").write_bytes("ä".encode())
    (folder / "deep" / "c.txt").write_bytes(b"c")
    (folder / "deep" / "empty.txt").write_bytes(b"")
    (folder / "picture.png").write_bytes(b"\x89PNG")
    (folder / ".git" / "hidden.txt").write_bytes(b"hidden")
    return folder


def test_folder(library: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Sorted, at any depth, unchanged but for the byte order mark; skipped files are reported."""
    expected = [("a.md", "ä"), ("b.txt", " b\r\n\tB\r\r\n \n"), ("deep/c.txt", "c")]
    assert read(library) == expected
    assert capsys.readouterr().err.splitlines() == [
        f"note: left out of {library}: hidden (.git)",
        f"note: {library}: skipped as not text: an image (PNG) (1)",
        "note: 1 of 4 files have no text: skipped",
        "note: 1 of 4 files begin with a byte order mark: removed",
        "note: 1 of 4 files end lines with \\r\\n: kept",
    ]


def test_file_and_glob(library: Path) -> None:
    """A file is read whatever its ending; a glob names files below their common folder."""
    (library / "notes").write_text("n")
    assert read(library / "notes") == [("notes", "n")]
    assert read(library / "**" / "*.txt") == [("b.txt", " b\r\n\tB\r\r\n \n"), ("deep/c.txt", "c")]
    assert read(library / "deep" / "c*") == [("c.txt", "c")]


def test_a_file_may_be_called_like_a_glob(tmp_path: Path) -> None:
    """`[1]` in the name of an existing file is not a pattern."""
    (tmp_path / "a[1].txt").write_text("one")
    (tmp_path / "a[1].jsonl").write_text('{"text": "two"}\n')
    assert read(tmp_path / "a[1].txt") == [("a[1].txt", "one")]
    assert read(tmp_path / "a[1].jsonl") == [("a[1].jsonl#0", "two")]


def test_tables(tmp_path: Path) -> None:
    """A row is a document; empty rows are skipped, but "NA" and "null" are words."""
    (tmp_path / "a.jsonl").write_bytes(
        b'{"text": "one\\r\\n two ", "x": 1}\n{"text": null}\n{"text": ""}\n{"text": "\\u00e4"}\n'
    )
    (tmp_path / "b.csv").write_bytes(b'id,text\n1,NA\n2,"a\r\nb ""q"""\n3,\n4,null\n')
    table = pyarrow.table({"text": ["p1", None, "p2\r\n"]})
    pyarrow.parquet.write_table(table, tmp_path / "c.parquet")
    assert read(tmp_path) == [
        ("a.jsonl#0", "one\r\n two "),
        ("a.jsonl#3", "ä"),
        ("b.csv#0", "NA"),
        ("b.csv#1", 'a\r\nb "q"'),
        ("b.csv#3", "null"),
        ("c.parquet#0", "p1"),
        ("c.parquet#2", "p2\r\n"),
    ]


def test_field_chooses_the_column(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one", "story": "two"}\n')
    assert read(tmp_path, "story") == [("a.jsonl#0", "two")]


def test_reading_tables_writes_only_in_our_cache(tmp_path: Path, own_cache: Path) -> None:
    """What `datasets` writes goes below the cache that the user chose."""
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n')
    read(tmp_path / "a.jsonl")
    assert not own_cache.exists() or {f.name for f in own_cache.iterdir()} == {"datasets"}


def test_documents_can_be_read_again(library: Path) -> None:
    source = open_source("files", path=str(library))
    assert list(source.documents()) == list(source.documents())


def test_fingerprint_follows_content_and_names_only(library: Path, tmp_path: Path) -> None:
    """Moving or touching a corpus changes nothing; a changed byte, name or column does."""
    first = Files(str(library)).fingerprint()
    os.utime(library / "b.txt", (0, 0))
    moved = library.rename(tmp_path / "elsewhere")
    assert Files(str(moved)).fingerprint() == first
    assert Files(str(moved), "story").fingerprint() != first
    (moved / "a.md").rename(moved / "a2.md")
    renamed = Files(str(moved)).fingerprint()
    assert renamed != first
    (moved / "b.txt").write_bytes(b"\xef\xbb\xbf b\r\n\tB\r\r\n \t")
    assert Files(str(moved)).fingerprint() not in (first, renamed)


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (b"", "a.txt", "holds no text: every document is empty"),
        (b"", "a.jsonl", "holds no text: every document is empty"),
        (b"\xef\xbb\xbf", "a.txt", "holds no text"),
        (b"ab\xff", "a.txt", "a.txt is not UTF-8 (byte 2): save it as UTF-8"),
        (b"\xef\xbb\xbfab\xff", "a.txt", "a.txt is not UTF-8 (byte 5)"),
        ("ä".encode("utf-16"), "a.txt", "a.txt is not UTF-8 (byte 0)"),
        (b"\xed\xa0\x80", "a.txt", "a.txt is not UTF-8 (byte 0)"),  # a surrogate
        (
            b'{"b": "x", "a": 1}\n',
            "a.jsonl",
            "{file} has no column text, but b, a: name the column of the text",
        ),
        (b"id,body\n1,x\n", "a.csv", "{file} has no column text, but id, body: "),
        (b'{"text": 3}\n', "a.jsonl", "{file} has no text: a number in column text (1 of 1 rows"),
        (b"\n{oops\n", "a.jsonl", "a.jsonl has no text: not JSON (1 of 1 rows, first: line 2)"),
        (b'{"text": "\\ud800"}\n', "a.jsonl", "has no text: half of a character"),
        (b"PAR1xxxx", "a.parquet", "a.parquet cannot be read as Parquet: "),
        (b"\xff\xfe", "a.csv", "a.csv is not UTF-8 (byte 0): save it as UTF-8; it looks like UTF"),
    ],
)
def test_refused_content(tmp_path: Path, content: bytes, name: str, message: str) -> None:
    """Content that is not text is named with its place."""
    file = tmp_path / name
    file.write_bytes(content)
    assert message.format(file=file) in refusal(file)


def test_refused_paths(tmp_path: Path) -> None:
    """Each path that gives no text has its own reason."""
    assert refusal(None) == "path is missing: give a file, a folder or a glob"
    assert refusal(tmp_path / "no") == f"{tmp_path}/no does not exist: check the spelling"
    assert refusal(tmp_path / "*.txt") == f"{tmp_path}/*.txt matches no file: check the pattern"
    assert refusal(tmp_path) == f"{tmp_path} has no files to read in it"
    assert refusal("/dev/null") == ("/dev/null is not a regular file: text is read from files only")
    os.mkfifo(tmp_path / "pipe.txt")  # opening it would never return
    assert "pipe.txt is not a regular file" in refusal(tmp_path)


def test_compressed(tmp_path: Path) -> None:
    """Text and tables, by the ending in front of .gz."""
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress("ä".encode()))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b'{"text": "one"}\n{"text": "two"}\n'))
    (tmp_path / "c.csv.gz").write_bytes(gzip.compress(b"id,text\n1,three\n"))
    expected = [("a.txt.gz", "ä"), ("b.jsonl.gz#0", "one"), ("b.jsonl.gz#1", "two")]
    assert read(tmp_path) == [*expected, ("c.csv.gz#0", "three")]
    (tmp_path / "d.txt.gz").write_bytes(gzip.compress(b"d" * 99)[:-9])
    assert "is not a complete .gz file" in refusal(tmp_path / "d.txt.gz")


def test_a_broken_file_among_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One file in another encoding does not end the reading of the others, and is reported."""
    for name, content in (("a.txt", b"a"), ("b.txt", b"\xff\xfe"), ("c.txt", b"c")):
        (tmp_path / name).write_bytes(content)
    assert read(tmp_path) == [("a.txt", "a"), ("c.txt", "c")]
    note = capsys.readouterr().err
    assert "b.txt is not UTF-8 (byte 0): save it as UTF-8; it looks like UTF-16: iconv -f" in note


def test_refused_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read everything, so the answer of the system is replaced."""
    (tmp_path / "a.txt").write_text("a")
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert refusal(tmp_path).endswith("a.txt may not be read: change its permissions")


# ---------------------------------------------------------------------------- what a document is


def write_zst(file: Path, content: bytes) -> None:
    with pyarrow.CompressedOutputStream(str(file), "zstd") as stream:
        stream.write(content)


def documents_of(path: Path, documents: str) -> list[tuple[str, str]]:
    source = Files(str(path), documents=documents)
    return [(document.name, document.text) for document in source.documents()]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_and_paragraphs(tmp_path: Path, end: str) -> None:
    """A line is without its end, a paragraph keeps the ends inside it; blank ones are skipped."""
    lines = ["", "  one", "two ", " \t", "", "drei\u2028\x0bä", ""]
    (tmp_path / "a.md").write_bytes("\ufeff".encode() + end.join(lines).encode())
    assert documents_of(tmp_path, "line") == [
        ("a.md#0", "  one"), ("a.md#1", "two "), ("a.md#2", "drei\u2028\x0bä")
    ]  # fmt: skip
    assert documents_of(tmp_path, "paragraph") == [
        ("a.md#0", f"  one{end}two "), ("a.md#1", "drei\u2028\x0bä")
    ]  # fmt: skip


def test_white_space_is_a_document_only_as_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b" \n")
    assert documents_of(tmp_path, "file") == [("a.txt", " \n")]
    with pytest.raises(UserError, match="holds no text"):
        Files(str(tmp_path), documents="line")


def test_what_a_document_is_decides_the_fingerprint(library: Path) -> None:
    assert len({Files(str(library), documents=d).fingerprint() for d in files.DOCUMENTS}) == 3
    with pytest.raises(UserError, match=r"^documents is 'page': one of file, line, paragraph"):
        Files(str(library), documents="page")


# ---------------------------------------------------------------------------- sections and chunks


@pytest.fixture
def small_sections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "SECTION", 32)
    monkeypatch.setattr(texts, "REACH", 16)


BORDERS = {
    "behind the blank lines": (b"a" * 31 + b"b\nc\n \n\nd" + b"e" * 9, 38),
    "behind the line": (b"a" * 33 + b"\nb" + b"c" * 99, 34),
    "not inside \\r\\n": (b"a" * 31 + b"\r\nb" + b"c" * 99, 33),
    "nor where the bytes ahead end": (b"a" * 47 + b"\r\n\r\n" + b"c" * 99, 32),
    "one \\r\\n is no blank line": (b"a" * 33 + b"\r\nb\r\n\r\ncc" + b"c" * 99, 40),
    "old Macs'": (b"a" * 33 + b"\rb" + b"c" * 99, 34),
    "behind a character": (b"a" * 31 + "ä".encode() * 50, 33),
    "of four bytes": (b"a" * 29 + "🙂".encode() * 50, 33),
    "what is left": (b"a" * 40, 40),
}


@pytest.mark.usefixtures("small_sections")
@pytest.mark.parametrize(("content", "border"), BORDERS.values(), ids=BORDERS)
def test_where_a_section_ends(tmp_path: Path, content: bytes, border: int) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    first = next(Files(str(tmp_path)).chunk(0))
    assert first.text.encode() == content[:border]
    assert first.name == ("a.txt" if border == len(content) else "a.txt#0")


@pytest.mark.usefixtures("small_sections")
def test_borders_do_not_drift(tmp_path: Path) -> None:
    """The search for the end of section k starts at (k + 1) * `SECTION`, whatever the others."""
    (tmp_path / "a.txt").write_bytes(b"a" * 40 + b"\n" + b"b" * 23 + b"\n" + b"c" * 20)
    assert [len(document.text) for document in Files(str(tmp_path)).documents()] == [41, 24, 20]


ENDS = ("\n", "\r\n", "\r", "\n\n", "\r\n \r\n")
MIXED = "".join("wörd🙂 " * (n % 9) + str(n) + ENDS[n % 5] for n in range(60)).encode()


@pytest.mark.usefixtures("small_sections")
@pytest.mark.parametrize("documents", files.DOCUMENTS)
def test_sections(tmp_path: Path, documents: str) -> None:
    """Joined, they are the file; a chunk that is read alone, compressed or not, is the same."""
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + MIXED)
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"\xef\xbb\xbf" + MIXED))
    write_zst(tmp_path / "c.txt.zst", b"\xef\xbb\xbf" + MIXED)
    source = Files(str(tmp_path), documents=documents)
    parts = [list(source.chunk(number)) for number in reversed(range(source.n_chunks))][::-1]
    assert [d for part in parts for d in part] == list(source.documents())
    assert source.n_chunks > 20 and all(parts) and len(parts[-1]) == len(parts[-2]) > 20
    per_file = {
        name: [(d.name.removeprefix(name), d.text) for part in parts for d in part
               if d.name.startswith(name)]
        for name in ("a.txt", "b.txt.gz", "c.txt.zst")
    }  # fmt: skip
    assert per_file["a.txt"] == per_file["b.txt.gz"] == per_file["c.txt.zst"]
    names, texts = zip(*per_file["a.txt"], strict=True)
    assert len(set(names)) == len(names) and names[0] == ("#0" if documents == "file" else "#0.0")
    if documents == "file":
        assert "".join(texts).encode() == MIXED
    if documents == "line":
        lines = [line for line in MIXED.splitlines() if line.strip()]
        # A line that is longer than the reach of a border may be cut.
        assert "".join(texts).encode() == b"".join(lines)


@pytest.mark.usefixtures("small_sections")
def test_small_files_share_a_chunk(tmp_path: Path) -> None:
    """Many small files make few chunks, and no chunk is much larger than a section."""
    for number in range(20):
        (tmp_path / f"{number:02}.txt").write_bytes(b"0123456789")
    source = Files(str(tmp_path))
    assert [len(list(source.chunk(number))) for number in range(source.n_chunks)] == [3] * 6 + [2]
    assert [source.chunk_bytes(number) for number in range(7)] == [30] * 6 + [20]


def test_the_size_of_a_section_decides_the_fingerprint(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks of another size, written by an earlier version, must not be used."""
    first = Files(str(library)).fingerprint()
    monkeypatch.setattr(texts, "SECTION", 32)
    assert Files(str(library)).fingerprint() != first


def test_a_file_that_becomes_shorter_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"abc")
    source = Files(str(tmp_path))
    (tmp_path / "a.txt").write_bytes(b"ab")
    with pytest.raises(UserError, match=r"a\.txt became shorter while it was read"):
        list(source.documents())


# ---------------------------------------------------------------------------- reports


def test_a_folder_of_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = pyarrow.table({"text": ["p0", "p1"]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b'{"text": "j0"}\n{"text": "j1"}\n'))
    write_zst(tmp_path / "c.txt.zst", b"c")
    write_zst(tmp_path / "d.jsonl.zst", b'{"text": "z0"}\n')
    write_zst(tmp_path / "e.csv.zst", b'text,id\n"y\r\n0",1\nNA,2\n')
    (tmp_path / "f.txt").write_bytes(b"f\xe9")
    (tmp_path / "g.txt").write_bytes(b"\xef\xbb\xbfg\r\n")
    (tmp_path / "h.txt").write_bytes(b"")
    (tmp_path / "i.jsonl").write_bytes(b"{oops\n")
    write_zst(tmp_path / "j.txt.zst", b"j" * 99)
    (tmp_path / "j.txt.zst").write_bytes((tmp_path / "j.txt.zst").read_bytes()[:-3])
    (tmp_path / "k.parquet.gz").write_bytes(gzip.compress((tmp_path / "a.parquet").read_bytes()))
    source = Files(str(tmp_path))
    printed = capsys.readouterr().err.replace(f"{tmp_path}/", "").splitlines()
    assert [(document.name, document.text) for document in source.documents()] == [
        ("a.parquet#0", "p0"), ("a.parquet#1", "p1"), ("b.jsonl.gz#0", "j0"),
        ("b.jsonl.gz#1", "j1"), ("c.txt.zst", "c"), ("d.jsonl.zst#0", "z0"),
        ("e.csv.zst#0", "y\r\n0"), ("e.csv.zst#1", "NA"), ("g.txt", "g\r\n"),
    ]  # fmt: skip
    assert printed[0] == (
        "note: skipped: f.txt is not UTF-8 (byte 1): save it as UTF-8; it looks like "
        "WINDOWS-1252: iconv -f WINDOWS-1252 -t UTF-8 FILE > CONVERTED"
    )
    assert printed[1] == "note: skipped: i.jsonl has no text: not JSON (1 of 1 rows, first: line 1)"
    assert printed[2].startswith("note: skipped: j.txt.zst is not a complete .zst file: ")
    assert printed[3].startswith("note: skipped: k.parquet.gz is compressed twice")
    assert printed[4:] == [
        "note: 1 of 7 files have no text: skipped",
        "note: 1 of 3 files begin with a byte order mark: removed",
        "note: 1 of 3 files end lines with \\r\\n: kept",
    ]
    assert capsys.readouterr().err == ""  # reading the chunks prints nothing


def test_all_broken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A thousand broken files are not a thousand lines."""
    for number in range(12):
        (tmp_path / f"{number}.txt").write_bytes(b"\xff")
    assert refusal(tmp_path) == f"none of the files of {tmp_path} can be read"
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 11 and said[-1].startswith("note: 2 more files cannot be read")


@pytest.mark.parametrize(
    ("content", "place", "encoding"),
    [
        ("Füße".encode("cp1252"), 1, "WINDOWS-1252"),
        ("abc".encode("utf-16"), 0, "UTF-16"),
        ("Text".encode("utf-16-le"), 1, "UTF-16LE"),  # which is valid UTF-8
        ("Füße".encode("utf-16-be"), 3, "UTF-16BE"),
        (b"\x81\x8d", 0, None),
    ],
)
def test_other_encodings(tmp_path: Path, content: bytes, place: int, encoding: str | None) -> None:
    """If another encoding is likely, the error names it and the command that converts it."""
    (tmp_path / "a.txt").write_bytes(content)
    message = refusal(tmp_path)
    assert f"a.txt is not UTF-8 (byte {place}): save it as UTF-8" in message
    assert message.partition("iconv -f ")[2].partition(" ")[0] == (encoding or "")
    if encoding:
        assert content.decode(encoding)


@pytest.mark.usefixtures("small_sections")
def test_the_place_of_a_bad_byte_counts_from_the_start(tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress("ä".encode() * 50 + b"\xff"))
    assert "a.txt.gz is not UTF-8 (byte 100)" in refusal(tmp_path)


@pytest.mark.usefixtures("small_sections")
def test_long_lines_and_long_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line is measured across sections, in characters."""
    monkeypatch.setattr(files, "LONG_LINE", 90)
    (tmp_path / "a.txt").write_bytes("ä\n".encode() + "ä".encode() * 100 + b"\r\n")
    (tmp_path / "b.txt").write_bytes(b"b" * 90)
    Files(str(tmp_path))
    assert capsys.readouterr().err.splitlines()[1:] == [
        "note: 1 of 2 files have a line of more than 90 characters: kept; the longest, in a.txt, "
        "has 100",
        "note: 2 of 2 files are longer than 32 bytes: each section is a document, as a.txt#0 to #5",
    ]


def test_rows_are_numbered_through(tmp_path: Path) -> None:
    """A table is read a thousand rows at a time."""
    (tmp_path / "a.jsonl").write_bytes(b"".join(b'{"text": "%d"}\n' % n for n in range(2100)))
    assert read(tmp_path) == [(f"a.jsonl#{n}", str(n)) for n in range(2100)]
