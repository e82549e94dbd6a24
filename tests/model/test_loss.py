"""Output layer and cross-entropy by chunks, against torch's own."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from model import ModelConfig, Transformer, loss
from model.loss import linear_cross_entropy, next_token_loss

DIM, VOCAB = 5, 7


def drawn(rows: int, dtype: torch.dtype = torch.float64, scale: float = 3.0) -> list[Tensor]:
    """Draw hidden states (rows, DIM), a weight (VOCAB, DIM) and targets (rows,)."""
    draw = torch.Generator().manual_seed(rows)
    x, weight = (
        scale * torch.randn(n, DIM, generator=draw, dtype=torch.float64) for n in (rows, VOCAB)
    )
    leaves = [tensor.to(dtype).requires_grad_() for tensor in (x, weight)]
    return [*leaves, torch.randint(VOCAB, (rows,), generator=draw)]


@pytest.mark.parametrize("rows", [1, 3, 4, 5, 8, 11])
def test_value_and_gradients_are_torchs(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk could be left out, counted twice or divided by its own length; an upstream gradient
    could be lost."""
    monkeypatch.setattr(loss, "CHUNK_CPU", 4 * VOCAB)  # 4 rows in a chunk
    x, weight, targets = drawn(rows)
    ours = linear_cross_entropy(x, weight, targets)
    theirs = F.cross_entropy(F.linear(x, weight), targets)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    gradients = [torch.autograd.grad(2.5 * value, (x, weight)) for value in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("ignored", [[0], [10], [1, 2, 3, 4, 5, 6, 7], list(range(1, 11))])
def test_negative_targets_are_left_out(ignored: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean could be over all rows; an ignored row could have a gradient or a part in that of
    the weight; a chunk could be without any row that counts. Compared with plain loops."""
    monkeypatch.setattr(loss, "CHUNK_CPU", 4 * VOCAB)  # 4 rows in a chunk
    x, weight, targets = drawn(11)
    targets[ignored] = torch.tensor([-1, -100, -VOCAB])[torch.arange(len(ignored)) % 3]
    value = linear_cross_entropy(x, weight, targets)
    grad_x, grad_weight = torch.autograd.grad(2.5 * value, (x, weight))
    total, x_sum = 0.0, [[0.0] * DIM for _ in range(11)]
    weight_sum = [[0.0] * DIM for _ in range(VOCAB)]
    counted = [row for row in range(11) if row not in ignored]
    hidden, matrix = x.tolist(), weight.tolist()
    for row in counted:
        logits = [sum(a * b for a, b in zip(hidden[row], column, strict=True)) for column in matrix]
        normaliser = sum(math.exp(logit) for logit in logits)
        target = int(targets[row])
        total += math.log(normaliser) - logits[target]
        for id, logit in enumerate(logits):
            error = 2.5 * (math.exp(logit) / normaliser - (id == target)) / len(counted)
            for d in range(DIM):
                x_sum[row][d] += error * matrix[id][d]
                weight_sum[id][d] += error * hidden[row][d]
    assert value.item() == pytest.approx(total / len(counted), rel=1e-12)
    for ours, theirs in ((grad_x, x_sum), (grad_weight, weight_sum)):
        torch.testing.assert_close(
            ours, torch.tensor(theirs, dtype=torch.float64), rtol=1e-10, atol=1e-12
        )


def test_without_a_target_that_counts_the_loss_is_zero() -> None:
    """0 / 0 would end the training: a micro-batch may have prompts only."""
    x, weight, targets = drawn(5)
    value = linear_cross_entropy(x, weight, torch.full_like(targets, -1))
    gradients = torch.autograd.grad(value, (x, weight))
    assert value.item() == 0 and all(not gradient.any() for gradient in gradients)


def test_marked_inputs_are_read_and_marked_targets_are_not_counted() -> None:
    """A mark on an input could reach the embedding, or hide the token from the model."""
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=50, dim=16, n_layers=1, n_heads=1, n_kv_heads=1)
    model = Transformer(config).double()
    torch.nn.init.normal_(model.output.weight)
    torch.nn.init.normal_(model.layers[0].attention.wo.weight)  # so that the context matters
    plain = torch.randint(50, (3, 9))
    marked = plain.clone()
    marked[0, 2:6], marked[1, 0], marked[2, 8] = ~plain[0, 2:6], ~plain[1, 0], ~plain[2, 8]
    value = next_token_loss(model, marked[:, :-1], marked[:, 1:], bos_id=7)
    documents = (plain[:, :-1] == 7).cumsum(dim=1)
    chances = model(plain[:, :-1], documents=documents).softmax(-1)
    nats = [
        -math.log(chances[row, at, plain[row, at + 1]].item())
        for row in range(3) for at in range(8) if marked[row, at + 1] >= 0
    ]  # fmt: skip
    assert len(nats) == 24 - 5
    assert value.item() == pytest.approx(sum(nats) / len(nats), rel=1e-12)


def test_more_dimensions() -> None:
    """Hidden states (B, T, D) could be flattened in another order than their targets."""
    x, weight, targets = drawn(22)
    ours = linear_cross_entropy(x.view(2, 11, DIM), weight, targets.view(2, 11))
    theirs = F.cross_entropy(F.linear(x, weight), targets)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)


def test_half_precision_is_summed_in_fp32() -> None:
    """A sum in bf16 stops growing after a few hundred rows, and so do a weight's gradients."""
    x, weight, targets = drawn(3_000, torch.bfloat16, scale=1.0)
    wide = weight.detach().float().requires_grad_()  # the weights are fp32, as in training
    value = linear_cross_entropy(x, wide, targets)
    exact = F.cross_entropy(F.linear(x.double(), wide.double()), targets)
    assert value.dtype == torch.float32 and value.item() == pytest.approx(exact.item(), rel=1e-3)
    ours, theirs = (torch.autograd.grad(v, (x, wide)) for v in (value, exact))
    assert ours[0].dtype == torch.bfloat16 and ours[1].dtype == torch.float32
    for a, b in zip(ours, theirs, strict=True):
        assert (a.double() - b).norm() < 0.01 * b.double().norm()


def test_extreme_logits_stay_finite() -> None:
    """exp(10,000) is inf: the largest logit must be subtracted."""
    x = torch.tensor([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4]], requires_grad=True)
    value = linear_cross_entropy(x, torch.eye(3), torch.tensor([1, 2]))
    value.backward()
    assert value.item() == pytest.approx((2e4 + torch.log(torch.tensor(3.0)).item()) / 2)
    assert x.grad is not None and x.grad.isfinite().all()


def test_a_logit_that_is_not_a_number_shows_in_the_loss() -> None:
    """Training stops at a loss that is not finite. A maximum that ignores NaN would hide it."""
    x, weight, targets = drawn(9)
    with torch.no_grad():
        x[4, 1] = torch.nan
        assert linear_cross_entropy(x, weight, targets).isnan()


def test_the_inputs_do_not_change_and_need_no_gradient() -> None:
    """Chunks are changed in place; hidden states and weights must not change."""
    x, weight, targets = drawn(9)
    before = [x.detach().clone(), weight.detach().clone()]
    linear_cross_entropy(x, weight, targets).backward()
    assert torch.equal(x, before[0]) and torch.equal(weight, before[1])
    with torch.no_grad():
        assert not linear_cross_entropy(x, weight, targets).requires_grad


def test_a_second_backward_is_refused() -> None:
    """The gradient is scaled in place: a second backward pass would give a wrong one."""
    x, weight, targets = drawn(3)
    value = 2 * linear_cross_entropy(x, weight, targets)
    value.backward(retain_graph=True)
    with pytest.raises(AssertionError, match="single backward"):
        value.backward()
