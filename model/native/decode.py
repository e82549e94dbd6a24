"""NativeModel: the arguments of `decode` in decode.cpp, pointers to weights, rings and scratch."""

import ctypes
from collections.abc import Sequence
from ctypes import c_bool, c_double, c_int, c_int64, c_void_p
from typing import Any

import torch
from torch import Tensor
from torch.nn import Linear

from model.attention import Attention
from model.cache import Ring, RollingKVCache
from model.layers import RMSNorm
from model.native import build
from model.rope import Rope, frequencies
from model.transformer import Transformer
from model.window import Window

WORK_PER_THREAD = 500_000  # weights times rows: with less, waiting for others takes longer
MOST_ROWS = 128  # tokens of all texts in one call: bounds the scratch memory
NO_LIMIT = 2**62  # stands for no window, and for no last position


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


class NativeModel:
    """A model with a cache, both in fp32 on a CPU, that reads tokens in native code.

    Weights are copied into panels; keys and values are read and written in the cache's own memory.
    """

    def __init__(self, model: Transformer, cache: RollingKVCache) -> None:
        self._library = build.load("decode")
        self._library.decode.argtypes = [
            c_void_p, c_int64, c_int64, c_void_p, c_void_p, c_bool, c_void_p, c_int
        ]  # fmt: skip
        self._library.decode.restype = ctypes.c_bool
        self._library.pack_panels.argtypes = [c_void_p] * 2 + [c_int64] * 4 + [c_void_p]
        self._lanes = self._library.lanes()
        self._kept: list[Any] = [model, cache]  # memory that the pointers point to
        self._rotations: dict[tuple[Rope, int], int] = {}
        self._seen = cache.seen
        config = model.config
        assert config.head_dim is not None and config.hidden_dim is not None
        self._vocab = config.vocab_size
        self._n_weights = sum(config.parameter_counts().values())
        self.most_tokens = max(1, MOST_ROWS // len(cache.seen))
        layers = [
            self._layer(layer, ring) for layer, ring in zip(model.layers, cache.layers, strict=True)
        ]
        rotations = [
            _Rotation(self._keep(frequencies(config.head_dim, rope)), rope.magnitude, last)
            for rope, last in self._rotations
        ]
        rows, heads = len(cache.seen) * self.most_tokens, config.n_heads + 2 * config.n_kv_heads
        scratch = [
            torch.zeros(rows, self._padded(width))
            for width in (config.dim, heads * config.head_dim, config.n_heads * config.head_dim,
                          config.hidden_dim, len(rotations) * config.head_dim)
        ]  # fmt: skip
        self._model = _Model(
            config.dim, config.hidden_dim, config.n_heads, config.n_kv_heads, config.head_dim,
            config.vocab_size, config.n_layers, len(rotations), cache.first_position,
            config.norm_eps, self._keep(model.tok_embeddings.weight),
            self._panels([model.output], model.norm),
            self._array(_Layer, layers), self._array(_Rotation, rotations),
            *map(self._keep, scratch), self._keep(torch.empty(rows, dtype=torch.int64)),
        )  # fmt: skip

    def __call__(self, tokens: Tensor, last_only: bool) -> Tensor:
        """Read tokens (B, T), at most `most_tokens` of each text, into the cache.

        Returns the logits (B, T, V) after each, or (B, 1, V) after the last.
        """
        rows, length = tokens.shape
        assert rows == len(self._seen) and 1 <= length <= self.most_tokens
        assert tokens.dtype == torch.int64
        tokens = tokens.contiguous()
        logits = torch.empty(rows, 1 if last_only else length, self._padded(self._vocab))
        threads = 1 + rows * length * self._n_weights // WORK_PER_THREAD
        known = self._library.decode(
            ctypes.byref(self._model), rows, length, tokens.data_ptr(), self._seen.data_ptr(),
            last_only, logits.data_ptr(), min(threads, torch.get_num_threads()),
        )  # fmt: skip
        assert known, f"a token is outside the vocabulary: {tokens.tolist()}"
        return logits[..., : self._vocab]

    def _layer(self, layer: Any, ring: Ring) -> _Layer:
        attention: Attention = layer.attention
        feed_forward = layer.feed_forward
        window, sinks = attention.window, attention.sinks
        plain = self._rotation(attention.rope, None, 0)
        slots = ring.k.shape[2]
        return _Layer(
            self._panels([attention.wq, attention.wk, attention.wv], layer.attention_norm),
            self._panels([attention.wo]),
            self._alternating(feed_forward.w1, feed_forward.w3, layer.ffn_norm),
            self._panels([feed_forward.w2]),
            None if attention.sink_logits is None else self._keep(attention.sink_logits),
            *map(self._keep, ring.storage), slots, ring.sinks,
            NO_LIMIT if window is None else window, sinks,
            plain, self._rotation(attention.rope, window, sinks) if sinks else plain,
        )  # fmt: skip

    def _rotation(self, rope: Rope, window: Window, sinks: int) -> int:
        """Return the index of a rotation, which equal layers share."""
        last = NO_LIMIT if window is None else window + sinks - 1
        return self._rotations.setdefault((rope, last), len(self._rotations))

    def _panels(self, parts: Sequence[Linear], norm: RMSNorm | None = None) -> int:
        """Copy matrices (N, K), one below the other, into panels; return their address.

        The weight of the norm before the product is folded in.
        """
        panels = self._empty(sum(part.out_features for part in parts), parts[0].in_features)
        first = 0
        for part in parts:
            self._pack(part, norm, first, 0, panels)
            first += part.out_features
        return self._keep(panels)

    def _alternating(self, gate: Linear, up: Linear, norm: RMSNorm) -> int:
        """Copy two matrices into panels whose left half is of `gate`, and right half of `up`."""
        panels = self._empty(2 * self._padded(gate.out_features), gate.in_features)
        self._pack(gate, norm, 0, self._lanes, panels)
        self._pack(up, norm, self._lanes, self._lanes, panels)
        return self._keep(panels)

    def _pack(
        self, part: Linear, norm: RMSNorm | None, first: int, gap: int, panels: Tensor
    ) -> None:
        weight = part.weight.detach().contiguous()
        scale = None if norm is None else norm.weight.data_ptr()
        self._library.pack_panels(
            weight.data_ptr(), scale, *weight.shape, first, gap, panels.data_ptr()
        )

    def _empty(self, outputs: int, inputs: int) -> Tensor:
        """Return memory for the panels of a matrix. The last two panels are zero: they may have
        more rows than the matrix."""
        panels = torch.empty(self._padded(outputs), inputs)
        panels[-4 * self._lanes :] = 0.0
        return panels

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
