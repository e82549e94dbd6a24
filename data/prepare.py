"""Tokenize a source into memory-mapped token shards, split into train, val and test.

    <cache>/shards/<key>/train-00000.bin  train-00001.bin  val-00000.bin  ...  manifest.json

The key is a hash of everything that determines the content: the source's text, the tokenizer and
the split. The manifest is written last, so shards with a manifest are complete and can be reused. A
shard holds `SHARD_TOKENS` ids; the last shard of a split may hold fewer. An id takes 16 bits, or 32
if the vocabulary needs them. A document is `<s> ... </s>` and may continue in the next shard. The
tokens of prompts are marked (data/prompts.py).

One or several processes tokenize the source's chunks (data/chunks.py). Then the chunks are joined
in their order into shards, and deleted. So neither the number of processes nor an interruption
changes a byte. Memory holds a few blocks of tokens; the disk holds the tokens twice meanwhile.
docs/scaling.md plans the same for a trillion tokens on many machines.
"""

import hashlib
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.chunks import COUNTS, NAMES_LISTED, Job, tokenize_chunks
from data.corpus import CANONICAL, Corpus, hash_of
from data.documents import Source
from data.mixture import interleave
from data.prompts import token_dtype
from data.splits import SPLITS, Splitter, TailSplits, choose_splitter
from data.tokenizer import Tokenizer, open_tokenizer
from data.vocabulary import train_tokenizer
from errors import UserError
from storage import atomic_write, cache_folder, lock, remove, remove_torn_files, sha256_of

FORMAT = 2  # version of shards and manifest; must be raised if encoding changes
SHARD_TOKENS = 1 << 26  # tokens in a shard: 128 MB at 16 bits


def training_texts(
    source: Source, *, split: str, val_fraction: float, test_fraction: float
) -> Iterator[str]:
    """Yield the texts of the training split, the only texts that a tokenizer learns from.

    Raises `UserError` if the text cannot be split as asked.
    """
    splitter = choose_splitter(
        source, split=split, val_fraction=val_fraction, test_fraction=test_fraction
    )
    for number in range(source.n_chunks):
        for passage in splitter.divide(number, source.chunk(number)):
            if passage.split == "train":
                yield passage.text


def tokenizer_for(
    sources: Sequence[tuple[Source, float]],
    *,
    type: str,
    vocab_size: int,
    split: str,
    val_fraction: float,
    test_fraction: float,
) -> Tokenizer:
    """Return the tokenizer of the training splits of `sources`, mixed by weight.

    It is trained, or read from the cache. A text that allows fewer than `vocab_size` tokens gets
    the largest vocabulary possible, and a note says so. Raises `UserError` for an impossible split
    or vocabulary.
    """
    shares: dict[str, Any] = {
        "split": split,
        "val_fraction": val_fraction,
        "test_fraction": test_fraction,
    }
    content = {
        "format": FORMAT,
        "sentencepiece": version("sentencepiece"),
        "sources": [[source.fingerprint(), weight] for source, weight in sources],
        "shares": shares,
        "tokenizer": [type, vocab_size],
    }
    path = cache_folder() / "tokenizers" / f"{hash_of(content)[:16]}.model"
    path.parent.mkdir(parents=True, exist_ok=True)
    with nullcontext() if path.is_file() else lock(path.parent, wait=True):
        if not path.is_file():  # another process may have trained it in the meantime
            texts = [(training_texts(source, **shares), weight) for source, weight in sources]
            model = train_tokenizer(interleave(texts), type=type, vocab_size=vocab_size)
            atomic_write(path, model)
    tokenizer = open_tokenizer(path.read_bytes())
    size = tokenizer.vocab_size
    if size < vocab_size and type != "char":
        note = f"the tokenizer has {size:,} tokens, the most that the text allows"
        print(f"note: {note}, not {vocab_size:,}", file=sys.stderr)
    return tokenizer


# ---------------------------------------------------------------------------- the shards


def prepare(
    source: Source,
    tokenizer: Tokenizer,
    *,
    split: str,
    val_fraction: float,
    test_fraction: float,
    folder: Path | None = None,
    processes: int | None = None,
    shard_tokens: int = SHARD_TOKENS,
) -> Corpus:
    """Return the corpus of a source: shards below `folder` (None: the cache), which are written if
    they are not there.

    `processes` processes tokenize (None: `tokenize_chunks` decides). A shard that is missing,
    truncated or altered is written again; an interrupted call continues where it stopped. Raises
    `UserError` if the source cannot be read or split as asked, and if a split has prompts only.
    """
    content = {
        "format": FORMAT, "source": source.fingerprint(), "tokenizer": tokenizer.fingerprint(),
        "split": split, "val_fraction": val_fraction, "test_fraction": test_fraction,
        "shard": shard_tokens,
    }  # fmt: skip
    target = (folder or cache_folder() / "shards") / hash_of(content)[:16]
    dtype = token_dtype(tokenizer.vocab_size, has_prompts=source.has_prompts)
    chunks = target / "chunks"  # a call that was killed at its end may have left them
    if (corpus := _find(target, content, tokenizer.vocab_size, dtype)) and not chunks.is_dir():
        return corpus
    target.mkdir(parents=True, exist_ok=True)
    with lock(target, wait=True):
        if corpus := _find(target, content, tokenizer.vocab_size, dtype):
            if chunks.is_dir():  # rmtree would open a pipe, which may never return
                shutil.rmtree(chunks, ignore_errors=True)
            return corpus
        _remove_obstacles(target)
        shares = {"split": split, "val_fraction": val_fraction, "test_fraction": test_fraction}
        splitter = _splitter_of(source, shares)
        corpus = _write(target, content, source, splitter, tokenizer, processes)
    _report_counts(corpus)
    return corpus


def _splitter_of(source: Source, shares: dict[str, Any]) -> Splitter:
    """Return the splitter of a source; a note says if it is not the one that was asked for."""
    splitter = choose_splitter(source, **shares)
    if shares["split"] == "document" and isinstance(splitter, TailSplits):
        print("note: the text is one document: its end is held out, as data.split=tail does",
              file=sys.stderr)  # fmt: skip
    return splitter


def _remove_obstacles(target: Path) -> None:
    """Remove torn files, and folders in the place of shards, which could not be replaced."""
    remove_torn_files(target)
    for path in target.iterdir():
        if path.is_dir() != (path.name == "chunks"):
            remove(path)


def _report_counts(corpus: Corpus) -> None:
    """Print the number of documents, and of the tokens of each split."""
    documents = sum(map(corpus.n_documents, SPLITS))
    counts = ", ".join(f"{name} {corpus.n_tokens(name):,}" for name in SPLITS)
    plural = "" if documents == 1 else "s"
    print(f"tokens of {documents:,} document{plural}: {counts}", file=sys.stderr)


def _write(
    target: Path,
    content: dict[str, Any],
    source: Source,
    splitter: Splitter,
    tokenizer: Tokenizer,
    processes: int | None,
) -> Corpus:
    """Tokenize the chunks that are missing, join all into shards, and write the manifest last."""
    print(f"tokenizing into {target} ...", file=sys.stderr, flush=True)
    chunks = target / "chunks"
    chunks.mkdir(exist_ok=True)
    dtype = token_dtype(tokenizer.vocab_size, has_prompts=source.has_prompts)
    job = Job(source, splitter, tokenizer, chunks, dtype)
    tokenize_chunks(job, processes)
    manifest = content | {"dtype": dtype, "splits": _join(job, target, content["shard"])}
    manifest["sha256"] = hash_of(manifest)
    atomic_write(target / "manifest.json", json.dumps(manifest, indent=1, **CANONICAL).encode())
    shutil.rmtree(chunks)
    return Corpus(target, manifest)


def _find(folder: Path, content: dict[str, Any], vocab_size: int, dtype: str) -> Corpus | None:
    """Open the shards that an earlier call wrote; None if they are incomplete or altered.

    Hashing the shards takes less time than the source's fingerprint.
    """
    path = folder / "manifest.json"
    if not path.is_file():  # reading a pipe may never return
        return None
    try:
        manifest = json.loads(path.read_bytes())
        recorded = manifest.pop("sha256")
        is_ours = content | {"dtype": dtype} == {n: manifest[n] for n in (*content, "dtype")}
        if recorded != hash_of(manifest) or not is_ours or {*manifest["splits"]} != {*SPLITS}:
            return None
        for split, entry in manifest["splits"].items():
            if not _is_whole(folder, split, entry, vocab_size, dtype):
                return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):  # any damage
        return None
    return Corpus(folder, manifest)


def _is_whole(folder: Path, split: str, entry: dict[str, Any], vocab_size: int, dtype: str) -> bool:
    """Return whether the shards of a split are those of its entry in the manifest, and whether
    every id is in the vocabulary. The manifest's own hash proves nothing: anybody can compute it.
    """
    n_tokens = n_prompt_tokens = 0
    for number, file in enumerate(entry["files"]):
        path = folder / f"{split}-{number:05d}.bin"
        if file["name"] != path.name or not path.is_file() or sha256_of(path) != file["sha256"]:
            return False
        ids = np.memmap(path, dtype, mode="r")
        if not -vocab_size <= ids.min() <= ids.max() < vocab_size:  # ~id if it is of a prompt
            return False
        n_tokens += len(ids)
        n_prompt_tokens += int((ids < 0).sum())
    counted = (entry["n_tokens"], entry.get("n_prompt_tokens", 0))
    return counted == (n_tokens, n_prompt_tokens) and all(
        type(entry[name]) is int and entry[name] >= 0 for name in COUNTS if name in entry
    )


def _join(job: Job, folder: Path, shard_tokens: int) -> dict[str, Any]:
    """Write the finished chunks, in their order, as shards; return the manifest's entries."""
    records = {n: record for n in range(job.source.n_chunks) if (record := job.read(n))}
    splits = {}
    names_of_counts = COUNTS if job.source.has_prompts else COUNTS[:-1]
    for split in SPLITS:
        counts = [record.counts[split] for record in records.values()]
        entry = {key: sum(count[key] for count in counts) for key in names_of_counts}
        if entry["n_tokens"] and not entry["n_bytes"]:
            raise UserError(
                f"the {split} split holds prompts without an answer: give more text, or change "
                "val_fraction and test_fraction",
                others=["val_fraction", "test_fraction"],
            )
        names = [name for count in counts for name in count["documents"]]
        entry["documents"] = names if entry["n_documents"] <= NAMES_LISTED else None
        blocks = (b for n, record in records.items() for b in job.blocks(n, record, split))
        entry["files"] = [
            {"name": (name := f"{split}-{number:05d}.bin"),
             "sha256": _write_shard(folder / name, shard_blocks)}
            for number, shard_blocks in enumerate(_regroup(blocks, shard_tokens))
        ]  # fmt: skip
        splits[split] = entry
    return splits


def _regroup(blocks: Iterator[NDArray], size: int) -> Iterator[Iterator[NDArray]]:
    """Yield the tokens of `blocks` in groups of `size` tokens; each group yields blocks. Read each
    group to its end before the next one."""
    block = next(blocks, None)

    def group() -> Iterator[NDArray]:
        nonlocal block
        missing = size
        while block is not None and missing:
            yield block[:missing]
            used = min(missing, len(block))
            missing -= used
            block = block[used:] if used < len(block) else next(blocks, None)

    while block is not None:
        yield group()


def _write_shard(path: Path, blocks: Iterator[NDArray]) -> str:
    """Write a shard; return the SHA-256 of its content, in hexadecimal."""
    digest = hashlib.sha256()

    def contents() -> Iterator[bytes]:
        for block in blocks:
            content = block.tobytes()
            digest.update(content)
            yield content

    atomic_write(path, contents())
    return digest.hexdigest()
