"""The small model of drawn_model.py, for every test of this folder."""

from pathlib import Path

import pytest
import tiny
from drawn_model import save

from data.vocabulary import train_tokenizer
from inference.trained import TrainedModel, open_trained


@pytest.fixture(scope="session")
def tokenizer_bytes() -> bytes:
    """A BPE vocabulary with pieces such as " the"."""
    return train_tokenizer([tiny.english(20_000)], type="bpe", vocab_size=400)


@pytest.fixture
def saved(tmp_path: Path, tokenizer_bytes: bytes) -> Path:
    """The checkpoint file of the small model; its windows are 4, 4, 4."""
    return save(tmp_path, tokenizer_bytes)


@pytest.fixture
def trained(saved: Path) -> TrainedModel:
    """The small model, opened."""
    return open_trained(saved)
