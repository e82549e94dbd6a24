"""Cross-entropy by chunks against torch's own."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from model import loss
from model.loss import ROWS, cross_entropy


def drawn(rows: int, dtype: torch.dtype = torch.float64, scale: float = 3.0) -> tuple[Tensor, ...]:
    draw = torch.Generator().manual_seed(rows)
    logits = scale * torch.randn(rows, 7, generator=draw, dtype=torch.float64)
    return logits.to(dtype).requires_grad_(), torch.randint(7, (rows,), generator=draw)


@pytest.mark.parametrize("rows", [1, 5, ROWS - 1, ROWS, ROWS + 1, 2 * ROWS + 3])
def test_value_and_gradient_are_torchs(rows: int) -> None:
    """A chunk could be left out, counted twice or divided by its own length; an upstream gradient
    could be lost."""
    logits, targets = drawn(rows)
    ours, theirs = cross_entropy(logits, targets), F.cross_entropy(logits, targets)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    gradients = [torch.autograd.grad(2.5 * value, logits)[0] for value in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-14)


def test_small_chunks_and_more_dimensions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits (B, T, V) could be flattened in another order than their targets."""
    monkeypatch.setattr(loss, "ROWS", 4)
    logits, targets = drawn(22)
    ours = cross_entropy(logits.view(2, 11, 7), targets.view(2, 11))
    torch.testing.assert_close(ours, F.cross_entropy(logits, targets), rtol=1e-12, atol=0)
    (gradient,) = torch.autograd.grad(ours, logits)
    expected = torch.autograd.grad(F.cross_entropy(logits, targets), logits)[0]
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_fp32(dtype: torch.dtype) -> None:
    """A sum in bf16 stops growing after a few hundred rows."""
    logits, targets = drawn(ROWS + 9, dtype)
    value = cross_entropy(logits, targets)
    exact = F.cross_entropy(logits.double(), targets)
    assert value.dtype == torch.float32 and value.item() == pytest.approx(exact.item(), rel=1e-6)
    (ours,) = torch.autograd.grad(value, logits)
    (theirs,) = torch.autograd.grad(exact, logits)
    assert ours.dtype == dtype
    # `theirs` is rounded to the dtype as well; fp16 is subnormal at this size.
    torch.testing.assert_close(ours, theirs, rtol=2 * torch.finfo(dtype).eps, atol=1e-7)


def test_extreme_logits_stay_finite() -> None:
    """exp(10,000) is inf: the largest logit must be subtracted."""
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4]], requires_grad=True)
    value = cross_entropy(logits, torch.tensor([1, 2]))
    value.backward()
    assert value.item() == pytest.approx((2e4 + torch.log(torch.tensor(3.0)).item()) / 2)
    assert logits.grad.isfinite().all()  # type: ignore[union-attr]


def test_the_logits_do_not_change() -> None:
    """Chunks are changed in place; the caller's logits must not change."""
    logits, targets = drawn(9)
    before = logits.detach().clone()
    cross_entropy(logits, targets).backward()
    assert torch.equal(logits, before)
    with torch.no_grad():
        assert not cross_entropy(logits, targets).requires_grad


def test_a_second_backward_is_refused() -> None:
    """The gradient is scaled in place: a second backward pass would give a wrong one."""
    logits, targets = drawn(3)
    value = 2 * cross_entropy(logits, targets)
    value.backward(retain_graph=True)
    with pytest.raises(AssertionError, match="single backward"):
        value.backward()
