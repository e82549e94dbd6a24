"""Our tokenizer as the keys of a GGUF file, for the tokenizer that llama.cpp calls `llama`.

That one merges any two neighbours whose union is a piece, best score first, and encodes the rest in
bytes, as SentencePiece's BPE does. Single characters are a case of it: no union is a piece. It
reads the character \u2581 of a text as a space; Breeze encodes that character in bytes.

llama.cpp's unigram tokenizer (`t5`) has no byte fallback: it encodes a character without a piece
as <unk>, so text would be lost. It is refused.
"""

from typing import Any

from data.tokenizer import Tokenizer
from errors import UserError
from interop.sentencepiece_file import (
    BPE,
    BYTE,
    CHAR,
    UNIGRAM,
    SentencePieceFile,
    read_sentencepiece,
)


def vocabulary(tokenizer: Tokenizer | None, vocab_size: int) -> dict[str, Any]:
    """Return the keys of the tokenizer; None: token ids only.

    Raises `UserError` for a tokenizer that llama.cpp would not reproduce, and for one whose size
    is not that of the model's vocabulary.
    """
    if tokenizer is None:
        return {"tokenizer.ggml.model": "none"}
    try:
        model = read_sentencepiece(tokenizer.model_bytes)
    except (UserError, AttributeError):
        raise UserError(
            "a GGUF file needs the pieces of a SentencePiece model, and the tokenizer is none: "
            "export with --to hf"
        ) from None
    _refuse(model)
    if len(model.pieces) != vocab_size:
        raise UserError(
            f"the tokenizer has {len(model.pieces):,} tokens and the model {vocab_size:,}: they "
            "do not belong together"
        )
    keys = {
        "model": "llama",
        "pre": "default",
        "tokens": [piece.text for piece in model.pieces],
        "scores": [piece.score for piece in model.pieces],
        "token_type": [piece.type for piece in model.pieces],  # the same numbers as SentencePiece's
        "bos_token_id": model.bos_id,
        "eos_token_id": model.eos_id,
        "unknown_token_id": model.unk_id,
        "add_bos_token": True,
        "add_eos_token": False,
        "add_space_prefix": model.dummy_prefix,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in keys.items()}


def _refuse(model: SentencePieceFile) -> None:
    """Raise `UserError` for a model that llama.cpp would apply differently."""
    if model.type == UNIGRAM:
        raise UserError(
            "llama.cpp's unigram tokenizer has no byte fallback and would lose text: train with "
            "tokenizer.type=bpe or char, or export with --to hf"
        )
    reasons = {
        f"it changes characters by the rule {model.normalization}": (
            model.normalization not in ("", "identity")
        ),
        "it removes spaces": model.removes_spaces,
        "its pieces end in their space": model.suffix_spaces,
        "it has no byte fallback": BYTE not in {piece.type for piece in model.pieces},
        "it lacks <s> or </s>": min(model.bos_id, model.eos_id) < 0,
        "its type is neither BPE nor char": model.type not in (BPE, CHAR),
    }
    for reason, applies in reasons.items():
        if applies:
            raise UserError(
                f"llama.cpp cannot use the SentencePiece model: {reason}: export with --to hf"
            )
