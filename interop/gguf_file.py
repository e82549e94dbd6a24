"""A trained model as a GGUF file, which llama.cpp opens.

    header, keys and values, names and shapes of the tensors      written by the library gguf
    the tensors, each padded to 32 bytes                          one after another, as encoded here

llama.cpp has one architecture that carries a window and learned sink logits, `granite_swa`. Its
`llama` and `mistral3` ignore a window (`python -m interop.matrix` measures it), so `llama` is
allowed here only for models without one. llama.cpp rotates the same pairs as Breeze, (x[2n],
x[2n + 1]), so no rows are reordered. The keys are those that src/models/granite-swa.cpp and
src/llama-model.cpp of llama.cpp read (ggml 0.25, in llama-cpp-python 0.3.36).
"""

import io
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from data.tokenizer import Tokenizer
from errors import UserError, require
from interop.gguf_vocabulary import vocabulary
from interop.huggingface import (
    UNLIMITED,
    context_length,
    has_two_ropes,
    refuse_kept_tokens,
    shared_rope,
    written_weights,
)
from interop.names import to_gguf
from model.config import ModelConfig
from storage import atomic_write

WeightType = Literal["f32", "f16", "bf16", "q8_0"]
Architecture = Literal["granite_swa", "llama"]

FILE_TYPES = {"f32": 0, "f16": 1, "q8_0": 7, "bf16": 32}  # LLAMA_FTYPE of llama.h
LARGEST_F16 = 65504.0
_ALIGNMENT = 32  # bytes


def write_gguf(
    model: ModelConfig,
    weights: Mapping[str, Tensor],
    tokenizer: Tokenizer | None,
    path: Path,
    *,
    type: WeightType = "f32",
    arch: Architecture = "granite_swa",
    seq_len: int,
    name: str = "breeze",
) -> None:
    """Write one file, completely or not at all.

    `weights` are under Breeze's names, `seq_len` is the trained length in tokens. Without a
    tokenizer the file has a size of the vocabulary only. Raises `UserError` for what the file
    cannot carry: what it is, and what to do instead.
    """
    refuse(model, arch)
    chunks = gguf_chunks(
        model, weights, tokenizer, type=type, arch=arch, seq_len=seq_len, name=name
    )
    atomic_write(path, chunks)


def refuse(model: ModelConfig, arch: Architecture = "granite_swa") -> None:
    """Raise `UserError` for a model that `arch` of llama.cpp does not carry."""
    refuse_kept_tokens(model, "llama.cpp")
    sizes = sorted({window for window in model.windows if window is not None})
    if arch == "llama" and (sizes or model.sink_logits):
        has = f"a window of {sizes[-1]:,} tokens" if sizes else "sink logits"
        raise UserError(
            f"the model has {has}, which the architecture llama of llama.cpp ignores: choose "
            "granite_swa, which carries it",
            "arch",
        )
    if len(sizes) > 1:
        listed = " and ".join(f"{size:,}" for size in sizes)
        raise UserError(
            f"the layers have windows of {listed} tokens, and llama.cpp has one size for all: "
            "train with one size, or with one size and null, such as [64, null]"
        )
    if has_two_ropes(model):
        raise UserError(
            "rope_theta_local differs from the RoPE of the layers without a window, and "
            "granite_swa of llama.cpp has one RoPE for all layers: train without rope_theta_local, "
            "or export with --to hf"
        )


def gguf_chunks(
    model: ModelConfig,
    weights: Mapping[str, Tensor],
    tokenizer: Tokenizer | None,
    *,
    type: WeightType,
    arch: str,
    seq_len: int,
    name: str,
) -> Iterator[bytes]:
    """Yield the content of the file in pieces. `arch` is not checked: `refuse` does that.

    Raises `UserError` if the library gguf is missing, for a tokenizer that llama.cpp does not
    have, and for a weight that is too large for f16.
    """
    gguf = require_gguf()
    tensors = {
        to_gguf(name): weight.detach()
        for name, weight in written_weights(model, weights, arch).items()
    }
    kinds = {name: _kind(gguf, tensor, type) for name, tensor in tensors.items()}
    values = {
        "general.type": "model",
        "general.name": name,
        "general.file_type": FILE_TYPES[type],
        "general.quantization_version": gguf.GGML_QUANT_VERSION,
        **{f"{arch}.{key}": value for key, value in _hyperparameters(model, arch, seq_len).items()},
        **vocabulary(tokenizer, model.vocab_size),
    }
    head = _head(gguf, arch, values, tensors, kinds)
    encoded = (_encoded(gguf, name, tensor, kinds[name]) for name, tensor in tensors.items())
    for chunk in itertools.chain([head], encoded):
        yield chunk
        yield bytes(-len(chunk) % _ALIGNMENT)


def require_gguf() -> Any:
    """Return the library gguf. Raises `UserError` if it is not installed."""
    return require("gguf", "export")


def _hyperparameters(model: ModelConfig, arch: str, seq_len: int) -> dict[str, Any]:
    """Return the keys of an architecture, without its name, and their values."""
    windows = model.windows
    values: dict[str, Any] = {
        "vocab_size": model.vocab_size,
        "context_length": context_length(model, seq_len),
        "embedding_length": model.dim,
        "block_count": model.n_layers,
        "feed_forward_length": model.hidden_dim,
        "attention.head_count": model.n_heads,
        "attention.head_count_kv": model.n_kv_heads,
        "attention.key_length": model.head_dim,
        "attention.value_length": model.head_dim,
        "attention.layer_norm_rms_epsilon": model.norm_eps,
        **_rope(model),
    }
    if arch.startswith("granite"):
        values["logit_scale"] = 1.0  # divides the logits; required
    if arch == "granite_swa" or set(windows) != {None}:
        sizes = [window for window in windows if window is not None]
        values["attention.sliding_window"] = max(sizes, default=UNLIMITED)
        # llama.cpp aborts if no layer has a window.
        values["attention.sliding_window_pattern"] = [
            window is not None or not sizes for window in windows
        ]
    return values


def _rope(model: ModelConfig) -> dict[str, Any]:
    """Return the keys of RoPE, which all layers share (`has_two_ropes` is false).

    llama.cpp computes YaRN as `model/rope.py` does: the same ramp, ends and magnitude.
    """
    rope = shared_rope(model)
    values: dict[str, Any] = {
        "rope.dimension_count": model.head_dim,
        "rope.freq_base": rope.theta,
        "rope.scaling.type": rope.scaling,
    }
    if rope.scaling != "none":
        values["rope.scaling.factor"] = rope.factor
    if rope.scaling == "yarn":
        values["rope.scaling.original_context_length"] = rope.original_len
    return values


def _kind(gguf: Any, tensor: Tensor, type: WeightType) -> Any:
    """Return the format of a tensor: vectors are fp32, as in llama.cpp's own converter.

    q8_0 has blocks of 32 weights within a row; other rows are stored in f16.
    """
    kinds = gguf.GGMLQuantizationType
    if tensor.dim() == 1:
        return kinds.F32
    if type == "q8_0" and tensor.shape[-1] % gguf.GGML_QUANT_SIZES[kinds.Q8_0][0]:
        return kinds.F16
    return kinds[type.upper()]


def not_quantized(model: ModelConfig) -> list[str]:
    """Return what q8_0 leaves in f16, because its rows are no multiple of 32 weights."""
    assert model.head_dim is not None
    rows = {
        "dim": model.dim,
        "hidden_dim": model.hidden_dim,
        "n_heads * head_dim": model.n_heads * model.head_dim,
    }
    return [f"{name} ({size})" for name, size in rows.items() if size is not None and size % 32]


def _head(
    gguf: Any,
    arch: str,
    values: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    kinds: Mapping[str, Any],
) -> bytes:
    """Return all that stands before the tensors' data."""
    writer = gguf.GGUFWriter(None, arch)
    add: dict[Any, Any] = {
        bool: writer.add_bool,
        int: writer.add_uint32,
        float: writer.add_float32,
        str: writer.add_string,
        list: writer.add_array,
    }
    for key, value in values.items():
        add[value.__class__](key, value)
    for name, tensor in tensors.items():
        block, size = gguf.GGML_QUANT_SIZES[kinds[name]]
        n_bytes = tensor.numel() // block * size
        writer.add_tensor_info(name, tensor.shape, None, n_bytes, raw_dtype=kinds[name])
    # To memory, so that the file itself is written by `atomic_write`.
    buffer = io.BytesIO()
    writer.fout, writer.state = [buffer], gguf.gguf_writer.WriterState.EMPTY
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    return buffer.getvalue()


def _encoded(gguf: Any, name: str, tensor: Tensor, kind: Any) -> bytes:
    """Return the bytes of a tensor in the format `kind`."""
    array = tensor.float().cpu().contiguous().numpy()
    if kind == gguf.GGMLQuantizationType.F16 and abs(array).max() > LARGEST_F16:
        raise UserError(f"a weight of {name} exceeds {LARGEST_F16:,.0f}, f16's limit: use bf16")
    return gguf.quants.quantize(array, kind).tobytes()
