"""Small models, the grid of cases and the kernels, shared by the tests of this folder."""

import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import cycle, islice, product
from typing import Any

import pytest
import reference
import torch
from torch import Tensor

from model.config import ModelConfig
from model.kernels import blocked
from model.transformer import Transformer

VOCAB = 61

# Kernels by name. `blocked-2-4` has blocks of 2 to 4, so that a short text crosses many of them.
KERNELS = ("dense", "blocked", "blocked-1-1", "blocked-2-4", "blocked-3-3", "flex", "auto")
BACKWARD = tuple(name for name in KERNELS if name != "flex")  # flex has gradients on CUDA only
DTYPES = (torch.float64, torch.float32, torch.bfloat16)


def lengths(window: int) -> list[int]:
    """Return 1, W-1, W, W+1, 2W-1, 2W, 2W+1 and 5W+3: so W is also T-1, T, T+1."""
    sizes = {1, window - 1, window, window + 1, *range(2 * window - 1, 2 * window + 2)}
    return sorted((sizes | {5 * window + 3}) - {0})


# (W, T) for a single layer.
GRID = [(window, length) for window in (1, 2, 3, 7) for length in lengths(window)]
GRID += [(5, 13), (None, 13)]

# (model.sliding_window, T) for a whole model.
STACKS: list[tuple[Any, int]] = [*GRID, (12, 13), (13, 13), (14, 13), (None, 1), (None, 2)]
STACKS += [(stack, length) for stack in ((3, None), (1, 3, None)) for length in lengths(3)]


@dataclass(frozen=True)
class Case:
    """The attention of a model, and the length of its text."""

    window: Any
    length: int
    sinks: int = 0
    sink_token: bool = False
    sink_logits: bool = False
    packed: bool = False
    heads: tuple[int, int] = (4, 2)

    def __str__(self) -> str:
        names = ("sink_token", "sink_logits", "packed")
        words = [name for name in names if getattr(self, name)]
        shape = f"W{self.window}-T{self.length}-n{self.sinks}-H{self.heads[0]}.{self.heads[1]}"
        return "-".join([shape.replace(" ", ""), *words])

    def build(self, **changes: Any) -> Transformer:
        """Build the model; its weights depend on its shapes only."""
        sinks = {name: getattr(self, name) for name in ("sink_token", "sink_logits")}
        n_heads, n_kv_heads = self.heads
        heads = {"n_heads": n_heads, "n_kv_heads": n_kv_heads, "attention_sinks": self.sinks}
        return build(self.window, **(sinks | heads | changes))

    def tokens(self) -> Tensor:
        """Return one row, or two if documents are packed: each row has its own documents."""
        return text(self.length, rows=2 if self.packed else 1)

    def documents(self) -> Tensor | None:
        """Return the document of each token, (2, T), or None."""
        return pack(self.length, width(self.window)) if self.packed else None


YES_NO = (False, True)
HEADS = ((4, 4), (4, 2), (4, 1))


def cases(every: int = 1, heads: tuple[tuple[int, int], ...] = HEADS) -> list[Any]:
    """Return the full grid. One case of each stack and length (or of each `every`-th) is not marked
    `prove`. 11 has no common divisor with 48 and 16, so each combination of features is chosen."""
    features = list(product((0, 2), YES_NO, YES_NO, YES_NO, heads))
    params = []
    for n, (window, length) in enumerate(STACKS):
        chosen = 11 * n % len(features) if n % every == 0 else None
        for m, combination in enumerate(features):
            case = Case(window, length, *combination)
            marks = () if m == chosen else (pytest.mark.prove,)
            params.append(pytest.param(case, id=str(case), marks=marks))
    return params


def width(window: Any) -> int:
    """Return the W from which chunks, lengths and documents are derived."""
    return window if isinstance(window, int) else 3


def pack(length: int, window: int) -> Tensor:
    """Number documents (2, T) of about W tokens and documents of one token. The numbers
    decrease."""
    sizes = [window, 1, window + 1, 2 * window + 1, max(window - 1, 1), 2]
    rows = []
    for row in (sizes, sizes[::-1]):
        numbered = (
            number
            for number, size in zip(range(length, 0, -1), cycle(row), strict=False)
            for _ in range(size)
        )
        rows.append(list(islice(numbered, length)))
    return torch.tensor(rows)


@contextmanager
def using(kernel: str, model: Transformer | None = None) -> Iterator[str]:
    """Set the block sizes in a kernel's name, and the kernel of the model's layers. Yields the
    kernel's name in `model.attention`."""
    name, *block = kernel.split("-")
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        if block:
            patch.setattr(blocked, "SMALLEST_BLOCK", int(block[0]))
            patch.setattr(blocked, "LARGEST_BLOCK", int(block[1]))
        for layer in model.layers if model else ():
            patch.setattr(layer.attention, "kernel", name)
        if name == "flex":  # on a CPU, compilation costs time for each shape and saves none
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield name


def config(sliding_window: Any = 3, **changes: Any) -> ModelConfig:
    """Three layers, four query heads on two key heads."""
    sizes: dict[str, Any] = {"vocab_size": VOCAB, "dim": 16, "n_layers": 3, "hidden_dim": 24}
    heads = {"n_heads": 4, "n_kv_heads": 2}
    return ModelConfig(sliding_window=sliding_window, **(sizes | heads | changes))


def build(
    sliding_window: Any = 3, *, seed: int = 0, dtype: torch.dtype = torch.float64, **changes: Any
) -> Transformer:
    """Build a model in which every weight has an effect. Weights depend on seed, name and shape.

    (In a new model, residual projections and sink logits are zero.)
    """
    model = Transformer(config(sliding_window, **changes)).to(dtype)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = drawn(name, weight.shape, seed)
            if "norm" in name:
                weight.copy_(1 + 0.2 * noise)
            elif "tok" in name or "sink" in name:
                weight.copy_(noise)
            else:
                weight.copy_(noise * weight.shape[1] ** -0.5)
    return model


@cache
def drawn(name: str, shape: torch.Size, seed: int) -> Tensor:
    """Return random numbers for the weight of this name."""
    draw = torch.Generator().manual_seed(seed + zlib.crc32(name.encode()))
    return torch.randn(shape, generator=draw, dtype=torch.float64)


def text(length: int, rows: int = 1, seed: int = 1) -> Tensor:
    """Return random tokens (rows, length). In the first row, the first VOCAB tokens all differ."""
    draw = torch.Generator().manual_seed(seed)
    copies = -(-length // VOCAB)
    order = [torch.cat([torch.randperm(VOCAB, generator=draw) for _ in range(copies)])[:length]]
    order += [torch.randint(VOCAB, (length,), generator=draw) for _ in range(rows - 1)]
    return torch.stack(order)


def windows(shape: ModelConfig) -> list[int | None]:
    """Return the window of each layer, without the code in `model/`."""
    pattern = shape.sliding_window
    tiled = pattern if isinstance(pattern, tuple) else (pattern,)
    return [tiled[n % len(tiled)] for n in range(shape.n_layers)]


def oracle(model: Transformer, tokens: Tensor, documents: Tensor | None = None) -> Tensor:
    """Return the logits (T, V) of `reference` for tokens (T,), each document alone."""
    shape = model.config
    plain = reference.Rope(
        shape.rope_theta, shape.rope_scaling, shape.rope_factor, shape.rope_original_len
    )
    local = plain if shape.rope_theta_local is None else reference.Rope(shape.rope_theta_local)

    def document_logits(columns: list[int]) -> Tensor:
        return reference.logits(
            dict(model.state_dict(keep_vars=True)),
            tokens[columns].tolist(),
            windows=windows(shape),
            ropes=[plain if window is None else local for window in windows(shape)],
            sinks=shape.attention_sinks + int(shape.sink_token),
            n_heads=shape.n_heads,
            n_kv_heads=shape.n_kv_heads,
            head_dim=shape.head_dim,  # type: ignore[arg-type]
            norm_eps=shape.norm_eps,
        )

    whole = [1] * len(tokens) if documents is None else documents.tolist()
    return torch.cat([document_logits(columns) for columns in reference.runs(whole)])


def sources(model: Transformer, n_layers: int, documents: list[int]) -> Tensor:
    """Return which token (column) influences which output (row) after `n_layers`: (T, T) bool."""
    shape = model.config
    first = int(shape.sink_token)
    reached = torch.zeros(len(documents), len(documents), dtype=torch.bool)
    for columns in reference.runs(documents):
        sinks = shape.attention_sinks + first
        sets = reference.depends(windows(shape)[:n_layers], sinks, first + len(columns))
        for column, sources_of in zip(columns, sets[first:], strict=True):
            reached[column, [columns[s - first] for s in sources_of if s >= first]] = True
    return reached
