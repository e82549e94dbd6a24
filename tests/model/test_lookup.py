"""Guesses are what followed the last tokens of the text where they stood before."""

import random

import pytest

from model import lookup
from model.lookup import CONTEXT, Lookup


def searched(text: list[int], n: int) -> list[int]:
    """Search the text from its end for its last tokens."""
    for end in range(len(text) - 1, CONTEXT - 1, -1):
        if text[end - CONTEXT : end] == text[-CONTEXT:]:
            longer = list(text)
            while len(longer) < end + n:  # the text goes on as it did after that place
                longer.append(longer[end + len(longer) - len(text)])
            return longer[end : end + n]
    return []


@pytest.mark.parametrize("n_words", [1, 2, 3, 6])
def test_guesses_are_those_of_a_search(n_words: int) -> None:
    """The last tokens could be found where they stand now, or at an earlier place than the last."""
    draw = random.Random(n_words)
    text = [draw.randrange(n_words) for _ in range(300)]
    for begin in (0, 1, 2, 3, 10):
        guesser = Lookup(text[:begin])
        for end in range(begin, len(text)):
            for n in (0, 1, 3):
                assert guesser.guess(n) == searched(text[:end], n), (end, n)
            guesser.extend(text[end : end + 1])


def test_a_long_text_needs_no_more_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The history of a text without end could grow without end; its end could be forgotten."""
    monkeypatch.setattr(lookup, "HISTORY", 20)
    assert len(Lookup(range(500))._tokens) <= 40
    guesser, text = Lookup(), [number % 7 for number in range(500)]
    for end, token in enumerate(text, 1):
        guesser.extend([token])
        assert len(guesser._tokens) <= 40 and len(guesser._ends) <= 40
        assert end < 10 or guesser.guess(3) == searched(text[max(0, end - 20) : end], 3)
