"""System calls that fail: each call of each writer gets each fault.

A file must be the earlier or the complete one, an error must be reported as `OSError` or
`UserError`, no unfinished file may stay, and the same writer must succeed afterwards.
"""

from collections.abc import Iterator
from pathlib import Path

from torture.family import Case
from torture.faults import ERRORS, FAULTS, Call, Fault, attempt, cases_of, print_cases
from torture.forks import Ended
from torture.traced import Traced
from torture.writers import LIGHT, Writer

EVERY = 61  # a fast slice takes each n-th case, and all torn lines


def system_calls(folder: Path, fast: bool) -> Iterator[Case]:
    """Put each fault into each call of each writer."""
    return cases_of("torture.system_calls", folder, fast)


def cases(folder: Path, fast: bool) -> Iterator[Case]:
    """Run the cases in this process, in which faults.c is loaded."""
    n = 0
    for writer in writers(fast):
        traced = Traced(writer, folder / "files")
        for number, call in enumerate(traced.calls, 1):
            for fault in faults_at(number, call, writer.slow):
                n += 1
                if not fast or n % EVERY == 0 or (fault.kind == "torn" and writer.appended):
                    key = f"{writer.name}: call {number}, {call.name}: {fault}"
                    yield Case(key, _failure(traced, number, fault))


def faults_at(number: int, call: Call, few: bool) -> Iterator[Fault]:
    """Yield the faults of a call; with `few` one error only, each call another one."""
    errors = [fault for fault in FAULTS if fault.kind in ERRORS]
    for fault in FAULTS:
        if fault in errors:
            if not few or fault == errors[number % len(errors)]:
                yield fault
        elif fault.kind == "kill" or call.name == "write":
            yield fault


def writers(fast: bool) -> Iterator[Writer]:
    """Yield the writers; those that need torch last, so that the others fork a small process."""
    yield from LIGHT
    if not fast:
        from torture.writers_of_weights import HEAVY

        yield from HEAVY


def _failure(traced: Traced, number: int, fault: Fault) -> str | None:
    traced.make()
    ended = attempt(lambda: traced.writer.write(traced.folder), traced.folder, number, fault)
    problem = _wrong_end(traced, fault, ended) or traced.problem(returned=ended.code == 0)
    if problem is None and ended.code >= 0 and not fault.lasts:
        torn = [path.name for path in traced.folder.rglob("*.part")]
        problem = f"it left {torn[0]}" if torn else None
    return problem or traced.recover()


def _wrong_end(traced: Traced, fault: Fault, ended: Ended) -> str | None:
    """Return what is wrong with how a writer ended."""
    if fault.kind in ("kill", "torn"):
        return None if ended.code == -9 else f"it was not killed: {ended.code} {ended.printed}"
    if fault.kind == "short" and ended.code != 0:
        return f"a short write is no error: {ended.code} {ended.printed}"
    if fault.kind in ERRORS and ended.code not in (0, 2):
        return f"not an error that is reported in one line: {ended.printed}"
    return None


if __name__ == "__main__":
    print_cases(cases)
