"""Files that are complete or absent: atomic writes, content hashes, locks, the cache's folder.

A file is written under another name in the same folder, flushed to the disk, and renamed last. A
kill, a full disk or a power cut leaves the earlier file or none, never a torn one:

    write .NAME.XXXX.part -> fsync -> close -> replace NAME -> fsync the folder

`atomic_folder` does the same with a folder of several files.

This file imports none of the rooms, so that every room may import it.
"""

import hashlib
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from errors import UserError

CACHE_BESIDE_RUNS = Path("runs/.cache")  # used if the user's own cache folder is not writable


def atomic_write(path: Path, chunks: bytes | Iterable[bytes]) -> None:
    """Write `path` completely or not at all; its folder must exist.

    `chunks` may be a generator, so that a file larger than memory is written piece by piece. Any
    exception, of the disk or of the generator, removes the unfinished file and propagates.
    """
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        with part.open("xb") as file:
            for chunk in (chunks,) if isinstance(chunks, bytes) else chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)  # a failed write or fsync names no file
        part.unlink(missing_ok=True)
        raise
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `path` at the end, with all its files, or is removed.

    The parent folder must exist. Raises `UserError` about the field `out` if `path` exists and is
    not an empty folder, if its parent is missing, or if it has no name. Any exception removes the
    unfinished folder and propagates.
    """
    if not path.name:
        raise UserError(f"{path} is the folder where you are: name one that will be made", "out")
    if path.is_symlink() or (path.exists() and (not path.is_dir() or any(path.iterdir()))):
        raise UserError(f"{path} exists and is not an empty folder: choose another name", "out")
    if not path.parent.is_dir():
        raise UserError(f"{path}: the folder {path.parent} does not exist: create it", "out")
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    part.mkdir()
    try:
        yield part
        part.replace(path)  # an empty folder is replaced, one with files is not
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    sync_folder(path.parent)


def remove(path: Path) -> None:
    """Delete a file, or a folder with all that is in it. The folder is renamed first: a kill leaves
    it whole, or as a torn one, which `remove_torn_files` deletes."""
    if not path.is_dir():
        path.unlink()
        return
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    path.rename(part)
    shutil.rmtree(part)


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it that are missing, so that a power cut does not undo it.

    Files in it survive a power cut only if its own name does. An existing folder is no error.
    """
    missing = {path for path in folder.parents if not path.exists()}
    folder.mkdir(parents=True, exist_ok=True)
    for path in (folder, *missing):
        sync_folder(path.parent)


def remove_torn_files(folder: Path) -> None:
    """Delete the unfinished files and folders that a killed process left in `folder` or below it.

    Hold the folder's lock: another process may be writing such a file.
    """
    for part in list(folder.rglob(".*.part")):
        if part.is_dir():
            shutil.rmtree(part)
        else:
            part.unlink(missing_ok=True)  # it may have lain in such a folder


def sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut. Windows cannot open a folder and needs no such call."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def lock(folder: Path, *, wait: bool) -> Iterator[None]:
    """Hold an exclusive lock on `folder`; the system releases it when this process ends.

    If another process holds it: prints a message and waits if `wait` is true, otherwise raises
    `UserError` about the field `folder`. The lock is on the empty file `.lock`, which stays. On
    Windows nothing is locked.
    """
    with (folder / ".lock").open("wb") as file:
        if sys.platform != "win32":
            import fcntl  # imported here, because Windows lacks this module

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not wait:
                    raise UserError(
                        f"another process works in {folder}: wait until it ends, stop it, or "
                        "choose another folder",
                        field="folder",
                    ) from None
                print(f"another process works in {folder}: waiting ...", file=sys.stderr)
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def sha256_of(path: Path) -> str:
    """Hash the content of a file, in pieces; hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def cache_folder() -> Path:
    """Return the folder for downloads and token shards: $BREEZE_CACHE, or the user's cache folder.

    Its content can be deleted: it is downloaded or computed again. If the folder cannot be made or
    written, `runs/.cache` in the current folder is used, with one note. Raises `UserError` if that
    cannot be written either.
    """
    configured, xdg = os.environ.get("BREEZE_CACHE"), os.environ.get("XDG_CACHE_HOME")
    try:
        if configured:
            return _writable(Path(configured).expanduser())
        return _writable((Path(xdg) if xdg else Path.home() / ".cache") / "breeze")
    except (OSError, RuntimeError) as error:  # RuntimeError: this user has no home folder
        reason = error
    try:
        folder = _writable(CACHE_BESIDE_RUNS.absolute())
    except OSError as error:
        raise UserError(
            f"no cache folder can be written ({reason}; {error}): set BREEZE_CACHE to one that can"
        ) from None
    print(f"note: the cache is in {folder}: {reason}", file=sys.stderr)
    os.environ["BREEZE_CACHE"] = str(folder)  # one note only, also from child processes
    return folder


def _writable(folder: Path) -> Path:
    """Return `folder`, made if it is missing. Raises `OSError` if no file can be written in it."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        return folder
