"""The story world: small worlds that are simulated first and told second, in plain English.

    story(seed, index) -> Story(text, probes)

A plot (prose/plots.txt) says what happens, in order: the kite is put in the barn, it is moved, it is
found. Each event changes the `World`; then a sentence is chosen, and what it says about a thing it
asks the world. So a story cannot contradict itself. Between a fact and its use time passes: scenes
of prose/scenes.txt, until the distance that was drawn is reached.

A *probe* is a word that only an earlier fact can tell: where it stands, where the fact stands, the
right word, and others that would fit the sentence. A fact may be overwritten before it is needed.

Everything is drawn by 64-bit integer arithmetic of our own: the same bytes for the same (seed, index)
on every machine, for ever. One story in 20 is `val`, one `test`; the three share no combination of
hero, thing and plot, which are drawn again until they fall into the story's own split.
"""

import re
from collections.abc import Callable, Iterable
from functools import cache
from itertools import product
from pathlib import Path
from typing import NamedTuple

from data import lexicon

NEAR, FAR = 5, 1000  # words between a fact and its use
SPLITS = 18 * ("train",) + ("val", "test")  # of an index, modulo their number

Bank = tuple[str, ...]  # ways to say the same


class Probe(NamedTuple):
    """A word that an earlier one decides. Spans are (start, stop) in characters of the text."""

    kind: str
    fact: tuple[int, int]
    use: tuple[int, int]
    right: str
    wrong: tuple[str, ...]


class Story(NamedTuple):
    text: str
    probes: tuple[Probe, ...]


def split_of(index: int) -> str:
    """Say which split a story belongs to."""
    return SPLITS[index % len(SPLITS)]


def story(seed: int, index: int, *, near: int = NEAR, far: int = FAR) -> Story:
    """Tell story `index` of the world `seed`; `near` and `far` bound the words from a fact to its
    use, drawn alike in each doubling. (The plot's own sentences can make it a little longer.)"""
    assert 1 <= near <= far and index >= 0
    draw = _Draw(seed, index)
    plot, world = _cast(draw, split_of(index))
    distance = _distance(draw, near, far)
    paragraphs = [_tell(world, draw.choose(_prose("openings")))]
    paragraphs += _tell_plot(world, plot, distance)
    paragraphs.append(_tell(world, draw.choose(_prose("closings"))))
    return _unmark("\n\n".join(paragraphs), world.candidates)


# ---------------------------------------------------------------------------- chance

_WORD = (1 << 64) - 1


def _mix(word: int) -> int:
    """Scatter a 64-bit word (splitmix64's finalizer: Steele, Lea and Flood, 2014)."""
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 & _WORD
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB & _WORD
    return word ^ (word >> 31)


class _Draw:
    """A linear congruential generator of 64 bits (Knuth's MMIX constants), read from its top."""

    __slots__ = ("_state",)

    def __init__(self, seed: int, index: int) -> None:
        self._state = _mix((_mix(seed & _WORD) + index * 0x9E3779B97F4A7C15) & _WORD)

    def below(self, n: int) -> int:
        self._state = state = (self._state * 6364136223846793005 + 1442695040888963407) & _WORD
        return (state >> 32) * n >> 32

    def choose[T](self, items: "tuple[T, ...]") -> "T":
        return items[self.below(len(items))]
