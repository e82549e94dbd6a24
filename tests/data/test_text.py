"""data/text.py: a split of a run's text, and the errors for a changed text and a missing split."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from configs.settings import DataSettings
from data.prepare import tokenizer_for
from data.sources.open import open_source
from data.text import open_corpus, open_split
from data.tokenizer import Tokenizer
from errors import UserError

LINES = "".join(f"line {number} of the text\n" for number in range(100))


@pytest.fixture
def settings(tmp_path: Path) -> DataSettings:
    """The last tenth of a small file is the test split; the tenth before it is val."""
    path = tmp_path / "lines.txt"
    path.write_text(LINES)
    return DataSettings(
        source="files", path=str(path), split="tail", val_fraction=0.1, test_fraction=0.1
    )


@pytest.fixture
def tokenizer(settings: DataSettings) -> Tokenizer:
    return tokenizer_for(
        [(open_source("files", path=settings.path, field="text"), 1.0)],
        type="char", vocab_size=300, split="tail", val_fraction=0.1, test_fraction=0.1,
    )  # fmt: skip


@pytest.mark.parametrize("split, start, stop", [("val", 0.8, 0.9), ("test", 0.9, 1.0)])
def test_a_split_has_its_tokens_and_bytes(
    settings: DataSettings, tokenizer: Tokenizer, split: str, start: float, stop: float
) -> None:
    """Another split, or the bytes of the whole text."""
    expected = LINES[int(len(LINES) * start) : int(len(LINES) * stop)]
    expected_hash = open_corpus(settings, tokenizer).data_hash
    tokens, n_bytes = open_split(settings, tokenizer, split, expected_hash)
    marks = (tokenizer.bos_id, tokenizer.eos_id)
    ids = [int(token) for token in np.asarray(tokens) if token not in marks]
    assert tokenizer.decode(ids) == expected
    assert n_bytes == len(expected)


def test_a_changed_text_is_refused(settings: DataSettings, tokenizer: Tokenizer) -> None:
    """A model scored on text that it may have been trained on."""
    expected_hash = open_corpus(settings, tokenizer).data_hash
    assert settings.path is not None
    Path(settings.path).write_text(LINES + "one more line\n")
    with pytest.raises(UserError, match="no longer what it was trained on"):
        open_split(settings, tokenizer, "test", expected_hash)


def test_an_empty_split_is_refused(settings: DataSettings, tokenizer: Tokenizer) -> None:
    """An IndexError, or the score of nothing."""
    without = replace(settings, test_fraction=0.0)
    expected_hash = open_corpus(without, tokenizer).data_hash
    with pytest.raises(UserError, match="has no test split"):
        open_split(without, tokenizer, "test", expected_hash)
    assert len(open_split(without, tokenizer, "val", expected_hash)[0]) > 2
