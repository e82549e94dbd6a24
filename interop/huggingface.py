"""A trained model as a Hugging Face folder, which `transformers` opens without code of ours.

Three of its architectures carry a window (tests/interop and `python -m interop.matrix` measure it):

    mistral      one window for all layers, or full attention in all
    ministral    one window in some layers, full attention in the others
    granite_swa  as ministral; also a learned sink logit per head, and a RoPE base per layer

None has two sizes of windows or first tokens that stay visible. Such a model is refused.
"""

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from configs.settings import SampleSettings
from errors import UserError
from interop.names import huggingface_weights
from model.config import ModelConfig
from model.rope import Rope

CLASSES = {
    "mistral": "MistralForCausalLM",
    "ministral": "MinistralForCausalLM",
    "granite_swa": "GraniteSWAForCausalLM",
}
NO_SINK_LOGIT = -1e30  # granite_swa always has sink logits; exp(-1e30) is 0
# Both transformers and llama.cpp want a number from granite_swa, also if no layer has a window. No
# text is as long as this one.
UNLIMITED = 1 << 30
# Positions that a model with windows in all layers may reach: Mistral 7B's context. Its distances
# never exceed the window, so the number of positions does not matter.
ENDLESS = 32_768


def architecture(model: ModelConfig) -> str:
    """Return the simplest architecture that carries the model.

    Raises `UserError` for a model that none carries: what it is, and what to do instead.
    """
    refuse_kept_tokens(model, "transformers")
    sizes = {window for window in model.windows if window is not None}
    if len(sizes) > 1:
        listed = " and ".join(f"{size:,}" for size in sorted(sizes))
        raise UserError(
            f"the layers have windows of {listed} tokens, and no architecture of transformers has "
            "two sizes: train with one size, or with one size and null, such as [64, null]"
        )
    if has_two_ropes(model) and model.rope_scaling in ("linear", "yarn"):
        raise UserError(
            f"rope_theta_local with rope_scaling {model.rope_scaling}: transformers scales all "
            "layers alike, Breeze only those without a window: train without one of the two"
        )
    if model.sink_logits or has_two_ropes(model):
        return "granite_swa"
    return "ministral" if sizes and None in model.windows else "mistral"


def refuse_kept_tokens(model: ModelConfig, target: str) -> None:
    """Raise `UserError` if first tokens or a sink token stay visible behind the window."""
    for name, value in (
        ("attention_sinks", model.attention_sinks),
        ("sink_token", model.sink_token),
    ):
        if value:
            raise UserError(
                f"{name} is {str(value).lower()}, and nothing in {target} keeps tokens visible "
                "behind the window, so its outputs would differ: train with model.sink_logits=true "
                "instead, which can be exported"
            )


def config_json(model: ModelConfig, *, seq_len: int, bos_id: int, eos_id: int) -> dict[str, Any]:
    """Return the content of `config.json`. `seq_len` is the trained length in tokens."""
    kind = architecture(model)
    values: dict[str, Any] = {
        "architectures": [CLASSES[kind]],
        "model_type": kind,
        "vocab_size": model.vocab_size,
        "hidden_size": model.dim,
        "intermediate_size": model.hidden_dim,
        "num_hidden_layers": model.n_layers,
        "num_attention_heads": model.n_heads,
        "num_key_value_heads": model.n_kv_heads,
        "head_dim": model.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": model.norm_eps,
        "rope_parameters": _rope_parameters(model),
        "sliding_window": max((w for w in model.windows if w is not None), default=None),
        "max_position_embeddings": context_length(model, seq_len),
        "tie_word_embeddings": model.tie_embeddings,
        "attention_dropout": 0.0,
        "bos_token_id": bos_id,
        "eos_token_id": eos_id,
        "pad_token_id": None,
        "dtype": "float32",
    }
    if kind != "mistral":
        values["layer_types"] = [
            "full_attention" if window is None else "sliding_attention" for window in model.windows
        ]
    if kind == "granite_swa":
        values |= _granite_settings(model)
        values["sliding_window"] = values["sliding_window"] or UNLIMITED
    return values


def _granite_settings(model: ModelConfig) -> dict[str, Any]:
    """Return what only granite_swa has: neutral multipliers, and a RoPE base for each layer."""
    assert model.head_dim is not None
    theta = shared_rope(model).theta
    local = model.rope_theta_local or theta
    return {
        "attention_multiplier": model.head_dim**-0.5,
        "embedding_multiplier": 1.0,
        "residual_multiplier": 1.0,
        "logits_scaling": 1.0,
        "layer_rope_theta": [theta if w is None else local for w in model.windows],
    }


def context_length(model: ModelConfig, seq_len: int) -> int:
    """Return the longest text to promise: as trained, if a layer reads at any distance."""
    return int(seq_len * model.rope_factor) if None in model.windows else max(seq_len, ENDLESS)


def has_two_ropes(model: ModelConfig) -> bool:
    """Return whether layers with and without a window rotate at different speeds."""
    local = model.rope_theta_local
    differs = local is not None and (local != model.rope_theta or model.rope_scaling != "none")
    return differs and len({window is None for window in model.windows}) == 2


def shared_rope(model: ModelConfig) -> Rope:
    """Return the RoPE of all layers; of those without a window if there are two.

    Its scaling is none, linear or yarn: ntk is nothing but a larger base (`model/rope.py`).
    """
    if model.rope_theta_local is not None and None not in model.windows:
        return Rope(model.rope_theta_local)
    if model.rope_scaling == "ntk":
        width = model.head_dim or 0
        power = width / (width - 2) if width > 2 else 0
        return Rope(model.rope_theta * model.rope_factor**power)
    return Rope(model.rope_theta, model.rope_scaling, model.rope_factor, model.rope_original_len)


def _rope_parameters(model: ModelConfig) -> dict[str, Any]:
    rope = shared_rope(model)
    values: dict[str, Any] = {"rope_type": "default", "rope_theta": rope.theta}
    if rope.scaling != "none":
        values |= {"rope_type": rope.scaling, "factor": rope.factor}
    if rope.scaling == "yarn":
        values["original_max_position_embeddings"] = rope.original_len
    return values


def generation_config(sample: SampleSettings, *, bos_id: int, eos_id: int) -> dict[str, Any]:
    """Return the content of `generation_config.json`: the sampling of the run's config."""
    values: dict[str, Any] = {
        "bos_token_id": bos_id,
        "eos_token_id": eos_id,
        "max_new_tokens": sample.max_tokens,
        "do_sample": sample.temperature > 0,
    }
    if sample.temperature > 0:  # transformers warns of these where nothing is drawn
        values |= {
            "temperature": sample.temperature,
            "top_k": sample.top_k or 0,  # 0: off; if it is missing, transformers uses 50
            "top_p": sample.top_p,
            "min_p": sample.min_p,
        }
    return values | {"repetition_penalty": sample.repetition_penalty}


def model_files(
    model: ModelConfig,
    weights: Mapping[str, Tensor],
    *,
    seq_len: int,
    sample: SampleSettings,
    bos_id: int,
    eos_id: int,
) -> dict[str, bytes]:
    """Return the content of each file of the folder but those of the tokenizer, by name.

    `weights` are under Breeze's names. Raises `UserError` as `architecture` does.
    """
    from safetensors.torch import save

    tensors = written_weights(model, weights, architecture(model))
    renamed = {n: w.contiguous() for n, w in huggingface_weights(tensors, model).items()}
    return {
        "config.json": json_bytes(
            config_json(model, seq_len=seq_len, bos_id=bos_id, eos_id=eos_id)
        ),
        "generation_config.json": json_bytes(
            generation_config(sample, bos_id=bos_id, eos_id=eos_id)
        ),
        "model.safetensors": save(renamed, {"format": "pt"}),
    }


def written_weights(
    model: ModelConfig, weights: Mapping[str, Tensor], arch: str
) -> dict[str, Tensor]:
    """Return the weights of an export, under Breeze's names.

    A tied output matrix is left out; granite_swa gets sink logits, which it requires.
    """
    tensors = dict(weights)
    if model.tie_embeddings:
        tensors.pop("output.weight", None)
    if arch == "granite_swa" and not model.sink_logits:
        for n in range(model.n_layers):
            none = torch.full((model.n_heads,), NO_SINK_LOGIT)
            tensors[f"layers.{n}.attention.sink_logits"] = none
    return tensors


def json_bytes(values: Mapping[str, Any]) -> bytes:
    """Return values as indented JSON."""
    return (json.dumps(values, indent=2) + "\n").encode()
