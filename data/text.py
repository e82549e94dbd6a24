"""From the settings of a text to its tokenizer and its token shards.

settings -> sources (documents) -> tokenizer -> corpus (token shards, memory-mapped)
"""

from typing import Any, Protocol

from data.corpus import Corpus
from data.documents import Source
from data.mixture import MixedCorpus
from data.prepare import prepare, tokenizer_for
from data.sources.open import open_source
from data.tokenizer import Tokenizer

# The settings that each source is opened with, beside its name and its path.
_SOURCE_SETTINGS = (
    "field", "documents", "separator", "strict", "stories", "near", "far", "hub_config",
    "hub_split", "revision", "streaming",
)  # fmt: skip


class TextSettings(Protocol):
    """What is read of a config's section `data`; every name in `_SOURCE_SETTINGS` as well."""

    @property
    def source(self) -> str: ...
    @property
    def path(self) -> str | None: ...
    @property
    def mix(self) -> Any: ...
    @property
    def split(self) -> str: ...
    @property
    def val_fraction(self) -> float: ...
    @property
    def test_fraction(self) -> float: ...
    @property
    def processes(self) -> int | None: ...


class TokenizerSettings(Protocol):
    """What is read of a config's section `tokenizer`."""

    @property
    def type(self) -> str: ...
    @property
    def vocab_size(self) -> int: ...


def open_sources(text: TextSettings) -> dict[str, Source]:
    """Open the source, or all sources of `mix`, by name as `mix` spells it: `files:notes/`.

    Raises `UserError` for a source that cannot be read.
    """
    settings = {name: getattr(text, name) for name in _SOURCE_SETTINGS}
    if text.mix is None:
        return {text.source: open_source(text.source, path=text.path, **settings)}
    sources = {}
    for name in text.mix:
        source, _, path = name.partition(":")
        sources[name] = open_source(source, path=path or None, **settings)
    return sources


def text_tokenizer(
    text: TextSettings, settings: TokenizerSettings, sources: dict[str, Source]
) -> Tokenizer:
    """Train the tokenizer on the training split of `sources`, or find it in the cache."""
    weights = text.mix or {}
    return tokenizer_for(
        [(source, weights.get(name, 1.0)) for name, source in sources.items()],
        type=settings.type,
        vocab_size=settings.vocab_size,
        **_split_settings(text),
    )


def open_corpus(
    text: TextSettings, tokenizer: Tokenizer, sources: dict[str, Source] | None = None
) -> Corpus | MixedCorpus:
    """Open the token shards of a text, and write them first where the cache has none.

    Pass `sources` to reuse sources that are already open.
    """
    corpora = {
        name: prepare(source, tokenizer, **_split_settings(text), processes=text.processes)
        for name, source in (sources or open_sources(text)).items()
    }
    return corpora[text.source] if text.mix is None else MixedCorpus(corpora, text.mix)


def open_text(
    text: TextSettings,
    settings: TokenizerSettings,
    tokenizer: Tokenizer | None = None,
    sources: dict[str, Source] | None = None,
) -> tuple[Tokenizer, Corpus | MixedCorpus]:
    """Return the tokenizer and the token shards of a text.

    Without a `tokenizer`, one is trained on the training split, as `settings` says. Pass `sources`
    to reuse sources that are already open.
    """
    sources = sources or open_sources(text)
    tokenizer = tokenizer or text_tokenizer(text, settings, sources)
    return tokenizer, open_corpus(text, tokenizer, sources)


def _split_settings(text: TextSettings) -> dict[str, Any]:
    return {
        "split": text.split,
        "val_fraction": text.val_fraction,
        "test_fraction": text.test_fraction,
    }
