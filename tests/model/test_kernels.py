"""Every kernel against loops over batch, head and query, forward and backward."""

from collections.abc import Callable
from functools import cache

import pytest
import reference
import torch
from small import GRID
from torch import Tensor

from model import kernels

Leaves = tuple[Tensor, Tensor, Tensor, Tensor]  # q, k, v, and the gradient that comes back


def leaves(length: int) -> Leaves:
    """Two texts, four query heads on two key heads, four numbers a head."""
    draw = torch.Generator().manual_seed(length)
    q, k, v, upstream = (
        torch.randn(2, heads, length, 4, generator=draw, dtype=torch.float64)
        for heads in (4, 2, 2, 4)
    )
    return q.requires_grad_(), k.requires_grad_(), v.requires_grad_(), upstream


def output_and_gradients(attend: Callable[..., Tensor], length: int) -> list[Tensor]:
    q, k, v, upstream = leaves(length)
    out = attend(q, k, v)
    return [out.detach(), *torch.autograd.grad(out, (q, k, v), upstream)]


@cache
def expected(window: int | None, length: int, sinks: int) -> list[Tensor]:
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return reference.attention(q, k, v, window, sinks)

    return output_and_gradients(attend, length)


def called(name: str, window: int | None, sinks: int) -> Callable[..., Tensor]:
    """The kernel itself where it can do the window (`attend` would choose `full` for W >= T)."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        positions = torch.arange(q.shape[2])
        if name == "dense":
            return kernels.dense(q, k, v, positions, positions, window, sinks)
        if name == "blocked" and window is not None:
            return kernels.blocked(q, k, v, window, sinks)
        return kernels.attend(q, k, v, window, sinks)

    return attend


@pytest.mark.parametrize("sinks", [0, 2])
@pytest.mark.parametrize(("window", "length"), GRID)
def test_output_and_gradients_are_the_oracles(
    kernel: str, window: int | None, length: int, sinks: int
) -> None:
    """An edge of the band or of a block off by one, a wrong head, or a wrong scale."""
    got = output_and_gradients(called(kernel, window, sinks), length)
    for ours, theirs in zip(got, expected(window, length, sinks), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("sinks", [0, 2])
@pytest.mark.parametrize(("window", "length"), [(3, 18), (13, 13), (None, 13)])
def test_attend_itself_is_the_oracles(window: int | None, length: int, sinks: int) -> None:
    """The kernel that `auto` chooses could hide more or less than the window says."""
    got = output_and_gradients(called("auto", window, sinks), length)
    for ours, theirs in zip(got, expected(window, length, sinks), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("sinks", [0, 2])
@pytest.mark.parametrize(("window", "length"), [(1, 8), (3, 18), (7, 38), (None, 13)])
def test_bf16_is_within_its_own_error(
    kernel: str, window: int | None, length: int, sinks: int
) -> None:
    """A softmax in bf16 would be far worse than the rounding of what goes in."""
    q, k, v, _ = (x.detach().bfloat16() for x in leaves(length))
    out = called(kernel, window, sinks)(q, k, v)
    assert out.dtype == torch.bfloat16
    exact = reference.attention(q.double(), k.double(), v.double(), window, sinks)
    # Scores up to 8 are rounded to 2^-8 of themselves, and so are the weights and the sum.
    torch.testing.assert_close(out.double(), exact, rtol=2**-7, atol=2**-6)


@pytest.mark.parametrize("window", [1, 3, None])
def test_dense_takes_positions_in_any_order(window: int | None) -> None:
    """The ring stores keys in any order, with holes: only positions may decide."""
    length = 9
    q, k, v, _ = leaves(length)
    order = torch.tensor([4, 0, 8, 2, 6, 1, 3, 7, 5])
    holes = torch.full((3,), -1)
    junk = torch.full((2, 2, 3, 4), 1e6, dtype=torch.float64)
    out = kernels.dense(
        q,
        torch.cat((junk, k[:, :, order]), 2),
        torch.cat((junk, v[:, :, order]), 2),
        torch.arange(length),
        torch.cat((holes, order)),
        window,
    )
    torch.testing.assert_close(out, expected(window, length, 0)[0], rtol=0, atol=1e-10)


def test_a_padded_query_is_never_nan() -> None:
    """NaN in a row that nobody reads still poisons gradients and sums."""
    q, k, v, _ = leaves(2)
    i, j = torch.tensor([[-1, 0], [0, 1]]), torch.tensor([[-1, 0], [0, 1]])
    out = kernels.dense(q, k, v, i, j, 2)
    assert out.isfinite().all()
    torch.testing.assert_close(out[0, 0, 1], v[0, 0, 1])  # sees itself, not the padding


def test_large_scores_do_not_overflow(kernel: str) -> None:
    """exp(1000) is inf: the largest must be subtracted."""
    q, k, v, _ = leaves(18)
    out = called(kernel, 3, 0)(1e3 * q, k, v)
    assert out.isfinite().all()


def test_blocked_computes_the_band_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask over all T * T scores saves nothing: the scores must grow with the window."""
    sizes = []
    softmax = kernels._softmax
    monkeypatch.setattr(
        kernels, "_softmax", lambda s, *rest: sizes.append(s.numel()) or softmax(s, *rest)
    )
    for length in (256, 512):
        q = torch.randn(1, 1, length, 2)
        kernels.blocked(q, q, q, 16)
    assert sizes == [256 * 32, 512 * 32]  # a block of 16 sees itself and the 16 before


def test_choose_says_what_attend_calls() -> None:
    """The banner would name a kernel that does not run."""
    cases = {
        ("auto", 4, 5): "blocked",
        ("auto", 5, 5): "full",
        ("auto", None, 5): "full",
        ("blocked", 4, 5): "blocked",
        ("blocked", None, 5): "full",
        ("dense", 4, 5): "dense",
        ("dense", None, 5): "dense",
    }
    for asked, name in cases.items():
        assert kernels.choose(*asked)[0] == name
