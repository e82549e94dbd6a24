"""Decoder: read prompts into a cache, then continue all rows token by token.

Tokens are read by `native/decode.cpp` if this machine can build it and the model is in fp32 on a
CPU, and otherwise by PyTorch. Both use the same cache, and their logits agree up to rounding. So
calls of the decoder, and of the model itself with this cache, may follow each other in any order.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from model.adapters import merged
from model.cache import RollingKVCache
from model.config import WeightFormat
from model.native import build
from model.native.decode import NativeModel
from model.quantization import round_weights
from model.transformer import Transformer

PREFILL_CHUNK = 256  # tokens of each prompt that are read at once: bounds the memory of scores


class Decoder:
    """A model and a cache. `reason` says in words what reads its tokens, and why.

    `native` forces the choice: True, native code (it must be possible); False, PyTorch. With the
    weights in int8, `model` is the rounded model (see `quantization.py`): native code reads int8,
    and PyTorch the rounded numbers in the model's dtype. Adapters are merged into the weights (see
    `adapters.py`). Matrices are copied, so a change of the model needs another decoder.
    """

    def __init__(
        self,
        model: Transformer,
        cache: RollingKVCache,
        native: bool | None = None,
        weights: WeightFormat = "fp32",
    ) -> None:
        model = merged(model)
        self.model = round_weights(model) if weights == "int8" else model
        self.cache = cache
        refusal = "the caller asks for it" if native is False else _refusal(model, cache)
        assert refusal is None or native is not True, refusal
        self._native = None if refusal else NativeModel(self.model, cache, weights)
        if refusal:
            rounded = " with weights rounded to int8" if weights == "int8" else ""
            self.reason = f"PyTorch{rounded}: {refusal}"
        else:
            self.reason = f"native code: {weights} weights on a CPU"

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Read the prompts into the cache and return the logits (B, V) after each.

        Prompts may differ in length. Shorter ones are padded in front, so that all end in one
        chunk.
        """
        longest = max(map(len, prompts))
        tokens = torch.full((len(prompts), longest), -1)
        for row, prompt in enumerate(prompts):
            tokens[row, longest - len(prompt) :] = torch.tensor(prompt)
        logits = torch.empty(0)
        for chunk in tokens.to(self.cache.seen.device).split(PREFILL_CHUNK, dim=1):
            logits = self.read(chunk, last_only=True)
        return logits[:, -1]

    def step(self, tokens: Tensor) -> Tensor:
        """Add a token to each row, (B,) int64, and return the logits (B, V) of the next."""
        return self.read(tokens[:, None])[:, -1]

    def read(self, tokens: Tensor, last_only: bool = False) -> Tensor:
        """Add tokens (B, T) int64 to the rows; return the logits (B, T, V) after each of them.

        With `last_only`, (B, 1, V) after the last. A token of -1 is padding: its row does not
        change, and its logits have no meaning. Raises `UserError` if a layer that must keep every
        token is full.
        """
        if self._native is None:
            return self.model(tokens, cache=self.cache, last_only=last_only)
        if not self.cache.primed:
            self.model.cache_sink_token(self.cache)
        self.cache.reserve(tokens.shape[1])
        if tokens.shape[1] <= self._native.most_tokens:
            return self._native(tokens, last_only)
        parts = tokens.split(self._native.most_tokens, dim=1)
        logits = [self._native(part, last_only) for part in parts]
        return logits[-1] if last_only else torch.cat(logits, dim=1)


def _refusal(model: Transformer, cache: RollingKVCache) -> str | None:
    """Return why native code cannot read the tokens, in words; None if it can."""
    weight = model.tok_embeddings.weight
    if weight.device.type != "cpu":
        return f"the model is on {weight.device.type}"
    for dtype in {weight.dtype, cache.layers[0].k.dtype}:
        if dtype != torch.float32:
            return f"native code computes in float32, and this is {dtype}".replace("torch.", "")
    if torch.is_autocast_enabled("cpu"):
        return "autocast changes the dtype of the products"
    return build.refusal("decode", bf16=False)
