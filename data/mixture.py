"""Several sources as one corpus, mixed by weight.

Each source has its own shards, which do not depend on the mixture. The weights decide how many
training sequences come from each source: in every period of `PERIOD` sequences, a source has
exactly its quota, in an order drawn for that period. So the shares are exact at the end of every
period, a batch remains a pure function of (seed, step), and each source has its own epochs. With
weights 3 and 1, a period of 8 sequences, and sources A and B:

    period 0: A0 A1 B0 A2 A3 A4 B1 A5      period 1: B2 A6 A7 A8 A9 B3 A10 A11      and so on
"""

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from data.batches import Batches, permute, shuffle_key
from data.corpus import Corpus, hash_of
from data.shards import JoinedTokens

PERIOD = 1000  # sequences; a share is a whole number of them


class MixedCorpus:
    """Several corpora of the same tokenizer, with names and weights, used like one `Corpus`.

    The val and test splits are those of all corpora, one after another, without weights.
    """

    def __init__(self, corpora: Mapping[str, Corpus], weights: Mapping[str, float]) -> None:
        assert corpora.keys() == weights.keys()
        self.corpora, self.weights = dict(corpora), dict(weights)

    def tokens(self, split: str) -> NDArray | JoinedTokens:
        """Return the ids of a split of all corpora, one after another."""
        return _joined(corpus.tokens(split) for corpus in self.corpora.values())

    def marked_tokens(self, split: str) -> NDArray | JoinedTokens:
        """Return the same ids as stored: those of prompts are marked (data/prompts.py)."""
        return _joined(corpus.marked_tokens(split) for corpus in self.corpora.values())

    def n_tokens(self, split: str) -> int:
        """Return the number of ids in a split, those of prompts included."""
        return sum(corpus.n_tokens(split) for corpus in self.corpora.values())

    def n_prompt_tokens(self, split: str) -> int:
        """Return the number of ids of prompts in a split."""
        return sum(corpus.n_prompt_tokens(split) for corpus in self.corpora.values())

    def n_bytes(self, split: str) -> int:
        """Return the bytes of text in a split, in UTF-8, without prompts."""
        return sum(corpus.n_bytes(split) for corpus in self.corpora.values())

    def n_documents(self, split: str) -> int:
        """Return the number of documents that begin in a split."""
        return sum(corpus.n_documents(split) for corpus in self.corpora.values())

    @property
    def data_hash(self) -> str:
        """The SHA-256 of what a model can see of the data: each corpus, and the quotas."""
        hashes = [corpus.data_hash for corpus in self.corpora.values()]
        # The key "seats" is older than the word quota: checkpoints hold this hash.
        return hash_of({"corpora": hashes, "seats": quotas(tuple(self.weights.values()))})

    def batches(self, *, seq_len: int, batch_size: int, seed: int) -> "MixedBatches":
        """Return the training batches. Raises `UserError` if a corpus fills no sequence."""
        return MixedBatches(
            [
                corpus.batches(seq_len=seq_len, batch_size=batch_size, seed=seed)
                for corpus in self.corpora.values()
            ],
            quotas(tuple(self.weights.values())),
            batch_size=batch_size,
            seed=seed,
        )


def _joined(arrays: Iterable[NDArray | JoinedTokens]) -> NDArray | JoinedTokens:
    filled = [ids for ids in arrays if len(ids)]
    return JoinedTokens(filled) if filled else np.empty(0, np.uint16)


class MixedBatches:
    """Batches in which each row is a sequence of one of several sources."""

    def __init__(
        self, sources: Sequence[Batches], quotas: Sequence[int], *, batch_size: int, seed: int
    ) -> None:
        self._sources = sources
        self._edges = np.cumsum([0, *quotas])  # source k: slots edges[k] to edges[k + 1] - 1
        self._batch_size, self._seed = batch_size, seed

    def draws(self, step: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return, for each row of `step`, the number of its source and the draw in the `Batches` of
        that source: two arrays of (batch_size,)."""
        rows = np.arange(self._batch_size) + step * self._batch_size  # counted over all steps
        period, position = np.divmod(rows, PERIOD)
        slot = permute(position, PERIOD, shuffle_key(self._seed, period))
        source = np.searchsorted(self._edges, slot, side="right") - 1
        quota = self._edges[source + 1] - self._edges[source]
        return source, period * quota + slot - self._edges[source]

    def batch(self, step: int) -> NDArray[np.int64]:
        """Return the sequences of `step`: (batch_size, seq_len + 1)."""
        sources, draws = self.draws(step)
        rows = [self._sources[k].sequences(draws[i : i + 1]) for i, k in enumerate(sources)]
        return np.concatenate(rows)


def quotas(weights: Sequence[float]) -> list[int]:
    """Return how many of the `PERIOD` sequences of a period each source gets: shares by weight,
    rounded by the method of largest remainders.

    Every source gets at least one sequence per period.
    """
    shares = [PERIOD * weight / sum(weights) for weight in weights]
    result = [max(1, int(share)) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda k: result[k] - shares[k])
    for k in by_remainder[: max(0, PERIOD - sum(result))]:
        result[k] += 1
    largest = max(range(len(result)), key=result.__getitem__)
    result[largest] -= sum(result) - PERIOD
    return result


def interleave(streams: Sequence[tuple[Iterator[str], float]]) -> Iterator[str]:
    """Yield the texts of several (stream, weight) pairs, mixed.

    At any time, the number of characters from each stream is proportional to its weight, with an
    error of at most one text. When a stream ends, the others continue.
    """
    heap = [(0.0, number) for number in range(len(streams))]  # (characters / weight, stream)
    while heap:
        progress, number = heapq.heappop(heap)
        texts, weight = streams[number]
        if (text := next(texts, None)) is not None:
            yield text
            heapq.heappush(heap, (progress + len(text) / weight, number))
