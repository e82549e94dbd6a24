"""Going back, saving and restoring: exact, or an error with nothing changed."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small import build, text
from torch import Tensor

from errors import UserError
from model.cache import RollingKVCache
from model.transformer import Transformer

MODELS: dict[str, dict[str, Any]] = {
    "W1": {"sliding_window": 1},
    "W3": {"sliding_window": 3},
    "mixed": {"sliding_window": [3, None, 7]},
    "sinks": {"sliding_window": 3, "attention_sinks": 2},
    "token": {"sliding_window": [3, 5], "sink_token": True, "sink_logits": True},
}
LENGTH = 24


def chunked_logits(
    model: Transformer, cache: RollingKVCache, tokens: Tensor, chunk: int = 4
) -> Tensor:
    return torch.cat([model(part, cache=cache) for part in tokens.split(chunk, dim=1)], dim=1)


def state_of(cache: RollingKVCache) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in cache.state_dict().items()}


def equal_states(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def crop_unchecked(cache: RollingKVCache, position: int) -> None:
    """Go back without the check that this is possible."""
    for ring in cache.layers:
        ring.positions[ring.positions >= position] = -1
    cache.seen.fill_(position - cache.first_position)


@pytest.mark.parametrize("spare", [0, 1, 3])
@pytest.mark.parametrize(
    "seen", [12, *(pytest.param(n, marks=pytest.mark.prove) for n in (2, 9, 20))]
)
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_crop_is_right_or_refused(name: str, seen: int, spare: int) -> None:
    """Missing keys would give wrong logits without an error. Every length is tried. After an
    allowed crop, the logits equal those without a cache. A refused crop changes nothing and would
    be wrong."""
    model, tokens = build(**MODELS[name]), text(LENGTH)
    windows = [window for window in model.config.windows if window is not None]
    filled = RollingKVCache(model.config, 1, 2 * LENGTH, torch.float64, spare=spare)
    chunked_logits(model, filled, tokens[:, :seen])
    before = state_of(filled)
    for kept in range(seen + 1):
        cache = deepcopy(filled)
        other = torch.cat((tokens[:, :kept], tokens.flip(1)[:, : LENGTH - kept]), dim=1)
        expected = model(other)[:, kept:]
        sinks, n_front = model.config.sinks, int(model.config.sink_token)
        possible = True
        for window in windows:
            # The next query needs these keys beside the sinks; the ring has the last W + spare.
            needed = range(max(kept + n_front - window + 1, sinks), kept + n_front)
            oldest = seen + n_front - window - spare
            possible = possible and all(position >= oldest for position in needed)
        if not possible:
            with pytest.raises(UserError, match="overwritten"):
                cache.crop(kept)
            assert equal_states(before, cache.state_dict())
            crop_unchecked(cache, kept + n_front)
            assert (chunked_logits(model, cache, other[:, kept:], 5) - expected).abs().max() > 1e-6
            continue
        cache.crop(kept)
        assert cache.seen.tolist() == [kept]
        continued = chunked_logits(model, cache, other[:, kept:], 5)
        torch.testing.assert_close(continued, expected, rtol=0, atol=1e-10)


@torch.no_grad()
def test_each_row_goes_back_by_itself() -> None:
    """Going back in one row could shorten the others."""
    model, tokens = build(3), text(LENGTH, rows=2)
    cache = RollingKVCache(model.config, 2, dtype=torch.float64, spare=4)
    chunked_logits(model, cache, tokens[:, :20])
    cache.crop([20, 16])
    assert cache.seen.tolist() == [20, 16]
    rest = tokens[:, 20:]
    rows = [torch.cat((tokens[0, :20], rest[0])), torch.cat((tokens[1, :16], rest[1]))]
    continued = chunked_logits(model, cache, rest, 1)
    for row, ours in zip(rows, continued, strict=True):
        expected = model(row[None])[0, -rest.shape[1] :]
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_drafts_are_cropped_in_many_rounds(name: str) -> None:
    """Speculative decoding: each round reads four tokens and keeps some of them in each row, far
    beyond the window. A slot that is freed by mistake would have an effect rounds later."""
    model = build(**MODELS[name])
    cache = RollingKVCache(model.config, 2, 100, torch.float64, spare=3)
    draw = torch.Generator().manual_seed(0)
    rows: list[list[int]] = [[], []]
    for _ in range(12):
        draft = torch.randint(61, (2, 4), generator=draw)
        logits = model(draft, cache=cache)
        accepted = torch.randint(0, 5, (2,), generator=draw).tolist()
        for row, kept in enumerate(accepted):
            tokens = torch.tensor([rows[row] + draft[row].tolist()])
            expected = model(tokens)[0, -4:]
            torch.testing.assert_close(logits[row], expected, rtol=0, atol=1e-10)
            rows[row] += draft[row, :kept].tolist()
        cache.crop([len(row) for row in rows])
        assert cache.seen.tolist() == [len(row) for row in rows]


@torch.no_grad()
def test_a_full_cache_that_went_back_has_room_again() -> None:
    """The count that is compared with the capacity could include the removed tokens."""
    model, tokens = build((3, None)), text(12)
    cache = RollingKVCache(model.config, 1, 10, torch.float64, spare=3)
    chunked_logits(model, cache, tokens[:, :10])
    with pytest.raises(UserError, match="larger capacity"):
        model(tokens[:, 10:11], cache=cache)
    cache.crop(8)
    continued = chunked_logits(model, cache, tokens[:, 8:10])
    torch.testing.assert_close(continued, model(tokens[:, :10])[:, 8:], rtol=0, atol=1e-10)


@pytest.mark.parametrize("length", [-1, 21, [20, 21]])
def test_a_length_that_was_not_seen_is_refused(length: Any) -> None:
    """Positions would count from a token that was never read."""
    model = build(3)
    cache = RollingKVCache(model.config, 2, dtype=torch.float64)
    with torch.no_grad():
        chunked_logits(model, cache, text(20, rows=2))
    before = state_of(cache)
    with pytest.raises(UserError, match="crop to"):
        cache.crop(length)
    assert equal_states(before, cache.state_dict())


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_a_restored_cache_continues_bit_for_bit(name: str, tmp_path: Path) -> None:
    """The saved state could lack slots, positions or counts that decide the next token."""
    model, tokens = build(**MODELS[name]), text(LENGTH, rows=2)
    cache = RollingKVCache(model.config, 2, LENGTH, torch.float64, spare=1)
    ragged = tokens.clone()
    ragged[1, :5] = -1
    chunked_logits(model, cache, ragged[:, :13])
    save_file(
        {name: tensor.contiguous() for name, tensor in state_of(cache).items()}, tmp_path / "cache"
    )
    restored = RollingKVCache(model.config, 2, LENGTH, torch.float64, spare=1)
    restored.load_state_dict(load_file(tmp_path / "cache"))
    assert torch.equal(
        chunked_logits(model, cache, tokens[:, 13:], 2),
        chunked_logits(model, restored, tokens[:, 13:], 2),
    )
    assert equal_states(state_of(cache), state_of(restored))


@pytest.mark.parametrize(
    "changes",
    [{"batch_size": 3}, {"spare": 2}, {"dtype": torch.float32}, {"config": build(4).config}],
)
def test_a_cache_of_another_shape_is_refused(changes: dict[str, Any]) -> None:
    """torch would broadcast or round without an error, or fail after half of the tensors."""
    settings: dict[str, Any] = {"config": build(3).config, "batch_size": 2, "dtype": torch.float64}
    state = RollingKVCache(**(settings | changes)).state_dict()
    cache = RollingKVCache(**settings)
    before = state_of(cache)
    with pytest.raises(UserError, match="a cache of another shape"):
        cache.load_state_dict(state)
    assert equal_states(before, cache.state_dict())


@pytest.mark.parametrize("spare", [0, 2, 5])
def test_spare_slots_are_counted(spare: int) -> None:
    """`nbytes`, from which memory is planned, would be wrong."""
    shape = build([3, None, 7], attention_sinks=2).config
    cache = RollingKVCache(shape, 2, 50, torch.bfloat16, spare=spare)
    slots = (3 + 2 + spare) + 50 + (7 + 2 + spare)
    assert cache.nbytes == 2 * 2 * 2 * 4 * 2 * slots  # k and v, rows, K, Dh, bytes
