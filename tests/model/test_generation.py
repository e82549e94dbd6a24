"""Generation gives the same tokens as without a cache, in every row."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from small import VOCAB, build, oracle, text
from torch import Tensor

from errors import UserError
from model import decoding, lookup
from model.cache import RollingKVCache
from model.decoding import Decoder
from model.generation import generate
from model.native.build import refusal
from model.sampling import Sampling
from model.transformer import Transformer

GREEDY = Sampling(temperature=0.0)
SINKS: dict[str, dict[str, Any]] = {
    "plain": {},
    "sinks": {"attention_sinks": 2},
    "token": {"sink_token": True},
    "all": {"attention_sinks": 2, "sink_token": True, "sink_logits": True},
}


@pytest.fixture(params=[torch.float64, torch.float32], ids=["torch", "native"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """A dtype for each kind of step: PyTorch computes in any, native code in fp32."""
    if request.param == torch.float32 and (reason := refusal("decode", bf16=False)):
        pytest.skip(reason)
    return request.param


def texts(
    model: Transformer, prompts: Sequence[Sequence[int]], n: int, **options: Any
) -> list[list[int]]:
    """Return the tokens that `generate` yields for each prompt."""
    steps = list(generate(model, prompts, n, **options))
    return [[step[r] for step in steps if step[r] is not None] for r in range(len(prompts))]


def prompt_of(length: int, seed: int = 1) -> list[int]:
    return text(length, seed=seed)[0].tolist()


@pytest.mark.parametrize("sinks", ["plain", "all"])
@pytest.mark.parametrize("window", [1, 3, (3, None)])
@torch.no_grad()
def test_greedy_text_is_the_oracles(dtype: torch.dtype, window: Any, sinks: str) -> None:
    """Cache, prefill and greedy choice together could differ from the model written as loops."""
    model = build(window, **SINKS[sinks], dtype=dtype)
    ids = prompt_of(5)
    (written,) = texts(model, [ids], 8, sampling=GREEDY)
    for token in written:
        assert token == oracle(model, torch.tensor(ids))[-1].argmax().item()
        ids.append(token)


@pytest.mark.parametrize(
    "sinks",
    ["plain", "all", *(pytest.param(s, marks=pytest.mark.prove) for s in ("sinks", "token"))],
)
@pytest.mark.parametrize("window", [1, 2, 3, 7, None, (3, None), (1, 3, None)])
@torch.no_grad()
def test_one_uncached_pass_agrees_with_what_was_generated(
    dtype: torch.dtype, window: Any, sinks: str
) -> None:
    """Mistral's own test: generate greedily, then score prompt and text in one pass."""
    model = build(window, **SINKS[sinks], dtype=dtype)
    ids = prompt_of(10)
    (written,) = texts(model, [ids], 40, sampling=GREEDY)
    assert len(written) == 40
    scored = model(torch.tensor([ids + written]))[0].log_softmax(-1)[len(ids) - 1 : -1]
    assert scored.argmax(-1).tolist() == written
    decoder = Decoder(model, RollingKVCache(model.config, 1, 80, dtype))
    cached = [decoder.prefill([ids])]
    cached += [decoder.step(torch.tensor([token])) for token in written[:-1]]
    tolerance = 1e-10 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close(torch.cat(cached).log_softmax(-1), scored, rtol=0, atol=tolerance)


@pytest.mark.parametrize("sinks", ["plain", "all"])
@pytest.mark.parametrize("chunk", [2, 256])
@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=1.5)])
def test_ragged_prompts_get_the_texts_they_get_alone(
    dtype: torch.dtype, sampling: Sampling, chunk: int, sinks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text of a row could depend on another row, on its length or on its end."""
    monkeypatch.setattr(decoding, "PREFILL_CHUNK", chunk)
    model = build(3, **SINKS[sinks], dtype=dtype)
    prompts = [prompt_of(n, seed=n) for n in (9, 3, 1)]
    together = texts(model, prompts, 30, sampling=sampling, seed=4)
    assert together[0] == texts(model, prompts[:1], 30, sampling=sampling, seed=4)[0]
    others = [prompt_of(20, seed=8), prompts[1], prompt_of(2, seed=9)]
    assert together[1] == texts(model, others, 30, sampling=sampling, seed=4)[1]
    if sampling is GREEDY:
        assert together[1:] == [texts(model, [p], 30, sampling=GREEDY)[0] for p in prompts[1:]]


@torch.no_grad()
def test_a_prompt_a_hundred_windows_long(dtype: torch.dtype) -> None:
    """A prompt longer than the cache could fail, or need more memory than the window."""
    model = build(7, dtype=dtype)
    ids = prompt_of(700)
    cache = RollingKVCache(model.config, 1, dtype=dtype)
    assert cache.layers[0].k.shape[2] == 7
    expected = model(torch.tensor([ids]))[0, -1]
    tolerance = 1e-10 if dtype == torch.float64 else 1e-4
    actual = Decoder(model, cache).prefill([ids])[0]
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)
    (written,) = texts(model, [ids], 5, sampling=GREEDY)
    assert model(torch.tensor([ids + written]))[0, 699:-1].argmax(-1).tolist() == written


def test_a_stop_ends_its_row_only(dtype: torch.dtype) -> None:
    """A batch could end with its first row, or a row could continue after its stop."""
    model = build(3, dtype=dtype)
    prompts = [prompt_of(4, seed=2), prompt_of(4, seed=3)]
    free = texts(model, prompts, 12, sampling=GREEDY)
    stop = next(token for token in free[0][1:] if token not in free[1])
    ended, other = texts(model, prompts, 12, sampling=GREEDY, stop=[stop])
    assert ended == free[0][: free[0].index(stop) + 1]  # the stop itself is yielded
    assert other == free[1]
    steps = list(generate(model, prompts[:1], 12, sampling=GREEDY, stop=[stop]))
    assert len(steps) == len(ended)  # no step without a running row
    assert texts(model, prompts, 12, sampling=GREEDY, stop=range(VOCAB)) == [
        row[:1] for row in free
    ]


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which each forward pass appends the number of its tokens."""
    reads: list[int] = []
    read = Decoder.read

    def counted(decoder: Decoder, tokens: Tensor, **options: Any) -> Tensor:
        reads.append(tokens.shape[1])
        return read(decoder, tokens, **options)

    monkeypatch.setattr(Decoder, "read", counted)
    return reads


@pytest.mark.parametrize("rows", [1, 2])
def test_tokens_come_one_by_one(
    dtype: torch.dtype, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens could be held back. Each must come after one forward pass, when it is requested."""
    model, reads = build(3, dtype=dtype), count_reads(monkeypatch)
    counts = []
    for step in generate(model, [prompt_of(5)] * rows, 4, sampling=GREEDY, look_up=False):
        assert len(step) == rows
        counts.append(len(reads))
    assert counts == [1, 2, 3, 4] and reads == [5, 1, 1, 1]  # none after the last token


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(top_k=2)])
@pytest.mark.parametrize("sinks", SINKS)
@pytest.mark.parametrize("window", [1, 3, None, (3, None), (1, 3, None)])
def test_look_up_changes_no_token(
    dtype: torch.dtype, window: Any, sinks: str, sampling: Sampling, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong guess could stay in the text or in the cache, or use up a random number."""
    monkeypatch.setattr(lookup, "CONTEXT", 3)  # more guesses, right and wrong
    model, ids = build(window, **SINKS[sinks], dtype=dtype), prompt_of(6) * 3
    expected = texts(model, [ids], 100, sampling=sampling, seed=3, look_up=False)
    reads = count_reads(monkeypatch)
    assert texts(model, [ids], 100, sampling=sampling, seed=3, look_up=True) == expected
    if sampling is GREEDY:
        assert len(reads) < 100  # some guesses were right
    elif sinks == "plain":
        assert sum(reads[1:]) > 99  # some guesses were wrong


def test_a_text_ends_within_right_guesses(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guesses that were right could be yielded after a stop, or after `max_tokens`."""
    monkeypatch.setattr(lookup, "CONTEXT", 3)
    model, ids = build(1, dtype=dtype), prompt_of(6) * 3  # a window of 1 soon writes in a loop
    reads = count_reads(monkeypatch)
    texts(model, [ids], 40, sampling=GREEDY)
    assert reads.count(4) > 3
    (whole,) = texts(model, [ids], 40, sampling=GREEDY, look_up=False)
    for n in range(1, 40):
        assert texts(model, [ids], n, sampling=GREEDY)[0] == whole[:n]
    for token in set(whole):
        end = whole.index(token) + 1
        assert texts(model, [ids], 40, sampling=GREEDY, stop=[token])[0] == whole[:end]


def test_only_greedy_texts_are_guessed(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn texts would pay for the search; with a repetition penalty, guesses would be wrong."""
    monkeypatch.setattr(lookup, "CONTEXT", 1)
    model, ids = build(3, dtype=dtype), prompt_of(6) * 3
    penalty = Sampling(temperature=0.0, repetition_penalty=1.01)
    for sampling, prompts in ((Sampling(), [ids]), (penalty, [ids]), (GREEDY, [ids, ids])):
        reads = count_reads(monkeypatch)
        texts(model, prompts, 20, sampling=sampling)
        assert max(reads[1:]) == 1
    reads = count_reads(monkeypatch)
    texts(model, [ids], 20, sampling=GREEDY)
    assert max(reads[1:]) == 4


@pytest.mark.parametrize("wrong", [[], [VOCAB], [-1], [3, 999]])
def test_invalid_prompts_are_refused(dtype: torch.dtype, wrong: list[int]) -> None:
    """-1 would be read as padding. An id that is too large would be an IndexError inside torch."""
    with pytest.raises(UserError, match="prompt"):
        list(generate(build(3, dtype=dtype), [prompt_of(3), wrong], 2))


def test_samples_differ_and_seeds_repeat(dtype: torch.dtype) -> None:
    """Samples of one prompt could be copies of each other; a seed could give different texts."""
    model = build(3, dtype=dtype)
    first, again, other = (texts(model, [prompt_of(4)] * 6, 12, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert len({tuple(row) for row in first + other}) == 12


def test_repetition_penalty_counts_prompt_and_text(dtype: torch.dtype) -> None:
    """The tokens of the prompt, or the generated ones, could get no penalty."""
    model = build(3, dtype=dtype)
    ids = prompt_of(4)
    sampling = Sampling(temperature=0.0, repetition_penalty=1.7)
    (written,) = texts(model, [ids], 25, sampling=sampling)
    assert written != texts(model, [ids], 25, sampling=GREEDY)[0]
    for token in written:
        with torch.no_grad():
            logits: Tensor = model(torch.tensor([ids]))[0, -1]
        for seen in set(ids):
            logits[seen] = logits[seen] / 1.7 if logits[seen] > 0 else logits[seen] * 1.7
        assert token == logits.argmax().item()
        ids.append(token)


def test_zero_tokens(dtype: torch.dtype) -> None:
    """max_tokens = 0 is valid and yields no token."""
    assert list(generate(build(3, dtype=dtype), [prompt_of(3)], 0)) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_cache_has_the_weights_dtype(dtype: torch.dtype) -> None:
    """Generation from a bf16 checkpoint would fail, or use twice the memory."""
    assert len(texts(build(3, dtype=dtype), [prompt_of(5)], 6)[0]) == 6
