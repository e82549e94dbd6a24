"""Stories for beginners (prose/primer.txt): a fact is used soon after it is stated.

From them, a model learns early in training to attend to facts. If uses are rare and far, it learns
the sentences but guesses the facts. Such a story is a series of steps. A step is news, which states
a fact, or a use of known facts. A fact that was last mentioned too many words ago is not used
again, except after a pause, when scenes have passed the time.
"""

import re
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from data.stories.probes import MARK
from data.stories.scenes import count_words, draw_scenes, pass_time, say
from data.stories.templates import Telling, fields_of, read_scripts
from data.stories.world import Thing, World

PRIMER = "primer"  # the name of these stories among the plots
SHORT = 160  # words; a story with a smaller drawn distance is a story for beginners
STEPS = 16  # a story has 16 to 31 steps
PAUSE, PAUSES = 40, 5  # of the distances of at least 40 words, scenes fill one in 5
PARAGRAPH = 6  # steps in a paragraph, on average
INTRODUCTION = 4  # facts that are stated before most steps are uses

Facts = frozenset[str]  # such as {"k.place", "k.noun"}


class _Line(NamedTuple):
    """A telling, the events before it, and the facts that it needs."""

    events: tuple[str, ...]
    telling: Telling
    needs: Facts


_WORD_FACTS = {"n": "n.number", "t": "t.treat", "w": "w.word"}  # things with a single fact


@cache
def _beats(part: str) -> tuple[tuple[_Line, ...], ...]:
    """Read the beats of a part of prose/primer.txt: begin, news, uses or end.

    The fields of a telling show what it states and what it needs. The event `need FACT` names a
    fact that it needs without using it.
    """
    (script,) = (script for script in read_scripts(PRIMER) if script.name == part)
    beats = []
    for beat in script.beats:
        needs = {event.split()[1] for event in beat.events if event.startswith("need")}
        lines = (
            _Line(beat.events, telling, frozenset(needs | set(_needs(telling))))
            for telling in beat.tellings
        )
        beats.append(tuple(lines))
    return tuple(beats)


@cache
def _uses() -> dict[Facts, list[_Line]]:
    """Return the lines of the part "uses" by the facts that they need."""
    uses: dict[Facts, list[_Line]] = {}
    for line in (line for beat in _beats("uses") for line in beat):
        uses.setdefault(line.needs, []).append(line)
    return uses


def _needs(telling: Telling) -> Iterator[str]:
    """Yield the facts that the fields of a telling use."""
    stated: set[str] = set()
    for field in fields_of(telling):
        thing, dot, part = field.lower().partition(".")
        if not dot or thing not in "krntw":
            continue
        kind, _, role = part.rpartition("_")  # colour_fact; "" where the field is {k.noun}
        fact = _WORD_FACTS.get(thing) or f"{thing}.{kind or 'noun'}"
        if role == "fact":
            stated |= {fact, f"{thing}.noun"}
        elif fact not in stated:
            yield fact


def tell_primer(world: World, near: int, far: int) -> list[str]:
    """Return the paragraphs of a story for beginners.

    Each use draws its own distance from its fact, from `near` to `far` words. No use needs a fact
    that is much further back, except after a pause.
    """
    return _Primer(world, near, far).tell()


class _Primer:
    """The state of a story for beginners: what it has mentioned, and which steps are possible."""

    def __init__(self, world: World, near: int, far: int) -> None:
        self._world, self._draw = world, world.draw
        self._near, self._far = near, far
        self._scenes = draw_scenes(world.draw)
        self._words = 0
        self._mentioned: dict[str, int] = {}  # by fact: the word at which it was mentioned last
        self._news = list(_beats("news"))
        self._uses = {needs: list(lines) for needs, lines in _uses().items()}

    def tell(self) -> list[str]:
        """Return the paragraphs."""
        draw = self._draw
        paragraphs = [self._tell(draw.choose(draw.choose(_beats("begin"))))]
        for _ in range(STEPS + draw.below(STEPS)):
            distance = draw.distance(self._near, self._far)
            introduced = len(self._mentioned) > INTRODUCTION  # facts and the thing's noun
            pause = introduced and distance >= PAUSE and not draw.below(PAUSES)
            passed = 0
            if pause:
                scenes = pass_time(self._world, self._scenes, distance)
                passed = sum(map(count_words, scenes))
                self._words += passed
                paragraphs += scenes
            line = self._next_line(distance, introduced, max(self._far, passed + PAUSE))
            if line is None:
                break
            text = self._tell(line)
            if pause or not draw.below(PARAGRAPH):
                paragraphs.append(text)
            else:
                paragraphs[-1] += " " + text
        near = self._near_facts(self._far)
        ends = [line for beat in _beats("end") for line in beat if line.needs <= near]
        return [*paragraphs, self._tell(draw.choose(ends))]

    def _near_facts(self, most: int) -> Facts:
        """Return the facts that were mentioned at most `most` words ago."""
        oldest = self._words - most
        return frozenset(fact for fact, word in self._mentioned.items() if word >= oldest)

    def _next_line(self, distance: int, introduced: bool, most: int) -> _Line | None:
        """Return a use or news that needs facts at most `most` words back, or None if there is
        none. After the introduction, uses are more frequent than news."""
        draw, near = self._draw, self._near_facts(most)
        news = [
            (beat, lines)
            for beat in self._news
            if (lines := [line for line in beat if line.needs <= near])
        ]
        use = self._use(distance, near)
        if use and (not news or draw.below(4 if introduced else 2)):
            lines = self._uses[use]
            line = lines.pop(draw.below(len(lines)))
            if not lines:
                del self._uses[use]
            return line
        if not news:
            return None
        beat, lines = draw.choose(news if introduced else news[:2])
        self._news.remove(beat)
        return draw.choose(lines)

    def _use(self, distance: int, near: Facts) -> Facts | None:
        """Return `near` facts, used by some line, of which the oldest is about `distance` words
        back: the ratio of the two distances is closest to 1."""
        best, closest = None, 0.0
        for facts in self._uses:
            if facts <= near:
                age = self._words - min([self._mentioned[fact] for fact in facts])
                ratio = age / distance if age < distance else distance / age
                if ratio >= closest:
                    best, closest = facts, ratio
        return best

    def _tell(self, line: _Line) -> str:
        """Let the events of a line happen, and return its text; record the facts in it."""
        for event in line.events:
            self._world.apply(event)
        text = say(self._world, line.telling)
        thing = self._world["k"]
        assert isinstance(thing, Thing)
        mentions = [(mark[1], mark.start()) for mark in MARK.finditer(text)]
        noun = re.search(rf"\b(?:{thing.noun}|{thing.nouns})\b", text)
        if noun and any(fact.endswith("colour") for fact in (*self._mentioned, *dict(mentions))):
            mentions.append(("k.noun", noun.start()))
        for fact, start in mentions:
            self._mentioned[fact] = self._words + text.count(" ", 0, start)
        self._words += count_words(text)
        return text
