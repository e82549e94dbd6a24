"""data/splits.py: which documents, or passages of documents, are held out."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from data import splits
from data.documents import Document, Source
from data.splits import SPLITS, HashSplits, SourceSplits, assign_documents, choose_splitter
from errors import UserError

SHARES: dict[str, Any] = {"val_fraction": 0.2, "test_fraction": 0.1}


class Lengths(Source):
    """Documents of given names and lengths, two per chunk. The characters of the whole text are 0,
    1, 2, ..., so that each character is its own position."""

    def __init__(self, documents: Sequence[tuple[str, int]], split: str | None = None) -> None:
        self._documents, self._split = documents, split
        self.n_chunks = -(-len(documents) // 2)
        self.reads = 0

    def fingerprint(self) -> str:
        return repr(self._documents)

    def chunk(self, number: int) -> Iterator[Document]:
        start = sum(length for _, length in self._documents[: 2 * number])
        for name, length in self._documents[2 * number : 2 * number + 2]:
            self.reads += 1
            yield Document(name, "".join(map(chr, range(start, start + length))), self._split)
            start += length


def divided(
    documents: Sequence[tuple[str, int]], **settings: Any
) -> list[tuple[str, str, int, int]]:
    """Return each passage as (name, split, first position, last position + 1)."""
    source = Lengths(documents)
    splitter = choose_splitter(source, **settings)
    passages = [passage for number in range(source.n_chunks)
                for passage in splitter.divide(number, source.chunk(number))]  # fmt: skip
    return [(passage.name, passage.split, ord(passage.text[0]), ord(passage.text[-1]) + 1)
            for passage in passages if passage.text]  # fmt: skip


def splits_of(names: list[str], **fractions: float) -> list[str]:
    """Return the split of each name."""
    passages = divided([(name, 5) for name in names], split="document", **fractions)
    assert [(name, first) for name, _, first, _ in passages] == [
        (name, 5 * number) for number, name in enumerate(names)
    ]
    return [split for _, split, _, _ in passages]


@pytest.mark.parametrize(
    ("n", "val", "test", "expected"),
    [
        (42, 0.05, 0.05, (38, 2, 2)),
        (42, 0.05, 0.0, (40, 2, 0)),
        (3, 0.05, 0.05, (1, 1, 1)),
        (2, 0.1, 0.0, (1, 1, 0)),
        (1000, 0.25, 0.5, (250, 250, 500)),
        (1, 0.0, 0.0, (1, 0, 0)),
    ],
)
def test_shares_of_documents(n: int, val: float, test: float, expected: tuple[int, ...]) -> None:
    """Rounded shares, at least one document for a share above 0."""
    count = Counter(splits_of([f"d{i}" for i in range(n)], val_fraction=val, test_fraction=test))
    assert tuple(count[name] for name in SPLITS) == expected


def test_documents_are_chosen_by_name_not_by_position() -> None:
    """The order of reading does not decide, and one more document moves few others."""
    names = [f"d{i}" for i in range(100)]
    split = dict(zip(names, splits_of(names, **SHARES), strict=True))
    backwards = dict(zip(names[::-1], splits_of(names[::-1], **SHARES), strict=True))
    assert split == backwards
    longer = dict(zip([*names, "d100"], splits_of([*names, "d100"], **SHARES), strict=True))
    assert sum(split[name] != longer[name] for name in names) <= 2


def test_the_choice_is_pinned() -> None:
    """Held-out documents stay held out in later versions. The expected values are from
    `printf d0 | sha256sum` and so on, sorted by hand."""
    chosen = splits_of([f"d{number}" for number in range(10)], **SHARES)
    assert [n for n, split in enumerate(chosen) if split == "test"] == [0]
    assert [n for n, split in enumerate(chosen) if split == "val"] == [5, 8]


def test_documents_of_the_same_name_are_distinguished() -> None:
    """Otherwise the first ones would be held out."""
    chosen = splits_of(["same"] * 100, **SHARES)
    assert Counter(chosen) == {"train": 70, "val": 20, "test": 10}
    assert 10 < chosen[:30].count("train") < 29


def test_tail_is_where_nanogpt_cuts() -> None:
    """`data[:int(n * 0.9)]` and the rest, for every n, exactly."""
    for n in range(2, 400):
        if int(n * 0.9) < n:
            train, val = divided([("d", n)], split="tail", val_fraction=0.1, test_fraction=0.0)
            assert train == ("d", "train", 0, int(n * 0.9))
            assert val == ("d", "val", int(n * 0.9), n)


def test_tail_cuts_inside_documents() -> None:
    """By hand: 20 characters in documents of 8, 0, 3 and 9; cuts at 10 and 15. Each document begins
    once, so that it is counted once."""
    documents = [("a", 8), ("b", 0), ("c", 3), ("d", 9)]
    assert divided(documents, split="tail", val_fraction=0.25, test_fraction=0.25) == [
        ("a", "train", 0, 8),
        ("c", "train", 8, 10),
        ("c", "val", 10, 11),
        ("d", "val", 11, 15),
        ("d", "test", 15, 20),
    ]
    source = Lengths(documents)
    splitter = choose_splitter(source, split="tail", val_fraction=0.25, test_fraction=0.25)
    passages = [s for number in (0, 1) for s in splitter.divide(number, source.chunk(number))]
    assert [passage.begins for passage in passages] == [True, True, False, True, False]


def test_one_long_document_may_hold_all_splits() -> None:
    assert divided([("a", 10)], split="tail", val_fraction=0.2, test_fraction=0.2) == [
        ("a", "train", 0, 6), ("a", "val", 6, 8), ("a", "test", 8, 10)
    ]  # fmt: skip


def test_a_single_document_is_cut_as_tail_cuts_it() -> None:
    """`data.path=my.txt` alone could be refused, although its end can be held out."""
    fractions = {"val_fraction": 0.2, "test_fraction": 0.2}
    document = divided([("a", 10)], split="document", **fractions)
    assert document == divided([("a", 10)], split="tail", **fractions)
    assert divided([("a", 10)], split="document", val_fraction=0.0, test_fraction=0.0) == [
        ("a", "train", 0, 10)
    ]


@pytest.mark.parametrize(
    ("documents", "split", "val", "test", "message"),
    [
        (2, "document", 0.1, 0.1, "the text has 2 documents, too few to hold out 1 for val and "
                                  "1 for test: split=tail "),
        (1, "document", 0.1, 0.0, "split=tail leaves nothing for "),
        (4, "document", 0.45, 0.45, "too few to hold out 2 for val and 2 for test"),
        (1, "tail", 0.01, 0.0, ""),
        (1, "tail", 0.1, 0.1, ""),
        (9, "tail", 0.5, 0.5, "their sum must be below 1"),
        (9, "document", -0.1, 0.5, "must not be negative"),
        (9, "random", 0.1, 0.1, "split is 'random': one of document, tail"),
    ],
)  # fmt: skip
def test_impossible_splits(
    documents: int, split: str, val: float, test: float, message: str
) -> None:
    """An empty split with a share above 0 is an error."""
    names = [(f"d{number}", 1) for number in range(documents)]
    message = message or "split=tail leaves nothing for train: the text has 1 characters"
    with pytest.raises(UserError) as caught:
        choose_splitter(Lengths(names), split=split, val_fraction=val, test_fraction=test)
    assert message in str(caught.value)


def test_many_documents_are_drawn_by_name_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many documents, only `MANY` are read to choose the rule. The shares are close to those
    asked for, one more document moves no other, and at most 1 in 20 has another split than by
    rank."""
    names = [f"d{number}" for number in range(4000)]
    few = splits_of(names, **SHARES)
    monkeypatch.setattr(splits, "MANY", 1000)
    source = Lengths([(name, 1) for name in names])
    splitter = choose_splitter(source, split="document", **SHARES)
    assert isinstance(splitter, HashSplits) and source.reads <= 1003
    many = splits_of(names, **SHARES)
    count = Counter(many)
    assert abs(count["val"] - 800) < 80 and abs(count["test"] - 400) < 60
    assert sum(one != other for one, other in zip(few, many, strict=True)) < 200
    assert splits_of([*names, "d4000"], **SHARES)[:-1] == many


def test_a_source_may_have_its_own_splits() -> None:
    """Then shares and names have no effect, and one document is read."""
    source = Lengths([("a", 3), ("b", 3), ("c", 3)], split="val")
    splitter = choose_splitter(source, split="document", **SHARES)
    assert isinstance(splitter, SourceSplits) and source.reads == 1
    assert [d.split for d in splitter.divide(0, source.chunk(0))] == ["val", "val"]


def test_assign_documents_agrees_with_choose_splitter() -> None:
    names = [f"d{number}" for number in range(50)]
    assert assign_documents(names, **SHARES) == splits_of(names, **SHARES)
