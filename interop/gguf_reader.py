"""Read a GGUF file that Breeze wrote, with the reader of the library gguf.

It shares no code with `gguf_file.py`: names, keys and formats are stated here a second time. So a
mistake of the writer shows, also where llama.cpp is not installed.
"""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from errors import UserError
from model.config import ModelConfig

FULL = 1 << 30  # a window that no text reaches
_NAMES = {
    "token_embd": "tok_embeddings.weight",
    "output_norm": "norm.weight",
    "output": "output.weight",
    "attn_q": "attention.wq.weight",
    "attn_k": "attention.wk.weight",
    "attn_v": "attention.wv.weight",
    "attn_output": "attention.wo.weight",
    "attn_sinks": "attention.sink_logits",
    "ffn_gate": "feed_forward.w1.weight",
    "ffn_down": "feed_forward.w2.weight",
    "ffn_up": "feed_forward.w3.weight",
    "attn_norm": "attention_norm.weight",
    "ffn_norm": "ffn_norm.weight",
}


def read_gguf(path: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Return the architecture and the weights in fp32, under Breeze's names.

    Raises `UserError` if the file cannot be read or is not one of Breeze's.
    """
    from gguf import GGUFReader

    try:
        reader = GGUFReader(path)
        values = {key: field.contents() for key, field in reader.fields.items()}
        weights = {_name(tensor.name): _weight(tensor) for tensor in reader.tensors}
        return _config(values, weights), weights
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(f"{path} is not a GGUF file of Breeze: {error}") from error


def _name(name: str) -> str:
    found = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.weight", name)
    if found is None:
        raise ValueError(f"a tensor is named {name}")
    layer = "" if found[1] is None else f"layers.{found[1]}."
    return layer + _NAMES[found[2]]


def _weight(tensor: Any) -> Tensor:
    from gguf.quants import dequantize

    array = dequantize(tensor.data, tensor.tensor_type)
    return torch.tensor(array.reshape([int(size) for size in reversed(tensor.shape)]))


def _config(values: dict[str, Any], weights: dict[str, Tensor]) -> ModelConfig:
    """Return the architecture. Drops sink logits that have no effect from `weights`."""
    kind = values["general.architecture"]

    def value(key: str, default: Any = None) -> Any:
        return values.get(f"{kind}.{key}", default)

    sinks = [name for name in weights if name.endswith("sink_logits")]
    has_sinks = any((weights[name] > -1e29).any() for name in sinks)
    if not has_sinks:
        for name in sinks:
            del weights[name]
    window, n_layers = value("attention.sliding_window"), value("block_count")
    pattern = value("attention.sliding_window_pattern", [False] * n_layers)
    windows = tuple(window if is_local and window < FULL else None for is_local in pattern)
    is_tied = "output.weight" not in weights
    if is_tied:
        weights["output.weight"] = weights["tok_embeddings.weight"]
    return ModelConfig(
        vocab_size=len(weights["tok_embeddings.weight"]),
        dim=value("embedding_length"),
        n_layers=n_layers,
        n_heads=value("attention.head_count"),
        n_kv_heads=value("attention.head_count_kv"),
        head_dim=value("attention.key_length"),
        hidden_dim=value("feed_forward_length"),
        sliding_window=windows,
        sink_logits=has_sinks,
        rope_theta=value("rope.freq_base"),
        rope_scaling=value("rope.scaling.type"),
        rope_factor=value("rope.scaling.factor", 1.0),
        rope_original_len=value("rope.scaling.original_context_length"),
        norm_eps=value("attention.layer_norm_rms_epsilon"),
        tie_embeddings=is_tied,
    )
