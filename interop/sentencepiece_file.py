"""Read a SentencePiece model file: its pieces, and how it treats text.

The file is a protobuf message, `ModelProto` in SentencePiece's sentencepiece_model.proto. Only the
fields below are read, so the library protobuf is not needed.

    ModelProto      1 pieces      2 trainer_spec    3 normalizer_spec
    SentencePiece   1 piece       2 score           3 type
    TrainerSpec     3 model_type  24 treat_whitespace_as_suffix    40 unk_id  41 bos_id  42 eos_id
    NormalizerSpec  1 name        3 add_dummy_prefix    4 remove_extra_whitespaces
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from errors import UserError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # types of pieces
UNIGRAM, BPE, WORD, CHAR = range(1, 5)  # types of models


class Piece(NamedTuple):
    """One token: its text with \u2581 for a space, its score, and its type, such as `NORMAL`."""

    text: str
    score: float
    type: int


@dataclass(frozen=True)
class SentencePieceFile:
    """The content of a model file. The position of a piece in `pieces` is its id."""

    pieces: list[Piece]
    type: int  # UNIGRAM, BPE, WORD or CHAR
    unk_id: int
    bos_id: int  # -1: the model has none; the same for `eos_id`
    eos_id: int
    normalization: str  # name of the rule: "identity" changes no character
    dummy_prefix: bool  # a space is put in front of every text
    removes_spaces: bool  # several spaces become one
    suffix_spaces: bool  # pieces end in their space, instead of beginning with it


def read_sentencepiece(content: bytes) -> SentencePieceFile:
    """Parse a model file. Raises `UserError` if `content` is none."""
    try:
        model = list(_fields(content))
        trainer = {number: value for n, part in model if n == 2 for number, value in _fields(part)}
        normalizer = {
            number: value for n, part in model if n == 3 for number, value in _fields(part)
        }
        pieces = [_piece(dict(_fields(part))) for number, part in model if number == 1]
        found = SentencePieceFile(
            pieces=pieces,
            type=trainer.get(3, UNIGRAM),
            unk_id=_signed(trainer.get(40, 0)),
            bos_id=_signed(trainer.get(41, 1)),
            eos_id=_signed(trainer.get(42, 2)),
            normalization=normalizer.get(1, b"").decode(),
            dummy_prefix=bool(normalizer.get(3, 1)),
            removes_spaces=bool(normalizer.get(4, 1)),
            suffix_spaces=bool(trainer.get(24, 0)),
        )
        lengths = range(-1, len(pieces))
        if not {found.unk_id, found.bos_id, found.eos_id} <= set(lengths) or not pieces:
            raise ValueError
    except (LookupError, ValueError, TypeError, AttributeError, struct.error) as error:
        raise UserError("the tokenizer is not a SentencePiece model") from error
    return found


def _piece(fields: dict[int, Any]) -> Piece:
    score = struct.unpack("<f", fields.get(2, bytes(4)))[0]
    return Piece(fields[1].decode(), score, fields.get(3, NORMAL))


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Yield (number, value) of each field: an int, or the bytes of any other type."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        wire = key & 7
        if wire == 0:
            value, place = _varint(message, place)
            yield key >> 3, value
            continue
        if wire == 2:
            size, place = _varint(message, place)
        else:
            size = {1: 8, 5: 4}[wire]
        if place + size > len(message):
            raise ValueError("truncated")
        yield key >> 3, message[place : place + size]
        place += size


def _varint(message: bytes, place: int) -> tuple[int, int]:
    """Return the integer that begins at `place`, seven bits a byte, and the place after it."""
    value = shift = 0
    while True:
        byte = message[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
