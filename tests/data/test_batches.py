"""data/batches.py: each sequence once an epoch, in an order that never changes."""

import hashlib
from collections import Counter

import numpy as np
import pytest

from data.batches import Batches, evaluation_sequences, permute
from errors import UserError


def make(n_tokens: int, *, seq_len: int = 4, batch_size: int = 3, seed: int = 0) -> Batches:
    """Make batches of tokens that are their own positions, with the dtype of a shard."""
    tokens = np.arange(n_tokens, dtype=np.uint16)
    return Batches(tokens, seq_len=seq_len, batch_size=batch_size, seed=seed)


def starts(batches: Batches, steps: range) -> list[int]:
    return [int(row[0]) for step in steps for row in batches.batch(step)]


def test_a_batch_is_sequences_of_consecutive_tokens() -> None:
    """Shape, type, and that each row is seq_len + 1 tokens that follow each other."""
    batch = make(100).batch(7)
    assert batch.shape == (3, 5) and batch.dtype == np.int64
    assert (np.diff(batch, axis=1) == 1).all() and (batch[:, 0] % 4 == 0).all()


@pytest.mark.parametrize("n_tokens", [5, 8, 9, 50, 101, 1000])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_each_epoch_visits_each_sequence_once(n_tokens: int, batch_size: int) -> None:
    """Counted over three epochs; some batches contain the end of one and the start of the next."""
    batches = make(n_tokens, batch_size=batch_size)
    n = (n_tokens - 1) // 4
    assert batches.n_sequences == n
    steps = range(-(-3 * n // batch_size))
    visited = starts(batches, steps)[: 3 * n]
    for epoch in range(3):
        seen = Counter(visited[epoch * n : (epoch + 1) * n])
        assert seen == Counter(range(0, 4 * n, 4))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    """The key depends on both the epoch and the seed."""
    orders = set()
    for seed in (0, 1, 2, 2**40, -1):
        visited = starts(make(4 * 50 + 1, batch_size=50, seed=seed), range(4))
        orders |= {tuple(visited[epoch * 50 : (epoch + 1) * 50]) for epoch in range(4)}
    assert len(orders) == 5 * 4


def test_a_batch_depends_on_seed_and_step_only() -> None:
    """A resumed run asks a new object for a step in the middle."""
    one, other = make(500), make(500)
    forward = [one.batch(step) for step in range(30)]
    for step in reversed(range(30)):
        assert (other.batch(step) == forward[step]).all()


def test_the_batch_size_only_groups_the_draws() -> None:
    """Half the batch in twice the steps visits the same sequences in the same order."""
    assert starts(make(500, batch_size=8), range(20)) == starts(make(500, batch_size=4), range(40))


def test_epoch_of() -> None:
    batches = make(4 * 10 + 1, batch_size=3)  # 10 sequences
    assert [batches.epoch_of(step) for step in (0, 3, 4, 6, 7)] == [0, 0, 1, 1, 2]


# Computed once with plain integers, as `slow_permute` below does.
PINNED_IDS = [436, 482, 304, 223, 344, 27, 613, 17]
PINNED_HASH = "dfeeca36bac59bba2f32354be26e76967ee560b452283c6885ca5133f34ba434"


def test_the_first_thousand_draws_are_pinned() -> None:
    """A change of the order would silently change every run."""
    batches = make(4 * 777 + 1, batch_size=50, seed=1234)
    ids = np.concatenate([batches.sequence_ids(step) for step in range(20)])
    assert ids[:8].tolist() == PINNED_IDS
    assert hashlib.sha256(ids.astype("<i8").tobytes()).hexdigest() == PINNED_HASH


def slow_permute(index: int, n: int, key: int) -> int:
    """`permute` as its docstring says, one number at a time, in Python's integers."""
    word = 2**64 - 1
    half = 1
    while 4**half < n:
        half += 1
    while True:
        left, right = index >> half, index % 2**half
        for number in range(6):
            k = (key + number) & word
            z = ((k + right * 0x9E3779B97F4A7C15) & word) ^ (k >> 32)
            z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & word
            z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & word
            z ^= z >> 31
            left, right = right, left ^ (z % 2**half)
        index = left << half | right
        if index < n:
            return index


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 16, 17, 64, 65, 1000])
def test_permute_against_plain_integers(n: int) -> None:
    """The arrays give what the integers give, and it is a permutation."""
    for key in (0, 1, 2**64 - 1, 0x123456789ABCDEF):
        got = permute(np.arange(n), n, np.array(key, dtype=np.uint64)).tolist()
        assert got == [slow_permute(index, n, key) for index in range(n)]
        assert sorted(got) == list(range(n))


def test_permute_takes_huge_n() -> None:
    """Positions far into a corpus of a trillion sequences, without a list of them."""
    n = 10**12
    index = np.array([0, 1, n // 2, n - 1])
    got = permute(index, n, np.array(5, dtype=np.uint64))
    assert (got >= 0).all() and (got < n).all() and len(set(got.tolist())) == 4
    assert got.tolist() == [slow_permute(int(i), n, 5) for i in index]


def test_the_order_looks_random() -> None:
    """Over 2,000 epochs of 10 sequences, every sequence is at every position about 200 times.

    Chi-squared over the 100 cells has 81 degrees of freedom, so 81 +- 12.7; and neighbours stay
    neighbours as often as chance predicts (2/10 of pairs).
    """
    batches = make(4 * 10 + 1, batch_size=10, seed=3)
    orders = np.stack([batches.sequence_ids(step) for step in range(2000)])
    counts = np.stack([np.bincount(column, minlength=10) for column in orders.T])
    assert ((counts - 200) ** 2 / 200).sum() < 81 + 5 * 12.7
    neighbours = (abs(np.diff(orders, axis=1)) == 1).mean()
    assert abs(neighbours - 0.2) < 0.02


def test_too_short_for_a_sequence() -> None:
    assert make(5).n_sequences == 1
    with pytest.raises(UserError) as caught:
        make(90, seq_len=256)
    assert str(caught.value).startswith(
        "seq_len is 256: one sequence needs 257 tokens, the training split has 90; "
    )


@pytest.mark.parametrize("n_tokens", [0, 1, 2, 4, 5, 6, 9, 13, 40, 41, 42])
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_evaluation_sees_each_target_once(n_tokens: int, batch_size: int) -> None:
    """Every token but the first is a target, in order, after the token before it."""
    tokens = np.arange(n_tokens, dtype=np.uint16)
    pairs = list(evaluation_sequences(tokens, 4, batch_size=batch_size))
    for inputs, targets in pairs:
        assert inputs.shape == targets.shape and inputs.dtype == targets.dtype == np.int64
        assert (inputs + 1 == targets).all()
        assert inputs.shape[1] == 4 or len(inputs) == 1, "a shorter sequence comes alone"
        assert len(inputs) <= batch_size and inputs.size > 0
    seen = [int(target) for _, targets in pairs for target in targets.ravel()]
    assert seen == list(range(1, n_tokens))
