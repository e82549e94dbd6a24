"""Training batches as a pure function of (seed, step): there is no state to save.

The tokens are cut into n sequences of seq_len + 1 tokens: inputs, and targets one position further.
Two neighbouring sequences share one token. For seq_len = 3:

    tokens     a b c d e f g h i j k      sequence 0: a b c d
               |_____|_____|_____|                1:       d e f g      n = (11 - 1) // 3 = 3
                                                  2:             g h i j      k is not used

Rows are numbered across all steps: row r of step t is draw d = t * batch_size + r. Draw d belongs
to epoch d // n and takes the sequence at position d % n of that epoch's order. Each epoch has
its own order and visits every sequence once. Tokens of prompts are negative (data/prompts.py).
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from data.shards import JoinedTokens
from errors import UserError

Words = NDArray[np.uint64]  # 64-bit words; their arithmetic wraps around at 2**64

_ROUNDS = 6


class Batches:
    """The training split as batches of sequences, in a different order in every epoch.

    Raises `UserError` if there are fewer than seq_len + 1 tokens.
    """

    def __init__(
        self, tokens: NDArray | JoinedTokens, *, seq_len: int, batch_size: int, seed: int
    ) -> None:
        assert seq_len >= 1 and batch_size >= 1
        if len(tokens) < seq_len + 1:
            raise UserError(
                f"seq_len is {seq_len:,}: one sequence needs {seq_len + 1:,} tokens, the training "
                f"split has {len(tokens):,}; give more text or make it shorter",
                "seq_len",
            )
        self._tokens = tokens
        self._seq_len = seq_len
        self._batch_size = batch_size
        self._seed = seed

    @property
    def n_sequences(self) -> int:
        """The number of sequences in an epoch."""
        return (len(self._tokens) - 1) // self._seq_len

    def epoch_of(self, step: int) -> int:
        """Return the epoch, from 0, of the first row of `step`."""
        return step * self._batch_size // self.n_sequences

    def sequence_ids(self, step: int) -> NDArray[np.int64]:
        """Return the number of the sequence in each row of `step`: (batch_size,)."""
        return self._shuffled(self._draws(step))

    def batch(self, step: int) -> NDArray[np.int64]:
        """Return the sequences of `step`: (batch_size, seq_len + 1). Inputs are all columns but the
        last, targets all columns but the first."""
        return self.sequences(self._draws(step))

    def sequences(self, draws: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the sequences of `draws`, (n,) numbers of draws: (n, seq_len + 1)."""
        starts = self._shuffled(draws) * self._seq_len
        return self._tokens[starts[:, None] + np.arange(self._seq_len + 1)].astype(np.int64)

    def _draws(self, step: int) -> NDArray[np.int64]:
        return np.arange(self._batch_size) + step * self._batch_size

    def _shuffled(self, draws: NDArray[np.int64]) -> NDArray[np.int64]:
        epoch, position = np.divmod(draws, self.n_sequences)
        return permute(position, self.n_sequences, shuffle_key(self._seed, epoch))


def evaluation_sequences(
    tokens: NDArray | JoinedTokens, seq_len: int, *, batch_size: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield all tokens in order: (inputs, targets), each (rows, seq_len).

    Every token but the first is a target exactly once. A shorter last sequence is yielded alone:
    (1, rest). Fewer than two tokens yield nothing.
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
    """Apply the permutation of 0..n-1 that `key` chooses to each `index` in 0..n-1.

    No list is shuffled: each position is computed on its own. A Feistel network (Luby and Rackoff,
    1988) splits a number of 2b bits into halves and, _ROUNDS times, maps (L, R) to
    (R, L xor hash(R)). Each round can be undone whatever the hash is, so the network permutes
    0..4^b-1. A result of n or more goes through the network again until it is below n ("cycle
    walking", Black and Rogaway, 2002): the result is a permutation of 0..n-1, and 4^b < 4n keeps
    the number of passes small. `key` is one word, or one for each index. Only 64-bit integers are
    used, so that the result is the same on every machine.
    """
    half = np.uint64(max(1, ((n - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    key = np.broadcast_to(key, index.shape)
    out = np.asarray(index).astype(np.uint64)
    outside = np.ones(out.shape, dtype=bool)  # not yet in 0..n-1
    while outside.any():
        left, right = out[outside] >> half, out[outside] & mask
        for number in range(_ROUNDS):
            left, right = right, left ^ (hash_words(key[outside] + np.uint64(number), right) & mask)
        out[outside] = left << half | right
        outside = out >= n
    return out.astype(np.int64)


def shuffle_key(seed: int, epoch: NDArray[np.int64], stream: int = 0) -> Words:
    """Return a key for `permute` per epoch: keys of different epochs, seeds and streams are
    unrelated."""
    seed_word = np.full(epoch.shape, seed % 2**64, dtype=np.uint64)
    seed_key = hash_words(seed_word, np.full_like(seed_word, stream))
    return hash_words(seed_key, epoch.astype(np.uint64))


def hash_words(key: Words, value: Words) -> Words:
    """Mix two words so that each bit of either flips about half of the result's bits (the finalizer
    of splitmix64: Steele, Lea and Flood, 2014)."""
    word = (key + value * np.uint64(0x9E3779B97F4A7C15)) ^ (key >> np.uint64(32))
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))
