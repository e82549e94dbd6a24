"""Rotary position embedding (RoFormer, arXiv 2104.09864, section 3.2.2), computed from positions.

Neighbouring pairs (x[2n], x[2n+1]) of a head turn by the angle `position * theta ** (-2n / Dh)`, the
layout of Mistral's own weights. There is no table, so there is no last position: the angles of a
token at position 1,000,000 are computed like those of the first. fp32 throughout; its rounding
reaches 0.06 rad at a million tokens, which is the practical end.
"""

import torch
from torch import Tensor


def rotation(positions: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Compute cos and sin for positions (T,) or (B, T): each (..., 1, T, Dh / 2), fp32.

    The 1 is where the heads broadcast.
    """
    exponents = torch.arange(0, head_dim, 2, device=positions.device).float() / head_dim
    angles = positions.float().unsqueeze(-1) * theta**-exponents  # (..., T, Dh / 2)
    angles = angles.unsqueeze(-3)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs of x (B, H, T, Dh) by the angles of `rotation`; same shape and dtype."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    even, odd = wide[..., 0::2], wide[..., 1::2]
    turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    return turned.flatten(-2).to(x.dtype)
