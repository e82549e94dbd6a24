"""A power cut after each call of each writer, in every way in which the disk may have kept it.

kill -9 cannot show a missing fsync, because the kernel keeps what was written. Here the calls of a
writer are replayed in a model of a disk that forgets what was not synced (disk_model.py). Each
state that it may leave is made, judged, and written to again.
"""

import ast
import random
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath

import tiny
from torture.disk_model import Disk, State
from torture.family import Case
from torture.faults import Call, cases_of, print_cases, recorded
from torture.forks import forked
from torture.system_calls import writers
from torture.traced import Traced, put

from training.run_folder import newest

MOST = 12  # states that are tried after one call of a writer
MOST_OF_A_RUN = 3  # the same of a training run, which takes longer
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
    if not fast:
        yield from _of_a_run(folder)


def _of_a_run(folder: Path) -> Iterator[Case]:
    """Cut the power after each call of a training run, and resume it."""
    from torture.tiny_runs import whole

    undisturbed, root, log = whole(), folder / "disk", folder / "calls"
    root.mkdir()
    run = root / "run"
    act = partial(undisturbed.act, run)
    ended = forked(
        lambda: log.write_bytes(repr(list(map(tuple, recorded(act, root)))).encode()) and 0
    )
    assert ended.code == 0, ended.printed
    calls = [Call(*call) for call in ast.literal_eval(log.read_text())]
    shutil.rmtree(run)
    disk, draw, done, saved = Disk(root), random.Random(0), set(), 0
    for number, call in enumerate(calls, 1):
        disk.apply(call)
        for state in disk.after_a_power_cut(draw, MOST_OF_A_RUN):
            if (name := (_without_names(state), saved)) in done:
                continue
            done.add(name)
            put(root, state)
            kept = _newest_step(run)
            problem = f"step {saved} had been saved, and {kept} is left" if kept < saved else None
            ended = forked(act)
            if ended.code or tiny.last(run).name != undisturbed.checkpoints[-1]:
                problem = problem or f"resumed: exit code {ended.code}: {ended.printed[-300:]}"
            yield Case(f"a run: state {len(done)}, after call {number}, {call.name}", problem)
        if call.name == "unlink" or (call.name == "create" and "metrics" in call.path):
            saved = max(saved, _newest_step_in(disk.now()))  # `save` had returned before


def _newest_step(run: Path) -> int:
    checkpoints = run / "checkpoints"
    found = newest(checkpoints) if checkpoints.is_dir() else None
    return found.step if found else 0


def _newest_step_in(state: State) -> int:
    names = [PurePosixPath(path).name for path in state]
    return max((tiny.step_of(name) for name in names if name.startswith("step-")), default=0)


def _without_names(state: State) -> tuple[object, ...]:
    """Return the state without the drawn names of unfinished files."""
    return tuple(sorted((path.rpartition(".")[2] == "part", "" if path.endswith(".part") else path,
                         content or b"") for path, content in state.items()))  # fmt: skip


def _failure(traced: Traced, state: State, returned: bool) -> str | None:
    put(traced.folder, state)
    return traced.problem(returned, after_a_power_cut=True) or traced.recover()


if __name__ == "__main__":
    print_cases(cases)
