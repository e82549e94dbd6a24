"""Decoder: read prompts into a cache, then compute one step of all rows at a time.

A step runs in `native/decode.cpp` if this machine can build it and the model is in fp32 on a CPU,
and otherwise in PyTorch. Both use the same cache, and their logits agree up to rounding. So calls
of `step`, and of the model itself with this cache, may follow each other in any order.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from model.cache import RollingKVCache
from model.config import WeightFormat
from model.native import build
from model.native.decode import NativeStep
from model.quantization import round_weights
from model.transformer import Transformer

PREFILL_CHUNK = 256  # tokens per forward pass over the prompt: bounds the memory of its scores


class Decoder:
    """A model and a cache. `reason` says in words what computes its steps, and why.

    `native` forces the choice: True, native code (it must be possible); False, PyTorch. With the
    weights in int8, `model` is the rounded model (see `quantization.py`): native code reads int8,
    and PyTorch the rounded numbers in the model's dtype. The weights are copied, so a change of the
    model needs another decoder.
    """

    def __init__(
        self,
        model: Transformer,
        cache: RollingKVCache,
        native: bool | None = None,
        weights: WeightFormat = "fp32",
    ) -> None:
        self.model = round_weights(model) if weights == "int8" else model
        self.cache = cache
        refusal = "the caller asks for it" if native is False else _refusal(model, cache)
        assert refusal is None or native is not True, refusal
        self._native = None if refusal else NativeStep(self.model, cache, weights)
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
            logits = self.model(chunk, cache=self.cache)[:, -1]
        return logits

    def step(self, tokens: Tensor) -> Tensor:
        """Add a token to each row, (B,) int64, and return the logits (B, V) of the next.

        A token of -1 is padding: its row does not change, and its logits have no meaning. Raises
        `UserError` if a layer that must keep every token is full.
        """
        if self._native is None or not self.cache.primed:
            return self.model(tokens[:, None], cache=self.cache)[:, -1]
        self.cache.reserve(1)
        return self._native(tokens)


def _refusal(model: Transformer, cache: RollingKVCache) -> str | None:
    """Return why native code cannot compute the steps, in words; None if it can."""
    weight = model.tok_embeddings.weight
    if weight.device.type != "cpu":
        return f"the model is on {weight.device.type}"
    for dtype in {weight.dtype, cache.layers[0].k.dtype}:
        if dtype != torch.float32:
            return f"native code computes in float32, and this is {dtype}".replace("torch.", "")
    if torch.is_autocast_enabled("cpu"):
        return "autocast changes the dtype of the products"
    return build.refusal("decode", bf16=False)
