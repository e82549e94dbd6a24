"""What int8 weights cost: the loss of a text under both formats, and the bytes read per token."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from operator import eq

import torch
from torch.nn import functional as F

from inference.text import TextModel
from model.cache import RollingKVCache
from model.decoding import PREFILL_CHUNK
from model.quantization import bytes_per_token, round_weights
from model.transformer import Transformer


@dataclass(frozen=True)
class RoundingCost:
    """Measured on `n_tokens` tokens. Without any, the nats are NaN."""

    n_tokens: int
    fp32_nats: float  # per token
    int8_nats: float
    fp32_bytes: int  # of all matrices, read once per token
    int8_bytes: int


def rounding_cost(trained: TextModel, prompt: str, texts: Sequence[str]) -> RoundingCost:
    """Score the continuations `texts` of a prompt with the weights as they are, and in int8.

    Each text is tokenized again, together with the prompt, and read once under both formats.
    """
    tokenizer, nats, n_tokens = trained.tokenizer, [0.0, 0.0], 0
    models = (trained.model, round_weights(trained.model))
    before = tokenizer.encode_prompt(prompt)
    for text in texts:
        tokens = tokenizer.encode_prompt(prompt + text)
        # A piece may join the end of the prompt and the beginning of the text.
        first = max(1, sum(takewhile(bool, map(eq, before, tokens))))
        if len(tokens) == first:
            continue
        n_tokens += len(tokens) - first
        for n, model in enumerate(models):
            nats[n] += _nats(model, tokens, first)
    fp32, int8 = (total / n_tokens if n_tokens else float("nan") for total in nats)
    model = trained.model
    return RoundingCost(
        n_tokens, fp32, int8, bytes_per_token(model, "fp32"), bytes_per_token(model, "int8")
    )


@torch.inference_mode()
def _nats(model: Transformer, tokens: Sequence[int], first: int) -> float:
    """Return the nats of the tokens from index `first` on, each given all before it.

    The text is read in chunks through a cache, so its length is not limited by memory.
    """
    weight = model.tok_embeddings.weight
    cache = RollingKVCache(model.config, 1, len(tokens), weight.dtype, weight.device)
    text, total = torch.tensor(tokens, device=weight.device), 0.0
    for start in range(0, len(tokens) - 1, PREFILL_CHUNK):
        read = text[start : min(start + PREFILL_CHUNK, len(tokens) - 1)]
        targets = text[start + 1 : start + 1 + len(read)]
        losses = F.cross_entropy(
            model(read[None], cache=cache)[0].float(), targets, reduction="none"
        )
        total += losses[max(0, first - 1 - start) :].sum().item()
    return total
