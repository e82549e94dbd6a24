"""Our tokenizer in Hugging Face's format: tokenizer.json and what belongs beside it.

    piece of the vocabulary   in tokenizer.json
    ▁the                      " the"; "▁the" in a model with a dummy prefix, as Llama 2
    <0x0A>                    <0x0A>, with byte fallback
    <s>                       an added special token, put in front of every text

Usual converters keep ▁ and replace the spaces of a text by it; then the character ▁ of a text is
decoded as a space. Breeze encodes that character in bytes. With real spaces in the pieces,
`tokenizers` does the same.

SentencePiece's BPE merges any two neighbours whose union is a piece, best score first.
`tokenizers` merges listed pairs, first in the list first. So the list has every cut of every piece
into two pieces, in the order of the pieces' scores.
"""

from typing import Any

from data.json_tokenizer import JsonTokenizer, without_marks
from data.tokenizer import SPACE_MARK, Tokenizer
from errors import UserError, require
from interop.huggingface import json_bytes
from interop.sentencepiece_file import (
    BPE,
    BYTE,
    CHAR,
    CONTROL,
    NORMAL,
    UNIGRAM,
    UNKNOWN,
    SentencePieceFile,
    read_sentencepiece,
)

# A text may spell a byte or a special. Unigram would find it in the vocabulary, as any piece.
_SPELLED = r"<(?=0x[0-9A-F]{2}>|/?s>|unk>)"


def tokenizer_files(tokenizer: Tokenizer, *, trained: bool = False) -> dict[str, bytes]:
    """Return the files, name to content, with which AutoTokenizer encodes and decodes as ours.

    The tokenizer.json of an imported model is returned as it was; if the model was `trained` here,
    where every text begins with BOS, it puts BOS in front. Raises `UserError` if the library
    `tokenizers` is missing.
    """
    bos, eos = tokenizer.piece(tokenizer.bos_id), tokenizer.piece(tokenizer.eos_id)
    if isinstance(tokenizer, JsonTokenizer):
        content = without_marks(tokenizer.model_bytes)
        if trained:
            content = _with_bos(content, bos, tokenizer.bos_id)
        config = tokenizer_config(bos, eos, splits_specials=False)  # as it was: chats need them
        return {"tokenizer.json": content, "tokenizer_config.json": json_bytes(config)}
    return {
        "tokenizer.json": tokenizer_json(tokenizer.model_bytes).encode(),
        "tokenizer_config.json": json_bytes(tokenizer_config(bos, eos, splits_specials=True)),
        tokenizer.file_name: tokenizer.model_bytes,
    }


def _with_bos(content: bytes, bos: str, bos_id: int) -> bytes:
    """Return a tokenizer.json that puts BOS in front of a text, if it does not yet."""
    import tokenizers
    from tokenizers import processors

    backend = tokenizers.Tokenizer.from_str(content.decode())
    if backend.encode("a").ids[:1] == [bos_id]:
        return content
    template = _template(bos, bos_id)
    earlier = backend.post_processor
    backend.post_processor = (
        template if earlier is None else processors.Sequence([earlier, template])
    )
    return backend.to_str().encode()


def tokenizer_config(bos: str, eos: str, *, splits_specials: bool) -> dict[str, Any]:
    """Return tokenizer_config.json: the class that reads tokenizer.json as it is, and exact text.

    With `splits_specials`, a text that spells `<s>` does not become that token.
    """
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": bos,
        "eos_token": eos,
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": splits_specials,
    }


def tokenizer_json(model_bytes: bytes) -> str:
    """Return tokenizer.json of a SentencePiece model, Breeze's or one with a dummy prefix, as Llama
    2's and Mistral's.

    Raises `UserError` for a model that changes text or lacks byte fallback, and if the library
    `tokenizers` is missing.
    """
    tokenizers = require("tokenizers", "export")
    model = read_sentencepiece(model_bytes)
    _refuse(model)
    converted = tokenizers.Tokenizer(_model(model))
    if model.dummy_prefix:
        converted.normalizer = _dummy_prefix()
    if model.type == UNIGRAM:
        converted.pre_tokenizer = _split_spelled()
    converted.decoder = _decoder(model)
    converted.post_processor = _template(model.pieces[model.bos_id].text, model.bos_id)
    converted.add_special_tokens(
        [
            tokenizers.AddedToken(piece.text, special=True, normalized=False)
            for piece in model.pieces
            if piece.type in (UNKNOWN, CONTROL)
        ]
    )
    return converted.to_str()


def _refuse(model: SentencePieceFile) -> None:
    """Raise `UserError` for a model that tokenizer.json would carry wrongly."""
    kinds = {piece.type for piece in model.pieces}
    reasons = {
        f"it changes characters by the rule {model.normalization}": (
            model.normalization not in ("", "identity")
        ),
        "it removes spaces": model.removes_spaces,
        "its pieces end in their space": model.suffix_spaces and model.dummy_prefix,
        "it has no byte fallback": BYTE not in kinds,
        "it lacks <s> or </s>": min(model.bos_id, model.eos_id) < 0,
        "its type is none of BPE, unigram and char": model.type not in (BPE, UNIGRAM, CHAR),
        "it has pieces defined by its user": not kinds <= {NORMAL, UNKNOWN, CONTROL, BYTE},
    }
    for reason, applies in reasons.items():
        if applies:
            raise UserError(f"the SentencePiece model cannot become tokenizer.json: {reason}")


def _model(model: SentencePieceFile) -> Any:
    from tokenizers import models

    pieces = model.pieces
    space = SPACE_MARK if model.dummy_prefix else " "
    names = [
        piece.text.replace(SPACE_MARK, space) if piece.type == NORMAL else piece.text
        for piece in pieces
    ]
    if model.type == UNIGRAM:
        scored = [(name, piece.score) for name, piece in zip(names, pieces, strict=True)]
        return models.Unigram(scored, unk_id=model.unk_id, byte_fallback=True)
    merges = []
    if model.type == BPE:
        normal = {name: p.score for name, p in zip(names, pieces, strict=True) if p.type == NORMAL}
        for name in sorted(normal, key=lambda name: -normal[name]):  # stable: then by id
            cuts = ((name[:at], name[at:]) for at in range(1, len(name)))
            merges += [cut for cut in cuts if cut[0] in normal and cut[1] in normal]
    return models.BPE(
        {name: id for id, name in enumerate(names)},
        merges,
        unk_token=names[model.unk_id],
        fuse_unk=True,
        byte_fallback=True,
    )


def _dummy_prefix() -> Any:
    from tokenizers import normalizers

    return normalizers.Sequence(
        [normalizers.Prepend(SPACE_MARK), normalizers.Replace(" ", SPACE_MARK)]
    )


def _split_spelled() -> Any:
    """Cut a text after the "<" of a spelled byte or special, so that no piece reaches over it."""
    from tokenizers import Regex, pre_tokenizers

    return pre_tokenizers.Split(Regex(_SPELLED), "merged_with_previous")


def _decoder(model: SentencePieceFile) -> Any:
    from tokenizers import decoders

    steps = [decoders.ByteFallback(), decoders.Fuse()]
    if model.dummy_prefix:
        steps = [decoders.Replace(SPACE_MARK, " "), *steps, decoders.Strip(" ", 1, 0)]
    return decoders.Sequence(steps)


def _template(bos: str, bos_id: int) -> Any:
    """Put BOS in front of a text, and of each text of a pair."""
    from tokenizers import processors

    return processors.TemplateProcessing(
        single=f"{bos} $A",
        pair=f"{bos} $A {bos}:1 $B:1",
        special_tokens=[(bos, bos_id)],
    )
