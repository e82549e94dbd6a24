"""scripts.corpus counts what is there and warns of what makes a training silently bad."""

from pathlib import Path

import pytest

from scripts import corpus

SETTINGS = ["tokenizer.type=char", "tokenizer.vocab_size=400", "data.seq_len=16"]


def test_the_story_world(capsys: pytest.CaptureFixture[str]) -> None:
    assert corpus.main([*SETTINGS, "data.stories=40", "--show", "2"]) == 0
    printed = capsys.readouterr().out
    assert "--- document 1\n" in printed and "--- document 2\n" not in printed
    assert "documents        40, " in printed
    assert "come twice       0 documents" in printed
    ratio = float(printed.split("xz ratio")[1].split()[0])
    assert 0.1 < ratio < 0.5


def test_warnings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A text twice, an empty one, one that was not UTF-8, one line that is no text."""
    texts = ["An apple fell. " * 9, "An apple fell. " * 9, " ", "caf\ufffd " * 9, "x" * 100_001]
    for number, text in enumerate(texts):
        (tmp_path / f"{number}.txt").write_text(text, encoding="utf-8")
    files = ["data.source=files", f"data.path={tmp_path}", "data.split=tail"]
    assert corpus.main([*SETTINGS, *files, "--show", "0"]) == 0
    printed = capsys.readouterr().out
    for warning in ("1 documents come twice", "1 documents are empty", "1 documents have U+FFFD",
                    "1 documents have lines of 100,000"):  # fmt: skip
        assert f"look at this     {warning}" in printed


def test_silly_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert corpus.main(["--show", "-1"]) == 2
    assert corpus.main(["data.source=files", "data.path=/nowhere"]) == 2
    assert capsys.readouterr().err.count("\n") == 2
