"""The stream with and without its first tokens, against one uncached pass."""

import itertools
from pathlib import Path

import pytest
import torch

from data.text import open_text
from experiments import stream
from inference.trained import open_trained


def test_perplexities_are_those_of_an_uncached_pass(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Columns that are shifted, sinks that are not kept, a text that is another."""
    words = [str(finished), "--window", "4", "--sinks", "0", "3", "--tokens", "150"]
    assert stream.main([*words, "--split", "train"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3].split() == ["kept", "32", "64", "128", "150"]
    for line, kept in zip(lines[-2:], (0, 3), strict=True):
        opened = open_trained(finished).with_settings(sliding_window=4, attention_sinks=kept)
        tokens = (
            open_text(opened.config.data, opened.config.tokenizer)[1]
            .tokens("train")[:151]
            .astype("int64")
        )
        text = torch.from_numpy(tokens)
        chances = opened.model(text[None, :-1])[0].log_softmax(-1)
        nats = -chances[torch.arange(150), text[1:]]
        edges = [0, 32, 64, 128, 150]
        expected = [nats[a:b].mean().exp().item() for a, b in itertools.pairwise(edges)]
        found = [float(cell) for cell in line.split()]
        assert found == pytest.approx([kept, *expected], abs=0.01)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--tokens", "1"], "--tokens is 1"),
        (["--window", "0"], "model.sliding_window is 0"),
        (["--sinks", "-1"], "model.attention_sinks is -1"),
        (["--sinks", "x"], "invalid int value"),
    ],
)
def test_nonsense_is_refused(
    finished: Path, words: list[str], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A traceback, or a table of something else."""
    try:
        code = stream.main([str(finished), *words])
    except SystemExit as exit:
        code = exit.code
    assert code == 2
    assert part in capsys.readouterr().err
