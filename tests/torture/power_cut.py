"""A power cut after each call of each writer, in every way in which the disk may have kept it.

kill -9 cannot show a missing fsync, because the kernel keeps what was written. Here the calls of a
writer are replayed in a model of a disk that forgets what was not synced (disk_model.py). Each
state that it may leave is made, judged, and written to again.
"""

import random
from collections.abc import Iterator
from pathlib import Path

from torture.disk_model import Disk, State
from torture.family import Case
from torture.faults import cases_of, print_cases
from torture.system_calls import writers
from torture.traced import Traced

MOST = 12  # states that are tried after one call
EVERY = 41  # a fast slice takes each n-th state, and all after the end of a writer


def power_cut(folder: Path, fast: bool) -> Iterator[Case]:
    """Cut the power after each call of each writer."""
    return cases_of("torture.power_cut", folder, fast)


def cases(folder: Path, fast: bool) -> Iterator[Case]:
    """Run the cases in this process, in which faults.c is loaded."""
    draw, n = random.Random(0), 0
    for writer in writers(fast):
        traced = Traced(writer, folder / "files")
        traced.make()
        disk, done = Disk(traced.folder), set()
        for number, call in enumerate(traced.calls, 1):
            disk.apply(call)
            returned = number == len(traced.calls)
            for state in disk.after_a_power_cut(draw, MOST):
                n += 1
                name = (_without_names(state), returned)
                if name in done or (fast and n % EVERY and not returned):
                    continue
                done.add(name)
                key = f"{writer.name}: state {len(done)}, after call {number}, {call.name}"
                yield Case(key, _failure(traced, state, returned and not writer.rebuilt))


def _without_names(state: State) -> tuple[object, ...]:
    """Return the state without the drawn names of unfinished files."""
    return tuple(sorted((path.rpartition(".")[2] == "part", "" if path.endswith(".part") else path,
                         content or b"") for path, content in state.items()))  # fmt: skip


def _failure(traced: Traced, state: State, returned: bool) -> str | None:
    traced.put(state)
    return traced.problem(returned, after_a_power_cut=True) or traced.recover()


if __name__ == "__main__":
    print_cases(cases)
