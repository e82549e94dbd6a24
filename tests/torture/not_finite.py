"""NaN and infinity in a loss, a gradient, a weight or a moment, at any step of a real training.

The run must end with exit code 3 and name the step. Nothing is saved from then on, what was saved
is intact, and `--resume` continues to the bytes of an undisturbed run.
"""

import contextlib
import functools
import io
import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torture.confined import Attempt, confined, in_memory
from torture.family import Case, Family
from torture.subject import SMALLER, STEPS, trained

import start
import train
from run import TrainingRun
from training.evaluation import Score

SETUPS = {
    "muon": [],
    "adamw": ["train.optimizer=adamw", "train.lr=0.003"],
    "muon, accumulated": ["train.micro_batch_size=2", "train.grad_accum_steps=2"],
    "adamw, accumulated": ["train.optimizer=adamw", "train.lr=0.003", "train.micro_batch_size=2",
                           "train.grad_accum_steps=2"],
    "muon, bf16": ["train.precision=bf16"],
    "muon, not clipped": ["train.grad_clip=0"],
}  # fmt: skip
VALUES = (math.nan, math.inf, -math.inf)
TRAIN_STEP, LOSS, SCORE = train.train_step, TrainingRun.loss, TrainingRun.score
EVALUATED = (1, 3, 4)  # the updates after which the validation loss is measured


def _started(run: Path, setup: str, resume: bool) -> tuple[int, list[str]]:
    """Train, or resume; return the exit code and the lines on stderr."""
    printed = io.StringIO()
    begin = tiny.resume if resume else tiny.start
    with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(io.StringIO()):
        code = begin(run, trained() / "text.txt", *SMALLER, "train.native=false", *SETUPS[setup])
    return code, printed.getvalue().splitlines()


@functools.cache
def undisturbed(setup: str, folder: Path) -> tuple[Sequence[str], Sequence[Any]]:
    """Return the checkpoints and the metrics of a run without a fault."""
    run = folder / f"undisturbed {setup}"
    code, lines = _started(run, setup, resume=False)
    assert code == 0, lines
    return tiny.saved(run), tiny.measured(run)


@contextlib.contextmanager
def fault(what: str, name: str, value: float, step: int) -> Iterator[None]:
    """Put `value` into a loss, or into the gradient, weight or moment of the parameter `name`; or
    into the validation loss after that step."""

    def loss(run: TrainingRun, inputs: Any, targets: Any) -> Any:
        result = LOSS(run, inputs, targets)
        if run.step != step or not torch.is_grad_enabled():
            return result
        if what == "loss":
            return result * value
        parameter = dict(run.model.named_parameters())[name]
        handle = parameter.register_hook(lambda g: (handle.remove(), _with(g.clone(), value))[1])
        return result

    def train_step(run: TrainingRun, *rest: Any) -> tuple[float, float]:
        result = TRAIN_STEP(run, *rest)
        if run.step == step:
            places = dict(run.model.named_parameters()) | run.optimizer.moments()
            _with(places[name].detach(), value)
        return result

    def score(run: TrainingRun, split: str) -> Score:
        result = SCORE(run, split)
        return replace(result, nats=value) if run.step == step + 1 else result

    if what == "val_loss":
        TrainingRun.score = score  # type: ignore[method-assign]
    elif what in ("loss", "gradient"):
        TrainingRun.loss = loss  # type: ignore[method-assign]
    else:
        train.train_step = train_step
    try:
        yield
    finally:
        TrainingRun.loss, TrainingRun.score = LOSS, SCORE  # type: ignore[method-assign]
        train.train_step = TRAIN_STEP


def _with(tensor: Any, value: float) -> Any:
    """Put `value` in the place of a tensor's last number."""
    tensor.view(-1)[-1] = value
    return tensor


def _wrong(folder: Path, setup: str, what: str, name: str, value: float, step: int) -> str | None:
    """Train with a fault, then resume without it; return what is wrong."""
    run = folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    checkpoints, metrics = undisturbed(setup, folder)
    with fault(what, name, value, step):
        code, lines = _started(run, setup, resume=False)
    if code != 3 or not lines[-1].startswith("error: training diverged at step "):
        return f"exit code {code}: {lines[-1:]}"
    named = int(lines[-1].removeprefix("error: training diverged at step ").split(" ")[0])
    if named not in (step, step + 1):  # an update that is done belongs to the next step
        return f"step {named} is named, not {step}"
    if tiny.saved(run) != list(checkpoints[:step]):
        return f"saved: {tiny.saved(run)}"
    logged = (run / "metrics.jsonl").exists()  # the first line makes the file
    for line in tiny.measured(run) if logged else ():
        if not all(math.isfinite(number) for number in line.values() if type(number) is float):
            return f"in metrics.jsonl: {line}"
    code, lines = _started(run, setup, resume=True)
    if code != 0 or tiny.saved(run) != list(checkpoints):
        return f"resumed with exit code {code} to {tiny.saved(run)[-1:]}: {lines[-1:]}"
    return None if tiny.measured(run) == metrics else "the metrics of the resumed run are others"


def _faults(setup: str, folder: Path, fast: bool) -> Iterator[tuple[str, str, float, int]]:
    """Yield what, where, value and step of the faults of a setup.

    Of most setups one fault in five is taken, and all of the validation loss.
    """
    steps = (3,) if fast else range(STEPS)
    undisturbed(setup, folder)
    names = tensor_names(tiny.last(folder / f"undisturbed {setup}"))
    faults: list[tuple[str, str, float, int]] = [
        ("loss", "", value, step) for step in steps for value in VALUES
    ]
    for number, name in enumerate(names):
        value, step = VALUES[number % 3], steps[number % len(steps)]
        if name.startswith("moments/"):
            faults.append(("moment", name.removeprefix("moments/"), value, step))
        else:
            faults += [(what, name, value, step) for what in ("gradient", "weight")]
    few = 12 if fast else 1 if setup in ("muon", "adamw, accumulated") else 5
    yield from faults[::few]
    evaluated = (3,) if fast else EVALUATED
    yield from (
        ("val_loss", "", value, step) for value, step in zip(VALUES, evaluated, strict=False)
    )


def tensor_names(path: Path) -> list[str]:
    """Return the names of the tensors in a checkpoint, without the tokenizer."""
    from torture.bad_checkpoints import tensors_of

    return sorted(name for name in tensors_of(path.read_bytes()) if name != "tokenizer")


@in_memory
def cases(folder: Path, fast: bool) -> Iterator[Case]:
    """All faults of all setups."""
    trained()
    setups = ["muon"] if fast else list(SETUPS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BREEZE_CACHE", str(tiny.own_cache(folder)))  # a training may write there
        patch.setattr(start, "matmul_flops_per_s", lambda *_: 1e12)  # it takes longer than the rest
        yield from _cases(folder, fast, setups)


def _cases(folder: Path, fast: bool, setups: Sequence[str]) -> Iterator[Case]:
    for setup in setups:
        undisturbed(setup, folder)

    def attempts() -> Iterator[Attempt]:
        for setup in setups:
            for what, name, value, step in dict.fromkeys(_faults(setup, folder, fast)):
                run = partial(_wrong, folder, setup, what, name, value, step)
                key = f"{setup}: {value} in {what} {name} at step {step}"
                yield Attempt(key, run, 10_000_000)

    warm = partial(_wrong, folder, setups[0], "loss", "", math.nan, 3)
    yield from confined(attempts(), folder, warm)


FAMILIES = [Family("not finite", "exit code 3, nothing saved, resumed to equal bytes", cases)]
