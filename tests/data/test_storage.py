"""storage.py: a file is whole or absent."""

import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage import atomic_write, cache_folder, sha256_of


def test_writes_bytes_and_pieces(tmp_path: Path) -> None:
    """Both forms of `chunks` give their content, and nothing else stays in the folder."""
    atomic_write(tmp_path / "a", b"one")
    atomic_write(tmp_path / "b", (piece for piece in (b"o", b"", b"ne")))
    assert [file.name for file in sorted(tmp_path.iterdir())] == ["a", "b"]
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == b"one"


def test_a_failing_generator_leaves_the_earlier_file(tmp_path: Path) -> None:
    """An exception in the middle (Ctrl-C included) must not tear what was there."""

    def broken() -> Iterator[bytes]:
        yield b"half"
        raise KeyboardInterrupt

    atomic_write(tmp_path / "a", b"whole")
    with pytest.raises(KeyboardInterrupt):
        atomic_write(tmp_path / "a", broken())
    assert [file.name for file in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"whole"


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failing_disk_leaves_the_earlier_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """A full disk may speak up only at fsync or rename."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    atomic_write(tmp_path / "a", b"whole")
    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left"):
        atomic_write(tmp_path / "a", b"other")
    assert [file.name for file in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"whole"


def test_order_of_system_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Content reaches the disk before the name, and the name before the return: a power cut at any
    point leaves a whole file. No kill of the process could show a missing fsync."""
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def traced_fsync(descriptor: int) -> None:
        calls.append("fsync folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "fsync")  # noqa: PTH112
        fsync(descriptor)

    def traced_replace(*names: str) -> None:
        calls.append("replace")
        replace(*names)

    monkeypatch.setattr(os, "fsync", traced_fsync)
    monkeypatch.setattr(os, "replace", traced_replace)
    atomic_write(tmp_path / "a", b"whole")
    assert calls == ["fsync", "replace", "fsync folder"]


def test_sha256_of_a_file_larger_than_a_piece(tmp_path: Path) -> None:
    """The pieces must join to the hash of the whole."""
    content = bytes(range(256)) * 10_000
    (tmp_path / "a").write_bytes(content)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own variable wins, then the desktop's, then the home folder's."""
    monkeypatch.setenv("BREEZE_CACHE", "/one")
    monkeypatch.setenv("XDG_CACHE_HOME", "/two")
    monkeypatch.setenv("HOME", "/three")
    assert cache_folder() == Path("/one")
    monkeypatch.delenv("BREEZE_CACHE")
    assert cache_folder() == Path("/two/breeze")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path("/three/.cache/breeze")
