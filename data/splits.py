"""Splits: which documents, or passages of documents, belong to train, val and test.

`choose_splitter` returns the `Splitter` of a source, which any process can apply to any chunk:

    SourceSplits   the source gives the split of each document (as the story world does)
    HashSplits     split=document: the hash of a document's name decides; a document that is added
                   changes the split of no other document
    ListedSplits   split=document with few documents: exact shares, at least one document each
    TailSplits     split=tail: the whole text is cut at two positions, as in nanoGPT
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice

from data.choices import SPLIT_RULES
from data.documents import Document, Source
from errors import UserError

SPLITS = ("train", "val", "test")
MANY = 10_000  # documents; of so many, a hash selects nearly the configured shares


@dataclass(frozen=True)
class Passage:
    """A document, or the part of it that belongs to one split."""

    name: str  # of the document
    text: str
    split: str  # train, val or test
    begins: bool = True  # the document begins here, so each document can be counted once
    prompt_length: int = 0  # first characters of `text` that belong to the document's prompt


class Splitter(ABC):
    """A rule that assigns the documents of a chunk to splits."""

    @abstractmethod
    def divide(self, number: int, documents: Iterable[Document]) -> Iterator[Passage]:
        """Yield the documents of chunk `number`, in order, with their splits; a document that
        belongs to several splits is yielded in passages."""


def choose_splitter(
    source: Source, *, split: str, val_fraction: float, test_fraction: float
) -> Splitter:
    """Return the splitter for a source.

    Reads one document if the source has splits of its own, at most `MANY` documents for
    split=document, and all documents for split=tail. A single document cannot be held out and
    trained on, so its end is held out, as split=tail does. Raises `UserError` if a split with a
    share above 0 would be empty.
    """
    _check(split, val_fraction, test_fraction)
    first = next(source.documents(), None)
    if first is not None and first.split is not None:
        return SourceSplits()
    if split == "tail":
        return TailSplits.of(_lengths(source), val_fraction, test_fraction)
    named = ((number, document.name) for number in range(source.n_chunks)
             for document in source.chunk(number))  # fmt: skip
    few = list(islice(named, MANY))
    if len(few) == MANY:
        return HashSplits(val_fraction, test_fraction)
    if len(few) == 1 and val_fraction + test_fraction > 0:
        return TailSplits.of(_lengths(source), val_fraction, test_fraction)
    names = [name for _, name in few]
    splits = assign_documents(names, val_fraction=val_fraction, test_fraction=test_fraction)
    listed: list[list[str]] = [[] for _ in range(source.n_chunks)]
    for (number, _), document_split in zip(few, splits, strict=True):
        listed[number].append(document_split)
    return ListedSplits(listed)


def _lengths(source: Source) -> list[int]:
    """Return the characters of each chunk. Reads the whole source."""
    return [
        sum(len(document.text) for document in source.chunk(number))
        for number in range(source.n_chunks)
    ]


def _check(split: str, val_fraction: float, test_fraction: float) -> None:
    if split not in SPLIT_RULES:
        raise UserError(f"split is {split!r}: one of {', '.join(SPLIT_RULES)}", "split")
    if min(val_fraction, test_fraction) < 0 or val_fraction + test_fraction >= 1:
        raise UserError(
            f"val_fraction ({val_fraction}) and test_fraction ({test_fraction}) must not be "
            "negative, and their sum must be below 1, so that something is left to train on",
            "val_fraction",
            ["test_fraction"],
        )


# ---------------------------------------------------------------------------- the splitters


class SourceSplits(Splitter):
    """Each document has its split from the source."""

    def divide(self, number: int, documents: Iterable[Document]) -> Iterator[Passage]:
        for document in documents:
            assert document.split is not None, document.name
            yield _whole(document, document.split)


@dataclass(frozen=True)
class HashSplits(Splitter):
    """The hash of a document's name, as a number from 0 to 1, decides: a document is test below
    `test_fraction`, val below the sum of both fractions, otherwise train."""

    val_fraction: float
    test_fraction: float

    def divide(self, number: int, documents: Iterable[Document]) -> Iterator[Passage]:
        for document in documents:
            fraction = int.from_bytes(_name_hash(document.name)[:8], "big") / 2**64
            if fraction < self.test_fraction:
                split = "test"
            else:
                split = "val" if fraction < self.test_fraction + self.val_fraction else "train"
            yield _whole(document, split)


@dataclass(frozen=True)
class ListedSplits(Splitter):
    """The split of each document is listed, per chunk."""

    splits: Sequence[Sequence[str]]

    def divide(self, number: int, documents: Iterable[Document]) -> Iterator[Passage]:
        for document, split in zip(documents, self.splits[number], strict=True):
            yield _whole(document, split)


@dataclass(frozen=True)
class TailSplits(Splitter):
    """Cut the text (all documents, one after another) at two positions: first train, then val, then
    test. Of n characters, train gets the first int(n * (1 - val - test))."""

    offsets: tuple[int, ...]  # characters before each chunk
    ends: tuple[int, ...]  # of each split, in characters of the whole text

    @classmethod
    def of(cls, lengths: Sequence[int], val_fraction: float, test_fraction: float) -> "TailSplits":
        """Return the splitter for chunks of `lengths` characters.

        Raises `UserError` if a split with a share above 0 would be empty.
        """
        total = sum(lengths)
        train_end = int(total * (1 - (val_fraction + test_fraction)))
        ends = (train_end, int(total * (1 - test_fraction)), total)
        shares = (1.0, val_fraction, test_fraction)
        for split, share, start, stop in zip(SPLITS, shares, (0, *ends), ends, strict=False):
            if share > 0 and start == stop:
                raise UserError(
                    f"split=tail leaves nothing for {split}: the text has {total:,} characters; "
                    "give more text or change val_fraction or test_fraction",
                    "split",
                    ["val_fraction", "test_fraction"],
                )
        return cls(tuple(accumulate(lengths, initial=0)), ends)

    def divide(self, number: int, documents: Iterable[Document]) -> Iterator[Passage]:
        offset = self.offsets[number]
        for document in documents:
            begins = True
            for split, start, stop in zip(SPLITS, (0, *self.ends), self.ends, strict=False):
                first = max(start - offset, 0)
                text = document.text[first : max(stop - offset, 0)]
                if text:
                    prompt_length = min(max(document.prompt_length - first, 0), len(text))
                    yield Passage(document.name, text, split, begins, prompt_length)
                    begins = False
            offset += len(document.text)


def _whole(document: Document, split: str) -> Passage:
    """Return a document that belongs to one split."""
    return Passage(document.name, document.text, split, prompt_length=document.prompt_length)


def assign_documents(
    names: Sequence[str], *, val_fraction: float, test_fraction: float
) -> list[str]:
    """Return the split of each document. The shares are exact; the hashes of the names, sorted,
    decide which documents are held out. Documents of the same name get different hashes.

    Raises `UserError` if too few documents are left to train on.
    """
    n_test, n_val = (
        max(1, round(fraction * len(names))) if fraction > 0 else 0
        for fraction in (test_fraction, val_fraction)
    )
    if n_test + n_val >= len(names):
        raise UserError(
            f"the text has {len(names)} documents, too few to hold out {n_val} for val and "
            f"{n_test} for test: split=tail holds out the end of the text instead",
            others=["split"],
        )
    counts: dict[str, int] = {}
    hashes = []
    for name in names:
        count = counts[name] = counts.get(name, 0) + 1
        hashes.append(_name_hash(name if count == 1 else f"{name}#{count}"))
    ranking = sorted(range(len(names)), key=hashes.__getitem__)
    splits = dict.fromkeys(ranking[:n_test], "test")
    splits |= dict.fromkeys(ranking[n_test : n_test + n_val], "val")
    return [splits.get(number, "train") for number in range(len(names))]


def _name_hash(name: str) -> bytes:
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
