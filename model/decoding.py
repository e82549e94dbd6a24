"""Decoder: read prompts into a cache, then compute one step of all rows at a time.

A step runs in `native/decode.cpp` if this machine can build it and the model is in fp32 on a CPU,
and otherwise in PyTorch. Both use the same cache, and their logits agree up to rounding. So calls of
`step`, and of the model itself with this cache, may follow each other in any order.
"""

import ctypes
from collections.abc import Sequence
from ctypes import c_double, c_int, c_int64, c_void_p
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from model.attention import Attention
from model.cache import Ring, RollingKVCache
from model.native import build
from model.rope import Rope, frequencies
from model.transformer import Transformer
from model.window import Window

PREFILL_CHUNK = 256  # tokens per forward pass over the prompt: bounds the memory of its scores
NO_LIMIT = 2**62  # stands for no window, and for no last position


class Decoder:
    """A model and a cache. `reason` says in words what computes its steps, and why.

    `native` forces the choice: True, native code (it must be possible); False, PyTorch. The weights
    are copied into another layout, so a change of the model needs another decoder.
    """

    def __init__(
        self, model: Transformer, cache: RollingKVCache, native: bool | None = None
    ) -> None:
        self.model, self.cache = model, cache
        refusal = "it was not wanted" if native is False else _refusal(model, cache)
        assert refusal is None or native is not True, refusal
        self._native = None if refusal else _NativeStep(model, cache)
        self.reason = f"PyTorch: {refusal}" if refusal else "native code: fp32 weights on a CPU"

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


class _Layer(ctypes.Structure):
    """`struct Layer` of decode.cpp."""

    _fields_ = [
        *((name, c_void_p) for name in ("qkv", "wo", "gate_up", "down", "sink_logits")),
        *((name, c_void_p) for name in ("k", "v", "positions")),
        *((name, c_int64) for name in ("slots", "ring_sinks", "window", "sinks")),
        *((name, c_int64) for name in ("rotation", "sink_rotation")),
    ]


class _Rotation(ctypes.Structure):
    """`struct Rotation` of decode.cpp."""

    _fields_ = [("speeds", c_void_p), ("magnitude", c_double), ("last", c_int64)]


class _Model(ctypes.Structure):
    """`struct Model` of decode.cpp."""

    _fields_ = [
        *((name, c_int64) for name in ("dim", "hidden", "heads", "kv_heads", "head_dim", "vocab")),
        *((name, c_int64) for name in ("n_layers", "n_rotations", "first_position")),
        ("eps", c_double),
        *((name, c_void_p) for name in ("embeddings", "output", "layers", "rotations")),
        *((name, c_void_p) for name in ("x", "qkv", "heads_out", "hidden_out", "turns", "at")),
    ]


class _NativeStep:
    """The arguments of `decode` in decode.cpp: pointers to weights, rings and scratch memory."""

    def __init__(self, model: Transformer, cache: RollingKVCache) -> None:
        self._library = build.load("decode")
        self._library.decode.argtypes = [c_void_p, c_int64, *[c_void_p] * 3, c_int]
        self._library.decode.restype = ctypes.c_bool
        self._lanes = self._library.lanes()
        self._kept: list[Any] = [model, cache]  # memory that the pointers point to
        self._rotations: dict[tuple[Rope, int], int] = {}
        self._seen = cache.seen
        config = model.config
        assert config.head_dim is not None and config.hidden_dim is not None
        self._vocab = config.vocab_size
        layers = [
            self._layer(layer, ring) for layer, ring in zip(model.layers, cache.layers, strict=True)
        ]
        rotations = [
            _Rotation(self._keep(frequencies(config.head_dim, rope)), rope.magnitude, last)
            for rope, last in self._rotations
        ]
        rows, heads = len(cache.seen), config.n_heads + 2 * config.n_kv_heads
        scratch = [
            torch.zeros(rows, self._padded(width))
            for width in (config.dim, heads * config.head_dim, config.n_heads * config.head_dim,
                          config.hidden_dim, len(rotations) * config.head_dim)
        ]  # fmt: skip
        self._model = _Model(
            config.dim, config.hidden_dim, config.n_heads, config.n_kv_heads, config.head_dim,
            config.vocab_size, config.n_layers, len(rotations), cache.first_position,
            config.norm_eps, self._keep(model.tok_embeddings.weight),
            self._panels(model.output.weight * model.norm.weight),
            self._array(_Layer, layers), self._array(_Rotation, rotations),
            *map(self._keep, scratch), self._keep(torch.empty_like(cache.seen)),
        )  # fmt: skip

    def __call__(self, tokens: Tensor) -> Tensor:
        """Compute the logits (B, V) after tokens (B,)."""
        rows = len(self._seen)
        assert tokens.shape == (rows,) and tokens.dtype == torch.int64
        tokens = tokens.contiguous()
        logits = torch.empty(rows, self._padded(self._vocab))
        known = self._library.decode(
            ctypes.byref(self._model), rows, tokens.data_ptr(), self._seen.data_ptr(),
            logits.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
        assert known, f"a token is outside the vocabulary: {tokens.tolist()}"
        return logits[:, : self._vocab]

    def _layer(self, layer: Any, ring: Ring) -> _Layer:
        attention: Attention = layer.attention
        qkv = torch.cat([attention.wq.weight, attention.wk.weight, attention.wv.weight])
        gate, up = (
            F.pad(w * layer.ffn_norm.weight, (0, 0, 0, -len(w) % (2 * self._lanes)))
            for w in (layer.feed_forward.w1.weight, layer.feed_forward.w3.weight)
        )
        pairs = torch.stack([w.unflatten(0, (-1, self._lanes)) for w in (gate, up)], dim=1)
        window, sinks = attention.window, attention.sinks
        plain = self._rotation(attention.rope, None, 0)
        slots = ring.k.shape[2]
        return _Layer(
            self._panels(qkv * layer.attention_norm.weight), self._panels(attention.wo.weight),
            self._panels(pairs.flatten(0, 2)), self._panels(layer.feed_forward.w2.weight),
            None if attention.sink_logits is None else self._keep(attention.sink_logits),
            *map(self._keep, ring.storage), slots, ring.sinks,
            NO_LIMIT if window is None else window, sinks,
            plain, self._rotation(attention.rope, window, sinks) if sinks else plain,
        )  # fmt: skip

    def _rotation(self, rope: Rope, window: Window, sinks: int) -> int:
        """Return the index of a rotation, which equal layers share."""
        last = NO_LIMIT if window is None else window + sinks - 1
        return self._rotations.setdefault((rope, last), len(self._rotations))

    def _panels(self, weight: Tensor) -> int:
        """Copy a matrix (N, K) into panels (N / P, K, P); return their address."""
        weight = F.pad(weight.detach(), (0, 0, 0, -len(weight) % (2 * self._lanes)))
        return self._keep(weight.unflatten(0, (-1, 2 * self._lanes)).mT)

    def _keep(self, tensor: Tensor) -> int:
        """Return the address of a tensor's numbers, one after another, and keep them alive."""
        tensor = tensor.detach().contiguous()
        self._kept.append(tensor)
        return tensor.data_ptr()

    def _array(self, kind: Any, items: Sequence[Any]) -> int:
        array = (kind * len(items))(*items)
        self._kept.append(array)
        return ctypes.addressof(array)

    def _padded(self, width: int) -> int:
        return width + -width % (2 * self._lanes)
