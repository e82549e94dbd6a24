"""RMSNorm, SwiGLU and RoPE of `layers.cpp` as functions with gradients, bf16 on a CPU."""

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from model import native
from model.native import LANES
from model.native.build import call, pointer

PARTS = 32  # ranges of rows whose sums are kept apart, whatever the number of threads


def usable(x: Tensor, size: int = LANES) -> bool:
    """Return whether the native layers apply to x: enabled, a CPU in bf16, `size` in whole lanes.

    `size` is the number of neighbouring numbers that one row of the operation has; by default any.
    """
    return (
        native.is_enabled()
        and x.device.type == "cpu"
        and size % LANES == 0
        and (x.dtype == torch.bfloat16 or _autocasts_to_bf16())
    )


def _autocasts_to_bf16() -> bool:
    return torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16


class _RMSNorm(torch.autograd.Function):
    """x (..., D) fp32 and weight (D,) to bf16 (..., D)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        x = x.contiguous()
        y = torch.empty_like(x, dtype=torch.bfloat16)
        inverse_rms = x.new_empty(x.shape[:-1])
        call(
            "layers",
            "rms_norm",
            *map(pointer, (x, weight, y, inverse_rms)),
            *map(ctypes.c_int64, (inverse_rms.numel(), x.shape[-1])),
            ctypes.c_float(eps),
        )
        ctx.save_for_backward(x, weight, inverse_rms)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        x, weight, inverse_rms = ctx.saved_tensors
        grad_x, grad_weight = torch.empty_like(x), torch.empty_like(weight)
        sums = x.new_zeros(PARTS, x.shape[-1])
        tensors = (x, weight, inverse_rms, grad_y.contiguous(), grad_x, grad_weight, sums)  # kept
        call(
            "layers",
            "rms_norm_gradient",
            *map(pointer, tensors),
            *map(ctypes.c_int64, (inverse_rms.numel(), x.shape[-1], PARTS)),
        )
        return grad_x, grad_weight, None


class _SwiGLU(torch.autograd.Function):
    """x (..., 2 hidden), gate and up side by side, to (..., hidden), bf16."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        assert x.dtype == torch.bfloat16 and x.is_contiguous()
        hidden = x.shape[-1] // 2
        y = x.new_empty(*x.shape[:-1], hidden)
        call(
            "layers",
            "swiglu",
            pointer(x),
            pointer(y),
            *map(ctypes.c_int64, (y.numel() // hidden, hidden)),
        )
        ctx.save_for_backward(x)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        grad_x, hidden = torch.empty_like(x), x.shape[-1] // 2
        grad_y = grad_y.contiguous()
        call(
            "layers",
            "swiglu_gradient",
            *map(pointer, (x, grad_y, grad_x)),
            *map(ctypes.c_int64, (grad_x.numel() // (2 * hidden), hidden)),
        )
        return grad_x


class _Rotate(torch.autograd.Function):
    """x (B, H, T, Dh) bf16 by complex factors (1 or B, 1, T, Dh / 2) or (1, T, Dh / 2)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factors: Tensor) -> Tensor:
        ctx.save_for_backward(factors)
        return _rotate(x, factors, inverse=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return _rotate(grad_y, ctx.saved_tensors[0], inverse=True), None


def _rotate(x: Tensor, factors: Tensor, inverse: bool) -> Tensor:
    """Rotate, or rotate back; returns (B, H, T, Dh), contiguous as (B, T, H, Dh)."""
    batch, heads, length, head_dim = x.shape
    x = x if x.stride(-1) == 1 else x.contiguous()
    y = x.new_empty(batch, length, heads, head_dim)
    real = torch.view_as_real(factors.contiguous())
    per_row = factors.dim() == 4 and factors.shape[0] > 1
    call(
        "layers", "rotate", pointer(x), (ctypes.c_int64 * 3)(*x.stride()[:3]), pointer(real),
        ctypes.c_int64(length * head_dim if per_row else 0), pointer(y),
        *map(ctypes.c_int64, (batch, heads, length, head_dim)), ctypes.c_bool(inverse),
    )  # fmt: skip
    return y.transpose(1, 2)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Normalise x (..., D) fp32 as `model.layers.RMSNorm`; returns bf16 (..., D)."""
    return _RMSNorm.apply(x, weight, eps)


def swiglu(x: Tensor) -> Tensor:
    """Return silu(gate) * up for x (..., 2 hidden) = gate, up, bf16: (..., hidden)."""
    return _SwiGLU.apply(x)


def rotate(x: Tensor, factors: Tensor) -> Tensor:
    """Rotate as `model.rope.rotate`: x (B, H, T, Dh) bf16, same shape and dtype."""
    return _Rotate.apply(x, factors)
