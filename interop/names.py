"""The names of the weights in three formats, and the order of rows in which RoPE's pairs lie.

    Breeze (Mistral's own)         Hugging Face                          GGUF
    layers.3.attention.wq.weight   model.layers.3.self_attn.q_proj.weight   blk.3.attn_q.weight

Breeze and llama.cpp's `llama` family rotate neighbours, (x[2n], x[2n + 1]). transformers rotates
halves, (x[n], x[n + Dh / 2]). So the rows of wq and wk are reordered for transformers, here and
nowhere else. For Dh = 6:

    Breeze          0 1 2 3 4 5
    transformers    0 2 4 1 3 5
"""

import re
from collections.abc import Mapping

from torch import Tensor

from model.config import ModelConfig

# Breeze -> (Hugging Face, GGUF), of the whole model.
_MODEL = {
    "tok_embeddings.weight": ("model.embed_tokens.weight", "token_embd.weight"),
    "norm.weight": ("model.norm.weight", "output_norm.weight"),
    "output.weight": ("lm_head.weight", "output.weight"),
}
# The same within layer N: layers.N.*, model.layers.N.*, blk.N.*
_LAYER = {
    "attention.wq.weight": ("self_attn.q_proj.weight", "attn_q.weight"),
    "attention.wk.weight": ("self_attn.k_proj.weight", "attn_k.weight"),
    "attention.wv.weight": ("self_attn.v_proj.weight", "attn_v.weight"),
    "attention.wo.weight": ("self_attn.o_proj.weight", "attn_output.weight"),
    "attention.sink_logits": ("self_attn.sinks", "attn_sinks.weight"),
    "feed_forward.w1.weight": ("mlp.gate_proj.weight", "ffn_gate.weight"),
    "feed_forward.w2.weight": ("mlp.down_proj.weight", "ffn_down.weight"),
    "feed_forward.w3.weight": ("mlp.up_proj.weight", "ffn_up.weight"),
    "attention_norm.weight": ("input_layernorm.weight", "attn_norm.weight"),
    "ffn_norm.weight": ("post_attention_layernorm.weight", "ffn_norm.weight"),
}


def to_huggingface(name: str) -> str:
    """Return Hugging Face's name of a weight. Raises `KeyError` for a name that is not ours."""
    return _renamed(name, "model.layers", 0)


def to_gguf(name: str) -> str:
    """Return GGUF's name of a weight. Raises `KeyError` for a name that is not ours."""
    return _renamed(name, "blk", 1)


def _renamed(name: str, layers: str, column: int) -> str:
    found = re.fullmatch(r"layers\.(\d+)\.(.+)", name)
    if found is None:
        return _MODEL[name][column]
    return f"{layers}.{found[1]}.{_LAYER[found[2]][column]}"


def pairs_to_halves(name: str, weight: Tensor, model: ModelConfig) -> Tensor:
    """Reorder the rows of wq and wk (heads * Dh, ...) for transformers; others are unchanged."""
    if not re.search(r"\.w[qk]\.", name):
        return weight
    return weight.unflatten(0, (-1, model.head_dim // 2, 2)).transpose(1, 2).flatten(0, 2)  # type: ignore[operator]


def halves_to_pairs(name: str, weight: Tensor, model: ModelConfig) -> Tensor:
    """Undo `pairs_to_halves`."""
    if not re.search(r"\.w[qk]\.", name):
        return weight
    return weight.unflatten(0, (-1, 2, model.head_dim // 2)).transpose(1, 2).flatten(0, 2)  # type: ignore[operator]


def huggingface_weights(weights: Mapping[str, Tensor], model: ModelConfig) -> dict[str, Tensor]:
    """Return the weights under Hugging Face's names, with rows in its order."""
    return {
        to_huggingface(name): pairs_to_halves(name, weight, model)
        for name, weight in weights.items()
    }
