"""The native RMSNorm, SwiGLU, RoPE and cross-entropy against the same in float64."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from model import native
from model.layers import FeedForward, RMSNorm
from model.loss import cross_entropy_, linear_cross_entropy
from model.native import layers
from model.native.build import load, refusal
from model.rope import Rope, rotate, rotation

REFUSAL = refusal("layers", "loss")
pytestmark = pytest.mark.skipif(REFUSAL is not None, reason=str(REFUSAL))
BF16_ERROR = 3e-3  # of a result that is rounded to bf16 once: 2^-9 a number, less in the norm


@pytest.fixture(autouse=True)
def enabled_in_bf16() -> object:
    with native.enabled(), torch.autocast("cpu", torch.bfloat16):
        yield


def normal(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    draw = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=draw).to(dtype).requires_grad_()


def assert_same(ours: Tensor, theirs: Tensor, inputs: Sequence[Tensor], uses: str) -> None:
    """Compare values and all gradients; `uses` is the autograd function that must have run."""
    assert uses in str(ours.grad_fn), "the native kernel did not run"
    upstream = normal(*ours.shape).detach()
    gradients = torch.autograd.grad(ours, inputs, upstream.to(ours.dtype))
    expected = torch.autograd.grad(theirs, inputs, upstream.double())
    for a, b in zip((ours, *gradients), (theirs, *expected), strict=True):
        assert a.shape == b.shape
        assert (a.double() - b.double()).norm() <= BF16_ERROR * b.double().norm()


@pytest.mark.parametrize("shape", [(1, 16), (3, 77, 48), (2, 40, 192)])
def test_rms_norm(shape: tuple[int, ...]) -> None:
    """The gradient of a row depends on all its numbers; that of the weight on all rows."""
    norm = RMSNorm(shape[-1], 1e-3)
    torch.nn.init.normal_(norm.weight, mean=1.0, std=0.2)
    x = normal(*shape, dtype=torch.float32)
    theirs = F.rms_norm(x.double(), norm.weight.shape, norm.weight.double(), 1e-3)
    assert_same(norm(x), theirs, (x, norm.weight), "_RMSNorm")


@pytest.mark.parametrize("shape", [(1, 32), (3, 77, 96), (2, 40, 1024)])
def test_swiglu(shape: tuple[int, ...]) -> None:
    """Gate and up are the halves of a row, in this order."""
    x = normal(*shape)
    gate, up = x.double().chunk(2, dim=-1)
    assert_same(layers.swiglu(x), F.silu(gate) * up, (x,), "_SwiGLU")


def test_a_gradient_of_one_repeated_number() -> None:
    """The upstream gradient of a sum has strides of 0; its copy must live as long as the call."""
    x = normal(300, 2048)
    gate, up = x.double().chunk(2, dim=-1)
    (expected,) = torch.autograd.grad((F.silu(gate) * up).sum(), x)
    for _ in range(5):
        (actual,) = torch.autograd.grad(layers.swiglu(x).sum(), x)
        assert (actual.double() - expected).norm() <= 2 * BF16_ERROR * expected.double().norm()


def test_feed_forward_joins_gate_and_up() -> None:
    """w1 is the gate and w3 is up; joined in the other order, silu would apply to up."""
    feed, x = FeedForward(16, 32), normal(1, 100, 16)
    with torch.autocast("cpu", enabled=False):
        wide = FeedForward(16, 32).double()
        wide.load_state_dict(feed.state_dict())
        theirs = wide.w2(F.silu(wide.w1(x.double())) * wide.w3(x.double()))
    assert (feed(x) - theirs).norm() <= 3 * BF16_ERROR * theirs.norm()


@pytest.mark.parametrize("rows_differ", [False, True])
def test_rotate_views_of_joined_heads(rows_differ: bool) -> None:
    """Queries and keys are views of one product, so strides of the input and output differ."""
    joined = normal(3, 77, 5 * 48)
    heads = joined.unflatten(-1, (5, 48)).transpose(1, 2)[:, 1:4]
    positions = torch.randint(9_000, (3, 77)) if rows_differ else torch.arange(77)
    factors = rotation(positions, 48, Rope(10_000.0, "yarn", 4.0, 64), torch.float32)
    theirs = rotate(heads.double(), factors.to(torch.complex128))
    assert_same(rotate(heads, factors), theirs, (joined,), "_Rotate")


@pytest.mark.parametrize("vocab", [1, 7, 16, 65, 1000])
def test_cross_entropy(vocab: int) -> None:
    """The last numbers of a row that fill no vector could be left out of its sum."""
    logits, targets = normal(33, vocab).detach() * 4, torch.arange(33) % vocab
    expected = logits.double().requires_grad_()
    value = F.cross_entropy(expected, targets, reduction="sum")
    (gradient,) = torch.autograd.grad(0.25 * value, expected)
    ours = cross_entropy_(logits, targets, 0.25)  # logits become the gradient
    torch.testing.assert_close(ours.double(), value, rtol=1e-5, atol=1e-5)
    assert (logits.double() - gradient).norm() <= BF16_ERROR * gradient.norm()


def test_negative_targets_are_left_out_of_the_loss() -> None:
    """C++ would read before the first logit; the rows that count have the loss of these alone."""
    x, weight = normal(9, 48), normal(65, 48, dtype=torch.float32)
    targets = torch.tensor([3, -1, 64, -100, -1, 0, 7, -66, 12])
    counted = [0, 2, 5, 6, 8]
    ours = linear_cross_entropy(x, weight, targets)
    theirs = F.cross_entropy(x.double()[counted] @ weight.double().T, targets[counted])
    assert ours.item() == pytest.approx(theirs.item(), rel=0.01)
    gradients = torch.autograd.grad(ours, (x, weight))
    for a, b in zip(gradients, torch.autograd.grad(theirs, (x, weight)), strict=True):
        assert (a.double() - b.double()).norm() <= 0.02 * b.double().norm()
    assert not gradients[0][[1, 3, 4, 7]].any()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("at", [0, 16, 40])
def test_numbers_that_are_not_finite_stay_visible(value: float, at: int) -> None:
    """Vector maxima can drop NaN; training would then go on with wrong weights."""
    x = normal(2, 48, dtype=torch.float32).detach()
    x[1, at] = value
    assert RMSNorm(48, 1e-5)(x)[1].isnan().any()
    assert not cross_entropy_(x.bfloat16(), torch.tensor([0, 1]), 1.0).isfinite()
    gate_up = x.bfloat16()
    gate_up[1, :24] = value
    assert not layers.swiglu(torch.cat((gate_up[:, :16], gate_up[:, :16]), 1))[1].isfinite().any()


def test_a_target_outside_the_vocabulary_is_refused() -> None:
    """C++ would read and write the memory of another tensor."""
    for target in (-1, 7):
        with pytest.raises(AssertionError):
            cross_entropy_(normal(2, 7).detach(), torch.tensor([0, target]), 1.0)


def test_other_sizes_and_types_use_pytorch() -> None:
    """16 numbers at a time: a row of 24 would be read past its end."""
    assert not layers.usable(normal(2, 24), 24)
    with native.enabled(False):
        assert not layers.usable(normal(2, 32), 32)
    with torch.autocast("cpu", enabled=False):
        assert not layers.usable(normal(2, 32, dtype=torch.float32), 32)
    assert layers.usable(normal(2, 32), 32)


def test_a_loaded_library_leaves_tiny_numbers_alone() -> None:
    """-ffast-math rounds subnormal numbers to 0 in the whole process, data of the user included."""
    for name in ("layers", "loss"):
        load(name)
    assert torch.tensor(1e-310, dtype=torch.float64).mul(2.0).item() == 2e-310


def test_the_same_to_the_bit_on_any_number_of_threads() -> None:
    """A run that is resumed on the same machine must go on with the same numbers."""
    norm, x = RMSNorm(48, 1e-5), normal(500, 48, dtype=torch.float32)
    results, threads = [], torch.get_num_threads()
    for n in (1, 2, 3):
        torch.set_num_threads(n)
        results.append(torch.autograd.grad(norm(x).sum(), (x, norm.weight)))
    torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for r in results for a, b in zip(r, results[0], strict=True))
