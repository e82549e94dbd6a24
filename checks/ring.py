"""Decoding through the rolling cache: the same as without it, in memory that stays."""

import copy
from typing import Any

import torch

from checks import oracle
from checks.proof import Found, proof
from checks.subject import LONGEST, Subject, bits, each, fed, gap, must
from errors import UserError
from model import generation
from model.cache import RollingKVCache
from model.sampling import Sampling


@proof("cached logits equal uncached ones, whatever the chunk", 1e-9)
def cache(on: Subject) -> Found:
    w, prompt = on.width, 3 * on.width + on.sinks + 2
    further = min(10 * w, LONGEST - prompt)
    if further < 10 * w:
        yield f"decoded {further:,} tokens, not 10 W = {10 * w:,}"
    tokens = on.text(prompt + further)
    expected = on.model(tokens)[0]
    for chunk in sorted({1, w - 1, w, w + 1, 3 * w, prompt} - {0}):
        cache = on.cache()
        given = [fed(on.model, cache, tokens[:, :prompt], chunk)]
        decoded = further if chunk == prompt else min(w + 1, 32)
        given.append(fed(on.model, cache, tokens[:, prompt : prompt + decoded], 1))
        yield from each(torch.cat(given, dim=1)[0], expected[: prompt + decoded])


@proof("after 10 W tokens the cache is as large as when made", 1e-9)
def memory(on: Subject) -> Found:
    total, begin = 10 * on.width + on.sinks, int(on.config.sink_token)
    tokens = on.text(total)
    cache = on.cache(capacity=total)
    slots = [total + begin if window is None else window + sinks for window, sinks in on.layers]
    row = 2 * 8 * on.config.n_kv_heads * (on.config.head_dim or 0)  # a key and a value in float64

    def state() -> list[Any]:
        tensors = [held for ring in cache.layers for held in (ring.k, ring.v, ring.positions)]
        return [cache.nbytes, *((held.data_ptr(), held.shape) for held in tensors)]

    made = state()
    yield must(cache.nbytes == row * sum(slots))
    fed(on.model, cache, tokens[:, : -on.width], on.width)
    last = fed(on.model, cache, tokens[:, -on.width :], 1)[0, -1]
    yield must(cache.seen.tolist() == [total])
    yield must(state() == made)
    for ring, count, (window, sinks) in zip(cache.layers, slots, on.layers, strict=True):
        end = total + begin
        held = {*range(sinks), *range(0 if window is None else end - window, end)}
        yield must(len(ring.positions[0]) == count and set(ring.positions[0].tolist()) == held)
    with torch.enable_grad():  # a graph that the cache kept would grow with every call
        on.model(tokens[:, :2], cache=(used := on.cache()))
    yield must(not any(held.requires_grad for ring in used.layers for held in (ring.k, ring.v)))
    if total <= LONGEST:
        yield gap(last, on.model(tokens)[0, -1])
    else:
        yield f"{total:,} tokens: too long to be computed again without the cache"


@proof("rows of different lengths equal the same alone", 1e-9)
def ragged(on: Subject) -> Found:
    lengths, further = [1, on.width, 3 * on.width + on.sinks], 4
    texts = [on.text(length + further)[0] for length in lengths]
    alone = [on.model(text[None])[0] for text in texts]
    cache = on.cache(rows=3)
    prompts = [text[:length].tolist() for text, length in zip(texts, lengths, strict=True)]
    given = [generation.prefill(on.model, prompts, cache)[:, None]]
    given.append(fed(on.model, cache, torch.stack([text[-further:] for text in texts]), 1))
    for row, expected in zip(torch.cat(given, dim=1), alone, strict=True):
        yield from each(row, expected[-further - 1 :])
    yield must(cache.seen.tolist() == [length + further for length in lengths])
    # Padding in front, behind and in between.
    places = [on.order(len(texts[-1]) + 5)[: len(text)].sort().values for text in texts]
    padded = torch.full((3, len(texts[-1]) + 5), -1)
    for row, text, place in zip(padded, texts, places, strict=True):
        row[place] = text
    for row, place, expected in zip(
        fed(on.model, on.cache(rows=3), padded, on.width + 1), places, alone, strict=True
    ):
        yield from each(row[place], expected)


@proof("going back is right, or refused with nothing changed", 1e-9)
def crop(on: Subject) -> Found:
    refused, third = 0, -(-on.width // 3)
    for spare in (0, 3):
        for total in (on.width, 2 * on.width + on.sinks + spare + 1):  # full; and all overwritten
            full, tokens, others = on.cache(spare=spare), on.text(total), on.text(on.width + 1)
            fed(on.model, full, tokens, on.width)
            for back in sorted(
                {0, 1, 2, spare + 1, spare + 2, on.width, total} & {*range(total + 1)}
            ):
                cache, kept = copy.deepcopy(full), total - back
                try:
                    cache.crop(kept)
                except UserError:
                    refused += 1
                    yield must(not _is_held(on, total, kept, spare) and _same(cache, full))
                    continue
                yield must(_is_held(on, total, kept, spare) and cache.seen.tolist() == [kept])
                expected = on.model(torch.cat((tokens[:, :kept], others), dim=1))[0, kept:]
                yield from each(fed(on.model, cache, others, third)[0], expected)
    if refused:
        yield f"{refused} of them refused, rightly"


def _is_held(on: Subject, total: int, kept: int, spare: int) -> bool:
    """Whether, after `total` tokens, rings still have what the query at position `kept` sees."""
    begin = int(on.config.sink_token)
    for window, sinks in on.layers:
        end, size = begin + total, begin + total if window is None else window + spare
        needed = set(oracle.keys_of(begin + kept, window, sinks)) - {begin + kept}
        if not needed <= {*range(sinks), *range(end - size, end)}:
            return False
    return True


@proof("a cache saved in mid-stream continues bit for bit")
def restore(on: Subject) -> Found:
    for total in (on.width, 2 * on.width + on.sinks + 1):  # before the ring is full, and after
        tokens, others = on.text(total, rows=2), on.text(on.width + 1, rows=2)
        cache, loaded = on.cache(rows=2), on.cache(rows=2)
        fed(on.model, cache, tokens, on.width)
        loaded.load_state_dict({name: held.clone() for name, held in cache.state_dict().items()})
        yield must(_same(loaded, cache))
        for part in (others[:, :1], others[:, 1:]):
            yield bits(on.model(part, cache=loaded), on.model(part, cache=cache))
        yield must(_same(loaded, cache))


def _same(a: RollingKVCache, b: RollingKVCache) -> bool:
    states = a.state_dict(), b.state_dict()
    return states[0].keys() == states[1].keys() and all(
        torch.equal(states[0][name], states[1][name]) for name in states[0]
    )


@proof("greedy generation agrees with one uncached pass", 1e-9)
def rescore(on: Subject) -> Found:
    greedy, steps = Sampling(temperature=0.0), min(2 * on.width + 2, 200)
    for _ in range(2):  # the second must know nothing of the first
        prompts = [on.text(length)[0].tolist() for length in (on.width + on.sinks + 1, 2)]
        written = zip(*generation.generate(on.model, prompts, steps, sampling=greedy), strict=True)
        for prompt, chosen in zip(prompts, written, strict=True):
            logits = on.model(torch.tensor([[*prompt, *chosen]]))[0, len(prompt) - 1 : -1]
            taken = logits.gather(1, torch.tensor(chosen)[:, None])
            yield from each(taken, logits.amax(-1, keepdim=True))
