"""Who gets what: the split, train, val or test, that a document or a piece of it belongs to.

`choose` looks at a source and gives a `Splitter`, a rule that any process can apply to any part:

    Own      the source says it itself (the story world: splits that share no plot and hero)
    Drawn    split: document; by the hash of a document's name, so that one more moves no other
    Listed   the same where documents are few: exact shares, at least one document each
    Tail     split: tail; the whole text is cut at two places, as nanoGPT has it
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, islice

from data.documents import Document, Source
from errors import UserError

SPLITS = ("train", "val", "test")
MANY = 10_000  # documents; of so many, shares drawn by hash are close enough to those asked for


class Splitter(ABC):
    """A rule that says of each document of a part what goes into which split."""

    @abstractmethod
    def divide(self, part: int, documents: Iterable[Document]) -> Iterator[Document]:
        """Give the documents of a part, in order, the split they belong to; one that belongs to
        several comes in pieces."""


def choose(source: Source, *, split: str, val_fraction: float, test_fraction: float) -> Splitter:
    """Make the rule for a source. Reads one document of it where it has splits of its own, `MANY`
    at most for split=document, and all for split=tail.

    Raises `UserError` when a split that should get something gets nothing.
    """
    _check(split, val_fraction, test_fraction)
    first = next(source.documents(), None)
    if first is not None and first.split is not None:
        return Own()
    if split == "tail":
        lengths = [
            sum(len(document.text) for document in source.part(number))
            for number in range(source.n_parts)
        ]
        return Tail.of(lengths, val_fraction, test_fraction)
    named = ((part, document.name) for part in range(source.n_parts)
             for document in source.part(part))  # fmt: skip
    few = list(islice(named, MANY))
    if len(few) == MANY:
        return Drawn(val_fraction, test_fraction)
    names = [name for _, name in few]
    splits = assign_documents(names, val_fraction=val_fraction, test_fraction=test_fraction)
    listed: list[list[str]] = [[] for _ in range(source.n_parts)]
    for (part, _), its in zip(few, splits, strict=True):
        listed[part].append(its)
    return Listed(listed)


def _check(split: str, val_fraction: float, test_fraction: float) -> None:
    if split not in ("document", "tail"):
        raise UserError(f"data.split is {split!r}: one of document, tail")
    if min(val_fraction, test_fraction) < 0 or val_fraction + test_fraction >= 1:
        raise UserError(
            f"data.val_fraction ({val_fraction}) and data.test_fraction ({test_fraction}) must not "
            "be negative, and leave something to train on: their sum must be below 1"
        )


# ---------------------------------------------------------------------------- the rules


class Own(Splitter):
    """Each document says which split it is of."""

    def divide(self, part: int, documents: Iterable[Document]) -> Iterator[Document]:
        yield from documents


@dataclass(frozen=True)
class Drawn(Splitter):
    """The hash of a document's name, a number from 0 to 1, decides: below `test_fraction` it is
    test, below the sum of both val. It needs to know nothing of the other documents."""

    val_fraction: float
    test_fraction: float

    def divide(self, part: int, documents: Iterable[Document]) -> Iterator[Document]:
        for document in documents:
            place = int.from_bytes(_rank(document.name)[:8], "big") / 2**64
            held_out = "test" if place < self.test_fraction else "val"
            is_held_out = place < self.test_fraction + self.val_fraction
            yield replace(document, split=held_out if is_held_out else "train")


@dataclass(frozen=True)
class Listed(Splitter):
    """Of each part, the splits of its documents."""

    listed: Sequence[Sequence[str]]

    def divide(self, part: int, documents: Iterable[Document]) -> Iterator[Document]:
        for document, split in zip(documents, self.listed[part], strict=True):
            yield replace(document, split=split)


@dataclass(frozen=True)
class Tail(Splitter):
    """Cut the text, all documents in a row, at two places: first train, then val, then test; n
    characters give train the first int(n * (1 - val - test))."""

    offsets: tuple[int, ...]  # characters before each part
    ends: tuple[int, ...]  # of each split in the whole text

    @classmethod
    def of(cls, lengths: Sequence[int], val_fraction: float, test_fraction: float) -> "Tail":
        """Make it for parts of `lengths` characters."""
        total = sum(lengths)
        train_end = int(total * (1 - (val_fraction + test_fraction)))
        ends = (train_end, int(total * (1 - test_fraction)), total)
        shares = (1.0, val_fraction, test_fraction)
        for split, share, start, stop in zip(SPLITS, shares, (0, *ends), ends, strict=False):
            if share > 0 and start == stop:
                raise UserError(
                    f"data.split=tail leaves nothing for {split}: the text has {total:,} "
                    "characters, give more or another data.val_fraction, data.test_fraction"
                )
        return cls(tuple(accumulate(lengths, initial=0)), ends)

    def divide(self, part: int, documents: Iterable[Document]) -> Iterator[Document]:
        offset = self.offsets[part]
        for document in documents:
            for split, start, stop in zip(SPLITS, (0, *self.ends), self.ends, strict=False):
                inside = document.text[max(start - offset, 0) : max(stop - offset, 0)]
                if inside:
                    yield Document(document.name, inside, split)
            offset += len(document.text)


def assign_documents(
    names: Sequence[str], *, val_fraction: float, test_fraction: float
) -> list[str]:
    """Hold out whole documents, in exact shares, by the rank of the hashes of their names. Raises
    `UserError` where too few are left to train on."""
    n_test, n_val = (
        max(1, round(fraction * len(names))) if fraction > 0 else 0
        for fraction in (test_fraction, val_fraction)
    )
    if n_test + n_val >= len(names):
        raise UserError(
            f"data.split=document cannot hold out {n_val} for val and {n_test} for test of "
            f"{len(names)} documents and train on the rest: use data.split=tail"
        )
    seen: dict[str, int] = {}
    ranks = []
    for name in names:
        times = seen[name] = seen.get(name, 0) + 1
        ranks.append(_rank(name if times == 1 else f"{name}#{times}"))
    ranking = sorted(range(len(names)), key=ranks.__getitem__)
    splits = dict.fromkeys(ranking[:n_test], "test")
    splits |= dict.fromkeys(ranking[n_test : n_test + n_val], "val")
    return [splits.get(number, "train") for number in range(len(names))]


def _rank(name: str) -> bytes:
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
