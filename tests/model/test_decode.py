"""Decoding reads the ring in place, with shapes that depend on no data."""

from collections import Counter
from typing import Any

import pytest
import torch
from small import build, text
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from model import attention
from model.cache import FILLED_STEP, RollingKVCache
from model.config import ModelConfig
from model.transformer import Transformer

FEATURES: dict[str, dict[str, Any]] = {
    "plain": {},
    "sinks": {"attention_sinks": 2},
    "all": {"attention_sinks": 2, "sink_token": True, "sink_logits": True},
}


class Operations(TorchDispatchMode):
    """Counts the operations that run, each with the shapes of its output."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[tuple[str, str]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        parts = out if isinstance(out, (tuple, list)) else [out]
        shapes = [tuple(part.shape) for part in parts if isinstance(part, Tensor)]
        self.seen[str(func), str(shapes)] += 1
        return out


@pytest.fixture
def attended(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, ...]]:
    """The keys, values and key positions of each call of `attend`, in order."""
    calls: list[tuple[Tensor, ...]] = []
    attend = attention.attend

    def recorded(
        q: Tensor, k: Tensor, v: Tensor, visibility: Any, *rest: Any, **more: Any
    ) -> Tensor:
        calls.append((k, v, visibility.key_positions))
        return attend(q, k, v, visibility, *rest, **more)

    monkeypatch.setattr(attention, "attend", recorded)
    return calls


def cached(model: Transformer, tokens: Tensor, chunk: int, capacity: int = 200) -> RollingKVCache:
    """Return a cache that has read the tokens in chunks."""
    cache = RollingKVCache(model.config, len(tokens), capacity, torch.float64)
    for part in tokens.split(chunk, dim=1):
        model(part, cache=cache)
    return cache


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("window", [1, 7, (7, None)])
@torch.no_grad()
def test_a_decoded_token_attends_over_the_rings_own_memory(
    window: Any, features: str, attended: list[tuple[Tensor, ...]]
) -> None:
    """A copy of the ring for each token would cost more than its attention."""
    model, tokens = build(window, **FEATURES[features]), text(30, rows=2)
    cache = cached(model, tokens, 10)
    attended.clear()
    with Operations() as operations:
        model(tokens[:, :1], cache=cache)
    assert len(attended) == len(cache.layers)
    for ring, (k, v, positions) in zip(cache.layers, attended, strict=True):
        for actual, expected in ((k, ring.k), (v, ring.v), (positions, ring.positions)):
            assert actual.data_ptr() == expected.data_ptr()
            storages = [x.untyped_storage().data_ptr() for x in (actual, expected)]
            assert storages[0] == storages[1]
    copied = [shapes for (name, shapes) in operations.seen if name.startswith("aten.cat")]
    width = model.config.head_dim
    assert not any(f", {width})" in shapes for shapes in copied), copied  # of keys or values


@pytest.mark.parametrize("features", FEATURES)
@torch.no_grad()
def test_full_layers_attend_over_the_filled_slots_only(
    features: str, attended: list[tuple[Tensor, ...]]
) -> None:
    """A short text in a cache for 3,000 tokens would cost as much as 3,000 tokens."""
    model, tokens = build((7, None), **FEATURES[features]), text(FILLED_STEP + 20)
    cache = RollingKVCache(model.config, 1, 3000, torch.float64, spare=40)
    front = int(model.config.sink_token)
    for chunk in tokens.split(7, dim=1):
        attended.clear()
        model(chunk, cache=cache)
        scored = attended[-2][0].shape[2]  # in the second of three layers
        assert scored == FILLED_STEP * -(-(int(cache.seen) + front) // FILLED_STEP)
    cache.crop(FILLED_STEP - 10)
    attended.clear()
    model(tokens[:, :1], cache=cache)
    assert attended[-2][0].shape[2] == FILLED_STEP


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("chunk", [1, 5])
@torch.no_grad()
def test_operations_and_shapes_do_not_depend_on_the_data(chunk: int, features: str) -> None:
    """A shape that depends on data would wait for the device and could not be compiled or
    captured."""
    model, runs = build((7, None), **FEATURES[features]), []
    tokens = text(40, rows=2)
    padded = tokens.clone()
    padded[1, ::3] = -1
    for ids in (tokens, padded):
        cache = cached(model, ids[:, :20], 4)
        with Operations() as operations:
            model(ids[:, 20 : 20 + chunk], cache=cache)
        runs.append(operations.seen)
    assert runs[0] == runs[1]
    names = {name for name, _ in runs[0]}
    assert not any("nonzero" in name or "_local_scalar_dense" in name for name in names)


@pytest.mark.parametrize("features", FEATURES)
def test_a_step_runs_on_fake_tensors(features: str) -> None:
    """A step that reads data fails here: torch's fake tensors have shapes and no data."""
    config = ModelConfig(
        vocab_size=61, dim=16, n_layers=2, sliding_window=(7, None), **FEATURES[features]
    )
    with FakeTensorMode(), torch.no_grad():
        model = Transformer(config)
        cache = RollingKVCache(config, 2, 100)
        for length in (20, 1, 3, 1):
            logits = model(torch.zeros(2, length, dtype=torch.int64), cache=cache)
            assert logits.shape == (2, length, 61)
