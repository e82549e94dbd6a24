"""llama.cpp with the weights of a Breeze model, through the packages llama-cpp-python and gguf.

The model is written to a GGUF file of architecture `llama`, all numbers in fp32. That architecture
rotates neighbouring numbers, as Breeze does, so no row is reordered. It has no window: texts must
be shorter than the model's window, where a window hides nothing. The file has no tokenizer, because
only token ids go in and out.
"""

import ctypes
import importlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model import Transformer

MISSING = (
    "llama.cpp is not installed and is left out: pip install llama-cpp-python gguf (compiled on "
    "this machine, in some minutes)"
)
_OUTER = {"tok_embeddings": "token_embd", "norm": "output_norm", "output": "output"}
_PARTS = {
    "attention.wq": "attn_q",
    "attention.wk": "attn_k",
    "attention.wv": "attn_v",
    "attention.wo": "attn_output",
    "attention_norm": "attn_norm",
    "feed_forward.w1": "ffn_gate",
    "feed_forward.w2": "ffn_down",
    "feed_forward.w3": "ffn_up",
    "ffn_norm": "ffn_norm",
}


def has_llama() -> bool:
    """Return whether llama-cpp-python and gguf are installed."""
    return find_spec("llama_cpp") is not None and find_spec("gguf") is not None


class LlamaModel:
    """An open model; it writes greedy texts. `opened` makes and closes one."""

    def __init__(self, path: Path, length: int, threads: int) -> None:
        self._api: Any = importlib.import_module("llama_cpp")
        log = self._api.llama_log_callback(lambda level, text, data: None)
        self._silent = log  # kept, because C calls it
        self._api.llama_log_set(log, ctypes.c_void_p(0))
        self._model = self._api.llama_model_load_from_file(
            str(path).encode(), self._api.llama_model_default_params()
        )
        settings = self._api.llama_context_default_params()
        settings.n_ctx = settings.n_batch = settings.n_ubatch = length
        settings.n_threads = settings.n_threads_batch = threads
        self._context = self._api.llama_init_from_model(self._model, settings)
        assert self._context, "llama.cpp could not open the file"
        self._sampler = self._api.llama_sampler_init_greedy()

    def write(self, prompt: Sequence[int], n_tokens: int) -> list[int]:
        """Continue the prompt by `n_tokens`, always the most likely one."""
        api = self._api
        api.llama_memory_clear(api.llama_get_memory(self._context), True)
        written: list[int] = []
        chunk = list(prompt)
        while len(written) < n_tokens:
            tokens = (api.llama_token * len(chunk))(*chunk)
            code = api.llama_decode(self._context, api.llama_batch_get_one(tokens, len(chunk)))
            assert code == 0, f"llama_decode returned {code}"
            chunk = [api.llama_sampler_sample(self._sampler, self._context, -1)]
            written += chunk
        return written

    def close(self) -> None:
        """Free the memory."""
        self._api.llama_sampler_free(self._sampler)
        self._api.llama_free(self._context)
        self._api.llama_model_free(self._model)


@contextmanager
def opened(model: "Transformer", length: int) -> Iterator[LlamaModel]:
    """Open `model` in llama.cpp for texts of `length` tokens, the prompt included."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        _write_gguf(model, path, length)
        llama = LlamaModel(path, length, torch.get_num_threads())
        try:
            yield llama
        finally:
            llama.close()


def _write_gguf(model: "Transformer", path: Path, length: int) -> None:
    gguf = importlib.import_module("gguf")
    shape = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(length)
    writer.add_embedding_length(shape.dim)
    writer.add_block_count(shape.n_layers)
    writer.add_feed_forward_length(shape.hidden_dim)
    writer.add_head_count(shape.n_heads)
    writer.add_head_count_kv(shape.n_kv_heads)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_freq_base(shape.rope_theta)
    writer.add_layer_norm_rms_eps(shape.norm_eps)
    writer.add_vocab_size(shape.vocab_size)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("no_vocab")
    for name, weight in model.state_dict().items():
        if not (name == "output.weight" and shape.tie_embeddings):
            writer.add_tensor(_gguf_name(name), weight.detach().float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _gguf_name(name: str) -> str:
    """Return the name of a weight in GGUF: layers.3.attention.wq.weight is blk.3.attn_q.weight."""
    name = name.removesuffix(".weight")
    if name in _OUTER:
        return f"{_OUTER[name]}.weight"
    _, layer, part = name.split(".", maxsplit=2)
    return f"blk.{layer}.{_PARTS[part]}.weight"
