"""Native code is the model: equal logits, and a cache that both may continue."""

from typing import Any

import pytest
import torch
from small import VOCAB, build, text
from torch import Tensor

from errors import UserError
from model.cache import RollingKVCache
from model.decoding import Decoder
from model.native import decode
from model.native.build import refusal
from model.transformer import Transformer

CASES: dict[str, dict[str, Any]] = {
    "W1": {"sliding_window": 1},
    "W7": {"sliding_window": 7, "n_kv_heads": 4},
    "full": {"sliding_window": None, "n_kv_heads": 1},
    "mixed": {"sliding_window": (1, 3, None), "tie_embeddings": True},
    "sinks": {"attention_sinks": 2, "tie_embeddings": True},
    "sink token": {"sink_token": True, "n_kv_heads": 1},
    "sink logits": {"sink_logits": True, "n_kv_heads": 4},
    "all sinks": {
        "sliding_window": (3, None, 5),
        "attention_sinks": 2,
        "sink_token": True,
        "sink_logits": True,
    },
    "yarn": {"rope_scaling": "yarn", "rope_factor": 4.0, "rope_original_len": 16, "head_dim": 24},
    "ntk": {"rope_scaling": "ntk", "rope_factor": 3.0, "sliding_window": None},
    "linear": {"rope_scaling": "linear", "rope_factor": 2.0, "attention_sinks": 1},
    "local theta": {"sliding_window": (3, None), "rope_theta_local": 50.0, "attention_sinks": 2},
    # Sizes that fill no panel of weights, and heads that do not fill the registers.
    "odd sizes": {"dim": 50, "hidden_dim": 33, "head_dim": 22, "vocab_size": VOCAB},
    "wide heads": {"dim": 72, "hidden_dim": 100, "head_dim": 106},
    "registers": {"dim": 128, "n_heads": 2, "n_kv_heads": 1, "hidden_dim": 64, "head_dim": 64},
}
LENGTH = 60  # many turns around a ring of 3


@pytest.fixture(autouse=True)
def built() -> None:
    """Skip without a compiler."""
    if reason := refusal("decode", bf16=False):
        pytest.skip(reason)


def model_of(name: str) -> Transformer:
    return build(dtype=torch.float32, **CASES[name]).requires_grad_(False)


def exact(name: str, tokens: Tensor) -> Tensor:
    """Return the logits (B, T, V) of the same weights in fp64, without a cache."""
    return build(**CASES[name]).requires_grad_(False)(tokens).float()


def decoder_of(model: Transformer, rows: int, spare: int = 0, native: bool = True) -> Decoder:
    return Decoder(model, RollingKVCache(model.config, rows, 100, spare=spare), native)


def steps(decoder: Decoder, tokens: Tensor) -> Tensor:
    """Return the logits (B, T, V) of tokens (B, T), read one at a time."""
    return torch.stack([decoder.step(column) for column in tokens.T], dim=1)


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 3, 32])
@pytest.mark.parametrize("name", CASES)
def test_native_steps_are_the_uncached_model(name: str, rows: int) -> None:
    """Any part of the model could be computed otherwise, at any position or in any row."""
    model, tokens = model_of(name), text(LENGTH, rows)
    decoder, expected = decoder_of(model, rows), exact(name, tokens)
    close(decoder.prefill(tokens[:, :5].tolist()), expected[:, 4])
    close(steps(decoder, tokens[:, 5:]), expected[:, 5:])


@pytest.mark.parametrize("chunk", [2, 7, 50])
@pytest.mark.parametrize("name", CASES)
def test_native_chunks_are_the_uncached_model(name: str, chunk: int) -> None:
    """A token could see the key that a later one of its chunk writes over an earlier one."""
    tokens, expected = text(LENGTH, 2), exact(name, text(LENGTH, 2))
    decoder = decoder_of(model_of(name), 2)
    steps(decoder, tokens[:, :4])  # also primes a sink token, which PyTorch computes
    parts = tokens[:, 4:].split(chunk, dim=1)
    close(torch.cat([decoder.read(part) for part in parts], dim=1), expected[:, 4:])


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("name", ["W7", "all sinks"])
def test_only_the_last_logits(name: str, native: bool) -> None:
    """`last_only` could return the logits after another token, or of another row."""
    tokens, ends = text(LENGTH, 3), [6, 13, 20, 27, 34, 41, 48, 55, LENGTH - 1]
    decoder = decoder_of(model_of(name), 3, native=native)
    last = [decoder.read(part, last_only=True) for part in tokens.split(7, dim=1)]
    close(torch.cat(last, dim=1), exact(name, tokens)[:, ends])


def test_native_chunks_skip_padding() -> None:
    """Padding between the tokens of a chunk could take a position, or hide a key."""
    tokens, model = text(20, 3), model_of("all sinks")
    padded = torch.full((3, 29), -1)
    columns = [torch.randperm(29)[:20].sort().values for _ in tokens]
    for row, column in enumerate(columns):
        padded[row, column] = tokens[row]
    decoder = decoder_of(model, 3)
    logits = torch.cat([decoder.read(part) for part in padded.split(8, dim=1)], dim=1)
    kept = torch.stack([logits[row, column] for row, column in enumerate(columns)])
    close(kept, exact("all sinks", tokens))
    assert decoder.cache.seen.tolist() == [20, 20, 20]


@pytest.mark.parametrize("rows", [2, 5, 8, 13, 23])
def test_every_number_of_rows(rows: int) -> None:
    """Products take rows in groups of 12, 8, 4, 2 and 1: a row could be left out."""
    tokens = text(12, rows)
    close(steps(decoder_of(model_of("W7"), rows), tokens), exact("W7", tokens))


@pytest.mark.parametrize("name", CASES)
def test_native_steps_leave_the_cache_of_the_model(name: str) -> None:
    """Steps of both kinds and chunks, in any order, could not continue one another."""
    model, tokens = model_of(name), text(LENGTH, 3)
    native, plain = (decoder_of(model, 3, native=kind) for kind in (True, False))
    expected = exact(name, tokens)
    other = Decoder(model, native.cache, native=False)
    for begin in range(0, LENGTH, 15):  # a chunk and steps of one kind, then steps of the other
        chunk, part = tokens[:, begin : begin + 4], tokens[:, begin + 4 : begin + 15]
        close(model(chunk, cache=native.cache), expected[:, begin : begin + 4])
        close(steps(native, part[:, :6]), expected[:, begin + 4 : begin + 10])
        close(steps(other, part[:, 6:]), expected[:, begin + 10 : begin + 15])
        model(chunk, cache=plain.cache)
        steps(plain, part)
    ours, theirs = native.cache.state_dict(), plain.cache.state_dict()
    for key in theirs:
        if key.endswith(("k", "v")):
            close(ours[key], theirs[key])
        else:
            assert torch.equal(ours[key], theirs[key]), key


@pytest.mark.parametrize("name", ["W7", "mixed", "sinks", "all sinks"])
def test_crop_then_continue(name: str) -> None:
    """A native step could see keys that were cropped, or write to the wrong slot."""
    model, tokens = model_of(name), text(40, 2)
    decoder = decoder_of(model, 2, spare=3)
    steps(decoder, tokens[:, :20])
    decoder.cache.crop([17, 16])
    rows = [torch.cat((tokens[row, :kept], tokens[row, 20:])) for row, kept in ((0, 17), (1, 16))]
    logits = steps(decoder, tokens[:, 20:])
    for row, whole in enumerate(rows):
        close(logits[row], exact(name, whole[None])[0, -20:])


@pytest.mark.parametrize("name", ["W7", "mixed", "all sinks"])
def test_rows_of_different_lengths_and_rows_that_end(name: str) -> None:
    """A row could depend on the length or the end of another; padding could be cached."""
    model = model_of(name)
    decoder = decoder_of(model, 3)
    prompts = [text(n, seed=n)[0].tolist() for n in (1, 9, 30)]
    ends = [20, 0, 11]  # after so many steps, a row has only padding
    further = text(20, 3, seed=5)
    for row, end in enumerate(ends):
        further[row, end:] = -1
    first = decoder.prefill(prompts)
    logits = torch.cat((first[:, None], steps(decoder, further)), dim=1)
    for row, (prompt, end) in enumerate(zip(prompts, ends, strict=True)):
        whole = torch.cat((torch.tensor(prompt), further[row, :end]))
        close(logits[row, : end + 1], exact(name, whole[None])[0, -end - 1 :])
    assert decoder.cache.seen.tolist() == [1 + 20, 9, 30 + 11]
    assert logits.isfinite().all()  # of padding too: it was not computed from an empty ring


def test_the_number_of_threads_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a barrier, one thread could read what another has not written yet."""
    model, tokens = model_of("registers"), text(20, 16)
    one = steps(decoder_of(model, 16), tokens)
    chunks = decoder_of(model, 2).read(tokens[:2])
    monkeypatch.setattr(decode, "WORK_PER_THREAD", 1)  # or a small model uses one thread
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert torch.equal(steps(decoder_of(model, 16), tokens), one)
    assert torch.equal(decoder_of(model, 2).read(tokens[:2]), chunks)


def test_a_chunk_that_is_longer_than_one_call() -> None:
    """Native code would write behind its scratch memory, or lose tokens."""
    model, tokens = model_of("W7"), text(150, 2)
    for last_only in (False, True):
        decoder = Decoder(model, RollingKVCache(model.config, 2), native=True)
        assert decoder.read(tokens, last_only).shape[1] == (1 if last_only else 150)
        expected = exact("W7", torch.cat((tokens, tokens[:, :1]), dim=1))
        close(decoder.step(tokens[:, 0]), expected[:, -1])


@pytest.mark.parametrize("start", [1_000, 10_000_000])
def test_positions_have_no_end(start: int) -> None:
    """Angles in fp32 would be inexact far from the beginning."""
    model, tokens = model_of("W7"), text(30)
    decoder = decoder_of(model, 1)
    decoder.cache.seen += start
    close(steps(decoder, tokens), exact("W7", tokens))


def test_a_full_cache_refuses() -> None:
    """A native step could write behind the memory of a layer that keeps every token."""
    model = model_of("full")
    decoder = Decoder(model, RollingKVCache(model.config, 1, 4), native=True)
    steps(decoder, text(4))
    with pytest.raises(UserError, match="capacity"):
        decoder.step(torch.tensor([1]))


@pytest.mark.parametrize("token", [VOCAB, 10**9])
def test_a_token_outside_the_vocabulary_is_an_error(token: int) -> None:
    """Native code would read memory that is not the model's."""
    decoder = decoder_of(model_of("W7"), 1)
    with pytest.raises(RuntimeError, match="vocabulary"):
        decoder.step(torch.tensor([token]))
    assert decoder.cache.seen.tolist() == [0]


def test_other_dtypes_and_autocast_use_pytorch() -> None:
    """Native code would read bf16 numbers as fp32, or ignore what autocast asks for."""
    for dtype, word in ((torch.float64, "float64"), (torch.bfloat16, "bfloat16")):
        model = build(3, dtype=dtype)
        assert word in Decoder(model, RollingKVCache(model.config, 1, dtype=dtype)).reason
    model = model_of("W7")
    with torch.autocast("cpu", torch.bfloat16):
        assert "autocast" in Decoder(model, RollingKVCache(model.config)).reason
    assert Decoder(model, RollingKVCache(model.config)).reason.startswith("native")
    assert "asks" in Decoder(model, RollingKVCache(model.config), native=False).reason
