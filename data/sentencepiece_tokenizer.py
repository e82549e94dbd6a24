"""A trained SentencePiece model (data/vocabulary.py): BPE or unigram pieces, or single characters.

Text without a piece is encoded in bytes (byte fallback, arXiv 1808.06226), so every text is
restored exactly: decode(encode(text)) == text. Ids 0, 1, 2 are <unk>, <s>, </s>; then come the
bytes <0x00>..<0xFF>, then the pieces. Punctuation and the newlines after it may share a piece
(".\n\n"); a word never shares one with a newline: "think," + "\n" + "And".
"""

import re
from collections.abc import Iterator
from typing import Any

from data.tokenizer import SPACE_MARK, Tokenizer, well_formed
from errors import UserError

FIRST_PIECE = 3 + 256  # id of the first piece, after the specials and the bytes

_BLOCK = 1 << 18  # characters encoded at once; each takes about 100 bytes of memory
_MAX_WORDS = 1 << 17  # words whose ids are cached, in tens of MB
_LONGEST_WORD = 32  # characters; longer words are not cached
_WORD = re.compile(" *[^ ]+| +")


class SentencePieceTokenizer(Tokenizer):
    """A trained SentencePiece model.

    Raises `UserError` if the bytes are not such a model, or if the model does not restore text.
    """

    file_name = "tokenizer.model"

    def __init__(self, model_bytes: bytes) -> None:
        import sentencepiece

        self.model_bytes = model_bytes
        try:
            if not model_bytes:  # SentencePiece would accept them, and fail later
                raise RuntimeError("no bytes")
            self._model = sentencepiece.SentencePieceProcessor(model_proto=model_bytes)
            self.bos_id, self.eos_id = self._model.bos_id(), self._model.eos_id()
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
    def piece_ids(self) -> list[int]:
        model = self._model
        specials = (model.is_unknown, model.is_control, model.is_unused, model.is_byte)
        return [id for id in range(self.vocab_size) if not any(test(id) for test in specials)]

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for number, piece in enumerate(well_formed(text).split(SPACE_MARK)):
            if number:
                ids += self._space_mark  # in bytes, because the piece stands for a space
            for block in _blocks(piece):
                ids += self._encode(block)
        return ids

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

    def piece(self, id: int) -> str:
        self.token_bytes(id)
        return self._model.id_to_piece(int(id))


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
