"""The field of an error: a room names its argument, the caller the key or option of the user."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.settings import SECTIONS, SETTINGS, DataSettings, keys_of
from data.batches import Batches
from data.documents import Source
from data.sources.hub import Hub
from data.sources.open import open_source
from data.splits import assign_documents, choose_splitter
from data.text import open_sources
from data.vocabulary import train_tokenizer
from errors import UserError, fields_named
from model import ModelConfig, Sampling
from model.window import layer_windows
from training.device import choose_device

ALL = keys_of(*SECTIONS)  # from field to key
FRACTIONS = {"val_fraction": 0.1, "test_fraction": 0.1}


def stories() -> Source:
    return open_source("stories", stories=20)


def read(name: str, content: str, **settings: Any) -> Source:
    """Open a file of the present folder as a source."""
    Path(name).write_text(content)
    return open_source("files", path=name, **settings)


def one_document(split: str) -> Any:
    return choose_splitter(read("a.txt", "a"), split=split, **FRACTIONS)


# What raises; the beginning of its message; the same in terms of a config.
CASES: dict[str, tuple[Callable[[], Any], str, str]] = {
    "window": (lambda: layer_windows(0, 2), "sliding_window is 0: ", "model.sliding_window is 0: "),
    "windows": (
        lambda: ModelConfig(8, n_layers=2, sliding_window=[1, 2, 3]),
        "sliding_window lists 3 windows", "model.sliding_window lists 3 windows",
    ),
    "sinks": (
        lambda: ModelConfig(8, attention_sinks=-1),
        "attention_sinks is -1: ", "model.attention_sinks is -1: ",
    ),
    "heads": (
        lambda: ModelConfig(8, n_heads=4, n_kv_heads=3),
        "n_heads (4) is not divisible by n_kv_heads (3): ",
        "model.n_heads (4) is not divisible by model.n_kv_heads (3): ",
    ),
    "width": (
        lambda: ModelConfig(8, dim=9, n_heads=4),
        "dim (9) is not divisible by n_heads (4): change one of them or set head_dim",
        "model.dim (9) is not divisible by model.n_heads (4): change one of them or set "
        "model.head_dim",
    ),
    "yarn": (
        lambda: ModelConfig(8, rope_scaling="yarn"),
        "rope_scaling yarn needs rope_original_len, ",
        "model.rope_scaling yarn needs model.rope_original_len, ",
    ),
    "source": (lambda: open_source("novel"), "source is 'novel': ", "data.source is 'novel': "),
    "distances": (
        lambda: open_source("stories", near=9, far=5),
        "near is 9, more than far, 5: ", "data.near is 9, more than data.far, 5: ",
    ),
    "no path": (lambda: open_source("files"), "path is missing: ", "data.path is missing: "),
    "path": (
        lambda: open_source("files", path="b.txt"),
        "b.txt does not exist: ", "data.path: b.txt does not exist: ",
    ),
    "glob": (
        lambda: open_source("files", path="*.md"),
        "*.md matches no file: ", "data.path: *.md matches no file: ",
    ),
    "encoding": (
        lambda: read("a.txt", "a\0b"),
        "a.txt is not UTF-8 (byte 1): ", "data.path: a.txt is not UTF-8 (byte 1): ",
    ),
    "column": (
        lambda: read("a.jsonl", '{"title": "b"}'),
        "a.jsonl has no column text, but title: ",
        "data.field: a.jsonl has no column text, but title: ",
    ),
    "row": (
        lambda: read("a.jsonl", "{", strict=True),
        "a.jsonl, line 1: not JSON", "data.path: a.jsonl, line 1: not JSON",
    ),
    "documents": (
        lambda: read("a.txt", "a", documents="line", separator="b"),
        "documents is line and separator is 'b': ",
        "data.documents is line and data.separator is 'b': ",
    ),
    "no dataset": (lambda: Hub(None), "path is missing: ", "data.path is missing: "),
    "split": (
        lambda: choose_splitter(stories(), split="half", **FRACTIONS),
        "split is 'half': ", "data.split is 'half': ",
    ),
    "shares": (
        lambda: choose_splitter(stories(), split="tail", val_fraction=0.5, test_fraction=0.75),
        "val_fraction (0.5) and test_fraction (0.75) must not ",
        "data.val_fraction (0.5) and data.test_fraction (0.75) must not ",
    ),
    "short text": (
        lambda: one_document("tail"),
        "split=tail leaves nothing for train: the text has 1 characters; give more text or change "
        "val_fraction or test_fraction",
        "data.split=tail leaves nothing for train: the text has 1 characters; give more text or "
        "change data.val_fraction or data.test_fraction",
    ),
    "few documents": (
        lambda: assign_documents(["a", "b"], **FRACTIONS),
        "the text has 2 documents, too few to hold out 1 for val and 1 for test: split=tail ",
        "the text has 2 documents, too few to hold out 1 for val and 1 for test: data.split=tail",
    ),
    "tokenizer": (
        lambda: train_tokenizer(["a"], type="word", vocab_size=300),
        "type is 'word': ", "tokenizer.type is 'word': ",
    ),
    "vocabulary": (
        lambda: train_tokenizer(["a"], type="bpe", vocab_size=99),
        "vocab_size is 99, ", "tokenizer.vocab_size is 99, ",
    ),
    "sequence": (
        lambda: Batches(np.arange(9), seq_len=32, batch_size=1, seed=0),
        "seq_len is 32: one sequence needs 33 tokens", "data.seq_len is 32: one sequence needs 33 ",
    ),
    "temperature": (
        lambda: Sampling(temperature=-1), "temperature is -1: ", "sample.temperature is -1: ",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_room_names_the_field_and_the_caller_the_key(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that the user did not write, or an argument that no config has."""
    monkeypatch.chdir(tmp_path)
    call, bare, with_key = CASES[name]
    with pytest.raises(UserError) as caught:
        call()
    assert str(caught.value).startswith(bare)
    assert all(field in ALL for field in (caught.value.field, *caught.value.others) if field)
    with pytest.raises(UserError) as caught, fields_named(ALL):
        call()
    assert str(caught.value).startswith(with_key)


def test_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for hardware that the machine lacks."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UserError, match=r"^train\.device is cuda"), fields_named(keys_of("train")):
        choose_device("cuda")


@pytest.mark.parametrize("source", ["novel", "files:nowhere/"])
def test_a_mixture_names_its_sources(source: str) -> None:
    """`data.path`, which a config with data.mix does not have."""
    settings = DataSettings(mix={"stories": 1.0, source: 1.0}, stories=20)
    with pytest.raises(UserError, match=r"^data\.mix"), fields_named(keys_of("data")):
        open_sources(settings)


def test_every_setting_has_its_own_field() -> None:
    """Two settings of one name in different sections, of which an error would blame the wrong."""
    assert sorted(ALL.values()) == sorted(name for name in SETTINGS if "." in name)
    assert keys_of("tokenizer") == {"type": "tokenizer.type", "vocab_size": "tokenizer.vocab_size"}


def test_fields_survive_the_way_out_of_a_process() -> None:
    """An error of a process that tokenizes, which arrives without its field."""
    error = pickle.loads(pickle.dumps(UserError("near is 9, more than far", "near", ["far"])))
    assert (str(error), error.field, error.others) == ("near is 9, more than far", "near", ("far",))
