"""data/prompts.py and the shards of rows with prompts: which ids are marked, and nothing else."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.corpus import Corpus
from data.mixture import MixedCorpus
from data.prepare import prepare, tokenizer_for
from data.prompts import PlainTokens, encode_marked, token_dtype
from data.sources.open import open_source
from data.splits import SPLITS
from data.tokenizer import Tokenizer, open_tokenizer
from data.vocabulary import train_tokenizer
from errors import UserError

SHARES: dict[str, Any] = {"split": "document", "val_fraction": 0.2, "test_fraction": 0.1}
PAIRS = [(f"Question {n}: what is {n} + {n}?\n", f"It is {2 * n}, né.") for n in range(30)]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A table of questions and answers."""
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps({"question": prompt, "answer": answer}) for prompt, answer in PAIRS]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def opened(path: Path) -> Any:
    return open_source("files", path=str(path), field="answer", prompt_field="question")


def prepared(path: Path, type: str = "bpe", **shares: Any) -> tuple[Tokenizer, Corpus]:
    shares = SHARES | shares
    tokenizer = tokenizer_for([(opened(path), 1.0)], type=type, vocab_size=330, **shares)
    return tokenizer, prepare(opened(path), tokenizer, **shares)


@pytest.mark.parametrize("type", ["bpe", "unigram", "char"])
def test_prompt_and_answer_are_tokenized_separately(type: str) -> None:
    """Tokenized together, "think" + "ing" would be one word with one token over the border, and a
    model that is given the prompt alone would read other tokens than in training."""
    model = train_tokenizer(["thinking of thinking, thinking! "] * 99, type=type, vocab_size=290)
    tokenizer = open_tokenizer(model)
    for prompt, answer in [("think", "ing"), ("a ", " b"), ("x\n", "y"), ("\u2581", "\u2581é")]:
        ids = encode_marked(tokenizer, prompt + answer, len(prompt))
        marked = [id for id in ids if id < 0]
        assert ids == [tokenizer.bos_id, *marked, *tokenizer.encode(answer), tokenizer.eos_id]
        # As `scripts.sample --prompt` reads it; -1 - id is written out here.
        assert [-1 - id for id in marked] == tokenizer.encode_prompt(prompt)[1:]
        assert tokenizer.decode([-1 - id for id in marked]) == prompt
    assert encode_marked(tokenizer, "think", 0) == tokenizer.encode_document("think")


@pytest.mark.parametrize("size", [1, 1 << 15, (1 << 15) + 1, 1 << 16, (1 << 16) + 1])
def test_the_type_holds_every_id_with_its_mark(size: int) -> None:
    """A mark that overflows would be another id, and a plain shard would have other bytes."""
    ids = np.array([0, size - 1])
    marked, plain = (np.dtype(token_dtype(size, has_prompts=has)) for has in (True, False))
    assert (~ids).astype(marked).tolist() == [-1, -size]
    assert ids.astype(plain).tolist() == [0, size - 1] and plain.kind == "u"
    assert plain.itemsize == (2 if size <= 1 << 16 else 4)


def test_shards_hold_marked_prompts_and_count_the_bytes_of_answers(rows: Path) -> None:
    """A mark could slip to another token; bits per byte would be divided by bytes of prompts."""
    tokenizer, corpus = prepared(rows)
    left = {prompt + answer: (prompt, answer) for prompt, answer in PAIRS}
    for split in SPLITS:
        ids = corpus.marked_tokens(split)[:].tolist()
        plain = corpus.tokens(split)[:].tolist()
        assert plain == [-1 - id if id < 0 else id for id in ids]
        assert len(ids) == corpus.n_tokens(split)
        assert sum(id < 0 for id in ids) == corpus.n_prompt_tokens(split) > 0
        n_bytes, ends = 0, [n for n, id in enumerate(ids) if id == tokenizer.eos_id]
        for start, end in zip([0, *(end + 1 for end in ends[:-1])], ends, strict=True):
            prompt, answer = left.pop(tokenizer.decode(plain[start:end]))
            read = [-1 - id for id in ids[start:end] if id < 0]
            assert tokenizer.decode(read) == prompt
            assert tokenizer.decode([id for id in ids[start:end] if id >= 0]) == answer
            n_bytes += len(answer.encode())
        assert corpus.n_bytes(split) == n_bytes
    assert not left  # every row was found


def test_tokens_are_plain_unless_marks_are_asked_for(rows: Path) -> None:
    """An experiment that reads `tokens` would feed negative ids to the model."""
    _, corpus = prepared(rows)
    tokens, marked = corpus.tokens("train"), corpus.marked_tokens("train")
    grid = np.arange(12).reshape(3, 4)
    for index in (slice(None), slice(5, 50), slice(0, 0), grid):
        expected = [-1 - id if id < 0 else id for id in np.ravel(marked[index]).tolist()]
        assert np.ravel(tokens[index]).tolist() == expected
    assert (corpus.batches(seq_len=20, batch_size=4, seed=0).batch(3) < 0).any()


def test_a_mixture_with_a_plain_text_keeps_both(rows: Path, tmp_path: Path) -> None:
    """Unsigned 16-bit ids of one source and negative ids of another need a type that holds both."""
    (tmp_path / "plain.txt").write_text("Plain text without questions. " * 90)
    tokenizer, corpus = prepared(rows)
    plain = prepare(open_source("files", path=str(tmp_path / "plain.txt"), prompt_field="question"),
                    tokenizer, split="tail", val_fraction=0.2, test_fraction=0.1)  # fmt: skip
    assert plain.manifest["dtype"] == "<u2" and "n_prompt_tokens" not in json.dumps(plain.manifest)
    mixed = MixedCorpus({"a": plain, "b": corpus}, {"a": 1.0, "b": 1.0})
    for split in SPLITS:
        both = [*plain.tokens(split).tolist(), *corpus.marked_tokens(split).tolist()]
        assert mixed.marked_tokens(split)[:].tolist() == both
        assert mixed.tokens(split)[:].tolist() == [-1 - id if id < 0 else id for id in both]
        assert mixed.n_prompt_tokens(split) == corpus.n_prompt_tokens(split)
    batch = mixed.batches(seq_len=16, batch_size=64, seed=1).batch(0)
    assert (batch < 0).any() and (batch >= 0).all(axis=1).any()


def test_the_end_of_the_text_may_cut_a_prompt(rows: Path) -> None:
    """split=tail cuts at characters: what is left of a prompt must stay marked, and no more."""
    tokenizer, corpus = prepared(rows, "char", split="tail")
    whole = "".join(prompt + answer for prompt, answer in PAIRS)
    marks = "".join("p" * len(prompt) + "a" * len(answer) for prompt, answer in PAIRS)
    found_text, found_marks = "", ""
    for split in SPLITS:
        for id in corpus.marked_tokens(split).tolist():
            text = tokenizer.decode([-1 - id if id < 0 else id])
            found_text, found_marks = found_text + text, found_marks + len(text) * "ap"[id < 0]
    assert found_text == whole and found_marks == marks


def test_a_split_of_prompts_alone_is_refused(tmp_path: Path) -> None:
    """Its loss would be that of </s>, divided by 0 bytes."""
    path = tmp_path / "one.jsonl"
    path.write_text(json.dumps({"question": "q" * 2000, "answer": "a"}))
    with pytest.raises(UserError, match="split holds prompts without an answer: give more text"):
        prepared(path, "char")


def test_the_column_of_prompts_is_part_of_the_fingerprint(rows: Path) -> None:
    """Shards of one reading would be used for another; of plain text, all readings are one."""
    without = open_source("files", path=str(rows), field="answer")
    assert opened(rows).fingerprint() != without.fingerprint()
    assert opened(rows).has_prompts and not without.has_prompts
    text = rows.with_name("a.txt")
    text.write_text("plain")
    one, other = (open_source("files", path=str(text), prompt_field=name) for name in (None, "q"))
    assert one.fingerprint() == other.fingerprint() and not other.has_prompts


def test_plain_tokens_of_a_wide_type() -> None:
    """Marks of 32-bit ids."""
    assert PlainTokens([np.array([-70_001, 5], "<i4")])[:].tolist() == [70_000, 5]
