"""The parts of a block that work on each token alone: RMSNorm and the SwiGLU feed-forward."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.lora import LoraLinear, project_adapted
from model.native import layers as native_layers

JOIN_FROM = 64  # tokens from which `project` joins weights


class RMSNorm(nn.Module):
    """x / rms(x) * weight, which torch computes in fp32 (arXiv 1910.07467, equation 4)."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension of x (..., D)."""
        if x.dtype == torch.float32 and native_layers.usable(x, x.shape[-1]):
            return native_layers.rms_norm(x, self.weight, self.eps)
        normed = F.rms_norm(x, self.weight.shape, self.weight, self.eps)
        if torch.is_autocast_enabled(x.device.type):  # cast once, not in each projection
            normed = normed.to(torch.get_autocast_dtype(x.device.type))
        return normed


class FeedForward(nn.Module):
    """SwiGLU: w2(silu(w1 x) * w3 x), w1 the gate, w3 up, w2 down (arXiv 2002.05202, section 2)."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(dim, hidden_dim, bias=False)
        self.w2 = nn.Linear(hidden_dim, dim, bias=False)
        self.w3 = nn.Linear(dim, hidden_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., D) to (..., D)."""
        gate_up = project(x, self.w1, self.w3)
        is_bf16, hidden = gate_up.dtype == torch.bfloat16, gate_up.shape[-1] // 2
        if is_bf16 and native_layers.usable(gate_up, hidden):
            return self.w2(native_layers.swiglu(gate_up))
        gate, up = gate_up.chunk(2, dim=-1)
        return self.w2(F.silu(gate) * up)


def project(x: Tensor, *linears: nn.Linear) -> Tensor:
    """Map x (..., D) by several layers in one product; returns their outputs side by side.

    Joining the weights costs a copy of them, so it is done where many tokens share it.
    """
    if x[..., 0].numel() < JOIN_FROM:
        return torch.cat([linear(x) for linear in linears], dim=-1)
    if any(isinstance(linear, LoraLinear) for linear in linears):
        return project_adapted(x, *linears)
    return F.linear(x, torch.cat([linear.weight for linear in linears]))
