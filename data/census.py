"""Census: counts of a text and of its tokens, and warnings about what makes a model worse.

`count_text` reads every document once and returns a `TextCensus`. `count_tokens` reads the tokens
of a split and returns a `TokenCensus`. `text_warnings` and `token_warnings` name what is unusual:
repeated texts, held-out texts that are also trained on, content that is not prose, separators of
documents, a vocabulary that is too large or too small.
"""

import hashlib
import lzma
import re
import shlex
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from data.documents import Document
from data.tokenizer import Tokenizer

COMPRESSED = 20_000_000  # first bytes of the text; only these are compressed
KEPT = 300_000  # different words, and different lines, counted at most: a bound on the memory
LINE = 200  # first characters of a line; only these are compared
BLOCK = 1 << 20  # tokens read at once

# Limits; outside of them there is a warning.
RARE = 0.001  # share of documents with a flaw
MARKED_UP = 0.05  # share of documents with HTML
LONG_LINE = 100_000  # characters; lines of prose are shorter, those of data may not be
BOILERPLATE = 0.02  # share of the text that is one line
FEW = 20_000  # tokens; the loss on fewer is noisy
SEEN, UNSEEN = 10, 0.35  # a piece is learnt from 10 occurrences; share of pieces with fewer
SPELLED = 0.02  # share of tokens that are bytes: parts of characters without a piece

_TAGS = "a|body|br|div|h[1-6]|head|html|img|li|p|script|span|style|t[dr]|ul"
_TAG = re.compile(rf"</?(?:{_TAGS})\b[^<>]*>", re.IGNORECASE)
_CONTROL = re.compile("[\0-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")
# UTF-8 that was read as Latin-1 or Windows-1252: "Ã©" for "é", "â€œ" for a quotation mark.
_MISREAD = re.compile("[\u00c2\u00c3][\u0080-\u00aa\u00ac-\u00ba\u0192\u02c6\u2020-\u2021\u2030]|"
                      "\u00e2[\u0080\u20ac]")  # fmt: skip
_SPECIAL_TOKEN = re.compile(
    r"<\|[A-Za-z_]+\|>|</?s>|<(?:eos|bos|sep|eot|eod)>|\[(?:SEP|EOS|BOS|EOT)\]", re.IGNORECASE
)
_RULER = re.compile(r"^[ \t]*(([*=_~#+-])(?:[ \t]*\2){2,})[ \t]*$", re.MULTILINE)


class Flaw(NamedTuple):
    """A defect of a document: its description, a test for it (true if a text has it), and the share
    of documents above which there is a warning."""

    description: str
    occurs_in: Callable[[str], Any]
    limit: float = RARE


FLAWS = (
    Flaw("are empty", lambda text: not text.strip()),
    Flaw("have U+FFFD: some of their bytes could not be decoded", lambda text: "\ufffd" in text),
    Flaw("have control characters: is it text?", _CONTROL.search),
    Flaw("have UTF-8 read as Latin-1, such as \u00c3\u00a9: read it as UTF-8", _MISREAD.search),
    Flaw("have HTML tags: remove them, or the model learns HTML",
         lambda text: len(_TAG.findall(text)) > 2, MARKED_UP),
    Flaw(f"have lines of {LONG_LINE:,} characters: is it text?",
         lambda text: max(map(len, text.split("\n"))) >= LONG_LINE),
)  # fmt: skip


# ---------------------------------------------------------------------------- the text


@dataclass(frozen=True)
class TextCensus:
    """What is counted in the documents of a text."""

    documents: int
    n_bytes: int  # in UTF-8
    seconds: float  # to read the documents
    longest_bytes: int
    longest_name: str
    repeated: int  # documents that are equal to an earlier one
    alike: int  # documents that differ from an earlier one in case and spaces only
    flaws: Mapping[str, int]  # description of a `Flaw` -> documents that have it
    separators: Mapping[str, int]  # special token, or line such as *** -> occurrences
    words: int  # different words, at most about `KEPT`
    commonest_line: str  # of the lines that occur again, the one that takes most of the text
    commonest_line_count: int
    commonest_line_share: float  # of the characters of the text
    compressed_bytes: int  # first bytes of the text, at most about `COMPRESSED`
    xz_ratio: float  # their size after compression by xz, divided by their size before


def count_text(documents: Iterable[Document], n_bytes: int) -> TextCensus:
    """Read all documents once and return their counts. `n_bytes` is their approximate size, for the
    progress bar."""
    counter, seconds = _TextCounter(), 0.0
    with tqdm(desc="reading", total=n_bytes, unit="B", unit_scale=True, leave=False,
              disable=None) as bar:  # fmt: skip
        start = time.perf_counter()
        for document in documents:
            seconds += time.perf_counter() - start
            bar.update(counter.add(document))
            start = time.perf_counter()
    return counter.census(seconds)


@dataclass
class _TextCounter:
    """Counts documents one at a time."""

    documents: int = 0
    n_bytes: int = 0
    characters: int = 0
    longest: tuple[int, str] = (0, "")  # bytes, name
    repeated: int = 0
    alike: int = 0
    flaws: Counter[str] = field(default_factory=Counter)
    special_tokens: Counter[str] = field(default_factory=Counter)
    rulers: Counter[str] = field(default_factory=Counter)  # lines such as ***
    words: set[str] = field(default_factory=set)
    lines: Counter[str] = field(default_factory=Counter)
    beginning: bytearray = field(default_factory=bytearray)
    seen: set[bytes] = field(default_factory=set)  # 12 bytes of a hash per document
    seen_alike: set[bytes] = field(default_factory=set)

    def add(self, document: Document) -> int:
        """Count one document; return its bytes."""
        text = document.text
        content = text.encode("utf-8", "replace")
        self.documents += 1
        self.n_bytes += len(content)
        self.characters += len(text)
        self.longest = max(self.longest, (len(content), document.name))
        self._compare(content, " ".join(text.lower().split()).encode("utf-8", "replace"))
        self.flaws.update(flaw.description for flaw in FLAWS if flaw.occurs_in(text))
        self.special_tokens.update(_SPECIAL_TOKEN.findall(text))
        self.rulers.update(ruler for ruler, _ in _RULER.findall(text))
        if len(self.words) < KEPT:
            self.words.update(re.findall(r"[^\W\d_]+", text.lower()))
        lines = (line.strip()[:LINE] for line in text.split("\n"))
        is_full = len(self.lines) >= KEPT
        self.lines.update(line for line in lines if not is_full or line in self.lines)
        if len(self.beginning) < COMPRESSED:
            self.beginning += content
        return len(content)

    def _compare(self, content: bytes, plain: bytes) -> None:
        """Count a text that is equal to an earlier one, or whose `plain` form is: they differ in
        case and spaces only."""
        digests = [hashlib.blake2b(form, digest_size=12).digest() for form in (content, plain)]
        if digests[0] in self.seen:
            self.repeated += 1
        elif digests[1] in self.seen_alike:
            self.alike += 1
        self.seen.add(digests[0])
        self.seen_alike.add(digests[1])

    def census(self, seconds: float) -> TextCensus:
        """Return the counts of all documents; `seconds` is the time that reading them took."""
        repeated = ((line, count) for line, count in self.lines.items() if count > 1)
        line, count = max(repeated, key=lambda item: len(item[0]) * item[1], default=("", 0))
        compressed = len(lzma.compress(bytes(self.beginning), preset=9))
        return TextCensus(
            documents=self.documents,
            n_bytes=self.n_bytes,
            seconds=seconds,
            longest_bytes=self.longest[0],
            longest_name=self.longest[1],
            repeated=self.repeated,
            alike=self.alike,
            flaws=dict(self.flaws),
            separators=self._separators(),
            words=len(self.words),
            commonest_line=line,
            commonest_line_count=count,
            commonest_line_share=len(line) * count / max(1, self.characters),
            compressed_bytes=len(self.beginning),
            xz_ratio=compressed / max(1, len(self.beginning)),
        )

    def _separators(self) -> dict[str, int]:
        """Return special tokens and lines such as *** that may separate documents, with their
        counts. Such a line counts only if it occurs more than once per document on average: each
        document may have an underlined title."""
        limit = max(SEEN, self.documents)
        rulers = {ruler: count for ruler, count in self.rulers.items() if count > limit}
        return dict(self.special_tokens) | rulers


def text_warnings(census: TextCensus) -> Iterator[str]:
    """Yield one warning for each problem of a text."""
    if census.repeated > RARE * census.documents:
        yield f"{census.repeated:,} documents repeat an earlier one: keep one of each"
    if census.alike > RARE * census.documents:
        yield f"{census.alike:,} documents differ from an earlier one in case and spaces only"
    for flaw in FLAWS:
        count = census.flaws.get(flaw.description, 0)
        if count > flaw.limit * census.documents:
            yield f"{count:,} documents {flaw.description}"
    for separator, count in census.separators.items():
        setting = shlex.quote(f"data.separator={separator}")
        yield f"{separator} occurs {count:,} times: if it separates documents, add {setting}"
    line, share = census.commonest_line, census.commonest_line_share
    if share > BOILERPLATE and census.commonest_line_count >= SEEN:
        yield (f"one line is {share:.0%} of the text, {census.commonest_line_count:,} times: "
               f"{line[:60]}")  # fmt: skip


# ---------------------------------------------------------------------------- the tokens


@dataclass(frozen=True)
class TokenCensus:
    """What is counted in the tokens of a split."""

    counts: NDArray[np.int64]  # occurrences of each id of the vocabulary
    lengths: list[int]  # tokens of each document, with <s> and </s>
    digests: list[bytes]  # of each document: equal if the tokens are equal

    @property
    def n_tokens(self) -> int:
        """The number of tokens in the split."""
        return int(self.counts.sum())

    def add(self, length: int, digest: bytes) -> None:
        """Add a document. A token alone is the EOS of a vocabulary in which it is BOS, too."""
        if length > 1:
            self.lengths.append(length)
            self.digests.append(digest)

    def piece_counts(self, tokenizer: Tokenizer) -> NDArray[np.int64]:
        """Return the occurrences of each piece, without specials and bytes."""
        return self.counts[tokenizer.piece_ids]

    def spelled_share(self, tokenizer: Tokenizer) -> float:
        """Return the share of tokens that are bytes: parts of characters without a piece."""
        specials = self.counts[[*{tokenizer.bos_id, tokenizer.eos_id}]]
        n_bytes = self.n_tokens - specials.sum() - self.piece_counts(tokenizer).sum()
        return n_bytes / max(1, self.n_tokens)


def count_tokens(tokens: Any, vocab_size: int, bos_id: int) -> TokenCensus:
    """Count the tokens of a split, an array of ids, `BLOCK` at a time. Each `bos_id` begins a
    document."""
    census = TokenCensus(np.zeros(vocab_size, np.int64), [], [])
    digest, length = hashlib.blake2b(digest_size=12), 0
    for start in tqdm(range(0, len(tokens), BLOCK), "counting", leave=False, disable=None):
        block = np.asarray(tokens[start : start + BLOCK])
        census.counts[:] += np.bincount(block, minlength=vocab_size)
        edges = {0, *np.flatnonzero(block == bos_id).tolist(), len(block)}
        for first, stop in pairwise(sorted(edges)):
            if block[first] == bos_id:
                census.add(length, digest.digest())
                digest, length = hashlib.blake2b(digest_size=12), 0
            digest.update(block[first:stop].tobytes())
            length += stop - first
    census.add(length, digest.digest())
    return census


def token_warnings(splits: Mapping[str, TokenCensus]) -> Iterator[str]:
    """Yield one warning for each problem of the splits "train", "val" and "test"."""
    trained = set(splits["train"].digests)
    for split in ("val", "test"):
        census = splits[split]
        both = sum(digest in trained for digest in census.digests)
        if both:
            yield (f"{both:,} of {len(census.digests):,} documents of {split} are also in train, "
                   "word for word: their loss says nothing about other text")  # fmt: skip
        if 0 < census.n_tokens < FEW:
            yield f"{split} has {census.n_tokens:,} tokens: its loss will be noisy"


def vocabulary_warnings(train: TokenCensus, tokenizer: Tokenizer) -> Iterator[str]:
    """Yield one warning for each problem of a vocabulary that was trained on this text."""
    rare = (train.piece_counts(tokenizer) < SEEN).mean()
    if rare > UNSEEN:
        yield (f"{rare:.0%} of the pieces occur less than {SEEN} times in train: a vocabulary of "
               f"{len(train.counts):,} is large, lower tokenizer.vocab_size")  # fmt: skip
    if (spelled := train.spelled_share(tokenizer)) > SPELLED:
        yield (f"{spelled:.0%} of the tokens are bytes of characters that the "
               "vocabulary lacks: raise tokenizer.vocab_size")  # fmt: skip
