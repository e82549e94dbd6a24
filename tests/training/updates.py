"""What one process of several computes: gradients, updates and scores, for comparison with one.

Each process builds the run as train.py does and takes the real `train_step`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tiny
import torch

from arguments import open_initial, trained_settings
from configs.load import load_config
from run import TrainingRun
from start import start_run
from train import train_step
from training.distributed import World, whole
from training.evaluation import evaluate

SHAPES = {  # (micro_batch_size, grad_accum_steps)
    "whole": (8, 1), "halves": (4, 2), "quarters": (2, 4), "eighths": (1, 8),
    "a rest": (3, 4),
}  # fmt: skip
MODEL = ["model.dim=36", "model.head_dim=18", "model.n_layers=3", "model.sink_logits=true"]
PARTS = {  # of the model; 2 sink logits and 36 rows, so 4 processes get unequal parts
    "plain": MODEL,
    "tied": [*MODEL, "model.tie_embeddings=true", "model.sink_token=true"],
    "documents": [*MODEL, "data.document_mask=true", "model.attention_sinks=2"],
}


class Update(NamedTuple):
    """What a process saw: the loss, the norm and the whole gradients of the first step, and the
    whole weights after all steps."""

    loss: float
    norm: float
    gradients: dict[str, np.ndarray]
    weights: dict[str, np.ndarray]


class Descent:
    """An optimizer that shows each factor in a gradient: w <- w - 0.1 g."""

    def __init__(self, run: TrainingRun) -> None:
        self.parameters = [p for p in run.model.parameters() if p.requires_grad]

    @torch.no_grad()
    def step(self, ratio: float) -> None:
        for weight in self.parameters:
            weight.sub_(weight.grad, alpha=0.1 * ratio)
            weight.grad = None


@contextmanager
def precise() -> Iterator[None]:
    """Build models in double precision, so that rounding hides nothing."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def started(folder: Path, text: Path, kind: str, world: World, *more: str) -> TrainingRun:
    """Return a new run. Noise is added to its weights: some start at zero."""
    line = tiny.words(folder, text, "train.grad_clip=0", f"train.parallel={kind}", *more)
    if any("init_from" in word for word in more):  # the tokenizer and the model are its
        line = [word for word in line if not word.startswith(("tokenizer.", "model."))]
    folder.mkdir(parents=True, exist_ok=True)
    config = load_config(line[0], line[1:], trained_settings)
    run = start_run(config, None, open_initial(config), world)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in run.model.parameters():
            if weight.requires_grad:
                noise = torch.randn(weight.shape, dtype=weight.dtype) / 10
                weight.add_(_divided(noise, weight))
    return run


def _divided(noise: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return `noise` in the parts of `like`. The library's own function, not the product's."""
    if not hasattr(like, "device_mesh"):
        return noise
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(noise, like.device_mesh, like.placements)


def batch(run: TrainingRun, rows: int, is_marked: bool, step: int = 0) -> np.ndarray:
    """Return sequences; with `is_marked` rows with prompts of unequal length, one is a whole
    prompt, and the last quarter of the batch has no target that counts."""
    tokens = np.asarray(run.corpus.tokens("train")[step * 500 :][: rows * 33])
    sequences = tokens.reshape(rows, 33).astype("int64")
    if is_marked:
        for row, start in enumerate((1, 30, 12, 33, 5, 2)):
            sequences[row, 1:start] = ~sequences[row, 1:start]
        sequences[rows * 3 // 4 :, 1:] = ~sequences[rows * 3 // 4 :, 1:]
    return sequences


def update(
    run: TrainingRun, shape: tuple[int, int], is_marked: bool, steps: int, keep: bool
) -> Update:
    """Take some updates, each from another batch; `keep` the gradients of the first."""
    micro, accumulated = shape
    settings = replace(run.config.train, micro_batch_size=micro, grad_accum_steps=accumulated)
    run.config = replace(run.config, train=settings)
    gradients: dict[str, np.ndarray] = {}
    optimizer_step = run.optimizer.step

    def step(ratio: float) -> None:
        if keep and not gradients:
            for name, weight in run.model.named_parameters():
                if weight.grad is not None:
                    gradients[name] = whole(weight.grad).numpy().copy()
        optimizer_step(ratio)

    run.optimizer.step = step
    seen = [
        train_step(run, batch(run, micro * accumulated, is_marked, number), 0.7)
        for number in range(steps)
    ]
    run.optimizer.step = optimizer_step
    weights = {n: whole(w.detach()).numpy().copy() for n, w in run.model.named_parameters()}
    return Update(*seen[0], gradients, weights)


OPTIMIZERS = {  # 3 matrices of a shape, so processes get unequal numbers of them
    "adamw": [*MODEL, "train.optimizer=adamw", "train.lr=0.01"],
    "muon": [*MODEL, "train.optimizer=muon"],
    "muon, tied": [*PARTS["tied"], "train.optimizer=muon"],
    "adamw, lora": ["train.optimizer=adamw", "train.lr=0.01", "train.lora_rank=3"],
}


def learned(folder: Path, text: Path, trained: Path, kinds: Sequence[str]) -> dict[Any, Update]:
    """Return the updates of each real optimizer, in double precision, with clipping. Adapters are
    trained for the model of the run `trained`."""
    world, found = World.of_environment(), {}
    with world.joined(), precise():
        for kind in kinds:
            for name, more in OPTIMIZERS.items():
                initial = [f"train.init_from={trained}"] if "lora" in name else []
                run = started(folder, text, kind, world, *more, *initial, "train.grad_clip=0.5")
                for optimizer, _ in run.optimizer.optimizers:
                    if hasattr(optimizer, "dtype"):  # Muon's products
                        optimizer.dtype = torch.float64
                found[kind, name] = update(run, SHAPES["quarters"], True, 3, True)
    return found


def scores(folder: Path, text: Path, kinds: Sequence[str]) -> list[float]:
    """Return the losses of the validation split, and of 1 to 9 made-up batches of unequal size."""
    world, found = World.of_environment(), []
    with world.joined():
        for kind in kinds:
            for rows in (1, 7, 100):  # 1: many batches; 100: fewer than processes
                run = started(folder, text, kind, world, *MODEL, f"train.eval_batch_size={rows}")
                score = run.score("val")
                found += [score.loss, score.n_tokens]
        for n in range(1, 10):
            batches = [_made_up(number) for number in range(n)]
            score = evaluate(_mean_target, batches, 1, torch.device("cpu"), world)
            found += [score.loss, score.n_tokens]
    return found


def _made_up(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return inputs, and targets of which some do not count."""
    targets = np.arange(2 * (number + 1)).reshape(2, -1) * 7 % 23 - 3
    return targets, targets


def _mean_target(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    counted = targets >= 0
    return (targets * counted).sum() / counted.sum().clamp(min=1)


def order(folder: Path, text: Path, more: Sequence[str]) -> list[np.ndarray]:
    """Return this process's sequences of some updates."""
    world = World.of_environment()
    with world.joined():
        run = started(folder, text, "ddp", world, "train.micro_batch_size=8", *more)
        batches = run.batches()
        return [np.asarray(world.share(batches.batch(step))) for step in (0, 1, 7, 300)]


def descents(
    folder: Path, text: Path, part: str, kinds: Sequence[str], shapes: Sequence[str]
) -> dict[Any, Update]:
    """Return the updates of plain descent for some shapes of a batch, plain and with prompts, in
    double precision."""
    world, found = World.of_environment(), {}
    with world.joined(), precise():
        for kind in kinds:
            run = started(folder, text, kind, world, *PARTS[part])
            before = {n: w.detach().clone() for n, w in run.model.named_parameters()}
            run.optimizer = Descent(run)
            for shape in shapes:
                for is_marked in (False, True):
                    with torch.no_grad():
                        for name, weight in run.model.named_parameters():
                            weight.copy_(before[name])
                    found[kind, shape, is_marked] = update(run, SHAPES[shape], is_marked, 2, True)
    return found


def singles(folder: Path, text: Path, kinds: Sequence[str]) -> dict[Any, Update]:
    """Return one update in the precision of real runs."""
    world, found = World.of_environment(), {}
    with world.joined():
        for kind in kinds:
            run = started(folder, text, kind, world, *MODEL)
            run.optimizer = Descent(run)
            found[kind, "fp32"] = update(run, SHAPES["quarters"], True, 1, True)
    return found
