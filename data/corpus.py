"""A corpus: token shards on disk and their manifest, opened for reading.

The shards are memory-mapped: only the tokens that are used are read.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.batches import Batches
from data.prompts import PlainTokens
from data.shards import JoinedTokens

CANONICAL: dict[str, Any] = {"sort_keys": True, "ensure_ascii": True}  # equal values, equal JSON


class Corpus:
    """The complete shards of a source, as `data.prepare.prepare` wrote them, by split."""

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder = folder
        self.manifest = manifest

    def tokens(self, split: str) -> NDArray | JoinedTokens:
        """Return the ids of a split, memory-mapped, read-only; 16 or 32 bits each."""
        marked = self.marked_tokens(split)
        return PlainTokens([marked]) if self.n_prompt_tokens(split) else marked

    def marked_tokens(self, split: str) -> NDArray | JoinedTokens:
        """Return the ids of a split as stored: those of prompts are marked (data/prompts.py)."""
        dtype = np.dtype(self.manifest["dtype"])
        files = [self.folder / file["name"] for file in self.manifest["splits"][split]["files"]]
        shards = [np.memmap(file, dtype=dtype, mode="r") for file in files]
        if len(shards) > 1:
            return JoinedTokens(shards)
        return shards[0] if shards else np.empty(0, dtype)

    def n_tokens(self, split: str) -> int:
        """Return the number of ids in a split, those of prompts included."""
        return self.manifest["splits"][split]["n_tokens"]

    def n_prompt_tokens(self, split: str) -> int:
        """Return the number of ids of prompts in a split: those that the loss leaves out."""
        return self.manifest["splits"][split].get("n_prompt_tokens", 0)

    def n_bytes(self, split: str) -> int:
        """Return the bytes of text in a split, in UTF-8, without prompts: the divisor of bits per
        byte."""
        return self.manifest["splits"][split]["n_bytes"]

    def n_documents(self, split: str) -> int:
        """Return the number of documents that begin in a split."""
        return self.manifest["splits"][split]["n_documents"]

    def batches(self, *, seq_len: int, batch_size: int, seed: int) -> Batches:
        """Return the training batches. Raises `UserError` if the tokens fill no sequence."""
        tokens = self.marked_tokens("train")
        return Batches(tokens, seq_len=seq_len, batch_size=batch_size, seed=seed)

    @property
    def data_hash(self) -> str:
        """The SHA-256 of what a model can see of the data: the tokens of each split, and the
        tokenizer. It does not depend on the names and folders of the text's files."""
        shards = {
            name: [file["sha256"] for file in split["files"]]
            for name, split in self.manifest["splits"].items()
        }
        return hash_of({"tokenizer": self.manifest["tokenizer"], "shards": shards})


def hash_of(values: dict[str, Any]) -> str:
    """Return the SHA-256 of plain values, in hexadecimal; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(values, **CANONICAL).encode()).hexdigest()
