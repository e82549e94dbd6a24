"""Prompts: tokens that a model reads and that are left out of the loss.

A document with a prompt is `<s> prompt answer </s>`. Each token of the prompt is marked: its bits
are inverted, ~id = -1 - id, so that it is negative. With ids 71, 72 for a prompt and 90 for an
answer:

    marked     1  -72  -73   90    2      as stored in shards and batches
    plain      1   71   72   90    2      as the model reads them

So a mark needs no second array: splits, sequences, epochs and mixtures handle a marked token like
any other. `model.loss.next_token_loss` removes the marks of its inputs and does not count targets
that are negative. <s> and </s> are predicted as in every document.

Prompt and answer are tokenized separately. So no token has characters of both, and the prompt has
the same tokens as in `Tokenizer.encode_prompt`, which `scripts.sample --prompt` uses.
"""

import numpy as np
from numpy.typing import NDArray

from data.shards import JoinedTokens
from data.tokenizer import Tokenizer


def encode_marked(tokenizer: Tokenizer, text: str, prompt_length: int) -> list[int]:
    """Return the ids of a document; those of its first `prompt_length` characters are marked."""
    if not prompt_length:
        return tokenizer.encode_document(text)
    bos_id, *prompt_ids = tokenizer.encode_prompt(text[:prompt_length])
    answer_ids = tokenizer.encode(text[prompt_length:])
    return [bos_id, *(~id for id in prompt_ids), *answer_ids, tokenizer.eos_id]


def token_dtype(vocab_size: int, *, has_prompts: bool) -> str:
    """Return the smallest integer type of shards that holds every id, marked or not."""
    if has_prompts:
        return "<i2" if vocab_size <= 1 << 15 else "<i4"
    return "<u2" if vocab_size <= 1 << 16 else "<u4"


class PlainTokens(JoinedTokens):
    """Arrays of ids that are stored with marks, read without them."""

    def __getitem__(self, index: slice | NDArray) -> NDArray:
        ids = super().__getitem__(index)
        return np.where(ids < 0, ~ids, ids)
