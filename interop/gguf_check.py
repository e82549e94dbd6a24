"""The check of a GGUF file: llama.cpp computes what Breeze computes, window included.

Rounded weights change the logits, so the check of `interop/check.py` reads a file in f32. What f16,
bf16 and q8_0 lose is measured on the file itself: its logits must be nearer to ours than to those
of full attention, and its loss on unseen text stands beside that of f32.

Without llama-cpp-python the files are read back by the library gguf and computed by Breeze. This
shows what the file says, not what llama.cpp does with it.
"""

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import torch
from torch import Tensor

from data.batches import evaluation_sequences
from data.text import open_split
from errors import UserError
from inference.trained import TrainedModel
from interop.check import (
    N_GENERATED,
    SEED,
    TOLERANCE,
    Answer,
    Check,
    check,
    largest,
    n_checked,
    with_full_attention,
)
from interop.gguf_file import not_quantized
from interop.gguf_reader import read_gguf
from interop.llama_cpp import LlamaCpp, is_installed
from model.cache import RollingKVCache
from model.decoding import Decoder
from model.loss import next_token_loss
from model.transformer import Transformer, empty_model
from training.evaluation import evaluate

N_SCORED = 8_192  # tokens of the test split
# llama.cpp computes RoPE's angles in fp32, so their error grows with the position. On stories,
# quickstart's logits (up to 27) differ by 1.3e-4 at 400 tokens and by 1.3e-3 at 3,200; if Breeze
# computes its angles in the same way, by 2e-5 at both.
EXACT = 512  # tokens; of longer texts the tolerance grows with the length
NEARER = 2  # a rounded file must be so many times nearer to the window than to full attention


class Peer(Protocol):
    """A program that opened a GGUF file."""

    name: str

    def answer(self, prompt: Tensor, n_tokens: int) -> Answer: ...
    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor: ...
    def __enter__(self) -> "Peer": ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


@dataclass(frozen=True)
class Rounded:
    """What a file whose weights are rounded loses. Bits per byte are None without a text."""

    type: str
    to_ours: float  # largest difference of logits
    to_full: float | None  # to ours with full attention; None: there is no window
    f32_bpb: float | None
    bpb: float | None
    note: str = ""  # why there is no loss
    in_f16: tuple[str, ...] = ()  # sizes of rows that q8_0 cannot divide

    @property
    def problem(self) -> str | None:
        """What is wrong, in words; None if nothing is."""
        # Not `>=`, so that a NaN is a problem too.
        if self.to_full is not None and not self.to_ours * NEARER < self.to_full:
            return (
                f"the logits of its {self.type} weights differ from ours by {self.to_ours:.2g}, "
                f"and from those of full attention by {self.to_full:.2g}: choose another type"
            )
        return None if self.to_ours < float("inf") else "its logits are not finite"

    def __str__(self) -> str:
        full = "" if self.to_full is None else f", from full attention by {self.to_full:.2g}"
        loss = self.note
        if self.bpb is not None:
            loss = f"bits per byte of unseen text: {self.bpb:.5f}, with f32 {self.f32_bpb:.5f}"
        kept = ""
        if self.in_f16:
            kept = f"; rows of {' and of '.join(self.in_f16)} are no multiple of 32, so in f16"
        return f"{self.type}: logits differ from ours by {self.to_ours:.2g}{full}; {loss}{kept}"


@dataclass(frozen=True)
class GgufCheck:
    """What the check of an export measured."""

    f32: Check
    rounded: Rounded | None  # None: the export is the f32 file

    @property
    def peer(self) -> str:
        """The program that opened the file."""
        return self.f32.peer

    @property
    def problem(self) -> str | None:
        """What is wrong, in words; None if nothing is."""
        return self.f32.problem or (self.rounded.problem if self.rounded else None)

    def __str__(self) -> str:
        return "\n".join(str(part) for part in (self.f32, self.rounded) if part is not None)


class ReadBack:
    """A GGUF file that the library gguf read, computed by Breeze. A peer, as `LlamaCpp` is."""

    def __init__(self, path: Path) -> None:
        self.name = "Breeze, which read the file back (llama-cpp-python is not installed)"
        config, weights = read_gguf(path)
        self._model = empty_model(config)
        self._model.load_state_dict(weights, assign=True)
        self._model.requires_grad_(False).eval()

    def __enter__(self) -> "ReadBack":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    @torch.no_grad()
    def answer(self, prompt: Tensor, n_tokens: int) -> Answer:
        """Read a prompt (T,), and write `n_tokens` greedily through the cache."""
        model, text, steps = self._model, prompt.tolist(), []
        cache = RollingKVCache(
            model.config, 1, len(text) + n_tokens, torch.float32, torch.device("cpu")
        )
        decoder = Decoder(model, cache)
        last = decoder.prefill([text])[0]
        for _ in range(n_tokens):
            steps.append(last)
            text.append(int(last.argmax()))
            last = decoder.step(torch.tensor(text[-1:]))[0]
        read = model(prompt[None])[0]
        return read, torch.tensor(text), torch.stack(steps) if steps else read[:0]

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean nats per token of (B, T) inputs and targets."""
        return next_token_loss(self._model, inputs, targets, None)


def open_peer(path: Path, n_tokens: int) -> Peer:
    """Open a file with llama.cpp where it is installed, otherwise with `ReadBack`."""
    return LlamaCpp(path, n_tokens) if is_installed() else ReadBack(path)


def check_file(path: Path, model: Transformer) -> Check:
    """Open the f32 file `path` and compare it with `model`."""
    n_tokens = n_checked(model.config) + N_GENERATED
    with open_peer(path, n_tokens) as peer:
        return check(peer.name, model, peer.answer, TOLERANCE * max(1.0, n_tokens / EXACT))


@torch.no_grad()
def check_rounded(path: Path, f32: Path, type: str, trained: TrainedModel) -> Rounded:
    """Measure what the file `path` loses by its weights in `type`, beside the file `f32`."""
    model = trained.model
    generator = torch.Generator().manual_seed(SEED)
    prompt = torch.randint(model.config.vocab_size, (n_checked(model.config),), generator=generator)
    with open_peer(path, len(prompt)) as peer:
        theirs = peer.answer(prompt, 0)[0].float()
    to_full = None
    if set(model.config.windows) != {None}:
        to_full = largest(theirs - with_full_attention(model)(prompt[None])[0])
    measured: dict[str, Any] = {"f32_bpb": None, "bpb": None}
    try:
        measured = {name: bits_per_byte(each, trained) for name, each in
                    (("f32_bpb", f32), ("bpb", path))}  # fmt: skip
    except UserError as error:
        measured["note"] = f"its loss was not measured: {error}"
    in_f16 = tuple(not_quantized(model.config)) if type == "q8_0" else ()
    to_ours = largest(theirs - model(prompt[None])[0])
    return Rounded(type, to_ours, to_full, **measured, in_f16=in_f16)


def bits_per_byte(path: Path, trained: TrainedModel) -> float:
    """Return the loss of a file on the first `N_SCORED` tokens of the run's test split.

    Raises `UserError` if the text of the run cannot be read.
    """
    config = trained.config
    tokens, _ = open_split(
        config.data, trained.tokenizer, "test", trained.checkpoint.metadata["data_hash"]
    )
    scored = tokens[: N_SCORED + 1]
    n_bytes = sum(len(trained.tokenizer.token_bytes(int(id))) for id in scored[1:])
    sequences = evaluation_sequences(scored, config.data.seq_len, batch_size=1)
    with open_peer(path, config.data.seq_len) as peer:
        return evaluate(peer.loss, sequences, n_bytes, torch.device("cpu")).bpb
