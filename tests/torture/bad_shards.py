"""Damaged token shards, manifests and unfinished chunks: written again or refused, never used."""

import contextlib
import functools
import hashlib
import io
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from kites import SIZE, TEXT
from torture.confined import Attempt, confined, in_memory
from torture.family import Case, Family
from torture.hostile_values import JSON_VALUES

from data.corpus import Corpus, hash_of
from data.documents import Document, Source
from data.prepare import prepare
from data.splits import SPLITS
from data.tokenizer import Tokenizer, open_tokenizer
from data.vocabulary import learn

Damage = Callable[[Path], object]
SHARES: dict[str, Any] = {"split": "document", "val_fraction": 0.2, "test_fraction": 0.1}


class Shelf(Source):
    """A source in memory: 30 documents in 4 chunks, with prompts or without."""

    n_chunks = 4

    def __init__(self, has_prompts: bool) -> None:
        self.has_prompts = has_prompts

    def fingerprint(self) -> str:
        return f"shelf {self.has_prompts}"

    def chunk_bytes(self, number: int) -> int:
        return 1000

    def chunk(self, number: int) -> Iterator[Document]:
        for n in range(number * 8, min(30, number * 8 + 8)):
            text = f"Document {n} says the kite \u00e9 {'flew ' * (n % 5)}."
            yield Document(f"d{n}", text, prompt_length=10 if self.has_prompts else 0)


class Prepared:
    """A source, its tokenizer, its undamaged shards and their tokens."""

    def __init__(self, has_prompts: bool, folder: Path) -> None:
        self.source, self.folder = Shelf(has_prompts), folder
        self.tokenizer: Tokenizer = open_tokenizer(
            learn(TEXT, type="bpe", vocab_size=SIZE["bpe"])[0]
        )
        corpus = self.prepare(folder)
        self.name = corpus.folder.name
        self.manifest = json.loads((corpus.folder / "manifest.json").read_bytes())
        self.tokens = {split: np.array(_read(corpus, split)) for split in SPLITS}

    def prepare(self, folder: Path) -> Corpus:
        """Prepare the source in `folder`, in one process."""
        return prepare(self.source, self.tokenizer, **SHARES, folder=folder, processes=1,
                       shard_tokens=300)  # fmt: skip

    def wrong_with(self, folder: Path) -> str | None:
        """Prepare in a damaged folder; return how the tokens differ from the undamaged ones."""
        corpus = self.prepare(folder)
        for split, tokens in self.tokens.items():
            if not np.array_equal(_read(corpus, split), tokens):
                return f"the tokens of {split} are others"
            if corpus.n_tokens(split) != len(tokens):
                return f"the number of tokens of {split} is wrong"
        return None

    def copy(self, folder: Path, damage: Damage) -> None:
        """Damage a copy of the shards."""
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.folder, folder)
        damage(folder / self.name)


def _read(corpus: Corpus, split: str) -> Any:
    tokens = corpus.marked_tokens(split)
    return tokens[np.arange(len(tokens))]


@functools.cache
def prepared(has_prompts: bool) -> Prepared:
    """Prepare a source once; the folder is removed by the system."""
    folder = Path(tempfile.mkdtemp(prefix="shards-", dir=_PLACE[0]))
    with contextlib.redirect_stderr(io.StringIO()):
        return Prepared(has_prompts, folder)


_PLACE: list[Path] = []


# ------------------------------------------------------------------- damages


def _changed(name: str, change: Callable[[bytes], bytes]) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return damage


def _flip(place: int) -> Callable[[bytes], bytes]:
    return lambda c: c[:place] + bytes([c[place] ^ 1 << place % 8]) + c[place + 1 :]


def _swapped(a: str, b: str) -> Damage:
    def damage(folder: Path) -> None:
        first, second = (folder / a).read_bytes(), (folder / b).read_bytes()
        (folder / a).write_bytes(second)
        (folder / b).write_bytes(first)

    return damage


def _placed(name: str, make: Callable[[Path], object]) -> Damage:
    def damage(folder: Path) -> None:
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
        elif (folder / name).exists():
            (folder / name).unlink()
        make(folder / name)

    return damage


KINDS: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: None,
    "a folder": Path.mkdir,
    "a full folder": lambda path: (path.mkdir(), (path / "x").touch()),
    "a pipe": os.mkfifo,
    "a dangling link": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
}


def _files(p: Prepared) -> list[str]:
    return [file["name"] for split in SPLITS for file in p.manifest["splits"][split]["files"]]


def _in_files(p: Prepared, fast: bool) -> Iterator[tuple[str, Damage]]:
    """Damage shards and the manifest, hashes as they were."""
    for name in [*_files(p), "manifest.json"]:
        size = (p.folder / p.name / name).stat().st_size
        for place in range(0, size, 197 if fast else 9):
            yield f"{name}: bit of byte {place} flipped", _changed(name, _flip(place))
        for cut in range(0, size, 299 if fast else 37):
            yield f"{name}: cut to {cut}", _changed(name, lambda c, n=cut: c[:n])
        for extra in (b"\0", b"\0\0", b"xx" * 99):
            yield f"{name}: {len(extra)} more bytes", _changed(name, lambda c, e=extra: c + e)
        yield f"{name}: zeros", _changed(name, lambda c: bytes(len(c)))
        for kind, make in KINDS.items():
            yield f"{name}: {kind}", _placed(name, make)
    for a, b in itertools.combinations([*_files(p), "manifest.json"], 2):
        yield f"{a} and {b} swapped", _swapped(a, b)
    for kind, make in KINDS.items():
        yield f"chunks: {kind}", _placed("chunks", make)


def _with_manifest(p: Prepared, change: Callable[[dict[str, Any], Path], object]) -> Damage:
    """Change the manifest, and make its hash right again."""

    def damage(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_bytes())
        manifest.pop("sha256")
        change(manifest, folder)
        manifest["sha256"] = hash_of(manifest)
        (folder / "manifest.json").write_text(json.dumps(manifest))

    return damage


def _rehashed(split: str, number: int, content: bytes) -> Callable[[dict[str, Any], Path], object]:
    """Replace a shard, and make its hash in the manifest right."""

    def change(manifest: dict[str, Any], folder: Path) -> None:
        file = manifest["splits"][split]["files"][number]
        (folder / file["name"]).write_bytes(content)
        file["sha256"] = hashlib.sha256(content).hexdigest()

    return change


def _hostile(p: Prepared, fast: bool) -> Iterator[tuple[str, Damage]]:
    """Damage with hashes that are right again."""
    size = p.tokenizer.vocab_size
    dtype = np.dtype(p.manifest["dtype"])
    extremes = [size, size + 1, np.iinfo(dtype).max, np.iinfo(dtype).min or size + 2]
    if dtype.kind == "i":
        extremes += [~size, -size - 2]
    for split in SPLITS:
        for number, file in enumerate(p.manifest["splits"][split]["files"]):
            raw = (p.folder / p.name / file["name"]).read_bytes()
            for place in range(0, len(raw) // dtype.itemsize, 290 if fast else 31):
                for value in extremes:
                    ids = np.frombuffer(raw, dtype).copy()
                    ids[place] = value
                    change = _rehashed(split, number, ids.tobytes())
                    yield f"{file['name']}[{place}] = {value}", _with_manifest(p, change)
            others = {"one less": raw[: -dtype.itemsize], "half an id": raw + b"\0", "empty": b"",
                      "one more": raw + raw[: dtype.itemsize], "twice": raw * 2}  # fmt: skip
            for kind, content in others.items():
                change = _rehashed(split, number, content)
                yield f"{file['name']}: {kind}, hash right", _with_manifest(p, change)
    yield from _hostile_manifests(p, fast)


def _hostile_manifests(p: Prepared, fast: bool) -> Iterator[tuple[str, Damage]]:
    """Put values into each place of the manifest."""
    places: list[tuple[Any, ...]] = [(key,) for key in p.manifest if key != "sha256"]
    places += [
        ("splits", s, key) for s in SPLITS for key in ("n_tokens", "files", "n_prompt_tokens")
    ]
    places += [("splits", "train", "files", 0, key) for key in ("name", "sha256")]
    places += [("splits", s) for s in (*SPLITS, "more")] + [("splits", "train", "files", 0)]
    values = [
        *JSON_VALUES,
        "<u2",
        "<u4",
        "<i2",
        ">u2",
        "<f4",
        "O",
        "|V2",
        "<u8",
        "../manifest.json",
    ]
    values += ["/etc/passwd", "val-00000.bin"]
    for place in places:
        for index, value in enumerate(values):
            if index % (27 if fast else 2):
                continue

            def change(manifest: Any, _: Path, place: Any = place, value: Any = value) -> None:
                for key in place[:-1]:
                    manifest = manifest[key]
                manifest[place[-1]] = value

            yield f"{'.'.join(map(str, place))} is value {index}", _with_manifest(p, change)
    for text in ("", "{", "[]", "3", "null", "[" * 100_000, '{"a":' * 50_000, '{"sha256": 1}'):
        damage = _changed("manifest.json", lambda c, t=text: t.encode())
        yield f"the manifest is {text[:20]} of {len(text)}", damage


def _unfinished(p: Prepared, fast: bool) -> Iterator[tuple[str, Damage]]:
    """Damage chunks that an interrupted call left."""
    chunks = p.folder / "unfinished"
    for name in sorted(path.name for path in chunks.iterdir()):
        content = (chunks / name).read_bytes()
        mutants = {f"bit of byte {n} flipped": _flip(n)(content)
                   for n in range(0, len(content), 160 if fast else 11)}  # fmt: skip
        mutants |= {f"cut to {n}": content[:n] for n in range(0, len(content), 290)}
        mutants |= {"empty": b"", "more": content + b"\0", "nested": b"[" * 100_000}
        for key, mutant in mutants.items():

            def damage(folder: Path, name: str = name, mutant: bytes = mutant) -> None:
                (folder / "manifest.json").unlink()
                shutil.copytree(folder.parent / "unfinished", folder / "chunks")
                (folder / "chunks" / name).write_bytes(mutant)

            yield f"chunk {name}: {key}", damage


def _keep_chunks(p: Prepared) -> None:
    """Keep the chunks of an interrupted call beside the shards."""
    from data import prepare as module

    keep = p.folder / "unfinished"
    folder = p.folder.parent / "interrupted"

    def interrupt(path: Path) -> None:
        shutil.copytree(path, keep)

    original = module.shutil.rmtree
    module.shutil.rmtree = interrupt
    try:
        p.prepare(folder)
    finally:
        module.shutil.rmtree = original
        shutil.rmtree(folder)


@in_memory
def cases(folder: Path, fast: bool) -> Iterator[Case]:
    """All damages of shards without prompts and with prompts."""
    _PLACE[:] = [folder]
    prepared.cache_clear()
    with contextlib.redirect_stderr(io.StringIO()):
        for has_prompts in (False, True):
            _keep_chunks(prepared(has_prompts))

    def attempts() -> Iterator[Attempt]:
        for has_prompts in (False, True):
            p, place = prepared(has_prompts), folder / "damaged"
            kinds = (_in_files, _hostile, _unfinished)
            for key, damage in itertools.chain.from_iterable(kind(p, fast) for kind in kinds):
                label = f"{'prompts' if has_prompts else 'plain'}: {key}"
                run = partial(p.wrong_with, place)
                yield Attempt(label, run, prepare=partial(p.copy, place, damage))

    sync, os.fsync = os.fsync, lambda descriptor: None  # another family is about power cuts

    def warm() -> None:
        p = prepared(False)
        p.copy(folder / "damaged", _changed("train-00000.bin", _flip(0)))
        with contextlib.redirect_stderr(io.StringIO()):
            p.wrong_with(folder / "damaged")

    try:
        yield from confined(attempts(), folder, warm, 11 if fast else 3)
    finally:
        os.fsync = sync


FAMILIES = [Family("damaged shards", "written again or refused, never trained on", cases)]
