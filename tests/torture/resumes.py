"""Exact resume: stopped after any step, a run goes on as if it had not been stopped.

Each setup is trained twice: once undisturbed, and once stopped after every step by a signal in the
middle of a micro-batch, and resumed. Three things must be equal: weights and moments after each
step, hashed in memory, the name of the last checkpoint, which carries its SHA-256, and the logs.
"""

import contextlib
import hashlib
import io
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tiny
import torch
from torture.family import Case, Family
from torture.setups import BASE, SETUPS, Setup, write_texts

import start
import train
from configs.load import load_config
from run import TrainingRun
from training.choices import SCHEDULES
from training.schedule import lr_ratio

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TRAIN_STEP, LOSS = train.train_step, TrainingRun.loss


class Stop(NamedTuple):
    """A signal in a micro-batch (from 0) of the update after which the run must stop."""

    step: int
    micro_batch: int
    number: int


class Watched:
    """Training in this process: sends a signal, and hashes weights and moments after each step."""

    def __init__(self) -> None:
        self.digests: dict[int, str] = {}
        self._stop: Stop | None = None
        self._micro_batch = 0
        self.last_line = ""  # printed

    def train(self, line: Sequence[str], stop: Stop | None = None, option: str = "--resume") -> int:
        """Start or resume a run; return the exit code."""
        self._stop = stop
        printed = io.StringIO()
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.redirect_stdout(printed))
            stack.enter_context(contextlib.redirect_stderr(printed))
            stack.enter_context(replaced(train, "train_step", self._train_step))
            stack.enter_context(replaced(TrainingRun, "loss", self._loss()))
            # Measured at every start, printed, and used for nothing but printed numbers.
            stack.enter_context(replaced(start, "matmul_flops_per_s", lambda *_: 1e9))
            code = train.main([*filter(None, [option]), *line])
        self.last_line = printed.getvalue().strip().rpartition("\n")[2]
        return code

    def _train_step(self, run: TrainingRun, *rest: Any) -> tuple[float, float]:
        self._micro_batch = 0
        result = TRAIN_STEP(run, *rest)
        self.digests[run.step + 1] = digest(run)
        return result

    def _loss(self) -> Any:
        def loss(run: TrainingRun, *rest: Any) -> torch.Tensor:
            stop = self._stop
            if stop and torch.is_grad_enabled():
                if (run.step + 1, self._micro_batch) == (stop.step, stop.micro_batch):
                    os.kill(os.getpid(), stop.number)
                self._micro_batch += 1
            return LOSS(run, *rest)

        return loss


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Replace an attribute inside the context."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def digest(run: TrainingRun) -> str:
    """Hash all weights and moments, without the code that writes checkpoints."""
    result = hashlib.sha256()
    for name, tensor in (*run.model.named_parameters(), *sorted(run.optimizer.moments().items())):
        result.update(name.encode())
        result.update(tensor.detach().numpy().tobytes())
    return result.hexdigest()


def stopped_at_every_step(
    setup: Setup, folder: Path, only: Sequence[int] | None = None
) -> Iterator[Case]:
    """Stop a run after every step, or `only` some, and compare it with the undisturbed one."""
    more = setup.settings(folder.parent)
    text = setup.text(folder.parent)
    whole, parts = folder / "whole", folder / "parts"
    undisturbed, watched = Watched(), Watched()
    code = undisturbed.train(tiny.words(whole, text, *more))
    assert code == 0, f"{setup.name}: {undisturbed.last_line}"
    line, end = tiny.words(parts, text, *more), tiny.step_of(tiny.saved(whole)[-1])
    accumulated = load_config(line[0], line[1:]).train.grad_accum_steps
    for step in only or range(1, end):
        stop = Stop(step, step % accumulated, STOPPING[step % len(STOPPING)])
        resumed, code = bool(watched.digests), watched.train(line, stop)
        where = f"{signal.Signals(stop.number).name} in micro-batch {stop.micro_batch}"
        key = f"{setup.name}: {where} of step {step}"
        yield Case(key, _difference(stop, code, parts, watched, undisturbed, resumed))
        if code == 2:
            break  # refused: the later stops would be refused as well
    yield Case(f"{setup.name}: to the end", _at_the_end(watched.train(line), parts, whole))
    steps = dict(watched.digests)
    yield Case(f"{setup.name}: again at the end", _at_the_end(watched.train(line), parts, whole))
    tiny.last(parts).unlink()  # as damaged: its steps are trained and logged again
    yield Case(f"{setup.name}: without the last checkpoint",
               _at_the_end(watched.train(line), parts, whole))  # fmt: skip
    yield Case(
        f"{setup.name}: each step once",
        None if steps == undisturbed.digests == watched.digests else "other weights in a step",
    )


def _difference(
    stop: Stop, code: int, run: Path, watched: Watched, undisturbed: Watched, resumed: bool
) -> str | None:
    """Return what is wrong with a run that was stopped; None if nothing is."""
    if code != 128 + stop.number:
        return f"it ended with {code}, not with {128 + stop.number}"
    if (step := tiny.step_of(tiny.saved(run)[-1])) != stop.step:
        return f"the last checkpoint is of step {step}"
    if resumed and len(tiny.saved(run)) < 2:
        return "the checkpoint before was deleted: damage to the last one would lose the run"
    for done, value in sorted(watched.digests.items()):
        if value != undisturbed.digests[done]:
            return f"other weights or moments after step {done}"
    return None


def _at_the_end(code: int, run: Path, whole: Path) -> str | None:
    if code != 0:
        return f"it ended with {code}"
    if tiny.saved(run)[-1] != tiny.saved(whole)[-1]:
        return f"{tiny.saved(run)[-1]}, not {tiny.saved(whole)[-1]}"
    if tiny.measured(run) != tiny.measured(whole):
        return "other metrics"
    if (run / "samples.txt").read_bytes() != (whole / "samples.txt").read_bytes():
        return "other samples"
    return None


LENGTH = 8  # steps of a run whose max_steps is changed


def lengths(
    folder: Path, schedules: Sequence[str], to: Sequence[int], stops: Sequence[int]
) -> Iterator[Case]:
    """Stop a run, change max_steps and train to the end. If the learning rates of the steps done
    are those of the new length, it must end as a run of the new length from the beginning, and
    otherwise it must not: then the comparison can see a difference."""
    text = folder / "text.txt"
    for schedule in schedules:
        more = [f"train.schedule={schedule}", "train.warmup_steps=2", "train.eval_interval=4"]
        options: dict[str, Any] = {"schedule": schedule, "warmup_steps": 2, "min_lr_ratio": 0.1}
        for length in to:
            whole, changed = folder / f"{schedule}-{length}", f"train.max_steps={length}"
            assert Watched().train(tiny.words(whole, text, *more, changed)) == 0
            for step in stops:
                run, number = folder / f"{schedule}-{length}-{step}", signal.SIGTERM
                line = tiny.words(run, text, *more, f"train.max_steps={LENGTH}")
                stopped = Watched().train(line, Stop(step, 0, number))
                before = tiny.last(run).name
                codes = stopped, Watched().train(tiny.words(run, text, *more, changed))
                key = f"{schedule}: {LENGTH} steps become {length} after step {step}"
                if codes != (128 + number, 2 if step > length else 0):
                    yield Case(key, f"it ended with {codes[0]}, then with {codes[1]}")
                elif step >= length:  # refused, or nothing left to do
                    yield Case(key, None if tiny.last(run).name == before else "it was trained on")
                else:
                    rates = [
                        [lr_ratio(k, max_steps=n, **options) for k in range(step)]
                        for n in (LENGTH, length)
                    ]
                    same = tiny.last(run).name == tiny.last(whole).name
                    what = "the same" if same else "other"
                    yield Case(key, None if same == (rates[0] == rates[1]) else f"{what} bytes")


CHANGED = {
    "model": "model.hidden_dim=96", "tokenizer": "tokenizer.vocab_size=350",
    "length of sequences": "data.seq_len=16", "optimizer": "train.optimizer=adamw",
}  # fmt: skip


def refusals(folder: Path) -> Iterator[Case]:
    """Go on with another model, tokenizer, text or optimizer, and start without --resume: each is
    refused, and the run's folder does not change."""
    text, other, run = folder / "text.txt", folder / "other.txt", folder / "refusing"
    first, second, *rest = text.read_text()
    other.write_text("".join((second, first, *rest)))  # the same characters, the same tokenizer
    settings = [*BASE, "train.max_steps=4"]
    line = tiny.words(run, text, *settings)
    assert Watched().train(line) == 0
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    changes = {name: [*line, setting] for name, setting in CHANGED.items()}
    changes["text"] = tiny.words(run, other, *settings)
    for name, changed in changes.items():
        yield Case(f"another {name}", _refused(Watched().train(changed), before, run))
    code = Watched().train(line, option="")
    yield Case("without --resume", _refused(code, before, run))


def _refused(code: int, before: dict[Path, bytes], run: Path) -> str | None:
    now = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    if code != 2:
        return f"it ended with {code}"
    return None if now == before else "it changed files of the run"


def cases(folder: Path, fast: bool) -> Iterator[Case]:
    """Resume runs of all setups at every step; with `fast` two of them at a few steps."""
    with write_texts(folder, with_base=not fast):
        yield from refusals(folder)
        if fast:
            for name, only in (("fast 1", (2, 4)), ("fast 2", (3, 7))):
                (setup,) = (each for each in SETUPS if each.marked == name)
                yield from stopped_at_every_step(setup, folder / name, only)
            yield from lengths(folder, ["wsd"], [10], [5])
            yield from lengths(folder, ["cosine"], [3], [4])
            return
        yield from lengths(folder, SCHEDULES, [6, 12], range(1, LENGTH))
        for number, setup in enumerate(SETUPS):
            if reason := setup.refusal():
                print(f"left out: {setup.name}: {reason}", file=sys.stderr)
                continue
            yield from stopped_at_every_step(setup, folder / f"{number}")


RESUMES = Family(
    "exact resume", "a run that was stopped ends with the bytes of one that was not", cases
)
