"""Prefill in chunks, then decode token by token through the rolling cache. Works on token ids.

Memory is O(window): the prompt is read in chunks, and nothing here grows with the number of tokens
that are generated.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from errors import UserError
from model.cache import RollingKVCache
from model.config import WeightFormat
from model.decoding import Decoder
from model.sampling import Sampling, choose, streams
from model.transformer import Transformer


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
) -> Iterator[list[int | None]]:
    """Continue each prompt. Each step yields a list: a token per row, None if the row has ended.

    A row ends after a token of `stop`, which is yielded; all rows end after `max_tokens`. Row r has
    a random stream of its own, (seed, r), so its text does not depend on other rows.
    `first_allowed` (B, V) bool marks the tokens that may come first in each row; None: all.
    `native` and `weights` are as in `Decoder`. Raises `UserError` for an empty prompt or an id
    outside the vocabulary.
    """
    sampling = sampling or Sampling()
    _check_prompts(prompts, model.config.vocab_size)
    cache = _cache_for(model, prompts, max_tokens)
    device = cache.seen.device
    occurred = None  # only the repetition penalty reads it
    if sampling.repetition_penalty != 1.0:
        occurred = _occurred(prompts, model.config.vocab_size).to(device)
    stops, running = frozenset(stop), [True] * len(prompts)
    logits = (decoder := Decoder(model, cache, native, weights)).prefill(prompts)
    if first_allowed is not None:
        logits = logits.masked_fill(~first_allowed.to(device), -torch.inf)
    for left, numbers in zip(range(max_tokens, 0, -1), streams(seed, len(prompts)), strict=False):
        tokens = choose(logits, sampling, numbers, occurred)
        drawn = tokens.tolist()
        yield [token if runs else None for token, runs in zip(drawn, running, strict=True)]
        running = [runs and token not in stops for token, runs in zip(drawn, running, strict=True)]
        if not any(running) or left == 1:
            return
        if occurred is not None:
            occurred.scatter_(1, tokens.to(device)[:, None], True)
        logits = decoder.step(tokens.to(device))


def _cache_for(
    model: Transformer, prompts: Sequence[Sequence[int]], max_tokens: int
) -> RollingKVCache:
    """Return a cache for the prompts and the new tokens, with the dtype and device of the model."""
    weight = model.tok_embeddings.weight
    capacity = max(map(len, prompts)) + max_tokens
    return RollingKVCache(model.config, len(prompts), capacity, weight.dtype, weight.device)


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
