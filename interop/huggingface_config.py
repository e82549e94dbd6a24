"""From `config.json` of a Hugging Face folder to a `ModelConfig`, without torch.

Four architectures have the shape of Breeze's model: Mistral, Ministral, Llama and GraniteSWA. What
else `config.json` asks for is refused by name: a key that is ignored would change the outputs.
Missing keys have the defaults of transformers 5 (`configuration_*.py` of each architecture).
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from configs.setting import spell
from configs.settings import ModelSettings
from errors import UserError, fields_named
from interop.huggingface_rope import local_theta, number, rope_settings
from model.config import MOST_LAYERS, ModelConfig
from model.window import Window

# Architecture -> the defaults that differ between architectures.
CARRIED: dict[str, dict[str, Any]] = {
    "MistralForCausalLM": {"num_key_value_heads": 8, "sliding_window": 4096},
    "MinistralForCausalLM": {"num_key_value_heads": 8, "sliding_window": 4096},
    "LlamaForCausalLM": {},
    "GraniteSWAForCausalLM": {
        "num_key_value_heads": 4,
        "sliding_window": 128,
        "tie_word_embeddings": True,
        "rms_norm_eps": 1e-5,
    },
}
_BY_TYPE = {name.removesuffix("ForCausalLM").lower(): name for name in CARRIED} | {
    "granite_swa": "GraniteSWAForCausalLM"
}
# Names of architectures that Breeze cannot carry, with the reason; the first match counts.
_REASONS = (
    (r"ConditionalGeneration", "it reads more than text"),
    (r"Mamba|Rwkv|Jamba|RecurrentGemma", "its layers are recurrent"),
    (r"Moe|MoE|Mixtral|GptOss|Deepseek", "it is a mixture of experts (MoE)"),
    (r"Qwen3|Olmo2|Gemma3", "it normalizes queries and keys (QK norm)"),
    (r"Qwen2|GPT|OPT|Bloom|Starcoder2|Phi(?!3)", "its matrices have biases"),
    (r"Gemma", "it scales embeddings and norms"),
    (r"Granite", "it multiplies embeddings, residuals and logits"),
    (r"Phi3", "it stores several projections as one matrix"),
    (r"Model$", "it has no output matrix"),
)
# Keys, the values at which they change nothing, and why others are refused.
_NEUTRAL: tuple[tuple[tuple[str, ...], tuple[Any, ...], str], ...] = (
    (("attention_bias", "mlp_bias", "qkv_bias", "use_bias"), (None, False),
     "Breeze's matrices have no biases"),
    (("qk_norm", "use_qk_norm", "qk_layernorm"), (None, False),
     "Breeze does not normalize queries and keys (QK norm)"),
    (("num_local_experts", "num_experts", "n_routed_experts"), (None, 0, 1),
     "Breeze has no experts (MoE)"),
    (("embedding_multiplier", "residual_multiplier", "logits_scaling"), (None, 1),
     "Breeze multiplies by no such number"),
    (("attn_logit_softcapping", "final_logit_softcapping", "logits_soft_cap"), (None,),
     "Breeze does not bound scores or logits (softcapping)"),
)  # fmt: skip
# Field of ModelConfig -> key of config.json, for error messages.
_KEYS = {
    "dim": "hidden_size",
    "hidden_dim": "intermediate_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "norm_eps": "rms_norm_eps",
    "rope_factor": "factor",
    "rope_original_len": "original_max_position_embeddings",
}
LAYER_TYPES = {"full_attention": False, "sliding_attention": True}  # -> has a window


@dataclass(frozen=True)
class ForeignConfig:
    """What `config.json` says, as far as Breeze reads it."""

    architecture: str
    model: ModelConfig
    max_len: int  # tokens of the longest text that the model was trained on
    ignores_window: bool  # use_sliding_window is false, which transformers itself does not read

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of a config's section `model`."""
        return {entry.name: getattr(self.model, entry.name) for entry in fields(ModelSettings)}


def is_model_folder(folder: Path) -> bool:
    """Return whether `folder` looks like a model of Hugging Face, not like a run of Breeze."""
    if not folder.is_dir() or (folder / "checkpoints").is_dir():
        return False
    names = {path.name for path in folder.iterdir()}
    return bool(names & {"config.json", "params.json", "adapter_config.json"}) or any(
        name.endswith((".safetensors", ".bin")) and not name.startswith("step-") for name in names
    )


def read_config(folder: Path) -> ForeignConfig:
    """Read and check `config.json`.

    Raises `UserError` if the folder is no model, or of a model that Breeze cannot carry: which key,
    its value, the reason.
    """
    path = folder / "config.json"
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: name one with config.json and *.safetensors")
    if not path.is_file():
        raise UserError(
            f"{folder} is no model of Hugging Face: it has no config.json{_hint(folder)}"
        )
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise UserError(f"{path} is not a JSON object: restore the file")
    try:
        with fields_named(_KEYS):
            return foreign_config(values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _hint(folder: Path) -> str:
    """Say what a folder without config.json is instead."""
    if (folder / "adapter_config.json").exists():
        return ", only an adapter of PEFT: merge it into its model (merge_and_unload), save that"
    if (folder / "params.json").exists():
        return (
            ", only params.json of Mistral's own format: name the folder of its transformers form"
        )
    return ""


def foreign_config(values: Mapping[str, Any]) -> ForeignConfig:
    """Return the architecture that the values of `config.json` describe.

    Raises `UserError` if Breeze cannot carry it; the message begins with the key.
    """
    architecture = _architecture(values)
    values = CARRIED[architecture] | dict(values)
    _refuse_unsupported(values)
    dim, n_heads = _count(values, "hidden_size"), _count(values, "num_attention_heads")
    n_layers = _count(values, "num_hidden_layers", most=MOST_LAYERS)
    if values.get("head_dim") is None and dim % n_heads:
        raise UserError(
            f"hidden_size ({dim}) is not divisible by num_attention_heads "
            f"({n_heads}), and head_dim is missing"
        )
    windows = _windows(values, architecture, n_layers)
    theta, local = local_theta(values, windows)
    model = ModelConfig(
        vocab_size=_count(values, "vocab_size"),
        dim=dim,
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=_count(values, "num_key_value_heads", n_heads),
        head_dim=_count(values, "head_dim", dim // n_heads),
        hidden_dim=_count(values, "intermediate_size"),
        sliding_window=_shortest(windows),
        sink_logits=architecture == "GraniteSWAForCausalLM",
        norm_eps=number(values, "rms_norm_eps", 1e-6),
        tie_embeddings=values.get("tie_word_embeddings", False) is True,
        **rope_settings(values) | {"rope_theta": theta, "rope_theta_local": local},
    )
    _refuse_other_scale(values, architecture, model)
    return ForeignConfig(
        architecture,
        model,
        max_len=_count(values, "max_position_embeddings", 2048),
        ignores_window=values.get("use_sliding_window") is False,
    )


def _architecture(values: Mapping[str, Any]) -> str:
    """Return the name of the class. Raises `UserError` if Breeze cannot carry it."""
    named, kind = values.get("architectures"), values.get("model_type")
    if isinstance(named, list) and named:
        name = str(named[0])
    elif str(kind) in _BY_TYPE:
        return _BY_TYPE[str(kind)]
    elif kind is None:
        raise UserError("architectures and model_type are missing: this is no config of a model")
    else:
        name = str(kind)
    if name in CARRIED:
        return name
    reason = next((reason for pattern, reason in _REASONS if re.search(pattern, name)), None)
    known = ", ".join(entry.removesuffix("ForCausalLM") for entry in CARRIED)
    raise UserError(
        f"the architecture is {spell(name)}, which Breeze cannot carry"
        f"{f', because {reason}' if reason else ''}: it carries {known}"
    )


def _refuse_unsupported(values: Mapping[str, Any]) -> None:
    """Raise `UserError` for a key that Breeze has no place for."""
    for keys, neutral, reason in _NEUTRAL:
        for key in keys:
            if (value := values.get(key)) not in neutral:
                raise UserError(f"{key} is {spell(value)}: {reason}")
    if (act := values.get("hidden_act", "silu")) not in ("silu", "swish"):
        raise UserError(f"hidden_act is {spell(act)}: Breeze's feed-forward has silu only")
    if quantized := values.get("quantization_config"):
        method = quantized.get("quant_method") if isinstance(quantized, dict) else None
        raise UserError(
            f"quantization_config: the weights are quantized ({method or 'unknown'}): name the "
            "folder of the original model, in fp32, bf16 or fp16"
        )


def _refuse_other_scale(values: Mapping[str, Any], architecture: str, model: ModelConfig) -> None:
    """Raise `UserError` if the scores are not scaled by head_dim ** -0.5, as Breeze's are."""
    if architecture != "GraniteSWAForCausalLM":
        return
    assert model.head_dim is not None
    scale = number(values, "attention_multiplier", 1.0)
    if not math.isclose(scale, model.head_dim**-0.5, rel_tol=1e-6):
        raise UserError(
            f"attention_multiplier is {scale:g}: Breeze multiplies scores by head_dim ** -0.5 = "
            f"{model.head_dim**-0.5:g}"
        )


def _windows(values: Mapping[str, Any], architecture: str, n_layers: int) -> tuple[Window, ...]:
    """Return the window of each layer. Raises `UserError` if the keys contradict each other."""
    size: Window = values.get("sliding_window")
    if size is not None:
        size = _count(values, "sliding_window")
    types = values.get("layer_types")
    if types is None and architecture == "GraniteSWAForCausalLM":
        types = ["sliding_attention" if n % 4 else "full_attention" for n in range(n_layers)]
    if types is not None:
        _check_layer_types(types, n_layers)
    if values.get("use_sliding_window") is False:
        return (None,) * n_layers
    if architecture in ("MistralForCausalLM", "LlamaForCausalLM"):
        has_window = size is not None
        if has_window and architecture == "LlamaForCausalLM":
            raise UserError(
                f"sliding_window is {size}, but transformers gives LlamaForCausalLM no window: "
                "remove the key, or set architectures and model_type to those of Mistral"
            )
        if types is not None and any(LAYER_TYPES[kind] != has_window for kind in types):
            raise UserError(
                f"layer_types is {spell(types)}, which {architecture} does not read itself: "
                "set architectures and model_type to those of Ministral"
            )
        return (size,) * n_layers
    if types is None:
        return (size,) * n_layers
    if size is None and "sliding_attention" in types:
        raise UserError("sliding_window is missing, but layer_types has sliding_attention")
    return tuple(size if LAYER_TYPES[kind] else None for kind in types)


def _check_layer_types(types: Any, n_layers: int) -> None:
    """Raise `UserError` if `layer_types` does not name a known kind for each layer."""
    if not isinstance(types, list) or len(types) != n_layers:
        raise UserError(f"layer_types is {spell(types)}: it must name a kind for each of the "
                        f"{n_layers} layers")  # fmt: skip
    for kind in types:
        if kind not in [*LAYER_TYPES]:  # a dict raises TypeError if `kind` is a list
            raise UserError(
                f"layer_types has {spell(kind)}: Breeze has only {' and '.join(LAYER_TYPES)}"
            )


def _shortest(windows: Sequence[Window]) -> Window | tuple[Window, ...]:
    """Return the shortest pattern that gives `windows` when it is tiled; a number if it is one."""
    length = next(
        length
        for length in range(1, len(windows) + 1)
        if all(window == windows[n % length] for n, window in enumerate(windows))
    )
    return windows[0] if length == 1 else tuple(windows[:length])


def _count(
    values: Mapping[str, Any], key: str, default: int | None = None, most: int = 2**31 - 1
) -> int:
    """Return a whole number from 1 to `most`. Raises `UserError` if it is missing or something
    else."""
    value = values.get(key)
    value = default if value is None else value
    if value is None:
        raise UserError(f"{key} is missing")
    if type(value) is not int or not 1 <= value <= most:
        raise UserError(f"{key} is {spell(value)}: a whole number from 1 to {most:,} is needed")
    return value
