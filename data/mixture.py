"""Several sources as one corpus, mixed by weight.

Each source has its own shards, made once, whatever it is mixed with. Weights decide how many
training sequences come from each source: in every block of `BLOCK` sequences, a source has exactly
its share, in an order drawn for the block. So the mix is exact at the end of every block, and a
sequence is still a pure function of (seed, step). Each source has its own epochs. With weights 3
and 1 and blocks of 8 sequences, from sources A and B:

    block 0: A0 A1 B0 A2 A3 A4 B1 A5      block 1: B2 A6 A7 A8 A9 B3 A10 A11      and so on
"""

import heapq
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.batches import Batches, permute, shuffle_key
from data.corpus import Corpus, hash_of
from data.shards import Tokens

BLOCK = 1000  # sequences; the finest share is one of them


class MixedCorpus:
    """Corpora by name, of one tokenizer, each with a weight; together they are read as a `Corpus`
    is. What is held out is all of what each holds out, in a row."""

    def __init__(self, corpora: Mapping[str, Corpus], weights: Mapping[str, float]) -> None:
        assert corpora.keys() == weights.keys()
        self.corpora, self.weights = dict(corpora), dict(weights)

    def tokens(self, split: str) -> NDArray | Tokens:
        """Give the ids of a split of all corpora in a row."""
        some = [tokens for corpus in self.corpora.values() if len(tokens := corpus.tokens(split))]
        return Tokens(some) if some else np.empty(0, np.uint16)

    def n_tokens(self, split: str) -> int:
        """Ids in a split."""
        return sum(corpus.n_tokens(split) for corpus in self.corpora.values())

    def n_bytes(self, split: str) -> int:
        """Bytes of text, in UTF-8."""
        return sum(corpus.n_bytes(split) for corpus in self.corpora.values())

    def n_documents(self, split: str) -> int:
        """Documents, and pieces of some, in a split."""
        return sum(corpus.n_documents(split) for corpus in self.corpora.values())

    @property
    def data_hash(self) -> str:
        """Hash what a model can see: each corpus, and how they are mixed."""
        hashes = [corpus.data_hash for corpus in self.corpora.values()]
        return hash_of({"corpora": hashes, "seats": seats(tuple(self.weights.values()))})

    def batches(self, **about: Any) -> "MixedBatches":
        """Make the training batches; `about` is what `Batches` takes."""
        return MixedBatches(
            [Batches(corpus.tokens("train"), **about) for corpus in self.corpora.values()],
            seats(tuple(self.weights.values())),
            batch_size=about["batch_size"],
            seed=about["seed"],
        )


class MixedBatches:
    """Batches of which each row is a sequence of one of several sources."""

    def __init__(
        self, sources: Sequence[Batches], seats: Sequence[int], *, batch_size: int, seed: int
    ) -> None:
        self._sources = sources
        self._edges = np.cumsum([0, *seats])  # source k has seats edges[k] to edges[k + 1] - 1
        self._batch_size, self._seed = batch_size, seed

    def samples(self, step: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Say of each row of `step` which source it is from, and which sample of that source's own
        sequence it is; two arrays of (batch_size,)."""
        block, place = np.divmod(np.arange(self._batch_size) + step * self._batch_size, BLOCK)
        seat = permute(place, BLOCK, shuffle_key(self._seed, block))
        source = np.searchsorted(self._edges, seat, side="right") - 1
        given = self._edges[source + 1] - self._edges[source]  # seats of the source in a block
        return source, block * given + seat - self._edges[source]

    def batch(self, step: int) -> NDArray[np.int64]:
        """Give the sequences of `step`: (batch_size, seq_len + 1)."""
        source, sample = self.samples(step)
        rows = [self._sources[k].sequences(sample[i : i + 1]) for i, k in enumerate(source)]
        return np.concatenate(rows)


def seats(weights: Sequence[float]) -> list[int]:
    """Divide the sequences of a block by weight; the remainder goes to the largest fractions.

    Every source gets at least one sequence per block.
    """
    shares = [BLOCK * weight / sum(weights) for weight in weights]
    given = [max(1, int(share)) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda k: given[k] - shares[k])
    for k in by_remainder[: max(0, BLOCK - sum(given))]:
        given[k] += 1
    given[max(range(len(given)), key=given.__getitem__)] -= sum(given) - BLOCK
    return given


def interleave(streams: Sequence[tuple[Iterator[str], float]]) -> Iterator[str]:
    """Yield texts of several streams so that at any time each has given about its share of the
    characters; one that ends leaves its share to the others."""
    heap = [(0.0, number) for number in range(len(streams))]
    while heap:
        taken, number = heapq.heappop(heap)
        texts, weight = streams[number]
        if (text := next(texts, None)) is not None:
            yield text
            heapq.heappush(heap, (taken + len(text) / weight, number))
