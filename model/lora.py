"""LoRA: linear layers whose weight is frozen, with a trained update of low rank
(arXiv 2106.09685, section 4.1).

    y = W x + alpha / r B (A x)        W (N, K) frozen, A (r, K) and B (N, r) trained

B starts at zero, so training starts from exactly the function of W. A is drawn from a Gaussian,
with standard deviation 1/sqrt(K) as the model's other matrices: A x then has the size of x. W gets
no gradient: neither memory nor time is spent on it. `adapters.py` adds these layers to a model.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.config import LoraConfig


class LoraLinear(nn.Linear):
    """A linear layer that takes over the weight of another one and has an adapter beside it."""

    def __init__(self, linear: nn.Linear, lora: LoraConfig) -> None:
        nn.Module.__init__(self)  # nn.Linear's own would allocate and draw a weight
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight = linear.weight
        self.register_parameter("bias", None)
        self.scale = lora.scale
        a = self.weight.new_empty(lora.rank, self.in_features)
        self.lora_A = nn.Parameter(a.normal_(std=self.in_features**-0.5))
        self.lora_B = nn.Parameter(self.weight.new_zeros(self.out_features, lora.rank))

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., K) to (..., N)."""
        return project_adapted(x, self)


def project_adapted(x: Tensor, *linears: nn.Linear) -> Tensor:
    """Map x (..., K) by several layers, some of them `LoraLinear`; returns their outputs side by
    side.

    Three products serve all layers: with the weights; with all A, one below the other; with all B,
    as the blocks of a diagonal. Multiplying its zeros costs less than more products would.
    """
    y = F.linear(x, torch.cat([linear.weight for linear in linears]))
    low = F.linear(x, torch.cat([a.lora_A for a in linears if isinstance(a, LoraLinear)]))
    blocks = torch.block_diag(*map(_scaled_b, linears))
    return torch.addmm(y.flatten(0, -2), low.flatten(0, -2), blocks.T).view_as(y)


def _scaled_b(linear: nn.Linear) -> Tensor:
    """Return alpha / r B (N, r), or (N, 0) for a layer without an adapter."""
    if isinstance(linear, LoraLinear):
        return linear.scale * linear.lora_B
    return linear.weight.new_empty(linear.out_features, 0)
