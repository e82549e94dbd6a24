"""The tokenizer: text to token ids and back, in one piece or as a stream.

There are two kinds, behind one interface. `SentencePieceTokenizer` is what Breeze trains; it
restores every text exactly. `JsonTokenizer` comes with an imported model, as a tokenizer.json.
`open_tokenizer` opens either.
"""

import codecs
import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence

from errors import UserError

SPACE_MARK = "\u2581"  # stands for a space in SentencePiece's pieces

_SURROGATE = re.compile("[\ud800-\udfff]")


def open_tokenizer(model_bytes: bytes) -> "Tokenizer":
    """Open a tokenizer of either kind, from the bytes that a checkpoint holds.

    Raises `UserError` if they are no tokenizer, or one that cannot be used.
    """
    if model_bytes.startswith(b"{"):
        from data.json_tokenizer import JsonTokenizer

        return JsonTokenizer(model_bytes)
    from data.sentencepiece_tokenizer import SentencePieceTokenizer

    return SentencePieceTokenizer(model_bytes)


def well_formed(text: str) -> str:
    """Replace lone surrogates, which UTF-8 cannot encode, by U+FFFD."""
    return _SURROGATE.sub("\ufffd", text)


class Tokenizer(ABC):
    """Text to token ids and back.

    `decode` accepts all ids in range: bytes that do not form a character become U+FFFD, specials
    become nothing.
    """

    file_name: str  # of `model_bytes` in a run's folder
    model_bytes: bytes
    bos_id: int  # of the token with which documents begin, such as <s>
    eos_id: int  # of the token with which documents end, such as </s>
    _bytes: list[bytes]  # of each token, b"" for a special

    @property
    def vocab_size(self) -> int:
        """The number of token ids: specials, bytes and pieces."""
        return len(self._bytes)

    @property
    @abstractmethod
    def piece_ids(self) -> list[int]:
        """The ids of pieces: all tokens but specials and bytes."""

    def fingerprint(self) -> str:
        """Return the SHA-256 of the model, in hexadecimal."""
        return hashlib.sha256(self.model_bytes).hexdigest()

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Return the ids of a text. No special token is added, and no text gives one: "<s>" is
        encoded as three characters. A lone surrogate is encoded as U+FFFD."""

    def encode_document(self, text: str) -> list[int]:
        """Return the ids of a whole document: `[*encode_prompt(text), eos_id]`."""
        return [*self.encode_prompt(text), self.eos_id]

    def encode_prompt(self, text: str) -> list[int]:
        """Return the ids of a text that a model continues: `[bos_id, *encode(text)]`."""
        return [self.bos_id, *self.encode(text)]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids. Raises `UserError` for an id that is not in the vocabulary."""
        return b"".join(self.token_bytes(id) for id in ids).decode("utf-8", "replace")

    def token_bytes(self, id: int) -> bytes:
        """Return the bytes of a token, b"" for a special.

        Raises `UserError` for an id that is not in the vocabulary.
        """
        if not 0 <= id < len(self._bytes):
            raise UserError(f"token id {id} is not in the vocabulary: 0 to {len(self._bytes) - 1}")
        return self._bytes[id]

    @abstractmethod
    def piece(self, id: int) -> str:
        """Return the vocabulary's name of a token, for display: "▁the", "<0x0A>", "<s>".

        Raises `UserError` for an id that is not in the vocabulary.
        """

    def stream(self) -> "TokenStream":
        """Return a decoder that takes one token at a time."""
        return TokenStream(self)


class TokenStream:
    """A decoder of tokens as they arrive. The texts that `push` and `flush` return, joined, equal
    `decode` of all tokens.

    A character may take up to four tokens, one per byte. It is returned when it is complete:

        push <0xC3> -> ""      push <0xA9> -> "é"      push <0xC3>, flush -> "\\ufffd"
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, id: int) -> str:
        """Add a token; return the characters that it completes.

        Raises `UserError` for an id that is not in the vocabulary.
        """
        return self._decoder.decode(self._tokenizer.token_bytes(id))

    def flush(self) -> str:
        """Return U+FFFD for an incomplete character, else ""; the stream can then be used again."""
        return self._decoder.decode(b"", final=True)
