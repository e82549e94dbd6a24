"""Inject one fault into a system call, and record system calls: the Python side of faults.c.

A process that is started by `cases_of` has faults.c loaded before the C library. In it, `attempt`
forks a child which runs a function with one fault, and `recorded` runs a function and returns the
calls that it made.
"""

import ctypes
import errno
import gc
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from torture.family import Case
from torture.forks import Ended, forked

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SOURCE = HERE / "faults.c"
ERRORS = {name: getattr(errno, name) for name in ("ENOSPC", "EIO", "EACCES")}


class Fault(NamedTuple):
    """What happens at a call: kill, torn, short, or the name of an error.

    If it lasts, each later call fails as well, as on a disk that stays full.
    """

    kind: str
    lasts: bool = False

    def __str__(self) -> str:
        return f"{self.kind} from then on" if self.lasts else self.kind


FAULTS = [
    Fault("kill"), Fault("torn"), Fault("short"), Fault("short", lasts=True),
    *(Fault(name, lasts) for name in ERRORS for lasts in (False, True)),
]  # fmt: skip


class Call(NamedTuple):
    """A recorded call: open, create, truncate, write, fsync, close, rename, unlink, mkdir, rmdir.

    `create` and `truncate` open a file for writing. `content` is what a write writes.
    """

    name: str
    path: str
    second: str  # the target of a rename
    content: bytes


def library() -> Path | None:
    """Build faults.c once for each content; None, with the reason on stderr, if it cannot be."""
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    path = Path(tempfile.gettempdir()) / f"breeze-faults-{os.getuid()}-{digest}.so"
    compiler = shutil.which("cc") or shutil.which("gcc")
    if path.exists():
        return path
    if sys.platform != "linux" or compiler is None:
        print("not run: faults in system calls need Linux and a C compiler (cc)", file=sys.stderr)
        return None
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        built = Path(folder) / "faults.so"
        line = [compiler, "-O1", "-shared", "-fPIC", "-o", str(built), str(SOURCE), "-ldl"]
        done = subprocess.run(line, capture_output=True, text=True)
        if done.returncode:
            print(f"not run: cc cannot build faults.c: {done.stderr[:300]}", file=sys.stderr)
            return None
        built.replace(path)
    return path


def cases_of(module: str, folder: Path, fast: bool) -> Iterator[Case]:
    """Run `python -m MODULE FOLDER [--fast]` with faults.c loaded; yield the cases it prints."""
    shim = library()
    if shim is None:
        return
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    variables = {
        **os.environ, "LD_PRELOAD": str(shim), "PYTHONPATH": paths, "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    line = [sys.executable, "-m", module, str(folder), *(["--fast"] if fast else [])]
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            line, env=variables, cwd=folder, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        assert process.stdout is not None
        for printed in process.stdout:
            yield Case(*json.loads(printed))
        if process.wait():
            errors.seek(0)
            reason = " ".join(errors.read().split())[-500:]
            yield Case("the process that injects", f"ended with {process.returncode}: {reason}")


def print_cases(cases: Callable[[Path, bool], Iterator[Case]]) -> None:
    """Print cases as `cases_of` reads them: the main function of its modules."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what the product prints must not stand between them
    gc.freeze()  # children then copy less memory
    for case in cases(Path(sys.argv[1]), "--fast" in sys.argv):
        print(json.dumps(case), file=out)


def attempt(act: Callable[[], object], below: Path, number: int, fault: Fault) -> Ended:
    """Run `act` in a child process, in which call `number` below a folder meets a fault."""

    def faulty() -> object:
        _set(below, at=number, fault=fault)
        try:
            return act()
        finally:
            _set(None)

    return forked(faulty)


def recorded(act: Callable[[], object], below: Path) -> list[Call]:
    """Run `act` and return the calls that it made below a folder."""
    with tempfile.TemporaryFile() as log:
        _set(below, log=log.fileno())
        try:
            act()
        finally:
            _set(None)
        log.seek(0)
        return list(_parsed(log.read()))


def _parsed(log: bytes) -> Iterator[Call]:
    while log:
        name, path, second, size, log = log.split(b"\0", 4)
        content, log = log[: int(size)], log[int(size) :]
        yield Call(name.decode(), path.decode(), second.decode(), content)


def _set(below: Path | None, at: int = 0, fault: Fault | None = None, log: int = -1) -> None:
    """Set the globals of faults.c; None lets every call pass."""
    shim = ctypes.CDLL(None)
    number = ctypes.c_int.in_dll
    text = (ctypes.c_char * 4096).in_dll(shim, "faults_below")
    text.value = b""
    number(shim, "faults_count").value = 0
    number(shim, "faults_at").value = at
    number(shim, "faults_log").value = log
    if fault is not None:
        number(shim, "faults_lasting").value = fault.lasts
        number(shim, "faults_errno").value = ERRORS.get(fault.kind, 0)
        number(shim, "faults_kind").value = ord("e" if fault.kind in ERRORS else fault.kind[0])
    text.value = str(below).encode() if below is not None else b""
