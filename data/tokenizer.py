"""SentencePiece: train, encode, decode, decode a stream.

BPE or unigram pieces with the 256 bytes to fall back on (SentencePiece, arXiv 1808.06226), so every
text comes back exactly: decode(encode(text)) == text. Ids 0, 1, 2 are <unk>, <s>, </s>, then the
bytes <0x00>..<0xFF>, then the pieces. Punctuation and the newlines after it may share a piece
(".\\n\\n"), words never share one with a newline: "think," + "\\n" + "And".
"""

import codecs
import hashlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from errors import UserError

SPACE_MARK = "\u2581"  # stands for a space in SentencePiece's pieces

FIRST_PIECE = 3 + 256  # its id: after the specials and the bytes
_BLOCK = 1 << 18  # characters encoded at once: some 100 bytes of memory each
_KEPT, _LONGEST = 1 << 17, 32  # words whose ids are kept, and their characters: tens of MB
_WORD = re.compile(" *[^ ]+| +")
_SURROGATE = re.compile("[\ud800-\udfff]")


def well_formed(text: str) -> str:
    """Replace lone surrogates, which no UTF-8 can carry, by U+FFFD."""
    return _SURROGATE.sub("\ufffd", text)


class Tokenizer:
    """A trained model. Raises `UserError` for bytes that are none, or one that loses text.

    `decode` is total over ids in range: bytes that are no character give U+FFFD, specials nothing.
    """

    def __init__(self, model_bytes: bytes) -> None:
        import sentencepiece

        self.model_bytes = model_bytes
        try:
            if not model_bytes:  # SentencePiece would take them for a model, and complain later
                raise RuntimeError("no bytes")
            self._model = sentencepiece.SentencePieceProcessor(model_proto=model_bytes)
            ids = range(self._model.vocab_size())
            self._bytes = [_piece_bytes(self._model, id) for id in ids]
            self._space_mark = [self._model.piece_to_id(f"<0x{b:02X}>") for b in b"\xe2\x96\x81"]
            probe = f"<s>  a \ufb01\r\n\0{SPACE_MARK}\u00e9 "
            self._known_words: dict[str, list[int]] | None = {} if self._has_words() else None
            lossless = (
                min(self.bos_id, self.eos_id) >= 0 and self.decode(self.encode(probe)) == probe
            )
        except (
            RuntimeError,
            ValueError,
            IndexError,
        ) as error:  # UnicodeDecodeError is a ValueError
            raise UserError("the tokenizer is not a SentencePiece model: train it again") from error
        if not lossless:
            raise UserError("the tokenizer loses text or lacks <s>, </s>: train it with Breeze")

    @property
    def vocab_size(self) -> int:
        return len(self._bytes)

    @property
    def bos_id(self) -> int:
        return self._model.bos_id()

    @property
    def eos_id(self) -> int:
        return self._model.eos_id()

    def fingerprint(self) -> str:
        """Hash the model, in hexadecimal."""
        return hashlib.sha256(self.model_bytes).hexdigest()

    def encode(self, text: str) -> list[int]:
        """Turn text into ids. Nothing is added, and no spelling gives a special token: "<s>" is
        three characters. A lone surrogate counts as U+FFFD."""
        ids: list[int] = []
        for number, part in enumerate(well_formed(text).split(SPACE_MARK)):
            if number:
                ids += self._space_mark  # as bytes: the piece would mean a space
            for block in _blocks(part):
                ids += self._encode(block)
        return ids

    def encode_document(self, text: str) -> list[int]:
        """Frame a whole document: `[bos_id, *encode(text), eos_id]`."""
        return [*self.encode_prompt(text), self.eos_id]

    def encode_prompt(self, text: str) -> list[int]:
        """Frame the beginning of a document, which a model continues: `[bos_id, *encode(text)]`."""
        return [self.bos_id, *self.encode(text)]

    def _has_words(self) -> bool:
        """Whether a word's ids depend on nothing around it: pieces are merged by rank, as in BPE,
        and none goes on into a space. (Unigram adds up a whole text's chances, and rounds them.)"""
        pieces = range(FIRST_PIECE, len(self._bytes))
        return all(self._model.get_score(id) == FIRST_PIECE - id for id in pieces) and not any(
            re.search(rb"[^ ] ", self._bytes[id]) for id in pieces
        )

    def _encode(self, text: str) -> list[int]:
        """Encode a block; where it has words, each only when it is new: three times as fast."""
        known = self._known_words
        if known is None:
            return self._model.encode(text)
        ids: list[int] = []
        for word in _WORD.findall(text):
            found = known.get(word)
            if found is None:
                found = self._model.encode(word)
                if len(known) < _KEPT and len(word) <= _LONGEST:
                    known[word] = found
            ids += found
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Turn ids into text. Raises `UserError` for an id that is not in the vocabulary."""
        return b"".join(self.token_bytes(id) for id in ids).decode("utf-8", "replace")

    def token_bytes(self, id: int) -> bytes:
        """Give the bytes that a token stands for: b"" for a special."""
        if not 0 <= id < len(self._bytes):
            raise UserError(f"token id {id} is not in the vocabulary: 0 to {len(self._bytes) - 1}")
        return self._bytes[id]

    def piece(self, id: int) -> str:
        """Name a token as SentencePiece does, for people to look at: "▁the", "<0x0A>", "<s>"."""
        self.token_bytes(id)
        return self._model.id_to_piece(int(id))

    def stream(self) -> "TokenStream":
        """Start to decode token by token."""
        return TokenStream(self)


class TokenStream:
    """Decode as tokens arrive. What `push` and `flush` gave, joined, is `decode` of the whole.

    A character may take up to four tokens, its bytes; until it is complete it is held back:

        push <0xC3> -> ""      push <0xA9> -> "é"      push <0xC3>, flush -> "\\ufffd"
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, id: int) -> str:
        """Take a token; give the text that is certain now."""
        return self._decoder.decode(self._tokenizer.token_bytes(id))

    def flush(self) -> str:
        """Give what is held back, as U+FFFD; the stream can then start again."""
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
    """Cut a long text before spaces, where no piece is cut: a space only ever starts one."""
    start = 0
    while start < len(text):
        stop = start + _BLOCK
        if stop < len(text):
            space = text.rfind(" ", start + 1, stop)
            stop = space if space > 0 else stop
        yield text[start:stop]
        start = stop
