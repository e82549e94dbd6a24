"""The peer: Mistral's model in transformers, with the weights of a Breeze model.

Breeze rotates neighbouring numbers of a head, (2n, 2n + 1), as Mistral's own weights do, and
transformers rotates (n, n + Dh / 2). So the rows of the query and key projections are reordered.
"""

import importlib
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from model import ModelConfig, Transformer

MISSING = "transformers is not installed and is left out: pip install transformers"
PARTS = {  # of a layer: Breeze's name to that of transformers
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
OUTER = {
    "tok_embeddings.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}


def has_transformers() -> bool:
    """Return whether transformers is installed."""
    return find_spec("transformers") is not None


def same_model(model: "Transformer") -> Any:
    """Return a `MistralForCausalLM` with copies of the weights, in fp32, at its own defaults.

    All layers of `model` must have the same window.
    """
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
    other.load_state_dict(_renamed(model), strict=True)
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


def half_split(weight: "Tensor", head_dim: int) -> "Tensor":
    """Reorder rows from pairs (2n, 2n + 1) to pairs (n, n + Dh / 2), the layout of transformers."""
    order = [*range(0, head_dim, 2), *range(1, head_dim, 2)]
    return weight.unflatten(0, (-1, head_dim))[:, order].flatten(0, 1)


def _renamed(model: "Transformer") -> dict[str, "Tensor"]:
    """Return the weights under the names of transformers, and in its order of rows."""
    weights, head_dim = model.state_dict(), model.config.head_dim
    assert head_dim is not None
    renamed = {name: weights[ours] for ours, name in OUTER.items()}
    for n in range(model.config.n_layers):
        for ours, name in PARTS.items():
            weight = weights[f"layers.{n}.{ours}.weight"]
            if ours in ("attention.wq", "attention.wk"):
                weight = half_split(weight, head_dim)
            renamed[f"model.layers.{n}.{name}.weight"] = weight
    return renamed
