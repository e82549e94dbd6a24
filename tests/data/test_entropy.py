"""data/entropy.py, compared with definitions and with what is known about texts."""

import math
import random
import shutil
import subprocess
from collections import Counter

import numpy as np
import pytest

from data import entropy
from data.shards import JoinedTokens


def test_the_entropy_of_the_frequencies() -> None:
    """Bits could be given for nats, or tokens that never occur counted."""
    tokens = [3, 3, 3, 3, 9, 9, 7, 500]
    expected = -sum(n / 8 * math.log(n / 8) for n in Counter(tokens).values())
    assert entropy.unigram_entropy(np.array(tokens, np.uint16)) == pytest.approx(expected)
    assert entropy.unigram_entropy(np.arange(64)) == pytest.approx(math.log(64))


def test_every_part_of_a_long_text_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The marks of a sorted text would be those of its beginning; the time would grow with it."""
    monkeypatch.setattr(entropy, "COUNTED", 320)
    halves = [np.zeros(5000, np.uint16), np.ones(5000, np.uint16)]
    for tokens in (np.concatenate(halves), JoinedTokens(halves)):
        assert entropy.unigram_entropy(tokens) == pytest.approx(math.log(2))
        assert len(entropy.spread(tokens, 320)) == 320
    pieces = entropy.spread(np.arange(10_000), 320)
    assert pieces[0] == 0 and pieces[-1] == 9_999 and len(set(pieces.tolist())) == 320
    assert entropy.spread(np.arange(320), 320).tolist() == list(range(320))


def test_tokens_that_the_loss_leaves_out_do_not_count() -> None:
    """The marks would be of prompts, the loss of answers."""
    tokens = np.array([~7, ~7, 3, 4, ~9, 3, 4], np.int16)
    assert entropy.unigram_entropy(tokens) == pytest.approx(math.log(2))
    sizes = [
        entropy.xz_size(ids, lambda id: b"ab c"[id - 3 :]) for ids in (tokens, tokens[[2, 3, 5, 6]])
    ]
    assert sizes[0] == sizes[1]


def test_a_text_under_xz() -> None:
    """Bits could be divided by tokens. Random bytes do not compress, repeated ones do."""
    draw = random.Random(0)
    noise = np.array([draw.randrange(256) for _ in range(20_000)])
    _, bpb = entropy.xz_size(noise, lambda id: bytes([id]))
    assert 8 < bpb < 8.1
    _, bpb = entropy.xz_size(np.zeros(20_000, int), lambda id: b"a word ")
    assert bpb < 0.02
    nats, bpb = entropy.xz_size(noise, lambda id: b"%03d " % id)  # four bytes a token
    assert nats == pytest.approx(4 * bpb * math.log(2))


@pytest.mark.skipif(shutil.which("xz") is None, reason="the command xz is not installed")
def test_the_command_xz_gives_the_same_size() -> None:
    """Readers compare the mark with `xz` of their own text."""
    draw = random.Random(0)
    tokens = np.array([draw.randrange(30) for _ in range(20_000)])
    text = b"".join(b"w%d " % id for id in tokens.tolist())
    size = len(subprocess.run(["xz", "-6", "-c"], input=text, capture_output=True).stdout)
    _, bpb = entropy.xz_size(tokens, lambda id: b"w%d " % id)
    assert bpb == pytest.approx(8 * size / len(text), rel=1e-3)
