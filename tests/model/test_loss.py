"""Output layer and cross-entropy by chunks, against torch's own."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from model import loss
from model.loss import linear_cross_entropy

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
