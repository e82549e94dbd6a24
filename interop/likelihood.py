"""Log-likelihoods of texts, read through the rolling cache, every token predicted once.

    <s> | Once upon | a time     context (with the BOS) | continuation

A text may be longer than the window and longer than any text of the training. It is read in chunks
into one cache, so memory is that of the windows, and each token sees what the model's windows show
it. The usual way to score a long text, cutting it into pieces, hides from each piece what precedes.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from data.tokenizer import Tokenizer
from inference.text import TextModel
from model.cache import RollingKVCache
from model.decoding import PREFILL_CHUNK, Decoder

Likelihood = tuple[float, bool]  # nats; whether each token is the likeliest, as greedy would choose


def split_tokens(tokenizer: Tokenizer, context: str, continuation: str) -> tuple[list[int], int]:
    """Return the tokens of both texts as one, after the BOS, and how many belong to the context.

    These are the tokens that the context has alone as well. A token that crosses the border belongs
    to the continuation: of "Once upon a " + "time", it is the token " time". (lm-eval's own models
    move all spaces and newlines at the end of the context to the continuation, and score them, too.
    For the choices of a question this adds the same to each.)
    """
    alone = tokenizer.encode_prompt(context)
    tokens = tokenizer.encode_prompt(context + continuation)
    pairs = enumerate(zip(alone, tokens, strict=False))
    n_context = next((n for n, (a, b) in pairs if a != b), min(len(alone), len(tokens)))
    return tokens, n_context


class LikelihoodReader:
    """Scores texts of at most `longest` tokens, one after another, with one cache.

    `longest_choice` is the most tokens of a continuation, where a context has several: the cache
    goes back by so many. The model must not change meanwhile.
    """

    def __init__(self, trained: TextModel, longest: int, longest_choice: int = 0) -> None:
        weight = trained.model.tok_embeddings.weight
        self._cache = RollingKVCache(
            trained.model.config, 1, longest, weight.dtype, weight.device, spare=longest_choice
        )
        self._decoder = Decoder(trained.model, self._cache)

    @torch.inference_mode()
    def score(
        self, context: Sequence[int], continuations: Sequence[Sequence[int]]
    ) -> Iterator[Likelihood]:
        """Yield log P(continuation | context) for each continuation; the context is read once.

        The context has a token at least. An empty continuation has probability 1.
        """
        self._cache.crop(0)
        first = self._decoder.prefill([context])
        for number, continuation in enumerate(continuations):
            if number:
                self._cache.crop(len(context))
            yield self._follow(first, torch.tensor(continuation, dtype=torch.int64))

    def _follow(self, first: Tensor, tokens: Tensor) -> Likelihood:
        """Score tokens (n,); `first` (1, V) are the logits of the first. The last is not read."""
        total, is_greedy = _predict(first, tokens[:1])
        for start in range(0, len(tokens) - 1, PREFILL_CHUNK):
            read = tokens[:-1][start : start + PREFILL_CHUNK]
            logits = self._decoder.read(read[None].to(first.device))[0]
            nats, greedy = _predict(logits, tokens[1:][start : start + PREFILL_CHUNK])
            total, is_greedy = total + nats, is_greedy and greedy
        return total, is_greedy


def _predict(logits: Tensor, tokens: Tensor) -> Likelihood:
    """Score tokens (n,) under logits (n, V), in float64."""
    logits, tokens = logits[: len(tokens)], tokens.to(logits.device)
    chosen = logits.double().log_softmax(dim=-1).gather(1, tokens[:, None])
    return chosen.sum().item(), bool((logits.argmax(dim=-1) == tokens).all())
