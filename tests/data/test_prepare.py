"""data/prepare.py and data/chunks.py: content of shards, cache, several processes, kills."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import processes_with

from data.corpus import Corpus
from data.documents import Document, Source
from data.prepare import prepare, tokenizer_for, training_texts
from data.sources.open import open_source
from data.splits import SPLITS
from data.tokenizer import Tokenizer, open_tokenizer
from data.vocabulary import train_tokenizer
from errors import UserError
from storage import cache_folder

SHARES: dict[str, Any] = {"val_fraction": 0.2, "test_fraction": 0.1}
ROOT = Path(__file__).parents[2]


class Shelf(Source):
    """A source in memory with three documents per chunk, which counts how often chunks are read."""

    def __init__(self, *texts: str) -> None:
        self.texts = texts
        self.reads = 0
        self.fails_at = 0

    @property
    def n_chunks(self) -> int:  # type: ignore[override]
        return -(-len(self.texts) // 3)

    def fingerprint(self) -> str:
        return repr(self.texts)

    def chunk(self, number: int) -> Iterator[Document]:
        self.reads += 1
        for place in range(3 * number, min(3 * number + 3, len(self.texts))):
            if self.reads == self.fails_at and place == 7:
                raise OSError("the disk went away")
            if self.texts[place] == "refused":
                raise UserError("a text is refused")
            yield Document(f"d{place}", self.texts[place])


TEXTS = [
    f"Document {number} has ä story,\r\n {'and more ' * number}\u2581end." for number in range(10)
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return open_tokenizer(train_tokenizer(TEXTS, type="bpe", vocab_size=300))


@pytest.fixture
def shelf() -> Shelf:
    return Shelf(*TEXTS)


def stored(corpus: Corpus, tokenizer: Tokenizer, split: str) -> list[str]:
    """Return the documents of a split: each is stored between BOS and EOS."""
    ids = corpus.tokens(split).tolist()
    documents = []
    while ids:
        assert ids[0] == tokenizer.bos_id
        end = ids.index(tokenizer.eos_id)
        documents.append(tokenizer.decode(ids[1:end]))
        ids = ids[end + 1 :]
    return documents


@pytest.mark.parametrize("split", ["document", "tail"])
def test_a_tokenizer_learns_from_the_training_split_only(
    shelf: Shelf, tokenizer: Tokenizer, split: str
) -> None:
    """It gets exactly the texts of the training shard."""
    given = list(training_texts(shelf, split=split, **SHARES))
    corpus = prepare(shelf, tokenizer, split=split, **SHARES)
    assert given == stored(corpus, tokenizer, "train")
    assert 0 < len(given) < 10


def test_a_small_text_gets_the_largest_vocabulary(
    shelf: Shelf, capsys: pytest.CaptureFixture[str]
) -> None:
    """A note says so each time, also when the tokenizer comes from the cache."""
    settings: dict[str, Any] = {"type": "bpe", "split": "tail", **SHARES}
    for _ in range(2):
        tokenizer = tokenizer_for([(shelf, 1.0)], vocab_size=30_000, **settings)
        expected = f"the tokenizer has {tokenizer.vocab_size:,} tokens, the most that the text "
        assert expected + "allows, not 30,000\n" in capsys.readouterr().err
    texts = list(training_texts(shelf, split="tail", **SHARES))
    assert tokenizer.model_bytes == train_tokenizer(
        texts, type="bpe", vocab_size=tokenizer.vocab_size
    )
    tokenizer_for([(shelf, 1.0)], vocab_size=tokenizer.vocab_size, **settings)
    assert "note" not in capsys.readouterr().err


# ---------------------------------------------------------------------------- the shards


@pytest.mark.parametrize("split", ["document", "tail"])
def test_shards_hold_all_text_once(shelf: Shelf, tokenizer: Tokenizer, split: str) -> None:
    """Every document is stored exactly, and the counts are those of the stored documents."""
    corpus = prepare(shelf, tokenizer, split=split, **SHARES)
    texts = {name: stored(corpus, tokenizer, name) for name in SPLITS}
    if split == "tail":
        assert "".join("".join(texts[name]) for name in SPLITS) == "".join(TEXTS)
    else:
        assert sorted(chain(*texts.values())) == sorted(TEXTS)
    for name in SPLITS:
        assert len(texts[name]) > 0
        assert corpus.n_bytes(name) == sum(len(text.encode()) for text in texts[name])
        assert corpus.n_tokens(name) == len(corpus.tokens(name))
        assert len(corpus.manifest["splits"][name]["documents"]) == len(texts[name])
    assert sum(map(corpus.n_documents, SPLITS)) == len(TEXTS)  # one that is cut is counted once


def test_tokens_are_mapped_and_read_only(shelf: Shelf, tokenizer: Tokenizer) -> None:
    tokens = prepare(shelf, tokenizer, split="tail", **SHARES).tokens("train")
    assert isinstance(tokens, np.memmap) and tokens.dtype == np.uint16
    with pytest.raises(ValueError, match="read-only"):
        tokens[0] = 1


def test_a_split_without_a_share_is_empty(shelf: Shelf, tokenizer: Tokenizer) -> None:
    corpus = prepare(shelf, tokenizer, split="document", val_fraction=0.1, test_fraction=0.0)
    assert len(corpus.tokens("test")) == corpus.n_tokens("test") == corpus.n_bytes("test") == 0
    assert not list(corpus.folder.glob("test*"))


def test_a_large_vocabulary_takes_32_bits(shelf: Shelf, tokenizer: Tokenizer) -> None:
    """Otherwise id 65,536 would become 0."""

    class Large:
        vocab_size = 65_537

        def fingerprint(self) -> str:
            return "large"

        def encode_document(self, text: str) -> list[int]:
            return [1, 65_535, 65_536]

    corpus = prepare(shelf, Large(), split="tail", val_fraction=0.1, test_fraction=0.0)  # type: ignore[arg-type]
    assert corpus.tokens("train")[:3].tolist() == [1, 65_535, 65_536]
    assert corpus.tokens("train").dtype == np.uint32


def test_names_are_listed_for_few_documents_only(tokenizer: Tokenizer) -> None:
    """A manifest does not list a million names."""
    many = Shelf(*(f"document {number}" for number in range(300)))
    corpus = prepare(many, tokenizer, split="document", val_fraction=0.1, test_fraction=0.0)
    assert corpus.manifest["splits"]["train"]["documents"] is None
    assert len(corpus.manifest["splits"]["val"]["documents"]) == 30


# ---------------------------------------------------------------------------- the cache


def test_shards_are_reused(shelf: Shelf, tokenizer: Tokenizer) -> None:
    """The second call reads no document and writes no file."""
    first = prepare(shelf, tokenizer, split="document", **SHARES)
    reads, times = shelf.reads, {f: f.stat().st_mtime_ns for f in first.folder.iterdir()}
    second = prepare(shelf, tokenizer, split="document", **SHARES)
    assert shelf.reads == reads
    assert {f: f.stat().st_mtime_ns for f in second.folder.iterdir()} == times
    assert (second.folder, second.data_hash) == (first.folder, first.data_hash)
    assert second.n_tokens("train") == first.n_tokens("train")


def test_each_setting_has_its_own_shards(shelf: Shelf, tokenizer: Tokenizer) -> None:
    """Text, tokenizer, rule and shares are all part of the key."""
    other = open_tokenizer(train_tokenizer(TEXTS, type="bpe", vocab_size=301))
    corpora = [
        prepare(shelf, tokenizer, split="document", **SHARES),
        prepare(Shelf(*TEXTS, "more"), tokenizer, split="document", **SHARES),
        prepare(shelf, other, split="document", **SHARES),
        prepare(shelf, tokenizer, split="tail", **SHARES),
        prepare(shelf, tokenizer, split="document", val_fraction=0.1, test_fraction=0.1),
        prepare(shelf, tokenizer, split="document", val_fraction=0.2, test_fraction=0.2),
    ]
    assert len({corpus.folder for corpus in corpora}) == 6
    assert len({corpus.data_hash for corpus in corpora}) == 6


@pytest.mark.parametrize("damage", ["missing", "short", "altered", "manifest", "manifest number",
                                    "manifest kind"])  # fmt: skip
def test_damaged_shards_are_written_again(shelf: Shelf, tokenizer: Tokenizer, damage: str) -> None:
    """After any damage the tokens are the same again; no altered id is used."""
    whole = prepare(shelf, tokenizer, split="document", **SHARES)
    shard, manifest = whole.folder / "train-00000.bin", whole.folder / "manifest.json"
    content, text = shard.read_bytes(), manifest.read_text()
    if damage == "missing":
        shard.unlink()
    elif damage == "short":
        os.truncate(shard, len(content) - 2)
    elif damage == "altered":
        shard.write_bytes(content[:10] + b"\xff\xff" + content[12:])
    elif damage == "manifest":
        manifest.write_text(text[:50])
    elif damage == "manifest number":
        edited = json.loads(text)
        edited["splits"]["val"]["n_bytes"] += 1
        manifest.write_text(json.dumps(edited))
    else:
        manifest.write_text('"text"')
    again = prepare(shelf, tokenizer, split="document", **SHARES)
    assert shard.read_bytes() == content and manifest.read_text() == text
    assert again.data_hash == whole.data_hash


def test_an_interrupted_call_leaves_no_unfinished_file(shelf: Shelf, tokenizer: Tokenizer) -> None:
    """The source fails in the middle of a chunk: no manifest, no torn file; the next call completes
    the shards."""
    expected = prepare(shelf, tokenizer, split="tail", **SHARES, folder=None)
    shelf.texts = (*shelf.texts, "more")
    shelf.reads, shelf.fails_at = 0, 8  # 1 read for own splits, 4 for lengths, then chunk 2
    before = set(expected.folder.parent.iterdir())
    with pytest.raises(OSError, match="the disk went away"):
        prepare(shelf, tokenizer, split="tail", **SHARES)
    shelf.fails_at = 0
    kept = sorted(file.name for file in expected.folder.parent.rglob("chunks/*"))
    assert kept == ["00000.bin", "00000.json", "00001.bin", "00001.json"]
    corpus = prepare(shelf, tokenizer, split="tail", **SHARES)
    assert "".join(chain(*(stored(corpus, tokenizer, s) for s in SPLITS))) == "".join(shelf.texts)
    assert set(expected.folder.parent.iterdir()) - before == {corpus.folder}
    assert {file.name for file in corpus.folder.iterdir()} == {
        "manifest.json", "train-00000.bin", "val-00000.bin", "test-00000.bin", ".lock"
    }  # fmt: skip


def test_the_data_hash_does_not_depend_on_the_folder(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """A checkpoint records it: moving or touching the files does not prevent a resume."""
    hashes = []
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        (tmp_path / place / f"{place}.txt").write_text("".join(TEXTS))
        source = open_source("files", path=str(tmp_path / place))
        hashes.append(prepare(source, tokenizer, split="tail", **SHARES).data_hash)
    assert hashes[0] == hashes[1]


def test_the_folder_can_be_chosen(shelf: Shelf, tokenizer: Tokenizer, tmp_path: Path) -> None:
    corpus = prepare(shelf, tokenizer, split="tail", **SHARES, folder=tmp_path / "mine")
    assert corpus.folder.parent == tmp_path / "mine"


def test_preparing_prints_the_folder_and_the_counts(
    shelf: Shelf, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = prepare(shelf, tokenizer, split="document", **SHARES)
    printed = capsys.readouterr().err
    assert f"tokenizing into {corpus.folder} ..." in printed
    assert f"tokens of 10 documents: train {corpus.n_tokens('train'):,}, val " in printed


# ---------------------------------------------------------------------------- at size


def hashes(folder: Path) -> dict[str, str]:
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.rglob("*")
        if file.suffix in (".bin", ".json")
    }


def test_shards_have_a_fixed_size(shelf: Shelf, tokenizer: Tokenizer) -> None:
    """With 50 ids per file the split has the same ids as in one file; only the last is smaller."""
    whole = prepare(shelf, tokenizer, split="document", **SHARES)
    cut = prepare(shelf, tokenizer, split="document", **SHARES, shard_tokens=50)
    sizes = [file.stat().st_size // 2 for file in sorted(cut.folder.glob("train-*.bin"))]
    assert len(sizes) > 3 and set(sizes[:-1]) == {50} and 0 < sizes[-1] <= 50
    ids = whole.tokens("train")
    tokens = cut.tokens("train")
    assert len(tokens) == len(ids) and tokens.dtype == ids.dtype
    assert np.array_equal(tokens[:], ids) and np.array_equal(tokens[45:120], ids[45:120])
    places = np.array([[0, 49, 50], [51, 99, len(ids) - 1]])
    assert np.array_equal(tokens[places], ids[places])
    seen = [corpus.batches(seq_len=7, batch_size=5, seed=1).batch(3) for corpus in (whole, cut)]
    assert np.array_equal(*seen)


def test_blocks_keep_the_order(
    shelf: Shelf, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file of a chunk mixes the blocks of all splits; each split keeps its order."""
    whole = prepare(shelf, tokenizer, split="document", **SHARES)
    monkeypatch.setattr("data.chunks.BLOCK", 10)
    whole.folder.rename(whole.folder.with_name("aside"))
    again = prepare(shelf, tokenizer, split="document", **SHARES)
    assert hashes(again.folder) == hashes(whole.folder.with_name("aside"))


def test_the_number_of_processes_changes_nothing(shelf: Shelf, tokenizer: Tokenizer) -> None:
    made = []
    for processes in (1, 2, 3):
        corpus = prepare(shelf, tokenizer, split="tail", **SHARES, processes=processes)
        made.append(hashes(corpus.folder.rename(corpus.folder.with_name(f"by {processes}"))))
    assert len(made[0]) == 4 and made[0] == made[1] == made[2]


def test_an_error_in_a_process_is_reported(tokenizer: Tokenizer) -> None:
    """The `UserError` of a child process is raised unchanged in the parent."""
    shelf = Shelf(*TEXTS, "refused")
    with pytest.raises(UserError, match="a text is refused"):
        prepare(shelf, tokenizer, split="tail", **SHARES, processes=2)


# The program that is killed: it prepares stories.
PROGRAM = """
import sys
from data.prepare import prepare
from data.sources.open import open_source
from data.tokenizer import Tokenizer, open_tokenizer
from pathlib import Path

if __name__ == "__main__":
    tokenizer = open_tokenizer(Path(sys.argv[1]).read_bytes())
    source = open_source("stories", stories=5000)
    prepare(source, tokenizer, split="document", val_fraction=0.1, test_fraction=0.1, processes=2,
            shard_tokens=1 << 20)
"""


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize(
    "signal_number", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_killed_and_resumed(tmp_path: Path, tokenizer: Tokenizer, signal_number: int) -> None:
    """A killed process leaves no child process. The next one uses the finished chunks, and writes
    the same shards as a process that was not killed."""
    program, model = tmp_path / "program.py", tmp_path / "tokenizer.model"
    program.write_text(PROGRAM)
    model.write_bytes(tokenizer.model_bytes)
    made = []
    for place in ("undisturbed", "killed"):
        env = os.environ | {"BREEZE_CACHE": str(tmp_path / place), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, str(program), str(model)]
        if place == "killed":
            process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE)
            while len(list((tmp_path / place).rglob("chunks/*.json"))) < 2:
                assert process.poll() is None, process.stderr
                time.sleep(0.02)
            process.send_signal(signal_number)
            process.wait(60)
            marker, deadline = f"BREEZE_CACHE={tmp_path / place}", time.monotonic() + 30
            while processes_with(marker) and time.monotonic() < deadline:
                time.sleep(0.05)
            assert not processes_with(marker)
            finished = list((tmp_path / place).rglob("chunks/*.json"))
            assert 2 <= len(finished) < 5 and not list((tmp_path / place).rglob("manifest.json"))
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        assert ("chunks are already tokenized" in done.stderr) == (place == "killed")
        (shards,) = (tmp_path / place / "shards").iterdir()
        assert not list(shards.rglob(".*.part")) and not (shards / "chunks").exists()
        made.append(hashes(shards))
    assert made[0] == made[1] and len(made[0]) > 5


@pytest.mark.slow
def test_two_processes_tokenize_once(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """Two processes that start together: one tokenizes, the other waits."""
    program, model = tmp_path / "program.py", tmp_path / "tokenizer.model"
    program.write_text(PROGRAM)
    model.write_bytes(tokenizer.model_bytes)
    env = os.environ | {"BREEZE_CACHE": str(cache_folder()), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(program), str(model)]
    both = [subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) for _ in "ab"]
    printed = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    assert sum("tokenizing into" in one for one in printed) == 1, printed
