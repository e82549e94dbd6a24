"""native: attention in C++ (`model/native/attention.cpp`). O(T * W), for bf16 on a CPU.

The blocks of `blocked`, with one pass over them in place of an operator for each step: scores and
weights stay in the processor's cache and are never written to memory.
"""

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from model.kernels.visibility import Visibility
from model.native import LANES, build


def native_attention(
    q: Tensor, k: Tensor, v: Tensor, visibility: Visibility, return_lse: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Attend within a text, from bf16 q (B, H, T, Dh) to k, v (B, K, T, Dh), sinks left out.

    Dh is a multiple of 16. Returns (B, H, T, Dh), a view of a contiguous (B, T, H, Dh), and the
    log-sum-exp (B, H, T) in fp32 if asked. A query that sees no key gets 0, and the smallest
    log-sum-exp. Gradients flow through both results, once.
    """
    assert q.dtype == torch.bfloat16 and q.shape[-1] % LANES == 0
    out, lse = _Attention.apply(q, k, v, first_keys(visibility, q.shape[2]))
    return out, lse if return_lse else None


def first_keys(visibility: Visibility, length: int) -> Tensor:
    """Return the first key that each query sees: (B, T) int32, or (1, T) if all rows are equal.

    The keys of a document are neighbours, so a query sees all keys from this one to its own. If
    this one comes after its own, all its keys are sinks, and it sees none here.
    """
    window, sinks = visibility.window, visibility.sinks
    assert visibility.key_positions is None
    assert sinks or not visibility.has_sink_token()  # other documents would see this key alone
    column = torch.arange(length, dtype=torch.int32)
    position = column[None] if visibility.positions is None else visibility.positions.int()
    earliest = position - (length if window is None else window) + 1
    return column - position + earliest.clamp(min=sinks)


class _View(ctypes.Structure):
    """`View` in attention.cpp: a tensor (B, heads, T, Dh), its last dimension contiguous."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("batch", ctypes.c_int64),
        ("head", ctypes.c_int64),
        ("token", ctypes.c_int64),
    )


class _Call(ctypes.Structure):
    """`Call` in attention.cpp: what forward and backward share."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("B", "T", "H", "K", "E")),
        *((name, _View) for name in ("q", "k", "v", "out")),
        ("lse", ctypes.c_void_p),
        ("first", ctypes.c_void_p),
        ("first_batch", ctypes.c_int64),
    )


class _Gradients(ctypes.Structure):
    """`Gradients` in attention.cpp."""

    _fields_ = (
        *((name, _View) for name in ("d_out", "d_q", "d_k", "d_v")),
        ("d_lse", ctypes.c_void_p),
    )


class _Attention(torch.autograd.Function):
    """The two functions of attention.cpp as one function of PyTorch's autograd."""

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        *qkv, first = inputs
        q, k, v = (_readable(x) for x in qkv)
        out, lse = _empty_like(q), q.new_empty(q.shape[:3], dtype=torch.float32)
        call = _call(q, k, v, first, out, lse)
        build.call("attention", "attention_forward", ctypes.byref(call))
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.first = first
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        d_out, d_lse = upstream
        d_out = torch.zeros_like(out) if d_out is None else _readable(d_out)
        d_lse = None if d_lse is None else d_lse.contiguous()
        d_q, d_k, d_v = (_empty_like(x) for x in (q, k, v))
        gradients = _Gradients(*map(_view, (d_out, d_q, d_k, d_v)), _address(d_lse))
        call = _call(q, k, v, ctx.first, out, lse)
        build.call("attention", "attention_backward", *map(ctypes.byref, (call, gradients)))
        return d_q, d_k, d_v, None


def _call(q: Tensor, k: Tensor, v: Tensor, first: Tensor, out: Tensor, lse: Tensor) -> _Call:
    batch, heads, length, head_dim = q.shape
    views = map(_view, (q, k, v, out))
    stride = first.stride(0) if len(first) > 1 else 0
    sizes = (batch, length, heads, k.shape[1], head_dim)
    return _Call(*sizes, *views, lse.data_ptr(), first.data_ptr(), stride)


def _view(x: Tensor) -> _View:
    return _View(x.data_ptr(), *x.stride()[:3])


def _address(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


def _readable(x: Tensor) -> Tensor:
    """Return x, or a copy if the numbers of a head are not contiguous or its rows overlap."""
    if x.stride(-1) == 1 and x.stride(2) >= x.shape[-1]:
        return x
    return x.clone(memory_format=torch.contiguous_format)


def _empty_like(x: Tensor) -> Tensor:
    """Return (B, heads, T, Dh), not initialised: a view of a contiguous (B, T, heads, Dh)."""
    batch, heads, length, head_dim = x.shape
    return x.new_empty(batch, length, heads, head_dim).transpose(1, 2)
