"""Checks of decoding with the rolling cache: equal results, constant memory, crop, restore."""

import copy
from typing import Any

import torch

from checks import oracle
from checks.check import Findings, check
from checks.differences import exact_difference, max_difference, require, row_differences
from checks.fixture import MAX_LENGTH, Fixture
from checks.passes import cached_logits
from errors import UserError
from model import generation
from model.cache import RollingKVCache
from model.decoding import Decoder
from model.sampling import Sampling


@check("cache", "cached logits equal uncached ones for any chunk size", 1e-9)
def check_cache(fixture: Fixture) -> Findings:
    width, prompt = fixture.widest, 3 * fixture.widest + fixture.sinks + 2
    decoded = min(10 * width, MAX_LENGTH - prompt)
    if decoded < 10 * width:
        yield f"decoded {decoded:,} tokens, not 10 W = {10 * width:,}"
    tokens = fixture.text(prompt + decoded)
    expected = fixture.model(tokens)[0]
    for chunk in sorted({1, width - 1, width, width + 1, 3 * width, prompt} - {0}):
        cache = fixture.cache()
        end = prompt + (decoded if chunk == prompt else min(width + 1, 32))
        logits = [
            cached_logits(fixture.model, cache, tokens[:, :prompt], chunk),
            cached_logits(fixture.model, cache, tokens[:, prompt:end], 1),
        ]
        yield from row_differences(torch.cat(logits, dim=1)[0], expected[:end])


@check("memory", "after 10 W tokens the cache has its initial size", 1e-9)
def check_memory(fixture: Fixture) -> Findings:
    config, width = fixture.config, fixture.widest
    total, front = 10 * width + fixture.sinks, int(config.sink_token)
    tokens = fixture.text(total)
    cache = fixture.cache(capacity=total)
    n_slots = [
        total + front if window is None else window + sinks for window, sinks in fixture.layers
    ]
    slot_bytes = 2 * 8 * config.n_kv_heads * (config.head_dim or 0)  # a key and a value in float64

    def storage() -> list[Any]:
        """Return the size of the cache, the address and shape of each tensor."""
        tensors = [tensor for ring in cache.layers for tensor in (ring.k, ring.v, ring.positions)]
        return [cache.nbytes, *((tensor.data_ptr(), tensor.shape) for tensor in tensors)]

    initial = storage()
    yield require(cache.nbytes == slot_bytes * sum(n_slots))
    cached_logits(fixture.model, cache, tokens[:, :-width], width)
    last = cached_logits(fixture.model, cache, tokens[:, -width:], 1)[0, -1]
    yield require(cache.seen.tolist() == [total])
    yield require(storage() == initial)
    end = total + front
    for ring, count, (window, sinks) in zip(cache.layers, n_slots, fixture.layers, strict=True):
        positions = {*range(sinks), *range(0 if window is None else end - window, end)}
        cached = ring.positions[0].tolist()
        yield require(len(cached) == count and set(cached) == positions)
    with torch.enable_grad():  # a graph kept by the cache would grow with every call
        fixture.model(tokens[:, :2], cache=(used := fixture.cache()))
    yield require(not any(x.requires_grad for ring in used.layers for x in (ring.k, ring.v)))
    if total <= MAX_LENGTH:
        yield max_difference(last, fixture.model(tokens)[0, -1])
    else:
        yield f"{total:,} tokens are too many to compute again without the cache"


@check("ragged", "rows of different lengths equal single rows", 1e-9)
def check_ragged(fixture: Fixture) -> Findings:
    lengths, decoded = [1, fixture.widest, 3 * fixture.widest + fixture.sinks], 4
    texts = [fixture.text(length + decoded)[0] for length in lengths]
    single = [fixture.model(text[None])[0] for text in texts]
    cache = fixture.cache(rows=3)
    prompts = [text[:length].tolist() for text, length in zip(texts, lengths, strict=True)]
    first = Decoder(fixture.model, cache).prefill(prompts)[:, None]
    rest = torch.stack([text[-decoded:] for text in texts])
    logits = torch.cat((first, cached_logits(fixture.model, cache, rest, 1)), dim=1)
    for row, expected in zip(logits, single, strict=True):
        yield from row_differences(row, expected[-decoded - 1 :])
    yield require(cache.seen.tolist() == [length + decoded for length in lengths])
    # Padding (-1) before, behind and between the tokens.
    longest = len(texts[-1]) + 5
    columns = [fixture.permutation(longest)[: len(text)].sort().values for text in texts]
    padded = torch.full((3, longest), -1)
    for row, text, column in zip(padded, texts, columns, strict=True):
        row[column] = text
    logits = cached_logits(fixture.model, fixture.cache(rows=3), padded, fixture.widest + 1)
    for row, column, expected in zip(logits, columns, single, strict=True):
        yield from row_differences(row[column], expected)


@check("crop", "crop is exact, or refused with the cache unchanged", 1e-9)
def check_crop(fixture: Fixture) -> Findings:
    width, refused = fixture.widest, 0
    for spare in (0, 3):
        # A ring that is just full, and a ring whose slots were all overwritten.
        for total in (width, 2 * width + fixture.sinks + spare + 1):
            full, tokens = fixture.cache(spare=spare), fixture.text(total)
            others = fixture.text(width + 1)
            cached_logits(fixture.model, full, tokens, width)
            removed_counts = {0, 1, 2, spare + 1, spare + 2, width, total} & {*range(total + 1)}
            for removed in sorted(removed_counts):
                cache, length = copy.deepcopy(full), total - removed
                possible = _can_crop(fixture, total, length, spare)
                try:
                    cache.crop(length)
                except UserError:
                    refused += 1
                    yield require(not possible and _equal_states(cache, full))
                    continue
                yield require(possible and cache.seen.tolist() == [length])
                text = torch.cat((tokens[:, :length], others), dim=1)
                logits = cached_logits(fixture.model, cache, others, -(-width // 3))[0]
                yield from row_differences(logits, fixture.model(text)[0, length:])
    if refused:
        yield f"{refused} of the crops were refused, as they must be"


def _can_crop(fixture: Fixture, total: int, length: int, spare: int) -> bool:
    """Whether the rings, after `total` tokens, hold all keys that the query at `length` sees."""
    front = int(fixture.config.sink_token)
    for window, sinks in fixture.layers:
        end = front + total
        size = end if window is None else window + spare
        query = front + length
        needed = set(oracle.visible_keys(query, window, sinks)) - {query}
        if not needed <= {*range(sinks), *range(end - size, end)}:
            return False
    return True


@check("restore", "a saved and restored cache continues bit for bit")
def check_restore(fixture: Fixture) -> Findings:
    width = fixture.widest
    for total in (width, 2 * width + fixture.sinks + 1):  # before the ring is full, and after
        tokens, others = fixture.text(total, rows=2), fixture.text(width + 1, rows=2)
        cache, restored = fixture.cache(rows=2), fixture.cache(rows=2)
        cached_logits(fixture.model, cache, tokens, width)
        state = {name: tensor.clone() for name, tensor in cache.state_dict().items()}
        restored.load_state_dict(state)
        yield require(_equal_states(restored, cache))
        for chunk in (others[:, :1], others[:, 1:]):
            yield exact_difference(
                fixture.model(chunk, cache=restored), fixture.model(chunk, cache=cache)
            )
        yield require(_equal_states(restored, cache))


def _equal_states(a: RollingKVCache, b: RollingKVCache) -> bool:
    a_state, b_state = a.state_dict(), b.state_dict()
    return a_state.keys() == b_state.keys() and all(
        torch.equal(a_state[name], b_state[name]) for name in a_state
    )


@check("rescore", "greedy generation agrees with one uncached pass", 1e-9)
def check_rescore(fixture: Fixture) -> Findings:
    greedy, steps = Sampling(temperature=0.0), min(2 * fixture.widest + 2, 200)
    for _ in range(2):  # the second generation must not depend on the first
        lengths = (fixture.widest + fixture.sinks + 1, 2)
        prompts = [fixture.text(length)[0].tolist() for length in lengths]
        generated = generation.generate(fixture.model, prompts, steps, sampling=greedy)
        for prompt, chosen in zip(prompts, zip(*generated, strict=True), strict=True):
            text = torch.tensor([[*prompt, *chosen]])
            logits = fixture.model(text)[0, len(prompt) - 1 : -1]
            chosen_logits = logits.gather(1, torch.tensor(chosen)[:, None])
            yield from row_differences(chosen_logits, logits.amax(-1, keepdim=True))
