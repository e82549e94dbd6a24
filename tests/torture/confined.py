"""Run hostile inputs in a forked child: a crash, a hang, memory or code that runs is a failure.

The parent sends nothing and reads one line of JSON for each attempt. If the child dies or is silent
for too long, the attempt in progress has failed, and a new child continues behind it. In the child

- an audit hook records each event that a file must not cause (`FORBIDDEN`, and writing to a file
  outside of the folder);
- the peak of resident memory is measured for each attempt: at most 3 times the size of the input,
  and `ROOM`;
- the address space ends `SPACE` above what the parent has, so that a huge allocation fails.

Modules that the product imports when they are first needed are imported by a good input before the
first fork (`warm`); otherwise each import would be recorded as code.
"""

import contextlib
import functools
import io
import itertools
import json
import os
import resource
import select
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from torture.family import Case

from errors import UserError

SECONDS = 20.0  # for one attempt; the machine may be shared
ROOM = 64_000_000  # bytes that an attempt may use beside 3 times its input
SPACE = 4_000_000_000  # bytes of address space beside the parent's
BATCH = 400  # attempts for one child
LONGEST_LINE = 4_000  # characters of an error; a path of 1,000 may be in it several times
FORBIDDEN = (
    "exec", "compile", "import", "marshal.", "code.__new__", "pickle.", "os.system", "os.exec",
    "os.posix_spawn", "os.spawn", "os.fork", "subprocess.", "pty.", "socket.", "ctypes.dl",
    "urllib.", "http.", "ftplib.", "smtplib.", "webbrowser.", "os.startfile", "os.putenv",
)  # fmt: skip
REMOVALS = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.chmod",
            "os.truncate", "shutil.")  # fmt: skip
# `training.device` tells the C library to keep freed memory: it looks a function up in it.
ALLOWED = (("ctypes.dlopen", None), ("ctypes.dlsym", "mallopt"))
MEASURING = ("/proc/self/clear_refs", "/proc/self/status")


class Attempt(NamedTuple):
    """One hostile input. `run` returns None, or what broke; it may raise `UserError`."""

    key: str
    run: Callable[[], str | None]
    size: int = 0  # bytes of the input
    names: str = ""  # a text that the error must contain, such as the file's name
    must_refuse: bool = False
    prepare: Callable[[], object] = lambda: None  # run before; what it does is not recorded


def in_memory(
    cases: Callable[[Path, bool], Iterator[Case]],
) -> Callable[[Path, bool], Iterator[Case]]:
    """Run a family in a folder of /dev/shm, if there is one: tens of thousands of small files are
    written several times faster there, and these families are not about disks."""

    @functools.wraps(cases)
    def run(folder: Path, fast: bool) -> Iterator[Case]:
        memory = Path("/dev/shm")
        base = memory if os.access(memory, os.W_OK) else folder
        with tempfile.TemporaryDirectory(prefix="torture-", dir=base) as place:
            yield from cases(Path(place), fast)

    return run


def confined(
    attempts: Iterable[Attempt],
    folder: Path,
    warm: Callable[[], object] = lambda: None,
    one_in: int = 1,
) -> Iterator[Case]:
    """Run the attempts in children that may write to `folder` only; yield each case.

    Of every `one_in` attempts, one is run.
    """
    for codec in (
        "utf-8-sig",
        "utf-16-le",
        "utf-16-be",
        "utf-32-le",
        "utf-32-be",
        "utf-16",
        "utf-32",
    ):
        "".encode(codec)  # `json` imports these when it guesses an encoding
    warm()
    iterator = itertools.islice(attempts, 0, None, one_in)
    while batch := list(itertools.islice(iterator, BATCH)):
        done = 0
        while done < len(batch):
            for case in _in_a_child(batch[done:], folder):
                done += 1
                yield case


def _in_a_child(attempts: list[Attempt], folder: Path) -> Iterator[Case]:
    """Yield the cases of one child, the last of which may have killed it."""
    read, write = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(read)
        try:
            _work(attempts, folder, write)
        finally:
            os._exit(0)
    os.close(write)
    lines = _lines(read)
    try:
        for attempt in attempts:
            line = next(lines, None)
            if line is None:
                os.kill(child, signal.SIGKILL)
                status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                child = 0
                how = "hung" if status == -signal.SIGKILL else f"ended the process: {status}"
                yield Case(attempt.key, how)
                return
            yield Case(*json.loads(line))
    finally:
        os.close(read)
        if child:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _lines(read: int) -> Iterator[str]:
    """Yield the lines of a pipe, until its end or until `SECONDS` without one."""
    pending = b""
    while select.select([read], [], [], SECONDS)[0]:
        chunk = os.read(read, 1 << 16)
        if not chunk:
            return
        *whole, pending = (pending + chunk).split(b"\n")
        yield from (line.decode() for line in whole)


# ------------------------------------------------------------------- in the child


def _work(attempts: list[Attempt], folder: Path, write: int) -> None:
    """Run the attempts; write a line for each."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    sys.stdout = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="replace")
    sys.stderr = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace")
    resource.setrlimit(resource.RLIMIT_AS, (_held("VmSize") + SPACE,) * 2)
    events: list[str] = []
    sys.addaudithook(lambda event, arguments: _record(event, arguments, folder, events))
    for attempt in attempts:
        attempt.prepare()
        before = _reset_peak()
        events.clear()
        failure = outcome(attempt)
        if failure is None and events:
            failure = f"caused {events[0]}"
        extra = _held("VmHWM") - before
        if failure is None and extra > 3 * attempt.size + ROOM:
            failure = f"took {extra / 1e6:.0f} MB for {attempt.size / 1e6:.3f} MB"
        os.write(write, json.dumps([attempt.key, failure]).encode() + b"\n")
        sys.stdout.buffer.truncate(0)
        sys.stderr.buffer.truncate(0)


def outcome(attempt: Attempt) -> str | None:
    """Run one attempt: None if the input was used or refused in one line, else what broke."""
    start = time.monotonic()
    try:
        failure = attempt.run()
    except UserError as error:
        return _badly_said(str(error), attempt.names)
    except BaseException as error:
        return f"{type(error).__name__}: {error}"[:300]
    if time.monotonic() - start > SECONDS:
        return "took too long"
    if failure is None and attempt.must_refuse:
        return "was accepted"
    return failure


def _badly_said(message: str, names: str) -> str | None:
    """Return what is wrong with the message of an error, or None."""
    if not message or len(message) > LONGEST_LINE:
        return f"the error has {len(message):,} characters: {message[:100]}"
    if names not in message:
        return f"the error does not name {names}: {message[:200]}"
    return None


def _record(event: str, arguments: tuple[Any, ...], folder: Path, events: list[str]) -> None:
    """Note an event that a file must not cause."""
    if event == "open":
        path, _, flags = arguments
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        if writes and str(path) not in MEASURING and not _is_inside(path, folder):
            events.append(f"open {path!r} for writing")
    elif event.startswith(REMOVALS):
        place = arguments[-1] if event in ("os.remove", "os.rmdir") else -1
        above = f"{Path(f'/proc/self/fd/{place}').readlink()}/" if place >= 0 else ""
        paths = [path for path in arguments if isinstance(path, str | bytes | Path)]
        if not all(_is_inside(above + os.fsdecode(path), folder) for path in paths):
            events.append(f"{event} {arguments}"[:200])
    elif event.startswith(FORBIDDEN) and (event, arguments[-1]) not in ALLOWED:
        events.append(f"{event} {arguments}"[:200])


def _is_inside(path: Any, folder: Path) -> bool:
    return isinstance(path, str | bytes | Path) and os.fsdecode(path).startswith(str(folder))


def _reset_peak() -> int:
    """Start to measure the peak again; return the bytes held now."""
    with contextlib.suppress(OSError):  # a container may forbid it
        Path(MEASURING[0]).write_text("5")
    return _held("VmRSS")


def _held(what: str) -> int:
    """Return a number of /proc/self/status, in bytes."""
    with Path(MEASURING[1]).open("rb") as file:
        for line in file:
            if line.startswith(what.encode()):
                return int(line.split()[1]) * 1024
    raise AssertionError(what)
