"""data/prepare.py: what is held out, what lies in a shard, when it is made again."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.prepare import SPLITS, Corpus, Part, assign_splits, prepare, training_texts
from data.sources import Document, open_source
from data.tokenizer import Tokenizer, train_tokenizer
from errors import UserError

SHARES: dict[str, Any] = {"val_fraction": 0.2, "test_fraction": 0.1}


class Shelf:
    """A source in memory that counts how often it is read."""

    def __init__(self, *texts: str) -> None:
        self.texts = texts
        self.reads = 0
        self.fails = False

    def fingerprint(self) -> str:
        return repr(self.texts)

    def documents(self) -> Iterator[Document]:
        self.reads += 1
        for number, text in enumerate(self.texts):
            if self.fails and number == 7:
                raise OSError("the disk went away")
            yield Document(f"d{number}", text)


TEXTS = [
    f"Document {number} has ä story,\r\n {'and more ' * number}\u2581end." for number in range(10)
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(train_tokenizer(TEXTS, type="bpe", vocab_size=300))


@pytest.fixture
def shelf() -> Shelf:
    return Shelf(*TEXTS)


def stored(corpus: Corpus, tokenizer: Tokenizer, split: str) -> list[str]:
    """Read a split back, a document at a time: each begins with BOS and ends with EOS."""
    ids = corpus.tokens(split).tolist()
    documents = []
    while ids:
        assert ids[0] == tokenizer.bos_id
        end = ids.index(tokenizer.eos_id)
        documents.append(tokenizer.decode(ids[1:end]))
        ids = ids[end + 1 :]
    return documents


# ---------------------------------------------------------------------------- who gets what


def owners(names: list[str], **fractions: float) -> list[str]:
    parts = assign_splits([(name, 5) for name in names], split="document", **fractions)
    assert all(cut == [Part(cut[0].split, 0, 5)] for cut in parts)
    return [cut[0].split for cut in parts]


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
    """Rounded shares, at least one where one is wanted."""
    count = Counter(owners([f"d{i}" for i in range(n)], val_fraction=val, test_fraction=test))
    assert tuple(count[name] for name in SPLITS) == expected


def test_documents_are_chosen_by_name_not_by_place() -> None:
    """The order of reading must not decide, and one more document must move few others."""
    names = [f"d{i}" for i in range(100)]
    split = dict(zip(names, owners(names, **SHARES), strict=True))
    backwards = dict(zip(names[::-1], owners(names[::-1], **SHARES), strict=True))
    assert split == backwards
    longer = dict(zip([*names, "d100"], owners([*names, "d100"], **SHARES), strict=True))
    assert sum(split[name] != longer[name] for name in names) <= 2


def test_the_choice_is_pinned() -> None:
    """What is held out must stay held out in the next version: `printf d0 | sha256sum` and so on,
    sorted by eye."""
    chosen = owners([f"d{number}" for number in range(10)], **SHARES)
    assert [n for n, owner in enumerate(chosen) if owner == "test"] == [0]
    assert [n for n, owner in enumerate(chosen) if owner == "val"] == [5, 8]


def test_documents_of_one_name_are_told_apart() -> None:
    """Otherwise they would be held out by place: the first ones."""
    chosen = owners(["same"] * 100, **SHARES)
    assert Counter(chosen) == {"train": 70, "val": 20, "test": 10}
    assert 10 < chosen[:30].count("train") < 29


def test_tail_is_where_nanogpt_cuts(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """`data[:int(n * 0.9)]` and the rest, for every n: to the character."""
    for n in range(2, 400):
        if int(n * 0.9) < n:
            ((train, val),) = assign_splits(
                [("d", n)], split="tail", val_fraction=0.1, test_fraction=0.0
            )
            assert train == Part("train", 0, int(n * 0.9)) and val == Part("val", int(n * 0.9), n)
    data = "To be, or not to be: that is the question.\n" * 11
    (tmp_path / "input.txt").write_text(data)
    source = open_source("files", path=str(tmp_path / "input.txt"))
    corpus = prepare(source, tokenizer, split="tail", val_fraction=0.1, test_fraction=0.0)
    assert stored(corpus, tokenizer, "train") == [data[: int(len(data) * 0.9)]]
    assert stored(corpus, tokenizer, "val") == [data[int(len(data) * 0.9) :]]
    assert stored(corpus, tokenizer, "test") == []


def test_tail_cuts_inside_documents() -> None:
    """By hand: 20 characters in documents of 8, 0, 3 and 9; cuts at 10 and 15."""
    documents = [("a", 8), ("b", 0), ("c", 3), ("d", 9)]
    assert assign_splits(documents, split="tail", val_fraction=0.25, test_fraction=0.25) == [
        [Part("train", 0, 8)],
        [],
        [Part("train", 0, 2), Part("val", 2, 3)],
        [Part("val", 0, 4), Part("test", 4, 9)],
    ]


def test_one_long_document_may_hold_all_splits() -> None:
    assert assign_splits([("a", 10)], split="tail", val_fraction=0.2, test_fraction=0.2) == [
        [Part("train", 0, 6), Part("val", 6, 8), Part("test", 8, 10)]
    ]


@pytest.mark.parametrize(
    ("documents", "split", "val", "test", "message"),
    [
        (2, "document", 0.1, 0.1, "cannot hold out 1 for val and 1 for test of 2 documents and "
                                  "train on the rest: use data.split=tail"),
        (1, "document", 0.1, 0.0, "use data.split=tail"),
        (4, "document", 0.45, 0.45, "cannot hold out 2 for val and 2 for test"),
        (1, "tail", 0.01, 0.0, ""),
        (1, "tail", 0.1, 0.1, ""),
        (9, "tail", 0.5, 0.5, "their sum must be below 1"),
        (9, "document", -0.1, 0.5, "must not be negative"),
        (9, "random", 0.1, 0.1, "data.split is 'random': one of document, tail"),
    ],
)  # fmt: skip
def test_impossible_splits(
    documents: int, split: str, val: float, test: float, message: str
) -> None:
    """A split that is asked for and would be empty is refused, not trained without."""
    names = [(f"d{number}", 1) for number in range(documents)]
    message = message or "data.split=tail leaves nothing for train: the text has 1 characters"
    with pytest.raises(UserError) as caught:
        assign_splits(names, split=split, val_fraction=val, test_fraction=test)
    assert message in str(caught.value)


@pytest.mark.parametrize("split", ["document", "tail"])
def test_a_tokenizer_learns_from_the_training_split_only(
    shelf: Shelf, tokenizer: Tokenizer, split: str
) -> None:
    """What it is given is exactly what the training shard holds."""
    given = list(training_texts(shelf, split=split, **SHARES))
    corpus = prepare(shelf, tokenizer, split=split, **SHARES)
    assert given == stored(corpus, tokenizer, "train")
    assert 0 < len(given) < 10


# ---------------------------------------------------------------------------- the shards


@pytest.mark.parametrize("split", ["document", "tail"])
def test_shards_hold_all_text_once(shelf: Shelf, tokenizer: Tokenizer, split: str) -> None:
    """Every document, byte for byte; and the numbers are those of what is stored."""
    corpus = prepare(shelf, tokenizer, split=split, **SHARES)
    texts = {name: stored(corpus, tokenizer, name) for name in SPLITS}
    if split == "tail":
        assert "".join("".join(texts[name]) for name in SPLITS) == "".join(TEXTS)
    else:
        assert sorted(chain(*texts.values())) == sorted(TEXTS)
    for name in SPLITS:
        assert corpus.n_documents(name) == len(texts[name]) > 0
        assert corpus.n_bytes(name) == sum(len(text.encode()) for text in texts[name])
        assert corpus.n_tokens(name) == len(corpus.tokens(name))
        assert len(corpus.manifest["splits"][name]["documents"]) == len(texts[name])


def test_tokens_are_mapped_and_read_only(shelf: Shelf, tokenizer: Tokenizer) -> None:
    tokens = prepare(shelf, tokenizer, split="tail", **SHARES).tokens("train")
    assert isinstance(tokens, np.memmap) and tokens.dtype == np.uint16
    with pytest.raises(ValueError, match="read-only"):
        tokens[0] = 1


def test_a_split_without_a_share_is_empty(shelf: Shelf, tokenizer: Tokenizer) -> None:
    corpus = prepare(shelf, tokenizer, split="document", val_fraction=0.1, test_fraction=0.0)
    assert len(corpus.tokens("test")) == corpus.n_tokens("test") == corpus.n_bytes("test") == 0
    assert not list(corpus.folder.glob("test*"))


def test_a_large_vocabulary_takes_32_bits(shelf: Shelf, tokenizer: Tokenizer) -> None:
    """Id 65,536 must not become 0."""

    class Large:
        vocab_size, bos_id, eos_id = 65_537, 1, 65_536

        def fingerprint(self) -> str:
            return "large"

        def encode(self, text: str) -> list[int]:
            return [65_535]

    corpus = prepare(shelf, Large(), split="tail", val_fraction=0.1, test_fraction=0.0)  # type: ignore[arg-type]
    assert corpus.tokens("train")[:3].tolist() == [1, 65_535, 65_536]
    assert corpus.tokens("train").dtype == np.uint32


def test_names_are_listed_for_few_documents_only(tokenizer: Tokenizer) -> None:
    """A manifest of a million names helps nobody."""
    many = Shelf(*(f"document {number}" for number in range(300)))
    corpus = prepare(many, tokenizer, split="document", val_fraction=0.1, test_fraction=0.0)
    assert corpus.manifest["splits"]["train"]["documents"] is None
    assert len(corpus.manifest["splits"]["val"]["documents"]) == 30


# ---------------------------------------------------------------------------- made again, or not


def test_nothing_is_made_twice(shelf: Shelf, tokenizer: Tokenizer) -> None:
    """The second time no document is read and no file is touched."""
    first = prepare(shelf, tokenizer, split="document", **SHARES)
    reads, times = shelf.reads, {f: f.stat().st_mtime_ns for f in first.folder.iterdir()}
    second = prepare(shelf, tokenizer, split="document", **SHARES)
    assert shelf.reads == reads
    assert {f: f.stat().st_mtime_ns for f in second.folder.iterdir()} == times
    assert (second.folder, second.data_hash) == (first.folder, first.data_hash)
    assert second.n_tokens("train") == first.n_tokens("train")


def test_each_setting_has_shards_of_its_own(shelf: Shelf, tokenizer: Tokenizer) -> None:
    """Text, tokenizer, rule and shares all reach the key."""
    other = Tokenizer(train_tokenizer(TEXTS, type="bpe", vocab_size=301))
    corpora = [
        prepare(shelf, tokenizer, split="document", **SHARES),
        prepare(Shelf(*TEXTS, "more"), tokenizer, split="document", **SHARES),
        prepare(shelf, other, split="document", **SHARES),
        prepare(shelf, tokenizer, split="tail", **SHARES),
        prepare(shelf, tokenizer, split="document", val_fraction=0.1, test_fraction=0.1),
        prepare(shelf, tokenizer, split="document", val_fraction=0.2, test_fraction=0.2),
    ]
    assert len({corpus.folder for corpus in corpora}) == 6
    assert len({corpus.data_hash for corpus in corpora}) == 6


@pytest.mark.parametrize("damage", ["missing", "short", "altered", "manifest", "manifest number",
                                    "manifest kind"])  # fmt: skip
def test_damaged_shards_are_made_again(shelf: Shelf, tokenizer: Tokenizer, damage: str) -> None:
    """Whatever happened to the cache, the tokens are what they were; no altered id gets through."""
    whole = prepare(shelf, tokenizer, split="document", **SHARES)
    shard, manifest = whole.folder / "train-00000.bin", whole.folder / "manifest.json"
    content, text = shard.read_bytes(), manifest.read_text()
    if damage == "missing":
        shard.unlink()
    elif damage == "short":
        os.truncate(shard, len(content) - 2)
    elif damage == "altered":
        shard.write_bytes(content[:10] + b"\xff\xff" + content[12:])
    elif damage == "manifest":
        manifest.write_text(text[:50])
    elif damage == "manifest number":
        edited = json.loads(text)
        edited["splits"]["val"]["n_bytes"] += 1
        manifest.write_text(json.dumps(edited))
    else:
        manifest.write_text('"text"')
    again = prepare(shelf, tokenizer, split="document", **SHARES)
    assert shard.read_bytes() == content and manifest.read_text() == text
    assert again.data_hash == whole.data_hash


def test_an_interrupted_run_leaves_nothing_half_made(shelf: Shelf, tokenizer: Tokenizer) -> None:
    """The source fails in the middle of a shard: no manifest, no torn shard, no litter; then all
    is made as if nothing had been."""
    expected = prepare(shelf, tokenizer, split="tail", **SHARES, folder=None)
    shelf.texts = (*shelf.texts, "more")
    shelf.fails = True
    before = set(expected.folder.parent.iterdir())
    with pytest.raises(OSError, match="the disk went away"):
        prepare(shelf, tokenizer, split="tail", **SHARES)
    shelf.fails = False
    corpus = prepare(shelf, tokenizer, split="tail", **SHARES)
    assert "".join(chain(*(stored(corpus, tokenizer, s) for s in SPLITS))) == "".join(shelf.texts)
    assert set(expected.folder.parent.iterdir()) - before == {corpus.folder}
    assert {file.name for file in corpus.folder.iterdir()} == {
        "manifest.json", "train-00000.bin", "val-00000.bin", "test-00000.bin"
    }  # fmt: skip


def test_the_data_hash_forgets_where_text_came_from(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """A checkpoint records it: moving or touching the files must not stop a resume."""
    hashes = []
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        (tmp_path / place / f"{place}.txt").write_text("".join(TEXTS))
        source = open_source("files", path=str(tmp_path / place))
        hashes.append(prepare(source, tokenizer, split="tail", **SHARES).data_hash)
    assert hashes[0] == hashes[1]


def test_the_folder_can_be_chosen(shelf: Shelf, tokenizer: Tokenizer, tmp_path: Path) -> None:
    corpus = prepare(shelf, tokenizer, split="tail", **SHARES, folder=tmp_path / "mine")
    assert corpus.folder.parent == tmp_path / "mine"


def test_preparing_says_what_it_does(
    shelf: Shelf, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = prepare(shelf, tokenizer, split="document", **SHARES)
    said = capsys.readouterr().err
    assert f"tokenizing 10 documents into {corpus.folder} ..." in said
    assert f"tokens: train {corpus.n_tokens('train'):,}, val " in said
