"""From the settings of a text to its tokenizer and its corpus.

    settings -> sources (documents) -> tokenizer -> corpus (token shards, memory-mapped)

The settings are any objects with the attributes that the two protocols list: this package does not
import `configs`.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from numpy.typing import NDArray

from data.corpus import Corpus
from data.documents import Source
from data.mixture import MixedCorpus
from data.prepare import prepare, tokenizer_for
from data.shards import JoinedTokens
from data.sources.open import open_source
from data.tokenizer import Tokenizer
from errors import UserError, fields_named

# Settings that are passed on to `open_source` by name; the protocol below need not list them.
_SOURCE_SETTINGS = (
    "field", "prompt_field", "documents", "separator", "strict", "stories", "near", "far",
    "hub_config", "hub_split", "revision", "streaming",
)  # fmt: skip


class TextSettings(Protocol):
    """The attributes of a config's section `data` that are read here, beside `_SOURCE_SETTINGS`."""

    @property
    def source(self) -> str: ...
    @property
    def path(self) -> str | None: ...
    @property
    def prompt_field(self) -> str | None: ...
    @property
    def mix(self) -> Mapping[str, float] | None: ...
    @property
    def split(self) -> str: ...
    @property
    def val_fraction(self) -> float: ...
    @property
    def test_fraction(self) -> float: ...
    @property
    def processes(self) -> int | None: ...


class TokenizerSettings(Protocol):
    """The attributes of a config's section `tokenizer` that are read here."""

    @property
    def type(self) -> str: ...
    @property
    def vocab_size(self) -> int: ...


def open_sources(text: TextSettings) -> dict[str, Source]:
    """Return the sources of a text by name: one, or all of `mix`, named as in `mix`
    (`files:notes/`).

    Raises `UserError` if a source cannot be read.
    """
    settings = {name: getattr(text, name) for name in _SOURCE_SETTINGS}
    if text.mix is None:
        return {text.source: open_source(text.source, path=text.path, **settings)}
    sources = {}
    with _mix_named(text):
        for name in text.mix:
            kind, _, path = name.partition(":")
            sources[name] = open_source(kind, path=path or None, **settings)
    return sources


def text_tokenizer(
    text: TextSettings, settings: TokenizerSettings, sources: Mapping[str, Source]
) -> Tokenizer:
    """Return the tokenizer of the training splits of `sources`: trained, or read from the cache.

    Raises `UserError` for an impossible split or vocabulary.
    """
    weights = text.mix or {}
    with _mix_named(text):
        return tokenizer_for(
            [(source, weights.get(name, 1.0)) for name, source in sources.items()],
            type=settings.type,
            vocab_size=settings.vocab_size,
            **_split_settings(text),
        )


def open_corpus(
    text: TextSettings, tokenizer: Tokenizer, sources: Mapping[str, Source] | None = None
) -> Corpus | MixedCorpus:
    """Return the corpus of a text; shards that the cache lacks are written first.

    Pass `sources` to reuse sources that are already open. Raises `UserError` if a source cannot be
    read or split as asked.
    """
    with _mix_named(text):
        corpora = {
            name: prepare(source, tokenizer, **_split_settings(text), processes=text.processes)
            for name, source in (sources or open_sources(text)).items()
        }
    return corpora[text.source] if text.mix is None else MixedCorpus(corpora, text.mix)


def open_text(
    text: TextSettings,
    settings: TokenizerSettings,
    tokenizer: Tokenizer | None = None,
    sources: Mapping[str, Source] | None = None,
) -> tuple[Tokenizer, Corpus | MixedCorpus]:
    """Return the tokenizer and the corpus of a text.

    Pass a `tokenizer` to use it in place of the text's own, and `sources` to reuse sources that are
    already open. Raises `UserError` if a source cannot be read, split or tokenized as asked, or if
    `prompt_field` names a column and no source has a table.
    """
    sources = sources or open_sources(text)
    refuse_missing_prompts(text, sources)
    tokenizer = tokenizer or text_tokenizer(text, settings, sources)
    return tokenizer, open_corpus(text, tokenizer, sources)


def refuse_missing_prompts(text: TextSettings, sources: Mapping[str, Source]) -> None:
    """Raise `UserError` if `prompt_field` names a column and no source has a table."""
    if text.prompt_field is not None and not any(s.has_prompts for s in sources.values()):
        raise UserError(
            f"prompt_field is {text.prompt_field}, but no file of the text is a table (.jsonl, "
            ".csv, ...): leave it out, or give a table",
            "prompt_field",
        )


def open_split(
    text: TextSettings, tokenizer: Tokenizer, split: str, expected_hash: str
) -> tuple[NDArray | JoinedTokens, int]:
    """Return the tokens of one split, (n,) integers, and the bytes of the text they encode.

    Tokens of prompts are marked (data/prompts.py), and their bytes are not counted. Raises
    `UserError` as `open_tokens` does.
    """
    corpus = _trained_on(text, tokenizer, split, expected_hash)
    return corpus.marked_tokens(split), corpus.n_bytes(split)


def open_tokens(
    text: TextSettings, tokenizer: Tokenizer, split: str, expected_hash: str
) -> NDArray | JoinedTokens:
    """Return the tokens of one split, (n,) integers, without marks.

    Raises `UserError` if the text is not the one whose `data_hash` is `expected_hash`, or if the
    split has fewer than the two tokens that one prediction needs. An empty hash says that the model
    was not trained here.
    """
    return _trained_on(text, tokenizer, split, expected_hash).tokens(split)


def _trained_on(
    text: TextSettings, tokenizer: Tokenizer, split: str, expected_hash: str
) -> Corpus | MixedCorpus:
    """Return the corpus of a trained model's text. Raises `UserError` as `open_tokens` does."""
    if not expected_hash:
        raise UserError("the model was imported, so the text of its training is not here")
    corpus = open_corpus(text, tokenizer)
    if corpus.data_hash != expected_hash:
        raise UserError("the run's text is no longer what it was trained on: restore that text")
    if corpus.n_tokens(split) < 2:
        raise UserError(f"the run's text has no {split} split: choose another split")
    return corpus


def _mix_named(text: TextSettings) -> AbstractContextManager[None]:
    """Blame `mix` for errors about a source's name or path, if `mix` names them."""
    return fields_named({} if text.mix is None else {"source": "mix", "path": "mix"})


def _split_settings(text: TextSettings) -> dict[str, Any]:
    return {
        "split": text.split,
        "val_fraction": text.val_fraction,
        "test_fraction": text.test_fraction,
    }
