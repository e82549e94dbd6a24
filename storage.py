"""Files that are whole or absent: atomic writes, content hashes, the folder of the cache.

A file is written under another name in the same folder, flushed to the disk, and only then given
its own name; a kill, a full disk or a power cut leaves the one before it or none, never half of
one:

    write .NAME.XXXX.part -> fsync -> close -> replace NAME -> fsync the folder

Imports none of the rooms, so that all of them may import it.
"""

import hashlib
import os
import sys
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


def atomic_write(path: Path, chunks: bytes | Iterable[bytes]) -> None:
    """Write `path` completely or not at all; its folder must exist.

    `chunks` may be a generator, so a file larger than memory is written piece by piece. Whatever
    goes wrong, in the disk or in the generator, removes what was begun and goes on to the caller.
    """
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        with part.open("xb") as file:
            for chunk in (chunks,) if isinstance(chunks, bytes) else chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut. Windows cannot open a folder, and keeps names itself."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def exclusive_lock(folder: Path) -> Iterator[None]:
    """Wait until no other process works in `folder`, and keep others waiting; the kernel lets go
    however this process ends. On Windows there is no such lock and none is held."""
    if sys.platform == "win32":
        yield
        return
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"another process works in {folder}: waiting for it ...", file=sys.stderr)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """Hash the content of a file, in pieces; hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def cache_folder() -> Path:
    """Say where downloads and token shards are kept: $BREEZE_CACHE, or the user's cache folder.

    Everything below it can be deleted: it is fetched or computed again.
    """
    if own := os.environ.get("BREEZE_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "breeze"
