"""Documents to memory-mapped token shards, cut into train, val and test.

    <cache>/shards/<key>/train-00000.bin  train-00001.bin  val-00000.bin  ...  manifest.json

The key names everything that decides the content (the source's text, the tokenizer, the split), so
what is there with its manifest, written last, is what would be made again. A shard holds `SHARD`
ids, the last of a split what is left; a document is `<s> ... </s>`, in 16 bits a token, or 32 where
the vocabulary needs them, and goes on in the next shard where one is full.

The work is done in parts (data/chunks.py), by several processes; then the parts are joined, in
their order, into shards, and go. So neither the number of processes nor a kill changes a byte,
memory holds a few blocks of tokens, and the disk, for a while, the tokens twice.

At a trillion tokens, on many nodes (a plan on paper; here is one machine). Who tokenises what: part
p is node p mod n's; parts need nothing of each other, and a lost node's are the ones whose .json is
missing, to be taken by any other. 4 TB of text at 5 MB/s a core is 9 days of one core, 9 minutes
of 1,500. Joining is per split a running sum over the parts' counts (a line of JSON each): it tells
every node which tokens of which parts are its shards; it reads those, from the shared store or
from their makers, and writes 2 TB in 15,000 shards of 128 MB. How a step finds its samples: as it
does here. A sample's number gives, by a pure function of the seed, a window's number, and that,
divided by the shard's size, a file and a place in it (data/batches.py); rank r of R takes rows r,
r + R, ... of the step, and asks nobody. What moves over the network: in training only those reads,
2 bytes a token (2 MB for a step of a million tokens), from an object store or a local copy of the
shards in use; the manifest once; gradients are another matter. What would change is the check of
every hash at every start (`_find`): each node would check the shards that it opens.
"""

import hashlib
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from data.chunks import NAMES_LISTED, Job, tokenize_parts
from data.corpus import CANONICAL, Corpus, hash_of
from data.documents import Source
from data.mixture import interleave
from data.splits import SPLITS, choose
from data.tokenizer import Tokenizer, train_tokenizer
from storage import atomic_write, cache_folder, lock, remove_torn_files, sha256_of

FORMAT = 2  # of the shards and the manifest; also to be raised when encoding changes
SHARD = 1 << 26  # tokens in a shard: 128 MB at 16 bits


def training_texts(
    source: Source, *, split: str, val_fraction: float, test_fraction: float
) -> Iterator[str]:
    """Yield the training split's text: what a tokenizer may learn from."""
    splitter = choose(source, split=split, val_fraction=val_fraction, test_fraction=test_fraction)
    for number in range(source.n_parts):
        for document in splitter.divide(number, source.part(number)):
            if document.split == "train":
                yield document.text


def tokenizer_for(
    sources: Sequence[tuple[Source, float]],
    *,
    type: str,
    vocab_size: int,
    split: str,
    val_fraction: float,
    test_fraction: float,
) -> Tokenizer:
    """Train the tokenizer of the training splits of sources, mixed by weight, or find it in the
    cache.

    Raises `UserError` where the text allows no such vocabulary.
    """
    import sentencepiece

    shares: dict[str, Any] = {
        "split": split,
        "val_fraction": val_fraction,
        "test_fraction": test_fraction,
    }
    content = {
        "format": FORMAT,
        "sentencepiece": sentencepiece.__version__,
        "sources": [[source.fingerprint(), weight] for source, weight in sources],
        "shares": shares,
        "tokenizer": [type, vocab_size],
    }
    place = cache_folder() / "tokenizers" / f"{hash_of(content)[:16]}.model"
    if not place.is_file():
        texts = [(training_texts(source, **shares), weight) for source, weight in sources]
        model = train_tokenizer(interleave(texts), type=type, vocab_size=vocab_size)
        place.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(place, model)
    return Tokenizer(place.read_bytes())


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
    shard: int = SHARD,
) -> Corpus:
    """Tokenize a source into shards below `folder` (None: the cache's), or find them there.

    `processes` work at it (None: one for each core, where it is worth it); `shard` is the number
    of tokens in a file. A shard that is missing, cut short or altered is made again; after a kill,
    what was finished is kept. Raises `UserError` when the text cannot be split so.
    """
    content = {
        "format": FORMAT, "source": source.fingerprint(), "tokenizer": tokenizer.fingerprint(),
        "split": split, "val_fraction": val_fraction, "test_fraction": test_fraction,
        "shard": shard,
    }  # fmt: skip
    place = (folder or cache_folder() / "shards") / hash_of(content)[:16]
    if corpus := _find(place, content):
        return corpus
    place.mkdir(parents=True, exist_ok=True)
    with lock(place, wait=True):
        if corpus := _find(place, content):
            return corpus
        remove_torn_files(place)
        splitter = choose(
            source, split=split, val_fraction=val_fraction, test_fraction=test_fraction
        )
        print(f"tokenizing into {place} ...", file=sys.stderr, flush=True)
        (place / "parts").mkdir(exist_ok=True)
        dtype = "<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4"
        job = Job(source, splitter, tokenizer, place / "parts", dtype)
        tokenize_parts(job, processes)
        manifest = content | {"dtype": dtype, "splits": _join(job, place, shard)}
        manifest["sha256"] = hash_of(manifest)
        atomic_write(place / "manifest.json", json.dumps(manifest, indent=1, **CANONICAL).encode())
        shutil.rmtree(place / "parts")
    corpus = Corpus(place, manifest)
    documents = sum(map(corpus.n_documents, SPLITS))
    counts = ", ".join(f"{name} {corpus.n_tokens(name):,}" for name in SPLITS)
    print(f"tokens of {documents:,} documents: {counts}", file=sys.stderr)
    return corpus


def _find(folder: Path, content: dict[str, Any]) -> Corpus | None:
    """Open what an earlier run left, if it is complete and unaltered.

    Reading the shards once costs less than the source's fingerprint did, and it is what lets the
    rest of the house trust that every id is in the vocabulary.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
        recorded = manifest.pop("sha256")
        if recorded != hash_of(manifest) or content != {name: manifest[name] for name in content}:
            return None
        for split in SPLITS:
            for file in manifest["splits"][split]["files"]:
                if sha256_of(folder / file["name"]) != file["sha256"]:
                    return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # whatever it has become
        return None
    return Corpus(folder, manifest)


def _join(job: Job, folder: Path, shard: int) -> dict[str, Any]:
    """Write the finished parts, in their order, as shards; return the manifest's entries."""
    records = [job.read(number) for number in range(job.source.n_parts)]
    splits = {}
    for split in SPLITS:
        counts = [record.counts[split] for record in records if record is not None]
        entry = {key: sum(count[key] for count in counts)
                 for key in ("n_documents", "n_tokens", "n_bytes")}  # fmt: skip
        few = entry["n_documents"] <= NAMES_LISTED
        entry["documents"] = [n for count in counts for n in count["documents"]] if few else None
        blocks = (block for number in range(len(records)) for block in job.blocks(number, split))
        entry["files"] = [
            {"name": (name := f"{split}-{number:05d}.bin"),
             "sha256": _write_shard(folder / name, blocks_of_one)}
            for number, blocks_of_one in enumerate(_cut(blocks, shard))
        ]  # fmt: skip
        splits[split] = entry
    return splits


def _cut(blocks: Iterator[NDArray], size: int) -> Iterator[Iterator[NDArray]]:
    """Cut a stream of blocks anew, after every `size` tokens; each piece must be used up before the
    next is asked for."""
    rest = next(blocks, None)

    def piece() -> Iterator[NDArray]:
        nonlocal rest
        left = size
        while rest is not None and left:
            yield rest[:left]
            used = min(left, len(rest))
            left -= used
            rest = rest[used:] if used < len(rest) else next(blocks, None)

    while rest is not None:
        yield piece()


def _write_shard(path: Path, blocks: Iterator[NDArray]) -> str:
    """Write a shard; return the hash of its content."""
    digest = hashlib.sha256()

    def chunks() -> Iterator[bytes]:
        for block in blocks:
            chunk = block.tobytes()
            digest.update(chunk)
            yield chunk

    atomic_write(path, chunks())
    return digest.hexdigest()
