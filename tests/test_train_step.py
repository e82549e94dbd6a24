"""One update: its gradient is that of the whole batch, measured before the optimizer's step.

Muon orthogonalizes a gradient, AdamW divides by its size and clipping limits its norm. So a wrong
factor in the gradient leaves weights and losses almost as they were. These tests look at the
gradient itself, just before the optimizer's step.
"""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import words

from configs.load import load_config
from run import TrainingRun
from start import start_run
from train import train_step

SHAPES = {  # of a batch of 4 sequences
    "whole": ["train.micro_batch_size=4", "train.grad_accum_steps=1"],
    "halves": ["train.micro_batch_size=2", "train.grad_accum_steps=2"],
    "quarters": ["train.micro_batch_size=1", "train.grad_accum_steps=4"],
}
PARTS = {
    "plain": [],
    "sinks": ["model.sink_logits=true", "model.sink_token=true", "model.attention_sinks=2"],
    "tied": ["model.tie_embeddings=true", "data.document_mask=true"],
}


def started(folder: Path, text: Path, *more: str) -> TrainingRun:
    """Return a new run in double precision, so that finite differences are exact enough.

    Noise is added to its weights: some start at zero and stop the gradient of earlier weights."""
    line = words(folder, text, "train.grad_clip=0", *more)
    folder.mkdir()
    run = start_run(load_config(line[0], line[1:]), None)
    run.model.double()
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in run.model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.1)
    return run


def batch(run: TrainingRun) -> np.ndarray:
    return np.asarray(run.corpus.tokens("train")[: 4 * 33]).reshape(4, 33).astype("int64")


def whole_loss(run: TrainingRun, sequences: np.ndarray) -> torch.Tensor:
    """Return the mean of -log p over all targets."""
    tokens = torch.from_numpy(sequences)
    if run.config.data.document_mask:
        documents = 1 + (tokens[:, :-1] == run.tokenizer.bos_id).cumsum(dim=1)
        logits = run.model(tokens[:, :-1], documents=documents)
    else:
        logits = run.model(tokens[:, :-1])
    chances = logits.softmax(dim=-1).gather(2, tokens[:, 1:, None])
    return -chances.log().mean()


def updated(
    run: TrainingRun, monkeypatch: pytest.MonkeyPatch
) -> tuple[float, float, float, dict[str, torch.Tensor]]:
    """Make one update up to the optimizer's step. Returns loss, norm, ratio and gradients."""
    seen: dict[str, torch.Tensor] = {}
    ratios: list[float] = []

    def step(ratio: float) -> None:
        ratios.append(ratio)
        for name, weight in run.model.named_parameters():
            assert weight.grad is not None, name
            seen[name] = weight.grad.clone()

    monkeypatch.setattr(run.optimizer, "step", step)
    loss, norm = train_step(run, batch(run), 0.7)
    return loss, norm, ratios[0], seen


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_gradient_is_the_finite_difference_of_the_whole_batch(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch, shape: str, part: str
) -> None:
    """The gradients of micro-batches could be summed and not averaged; a weight could have no
    gradient; the logged loss or norm could be another. The derivative along a random direction d of
    each weight is measured: (L(w + h d) - L(w - h d)) / 2h."""
    run = started(tmp_path / "run", text, *SHAPES[shape], *PARTS[part])
    loss, norm, ratio, gradients = updated(run, monkeypatch)
    sequences, h = batch(run), 1e-6
    with torch.no_grad():
        assert loss == pytest.approx(whole_loss(run, sequences).item(), rel=1e-9)
        for name, weight in run.model.named_parameters():
            direction = torch.randn_like(weight)
            weight.add_(direction, alpha=h)
            above = whole_loss(run, sequences)
            weight.add_(direction, alpha=-2 * h)
            below = whole_loss(run, sequences)
            weight.add_(direction, alpha=h)
            derivative = (gradients[name] * direction).sum().item()
            assert ((above - below) / (2 * h)).item() == pytest.approx(
                derivative, rel=1e-4, abs=1e-8
            ), name
    squares = sum(float(gradient.square().sum()) for gradient in gradients.values())
    assert norm == pytest.approx(math.sqrt(squares), rel=1e-9)
    assert ratio == 0.7


@pytest.mark.parametrize("shape", SHAPES)
def test_micro_batches_weigh_as_many_tokens_as_they_count(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch, shape: str
) -> None:
    """A mean of the micro-batches' means would weigh the tokens of long prompts' answers more, and
    the update would depend on the shape of the batch. One row has no token that counts."""
    run = started(tmp_path / "run", text, *SHAPES[shape])
    plain = batch(run)
    marked = plain.copy()
    for row, start in enumerate((1, 30, 12, 33)):  # prompts before `start`
        marked[row, 1:start] = ~marked[row, 1:start]
    counted = torch.from_numpy(marked[:, 1:] >= 0)
    assert counted.sum(dim=1).tolist() == [32, 3, 21, 0]
    monkeypatch.setattr("test_train_step.batch", lambda run: marked)
    loss, _, _, gradients = updated(run, monkeypatch)
    run.model.zero_grad()
    logits = run.model(torch.from_numpy(plain[:, :-1]))
    nats = -logits.log_softmax(dim=-1).gather(2, torch.from_numpy(plain[:, 1:, None]))[..., 0]
    expected = nats[counted].mean()
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-12)
    for name, weight in run.model.named_parameters():
        torch.testing.assert_close(gradients[name], weight.grad, rtol=1e-9, atol=1e-12)


def test_an_update_without_a_token_that_counts_stays_finite(tmp_path: Path, text: Path) -> None:
    """A batch may lie inside one long prompt."""
    run = started(tmp_path / "run", text, *SHAPES["halves"])
    assert train_step(run, ~batch(run), 1.0) == (0.0, 0.0)
    assert all(weight.isfinite().all() for weight in run.model.parameters())


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("limit", [1e-3, 1e3])
def test_clipping_limits_the_norm_of_the_whole_gradient(
    tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch, limit: float, optimizer: str
) -> None:
    """The norm could be that of each weight or micro-batch; the limit could be ignored; the log
    could have the norm after clipping, which is the limit in every line."""
    more = [*SHAPES["halves"], f"train.optimizer={optimizer}"]
    raw = updated(started(tmp_path / "raw", text, *more), monkeypatch)
    run = started(tmp_path / "run", text, *more, f"train.grad_clip={limit}")
    _, norm, _, gradients = updated(run, monkeypatch)
    assert norm == pytest.approx(raw[1], rel=1e-9) and 1e-3 < norm < 1e3
    factor = min(1.0, limit / norm)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, raw[3][name] * factor, rtol=1e-3, atol=1e-12)


def test_gradients_do_not_outlive_the_update(tmp_path: Path, text: Path) -> None:
    """Gradients that stay would be added to those of the next batch."""
    run = started(tmp_path / "run", text)
    train_step(run, batch(run), 1.0)
    assert all(weight.grad is None for weight in run.model.parameters())


@pytest.mark.parametrize(
    ("optimizer", "lr", "rest_lr"), [("muon", 0.02, 0.003), ("adamw", 0.02, 0.02)]
)
def test_the_first_update_has_the_size_of_its_learning_rate(
    tmp_path: Path, text: Path, optimizer: str, lr: float, rest_lr: float
) -> None:
    """A group could have the peak rate of another, or the ratio could be ignored.

    AdamW's first update moves each weight by lr (arXiv 1711.05101, algorithm 2: m / sqrt(v) is the
    gradient's sign). Muon's adds 0.2 sqrt(larger side) lr times an orthogonal matrix."""
    ratio = 0.25
    run = started(
        tmp_path / "run", text, f"train.optimizer={optimizer}", "train.weight_decay=0",
        "train.lr=0.02", "train.adamw_lr=0.003",
    )  # fmt: skip
    before = {name: weight.detach().clone() for name, weight in run.model.named_parameters()}
    train_step(run, batch(run), ratio)
    for name, weight in run.model.named_parameters():
        change = (weight.detach() - before[name]).abs()
        if optimizer == "muon" and name.startswith("layers.") and weight.dim() == 2:
            values = torch.linalg.svdvals(weight.detach() - before[name])
            unit = lr * ratio * 0.2 * max(weight.shape) ** 0.5
            assert 0.6 * unit < values.median() < 1.3 * unit, name
        else:
            assert change.max().item() == pytest.approx(rest_lr * ratio, rel=1e-3), name
