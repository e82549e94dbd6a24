"""Models that can be checked in seconds: smaller settings for a large one, and random weights."""

from typing import Any

import torch

from checks.fixture import MAX_SPAN
from model.config import ModelConfig
from model.transformer import Transformer

MAX_WEIGHTS = 10_000_000  # of the largest model that is checked at its own size
# Sizes that replace those of a larger model.
SMALL_SIZES = {"dim": 128, "hidden_dim": 256, "vocab_size": 512, "n_layers": 4}
SMALL_WINDOW, FEW_SINKS = 64, 4


def narrower_settings(config: ModelConfig) -> dict[str, Any]:
    """Return narrower windows, in the same proportions, and fewer sinks, if the checks need them.

    The result is empty if W + n is at most `MAX_SPAN`.
    """
    widest = max((window for window in config.windows if window is not None), default=0)
    sinks = min(config.attention_sinks, FEW_SINKS)
    if widest + config.sinks <= MAX_SPAN:
        return {}
    if widest + sinks + config.sink_token <= MAX_SPAN:
        return {"attention_sinks": sinks}
    pattern = config.sliding_window if isinstance(config.sliding_window, tuple) else [widest]
    scaled = [window and max(1, round(window * SMALL_WINDOW / widest)) for window in pattern]
    return {"sliding_window": scaled, "attention_sinks": sinks}


def smaller_settings(config: ModelConfig) -> dict[str, Any]:
    """Return smaller sizes for a model of more than `MAX_WEIGHTS` weights, otherwise nothing.

    The pattern of layers and the number of query heads for each key head stay.
    """
    if sum(config.parameter_counts().values()) <= MAX_WEIGHTS:
        return {}
    pattern = config.sliding_window
    layers = max(SMALL_SIZES["n_layers"], len(pattern) if isinstance(pattern, tuple) else 1)
    key_heads = min(config.n_kv_heads, 2)
    sizes = SMALL_SIZES | {
        "n_layers": min(config.n_layers, layers),
        "n_heads": key_heads * (config.n_heads // config.n_kv_heads),
        "n_kv_heads": key_heads,
    }
    return {name: min(size, getattr(config, name)) for name, size in sizes.items()}


def random_model(config: ModelConfig, seed: int) -> Transformer:
    """Return a model in which every weight is random.

    The checks cannot use weights initialised for training: projections that are zero hide errors.
    """
    model, generator = Transformer(config), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(generator=generator)
            if "norm" in name:
                weight.mul_(0.2).add_(1)
            elif weight.dim() == 2 and name != "tok_embeddings.weight":
                weight.mul_(weight.shape[1] ** -0.5)
    return model.eval()
