"""Lookup: guess the next tokens from the text itself, so that one pass can check several of them.

Speculative decoding (Leviathan et al., arXiv 2211.17192) lets a cheap model propose tokens, which
the model then reads all at once. Here the text itself proposes them: if its last tokens occurred
before, it may continue in the same way (prompt lookup decoding). A text that repeats itself gains.
A text that does not pays only for the search, a few percent.
"""

from collections.abc import Iterable

CONTEXT = 8  # tokens that must have occurred before: fewer lead to more wrong guesses
HISTORY = 4096  # number of last tokens that are searched, at least: bounds the memory


class Lookup:
    """The last tokens of a text, with the place where each run of `CONTEXT` tokens last ended."""

    def __init__(self, tokens: Iterable[int] = ()) -> None:
        self._tokens: list[int] = []
        self._ends: dict[tuple[int, ...], int] = {}  # not of the run that ends the text
        self.extend(tokens)

    def extend(self, tokens: Iterable[int]) -> None:
        """Add tokens to the text."""
        for token in tokens:
            if len(self._tokens) >= CONTEXT:
                self._ends[tuple(self._tokens[-CONTEXT:])] = len(self._tokens)
            self._tokens.append(token)
            if len(self._tokens) > 2 * HISTORY:
                kept, self._tokens, self._ends = self._tokens[-HISTORY:], [], {}
                self.extend(kept)

    def guess(self, n: int) -> list[int]:
        """Return the n tokens that followed the last `CONTEXT` tokens where they occurred before.

        Returns none if they did not. Past the end of the text, the guess repeats itself: a, b, a, b
        gives a, b, a.
        """
        end = self._ends.get(tuple(self._tokens[-CONTEXT:]))
        if end is None:
            return []
        guessed = self._tokens[end : end + n]
        period = len(self._tokens) - end
        return [guessed[place % period] for place in range(n)]
