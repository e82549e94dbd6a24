"""What a family of torture cases is, and how it is run.

A family damages one kind of thing (a file, a system call, a process) in many distinct ways. Each
case has a key that no other case of the family has, and a failure: None, or one line that says what
broke. `make torture` runs all cases of all families, `make test` a fast slice of each.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple


class Case(NamedTuple):
    """One case that was run."""

    key: str  # distinct within the family; names what was damaged, where and how
    failure: str | None  # None: it held


@dataclass(frozen=True)
class Family:
    """A kind of damage. `cases(folder, fast)` runs the cases and yields each as it ends.

    `folder` is empty, and removed afterwards. With `fast` it runs a slice of the cases, in seconds,
    spread over all kinds, so that each safety line is still needed.
    """

    name: str
    promise: str  # what must hold, in a few words
    cases: Callable[[Path, bool], Iterator[Case]]


@dataclass(frozen=True)
class Outcome:
    """A family's row in the table."""

    cases: int  # distinct keys
    failures: list[Case]
    seconds: float


def run_family(family: Family, folder: Path, fast: bool, until_failure: bool = False) -> Outcome:
    """Run the cases of a family in the empty `folder`; with `until_failure` up to the first."""
    start, keys, failures = time.monotonic(), set(), []
    for case in family.cases(folder, fast):
        assert case.key not in keys, f"{family.name}: {case.key} is counted twice"
        keys.add(case.key)
        if case.failure is not None:
            failures.append(case)
            if until_failure:
                break
    return Outcome(len(keys), failures, time.monotonic() - start)
