"""Text in, text out: prompts become tokens, and generated tokens become a stream of text.

A prompt may end in a space. Most pieces of the vocabulary begin with a space (" time"), so a model
has rarely seen a single space as a token, and continues it badly. `continue_text` therefore
tokenizes the prompt without that space, and draws the first token from those that begin with one:

    prompt "Once upon a "     tokens of "Once upon a", first token " time", text "time"
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from configs.settings import SampleSettings
from data.tokenizer import Tokenizer, TokenStream
from model.config import WeightFormat
from model.generation import generate
from model.sampling import Sampling
from model.transformer import Transformer

# Why a row ended: a stop string, the end of the document that the model writes, or `max_tokens`.
FinishReason = Literal["stop", "end", "length"]


class TextModel(Protocol):
    """A model and its tokenizer, such as `TrainedModel`."""

    @property
    def model(self) -> Transformer: ...
    @property
    def tokenizer(self) -> Tokenizer: ...


@dataclass(frozen=True)
class Piece:
    """The text that one generated token of one row adds.

    `text` is empty while a character is incomplete, or while the text may be the beginning of a
    stop string. `finish_reason` is set in the row's last piece, and None before.
    """

    row: int
    text: str
    finish_reason: FinishReason | None = None


def continue_text(
    trained: TextModel,
    prompts: Sequence[str],
    *,
    max_tokens: int,
    sampling: Sampling | None = None,
    seed: int = 0,
    stops: Sequence[str] = (),
    weights: WeightFormat = "fp32",
) -> Iterator[Piece]:
    """Continue each prompt; yield one `Piece` for each token of each row, as it is generated.

    A row ends before the first string of `stops`, at the end of a document (BOS or EOS) or after
    `max_tokens`, whatever the other rows do. The texts of a row's pieces, joined, are its whole
    continuation, without the prompt. Row r draws from its own random stream, (seed, r). `weights`
    is as in `Decoder`. Raises `UserError` if there is no prompt.
    """
    tokenizer = trained.tokenizer
    ends = (tokenizer.bos_id, tokenizer.eos_id)
    tokens, cut, first_allowed = _tokenize(tokenizer, prompts)
    # The first character of a cut row, the space, is already in its prompt.
    streams = [TextStream(tokenizer.stream(), stops, skip=int(is_cut)) for is_cut in cut]
    running = list(range(len(prompts)))
    steps = generate(
        trained.model, tokens, max_tokens, sampling=sampling, seed=seed, stop=ends,
        first_allowed=first_allowed, weights=weights,
    )  # fmt: skip
    for count, step in enumerate(steps, 1):
        for row in tuple(running):
            token = step[row]
            assert token is not None  # a row that drew BOS or EOS is no longer in `running`
            text, reason = _advance(streams[row], token, ends, is_last=count == max_tokens)
            if reason is not None:
                running.remove(row)
            yield Piece(row, text, reason)
        if not running:
            return


def configured_sampling(settings: SampleSettings) -> Sampling:
    """Return the sampling that a config's section `sample` describes."""
    return Sampling(
        temperature=settings.temperature,
        top_k=settings.top_k,
        top_p=settings.top_p,
        min_p=settings.min_p,
        repetition_penalty=settings.repetition_penalty,
    )


def _advance(
    stream: "TextStream", token: int, ends: Sequence[int], is_last: bool
) -> tuple[str, FinishReason | None]:
    """Return the text that `token` adds, and why the row ends with it, or None."""
    text = stream.push(token)
    if stream.stopped:
        return text, "stop"
    if token in ends:
        return text + stream.flush(), "end"
    if is_last:
        return text + stream.flush(), "length"
    return text, None


def _tokenize(
    tokenizer: Tokenizer, prompts: Sequence[str]
) -> tuple[list[list[int]], list[bool], Tensor | None]:
    """Return the tokens of each prompt, whether its last space was cut off, and `first_allowed`.

    `first_allowed` (B, V) marks the tokens that may come first in each row; None: all.
    """
    spaced = None  # (V,) which tokens begin with a space
    if any(prompt.endswith(" ") for prompt in prompts):
        spaced = _begin_with_space(tokenizer)
    cut = [spaced is not None and prompt.endswith(" ") for prompt in prompts]
    tokens = [
        tokenizer.encode_prompt(prompt[:-1] if is_cut else prompt)
        for prompt, is_cut in zip(prompts, cut, strict=True)
    ]
    return tokens, cut, None if spaced is None else spaced | ~torch.tensor(cut)[:, None]


def _begin_with_space(tokenizer: Tokenizer) -> Tensor | None:
    """Mark the tokens (V,) that begin with a space; None if only the single space does."""
    pieces = [tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)]
    if not any(piece.startswith(b" ") and len(piece) > 1 for piece in pieces):
        return None
    return torch.tensor([piece.startswith(b" ") for piece in pieces])


class TextStream:
    """Text from tokens, up to the first stop string.

    Text that may be the beginning of a stop string is held back until this is decided. Of two stop
    strings that overlap, the one that is complete first ends the text. `skip` characters at the
    beginning are dropped.
    """

    def __init__(self, stream: TokenStream, stops: Sequence[str] = (), skip: int = 0) -> None:
        self.stopped = False  # whether a stop string was found
        self._stream = stream
        self._stops = [stop for stop in stops if stop]
        self._skip = skip
        self._pending = ""  # text that may be the beginning of a stop string

    def push(self, token: int) -> str:
        """Add a token; return the text that is no longer held back."""
        return self._release(self._stream.push(token), final=False)

    def flush(self) -> str:
        """End the text; return the text that was held back, or "" after a stop string."""
        return "" if self.stopped else self._release(self._stream.flush(), final=True)

    def _release(self, text: str, final: bool) -> str:
        """Add `text`; return the text before a stop string, or before the beginning of one."""
        skipped = min(self._skip, len(text))
        self._skip -= skipped
        self._pending += text[skipped:]
        matches = [  # (end, start)
            (start + len(stop), start)
            for stop in self._stops
            if (start := self._pending.find(stop)) >= 0
        ]
        if matches:
            self.stopped = True
            _, length = min(matches)
        else:
            length = len(self._pending) - (0 if final else self._undecided())
        released, self._pending = self._pending[:length], self._pending[length:]
        return released

    def _undecided(self) -> int:
        """Return the length of the longest end of the pending text that begins a stop string."""
        return max(
            (
                length
                for stop in self._stops
                for length in range(1, min(len(stop), len(self._pending) + 1))
                if self._pending.endswith(stop[:length])
            ),
            default=0,
        )
