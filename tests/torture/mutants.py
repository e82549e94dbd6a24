"""Break the safety lines of the product one by one: `python -m torture.mutants [FAMILY ...]`.

Each line of `torture.safety_lines` is changed in a copy of the tree. Its family must fail there:
its fast slice, or else its full run. So no safety line can be lost without a failing case. Without
a change, the fast slice must hold. Prints a table: line, family, the case that failed, seconds.
Returns 1 if a change was not noticed. Two copies are tried at a time.
"""

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from torture.families import FAMILIES
from torture.family import run_family
from torture.safety_lines import SAFETY_LINES, Mutant

ROOT = Path(__file__).resolve().parents[2]
FAST_LIMIT, FULL_LIMIT = 90, 400  # seconds; a slice that takes longer says nothing


class Verdict(NamedTuple):
    """What a family said of a tree."""

    caught_by: str | None  # the first case that failed
    slice_name: str  # fast or full
    seconds: float


def main() -> int:
    """Try all mutants, or those of the families that are named."""
    parser = argparse.ArgumentParser(prog="python -m torture.mutants", description=__doc__)
    parser.add_argument("families", nargs="*", metavar="FAMILY")
    parser.add_argument("--here", metavar="fast|full", help="run one family until it fails, here")
    arguments = parser.parse_args()
    known = {family.name for family in FAMILIES}
    needed = arguments.families or sorted({mutant.family for mutant in SAFETY_LINES})
    if missing := sorted(set(needed) - known):
        parser.error(f"no such family: {', '.join(missing)}")
    if arguments.here:
        print(json.dumps(first_failure(arguments.families[0], arguments.here == "fast")))
        return 0
    mutants = [mutant for mutant in SAFETY_LINES if mutant.family in needed]
    start = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        failing = set()
        for name, verdict in zip(needed, pool.map(try_unchanged, needed), strict=True):
            if verdict.caught_by:
                print(f"{name} fails without a change, so it is left out: {verdict.caught_by}")
                failing.add(name)
        mutants = [mutant for mutant in mutants if mutant.family not in failing]
        verdicts = []
        for mutant, verdict in zip(mutants, pool.map(try_mutant, mutants), strict=True):
            verdicts.append(verdict)
            print(row(mutant, verdict), flush=True)
    survivors = sum(verdict.caught_by is None for verdict in verdicts)
    seconds = time.monotonic() - start
    print(f"{len(mutants)} safety lines broken, {survivors} not noticed, {seconds:.0f} s")
    return 1 if survivors or failing else 0


def first_failure(name: str, fast: bool) -> str | None:
    """Run a family in this process until a case fails; return that case."""
    (family,) = (family for family in FAMILIES if family.name == name)
    with (
        tempfile.TemporaryDirectory(prefix="torture-") as folder,
        contextlib.redirect_stdout(io.StringIO()),  # the caller reads the last line
    ):
        outcome = run_family(family, Path(folder), fast, until_failure=True)
    return ": ".join(map(str, outcome.failures[0])) if outcome.failures else None


def try_unchanged(name: str) -> Verdict:
    """Run the fast slice of a family in a copy of the tree."""
    with copied() as tree:
        return verdict_of(tree, name, "fast", FAST_LIMIT)


def try_mutant(mutant: Mutant) -> Verdict:
    """Break one line in a copy of the tree; run its family there."""
    with copied() as tree:
        path = tree / mutant.file
        text = path.read_text(encoding="utf-8")
        assert text.count(mutant.line) == 1, f"{mutant.file}: {mutant.line}"
        path.write_text(text.replace(mutant.line, mutant.instead), encoding="utf-8")
        fast = verdict_of(tree, mutant.family, "fast", FAST_LIMIT)
        if fast.caught_by is not None:
            return fast
        full = verdict_of(tree, mutant.family, "full", FULL_LIMIT)
        return full._replace(seconds=fast.seconds + full.seconds)


@contextlib.contextmanager
def copied() -> Iterator[Path]:
    """Copy all files that git tracks, as they are now, into a folder that is removed afterwards."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True
    ).stdout
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        for name in filter(None, os.fsdecode(listed).split("\0")):
            target = Path(folder) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
        yield Path(folder)


def verdict_of(tree: Path, name: str, which: str, limit: int) -> Verdict:
    """Run a family in a tree until it fails, in a process of its own."""
    start = time.monotonic()
    paths = os.pathsep.join([str(tree), str(tree / "tests")])
    process = subprocess.Popen(
        [sys.executable, "-m", "torture.mutants", name, "--here", which],
        env={"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": paths}, cwd=tree, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        out, errors = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)  # with the children that the family started
        process.communicate()
        return Verdict(None, f"{which}, no end", time.monotonic() - start)
    caught_by = json.loads(out.splitlines()[-1]) if process.returncode == 0 else None
    if process.returncode:
        caught_by = f"the family itself: {(errors.strip().splitlines() or ['?'])[-1]}"
    return Verdict(caught_by, which, time.monotonic() - start)


def row(mutant: Mutant, verdict: Verdict) -> str:
    """Return a row of the table."""
    line = " ".join(mutant.line.split())
    found = verdict.caught_by or f"NOT NOTICED ({verdict.slice_name})"
    return (
        f"rule {mutant.rule:>2}  {mutant.file:26} {line[:60]:60} {mutant.family:20} "
        f"{verdict.slice_name:4} {verdict.seconds:6.1f} s  {' '.join(found.split())[:110]}"
    )


if __name__ == "__main__":
    sys.exit(main())
