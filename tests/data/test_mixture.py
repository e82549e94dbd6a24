"""data/mixture.py: exact shares in every period, a pure function of the step, own epochs."""

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest

from data.batches import Batches
from data.documents import Document, Source
from data.mixture import PERIOD, MixedBatches, MixedCorpus, interleave, quotas
from data.prepare import prepare
from data.tokenizer import open_tokenizer
from data.vocabulary import train_tokenizer

SHARES: dict[str, Any] = {"split": "tail", "val_fraction": 0.2, "test_fraction": 0.1}


class Word(Source):
    """One document, a word many times."""

    def __init__(self, word: str, times: int) -> None:
        self._text = f"{word} " * times

    def fingerprint(self) -> str:
        return self._text

    def chunk(self, number: int) -> Iterator[Document]:
        yield Document("d", self._text)


def numbered(n_sequences: int, source: int) -> Batches:
    """Sequences of two tokens: sequence w of source k begins with 1000 k + w."""
    tokens = np.arange(n_sequences + 1, dtype=np.uint16) + 1000 * source
    return Batches(tokens, seq_len=1, batch_size=10, seed=5)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([1], [PERIOD]),
        ([3, 1], [750, 250]),
        ([1, 1, 1], [334, 333, 333]),
        ([0.2, 0.2], [500, 500]),
        ([1, 1e-9], [999, 1]),
    ],
)
def test_quotas(weights: list[float], expected: list[int]) -> None:
    assert quotas(weights) == expected


def test_shares_are_exact_in_every_period() -> None:
    """In every period, 700 of 1,000 sequences are from the first source, 300 from the second."""
    mixed = MixedBatches([numbered(40, 0), numbered(90, 1)], quotas([7, 3]), batch_size=10, seed=5)
    for period in range(3):
        rows = [mixed.batch(period * 100 + step) for step in range(100)]
        assert Counter(np.concatenate(rows)[:, 0] // 1000) == {0: 700, 1: 300}


def test_each_source_goes_through_its_own_epochs() -> None:
    """The first 90 draws of the second source visit all of its sequences, and so on; each draw is
    in one step only."""
    mixed = MixedBatches([numbered(40, 0), numbered(90, 1)], quotas([7, 3]), batch_size=10, seed=5)
    draws: dict[int, list[int]] = {0: [], 1: []}
    sequences: dict[int, set[int]] = {0: set(), 1: set()}
    for step in range(300):
        for source, draw, sequence in zip(*mixed.draws(step), mixed.batch(step)[:, 0], strict=True):
            draws[int(source)].append(int(draw))
            if draw < (40, 90)[source]:
                sequences[int(source)].add(int(sequence))
    assert sorted(draws[0]) == list(range(2100)) and sorted(draws[1]) == list(range(900))
    assert sequences == {0: set(range(40)), 1: set(range(1000, 1090))}


def test_a_step_does_not_depend_on_those_before() -> None:
    def make(seed: int) -> MixedBatches:
        return MixedBatches([numbered(40, 0), numbered(90, 1)], quotas([1, 1]), batch_size=10,
                            seed=seed)  # fmt: skip

    one, other = make(5), make(5)
    for step in range(50):
        one.batch(step)
    assert np.array_equal(one.batch(77), other.batch(77))
    assert not np.array_equal(one.batch(77), make(6).batch(77))


def test_interleave_gives_shares_of_the_characters() -> None:
    """Texts of 10 and of 1 characters, two to one by weight; then the longer stream continues."""
    long, short = (text for text in ["a" * 10] * 100), (text for text in ["b"] * 300)
    mixed = interleave([(long, 2.0), (short, 1.0)])
    start = "".join(islice(mixed, 300))
    assert abs(start.count("a") - 2 * start.count("b")) <= 20
    rest = "".join(mixed)
    assert len(start + rest) == 1300 and rest.endswith("a" * 100)


def test_a_mixed_corpus_sums_and_hashes_what_it_is_made_of() -> None:
    tokenizer = open_tokenizer(train_tokenizer(["kite drum"] * 9, type="char", vocab_size=300))
    kite, drum = (prepare(Word(word, 50), tokenizer, **SHARES) for word in ("kite", "drum"))
    mixed = MixedCorpus({"a": kite, "b": drum}, {"a": 3.0, "b": 1.0})
    for split in ("train", "val", "test"):
        expected = [*kite.tokens(split), *drum.tokens(split)]
        assert mixed.tokens(split)[:].tolist() == expected
        assert mixed.n_tokens(split) == len(expected)
        assert mixed.n_bytes(split) == kite.n_bytes(split) + drum.n_bytes(split)
        assert mixed.n_documents(split) == (2 if split == "train" else 0)  # both begin there
    batches = mixed.batches(seq_len=5, batch_size=100, seed=1)
    text = "".join(tokenizer.decode(row) for step in range(10) for row in batches.batch(step))
    assert 2.2 < text.count("k") / text.count("m") < 3.8
    hashes = {
        mixed.data_hash,
        MixedCorpus({"b": drum, "a": kite}, {"b": 1.0, "a": 3.0}).data_hash,
        MixedCorpus({"a": kite, "b": drum}, {"a": 2.0, "b": 1.0}).data_hash,
    }
    assert len(hashes) == 3
    assert MixedCorpus({"c": kite, "d": drum}, {"c": 6.0, "d": 2.0}).data_hash in hashes
