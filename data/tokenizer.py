"""The tokenizer: text to token ids and back, in one piece or as a stream.

A trained SentencePiece model (data/vocabulary.py): BPE pieces, unigram pieces or single characters.
Text without a piece is encoded in bytes (byte fallback, arXiv 1808.06226), so every text is
restored exactly: decode(encode(text)) == text. Ids 0, 1, 2 are <unk>, <s>, </s>; then come the
bytes <0x00>..<0xFF>, then the pieces. Punctuation and the newlines after it may share a piece
(".\\n\\n"); a word never shares one with a newline: "think," + "\\n" + "And".
"""

import codecs
import hashlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from errors import UserError

SPACE_MARK = "\u2581"  # stands for a space in SentencePiece's pieces
FIRST_PIECE = 3 + 256  # id of the first piece, after the specials and the bytes

_BLOCK = 1 << 18  # characters encoded at once; each takes about 100 bytes of memory
_MAX_WORDS = 1 << 17  # words whose ids are cached, in tens of MB
_LONGEST_WORD = 32  # characters; longer words are not cached
_WORD = re.compile(" *[^ ]+| +")
_SURROGATE = re.compile("[\ud800-\udfff]")


def well_formed(text: str) -> str:
    """Replace lone surrogates, which UTF-8 cannot encode, by U+FFFD."""
    return _SURROGATE.sub("\ufffd", text)


class Tokenizer:
    """A trained SentencePiece model.

    Raises `UserError` if the bytes are not such a model, or if the model does not restore text.
    `decode` accepts all ids in range: bytes that do not form a character become U+FFFD, specials
    become nothing.
    """

    def __init__(self, model_bytes: bytes) -> None:
        import sentencepiece

        self.model_bytes = model_bytes
        try:
            if not model_bytes:  # SentencePiece would accept them, and fail later
                raise RuntimeError("no bytes")
            self._model = sentencepiece.SentencePieceProcessor(model_proto=model_bytes)
            ids = range(self._model.vocab_size())
            self._bytes = [_piece_bytes(self._model, id) for id in ids]
            self._space_mark = [self._model.piece_to_id(f"<0x{b:02X}>") for b in b"\xe2\x96\x81"]
            sample = f"<s>  a \ufb01\r\n\0{SPACE_MARK}\u00e9 "
            self._word_ids: dict[str, list[int]] | None = (
                {} if self._words_are_independent() else None
            )
            lossless = (
                min(self.bos_id, self.eos_id) >= 0 and self.decode(self.encode(sample)) == sample
            )
        except (RuntimeError, ValueError, IndexError) as error:  # also UnicodeDecodeError
            raise UserError("the tokenizer is not a SentencePiece model: train it again") from error
        if not lossless:
            raise UserError("the tokenizer loses text or lacks <s>, </s>: train it with Breeze")

    @property
    def vocab_size(self) -> int:
        """The number of token ids: specials, bytes and pieces."""
        return len(self._bytes)

    @property
    def bos_id(self) -> int:
        """The id of <s>, with which documents begin."""
        return self._model.bos_id()

    @property
    def eos_id(self) -> int:
        """The id of </s>, with which documents end."""
        return self._model.eos_id()

    @property
    def piece_ids(self) -> list[int]:
        """The ids of pieces: all tokens but specials and bytes."""
        model = self._model
        specials = (model.is_unknown, model.is_control, model.is_unused, model.is_byte)
        return [id for id in range(self.vocab_size) if not any(test(id) for test in specials)]

    def fingerprint(self) -> str:
        """Return the SHA-256 of the model, in hexadecimal."""
        return hashlib.sha256(self.model_bytes).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text. No special token is added, and no text gives one: "<s>" is
        encoded as three characters. A lone surrogate is encoded as U+FFFD."""
        ids: list[int] = []
        for number, piece in enumerate(well_formed(text).split(SPACE_MARK)):
            if number:
                ids += self._space_mark  # in bytes, because the piece stands for a space
            for block in _blocks(piece):
                ids += self._encode(block)
        return ids

    def encode_document(self, text: str) -> list[int]:
        """Return the ids of a whole document: `[bos_id, *encode(text), eos_id]`."""
        return [*self.encode_prompt(text), self.eos_id]

    def encode_prompt(self, text: str) -> list[int]:
        """Return the ids of a text that a model continues: `[bos_id, *encode(text)]`."""
        return [self.bos_id, *self.encode(text)]

    def _words_are_independent(self) -> bool:
        """Return whether a word has the same ids alone as within any text.

        This holds if pieces are merged by rank, as in BPE, and no piece contains a space after a
        letter. It does not hold for unigram, which sums log-probabilities over the whole text, with
        rounding errors.
        """
        pieces = range(FIRST_PIECE, len(self._bytes))
        return all(self._model.get_score(id) == FIRST_PIECE - id for id in pieces) and not any(
            re.search(rb"[^ ] ", self._bytes[id]) for id in pieces
        )

    def _encode(self, text: str) -> list[int]:
        """Encode a block. If words are independent, each is encoded once: three times as fast."""
        if self._word_ids is None:
            return self._model.encode(text)
        ids: list[int] = []
        for word in _WORD.findall(text):
            word_ids = self._word_ids.get(word)
            if word_ids is None:
                word_ids = self._model.encode(word)
                if len(self._word_ids) < _MAX_WORDS and len(word) <= _LONGEST_WORD:
                    self._word_ids[word] = word_ids
            ids += word_ids
        return ids

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

    def piece(self, id: int) -> str:
        """Return SentencePiece's name of a token, for display: "▁the", "<0x0A>", "<s>".

        Raises `UserError` for an id that is not in the vocabulary.
        """
        self.token_bytes(id)
        return self._model.id_to_piece(int(id))

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


def _piece_bytes(model: Any, id: int) -> bytes:
    piece = model.id_to_piece(id)
    if model.is_byte(id):
        return bytes([int(piece[3:5], 16)])
    if model.is_control(id) or model.is_unused(id):
        return b""
    if model.is_unknown(id):
        return "\ufffd".encode()
    return piece.replace(SPACE_MARK, " ").encode()


def _blocks(text: str) -> Iterator[str]:
    """Cut a long text before spaces. A piece contains a space only at its beginning, so no piece is
    cut, except one of several spaces."""
    start = 0
    while start < len(text):
        stop = start + _BLOCK
        if stop < len(text):
            space = text.rfind(" ", start + 1, stop)
            stop = space if space > 0 else stop
        yield text[start:stop]
        start = stop
