"""Folders of checkpoints of which some are damaged or are no files, and commands on odd paths."""

import contextlib
import io
import itertools
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import tiny
from torture.confined import Attempt, confined, in_memory
from torture.family import Case, Family
from torture.hostile_values import TEXTS
from torture.subject import trained

from errors import UserError
from scripts import sample
from training.run_folder import find, newest


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _replaced(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.unlink()
        make(path)

    return damage


DAMAGES: dict[str, Callable[[Path], None]] = {
    "cut": _cut,
    "bit flipped": _flip,
    "empty": lambda path: path.write_bytes(b"") and None,
    "header only": lambda path: path.write_bytes(path.read_bytes()[:9000]) and None,
    "a folder": _replaced(Path.mkdir),
    "a pipe": _replaced(os.mkfifo),
    "a dangling link": _replaced(lambda path: path.symlink_to("nowhere")),
    "a link to itself": _replaced(lambda path: path.symlink_to(path.name)),
    "a link to a device": _replaced(lambda path: path.symlink_to("/dev/zero")),
}


def _damage(run: Path, damaged: Sequence[int], *damages: Callable[[Path], None]) -> None:
    """Damage some checkpoints of a copy, with the kinds in turn."""
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(trained() / "run/checkpoints", run / "checkpoints")
    paths = sorted((run / "checkpoints").iterdir())
    for number, damage in zip(damaged, itertools.cycle(damages)):
        damage(paths[number])


def _recover(run: Path, damaged: Sequence[int]) -> str | None:
    """Return what is wrong with the checkpoint that is found."""
    paths = [run / "checkpoints" / name for name in tiny.saved(trained() / "run")]
    valid = [path for number, path in enumerate(paths) if number not in damaged]
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            found = newest(run / "checkpoints")
    except UserError as error:
        lines = printed.getvalue().splitlines()
        if valid or "none of the 5 checkpoints" not in str(error) or len(lines) != len(paths):
            return f"refused: {error}"
        return None
    if not valid:
        return f"{found} was used, and all are damaged"
    if found is None or found.path != valid[-1]:
        return f"{found and found.path} was used, not {valid[-1]}"
    lines, later = printed.getvalue().splitlines(), paths[paths.index(valid[-1]) + 1 :][::-1]
    said = all(line.startswith("skipped: ") and str(path) in line
               for line, path in zip(lines, later, strict=False))  # fmt: skip
    if len(lines) != len(later) or not said:
        return f"the skipped ones are not named: {lines}"
    with contextlib.redirect_stderr(printed):
        best, last = find(run), find(run, "last")
    if last.path != found.path or best.path not in valid:
        return f"find gives {best.path} and {last.path}"
    return None


@in_memory
def recovery_cases(folder: Path, fast: bool) -> Iterator[Case]:
    """Every set of damaged files among five, with each kind of damage; and kinds mixed."""

    run = folder / "run"

    def attempt(key: str, damaged: Sequence[int], *damages: Callable[[Path], None]) -> Attempt:
        prepare = partial(_damage, run, damaged, *damages)
        return Attempt(key, partial(_recover, run, damaged), 400_000, prepare=prepare)

    def attempts() -> Iterator[Attempt]:
        sets = [s for n in range(1, 6) for s in itertools.combinations(range(5), n)]
        for kind, damage in DAMAGES.items():
            for damaged in sets[-2:] if fast else sets:
                yield attempt(f"{kind}: {damaged}", damaged, damage)
        kinds = itertools.combinations(DAMAGES.values(), 2)
        for number, (first, second) in enumerate(kinds):
            if number == 0 or not fast:
                yield attempt(f"two kinds, pair {number}", (2, 3, 4), first, second)

    def warm() -> None:
        _damage(run, (4,), _cut)
        _recover(run, (4,))

    return confined(attempts(), folder, warm)


# ------------------------------------------------------------------- paths that are no checkpoint


def _sampled(argv: Sequence[str]) -> str | None:
    """Run `scripts.sample`; return what is wrong with the refusal."""
    printed = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    with contextlib.redirect_stderr(printed):
        code = sample.main([*argv, "--prompt", "a", "--max-tokens", "2"])
    printed.seek(0)
    *notes, line = printed.read().split("\n")[:-1]
    if code != 2 or not line.startswith("error: ") or not line.isprintable():
        return f"exit code {code}: {line!r}"
    if not all(note.startswith(("note: ", "skipped: ")) for note in notes):
        return f"more than a line: {notes}"
    return None


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(path.parent)  # the name of a socket has at most 107 bytes
        server.bind(path.name)


NAMES = (
    "run", "a b", "a\nb", "a\rerror: b", "\x1b[31mred", "\udcff\udcfe", "é", "\u202eabc", "x" * 200,
    "step-00000001-0123456789abcdef.safetensors", "step-00000001-0123456789abcdef.sharded",
    f"step-{10**30}-0123456789abcdef.safetensors", "step-0000000٣-0123456789abcdef.safetensors",
    "-name", "--name=x", "{run}", "$HOME", "~", "*", "config.json",
)  # fmt: skip
KINDS: dict[str, Callable[[Path], object]] = {
    "nothing": lambda path: None,
    "a folder": Path.mkdir,
    "a pipe": os.mkfifo,
    "a socket": _socket,
    "an empty file": Path.touch,
    "text": lambda path: path.write_text("x" * 99),
    "a dangling link": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
    "a link to /proc/self/mem": lambda path: path.symlink_to("/proc/self/mem"),
    "a run of nothing": lambda path: (path / "checkpoints").mkdir(parents=True),
    "a run whose checkpoints are a file": lambda path: (
        path.mkdir(), (path / "checkpoints").touch(),
    ),
    "a run whose checkpoints are themselves": lambda path: (
        path.mkdir(), (path / "checkpoints").symlink_to("checkpoints"),
    ),
}  # fmt: skip
PATHS = (
    "/", ".", "..", "/dev/null", "/dev/zero", "/dev/full", "/dev/stdin", "/proc/self/mem", "/proc",
    "/nowhere/x", "x" * 5_000, "a/" * 3_000, "nul\0byte", "/dev/null/x", "~nobody/x", "/proc/1/fd",
    "", " ",
)  # fmt: skip


def _made(path: Path, make: Callable[[Path], object]) -> None:
    """Make something in an empty folder."""
    shutil.rmtree(path.parent, ignore_errors=True)
    path.parent.mkdir()
    make(path)


@in_memory
def odd_path_cases(folder: Path, fast: bool) -> Iterator[Case]:
    """Things of all kinds under all kinds of names, in the place of a run."""

    def attempts() -> Iterator[Attempt]:
        for number, (kind, name) in enumerate(itertools.product(KINDS, NAMES)):
            if (fast and number % 7) or (kind == "a socket" and len(name) > 100):
                continue

            path = folder / "place" / name
            run = partial(_sampled, [str(path)])
            prepare = partial(_made, path, KINDS[kind])
            yield Attempt(f"{kind} named {name[:50]!r}", run, prepare=prepare)
        for path in PATHS:
            yield Attempt(f"path {path[:40]!r} of {len(path)}", partial(_sampled, [path]))
        for which in (*TEXTS, "-1", "best ", "LAST", "99999999999999999999", "1.0", "٣"):
            if which != "3":  # a step that exists
                argv = [str(trained() / "run"), f"--checkpoint={which}"]
                yield Attempt(f"checkpoint {which[:40]!r} of {len(which)}", partial(_sampled, argv))

    os.chdir(folder)
    try:
        yield from confined(attempts(), folder, partial(sample.main, [str(trained() / "run"),
                            "--prompt", "a", "--max-tokens", "2"]))  # fmt: skip
    finally:
        os.chdir(Path(__file__).parents[2])


FAMILIES = [
    Family("damaged folders", "the newest valid one, each skipped one named", recovery_cases),
    Family("odd paths", "refused in one line, exit code 2", odd_path_cases),
]
