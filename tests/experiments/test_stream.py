"""experiments/stream.py: the perplexities of the cached stream equal those of one uncached pass."""

import itertools
import json
import shutil
from pathlib import Path

import pytest
import tiny
import torch

from data.text import open_text
from experiments import stream
from inference.trained import open_trained

SHORT = ["train.max_steps=2", "train.warmup_steps=1"]


def test_perplexities_are_those_of_an_uncached_pass(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Columns that are shifted, sinks that are not kept, another text."""
    words = [str(finished), "--window", "4", "--sinks", "0", "3", "--tokens", "150"]
    path = tmp_path / "stream.json"
    assert stream.main([*words, "--split", "train", "--json", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    result = json.loads(path.read_text())
    assert result["ends"] == [32, 64, 128, 150] and result["windows"] == [4, 4]
    assert lines[-3].split() == ["sinks", "32", "64", "128", "150"]
    for line, sinks, row in zip(lines[-2:], (0, 3), result["rows"], strict=True):
        opened = open_trained(finished).with_settings(sliding_window=4, attention_sinks=sinks)
        tokens = (
            open_text(opened.config.data, opened.config.tokenizer)[1]
            .tokens("train")[:151]
            .astype("int64")
        )
        text = torch.from_numpy(tokens)
        log_probabilities = opened.model(text[None, :-1])[0].log_softmax(-1)
        nats = -log_probabilities[torch.arange(150), text[1:]]
        edges = [0, 32, 64, 128, 150]
        expected = [nats[a:b].mean().exp().item() for a, b in itertools.pairwise(edges)]
        found = [float(cell) for cell in line.split()]
        assert found == pytest.approx([sinks, *expected], abs=0.01)
        assert row == {"sinks": sinks, "perplexities": pytest.approx(expected, rel=1e-5)}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tokens", "1"], "--tokens is 1"),
        (["--window", "0"], "--window is 0"),
        (["--sinks", "-1"], "--sinks is -1"),
        (["--sinks", "x"], "invalid int value"),
    ],
)
def test_bad_arguments_are_refused(
    finished: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A traceback, or a table of something else."""
    assert message in refused([str(finished), *words], capsys)


def test_a_changed_text_is_refused(
    tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table of a text that the model was not trained with, without a note."""
    copy = Path(shutil.copy(text, tmp_path / "text.txt"))
    assert tiny.start(tmp_path / "run", copy, *SHORT) == 0
    copy.write_text(copy.read_text().replace("king", "cook"))
    error = refused([str(tmp_path / "run"), "--tokens", "100"], capsys)
    assert "no longer what it was trained on" in error


def test_a_run_without_a_test_split_is_refused(
    tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An IndexError: an empty text has no position."""
    words = ["data.test_fraction=0", *SHORT]
    assert tiny.start(tmp_path / "run", text, *words) == 0
    assert "has no test split" in refused([str(tmp_path / "run")], capsys)
    assert stream.main([str(tmp_path / "run"), "--split", "val", "--tokens", "100"]) == 0


def test_full_attention_needs_a_window(
    tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A cache that grows with the text, or a traceback that says so."""
    words = ["model.sliding_window=[8,null]", *SHORT]
    assert tiny.start(tmp_path / "run", text, *words) == 0
    assert "by --window" in refused([str(tmp_path / "run"), "--tokens", "100"], capsys)
    assert stream.main([str(tmp_path / "run"), "--window", "4", "--tokens", "100"]) == 0


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run the command, which must print one line of error and no table; return the line."""
    capsys.readouterr()
    assert stream.main(words) == 2
    printed = capsys.readouterr()
    lines = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    assert printed.out == "" and len(lines) == 1 and "Traceback" not in printed.err
    return lines[0]
