"""NativeModel: the arguments of `decode` in decode.cpp, pointers to weights, rings and scratch."""

import ctypes
from collections.abc import Sequence
from ctypes import c_bool, c_double, c_int, c_int64, c_void_p
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from model.attention import Attention
from model.cache import Ring, RollingKVCache
from model.config import WeightFormat
from model.native import build
from model.quantization import to_int8
from model.rope import Rope, frequencies
from model.transformer import Transformer
from model.window import Window

WORK_PER_THREAD = 500_000  # weights times rows: with less, waiting for others takes longer
MOST_ROWS = 128  # tokens of all texts in one call: bounds the scratch memory
NO_LIMIT = 2**62  # stands for no window, and for no last position


class _Panels(ctypes.Structure):
    """`struct Panels` of panels.h."""

    _fields_ = [("numbers", c_void_p), ("scales", c_void_p)]


class _Layer(ctypes.Structure):
    """`struct Layer` of decode.cpp."""

    _fields_ = [
        *((name, _Panels) for name in ("qkv", "wo", "gate_up", "down")),
        *((name, c_void_p) for name in ("sink_logits", "k", "v", "positions")),
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
        ("embeddings", c_void_p),
        ("output", _Panels),
        *((name, c_void_p) for name in ("layers", "rotations")),
        *((name, c_void_p) for name in ("x", "qkv", "heads_out", "hidden_out", "turns", "at")),
    ]


class NativeModel:
    """A model with a cache, both in fp32 on a CPU, that reads tokens in native code.

    Weights are copied into panels, as fp32 or rounded to int8 (see `model.quantization`). Keys and
    values are read and written in the cache's own memory.
    """

    def __init__(
        self, model: Transformer, cache: RollingKVCache, weights: WeightFormat = "fp32"
    ) -> None:
        self._library = build.load("decode")
        self._library.decode.argtypes = [
            c_void_p, c_int64, c_int64, c_void_p, c_void_p, c_bool, c_void_p, c_int
        ]  # fmt: skip
        self._lanes = self._library.lanes()
        self._weights = weights
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
            self._panels(model.output.weight * model.norm.weight),
            self._array(_Layer, layers), self._array(_Rotation, rotations),
            *map(self._keep, scratch), self._keep(torch.empty(rows, dtype=torch.int64)),
        )  # fmt: skip

    def __call__(self, tokens: Tensor, last_only: bool) -> Tensor:
        """Read tokens (B, T), at most `most_tokens` of each text, into the cache.

        Returns the logits (B, T, V) after each, or (B, 1, V) after the last. Raises `RuntimeError`
        if a token is outside the vocabulary.
        """
        rows, length = tokens.shape
        if rows != len(self._seen) or length > self.most_tokens or tokens.dtype != torch.int64:
            raise ValueError(f"tokens {tuple(tokens.shape)} {tokens.dtype} do not fit the memory")
        tokens = tokens.contiguous()
        logits = torch.empty(rows, 1 if last_only else length, self._padded(self._vocab))
        threads = 1 + rows * length * self._n_weights // WORK_PER_THREAD
        build.call(
            "decode", "decode", ctypes.byref(self._model), rows, length, tokens.data_ptr(),
            self._seen.data_ptr(), last_only, logits.data_ptr(),
            min(threads, torch.get_num_threads()),
        )  # fmt: skip
        return logits[..., : self._vocab]

    def _layer(self, layer: Any, ring: Ring) -> _Layer:
        attention: Attention = layer.attention
        feed_forward = layer.feed_forward
        qkv = [linear.weight for linear in (attention.wq, attention.wk, attention.wv)]
        gate_up = self._alternate(feed_forward.w1.weight, feed_forward.w3.weight)
        window, sinks = attention.window, attention.sinks
        plain = self._rotation(attention.rope, None, 0)
        slots = ring.k.shape[2]
        return _Layer(
            self._panels(torch.cat(qkv) * layer.attention_norm.weight),
            self._panels(attention.wo.weight),
            self._panels(gate_up * layer.ffn_norm.weight),
            self._panels(feed_forward.w2.weight),
            None if attention.sink_logits is None else self._keep(attention.sink_logits),
            *map(self._keep, ring.storage), slots, ring.sinks,
            NO_LIMIT if window is None else window, sinks,
            plain, self._rotation(attention.rope, window, sinks) if sinks else plain,
        )  # fmt: skip

    def _rotation(self, rope: Rope, window: Window, sinks: int) -> int:
        """Return the index of a rotation, which equal layers share."""
        last = NO_LIMIT if window is None else window + sinks - 1
        return self._rotations.setdefault((rope, last), len(self._rotations))

    def _panels(self, matrix: Tensor) -> _Panels:
        """Copy a matrix (N, K) into panels (see `panels.h`); the last one is filled with zeros."""
        numbers, scales = (matrix, None) if self._weights == "fp32" else to_int8(matrix)
        numbers = self._fill(numbers).unflatten(0, (-1, 2 * self._lanes)).transpose(1, 2)
        return _Panels(
            self._keep(numbers),
            None if scales is None else self._keep(self._fill(scales[:, None])),
        )

    def _alternate(self, gate: Tensor, up: Tensor) -> Tensor:
        """Take turns between `lanes` rows of gate (N, K) and of up; zeros fill the last ones."""
        parts = [self._fill(part).unflatten(0, (-1, self._lanes)) for part in (gate, up)]
        return torch.stack(parts, dim=1).flatten(0, 2)

    def _fill(self, matrix: Tensor) -> Tensor:
        """Add rows of zeros to a matrix (N, K), so that they fill the last panel."""
        rows = len(matrix)
        return F.pad(matrix, (0, 0, 0, self._padded(rows) - rows))

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
