"""Documents to memory-mapped token shards, cut into train, val and test.

    <cache>/shards/<key>/train-00000.bin  val-00000.bin  test-00000.bin  manifest.json

The key names everything that decides the content (the source's text, the tokenizer, the split), so
what is there with its manifest, written last, is what would be made again. A shard is the ids of
its documents, each as `<s> ... </s>`, in 16 bits a token, or 32 where the vocabulary needs them.
"""

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.sources import Document, Source
from data.tokenizer import Tokenizer, train_tokenizer
from errors import UserError
from storage import atomic_write, cache_folder, sha256_of

FORMAT = 1  # of the shards and the manifest; also to be raised when encoding changes
SPLITS = ("train", "val", "test")
_NAMES_LISTED = 200  # more documents than these are counted, not named
_CANONICAL: dict[str, Any] = {"sort_keys": True, "ensure_ascii": True}


class Part(NamedTuple):
    """Characters `start` to `stop` of a document, and the split they belong to."""

    split: str
    start: int
    stop: int


# ---------------------------------------------------------------------------- who gets what


def assign_splits(
    documents: Sequence[tuple[str, int]], *, split: str, val_fraction: float, test_fraction: float
) -> list[list[Part]]:
    """Cut documents, given as (name, characters), into parts; one list a document.

    `document` holds out whole documents, chosen by the hash of their names: one that is added moves
    few others. `tail` cuts the text, all documents in a row, at two places: first train, then
    val, then test; n characters give train the first int(n * (1 - val - test)), as nanoGPT has it.
    Raises `UserError` when a split that should get something gets nothing.
    """
    held_out = val_fraction + test_fraction
    if min(val_fraction, test_fraction) < 0 or held_out >= 1:
        raise UserError(
            f"data.val_fraction ({val_fraction}) and data.test_fraction ({test_fraction}) must not "
            "be negative, and leave something to train on: their sum must be below 1"
        )
    if split == "document":
        return _whole_documents(documents, val_fraction, test_fraction)
    if split == "tail":
        return _tail(documents, val_fraction, test_fraction)
    raise UserError(f"data.split is {split!r}: one of document, tail")


def _whole_documents(
    documents: Sequence[tuple[str, int]], val_fraction: float, test_fraction: float
) -> list[list[Part]]:
    n_test, n_val = (
        max(1, round(fraction * len(documents))) if fraction > 0 else 0
        for fraction in (test_fraction, val_fraction)
    )
    if n_test + n_val >= len(documents):
        raise UserError(
            f"data.split=document cannot hold out {n_val} for val and {n_test} for test of "
            f"{len(documents)} documents and train on the rest: use data.split=tail"
        )
    seen: dict[str, int] = {}
    ranks = []
    for name, _ in documents:
        times = seen[name] = seen.get(name, 0) + 1
        distinct = name if times == 1 else f"{name}#{times}"
        ranks.append(hashlib.sha256(distinct.encode("utf-8", "surrogateescape")).digest())
    ranking = sorted(range(len(documents)), key=ranks.__getitem__)
    splits = dict.fromkeys(ranking[:n_test], "test")
    splits |= dict.fromkeys(ranking[n_test : n_test + n_val], "val")
    return [
        [Part(splits.get(index, "train"), 0, length)] for index, (_, length) in enumerate(documents)
    ]


def _tail(
    documents: Sequence[tuple[str, int]], val_fraction: float, test_fraction: float
) -> list[list[Part]]:
    total = sum(length for _, length in documents)
    train_end = int(total * (1 - (val_fraction + test_fraction)))
    val_end = int(total * (1 - test_fraction))
    starts, stops = (0, train_end, val_end), (train_end, val_end, total)
    spans = list(zip(SPLITS, starts, stops, strict=True))
    wanted = {"train": 1.0, "val": val_fraction, "test": test_fraction}
    for name, start, stop in spans:
        if wanted[name] > 0 and start == stop:
            raise UserError(
                f"data.split=tail leaves nothing for {name}: the text has {total:,} characters, "
                f"give more or another data.val_fraction, data.test_fraction"
            )
    parts, offset = [], 0
    for _, length in documents:
        inside = [
            Part(name, max(start - offset, 0), min(stop - offset, length))
            for name, start, stop in spans
        ]
        parts.append([part for part in inside if part.start < part.stop])
        offset += length
    return parts


def _cut(source: Source, split: str, val: float, test: float) -> list[list[Part]]:
    """Read a source once and cut it: where it has splits of its own by these, else by ours."""
    sizes, own = [], []
    for document in source.documents():
        sizes.append((document.name, len(document.text)))
        own.append(document.split)
    if None in own or not own:
        return assign_splits(sizes, split=split, val_fraction=val, test_fraction=test)
    return [[Part(str(name), 0, length)] for name, (_, length) in zip(own, sizes, strict=True)]


def _texts(source: Source, parts: list[list[Part]], split: str) -> Iterator[Document]:
    """Yield what `split` gets of each document, in order."""
    for document, cut in zip(source.documents(), parts, strict=True):
        for part in cut:
            if part.split == split:
                yield Document(document.name, document.text[part.start : part.stop])


def training_texts(
    source: Source, *, split: str, val_fraction: float, test_fraction: float
) -> Iterator[str]:
    """Yield the training split's text: what a tokenizer may learn from."""
    parts = _cut(source, split, val_fraction, test_fraction)
    return (document.text for document in _texts(source, parts, "train"))


def tokenizer_for(
    source: Source,
    *,
    type: str,
    vocab_size: int,
    split: str,
    val_fraction: float,
    test_fraction: float,
) -> Tokenizer:
    """Train the tokenizer of a source's training split, or find it in the cache.

    Raises `UserError` where the text allows no such vocabulary.
    """
    import sentencepiece

    content = {
        "format": FORMAT,
        "sentencepiece": sentencepiece.__version__,
        "source": source.fingerprint(),
        "split": [split, val_fraction, test_fraction],
        "tokenizer": [type, vocab_size],
    }
    place = cache_folder() / "tokenizers" / f"{_hash_of(content)[:16]}.model"
    if not place.is_file():
        texts = training_texts(
            source, split=split, val_fraction=val_fraction, test_fraction=test_fraction
        )
        model = train_tokenizer(texts, type=type, vocab_size=vocab_size)
        place.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(place, model)
    return Tokenizer(place.read_bytes())


# ---------------------------------------------------------------------------- the shards


class Corpus:
    """Shards that are complete, as `prepare` left them: tokens by split, and their numbers."""

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder = folder
        self.manifest = manifest

    def tokens(self, split: str) -> NDArray:
        """Map the ids of a split into memory, read-only; 16 or 32 bits each, as they are stored."""
        dtype = np.dtype(self.manifest["dtype"])
        files = [self.folder / file["name"] for file in self.manifest["splits"][split]["files"]]
        if not files:
            return np.empty(0, dtype)
        (file,) = files  # one a split, so far
        return np.memmap(file, dtype=dtype, mode="r")

    def n_tokens(self, split: str) -> int:
        return self.manifest["splits"][split]["n_tokens"]

    def n_bytes(self, split: str) -> int:
        """Bytes of text, in UTF-8: what bits per byte are counted by."""
        return self.manifest["splits"][split]["n_bytes"]

    def n_documents(self, split: str) -> int:
        return self.manifest["splits"][split]["n_documents"]

    @property
    def data_hash(self) -> str:
        """Hash what a model can see of the data: the tokens of each split, and the tokenizer. Where
        the text came from, its files' names and places, is not in it."""
        shards = {
            name: [file["sha256"] for file in split["files"]]
            for name, split in self.manifest["splits"].items()
        }
        return _hash_of({"tokenizer": self.manifest["tokenizer"], "shards": shards})


def prepare(
    source: Source,
    tokenizer: Tokenizer,
    *,
    split: str,
    val_fraction: float,
    test_fraction: float,
    folder: Path | None = None,
) -> Corpus:
    """Tokenize a source into shards below `folder` (None: the cache's), or find them there.

    Memory holds a document at a time. A shard that is missing, cut short or altered is made again.
    Raises `UserError` when the text cannot be split so.
    """
    content = {
        "format": FORMAT, "source": source.fingerprint(), "tokenizer": tokenizer.fingerprint(),
        "split": split, "val_fraction": val_fraction, "test_fraction": test_fraction,
    }  # fmt: skip
    place = (folder or cache_folder() / "shards") / _hash_of(content)[:16]
    if corpus := _find(place, content):
        return corpus
    parts = _cut(source, split, val_fraction, test_fraction)
    print(f"tokenizing {len(parts):,} documents into {place} ...", file=sys.stderr, flush=True)
    place.mkdir(parents=True, exist_ok=True)
    dtype = "<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4"
    splits = {name: _write_split(place, name, source, parts, tokenizer, dtype) for name in SPLITS}
    manifest = content | {"dtype": dtype, "splits": splits}
    manifest["sha256"] = _hash_of(manifest)
    atomic_write(place / "manifest.json", json.dumps(manifest, indent=1, **_CANONICAL).encode())
    counts = ", ".join(f"{name} {splits[name]['n_tokens']:,}" for name in SPLITS)
    print(f"tokens: {counts}", file=sys.stderr)
    return Corpus(place, manifest)


def _find(folder: Path, content: dict[str, Any]) -> Corpus | None:
    """Open what an earlier run left, if it is complete and unaltered.

    Reading the shards once costs less than the source's fingerprint did, and it is what lets the
    rest of the house trust that every id is in the vocabulary.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
        recorded = manifest.pop("sha256")
        if recorded != _hash_of(manifest) or content != {name: manifest[name] for name in content}:
            return None
        for split in SPLITS:
            for file in manifest["splits"][split]["files"]:
                if sha256_of(folder / file["name"]) != file["sha256"]:
                    return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # whatever it has become
        return None
    return Corpus(folder, manifest)


@dataclass
class _Count:
    documents: int = 0
    tokens: int = 0
    bytes: int = 0


def _write_split(
    folder: Path, split: str, source: Source, parts: list[list[Part]], tokenizer: Tokenizer,
    dtype: str,
) -> dict[str, Any]:  # fmt: skip
    """Write one split's shard; return its entry in the manifest."""
    from tqdm import tqdm

    n_parts = sum(part.split == split for cut in parts for part in cut)
    count, digest, names = _Count(), hashlib.sha256(), []

    def shard() -> Iterator[bytes]:
        texts = _texts(source, parts, split)
        for text in tqdm(texts, split, n_parts, unit=" documents", leave=False, disable=None):
            ids = [tokenizer.bos_id, *tokenizer.encode(text.text), tokenizer.eos_id]
            count.documents += 1
            count.tokens += len(ids)
            count.bytes += len(text.text.encode())
            if n_parts <= _NAMES_LISTED:
                names.append(text.name)
            chunk = np.array(ids, dtype=dtype).tobytes()
            digest.update(chunk)
            yield chunk

    files = []
    if n_parts:
        name = f"{split}-00000.bin"
        atomic_write(folder / name, shard())
        files = [{"name": name, "sha256": digest.hexdigest()}]
    return {
        "files": files, "n_documents": count.documents, "n_tokens": count.tokens,
        "n_bytes": count.bytes, "documents": names if n_parts <= _NAMES_LISTED else None,
    }  # fmt: skip


def _hash_of(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, **_CANONICAL).encode()).hexdigest()
