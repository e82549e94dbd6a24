"""Batches: a pure function of (seed, step); nothing to save, nothing to lose.

The tokens are cut into n sequences of seq_len + 1 (inputs and, one further, targets). Neighbours
share the token at their border. For seq_len = 3:

    tokens     a b c d e f g h i j k      sequence 0: a b c d
               |_____|_____|_____|                1:       d e f g      n = (11 - 1) // 3 = 3
                                                  2:             g h i j      k is left over

Row r of step t is sample s = t * batch_size + r of an endless sequence: epoch s // n, place s % n.
Each epoch visits every sequence once, in an order of its own.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from data.shards import Tokens
from errors import UserError

Words = NDArray[np.uint64]  # 64-bit words, on which arithmetic wraps round

_ROUNDS = 6


class Batches:
    """The training split as batches of sequences, shuffled anew in every epoch.

    Raises `UserError` when the tokens fill no sequence.
    """

    def __init__(
        self, tokens: NDArray | Tokens, *, seq_len: int, batch_size: int, seed: int
    ) -> None:
        assert seq_len >= 1 and batch_size >= 1
        if len(tokens) < seq_len + 1:
            raise UserError(
                f"the training split has {len(tokens):,} tokens, one sequence needs data.seq_len + "
                f"1 = {seq_len + 1:,}: give more text or a smaller data.seq_len"
            )
        self._tokens = tokens
        self._seq_len = seq_len
        self._batch_size = batch_size
        self._seed = seed

    @property
    def n_sequences(self) -> int:
        """Windows in an epoch."""
        return (len(self._tokens) - 1) // self._seq_len

    def epoch_of(self, step: int) -> int:
        """Say to which epoch the first row of `step` belongs, from 0."""
        return step * self._batch_size // self.n_sequences

    def sequence_ids(self, step: int) -> NDArray[np.int64]:
        """Say which sequence is in each row of `step`; (batch_size,)."""
        return self._shuffled(self._samples(step))

    def batch(self, step: int) -> NDArray[np.int64]:
        """Give the sequences of `step`: (batch_size, seq_len + 1). Inputs are all but the last
        column, targets all but the first."""
        return self.sequences(self._samples(step))

    def sequences(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Give the sequences of any samples of the endless sequence: (samples, seq_len + 1)."""
        starts = self._shuffled(samples) * self._seq_len
        return self._tokens[starts[:, None] + np.arange(self._seq_len + 1)].astype(np.int64)

    def _samples(self, step: int) -> NDArray[np.int64]:
        return np.arange(self._batch_size) + step * self._batch_size

    def _shuffled(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        epoch, place = np.divmod(samples, self.n_sequences)
        return permute(place, self.n_sequences, shuffle_key(self._seed, epoch))


def evaluation_sequences(
    tokens: NDArray | Tokens, seq_len: int, *, batch_size: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield all tokens in order: (inputs, targets), each (rows, seq_len).

    Every token but the first is a target exactly once; the last sequence, if shorter, comes alone:
    (1, rest). Fewer than two tokens give nothing.
    """
    n_sequences, rest = divmod(max(len(tokens) - 1, 0), seq_len)
    for first in range(0, n_sequences, batch_size):
        rows = min(batch_size, n_sequences - first)
        start, stop = first * seq_len, (first + rows) * seq_len
        span = np.asarray(tokens[start : stop + 1], dtype=np.int64)
        yield span[:-1].reshape(rows, seq_len), span[1:].reshape(rows, seq_len)
    if rest:
        span = np.asarray(tokens[n_sequences * seq_len :], dtype=np.int64)
        yield span[None, :-1], span[None, 1:]


def permute(index: NDArray[np.int64], n: int, key: Words) -> NDArray[np.int64]:
    """Say where each `index` in 0..n-1 stands in the shuffle of 0..n-1 that `key` chooses.

    No list is shuffled: any place of any epoch is computed alone. A Feistel network (Luby and
    Rackoff, 1988) splits a number of 2b bits in halves and, _ROUNDS times, (L, R) becomes
    (R, L xor hash(R)). Whatever the hash, that can be undone, so it permutes 0..4^b-1. A result of
    n or more goes through again until it is below n ("cycle walking", Black and Rogaway, 2002):
    still a permutation, now of 0..n-1, and 4^b < 4n keeps the walk short. `key` is one word, or
    one for each index. Only 64-bit integers are used: the same on every machine, for ever.
    """
    half = np.uint64(max(1, ((n - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    key = np.broadcast_to(key, index.shape)
    out = np.asarray(index).astype(np.uint64)
    walking = np.ones(out.shape, dtype=bool)
    while walking.any():
        left, right = out[walking] >> half, out[walking] & mask
        for number in range(_ROUNDS):
            left, right = right, left ^ (_hash(key[walking] + np.uint64(number), right) & mask)
        out[walking] = left << half | right
        walking = out >= n
    return out.astype(np.int64)


def shuffle_key(seed: int, epoch: NDArray[np.int64]) -> Words:
    """Give each epoch its own word, far from those of other epochs and seeds."""
    seed_word = np.full(epoch.shape, seed % 2**64, dtype=np.uint64)
    return _hash(_hash(seed_word, np.zeros_like(seed_word)), epoch.astype(np.uint64))


def _hash(key: Words, value: Words) -> Words:
    """Mix two words so that each bit of either changes about half of the result's (splitmix64's
    finalizer: Steele, Lea and Flood, 2014)."""
    word = (key + value * np.uint64(0x9E3779B97F4A7C15)) ^ (key >> np.uint64(32))
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))
