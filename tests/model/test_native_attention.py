"""The attention kernel in C++ against float64, the loop oracle, and its own errors in PyTorch."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import reference
import torch
from small import build, pack, text
from torch import Tensor

from model import kernels, native
from model.kernels import Visibility
from model.kernels.native import native_attention
from model.native.build import refusal

WHY_NOT = refusal("attention")
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))

LENGTHS = (1, 5, 63, 64, 65, 200, 300)
WINDOWS = (1, 2, 17, 64, 100, None)
# Query heads for each key head, numbers in a head, sinks. Each pair of T and W gets two of these.
SHAPES = [(1, 16, 0), (2, 32, 4), (4, 48, 1), (1, 64, 4), (4, 16, 0), (2, 128, 0), (4, 32, 1)]
GRID = [
    (length, window, *SHAPES[(3 * n + more) % len(SHAPES)])
    for n, (length, window) in enumerate((t, w) for t in LENGTHS for w in WINDOWS)
    for more in (0, 4)
]
Result = dict[str, Tensor]
Attend = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def draw(length: int, group: int, size: int, rows: int = 2, key_heads: int = 2) -> list[Tensor]:
    """Return q, k, v in bf16, as in the model: parts of one tensor, heads behind tokens."""
    heads = [key_heads * group, key_heads, key_heads]
    generator = torch.Generator().manual_seed(length + size)
    joined = torch.randn(rows, length, sum(heads), size, generator=generator).bfloat16()
    return list(joined.transpose(1, 2).split(heads, dim=1))


def exact(mask: Tensor) -> Attend:
    """Return attention in float64 where mask (B, T, T) is true, and its log-sum-exp."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        group = q.shape[1] // k.shape[1]
        k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))
        scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~mask[:, None], -1e300)
        return scores.softmax(-1) @ v, scores.logsumexp(-1)

    return attend


def visible(length: int, window: int | None, sinks: int, documents: Tensor | None) -> Tensor:
    """Return which keys (B, T, T) each query sees, sinks of its document left out."""
    mask = torch.zeros(2, length, length, dtype=torch.bool)
    for row in range(2):
        numbers = [1] * length if documents is None else documents[row].tolist()
        for columns in reference.runs(numbers):
            for i, query in enumerate(columns):
                keys = [j for j in range(sinks, i + 1) if reference.visible(i, j, window)]
                mask[row, query, [columns[j] for j in keys]] = True
    return mask


def result(attend: Attend, inputs: list[Tensor], dtype: torch.dtype, seen: Tensor) -> Result:
    """Return output, log-sum-exp and gradients of the queries that see a key: `seen` (B, T)."""
    q, k, v = (x.detach().to(dtype).requires_grad_() for x in inputs)
    out, lse = attend(q, k, v)
    chosen = seen[:, None].expand(lse.shape)
    generator = torch.Generator().manual_seed(0)
    up = torch.randn(out.shape, generator=generator).to(dtype)
    up_lse = torch.randn(lse.shape, generator=generator).to(lse.dtype)
    gradients = torch.autograd.grad(
        [out[chosen], lse[chosen]], [q, k, v], [up[chosen], up_lse[chosen]]
    )
    names = ("output", "lse", "dq", "dk", "dv")
    return dict(zip(names, (out[chosen], lse[chosen], *gradients), strict=True))


def errors(actual: Result, expected: Result) -> dict[str, float]:
    """Return the error of each tensor relative to its norm."""
    return {
        name: ((actual[name].double() - x).norm() / x.norm().clamp(min=1e-12)).item()
        for name, x in expected.items()
    }


def assert_as_exact(inputs: list[Tensor], visibility: Visibility) -> None:
    """Compare with float64. The errors may be those of the kernel in PyTorch, in bf16 too."""
    length, (window, sinks, *_) = inputs[0].shape[2], visibility
    mask = visible(length, window, sinks, visibility.documents)
    seen = mask.any(-1)
    if not seen.any():
        return
    name = "dense" if window is None else "blocked"

    def ours(*x: Tensor) -> tuple[Tensor, Tensor]:
        return native_attention(*x, visibility, return_lse=True)  # type: ignore[return-value]

    def theirs(*x: Tensor) -> tuple[Tensor, Tensor]:
        return kernels.KERNELS[name](*x, visibility, return_lse=True)  # type: ignore[return-value]

    expected = result(exact(mask), inputs, torch.float64, seen)
    actual = errors(result(ours, inputs, torch.bfloat16, seen), expected)
    allowed = errors(result(theirs, inputs, torch.bfloat16, seen), expected)
    assert actual.pop("lse") < 1e-5
    assert all(error < 1.3 * allowed[x] + 1e-3 for x, error in actual.items()), (actual, allowed)


@pytest.mark.parametrize(("length", "window", "group", "size", "sinks"), GRID)
def test_output_and_gradients_are_exact(
    length: int, window: int | None, group: int, size: int, sinks: int
) -> None:
    """An edge of a window or block could be off by one; a head, a scale, a part of the backward
    pass or the gradient of the log-sum-exp could be wrong."""
    sinks = 0 if window is None else sinks
    assert_as_exact(draw(length, group, size), Visibility(window, sinks))


@pytest.mark.parametrize("sinks", [0, 3])
@pytest.mark.parametrize(("length", "window"), [(70, 5), (200, 40), (200, None)])
def test_documents(length: int, window: int | None, sinks: int) -> None:
    """Keys of another document could be visible, or sinks of a later one."""
    numbers = pack(length, window or 30)
    positions = torch.zeros_like(numbers)
    for row, documents in enumerate(numbers.tolist()):
        for columns in reference.runs(documents):
            positions[row, columns] = torch.arange(len(columns))
    visibility = Visibility(window, sinks, positions, None, numbers)
    assert_as_exact(draw(length, 2, 16), visibility)


def test_several_parts_of_one_head() -> None:
    """With few heads the backward pass is divided; keys at a border could be counted once only."""
    for window in (20, 200, None):
        assert_as_exact(draw(600, 2, 16, key_heads=1), Visibility(window))


@pytest.mark.parametrize("sinks", [17, 33, 40, 70])
def test_more_sinks_than_a_block_has_queries(sinks: int) -> None:
    """Sinks, which the kernel leaves out, may cover whole blocks of queries and their windows."""
    assert_as_exact(draw(256, 2, 16, key_heads=4), Visibility(64, sinks))


@pytest.mark.parametrize("front", [False, True])
@pytest.mark.parametrize("sink_logits", [False, True])
def test_sinks_are_merged_as_in_the_oracle(sink_logits: bool, front: bool) -> None:
    """A query whose whole window are sinks sees no key here: it could be NaN, or get a share."""
    length, window = 70, 6
    numbers = pack(length, 20)
    if front:
        numbers = torch.cat((torch.zeros(2, 1, dtype=torch.int64), numbers), 1)[:, :length]
    positions = torch.zeros_like(numbers)
    for row, documents in enumerate(numbers.tolist()):
        for columns in reference.runs(documents):
            first = int(front and columns[0] > 0)
            positions[row, columns] = torch.arange(first, first + len(columns))
    q, k, v = draw(length, 2, 16)
    inputs = {"q": q, "k": k, "v": v, "q_sinks": draw(length, 2, 16)[0].flip(2)}
    if sink_logits:
        inputs["sink_logits"] = torch.randn(4, generator=torch.Generator().manual_seed(1))

    def gradients(attend: Any, dtype: torch.dtype, **places: Any) -> list[Tensor]:
        leaves = {n: x.detach().to(dtype).requires_grad_() for n, x in inputs.items()}
        out = attend(**leaves, **places)
        weights = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out).to(out)
        return [out, *torch.autograd.grad(out, list(leaves.values()), weights)]

    places: dict[str, Any] = {"positions": positions, "documents": numbers}
    expected = gradients(reference.attention, torch.float64, window=window, sinks=4, **places)
    visibility = Visibility(window, 4, positions, None, numbers)
    for name, allowed in (("native", 1e-2), ("blocked", 1e-2)):
        actual = gradients(kernels.attend_with, torch.bfloat16, kernel=name, visibility=visibility)
        for ours, theirs in zip(actual, expected, strict=True):
            assert (ours.double() - theirs).norm() < allowed * theirs.norm()


def test_hidden_keys_change_no_bit() -> None:
    """Even huge keys and values must not act on a query that does not see them."""
    window, changed = 17, 100
    q, k, v = draw(200, 2, 32)
    out, lse = native_attention(q, k, v, Visibility(window), return_lse=True)
    k, v = k.clone(), v.clone()
    k[:, :, changed] = v[:, :, changed] = 1e30
    out2, lse2 = native_attention(q, k, v, Visibility(window), return_lse=True)
    assert lse is not None and lse2 is not None
    differs = (out != out2).any(-1) | (lse != lse2)
    assert differs.any(1).any(0).nonzero().flatten().tolist() == list(range(changed, 117))


@pytest.mark.parametrize("window", [1, 17, 50])
def test_keys_outside_every_window_may_be_nan(window: int) -> None:
    """Sinks are outside every window of this kernel. Its results must not depend on them."""
    sinks, inputs = 4, draw(70, 2, 32)
    q, k, v = (x.detach().clone() for x in inputs)
    k[:, :, :sinks], v[:, :, :sinks] = torch.nan, torch.inf
    for leaves in ([q, k, v], inputs):
        for x in leaves:
            x.requires_grad_()
    results = []
    for leaves in ([q, k, v], inputs):
        out, lse = native_attention(*leaves, Visibility(window, sinks), return_lse=True)
        assert lse is not None
        back = torch.autograd.grad((out.float() * 3).sum() + lse[:, :, sinks:].sum(), leaves)
        results.append([out, lse, *back])
    for poisoned, clean in zip(*results, strict=True):
        assert poisoned.isfinite().all() and torch.equal(poisoned, clean)


@pytest.mark.parametrize("length", [1, 33, 63])
def test_nothing_outside_the_tensors_is_read(length: int) -> None:
    """A block that is not full could read or write beyond the text."""
    inputs = draw(length, 2, 48)
    results = []
    for padded in (False, True):
        leaves = []
        for x in inputs:
            batch, heads, _, size = x.shape
            around = torch.full((batch, heads + 2, length + 64, size + 16), torch.nan)
            inside = around.bfloat16()[:, 1:-1, 32:-32, 8:-8]
            leaves.append((inside.copy_(x) if padded else x.contiguous()).requires_grad_())
        out, lse = native_attention(*leaves, Visibility(20), return_lse=True)
        assert lse is not None
        results.append([out, lse, *torch.autograd.grad(out.float().square().sum(), leaves)])
    for ours, theirs in zip(*results, strict=True):
        assert torch.equal(ours, theirs)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Set the number of threads; afterwards it is as before."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_equal_bits_for_any_number_of_threads(threads: Callable[[int], None]) -> None:
    """Sums in another order would round in another way."""
    inputs = [x.requires_grad_() for x in draw(500, 2, 16, rows=1)]
    results = []
    for count in (1, 2, 3, 1):
        threads(count)
        out, lse = native_attention(*inputs, Visibility(100), return_lse=True)
        assert lse is not None
        results.append([out, lse, *torch.autograd.grad(out.float().square().sum(), inputs)])
    for repeated in results[1:]:
        assert all(map(torch.equal, repeated, results[0]))


def test_gradients_are_saved_only_where_needed() -> None:
    """Generation could keep tensors alive; a second derivative could be silently wrong."""
    inputs = draw(40, 2, 16)
    with torch.inference_mode():
        inferred, lse = native_attention(*inputs, Visibility(5))
    assert lse is None
    leaves = [x.requires_grad_() for x in inputs]
    with torch.no_grad():
        assert native_attention(*leaves, Visibility(5))[0].grad_fn is None
    out, _ = native_attention(*leaves, Visibility(5))
    assert torch.equal(out, inferred)
    [back] = torch.autograd.grad(out.float().square().sum(), leaves[0], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        back.sum().backward()


FEATURES: list[dict[str, Any]] = [
    {},
    {"sliding_window": (5, None), "attention_sinks": 2, "sink_logits": True},
    {"sliding_window": 5, "sink_token": True},
    {"sliding_window": (5, None), "sink_token": True, "sink_logits": True},
]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("features", FEATURES, ids=str)
def test_a_model_is_as_exact_as_without(
    features: dict[str, Any], packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model could call the kernel with other arguments than the other kernels."""
    calls = []

    def counted(*args: Any, **options: Any) -> Any:
        calls.append(args)
        return native_attention(*args, **options)

    monkeypatch.setitem(kernels.KERNELS, "native", counted)
    tokens, documents = text(90, rows=2), pack(90, 20) if packed else None
    model = build(dim=64, dtype=torch.bfloat16, **features)
    exact_model = build(dim=64, **features)
    exact_model.load_state_dict(model.state_dict())

    def logits_and_gradients(tested: Any, enabled: bool) -> list[Tensor]:
        with native.enabled(enabled):
            out = tested(tokens, documents=documents)
        weights = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out).to(out)
        return [out, *torch.autograd.grad(out, list(tested.parameters()), weights)]

    expected = logits_and_gradients(exact_model, False)
    usual = logits_and_gradients(model, False)
    assert not calls
    ours = logits_and_gradients(model, True)
    front = packed and bool(features.get("sink_token"))
    full = [window for window in model.config.windows if window is None]
    assert len(calls) == 3 - front * len(full)
    for a, b, x in zip(ours, usual, expected, strict=True):
        assert (a - x).norm() < 1.5 * (b - x).norm() + 1e-3 * x.norm()


def test_choose_names_native_where_it_runs() -> None:
    """The plan would print a kernel that is not used; a head that does not fit would crash."""
    fits: dict[str, Any] = {"dtype": torch.bfloat16, "head_dim": 32}
    packed = {"documents": True, "sink_token": True}
    with native.enabled():
        for window in (4, 9, None):
            assert kernels.choose("auto", window, 9, **fits)[0] == "native"
            assert kernels.choose("auto", window, 9, **fits, documents=True)[0] == "native"
            assert kernels.choose("auto", window, 9, **fits, device="cuda")[0] != "native"
            assert kernels.choose("auto", window, 9, **fits, cached=True)[0] == "dense"
            assert kernels.choose("blocked", window, 9, **fits)[0] != "native"
            assert kernels.choose("auto", window, 9, **fits | {"dtype": torch.float32})[0] != (
                "native"
            )
        assert kernels.choose("auto", 4, 9, **fits, **packed)[0] == "native"
        assert kernels.choose("auto", None, 9, **fits, **packed)[0] == "dense"
        name, reason = kernels.choose("auto", 4, 9, **fits | {"head_dim": 24})
        assert name == "blocked" and "multiple of 16" in reason
    assert kernels.choose("auto", 4, 9, **fits)[0] == "blocked"
