"""Rotary position embedding (RoFormer, arXiv 2104.09864, section 3.2.2), computed from positions.

Neighbouring pairs (x[2n], x[2n+1]) of a head, read as one complex number, turn by the angle
`position * theta ** (-2n / Dh)`: the layout of Mistral's own weights. There is no table, so there
is no last position: the angle at position ten million is as exact as that at the first.
(Complex products are 4x faster on a CPU here than cos/sin on strided halves.)

A model that is to read texts longer by the factor s than those it was trained on can turn slower:

    linear   every frequency / s: positions are squeezed (arXiv 2306.15595)
    ntk      theta * s^(Dh / (Dh - 2)): the slowest pair by s, the fastest hardly
    yarn     pairs that turn often stay, slow ones / s, a ramp between (arXiv 2309.00071, section 3)
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# YaRN's ramp: pairs that turn more often than this in the trained length stay as they are, and
# those that turn less often than the other are squeezed (section 3.2, for Llama).
MANY_TURNS, FEW_TURNS = 32, 1


@dataclass(frozen=True)
class Rope:
    """How fast the pairs turn. `original_len` is the trained length in tokens, for YaRN."""

    theta: float
    scaling: str = "none"
    factor: float = 1.0
    original_len: int | None = None

    @property
    def magnitude(self) -> float:
        """What queries and keys are multiplied by: YaRN sharpens attention (section 3.4)."""
        return 0.1 * math.log(self.factor) + 1.0 if self.scaling == "yarn" else 1.0


def frequencies(head_dim: int, rope: Rope) -> Tensor:
    """Radians per position of each pair: (Dh / 2,) float64, the fastest first."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim
    if rope.scaling == "ntk" and head_dim > 2:  # a single pair turns at speed 1 under any theta
        return (rope.theta * rope.factor ** (head_dim / (head_dim - 2))) ** -exponents
    plain = rope.theta**-exponents
    if rope.scaling == "linear":
        return plain / rope.factor
    if rope.scaling == "yarn":
        squeezed = _ramp(head_dim, rope)
        return plain * (1 - squeezed) + plain / rope.factor * squeezed
    return plain


def _ramp(head_dim: int, rope: Rope) -> Tensor:
    """By how much each pair is squeezed, from 0 to 1."""
    assert rope.original_len is not None
    length = rope.original_len

    def pair_that_turns(times: float) -> float:
        return head_dim / 2 * math.log(length / (times * 2 * math.pi)) / math.log(rope.theta)

    first = max(math.floor(pair_that_turns(MANY_TURNS)), 0)
    last = min(math.ceil(pair_that_turns(FEW_TURNS)), head_dim - 1)
    pairs = torch.arange(head_dim // 2, dtype=torch.float64)
    return ((pairs - first) / max(last - first, 0.001)).clamp(0, 1)


def rotation(positions: Tensor, head_dim: int, rope: Rope, dtype: torch.dtype) -> Tensor:
    """Compute the numbers to multiply by at positions (T,) or (B, T): complex (..., 1, T, Dh / 2).

    The 1 is where the heads broadcast. Single precision unless `dtype` is float64.
    """
    # Angles grow with the position and must keep their fraction of a turn; MPS has no float64.
    wide = torch.float32 if positions.device.type == "mps" else torch.float64
    speeds = frequencies(head_dim, rope).to(wide).to(positions.device)
    angles = (positions.to(wide).unsqueeze(-1) * speeds).unsqueeze(-3)
    angles = angles % (2 * torch.pi)
    if dtype != torch.float64:
        angles = angles.float()
    return torch.polar(torch.full_like(angles, rope.magnitude), angles)


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Turn the pairs of x (B, H, T, Dh) by what `rotation` computed; same shape and dtype."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    turned = torch.view_as_complex(wide.unflatten(-1, (-1, 2))) * turn
    return torch.view_as_real(turned).flatten(-2).to(x.dtype)
