"""The result of `experiments.trace` as data, and in words. Reading it needs no torch."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from model.window import Window, widest


def bare(text: str) -> str:
    """Return a text without the spaces around it; one of spaces only as it is."""
    return text.strip() or text


@dataclass(frozen=True)
class TraceResult:
    """One prediction, the token that it depends on, and the path between them.

    Boundary 0 is the embedding, boundary b the output of layer b - 1.
    """

    checkpoint: str
    windows: tuple[Window, ...]
    case: str  # where the text is from, and what is replaced
    note: str  # what else must be said about the case
    tokens: tuple[str, ...]  # up to the query that predicts
    answer: str  # the token whose probability is explained
    source: tuple[int, ...]  # positions of the replaced tokens
    distance: int  # from the nearest of them to the query, in tokens
    first: int  # the position of the first number in each row of `shares`
    clean: float  # probability of the answer
    corrupted: float  # the same with the source replaced
    effect: float  # bits
    shares: tuple[tuple[float, ...], ...]  # of the effect, by boundary and position
    path: tuple[int, ...]  # a position for each boundary
    carried: tuple[float, ...]  # share of the effect along the path from each boundary on

    @property
    def target(self) -> int:
        """The position of the query that predicts."""
        return len(self.tokens) - 1

    @property
    def window(self) -> int | None:
        """The widest window, in keys; None if a layer sees everything."""
        return widest(self.windows)

    def share(self, boundary: int, position: int) -> float:
        """Return what a place restores of the effect; 0 before the source."""
        return 0.0 if position < self.first else self.shares[boundary][position - self.first]

    def boundary(self, number: int) -> str:
        """Name a boundary: "embedding", "layer 0", ..."""
        return f"layer {number - 1}" if number else "embedding"

    def text(self) -> str:
        """Return the text, the source in brackets."""
        marked = [
            token.replace(bare(token), f"[{bare(token)}]") if n in self.source else token
            for n, token in enumerate(self.tokens)
        ]
        return "".join(marked).removeprefix("<s>").strip()

    def sentences(self) -> Iterator[str]:
        """Say what was replaced, what that did, and how far back it is."""
        if self.note:
            yield self.note
        word = bare("".join(self.tokens[n] for n in self.source))
        yield f"This is {self.case}."
        yield (
            f"The probability of {bare(self.answer)!r} is {self.clean:.1%}, and "
            f"{self.corrupted:.1%} without {word!r}: an effect of {self.effect:.2f} bits."
        )
        if self.window is None:
            yield (
                f"{word!r} is {self.distance} tokens back. A layer sees all tokens: nothing has to "
                "travel."
            )
        elif self.distance < self.window:
            yield (
                f"{word!r} is {self.distance} tokens back, inside the window of {self.window}: "
                "nothing has to travel."
            )
        else:
            yield (
                f"{word!r} is {self.distance} tokens back, outside the window of {self.window}: it "
                "can only come through several layers."
            )
        yield f"The strongest path carries {self.carried[0]:.1%} of the effect."

    def hops(self) -> list[str]:
        """Return a line for each layer: from which token to which, how far, how much is carried."""
        lines = []
        for layer, (start, end) in enumerate(pairwise(self.path)):
            window = self.windows[layer]
            limit = "" if window is None else f" (at most {window - 1})"
            before, after = (self._name(position) for position in (start, end))
            how = f"stays at {after}" if start == end else (
                f"{before} -> {after}, {end - start} tokens{limit}"
            )  # fmt: skip
            lines.append(f"layer {layer}: {how}; from here on the path carries "
                         f"{self.carried[layer + 1]:.1%}")  # fmt: skip
        return lines

    def columns(self, most: int) -> list[int]:
        """Return the positions of the path and those that restore most, at most so many."""
        strongest = sorted(
            range(self.first, self.target + 1),
            key=lambda position: (
                -max(abs(self.share(b, position)) for b in range(len(self.shares)))
            ),
        )
        chosen = list(dict.fromkeys([*self.path, *strongest]))[:most]
        return sorted(chosen)

    def _name(self, position: int) -> str:
        return f"{bare(self.tokens[position])!r} at {position}"
