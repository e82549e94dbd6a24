"""Tokenizers of other projects' kinds, trained on a small text by the libraries themselves."""

import io
import json
from collections.abc import Sequence

import sentencepiece
import tokenizers
from kites import TEXT
from tokenizers import decoders, models, pre_tokenizers, trainers

from data.vocabulary import _LOSSLESS

EOS = "<|endoftext|>"


def byte_level(texts: Sequence[str] = TEXT, specials: Sequence[str] = (EOS,)) -> bytes:
    """Return a tokenizer.json of GPT-2's kind, with 400 tokens at most."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=list(specials),
            initial_alphabet=alphabet,
            show_progress=False,
        ),
    )
    return tokenizer.to_str().encode()


def llama_sentencepiece(type: str = "bpe", **settings: object) -> bytes:
    """Return a tokenizer.model of Llama 2's kind: a space is put in front of every text."""
    model = io.BytesIO()
    sizes = {"bpe": 340, "unigram": 305, "char": 400}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT), model_writer=model, model_type=type, vocab_size=sizes[type],
        **(_LOSSLESS | {"add_dummy_prefix": True, "hard_vocab_limit": type != "char"} | settings),
    )  # fmt: skip
    return model.getvalue()


def changed(tokenizer_json: bytes, **parts: object) -> bytes:
    """Return a tokenizer.json with other parts, such as `decoder=None`."""
    return json.dumps(json.loads(tokenizer_json) | parts).encode()
