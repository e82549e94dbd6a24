"""The rolling cache: the same logits as without it, in memory that does not grow."""

from functools import cache as remember
from itertools import product
from typing import Any

import pytest
import torch
from small import HEADS, VOCAB, build, config, oracle, text, width
from torch import Tensor

from errors import UserError
from model import decoding
from model.cache import RollingKVCache
from model.cost import cache_bytes
from model.transformer import Transformer

STACKS = [1, 2, 3, 7, None, (3, None), (1, 3, None)]


# Settings of models, beside their windows.
FEATURES: dict[str, dict[str, Any]] = {
    "plain": {},
    "sinks": {"attention_sinks": 2},
    "token": {"sink_token": True},
    "logits": {"sink_logits": True},
    "all": {"attention_sinks": 2, "sink_token": True, "sink_logits": True},
    "rope": {
        "attention_sinks": 1,
        "sink_token": True,
        "rope_theta_local": 100.0,
        "rope_scaling": "linear",
        "rope_factor": 2.0,
    },
}
MORE = ("sinks", "token", "logits", "rope")
CHUNKS = ("1", "W-1", "W", "W+1", "3W", "all")


def new_cache(
    model: Transformer, rows: int = 1, capacity: int | None = 200, spare: int = 0
) -> RollingKVCache:
    return RollingKVCache(model.config, rows, capacity, torch.float64, spare=spare)


@remember
def uncached(
    window: Any, features: str, heads: tuple[int, int] = (4, 2)
) -> tuple[Transformer, Tensor, Tensor]:
    """Return a model, a text of 13W + 2 tokens, and its logits without a cache."""
    shape = {"n_heads": heads[0], "n_kv_heads": heads[1]}
    model = build(window, **FEATURES[features], **shape)
    tokens = text(13 * width(window) + 2)
    with torch.no_grad():
        return model, tokens, model(tokens)[0]


@torch.no_grad()
def chunked_logits(model: Transformer, cache: RollingKVCache, tokens: Tensor, chunk: int) -> Tensor:
    """Return the logits (T, V) of one row, read through the cache in chunks."""
    return torch.cat([model(part, cache=cache)[0] for part in tokens.split(chunk, dim=1)])


def cached_cases() -> list[Any]:
    """Return every stack, chunk, feature and number of spare slots, with shapes of heads in turn.
    Two of each stack and chunk are not marked `prove`."""
    combinations = list(product(FEATURES, (0, 1, 3)))
    params = []
    for n, (window, chunk) in enumerate(product(STACKS, CHUNKS)):
        chosen = {5 * n % len(combinations), (5 * n + 7) % len(combinations)}
        for m, (features, spare) in enumerate(combinations):
            marks = () if m in chosen else (pytest.mark.prove,)
            heads = HEADS[(n + m // 3) % len(HEADS)]
            params.append(pytest.param(window, chunk, features, heads, spare, marks=marks))
    return params


@pytest.mark.parametrize(("window", "chunk", "features", "heads", "spare"), cached_cases())
def test_cached_logits_are_the_uncached_ones(
    window: Any, chunk: str, features: str, heads: tuple[int, int], spare: int
) -> None:
    """A key could be overwritten too early, a slot be off by one, a sink be lost or a key be
    rotated twice: at any position of a prompt in chunks of any length, or of up to 10W decoded
    tokens."""
    w = width(window)
    size = {"1": 1, "W-1": w - 1, "W": w, "W+1": w + 1, "3W": 3 * w, "all": 3 * w + 2}[chunk] or 1
    model, tokens, expected = uncached(window, features, heads)
    cache = new_cache(model, spare=spare)
    prompt = chunked_logits(model, cache, tokens[:, : 3 * w + 2], size)
    further = 10 * w if chunk in ("W", "all") else 2 * w + 1  # the rest: twice around the ring
    decoded = chunked_logits(model, cache, tokens[:, 3 * w + 2 : 3 * w + 2 + further], 1)
    logits = torch.cat((prompt, decoded))
    torch.testing.assert_close(logits, expected[: len(logits)], rtol=0, atol=1e-10)


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("window", [1, 3, (3, None), (1, 3, None)])
def test_cached_logits_are_the_oracles(window: Any, features: str) -> None:
    """Cache and kernels could have the same error."""
    model, tokens = build(window, **FEATURES[features]), text(20)
    ours = chunked_logits(model, new_cache(model), tokens, 4)
    with torch.no_grad():
        expected = oracle(model, tokens[0])
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("sinks", [0, 2, 3])
@pytest.mark.parametrize("window", [1, 2, 3, 7])
def test_after_ten_windows_nothing_has_grown(window: int, sinks: int) -> None:
    """A cache could grow, be allocated again or count wrongly. (Three sinks: one is the sink
    token.)"""
    token = int(sinks == 3)
    model = build(window, attention_sinks=sinks - token, sink_token=bool(token))
    tokens = text(10 * window + 1)
    cache = new_cache(model, capacity=None)
    storage = [(ring.k.data_ptr(), ring.v.data_ptr()) for ring in cache.layers]
    nbytes = cache.nbytes
    assert nbytes == 2 * 8 * 2 * 4 * 3 * (window + sinks)  # k, v; bytes; K; Dh; layers; slots
    chunked_logits(model, cache, tokens[:, :-1], 1)
    assert cache.seen.tolist() == [10 * window]
    assert cache.nbytes == nbytes
    assert [(ring.k.data_ptr(), ring.v.data_ptr()) for ring in cache.layers] == storage
    newest = token + 10 * window - 1  # the position that was written last
    for ring in cache.layers:
        assert ring.k.shape[2] == ring.v.shape[2] == ring.positions.shape[1] == window + sinks
        cached = set(ring.positions[0].tolist())
        assert cached == {*range(sinks), *range(newest - window + 1, newest + 1)}
    with torch.no_grad():
        last, expected = model(tokens[:, -1:], cache=cache)[0, -1], model(tokens)[0, -1]
    torch.testing.assert_close(last, expected, rtol=0, atol=1e-10)


def test_slots_are_positions_mod_the_window() -> None:
    """The table in the docstring of `model/cache.py` would be wrong."""
    model = build(4)
    cache = new_cache(model)
    documented = {4: [0, 1, 2, 3], 5: [4, 1, 2, 3], 7: [4, 5, 6, 3]}
    for n, token in enumerate(text(7)[0], start=1):
        chunked_logits(model, cache, token[None, None], 1)
        if n in documented:
            assert cache.layers[0].positions[0].tolist() == documented[n]


def test_only_the_reach_is_remembered() -> None:
    """The last logits of a long text depend on its last L * (W - 1) + 1 tokens only."""
    model, tokens, expected = uncached(7, "plain")
    for tail, same in ((3 * 6 + 1, True), (3 * 6, False)):
        last = chunked_logits(model, new_cache(model), tokens[:, -tail:], 5)[-1]
        assert torch.allclose(last, expected[-1], rtol=0, atol=1e-9) == same


@pytest.mark.parametrize("start", [1_000, 10_000_000])
def test_positions_have_no_end(start: int) -> None:
    """A table of rotations would end; angles in fp32 would be inexact."""
    model, tokens, expected = uncached(3, "logits")
    cache = new_cache(model, capacity=None)
    cache.seen += start
    logits = chunked_logits(model, cache, tokens, 4)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [1, 2, 5, 256])
@pytest.mark.parametrize(
    "features", ["plain", "all", *(pytest.param(f, marks=pytest.mark.prove) for f in MORE)]
)
@pytest.mark.parametrize("window", [1, 3, 7, (3, None)])
def test_ragged_rows_get_what_they_get_alone(
    window: Any, features: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Padding could be visible, counted or cached, also in chunks of padding only."""
    monkeypatch.setattr(decoding, "PREFILL_CHUNK", size)
    w = width(window)
    model, tokens, _ = uncached(window, features)
    lengths = [1, w, 3 * w]
    prompts = [tokens[0, row : row + n].tolist() for row, n in enumerate(lengths)]
    further = text(12, rows=3, seed=5)
    cache = new_cache(model, rows=3)
    with torch.no_grad():
        ragged = [decoding.Decoder(model, cache).prefill(prompts)]
        ragged += [model(step, cache=cache)[:, -1] for step in further.split(1, dim=1)]
        assert cache.seen.tolist() == [n + 12 for n in lengths]
        for row, prompt in enumerate(prompts):
            alone = model(torch.cat((torch.tensor(prompt), further[row]))[None])[0, -13:]
            ours = torch.stack([logits[row] for logits in ragged])
            torch.testing.assert_close(ours, alone, rtol=0, atol=1e-10)


@pytest.mark.parametrize("features", FEATURES)
def test_padding_may_stand_anywhere(features: str) -> None:
    """Padding in the middle or at the end of a chunk could have an effect."""
    model, tokens, expected = uncached(3, features)
    padding = torch.rand(2 * tokens.shape[1], generator=torch.Generator().manual_seed(0)) < 0.5
    columns = (~padding).nonzero().flatten()[: tokens.shape[1]]
    padded = torch.full((1, len(padding)), -1)
    padded[0, columns] = tokens[0, : len(columns)]
    logits = chunked_logits(model, new_cache(model), padded, 4)[columns]
    torch.testing.assert_close(logits, expected[: len(columns)], rtol=0, atol=1e-10)


def test_a_layer_that_keeps_every_token_refuses_a_longer_text() -> None:
    """Overwriting a key would give wrong logits. A full layer needs a capacity."""
    with pytest.raises(UserError, match="capacity"):
        RollingKVCache(config((3, None)))
    model = build((3, None))
    cache = new_cache(model, capacity=5)
    chunked_logits(model, cache, text(5), 2)
    before = [ring.k.clone() for ring in cache.layers]
    with pytest.raises(UserError, match="capacity"):
        chunked_logits(model, cache, text(1), 1)
    assert cache.seen.tolist() == [5]
    assert all(torch.equal(k, ring.k) for k, ring in zip(before, cache.layers, strict=True))


@pytest.mark.parametrize("features", ["plain", "sinks", "all"])
@pytest.mark.parametrize("capacity", [1, 4, 6, 7, 8, 9, 20])
def test_a_window_wider_than_the_capacity(capacity: int, features: str) -> None:
    """It holds `capacity` tokens: exact up to these, then an error instead of a lost key."""
    model, tokens, expected = uncached(7, features)
    cache = new_cache(model, capacity=capacity)
    slots = 7 + model.config.attention_sinks
    for n, token in enumerate(tokens[0, :30]):
        try:
            logits = chunked_logits(model, cache, token[None, None], 1)[0]
        except UserError:
            assert n == capacity < slots
            break
        torch.testing.assert_close(logits, expected[n], rtol=0, atol=1e-10)
    else:
        assert capacity >= slots


@pytest.mark.parametrize("window", [1, 7, None, (3, None)])
@pytest.mark.parametrize("features", FEATURES)
def test_plan_counts_the_bytes_that_are_allocated(window: Any, features: str) -> None:
    """`plan` would print a size that the cache does not have."""
    shape = config(window, **FEATURES[features])
    for length in (1, 8, 9, 50):
        cache = RollingKVCache(shape, 3, length, torch.bfloat16)
        assert cache.nbytes == 3 * cache_bytes(shape, length, bytes_per_value=2)


def test_cached_tensors_have_no_graph() -> None:
    """Without `no_grad`, each call would keep the graphs of all earlier calls in memory."""
    model = build(3)
    cache = new_cache(model)
    for _ in range(2):
        assert model(text(4), cache=cache).requires_grad
    assert not any(x.requires_grad for ring in cache.layers for x in (ring.k, ring.v))


def test_rows_do_not_mix() -> None:
    """The keys of one text could be visible to the other."""
    model = build(3)
    tokens = torch.randint(VOCAB, (2, 12), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        cache = new_cache(model, rows=2)
        cached = torch.cat([model(part, cache=cache) for part in tokens.split(5, dim=1)], dim=1)
        alone = torch.cat([model(row[None]) for row in tokens])
    torch.testing.assert_close(cached, alone, rtol=0, atol=1e-10)
