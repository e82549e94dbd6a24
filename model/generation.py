"""Prefill in chunks, then decode token by token through the rolling cache. Works on token ids.

Memory is O(window): the prompt is read in chunks, and nothing here grows without bound with the
number of tokens that are generated.
"""

from collections.abc import Iterator, Sequence
from itertools import count, islice, takewhile
from operator import eq

import torch
from torch import Tensor

from errors import UserError
from model.cache import RollingKVCache
from model.config import WeightFormat
from model.decoding import Decoder
from model.lookup import Lookup
from model.sampling import RandomStreams, Sampling, choose
from model.transformer import Transformer

MOST_GUESSED = 3  # tokens guessed at once: reading 4 costs at most twice as much as reading 1


@torch.inference_mode()
def generate(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    *,
    sampling: Sampling | None = None,
    seed: int = 0,
    stop: Sequence[int] = (),
    first_allowed: Tensor | None = None,
    native: bool | None = None,
    weights: WeightFormat = "fp32",
    look_up: bool | None = None,
) -> Iterator[list[int | None]]:
    """Continue each prompt. Each step yields a list: a token per row, None if the row has ended.

    A row ends after a token of `stop`, which is yielded; all rows end after `max_tokens`. Row r has
    a random stream of its own, (seed, r), so its text does not depend on other rows.
    `first_allowed` (B, V) bool marks the tokens that may come first in each row; None: all.
    `native` and `weights` are as in `Decoder`. With `look_up`, the tokens of a single text are
    guessed and then checked (see `lookup.py`). This changes its speed, and its tokens only by
    rounding. None: if sampling is greedy, because drawn texts seldom repeat themselves. Raises
    `UserError` for an empty prompt or an id outside the vocabulary.
    """
    sampling = sampling or Sampling()
    _check_prompts(prompts, model.config.vocab_size)
    guesses = _may_guess(prompts, sampling, look_up)
    cache = _cache_for(model, prompts, max_tokens, spare=MOST_GUESSED if guesses else 0)
    logits = (decoder := Decoder(model, cache, native, weights)).prefill(prompts)
    if first_allowed is not None:
        logits = logits.masked_fill(~first_allowed.to(logits.device), -torch.inf)
    if guesses:
        drawn = _guess_and_check(decoder, logits, prompts[0], max_tokens, sampling, seed)
    else:
        drawn = _one_by_one(decoder, logits, prompts, sampling, seed)
    stops, running = frozenset(stop), [True] * len(prompts)
    for tokens in islice(drawn, max_tokens):
        yield [token if runs else None for token, runs in zip(tokens, running, strict=True)]
        running = [runs and token not in stops for token, runs in zip(tokens, running, strict=True)]
        if not any(running):
            return


def _may_guess(prompts: Sequence[Sequence[int]], sampling: Sampling, look_up: bool | None) -> bool:
    """Return whether tokens are guessed: not with a repetition penalty, which depends on all
    earlier tokens."""
    wanted = sampling.is_greedy if look_up is None else look_up
    return wanted and len(prompts) == 1 and sampling.repetition_penalty == 1.0


def _one_by_one(
    decoder: Decoder,
    logits: Tensor,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    seed: int,
) -> Iterator[list[int]]:
    """Yield a token for each row, without end; `logits` (B, V) are those of the first."""
    occurred = None  # only the repetition penalty reads it
    if sampling.repetition_penalty != 1.0:
        occurred = _occurred(prompts, logits.shape[-1]).to(logits.device)
    streams = RandomStreams(seed, len(prompts))
    for step in count():
        tokens = choose(logits, sampling, streams.at(step)[:, 0], occurred)
        yield tokens.tolist()
        tokens = tokens.to(logits.device)
        if occurred is not None:
            occurred.scatter_(1, tokens[:, None], True)
        logits = decoder.step(tokens)


def _guess_and_check(
    decoder: Decoder,
    logits: Tensor,
    prompt: Sequence[int],
    max_tokens: int,
    sampling: Sampling,
    seed: int,
) -> Iterator[list[int]]:
    """Yield at least `max_tokens` tokens of a single text; `logits` (1, V) are those of the first.

    Each pass reads the last token and the guesses after it, and draws a token after each, with the
    random numbers of its step. The first draw that differs from its guess is still right, because
    everything before it is; the draws after it are dropped. So the text is the one that
    `_one_by_one` writes, except for rounding: a product of several rows adds in another order.
    """
    text, streams = Lookup(prompt), RandomStreams(seed, 1)
    tokens, step = choose(logits, sampling, streams.at(0)[0]).tolist(), 1
    while True:
        yield from ([token] for token in tokens)
        text.extend(tokens)
        guessed = text.guess(min(MOST_GUESSED, max(0, max_tokens - step - 1)))
        read = torch.tensor([[tokens[-1], *guessed]], device=logits.device)
        numbers = streams.at(step, 1 + len(guessed))[0]
        drawn = choose(decoder.read(read)[0], sampling, numbers).tolist()
        n_right = sum(takewhile(bool, map(eq, drawn, guessed)))
        tokens = drawn[: n_right + 1]
        if n_right < len(guessed):
            decoder.cache.crop(len(prompt) + step + n_right)
        step += len(tokens)


def _cache_for(
    model: Transformer, prompts: Sequence[Sequence[int]], max_tokens: int, spare: int
) -> RollingKVCache:
    """Return a cache for the prompts and the new tokens, with the dtype and device of the model."""
    weight = model.tok_embeddings.weight
    capacity = max(map(len, prompts)) + max_tokens
    return RollingKVCache(model.config, len(prompts), capacity, weight.dtype, weight.device, spare)


def _occurred(prompts: Sequence[Sequence[int]], vocab_size: int) -> Tensor:
    """Mark the tokens that each prompt contains: (B, V) bool."""
    occurred = torch.zeros(len(prompts), vocab_size, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        occurred[row, torch.tensor(prompt)] = True
    return occurred


def _check_prompts(prompts: Sequence[Sequence[int]], vocab_size: int) -> None:
    """Raise `UserError` if a prompt cannot be continued."""
    if not prompts:
        raise UserError("there is no prompt to continue")
    for prompt in prompts:
        if not len(prompt):
            raise UserError("a prompt has no tokens: begin with the tokenizer's BOS")
        if not all(0 <= token < vocab_size for token in prompt):
            raise UserError(f"a prompt has an id outside the vocabulary (0 to {vocab_size - 1})")
