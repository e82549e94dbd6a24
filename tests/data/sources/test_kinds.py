"""data/sources/kinds.py: text, rows or neither; and what a separator does to text."""

import gzip
import io
import lzma
import tarfile
import zipfile
from pathlib import Path

import pytest

from data.sources import texts
from data.sources.files import Files
from errors import UserError


def read(path: Path, separator: str | None = None) -> list[tuple[str, str]]:
    source = Files(str(path), separator=separator)
    return [(document.name, document.text) for document in source.documents()]


def refusal(path: Path, separator: str | None = None) -> str:
    with pytest.raises(UserError) as caught:
        read(path, separator)
    return str(caught.value).replace(f"{path.parent}/", "")


def zipped() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("word/document.xml", "<w:t>text</w:t>")
    return stream.getvalue()


def tarred() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        member = tarfile.TarInfo("a.txt")
        member.size = 4
        archive.addfile(member, io.BytesIO(b"text"))
    return stream.getvalue()


# ---------------------------------------------------------------------------- not text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.zip", zipped(), "is a zip archive, not text: unpack it and name the folder"),
        ("a.docx", zipped(), "is a Word document, not text: save it as plain text (.txt, UTF-8)"),
        ("a.xlsx", zipped(), "is an Excel table, not text: save it as .csv, in UTF-8"),
        ("a.epub", zipped(), "is an e-book (EPUB), not text: convert it to plain text"),
        ("a.pdf", b"%PDF-1.7\n1 0 obj", "is a PDF document, not text: extract its text"),
        ("a.txt", b"%PDF-1.7\n1 0 obj", "is a PDF document, not text: extract its text"),
        ("a.doc", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "is an old Office document, not text"),
        ("a.rtf", b"{\\rtf1\\ansi text}", "is a rich text (RTF) document, not text"),
        ("a.tar", tarred(), "is a tar archive, not text: unpack it"),
        ("a.tar.gz", gzip.compress(tarred(), mtime=0), "is a tar archive, not text: unpack it"),
        ("a", gzip.compress(b"a", mtime=0), "is a gzip file, not text: give it the ending .gz"),
        ("a.txt.xz", lzma.compress(b"a"), "is an xz file, not text: unpack it"),
        ("a.png", b"\x89PNG\r\n\x1a\n", "is an image (PNG), not text"),
        ("a.exe", b"\x7fELF\x02\x01\x01\0", "is a program (ELF), not text"),
        ("a.db", b"SQLite format 3\0", "is an SQLite database, not text"),
        ("a.gif", b"GIF89a\0\1", "is an image (GIF), not text"),
        ("a.bin", bytes(range(1, 128)) + b"\0\0\0text", "is a binary file, not text"),
        ("a.txt", b"\0" * 100, "is a binary file, not text"),
        ("a.jsonl", zipped(), "is a zip archive, not text"),
    ],
    ids=lambda value: value if isinstance(value, str) else "content",
)
def test_the_error_names_the_kind_of_file(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    assert refusal(tmp_path / name).startswith(f"{name} {message}")


@pytest.mark.parametrize("text", ["BZh, he said", "ID3 is a tag", "GIF89 is old", "PK", "%PDF", ""])
def test_text_may_begin_like_a_binary_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.txt").write_text(text + "\n")
    assert read(tmp_path / "a.txt") == [("a.txt", text + "\n")]


def test_a_folder_of_many_kinds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All text is read, whatever its ending; what is skipped is counted by kind."""
    contents = {
        "LICENSE": b"free", "a.HTML": b"<p>a</p>", "b.py": b"b\n", "c.rst": b"c", "d.txt": b"d",
        "e.json": b'[{"text": "e0"}, {"text": "e1"}]', "f.tsv": b"id\ttext\n0\tf\n",
        "g.ndjson": b'{"text": "g"}\n', "h.png": b"\x89PNG", "i.png": b"\x89PNG", "j.zip": zipped(),
        "k.md": b"",
    }  # fmt: skip
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    assert read(tmp_path) == [
        ("LICENSE", "free"), ("a.HTML", "<p>a</p>"), ("b.py", "b\n"), ("c.rst", "c"),
        ("d.txt", "d"), ("e.json#0", "e0"), ("e.json#1", "e1"), ("f.tsv#0", "f"),
        ("g.ndjson#0", "g"),
    ]  # fmt: skip
    assert capsys.readouterr().err.splitlines() == [
        f"note: {tmp_path}: skipped as not text: an image (PNG) (2), a zip archive (1)",
        "note: 1 of 9 files have no text: skipped",
        "note: 4 of 9 files are read as plain text (.html: 1, .py: 1, .rst: 1, no ending: 1)",
    ]


# ---------------------------------------------------------------------------- a separator


END = "<|endoftext|>"


def test_a_separator_splits_text_files(tmp_path: Path) -> None:
    """Only the separator is removed; white space alone is not a document; rows are not split."""
    text = f"one\n{END}\n two{END}{END} \n{END}three é"
    (tmp_path / "a.txt").write_text(text)
    (tmp_path / "b.jsonl").write_text(f'{{"text": "x{END}y"}}\n')
    (tmp_path / "c.txt").write_text("c")
    assert read(tmp_path, END) == [
        ("a.txt#0", "one\n"), ("a.txt#1", "\n two"), ("a.txt#2", "three é"),
        ("b.jsonl#0", f"x{END}y"), ("c.txt#0", "c"),
    ]  # fmt: skip
    assert read(tmp_path)[0] == ("a.txt", text)
    assert Files(str(tmp_path)).fingerprint() != Files(str(tmp_path), separator=END).fingerprint()


@pytest.mark.parametrize("section", [101, 150, 1000])
def test_sections_end_at_separators(
    tmp_path: Path, section: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large file is cut into sections, of which none cuts a document."""
    monkeypatch.setattr(texts, "SECTION", section)
    monkeypatch.setattr(texts, "REACH", 100)
    documents = [f"story {n}\n\n" + "é" * (n % 30) + "\nend" for n in range(100)]
    (tmp_path / "a.txt").write_text(END.join(documents))
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(END.join(documents).encode()))
    for name in ("a.txt", "a.txt.gz"):
        source = Files(str(tmp_path / name), separator=END)
        chunks = [list(source.chunk(number)) for number in range(source.n_chunks)]
        assert [document.text for chunk in chunks for document in chunk] == documents
        names = [document.name for chunk in chunks for document in chunk]
        assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("separator", "documents", "message"),
    [
        ("", "file", "separator is empty: name the text between documents, or null"),
        ("###", "file", "separator is '###', which no text file of "),
        ("b", "line", "documents is line and separator is 'b': set only one of them"),
    ],
)
def test_a_separator_without_effect_is_refused(
    tmp_path: Path, separator: str, documents: str, message: str
) -> None:
    (tmp_path / "a.txt").write_text("abc")
    with pytest.raises(UserError) as caught:
        Files(str(tmp_path), documents=documents, separator=separator)
    assert str(caught.value).startswith(message)
