"""Shards in a row: ids in several files as one array, longer than memory if need be."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class Tokens:
    """The shards of a split in a row, as one array of ids. Asked for a slice or an array of places,
    it reads those from the mapped files, and no more."""

    def __init__(self, shards: "Sequence[NDArray | Tokens]") -> None:
        self._shards = shards
        self._starts = np.cumsum([0, *map(len, shards)])
        self.dtype: np.dtype = shards[0].dtype

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, places: slice | NDArray) -> NDArray:
        at = np.arange(*places.indices(len(self))) if isinstance(places, slice) else places
        which = np.searchsorted(self._starts, at, side="right") - 1
        ids = np.empty(at.shape, self.dtype)
        for number in np.unique(which):
            here = which == number
            ids[here] = self._shards[number][at[here] - self._starts[number]]
        return ids
