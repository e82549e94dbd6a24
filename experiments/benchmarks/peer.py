"""The peer: Mistral's model in transformers, with the weights of a Breeze model."""

import importlib
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model import ModelConfig, Transformer

MISSING = "transformers is not installed and is left out: pip install transformers"


def has_transformers() -> bool:
    """Return whether transformers is installed."""
    return find_spec("transformers") is not None


def same_model(model: "Transformer") -> Any:
    """Return a `MistralForCausalLM` with copies of the weights, in fp32, at its own defaults.

    All layers of `model` must have the same window.
    """
    from interop.names import huggingface_weights

    transformers = importlib.import_module("transformers")
    transformers.logging.set_verbosity_error()
    shape = model.config
    (window,) = set(shape.windows)
    settings = transformers.MistralConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.dim,
        intermediate_size=shape.hidden_dim,
        num_hidden_layers=shape.n_layers,
        num_attention_heads=shape.n_heads,
        num_key_value_heads=shape.n_kv_heads,
        head_dim=shape.head_dim,
        rms_norm_eps=shape.norm_eps,
        sliding_window=window,
        rope_theta=shape.rope_theta,  # read by version 4
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},  # since 5
        tie_word_embeddings=shape.tie_embeddings,
        bos_token_id=None,
        eos_token_id=None,
    )
    other = transformers.MistralForCausalLM(settings).float()
    other.load_state_dict(huggingface_weights(model.state_dict(), shape), strict=True)
    return other


def drawn_model(config: "ModelConfig") -> "Transformer":
    """Return a model whose blocks all have an effect, in fp32; seed 0.

    A new model is the identity in each block, because its output projections are zero. With such
    weights a wrong attention would go unnoticed.
    """
    import torch

    from model import Transformer

    torch.manual_seed(0)
    model = Transformer(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.normal_(std=weight.shape[1] ** -0.5)
    return model
