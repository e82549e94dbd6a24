"""experiments.segment: bytes per token of held-out text, or the reason why there is no number."""

import json
from pathlib import Path

import pytest
import tiny

from data import tokenizer
from data.sentencepiece_tokenizer import SentencePieceTokenizer
from data.tokenizer import open_tokenizer
from data.vocabulary import train_tokenizer
from errors import UserError
from experiments import segment

Cells = dict[tuple[str, str], list[str]]


def table(*words: str, capsys: pytest.CaptureFixture[str]) -> tuple[Cells, list[str]]:
    """Run the command; return its cells by corpus and type, and the notes below the table."""
    capsys.readouterr()
    assert segment.main(list(words)) == 0
    head, _, notes = capsys.readouterr().out.partition("\n\n")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in head.splitlines()]
    return {(row[0], row[1]): row[2:] for row in rows[2:]}, notes.splitlines()[1:]


def test_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Trained on the first nine tenths, measured on the next twentieth."""
    text = tiny.english(20_000).replace("king", "k\u00f6nig")
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    words = [str(tmp_path / "a.txt"), "--sizes", "320", "330", "9999", "--types", "bpe", "unigram",
             "--json", str(tmp_path / "result.json")]  # fmt: skip
    cells, notes = table(*words, capsys=capsys)
    train, val = text[: int(len(text) * 0.9)], text[int(len(text) * 0.9) : int(len(text) * 0.95)]
    for type in ("bpe", "unigram"):
        *numbers, missing = cells[str(tmp_path / "a.txt"), type]
        for number, size in zip(numbers, (320, 330), strict=True):
            ids = open_tokenizer(train_tokenizer([train], type=type, vocab_size=size)).encode(val)
            assert number == f"{len(val.encode()) / len(ids):.2f}"
        assert missing == "-"
    assert len(notes) == 2
    for note, type in zip(notes, ("bpe", "unigram"), strict=True):
        largest = open_tokenizer(train_tokenizer([train], type=type, vocab_size=9999)).vocab_size
        assert note.endswith(f", {type}, 9,999: the text allows {largest:,} tokens at most")
    results = json.loads((tmp_path / "result.json").read_text())["cells"]
    assert [cell["vocab_size"] for cell in results] == [320, 330, 9999] * 2
    for cell in results:
        number = cells[cell["corpus"], cell["type"]][(320, 330, 9999).index(cell["vocab_size"])]
        value = cell["bytes_per_token"]
        assert number == ("-" if value is None else f"{value:.2f}")


def test_documents_are_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The documents of the splits are those of the text, wherever a block of tokens ends."""
    texts = [f"{number} \u00e9 kite\n" * (number + 1) for number in range(20)]
    for number, text in enumerate(texts):
        (tmp_path / f"{number:02}.txt").write_text(text, encoding="utf-8")
    config = segment._config(str(tmp_path))
    for block in (1, 5, 1 << 20):
        monkeypatch.setattr(segment, "BLOCK", block)
        read = segment.SplitTexts(config)
        sections = [text for split in ("train", "val", "test") for text in read.documents(split)]
        assert "".join(sections) == "".join(texts)
        assert read.val == list(read.documents("val"))
    monkeypatch.setattr(segment, "MEASURED", 10)
    assert sum(map(len, segment.SplitTexts(config).val)) == 10


def test_a_text_that_is_not_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A tokenizer that loses text is marked, and the exit code is 1."""
    (tmp_path / "a.txt").write_text(tiny.english(5_000))
    words = [str(tmp_path / "a.txt"), "--sizes", "320", "--types", "bpe"]

    class Lossy(SentencePieceTokenizer):
        def encode(self, text: str) -> list[int]:
            return super().encode(text if len(text) < 99 else text.replace("e", "i"))

    monkeypatch.setattr(tokenizer, "open_tokenizer", Lossy)
    assert segment.main(words) == 1
    printed = capsys.readouterr().out
    assert "! |" in printed and "a.txt, bpe, 320: 1 documents are not restored" in printed


def test_configs_and_what_cannot_be_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A config names its own text; a default corpus that cannot be downloaded is skipped."""
    path = tmp_path / "own.yaml"
    path.write_text("data: {source: stories, stories: 60}\n")
    cells, _ = table(str(path), "--sizes", "400", "--types", "char", capsys=capsys)
    assert cells[str(path), "char"] == ["1.00"]

    def unreachable(*_: object) -> None:
        raise UserError("data.source=shakespeare could not be fetched")

    monkeypatch.setattr("data.text.open_text", unreachable)
    monkeypatch.setattr(segment, "SOURCES", ("shakespeare",))
    cells, notes = table("--sizes", "400", "--types", "bpe", capsys=capsys)
    assert cells == {} and notes == ["shakespeare: data.source=shakespeare could not be fetched"]
    assert segment.main(["shakespeare", "--sizes", "400"]) == 2


def test_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert segment.main(["--sizes", "0"]) == 2
    assert segment.main(["/nowhere"]) == 2
    assert segment.main(["nowhere.yaml"]) == 2
    assert segment.main(["--types", "word"]) == 2
    assert capsys.readouterr().err.count("\n") == 4
