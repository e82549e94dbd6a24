"""Token shards, opened: what `prepare` leaves behind and trainings read.

The manifest says what there is; nothing is read but what is asked for.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.batches import Batches
from data.shards import Tokens

CANONICAL: dict[str, Any] = {"sort_keys": True, "ensure_ascii": True}  # one spelling of a value


class Corpus:
    """Shards that are complete, as `prepare` left them: tokens by split, and their numbers."""

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder = folder
        self.manifest = manifest

    def tokens(self, split: str) -> "NDArray | Tokens":
        """Map the ids of a split into memory, read-only; 16 or 32 bits each, as they are stored."""
        dtype = np.dtype(self.manifest["dtype"])
        files = [self.folder / file["name"] for file in self.manifest["splits"][split]["files"]]
        shards = [np.memmap(file, dtype=dtype, mode="r") for file in files]
        return Tokens(shards) if len(shards) > 1 else shards[0] if shards else np.empty(0, dtype)

    def n_tokens(self, split: str) -> int:
        """Ids in a split."""
        return self.manifest["splits"][split]["n_tokens"]

    def n_bytes(self, split: str) -> int:
        """Bytes of text, in UTF-8: what bits per byte are counted by."""
        return self.manifest["splits"][split]["n_bytes"]

    def n_documents(self, split: str) -> int:
        """Documents, and pieces of some, in a split."""
        return self.manifest["splits"][split]["n_documents"]

    def batches(self, **about: Any) -> Batches:
        """Make the training batches; `about` is what `Batches` takes."""
        return Batches(self.tokens("train"), **about)

    @property
    def data_hash(self) -> str:
        """Hash what a model can see of the data: the tokens of each split, and the tokenizer. Where
        the text came from, its files' names and places, is not in it."""
        shards = {
            name: [file["sha256"] for file in split["files"]]
            for name, split in self.manifest["splits"].items()
        }
        return hash_of({"tokenizer": self.manifest["tokenizer"], "shards": shards})


def hash_of(values: dict[str, Any]) -> str:
    """Hash plain values, whatever the order of their keys; hexadecimal."""
    return hashlib.sha256(json.dumps(values, **CANONICAL).encode()).hexdigest()
