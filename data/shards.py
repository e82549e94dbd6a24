"""Several token shards, or the tokens of several corpora, as one array that stays on disk."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class JoinedTokens:
    """Arrays of token ids, one after another, read as one array of a type that holds them all.

    An index is a slice or an integer array of any shape. Only the indexed ids are read from the
    memory-mapped files.
    """

    def __init__(self, arrays: "Sequence[NDArray | JoinedTokens]") -> None:
        self._arrays = arrays
        self._starts = np.cumsum([0, *map(len, arrays)])
        self.dtype: np.dtype = np.result_type(*(array.dtype for array in arrays))

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: slice | NDArray) -> NDArray:
        positions = np.arange(*index.indices(len(self))) if isinstance(index, slice) else index
        numbers = np.searchsorted(self._starts, positions, side="right") - 1  # of the arrays
        ids = np.empty(positions.shape, self.dtype)
        for number in np.unique(numbers):
            is_here = numbers == number
            ids[is_here] = self._arrays[number][positions[is_here] - self._starts[number]]
        return ids
