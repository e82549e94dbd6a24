"""Drills: rows of random tokens in which copying is all that there is to learn.

A row is a chain of segments. A segment is a few different random tokens, three times in a row. With
segments of 4 to 6 tokens (letters stand for tokens, `|` for the ends of segments):

    a f k c  a f k c  a f k c | m b t e q  m b t e q  m b t e q | h c x ...

The first pass of a segment cannot be predicted. Each token of the second and third pass can: find
the present token further back and copy what followed it. Two layers that do this together are an
induction circuit (Olsson et al., arXiv 2209.11895), which also recalls the facts of a text. The
tokens of a segment differ, so that the present token alone decides the next one.

The first `drill_steps` steps of a run are drills only. Later, `drill_share` of all sequences are
drills, the last ones of a step. The others read the text in its usual order, without a gap. For
drill_steps = 2, drill_share = 0.25 and 6 sequences in a step, which gives 1 or 2 drills:

    step 0, 1    6 drills
    step 2       text 0..3,    2 drills
    step 3       text 4..8,    1 drill
    step 4       text 9..12,   2 drills

Segments are longer where windows are wider. Like the text's batches, drills are a pure function of
(seed, step): there is no state to save.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from data.batches import Batches, hash_words, permute, shuffle_key
from data.choices import LONGEST_SEGMENT, SHORTEST_SEGMENT
from data.mixture import MixedBatches
from errors import UserError

PASSES = 3  # how often a segment is written
_STREAM = 1  # of keys; the order of the text has stream 0


def longest_segment(width: int) -> int:
    """Return the longest segment under a window of `width` keys, at most `LONGEST_SEGMENT`.

    It is three quarters of the window, so that the token to copy lies well inside, but at least
    `SHORTEST_SEGMENT`. Under a window narrower than that, nothing can be copied.
    """
    return min(LONGEST_SEGMENT, max(SHORTEST_SEGMENT, 3 * width // 4))


class Drills:
    """Rows of drills, made of the tokens `pieces`.

    Raises `UserError` if there are fewer pieces than the shortest segment has tokens.
    """

    def __init__(self, pieces: Sequence[int], *, seq_len: int, seed: int) -> None:
        if len(pieces) < SHORTEST_SEGMENT:
            raise UserError(
                f"drills need {SHORTEST_SEGMENT} tokens beside specials and bytes, the vocabulary "
                f"has {len(pieces)}: train without drills, or give more text"
            )
        self._pieces = np.asarray(pieces, dtype=np.int64)
        self._length = seq_len + 1
        self._seed = seed

    def rows(self, step: int, n_rows: int, longest: int) -> NDArray[np.int64]:
        """Return drills of `step`: (n_rows, seq_len + 1).

        Segments have `SHORTEST_SEGMENT` to `longest` tokens, each length equally likely; no more
        than there are pieces.
        """
        longest = min(longest, len(self._pieces))
        assert longest >= SHORTEST_SEGMENT
        step_key = shuffle_key(self._seed, np.array([step]), _STREAM)
        row_keys = hash_words(step_key, np.arange(n_rows, dtype=np.uint64))[:, None]
        n_segments = -(-self._length // (PASSES * SHORTEST_SEGMENT))  # if all are the shortest
        segments = np.arange(n_segments, dtype=np.uint64)
        choices = np.uint64(longest - SHORTEST_SEGMENT + 1)
        extra = hash_words(row_keys, np.uint64(2) * segments) % choices
        lengths = SHORTEST_SEGMENT + extra.astype(np.int64)  # (n_rows, n_segments)
        keys = hash_words(row_keys, np.uint64(2) * segments + np.uint64(1))
        ends = np.cumsum(PASSES * lengths, axis=1)
        at = np.arange(self._length)
        segment = np.zeros((n_rows, self._length), dtype=np.int64)
        for row, row_ends in enumerate(ends):
            segment[row] = np.searchsorted(row_ends, at, side="right")
        end = np.take_along_axis(ends, segment, axis=1)  # of the segment that each token is in
        offset = (at - end) % np.take_along_axis(lengths, segment, axis=1)
        key = np.take_along_axis(keys, segment, axis=1)
        return self._pieces[permute(offset, len(self._pieces), key)]


class DrilledBatches:
    """Batches of text and drills.

    `text` has batches of one sequence, which are taken one after another. `drills_before(step)` is
    the number of drills in all steps before `step`; `longest(step)` is the longest segment in it.
    """

    def __init__(
        self,
        text: Batches | MixedBatches,
        drills: Drills,
        *,
        batch_size: int,
        drills_before: Callable[[int], int],
        longest: Callable[[int], int],
    ) -> None:
        self._text, self._drills, self._batch_size = text, drills, batch_size
        self._drills_before, self._longest = drills_before, longest

    def batch(self, step: int) -> NDArray[np.int64]:
        """Return the sequences of `step`: (batch_size, seq_len + 1)."""
        before, after = self._drills_before(step), self._drills_before(step + 1)
        first = step * self._batch_size - before  # sequences of text in the steps before
        stop = (step + 1) * self._batch_size - after
        drills = self._drills.rows(step, after - before, self._longest(step))
        return np.concatenate([*(self._text.batch(n) for n in range(first, stop)), drills])
