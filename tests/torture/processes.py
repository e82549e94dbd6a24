"""Several processes train, and one of them or torchrun is killed or told to stop.

Every run must end with the checkpoint of the run of the same processes that nobody disturbed, and
no process may hang. Restarts run under the real torchrun. The other cases start the processes
from a server that has imported torch (tests/ranks.py), with torchrun's variables.

`python -m torture.processes` prints the hashes and the differences of losses to one process.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import ranks
import tiny
from torture.family import Case, Family

ROOT = Path(__file__).resolve().parents[2]
HANG = 60  # seconds
MUCH = ["train.max_steps=18", "train.save_interval=4", "train.eval_interval=9",
        "train.micro_batch_size=2", "train.grad_accum_steps=2",
        "train.keep_checkpoints=3"]  # fmt: skip
# DDP arranges its buckets anew after the first step: a restart must not change a sum of four terms.
# A bucket holds 25 MB; this model has several in its first step only if it is larger than 1 MB.
LARGE = ["model.dim=256", "model.n_heads=4", "model.hidden_dim=512", "model.head_dim=64",
         "train.max_steps=12", "train.save_interval=3", "train.eval_interval=12",
         "train.micro_batch_size=4"]  # fmt: skip


class Hang(Exception):
    """A process did not end in time."""


class Group:
    """The processes of one run, with torchrun's variables and without its restarts."""

    def __init__(self, size: int, words: list[str], printed: Path, restarts: int = 0) -> None:
        self.store = ranks.open_store()
        self.processes = ranks.start(
            size, ranks.train, words, printed, port=self.store.port, restarts=restarts
        )

    def codes(self) -> list[int]:
        """Wait until all have ended; return their exit codes, in order of rank."""
        deadline = time.monotonic() + HANG
        for process in self.processes:
            process.join(max(0.1, deadline - time.monotonic()))
        hanging = [process for process in self.processes if process.is_alive()]
        for process in hanging:
            process.kill()
        if hanging:
            raise Hang(f"{len(hanging)} processes did not end in {HANG} s")
        return [process.exitcode for process in self.processes]


class Torchrun:
    """The real torchrun with its processes, in a session of its own."""

    def __init__(self, size: int, words: list[str], printed: Path, restarts: int = 3) -> None:
        with printed.open("a") as output:
            self.agent = subprocess.Popen(
                [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(size),
                 "--master-port", str(_free_port()), "--monitor-interval", "0.1",
                 "--max-restarts", str(restarts), "train.py", *words],
                cwd=ROOT, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip

    def pids(self) -> dict[int, int]:
        """Return the process of each rank that runs."""
        found = {}
        with suppress(OSError):  # one of them may have just ended
            children = Path(f"/proc/{self.agent.pid}/task/{self.agent.pid}/children").read_text()
            for child in map(int, children.split()):
                variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
                found |= {int(v[5:]): child for v in variables if v.startswith(b"RANK=")}
        return found

    def code(self) -> int:
        """Wait until torchrun has ended; return its exit code."""
        try:
            return self.agent.wait(HANG)
        except subprocess.TimeoutExpired:
            os.killpg(self.agent.pid, signal.SIGKILL)
            self.agent.wait()
            raise Hang(f"torchrun did not end in {HANG} s") from None


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(condition: Callable[[], Any], what: str) -> None:
    """Return when `condition` holds."""
    deadline = time.monotonic() + HANG
    while not condition():
        if time.monotonic() > deadline:
            raise Hang(f"no {what} in {HANG} s")
        time.sleep(0.003)


def steps_done(run: Path) -> int:
    """Return the last step in metrics.jsonl."""
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return json.loads(lines[-1])["step"] if lines and lines[-1].endswith("}") else 0


def undisturbed(folder: Path, text: Path, size: int, more: list[str]) -> list[str]:
    """Return the checkpoints of a run that nobody disturbs."""
    run = folder / "-".join(["run", str(size), *(m.split("=")[1] for m in more)])[:80]
    if not run.exists():
        group = Group(size, tiny.words(run, text, *more), folder / "printed.txt")
        assert group.codes() == [0] * size, (folder / "printed.txt").read_text()[-800:]
    return tiny.saved(run)


def difference(
    run: Path, expected: list[str], printed: Path, was_stopped: bool = False
) -> str | None:
    """Return how the run's folder differs from that of an undisturbed run.

    A run that was stopped has saved one checkpoint more. If it is the best, it is kept in place of
    another, so the two newest are compared.
    """
    found = tiny.saved(run)
    if found[-2:] != expected[-2:] or (found != expected and not was_stopped):
        return f"{found}, not {expected}: {printed.read_text()[-300:]!r}"
    if left := tiny.leftovers(run):
        return f"unfinished files stay: {left}"
    return None


def killed(
    folder: Path,
    text: Path,
    size: int,
    more: list[str],
    who: list[int],
    step: int,
    number: int = signal.SIGKILL,
) -> str | None:
    """Send a signal to some ranks at a step, then start all again as torchrun does."""
    expected = undisturbed(folder.parent, text, size, more)
    run, printed = folder / "run", folder / "printed.txt"
    words = tiny.words(run, text, *more)
    group = Group(size, words, printed)
    wait_for(lambda: steps_done(run) >= step or not group.processes[0].is_alive(), f"step {step}")
    for rank in who:
        os.kill(group.processes[rank].pid, number)
    codes = group.codes()
    if number == signal.SIGKILL:
        if any(codes[rank] != -9 for rank in who) or {0, 2} & set(codes):
            return f"exit codes {codes}: {printed.read_text()[-300:]!r}"
    elif codes != [128 + number] * size and codes != [0] * size:
        return f"exit codes {codes} after signal {number}: {printed.read_text()[-300:]!r}"
    elif codes[0] and tiny.step_of(tiny.saved(run)[-1]) < step:
        return f"the stopped run saved nothing: {tiny.saved(run)}"
    codes = Group(size, ["--resume", *words], printed, restarts=1).codes()
    if codes != [0] * size:
        return f"exit codes {codes} after the restart: {printed.read_text()[-300:]!r}"
    return difference(run, expected, printed, number != signal.SIGKILL)


def restarted(
    folder: Path,
    text: Path,
    size: int,
    more: list[str],
    kills: list[tuple[int, int]],
    expected: list[str] | None = None,
) -> str | None:
    """Kill ranks at steps under the real torchrun, which starts all again by itself."""
    expected = expected or undisturbed(folder.parent, text, size, more)
    run, printed = folder / "run", folder / "printed.txt"
    torchrun = Torchrun(size, tiny.words(run, text, *more), printed)
    for rank, step in kills:
        wait_for(lambda step=step: steps_done(run) >= step, f"step {step}")
        pids = torchrun.pids()
        os.kill(pids[rank], signal.SIGKILL)
        wait_for(
            lambda pids=pids: (
                len(now := torchrun.pids()) == size and not {*now.values()} & {*pids.values()}
            ),
            "restart",
        )
    if code := torchrun.code():
        return f"torchrun: exit code {code}: {printed.read_text()[-300:]!r}"
    return difference(run, expected, printed)


def agent_stopped(
    folder: Path, text: Path, size: int, more: list[str], number: int, step: int
) -> str | None:
    """Send a signal to torchrun itself; then start it again with --resume."""
    expected = undisturbed(folder.parent, text, size, more)
    run, printed = folder / "run", folder / "printed.txt"
    words = tiny.words(run, text, *more)
    torchrun = Torchrun(size, words, printed)
    wait_for(lambda: steps_done(run) >= step, f"step {step}")
    pids = torchrun.pids().values()
    os.kill(torchrun.agent.pid, number)
    code = torchrun.code()
    if code == 0:
        return "torchrun was stopped, and returned 0"
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "end of the processes")
    if number != signal.SIGKILL and tiny.step_of(tiny.saved(run)[-1]) < step:
        return f"nothing was saved: {tiny.saved(run)}"
    if Group(size, ["--resume", *words], printed, restarts=1).codes() != [0] * size:
        return f"the run cannot be resumed: {printed.read_text()[-300:]!r}"
    return difference(run, expected, printed, number != signal.SIGKILL)


def second_trainer(folder: Path, text: Path, more: list[str]) -> str | None:
    """Start the same run twice: the second must be refused, and the first not disturbed."""
    expected = undisturbed(folder.parent, text, 2, more)
    run, printed, refused = folder / "run", folder / "printed.txt", folder / "refused.txt"
    words = tiny.words(run, text, *more)
    first = Group(2, words, printed)
    wait_for(lambda: steps_done(run) >= 2, "step 2")
    codes = Group(2, words, refused).codes()
    if codes[0] != 2 or codes[1] == 0 or "another process works in" not in refused.read_text():
        return f"exit codes {codes}: {refused.read_text()[-300:]!r}"
    if first.codes() != [0, 0]:
        return f"the first run was disturbed: {printed.read_text()[-300:]!r}"
    return difference(run, expected, printed)


def cases(folder: Path, fast: bool) -> Iterator[Case]:
    """Kill each rank at steps spread over the run; signals; torchrun; a second trainer."""
    text = folder / "text.txt"
    text.write_text(tiny.english(20_000), encoding="utf-8")
    os.environ.setdefault("BREEZE_CACHE", str(folder / "cache"))
    for number, (key, case) in enumerate(_fast(text) if fast else _all(text)):
        inner = folder / str(number)
        inner.mkdir()
        try:
            yield Case(key, case(inner))
        except (Hang, AssertionError) as error:
            yield Case(key, f"{type(error).__name__}: {error}")


Named = Iterator[tuple[str, Callable[[Path], str | None]]]


def _fast(text: Path) -> Named:
    """Yield the cases of make test: two processes, two deaths."""
    short = [*MUCH, "train.max_steps=6", "train.eval_interval=6", "train.save_interval=2"]
    yield _disturbed(text, "ddp", short, 2, [0], 3)
    yield _disturbed(text, "fsdp", short, 2, [1], 4)


def _all(text: Path) -> Named:
    """Yield all cases. The steps are drawn from a fixed seed, and differ from each other."""
    draw = random.Random(19)
    for kind in ("ddp", "fsdp"):
        more = [*MUCH, f"train.parallel={kind}"]
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            ranks_told, step = [draw.randrange(2)], draw.randrange(2, 15)
            yield _disturbed(text, kind, MUCH, 2, ranks_told, step, number)
        for step in (1, 8):
            yield _disturbed(text, kind, LARGE, 4, [2], step)
        for size in (2, 4):
            for rank in (0, size - 1):
                for step in sorted(draw.sample(range(1, 15), 2)):
                    yield _disturbed(text, kind, MUCH, size, [rank], step)
        yield _disturbed(text, kind, MUCH, 2, [0, 1], 7)
        yield (
            f"{kind} of 2 under torchrun, kills at 4 and 11",
            partial(restarted, text=text, size=2, more=more, kills=[(0, 4), (1, 11)]),
        )
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
            yield (
                f"{kind} of 2, signal {number} to torchrun",
                partial(agent_stopped, text=text, size=2, more=more, number=number, step=6),
            )
        yield f"{kind}: second trainer", partial(second_trainer, text=text, more=more)
    large = [*LARGE, "train.parallel=ddp"]
    yield (
        "ddp of 4 under torchrun, a larger model, kill 3 at 5",
        partial(restarted, text=text, size=4, more=large, kills=[(3, 5)]),
    )


def _disturbed(
    text: Path, kind: str, more: list[str], size: int, who: list[int], step: int, number: int = 9
) -> tuple[str, Callable[[Path], str | None]]:
    """Return the name of a case of `killed`, and the case."""
    larger = ", a larger model" if more is LARGE else ""
    key = f"{kind} of {size}{larger}: signal {number} to {who} at step {step}"
    more = [*more, f"train.parallel={kind}"]
    return key, partial(killed, text=text, size=size, more=more, who=who, step=step, number=number)


def report() -> None:
    """Print the final checkpoints, and the largest relative differences of losses."""
    os.environ["OMP_NUM_THREADS"] = "1"  # as torchrun sets it: equal bits need equal threads
    long = ["train.max_steps=60", "train.save_interval=10", "train.eval_interval=20",
            "train.micro_batch_size=2", "train.grad_accum_steps=2"]  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="processes-") as name:
        folder = Path(name)
        text = folder / "text.txt"
        text.write_text(tiny.english(20_000), encoding="utf-8")
        os.environ.setdefault("BREEZE_CACHE", str(folder / "cache"))
        alone, printed = folder / "alone", folder / "printed.txt"
        assert Group(1, tiny.words(alone, text, *long), printed).codes() == [0]
        print(f"{'one process':28} {tiny.saved(alone)[-1]}")
        expected = losses(alone)
        for kind in ("ddp", "fsdp"):
            more = [*long, f"train.parallel={kind}"]
            run = folder / f"{kind}-2"
            assert Group(2, tiny.words(run, text, *more), printed).codes() == [0, 0]
            off = max(abs(a / b - 1) for a, b in zip(losses(run), expected, strict=True))
            print(f"{kind + ' 2':28} {tiny.saved(run)[-1]}  losses differ by at most {off:.1e}")
            kills = [(0, 7), (1, 25), (0, 44)]
            disturbed = folder / f"{kind}-2-disturbed"
            disturbed.mkdir()
            failure = restarted(disturbed, text, 2, more, kills, tiny.saved(run))
            last = tiny.saved(disturbed / "run")[-1]
            print(f"{kind + ' 2, 3 deaths of ranks':28} {last}  {failure or 'equal'}")


def losses(run: Path) -> list[float]:
    """Return the losses of training and validation in metrics.jsonl."""
    lines = tiny.measured(run)
    return [line[key] for line in lines for key in ("train_loss", "val_loss") if key in line]


FAMILY = Family("processes", "a dead rank or a signal costs no step and no bit", cases)

if __name__ == "__main__":
    report()
