"""The tokenizer of a Hugging Face folder, as a checkpoint of Breeze holds it.

tokenizer.model     kept, if it restores every text, as Breeze's own do, and agrees with a
                    tokenizer.json beside it
tokenizer.json      otherwise; `data.json_tokenizer` uses it
tokenizer.model     otherwise; converted to tokenizer.json
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.json_tokenizer import JsonTokenizer, mark_specials
from data.sentencepiece_tokenizer import SentencePieceTokenizer
from data.tokenizer import Tokenizer
from errors import UserError
from interop.sentencepiece_file import read_sentencepiece
from interop.tokenizer_json import tokenizer_json

# Texts on which two tokenizers of one folder may differ: spaces, newlines, digits, letters with
# accents, characters without a piece, specials and bytes that are only spelled.
_SAMPLES = (
    "", " ", "Once upon a time, there was a kite.", "  two  spaces ", "a\n\nb\tc\r\n", "1234567890",
    "caf\u00e9 \ufb01 \u00c5\u030a", "\u4f60\u597d \U0001f300", "\u2581", "<s> </s> <0x0A>",
    "def f(x):\n    return x ** 2  # code", "It's I'll we've DON'T",
)  # fmt: skip


def folder_tokenizer(folder: Path) -> Tokenizer:
    """Return the tokenizer of a folder.

    Raises `UserError` if there is none, or none that Breeze can use: the file and the reason.
    """
    pieces, content = (_read(folder / name) for name in ("tokenizer.model", "tokenizer.json"))
    if pieces is None and content is None:
        raise UserError(
            f"{folder} has no tokenizer.json and no tokenizer.model: write the first by "
            "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) in transformers"
        )
    own = None if pieces is None else _lossless(pieces)
    if content is None:
        assert pieces is not None
        try:
            return own or _converted(pieces)
        except UserError as error:
            raise UserError(f"{folder / 'tokenizer.model'}: {error}") from None
    try:
        other = JsonTokenizer(mark_specials(content, *_special_names(folder)))
    except UserError as error:
        raise UserError(f"{folder / 'tokenizer.json'}: {error}") from None
    return own if own is not None and _agree(own, other) else other


def _read(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _lossless(pieces: bytes) -> Tokenizer | None:
    """Return the SentencePiece model if it restores every text, as Breeze's own do."""
    try:
        return SentencePieceTokenizer(pieces)
    except UserError:
        return None


def _converted(pieces: bytes) -> Tokenizer:
    """Return a SentencePiece model that Breeze's class refuses, as tokenizer.json."""
    model = read_sentencepiece(pieces)
    content = tokenizer_json(pieces).encode()
    bos, eos = (model.pieces[id].text for id in (model.bos_id, model.eos_id))
    return JsonTokenizer(mark_specials(content, bos, eos))


def _agree(first: Tokenizer, second: Tokenizer) -> bool:
    """Return whether both have as many tokens and encode all samples alike."""
    return first.vocab_size == second.vocab_size and all(
        first.encode_document(text) == second.encode_document(text) for text in _SAMPLES
    )


def _special_names(folder: Path) -> tuple[str | None, str]:
    """Return the texts of BOS, None if there is none, and EOS.

    They are in tokenizer_config.json, in earlier versions of transformers in
    special_tokens_map.json. Raises `UserError` if neither names EOS.
    """
    names: dict[str, str | None] = {"bos_token": None, "eos_token": None}
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        values = _json(folder / file)
        for key in names:
            value = values.get(key)
            value = value.get("content") if isinstance(value, dict) else value
            names[key] = value if isinstance(value, str) else names[key]
    eos = names["eos_token"]
    if eos is None:
        raise UserError(
            "neither tokenizer_config.json nor special_tokens_map.json names eos_token, with which "
            "texts end: add it"
        )
    return names["bos_token"], eos


def _json(path: Path) -> Mapping[str, Any]:
    """Return the values of a JSON object; none if there is no such file."""
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}
