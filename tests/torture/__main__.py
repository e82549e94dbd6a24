"""Run the families of torture: `python -m torture [FAMILY ...] [--fast]`, with tests/ on the path.

Prints a table: family, distinct cases, failures, seconds. Returns 1 if a case failed. Each family
runs in a process of its own, two at a time.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from torture.families import FAMILIES
from torture.family import run_family

ROOT = Path(__file__).resolve().parents[2]
SHOWN = 5  # failures printed of each family


def main() -> int:
    """Run the families that are named, or all."""
    parser = argparse.ArgumentParser(prog="python -m torture", description=__doc__)
    names = [family.name for family in FAMILIES]
    parser.add_argument("families", nargs="*", metavar="FAMILY", help=", ".join(names))
    parser.add_argument("--fast", action="store_true", help="a slice of each, as in make test")
    parser.add_argument("--json", action="store_true", help="run one family in this process")
    arguments = parser.parse_args()
    if unknown := set(arguments.families) - set(names):
        parser.error(f"no such family: {', '.join(sorted(unknown))}")
    chosen = arguments.families or names
    if arguments.json:
        (family,) = (family for family in FAMILIES if family.name == chosen[0])
        with tempfile.TemporaryDirectory(prefix="torture-") as folder:
            outcome = run_family(family, Path(folder), arguments.fast)
        print(json.dumps([outcome.cases, outcome.failures[:SHOWN], len(outcome.failures)]))
        return 0
    start = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        rows = list(pool.map(lambda name: _in_a_process(name, arguments.fast), chosen))
    return _report(chosen, rows, time.monotonic() - start)


def _in_a_process(name: str, fast: bool) -> tuple[int, list[list[str]], int, float]:
    """Return the distinct cases, the first failures, their number and the seconds of a family."""
    start = time.monotonic()
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "-m", "torture", name, "--json", *(["--fast"] if fast else [])],
        env={"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": paths},
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    seconds = time.monotonic() - start
    print(f"{name}: {seconds:.0f} s", file=sys.stderr, flush=True)
    if done.returncode:
        reason = " ".join(done.stderr.split())[-500:]
        return 0, [["the family itself", f"exit code {done.returncode}: {reason}"]], 1, seconds
    cases, shown, failures = json.loads(done.stdout.splitlines()[-1])
    return cases, shown, failures, seconds


def _report(names: list[str], rows: list[tuple[int, list[list[str]], int, float]], s: float) -> int:
    """Print the table and the first failures. Returns the exit code."""
    promises = {family.name: family.promise for family in FAMILIES}
    print(f"{'family':24} {'cases':>8} {'failures':>9} {'seconds':>8}  what must hold")
    for name, (cases, _, failures, seconds) in zip(names, rows, strict=True):
        print(f"{name:24} {cases:>8,} {failures:>9,} {seconds:>8.1f}  {promises[name]}")
    failed = sum(row[2] for row in rows)
    print(f"{'total':24} {sum(row[0] for row in rows):>8,} {failed:>9,} {s:>8.1f}")
    for name, (_, shown, _, _) in zip(names, rows, strict=True):
        for key, failure in shown:
            print(f"{name}: {key}: {failure}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
