"""Rotary position embedding (RoFormer, arXiv 2104.09864, section 3.2.2), computed from positions.

Each pair of neighbours (x[2n], x[2n+1]) of a head is one complex number. It rotates by the angle
`position * theta ** (-2n / Dh)`, as in Mistral's own weights. There is no table of angles and so no
last position: the angle at position ten million is as exact as the first.
(On a CPU, complex products are 4x faster here than cos/sin on strided halves.)

For texts longer by a factor s than those of training, the pairs can rotate more slowly:

    linear   every frequency / s (position interpolation, arXiv 2306.15595)
    ntk      theta * s^(Dh / (Dh - 2)): the slowest frequency / s, the fastest unchanged
    yarn     fast pairs unchanged, slow ones / s, a ramp between (arXiv 2309.00071, section 3)
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from model.native import layers as native_layers

# YaRN's ramp: frequencies with more than FAST rotations in the trained length are unchanged, those
# with fewer than SLOW are divided by the factor (section 3.2, for Llama).
FAST, SLOW = 32, 1


@dataclass(frozen=True)
class Rope:
    """How fast the pairs rotate. `original_len` is the trained length in tokens, for YaRN."""

    theta: float
    scaling: str = "none"
    factor: float = 1.0
    original_len: int | None = None

    @property
    def magnitude(self) -> float:
        """The factor of queries and of keys: YaRN makes attention sharper (section 3.4)."""
        return 0.1 * math.log(self.factor) + 1.0 if self.scaling == "yarn" else 1.0


def frequencies(head_dim: int, rope: Rope) -> Tensor:
    """Return the radians per position of each pair: (Dh / 2,) float64, the fastest first."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim
    if rope.scaling == "ntk" and head_dim > 2:  # a single pair rotates at speed 1 for any theta
        return (rope.theta * rope.factor ** (head_dim / (head_dim - 2))) ** -exponents
    plain = rope.theta**-exponents
    if rope.scaling == "linear":
        return plain / rope.factor
    if rope.scaling == "yarn":
        slowed = _ramp(head_dim, rope)
        return plain * (1 - slowed) + plain / rope.factor * slowed
    return plain


def _ramp(head_dim: int, rope: Rope) -> Tensor:
    """Return how much each pair (Dh / 2,) slows down, from 0 (not at all) to 1 (by the factor)."""
    assert rope.original_len is not None
    length = rope.original_len

    def pair_with(rotations: float) -> float:
        """The index, not rounded, of the pair with so many rotations in the trained length."""
        return head_dim / 2 * math.log(length / (rotations * 2 * math.pi)) / math.log(rope.theta)

    first = max(math.floor(pair_with(FAST)), 0)
    last = min(math.ceil(pair_with(SLOW)), head_dim - 1)
    pairs = torch.arange(head_dim // 2, dtype=torch.float64)
    return ((pairs - first) / max(last - first, 0.001)).clamp(0, 1)


def rotation(positions: Tensor, head_dim: int, rope: Rope, dtype: torch.dtype) -> Tensor:
    """Compute the complex rotation factors at positions (T,) or (B, T): (..., 1, T, Dh / 2).

    The dimension of size 1 is that of the heads. Single precision unless `dtype` is float64.
    """
    # An angle grows with its position, and only its remainder modulo 2 pi matters: fp32 would lose
    # it. MPS has no float64.
    wide = torch.float32 if positions.device.type == "mps" else torch.float64
    speeds = frequencies(head_dim, rope).to(wide).to(positions.device)
    angles = (positions.to(wide).unsqueeze(-1) * speeds).unsqueeze(-3)
    angles = angles % (2 * torch.pi)
    if dtype != torch.float64:
        angles = angles.float()
    return torch.polar(torch.full_like(angles, rope.magnitude), angles)


def rotate(x: Tensor, factors: Tensor) -> Tensor:
    """Rotate the pairs of x (B, H, T, Dh) by the factors of `rotation`; same shape and dtype."""
    if x.dtype == torch.bfloat16 and native_layers.usable(x, x.shape[-1]):
        return native_layers.rotate(x, factors)
    pairs = x.to(torch.promote_types(x.dtype, torch.float32)).unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():  # the compiler fuses real products, but not complex ones
        (a, b), (c, s) = pairs.unbind(-1), torch.view_as_real(factors).unbind(-1)
        rotated = torch.stack((a * c - b * s, a * s + b * c), dim=-1)
    else:
        rotated = torch.view_as_real(torch.view_as_complex(pairs) * factors)
    return rotated.flatten(-2).to(x.dtype)
