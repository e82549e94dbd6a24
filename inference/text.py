"""Text in, text out: a stream of text from a stream of tokens, up to a stop string."""

from collections.abc import Sequence

from data.tokenizer import TokenStream


class TextStream:
    """Text from tokens, up to the first stop string; holds back what may be the start of one."""

    def __init__(self, stream: TokenStream, stops: Sequence[str]) -> None:
        self.stream, self.stops = stream, [stop for stop in stops if stop]
        self.text, self.stopped = "", False  # what was given out so far
        self._held = ""

    def push(self, token: int) -> str:
        """Take a token; give the text that is certain now."""
        return self._release(self.stream.push(token), final=False)

    def flush(self) -> str:
        """Give what is still held back."""
        return "" if self.stopped else self._release(self.stream.flush(), final=True)

    def _release(self, fresh: str, final: bool) -> str:
        self._held += fresh
        found = [(stop, at) for stop in self.stops if (at := self._held.find(stop)) >= 0]
        if found:  # of two that overlap, the one complete first, however the tokens fall
            _, at = min((at + len(stop), at) for stop, at in found)
            self.stopped, certain = True, at
        else:
            certain = len(self._held) - (0 if final else self._undecided())
        out, self._held = self._held[:certain], self._held[certain:]
        self.text += out
        return out

    def _undecided(self) -> int:
        """Length of the longest end of what is held that begins a stop string."""
        return max(
            (
                length
                for stop in self.stops
                for length in range(1, min(len(stop), len(self._held) + 1))
                if self._held.endswith(stop[:length])
            ),
            default=0,
        )
