"""llama.cpp as a peer: what it computes for a GGUF file, through llama-cpp-python.

The keys and values of a layer with a window are in llama.cpp's rolling cache, which keeps the
window and one batch, rounded up to 256 cells. The batch is small here, so that the cache rolls.
Keys and values are in fp32. llama.cpp's own default, f16, changes quickstart's logits by 0.01.
"""

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from errors import UserError, require
from interop.check import Answer
from interop.gguf_file import gguf_chunks
from model.config import ModelConfig
from model.transformer import Transformer
from storage import atomic_write

BATCH = 32  # tokens that llama.cpp reads at once
_F32 = 0  # GGML_TYPE_F32
_ERROR = 4  # GGML_LOG_LEVEL_ERROR

# Architectures of llama.cpp with the tensors of ours. `granite` is granite_swa without windows.
ARCHITECTURES = ("llama", "mistral3", "granite", "granite_swa")


def require_llama_cpp() -> Any:
    """Return the library llama_cpp. Raises `UserError` if it is not installed."""
    llama_cpp = require("llama_cpp", "llama-cpp")
    _log_to_memory(llama_cpp)
    return llama_cpp


_errors: list[str] = []  # what llama.cpp said was wrong, since a file was opened


@functools.cache
def _log_to_memory(llama_cpp: Any) -> Any:
    """Keep llama.cpp's errors, and print nothing. The result must not be freed."""

    def log(level: int, text: bytes, data: Any) -> None:
        if level == _ERROR:
            _errors.append(text.decode(errors="replace").strip())

    callback = llama_cpp.llama_log_callback(log)
    llama_cpp.llama_log_set(callback, None)
    return callback


def is_installed() -> bool:
    """Return whether llama-cpp-python can be imported."""
    try:
        require_llama_cpp()
    except UserError:
        return False
    return True


class LlamaCpp:
    """A GGUF file that llama.cpp opened. Use it in a `with` statement, which frees its memory.

    Raises `UserError` if llama-cpp-python is missing or if llama.cpp does not open the file.
    """

    def __init__(self, path: Path, n_tokens: int) -> None:
        llama_cpp = require_llama_cpp()
        _errors.clear()
        self.name = f"llama.cpp (llama-cpp-python {llama_cpp.__version__})"
        try:
            self._llama = llama_cpp.Llama(
                str(path), n_ctx=n_tokens, n_batch=BATCH, n_ubatch=BATCH, logits_all=True,
                n_threads=torch.get_num_threads(), n_threads_batch=torch.get_num_threads(),
                swa_full=False, type_k=_F32, type_v=_F32, flash_attn=False, n_gpu_layers=0,
                verbose=False,
            )  # fmt: skip
        except ValueError as error:
            reason = _errors[0] if _errors else error
            raise UserError(f"llama.cpp does not open {path}: {reason}") from error

    def __enter__(self) -> "LlamaCpp":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._llama.close()

    def logits(self, tokens: Sequence[int]) -> Tensor:
        """Return the logits (T, V) of a text, read from its beginning."""
        self._llama.reset()
        return self._read(tokens)

    def _read(self, tokens: Sequence[int]) -> Tensor:
        """Return the logits (T, V) of tokens that continue what was read."""
        start = self._llama.n_tokens
        self._llama.eval([int(token) for token in tokens])
        return torch.tensor(self._llama.scores[start : start + len(tokens)])

    def answer(self, prompt: Tensor, n_tokens: int) -> Answer:
        """Read a prompt (T,), and write `n_tokens` greedily, one by one through the cache."""
        read = self.logits(prompt.tolist())
        last, text, steps = read[-1], prompt.tolist(), []
        for _ in range(n_tokens):
            steps.append(last)
            text.append(int(last.argmax()))
            last = self._read(text[-1:])[0]
        return read, torch.tensor(text), torch.stack(steps) if steps else read[:0]

    def tokenize(self, text: str) -> list[int]:
        """Return the ids of a text, without BOS; a text that spells a special stays text."""
        return self._llama.tokenize(text.encode(), add_bos=False, special=False)

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean nats per token of (B, T) inputs and targets."""
        logits = torch.stack([self.logits(row.tolist()) for row in inputs])
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten().long())


def architecture_logits(
    model: Transformer, prompt: Tensor, folder: Path
) -> Iterator[tuple[str, Tensor]]:
    """Yield (architecture, logits (T, V)) of `prompt` for the same weights as each architecture.

    Every file claims the windows of the model; what becomes of them is what is measured. Writes
    into `folder`. Raises `UserError` if llama-cpp-python is missing.
    """
    path = folder / "model.gguf"
    for arch in _architectures(model.config):
        chunks = gguf_chunks(
            model.config, model.state_dict(), None, type="f32", arch=arch, seq_len=len(prompt),
            name=arch,
        )  # fmt: skip
        atomic_write(path, chunks)
        with LlamaCpp(path, len(prompt)) as peer:
            yield arch, peer.logits(prompt.tolist())


def _architectures(model: ModelConfig) -> tuple[str, ...]:
    """Return the architectures that have a place for the weights: one has sink logits."""
    return ("granite_swa",) if model.sink_logits else ARCHITECTURES
