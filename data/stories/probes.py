"""Probes: a text with marks becomes a plain text and its probes, the words that facts decide.

The world marks its words: <key:word> states a fact, [key:word] uses it. The key names the thing and
the kind, as in k.place. A use mentions the fact again, and the distance of the next use counts from
there.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

Span = tuple[int, int]  # (start, stop), in characters of the text


class Probe(NamedTuple):
    """A use: a word that an earlier fact decides."""

    kind: str  # what the fact is about: place, colour, holder, number, treat, word
    fact: Span  # the last mention of the fact before the use
    use: Span
    right: str
    wrong: tuple[str, ...]  # words that would fit as well


class Story(NamedTuple):
    """A story and the probes in it, in the order of their uses."""

    text: str
    probes: tuple[Probe, ...]


FACT_MARK = "<"  # a fact's first character
MARK = re.compile(r"[<\[]([\w.]+):([^>\]]+)([>\]])")  # key, word, closing bracket


def mark_fact(key: str, word: str) -> str:
    """Mark a word as the statement of the fact `key`."""
    return f"<{key}:{word}>"


def mark_use(key: str, word: str) -> str:
    """Mark a word as a use of the fact `key`."""
    return f"[{key}:{word}]"


def unmark(marked: str, candidates: Callable[[str], tuple[str, ...]]) -> Story:
    """Remove the marks from a text and return it with its probes.

    `candidates` gives the words that could stand in the place of a fact, by its key. A use is not a
    probe if its word also occurs between fact and use: then it can be copied from there.
    """
    facts: dict[str, Span] = {}
    uses: list[tuple[str, Span, Span, str]] = []
    pieces = MARK.split(marked)  # text, key, word, bracket, text, ..., text
    text = "".join(pieces[::2])
    end = 0
    marks = zip(pieces[::4], pieces[1::4], pieces[2::4], pieces[3::4], strict=False)
    for before, key, word, bracket in marks:
        start = end + len(before)
        end = start + len(word)
        if bracket == "]" and key in facts:
            uses.append((key, facts[key], (start, end), word))
        facts[key] = start, end
    lower = text.lower()
    probes = []
    for key, fact, use, word in uses:
        if not _contains_word(lower[fact[1] : use[0]], word.lower()):
            kind = key.rpartition(".")[2]
            probes.append(Probe(kind, fact, use, word, _others(candidates(key), word)))
    return Story(text, tuple(probes))


def _contains_word(text: str, word: str) -> bool:
    return word in text and re.search(rf"\b{re.escape(word)}\b", text) is not None


@lru_cache(maxsize=10_000)
def _others(words: tuple[str, ...], word: str) -> tuple[str, ...]:
    """Return the other words, capitalised if `word` is."""
    if word[0].isupper():
        words = tuple(other[0].upper() + other[1:] for other in words)
    return tuple(other for other in words if other != word)
