"""storage.py: a file is complete or absent, a lock has one holder, the cache finds a folder."""

import errno
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from errors import UserError
from storage import atomic_write, cache_folder, lock, remove_torn_files, sha256_of

ROOT = Path(__file__).parents[2]
HOME_VARIABLES = ("BREEZE_CACHE", "XDG_CACHE_HOME", "HOME")


def test_writes_bytes_and_pieces(tmp_path: Path) -> None:
    """Content of either form of `chunks` that is lost, or another file in the folder."""
    atomic_write(tmp_path / "a", b"one")
    atomic_write(tmp_path / "b", (piece for piece in (b"o", b"", b"ne")))
    assert [file.name for file in sorted(tmp_path.iterdir())] == ["a", "b"]
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == b"one"


def test_a_failing_generator_leaves_the_earlier_file(tmp_path: Path) -> None:
    """An exception while writing (Ctrl-C included) that damages the earlier file."""

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
    """A full disk that is reported only at fsync or rename."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    atomic_write(tmp_path / "a", b"whole")
    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left"):
        atomic_write(tmp_path / "a", b"other")
    assert [file.name for file in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"whole"


def test_order_of_system_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing fsync, which no kill of the process can show.

    The content reaches the disk before the name, and the name before the return: a power cut at any
    point leaves a complete file.
    """
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


def test_torn_files_are_removed_and_no_others(tmp_path: Path) -> None:
    """Unfinished files of killed processes that stay for ever; a file of the user that is lost."""
    (tmp_path / "deep/.c.01234567.part").mkdir(parents=True)  # of `atomic_folder`
    torn = [tmp_path / ".a.01234567.part", tmp_path / "deep/.b.89abcdef.part"]
    torn += [tmp_path / "deep/.c.01234567.part" / name for name in ("c", ".d.01234567.part")]
    kept = [tmp_path / "a", tmp_path / "a.part", tmp_path / ".part.txt", tmp_path / "deep/b"]
    for path in (*torn, *kept):
        path.write_bytes(b"x")
    remove_torn_files(tmp_path)
    assert sorted(tmp_path.rglob("*")) == sorted([*kept, tmp_path / "deep"])


def test_sha256_of_a_file_larger_than_a_piece(tmp_path: Path) -> None:
    """Pieces that are hashed in the wrong order or twice."""
    content = bytes(range(256)) * 10_000
    (tmp_path / "a").write_bytes(content)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(content).hexdigest()


# The lock


def test_a_second_holder_is_refused_until_the_first_is_done(tmp_path: Path) -> None:
    """Two processes that write in one folder; a folder that stays locked."""
    with lock(tmp_path, wait=False):
        with pytest.raises(UserError, match=f"another process works in {tmp_path}") as caught:
            lock(tmp_path, wait=False).__enter__()
        assert caught.value.field == "folder"
    with lock(tmp_path, wait=False):
        pass


def test_waiting_ends_when_the_holder_is_killed(tmp_path: Path) -> None:
    """A lock that outlives its process, or a wait that does not wait."""
    code = (
        "import pathlib, sys, time; from storage import lock\n"
        "with lock(pathlib.Path(sys.argv[1]), wait=True):\n"
        "    print('locked', flush=True); time.sleep(float(sys.argv[2]))"
    )

    def start(seconds: str) -> subprocess.Popen[str]:
        line = [sys.executable, "-c", code, str(tmp_path), seconds]
        pipe = subprocess.PIPE
        return subprocess.Popen(line, stdout=pipe, stderr=pipe, text=True, cwd=ROOT)

    with start("60") as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "locked\n"
        with start("0") as waiting:
            assert waiting.stdout is not None and waiting.stderr is not None
            message = waiting.stderr.readline()
            holder.kill()
            assert waiting.stdout.read() == "locked\n"
    assert message == f"another process works in {tmp_path}: waiting ...\n"


# The cache's folder


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A variable of ours, of the desktop or of the home folder that is ignored."""
    for name in HOME_VARIABLES:
        monkeypatch.setenv(name, str(tmp_path / name))
    assert cache_folder() == tmp_path / "BREEZE_CACHE"
    monkeypatch.delenv("BREEZE_CACHE")
    assert cache_folder() == tmp_path / "XDG_CACHE_HOME/breeze"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == tmp_path / "HOME/.cache/breeze"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HOME", "/dev/null"),
        ("HOME", "FILE"),
        ("HOME", "/proc/1"),  # a folder in which nobody may write, root included
        ("XDG_CACHE_HOME", "/dev/null"),
        ("BREEZE_CACHE", "FILE"),
        ("BREEZE_CACHE", "/proc/breeze"),
        ("BREEZE_CACHE", "~nobody-of-this-name/cache"),
    ],
)
def test_an_unusable_cache_moves_beside_the_runs_with_one_note(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """A traceback because of a home folder that is missing, read-only or no folder."""
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    for each in HOME_VARIABLES:
        monkeypatch.setenv(each, "")
    monkeypatch.setenv(name, str(tmp_path / "file") if value == "FILE" else value)
    expected = tmp_path / "runs/.cache"
    assert cache_folder() == expected and expected.is_dir()
    assert capsys.readouterr().err.startswith(f"note: the cache is in {expected}: ")
    monkeypatch.chdir("/")  # the choice does not depend on where the process is later
    assert cache_folder() == expected and capsys.readouterr().err == ""


def test_a_user_without_a_home() -> None:
    """`RuntimeError: Could not determine home directory.`, in a container without passwd entry."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    variables = {key: text for key, text in os.environ.items() if key not in HOME_VARIABLES}
    code = "import os, pwd, storage; os.setuid(54321); storage.cache_folder()"
    # The folder of pytest's `tmp_path` belongs to root alone.
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        done = subprocess.run(
            [sys.executable, "-c", code], env=variables | {"PYTHONPATH": str(ROOT)}, cwd=name,
            capture_output=True, text=True,
        )  # fmt: skip
        expected = Path(name) / "runs/.cache"
        assert expected.is_dir(), done.stderr
    assert done.returncode == 0
    assert done.stderr.startswith(f"note: the cache is in {expected}: Could not determine home")


def test_no_folder_at_all_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A traceback if the current folder cannot be written either."""
    monkeypatch.setenv("BREEZE_CACHE", "/dev/null/cache")
    (tmp_path / "runs").write_text("a file")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"no cache folder .*: set BREEZE_CACHE to one"):
        cache_folder()
