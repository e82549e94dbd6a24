"""The LoRA adapters of a whole model: adding them, and merging them into the weights.

    layers.0.attention.wq.weight      W, frozen
    layers.0.attention.wq.lora_A      A
    layers.0.attention.wq.lora_B      B

Where weights are read directly, such as in native decoding, the adapters must be merged first:
W + alpha / r B A is an ordinary model without adapters.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from model.config import LINEARS, LoraConfig
from model.lora import LoraLinear
from model.transformer import Transformer, empty_model


def add_adapters(model: Transformer, lora: LoraConfig) -> None:
    """Freeze all weights of `model`, and add an adapter to the target matrices of each layer.

    A is drawn from torch's global generator: seed it first.
    """
    model.requires_grad_(False)
    for layer in model.layers:
        for target in lora.targets:
            module = getattr(layer, LINEARS[target])
            setattr(module, target, LoraLinear(getattr(module, target), lora))


def merged(model: Transformer) -> Transformer:
    """Return the same function without adapters, and without gradients.

    Shares all weights that have no adapter. Returns `model` itself if it has none at all.
    """
    scales = {module.scale for module in model.modules() if isinstance(module, LoraLinear)}
    if not scales:
        return model
    (scale,) = scales
    plain = empty_model(model.config)
    plain.load_state_dict(merged_weights(model.state_dict(), scale), assign=True)
    return plain.requires_grad_(False).train(model.training)


@torch.no_grad()
def merged_weights(weights: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """Return W + scale B A for each W that has an adapter, and all other weights as they are.

    `weights` have the names of a model with adapters, the result has those of a model without.
    """
    plain = {name: w for name, w in weights.items() if not name.endswith((".lora_A", ".lora_B"))}
    for name, weight in plain.items():
        a, b = (weights.get(name.removesuffix("weight") + f"lora_{factor}") for factor in "AB")
        if a is not None and b is not None:
            plain[name] = weight + scale * (b @ a)
    return plain
