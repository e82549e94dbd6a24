"""Prefill in chunks, then decode token by token through the rolling cache. Ids in, ids out.

Memory is O(window): the prompt is fed in chunks, and neither the cache nor anything here grows with
the number of tokens generated.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from errors import UserError
from model.cache import RollingKVCache
from model.sampling import Sampling, draw, probabilities
from model.transformer import Transformer

PREFILL_CHUNK = 256  # tokens per forward pass over the prompt: bounds the memory of its scores


def prefill(model: Transformer, prompts: Sequence[Sequence[int]], cache: RollingKVCache) -> Tensor:
    """Feed the prompts, which may differ in length, and return the logits (B, V) after each.

    Shorter prompts are padded in front, so that all of them end in the same chunk.
    """
    longest = max(map(len, prompts))
    tokens = torch.full((len(prompts), longest), -1)
    for row, prompt in enumerate(prompts):
        tokens[row, longest - len(prompt) :] = torch.tensor(prompt)
    logits = torch.empty(0)
    for chunk in tokens.to(cache.seen.device).split(PREFILL_CHUNK, dim=1):
        logits = model(chunk, cache=cache)[:, -1]
    return logits


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
) -> Iterator[list[int | None]]:
    """Continue each prompt; yield step by step a token per row, None for a row that ended.

    A row ends after a token of `stop`, which is yielded; all end after `max_tokens`. Row r draws
    from its own random stream, (seed, r), whatever its neighbours. `first_allowed` (B, V) bool
    marks the tokens that may come first in each row; None: all. Raises `UserError` for an empty
    prompt or an id outside the vocabulary.
    """
    sampling = sampling or Sampling()
    vocab_size = model.config.vocab_size
    if not prompts:
        raise UserError("there is no prompt to continue")
    for prompt in prompts:
        if not len(prompt):
            raise UserError("a prompt has no tokens: begin with the tokenizer's BOS")
        if not all(0 <= token < vocab_size for token in prompt):
            raise UserError(f"a prompt has an id outside the vocabulary (0 to {vocab_size - 1})")
    weight = model.tok_embeddings.weight
    capacity = max(map(len, prompts)) + max_tokens
    cache = RollingKVCache(model.config, len(prompts), capacity, weight.dtype, weight.device)
    generators = [
        torch.Generator().manual_seed((seed * 1_000_003 + r) % 2**63) for r in range(len(prompts))
    ]
    occurred = torch.zeros(len(prompts), vocab_size, dtype=torch.bool, device=weight.device)
    for row, prompt in enumerate(prompts):
        occurred[row, torch.tensor(prompt)] = True
    running = [True] * len(prompts)
    logits = prefill(model, prompts, cache)
    if first_allowed is not None:
        logits = logits.masked_fill(~first_allowed.to(logits.device), -torch.inf)
    for n in range(max_tokens):
        tokens = draw(probabilities(logits, sampling, occurred), generators)
        yield [
            token if runs else None for token, runs in zip(tokens.tolist(), running, strict=True)
        ]
        running = [
            runs and token not in stop for token, runs in zip(tokens.tolist(), running, strict=True)
        ]
        if not any(running) or n + 1 == max_tokens:
            return
        tokens = tokens.to(weight.device)[:, None]
        occurred.scatter_(1, tokens, True)
        logits = model(tokens, cache=cache)[:, -1]
