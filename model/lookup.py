"""Lookup: guess the next tokens from the text itself, so that one pass can check several of them.

Speculative decoding (Leviathan et al., arXiv 2211.17192) lets a cheap model propose tokens, which
the model then reads all at once. Here the text itself proposes them: where its last tokens stood
before, it may go on in the same way (prompt lookup decoding). A text that repeats itself gains.
Nothing is guessed in a text that does not, so it loses nothing.
"""

from collections.abc import Iterable

CONTEXT = 8  # tokens that must have occurred before: fewer lead to more wrong guesses
HISTORY = 4096  # of the last so many tokens of a text, so that memory stays bounded


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
        """Return n tokens: those that followed when the last `CONTEXT` stood there before, or none.

        Where they reach the end of the text they go on with themselves: a, b, a, b gives a, b, a.
        """
        end = self._ends.get(tuple(self._tokens[-CONTEXT:]))
        if end is None:
            return []
        guessed = self._tokens[end : end + n]
        period = len(self._tokens) - end
        return [guessed[place % period] for place in range(n)]
