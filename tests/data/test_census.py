"""data/census.py: counts against counts made by hand, wherever blocks and documents end."""

import hashlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from data import census
from data.census import (
    TokenCensus,
    count_text,
    count_tokens,
    text_warnings,
    token_warnings,
    vocabulary_warnings,
)
from data.documents import Document

WINDOWS_1252 = "He said: caf\u00e9 \u201cna\u00efve\u201d.\n".encode().decode("cp1252", "ignore")


def documents(*texts: str) -> list[Document]:
    return [Document(f"d{number}", text) for number, text in enumerate(texts)]


def test_the_counts_of_a_text() -> None:
    """By hand."""
    texts = [
        "A kite.\nThe end.",
        "The kite flew!\nThe end.",
        "a  KITE.\nthe end.",
        "A kite.\nThe end.",
    ]
    counted = count_text(documents(*texts), 0)
    assert counted.documents == 4
    assert counted.n_bytes == sum(map(len, texts))
    assert (counted.longest_bytes, counted.longest_name) == (len(texts[1]), "d1")
    assert (counted.repeated, counted.alike) == (1, 1)
    assert counted.words == len({"a", "kite", "the", "end", "flew"})
    assert (counted.commonest_line, counted.commonest_line_count) == ("The end.", 3)
    assert counted.commonest_line_share == 24 / sum(map(len, texts))
    assert counted.compressed_bytes == counted.n_bytes and counted.xz_ratio > 1
    assert dict(counted.flaws) == {} and dict(counted.separators) == {}


def test_misread_windows_1252() -> None:
    """UTF-8 read as Windows-1252 is found; capitals of Portuguese and French are not."""
    assert census._MISREAD.search(WINDOWS_1252)
    correct = (
        "N\u00c3O! \u00abAMANH\u00c3\u00bb, \u00abL\u00c2CHE\u00bb, AMANH\u00c3\u2026 "
        "\u201cAMANH\u00c3\u201d, ch\u00e2teau, \u201c\u00e2\u201d, 20 \u00c2"
    )
    assert not census._MISREAD.search(correct)


@pytest.mark.parametrize("mark", ["<|endoftext|>", "</s>", "<s>", "[SEP]", "<eos>", "<|im_end|>"])
def test_special_tokens(mark: str) -> None:
    """One occurrence is reported, on its own line or within a line: prose has none."""
    for text in (f"The end.{mark}Once upon", f"The end.\n{mark}\nOnce upon"):
        counted = count_text(documents(text), 0)
        assert counted.separators == {mark: 1}
        (warning,) = text_warnings(counted)
        assert warning.startswith(f"{mark} occurs 1 times: if it separates documents, add ")


@pytest.mark.parametrize("rule", ["***", "---", "* * *", "=====", "~~~", "___", "###"])
def test_rules(rule: str) -> None:
    """A line of asterisks or dashes is reported if it is more frequent than documents; not if each
    document has one, nor in a table or within a sentence."""
    text = f"The end.\n\n {rule} \nOnce upon a time.\n" * 12
    assert count_text(documents(text), 0).separators == {rule: 12}
    titled = documents(*[f"Title {number}\n{rule}\nText." for number in range(12)])
    assert not count_text(titled, 0).separators
    assert not count_text(documents(*[f"{n}\n" for n in range(13)], text), 0).separators
    other = f"a {rule} b\n|{rule}|{rule}|\n- one\n-- two\n" * 30
    assert not count_text(documents(other), 0).separators


@pytest.mark.parametrize("block", [1, 2, 3, 7, 100])
def test_tokens_are_grouped_by_document(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    """For any size of the blocks that are read at once."""
    monkeypatch.setattr(census, "BLOCK", block)
    ids = [[1, 5, 5, 2], [1, 2], [1, 6, 2], [1, 5, 5, 2]]
    tokens = np.array([id for document in ids for id in document], np.uint16)
    counted = count_tokens(tokens, 8, 1)
    assert counted.counts.tolist() == [0, 4, 4, 0, 0, 4, 1, 0]
    assert counted.lengths == [4, 2, 3, 4] and counted.n_tokens == 13
    assert counted.digests == [
        hashlib.blake2b(np.array(document, np.uint16).tobytes(), digest_size=12).digest()
        for document in ids
    ]
    assert count_tokens(tokens[:0], 8, 1).lengths == []
    bos_is_eos = np.where(tokens == 2, 1, tokens)
    assert count_tokens(bos_is_eos, 8, 1).lengths == [3, 2, 3]


def test_characters_without_a_piece() -> None:
    """30 of 1,000 tokens are bytes."""
    splits = {
        split: TokenCensus(np.zeros(400, np.int64), [], []) for split in ("train", "val", "test")
    }
    tokenizer: Any = SimpleNamespace(piece_ids=range(259, 400), bos_id=1, eos_id=2)
    splits["train"].counts[259:] = 10
    splits["train"].counts[259] -= 440
    splits["train"].counts[3 + 0xC3] = 30
    assert splits["train"].n_tokens == 1000 and splits["train"].spelled_share(tokenizer) == 0.03
    assert not list(token_warnings(splits))
    (warning,) = vocabulary_warnings(splits["train"], tokenizer)
    assert warning.startswith("3% of the tokens are bytes of characters that the vocabulary lacks")
