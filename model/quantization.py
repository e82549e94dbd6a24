"""Weights of 8 bits: each matrix in int8, with one scale for each of its outputs.

    W[n, k] ~ scale[n] * numbers[n, k]        scale[n] = max |W[n, :]| / 127

    a row        0.500  -1.270   0.004   1.006
    its numbers     50    -127       0     101      scale 0.01
    used as      0.500  -1.270   0.000   1.010

A number is rounded by half a scale at most. Activations and sums stay in fp32, and nothing is
trained or calibrated: symmetric, weight-only quantization (arXiv 2004.09602, section 3).

Decoding reads every weight once per token, so a quarter of the bytes can be faster
(`native/panels.h`). `round_weights` returns what is computed then as an ordinary model, so its
loss can be measured, and PyTorch can compute it on any machine.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from model.config import WeightFormat
from model.layers import RMSNorm
from model.transformer import Transformer, empty_model

LARGEST = 127  # of an int8; -128 is not used


def to_int8(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return the numbers (N, K) int8 and the scales (N,), fp32 at least, of a matrix (N, K).

    A row of zeros stays zero. A row with a NaN or an infinite weight gets that value as its scale,
    and zeros as numbers. Its output is NaN, so a model that diverged does not look sound.
    """
    wide = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
    scales = wide.abs().amax(dim=1) / LARGEST
    # Division by a scale of 0 gives NaN, or infinity if the largest weight is almost 0.
    numbers = (wide / scales[:, None]).round().nan_to_num(0.0).clamp(-LARGEST, LARGEST)
    return numbers.to(torch.int8), scales


def fold_norms(model: Transformer) -> Transformer:
    """Return the same function with norms whose weights are 1.

    W (x / rms(x) * g) = (W g) (x / rms(x)), so each norm's weight g is multiplied into the columns
    of the matrices after it. Tied embeddings are separated: the output layer gets a weight of its
    own. The model does not change; other tensors than these matrices are shared with it.
    """
    folded = empty_model(replace(model.config, tie_embeddings=False))
    folded.load_state_dict(model.state_dict(), assign=True)
    folded.requires_grad_(False)
    _fold(folded.norm, folded.output)
    layer: Any
    for layer in folded.layers:
        attention, feed_forward = layer.attention, layer.feed_forward
        _fold(layer.attention_norm, attention.wq, attention.wk, attention.wv)
        _fold(layer.ffn_norm, feed_forward.w1, feed_forward.w3)
    return folded.train(model.training)


def round_weights(model: Transformer) -> Transformer:
    """Return the model that is computed with int8 weights: norms folded, each matrix rounded.

    Embeddings and sinks are not rounded; the output layer is. The weights keep their dtype, and
    the model does not change.
    """
    rounded = fold_norms(model)
    for linear in _matrices(rounded):
        numbers, scales = to_int8(linear.weight)
        _assign(linear, (numbers * scales[:, None]).to(linear.weight.dtype))
    return rounded


def bytes_per_token(model: Transformer, weights: WeightFormat) -> int:
    """Return the bytes of all matrices, which decoding one token reads once."""
    shapes = [linear.weight.shape for linear in _matrices(model)]
    if weights == "fp32":
        return sum(4 * outputs * inputs for outputs, inputs in shapes)
    return sum(outputs * inputs + 4 * outputs for outputs, inputs in shapes)


def _matrices(model: Transformer) -> list[nn.Linear]:
    return [module for module in model.modules() if isinstance(module, nn.Linear)]


def _fold(norm: RMSNorm, *linears: nn.Linear) -> None:
    for linear in linears:
        _assign(linear, linear.weight * norm.weight)
    _assign(norm, torch.ones_like(norm.weight))


def _assign(module: nn.Module, weight: Tensor) -> None:
    module.weight = nn.Parameter(weight, requires_grad=False)
