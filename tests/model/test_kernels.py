"""Every kernel against loops over batch, head and query, forward and backward."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

import pytest
import reference
import torch
from small import BACKWARD, GRID, build, pack, text, using
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from model import kernels
from model.cache import RollingKVCache
from model.config import ATTENTION
from model.kernels import Visibility


@dataclass(frozen=True)
class Attention:
    """One call of attention. With documents "front", a token of document 0 is in front."""

    window: int | None
    length: int
    sinks: int = 0
    rotated_sinks: bool = False  # with other queries for sinks
    sink_logits: bool = False
    documents: str = "none"  # or packed, or front
    heads: tuple[int, int] = (4, 2)

    def inputs(self, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
        """Return the tensors that have a gradient: two rows, heads of four numbers."""
        draw = torch.Generator().manual_seed(self.length)
        n_heads, n_kv_heads = self.heads
        sizes = {"q": n_heads, "k": n_kv_heads, "v": n_kv_heads, "q_sinks": n_heads}
        tensors = {
            name: torch.randn(2, heads, self.length, 4, generator=draw, dtype=torch.float64)
            for name, heads in sizes.items()
        }
        tensors["sink_logits"] = torch.randn(n_heads, generator=draw, dtype=torch.float64)
        hides = self.window is not None and self.window < self.length
        if not (self.sinks and self.rotated_sinks and hides):
            del tensors["q_sinks"]  # if no key is hidden, sinks are keys like all others
        if not self.sink_logits:
            del tensors["sink_logits"]
        return {name: x.to(dtype).requires_grad_() for name, x in tensors.items()}

    def places(self) -> dict[str, Tensor]:
        """Return positions and documents, (2, T) each, if documents are packed."""
        if self.documents == "none":
            return {}
        numbers, has_front = pack(self.length, self.window or 3), self.documents == "front"
        if has_front:
            numbers = torch.cat((torch.zeros(2, 1, dtype=torch.int64), numbers), dim=1)
            numbers = numbers[:, : self.length]
        positions = torch.zeros_like(numbers)
        for row, documents in enumerate(numbers.tolist()):
            for columns in reference.runs(documents):
                first = int(has_front and columns[0] > 0)
                positions[row, columns] = torch.arange(first, first + len(columns))
        return {"positions": positions, "documents": numbers}


def run_kernel(kernel: str, case: Attention, x: dict[str, Tensor]) -> Tensor:
    """Run the kernel, if it computes this case (`attend` would choose `full` for W >= T)."""
    places = {name: place.to(x["q"].device) for name, place in case.places().items()}
    visibility = Visibility(case.window, case.sinks, **places)
    if kernel == "auto" or (kernel == "blocked" and case.window is None):
        return kernels.attend(visibility=visibility, **x)
    return kernels.attend_with(kernel, visibility=visibility, **x)


def output_and_gradients(attend: Callable[..., Tensor], x: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the output, and the gradient of each input for a random upstream gradient."""
    out = attend(x)
    draw = torch.Generator().manual_seed(0)
    upstream = torch.randn(out.shape, generator=draw, dtype=torch.float64).to(out)
    # The first queries see no sink yet, so q_sinks may have no gradient.
    back = torch.autograd.grad(out, list(x.values()), upstream, materialize_grads=True)
    return {"output": out.detach(), **dict(zip(x, back, strict=True))}


@cache
def expected(case: Attention) -> dict[str, Tensor]:
    """Return the output and gradients of the oracle."""

    def attend(x: dict[str, Tensor]) -> Tensor:
        return reference.attention(window=case.window, sinks=case.sinks, **x, **case.places())

    return output_and_gradients(attend, case.inputs())


def detached(x: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: part.detach() for name, part in x.items()}


def assert_equals_oracle(kernel: str, case: Attention, backward: bool = True) -> None:
    """Compare a kernel with the oracle, to 1e-10."""
    with using(kernel) as name:
        if backward:
            actual = output_and_gradients(lambda x: run_kernel(name, case, x), case.inputs())
        else:
            actual = {"output": run_kernel(name, case, detached(case.inputs()))}
    for part, ours in actual.items():
        prefix = f"{kernel}, {part} of {case}"
        torch.testing.assert_close(
            ours,
            expected(case)[part],
            rtol=0,
            atol=1e-10,
            msg=lambda message, prefix=prefix: f"{prefix}: {message}",
        )


# Sinks, whether they have other queries, documents. A token in front is a sink.
SINKS = [
    *product((0,), (False,), ("none", "packed")),
    *product((2,), (False, True), ("none", "packed", "front")),
    (1, True, "front"),
]
FEATURES = list(product(SINKS, (False, True), ((4, 4), (4, 2), (4, 1))))


def attentions() -> list[Any]:
    """Return the grid. Three of 54 cases of each window and length are not marked `prove`."""
    params = []
    for n, (window, length) in enumerate(GRID):
        chosen = {(19 * n + more) % len(FEATURES) for more in (0, 13, 38)}
        for m, ((sinks, rotated, documents), logits, heads) in enumerate(FEATURES):
            case = Attention(window, length, sinks, rotated, logits, documents, heads)
            marks = () if m in chosen else (pytest.mark.prove,)
            params.append(pytest.param(case, id=f"{window}-{length}-{m}", marks=marks))
    return params


@pytest.mark.parametrize("case", attentions())
def test_output_and_gradients_are_the_oracles(case: Attention) -> None:
    """The edge of a window or block could be off by one; a head or the scale could be wrong; keys
    or sinks of another document could be visible; a sink logit could be scaled; a gradient could be
    lost."""
    for kernel in BACKWARD:
        assert_equals_oracle(kernel, case)
    assert_equals_oracle("flex", case, backward=False)


@pytest.mark.parametrize("documents", ["none", "packed"])
@pytest.mark.parametrize("window", [16, 33, 90])
def test_blocks_of_the_size_that_runs(window: int, documents: str) -> None:
    """The texts of the grid are shorter than two blocks of the real sizes, 16 to 64."""
    case = Attention(window, 100, 2, True, True, documents)
    assert_equals_oracle("blocked", case)
    assert_equals_oracle("dense", case, backward=False)


def edges(block: int, window: int) -> list[list[int]]:
    """Return lengths of documents that end at, before and after the edges of blocks and windows."""
    return [
        [block, block, block - 1, 1, block + 1],
        [window, window, window - 1, window + 1, 1, 1],
        [1] * (window + 2),
        [block * 2, 1, window * 2],
    ]


@pytest.mark.parametrize("kernel", ["dense", "blocked-2-4", "blocked-3-3", "flex"])
@pytest.mark.parametrize("window", [1, 3, 5])
def test_documents_that_end_at_edges(window: int, kernel: str) -> None:
    """A boundary exactly at W or at the edge of a block could be counted on both sides."""
    for sizes in edges(3, window):
        length = sum(sizes)
        case = Attention(window, length, 2, True, True)
        numbers = torch.tensor([d for d, size in enumerate(sizes, start=1) for _ in range(size)])
        positions = torch.cat([torch.arange(size) for size in sizes])
        places = {"documents": numbers.expand(2, -1), "positions": positions.expand(2, -1)}
        inputs = detached(case.inputs())
        theirs = reference.attention(window=window, sinks=2, **inputs, **places)
        with using(kernel) as name:
            visibility = Visibility(window, 2, **places)
            ours = kernels.attend_with(name, visibility=visibility, **inputs)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10, msg=f"{sizes}")


@pytest.mark.parametrize("sink_logits", [False, True])
@pytest.mark.parametrize(("window", "length"), [(None, 1), (None, 2), (None, 13), (13, 13)])
@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (4, 1)])
def test_full_is_the_oracle(
    window: int | None, length: int, sink_logits: bool, heads: tuple[int, int]
) -> None:
    """A sink logit could be missing for some query, or be that of another head."""
    assert_equals_oracle("full", Attention(window, length, 0, False, sink_logits, "none", heads))


@pytest.mark.parametrize("sink_logits", [False, True])
@pytest.mark.parametrize("sinks", [0, 2])
@pytest.mark.parametrize(("window", "length"), [(1, 8), (3, 18), (7, 38), (None, 13)])
def test_bf16_is_within_its_own_error(
    kernel: str, window: int | None, length: int, sinks: int, sink_logits: bool
) -> None:
    """A softmax in bf16 would have a much larger error than the rounding of its inputs."""
    case = Attention(window, length, sinks, sinks > 0, sink_logits)
    x = detached(case.inputs(torch.bfloat16))
    out = run_kernel(kernel, case, x)
    assert out.dtype == torch.bfloat16
    exact = reference.attention(
        window=window, sinks=sinks, **{name: part.double() for name, part in x.items()}
    )
    # Scores up to 8 are rounded to 2^-8 of themselves, and so are the weights and the sum.
    torch.testing.assert_close(out.double(), exact, rtol=2**-7, atol=2**-6)


@pytest.mark.parametrize("window", [1, 3, None])
def test_cached_keys_may_stand_in_any_order(window: int | None) -> None:
    """A ring holds keys in any order behind its sinks, with empty slots. Only the positions may
    decide which keys are visible."""
    case = Attention(window, 9, 2, True, True)
    x = detached(case.inputs())
    order = torch.tensor([0, 1, 4, 8, 2, 6, 3, 7, 5])
    empty = torch.full((3,), -1)
    junk = torch.full((2, 2, 3, 4), 1e6, dtype=torch.float64)
    visibility = Visibility(window, 2, torch.arange(9)[None], torch.cat((order, empty))[None])
    out = kernels.attend(
        x["q"],
        torch.cat((x["k"][:, :, order], junk), 2),
        torch.cat((x["v"][:, :, order], junk), 2),
        visibility,
        q_sinks=x.get("q_sinks"),
        sink_logits=x["sink_logits"],
    )
    torch.testing.assert_close(out, expected(case)["output"], rtol=0, atol=1e-10)


@pytest.mark.parametrize("sinks", [0, 1])
@pytest.mark.parametrize("sink_logits", [None, torch.zeros(4, dtype=torch.float64)])
def test_a_padded_query_is_never_nan(sink_logits: Tensor | None, sinks: int) -> None:
    """NaN in the output for padding would spread to gradients and sums."""
    x = {name: torch.cat((part, part), 2) for name, part in Attention(2, 2).inputs().items()}
    at = torch.tensor([[-1, 0, 1, 2], [0, 1, 2, 3]])
    out = kernels.attend(
        x["q"], x["k"], x["v"], Visibility(2, sinks, at, at[:, [1, 2, 3, 0]]),
        sink_logits=sink_logits,
    )  # fmt: skip
    assert out.isfinite().all()
    gradients = torch.autograd.grad(out[:, :, 1:].sum(), list(x.values()))
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_large_scores_do_not_overflow(kernel: str) -> None:
    """exp(1000) is inf: the largest score or logit must be subtracted."""
    case = Attention(3, 18, 2, True, True)
    x = detached(case.inputs())
    for scaled in ("q", "q_sinks", "sink_logits"):
        large = x | {scaled: 1e3 * x[scaled]}
        assert run_kernel(kernel, case, large).isfinite().all()


class Largest(TorchDispatchMode):
    """Records the size of the largest tensor that any operation returns."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for part in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(part, Tensor):
                self.numel = max(self.numel, part.numel())
        return out


@pytest.mark.parametrize("documents", ["none", "packed"])
@pytest.mark.parametrize("sinks", [0, 2])
@pytest.mark.parametrize("sink_logits", [False, True])
def test_blocked_computes_the_band_only(sinks: int, sink_logits: bool, documents: str) -> None:
    """All T * T scores could be computed and masked. With documents, sinks and sink logits, forward
    and backward, the largest tensor must grow in proportion to T."""
    sizes = []
    for length in (256, 512, 1024):
        case = Attention(16, length, sinks, True, sink_logits, documents)
        with Largest() as largest:
            output_and_gradients(lambda x, c=case: run_kernel("blocked", c, x), case.inputs())
        sizes.append(largest.numel)
    assert sizes == [sizes[0], 2 * sizes[0], 4 * sizes[0]]
    # Two rows, four heads, a block of 16 that sees itself and the 16 before: 32 scores a query,
    # whatever is merged afterwards.
    assert sizes[0] == 2 * 4 * 256 * 32


def test_the_size_of_dense_is_noticed() -> None:
    """The measurement of the test above could miss large tensors."""
    sizes = []
    for length in (64, 128):
        case = Attention(16, length)
        with Largest() as largest:
            output_and_gradients(lambda x, c=case: run_kernel("dense", c, x), case.inputs())
        sizes.append(largest.numel)
    assert sizes == [2 * 4 * 64 * 64, 2 * 4 * 128 * 128]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="flex is fused, and trains, on CUDA only")
@pytest.mark.parametrize("documents", ["none", "packed"])
@pytest.mark.parametrize("sinks", [0, 2])
@pytest.mark.parametrize(("window", "length"), [(16, 200), (100, 300), (None, 200)])
def test_flex_on_cuda(window: int | None, length: int, sinks: int, documents: str) -> None:
    """On CUDA, the fused kernel and its backward pass are other code than on a CPU."""
    case = Attention(window, length, sinks, sinks > 0, True, documents)
    draw = torch.Generator().manual_seed(0)
    wide = {  # fused kernels want heads of 16 numbers or more
        name: torch.randn(*x.shape[:-1], 16, generator=draw) if x.dim() == 4 else x.float()
        for name, x in case.inputs().items()
    }
    by_kernel = [
        output_and_gradients(
            lambda x, name=name: run_kernel(name, case, x),
            {part: x.detach().to(device).requires_grad_() for part, x in wide.items()},
        )
        for name, device in (("flex", "cuda"), ("dense", "cpu"))
    ]
    for part, ours in by_kernel[0].items():
        torch.testing.assert_close(ours.cpu(), by_kernel[1][part], rtol=1e-2, atol=1e-2, msg=part)


def test_choose_says_what_attend_calls() -> None:
    """The plan would print a kernel that is not used."""
    cases = {
        ("auto", 4, 5): ("blocked", "flex", "blocked"),  # on a CPU, on CUDA, with documents
        ("auto", 5, 5): ("full", "full", "dense"),
        ("auto", None, 5): ("full", "full", "dense"),
        ("blocked", 4, 5): ("blocked", "blocked", "blocked"),
        ("blocked", None, 5): ("full", "full", "dense"),
        ("dense", 4, 5): ("dense", "dense", "dense"),
        ("dense", None, 5): ("dense", "dense", "dense"),
        ("flex", 4, 5): ("flex", "flex", "flex"),
        ("flex", None, 5): ("flex", "flex", "flex"),
    }
    for arguments, (on_cpu, on_cuda, packed) in cases.items():
        assert kernels.choose(*arguments)[0] == on_cpu
        assert kernels.choose(*arguments, device="cuda")[0] == on_cuda
        assert kernels.choose(*arguments, documents=True)[0] == packed
    assert kernels.choose("auto", None, 5, device="cuda", documents=True)[0] == "flex"
    assert kernels.choose("flex", 4, 5, device="cuda", cached=True)[0] == "dense"


def test_every_kernel_of_the_config_exists() -> None:
    """A name that the config allows could end in a KeyError in the middle of a run."""
    assert set(ATTENTION) - {"auto"} == set(kernels.KERNELS) - {"full", "native"}


def test_a_cached_call_gets_the_kernel_that_choose_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel would have to be entered twice, for training and for decoding."""
    calls: list[bool] = []

    def chosen(*_: Any, cached: bool, **__: Any) -> tuple[str, str]:
        calls.append(cached)
        return "dense", "set by the test"

    monkeypatch.setattr(kernels, "choose", chosen)
    model = build(3)
    with torch.no_grad():
        model(text(4))
        model(text(4), cache=RollingKVCache(model.config, dtype=torch.float64))
    assert calls == [False] * 3 + [True] * 3
