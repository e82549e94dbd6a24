"""The story world: small worlds that are simulated first and told second, in plain English.

    story(seed, index) -> Story(text, probes)

A plot (prose/plots.txt) says what happens, in order: the kite is put in the barn, it is moved, it
is found. Each event changes the `World`; then a sentence is chosen, and what it says about a thing
it asks the world. So a story cannot contradict itself. Between a fact and its use time passes:
scenes of prose/scenes.txt, until the distance that was drawn is reached, and now and then a word
about how the plot stands. Around it all goes a frame (prose/frames.txt), beginning and ending.

Where the distance that was drawn is short, so is the story: one for beginners (prose/primer.txt),
in which a fact is hardly told before it is used, and now and then a few scenes pass before it is
used again. They are what a young model learns to look back from: where uses are rare and far, it
learns the sentences and guesses the rest.

A *probe* is a word that only what was said before can tell: where it stands, where it was said
last, the right word, and others that would fit. A fact may be overwritten before it is needed.

The bytes are the same for the same seed and index on every machine, for ever. One story in 20 is
`val`, one `test`; the three share no combination of hero, thing and plot: these are drawn again
until they fall into the story's split.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from itertools import count, product
from math import gcd
from pathlib import Path
from typing import NamedTuple

from data.stories import lexicon
from data.stories.world import Draw, World, capital, cast, split_of

NEAR, FAR = 5, 1000  # words between a fact and its use
SHORT = 160  # words: a distance below is one for beginners
PRIMER = "primer"  # what their plot is called
TURNS = 16  # that a story for beginners takes, up to twice as many
PAUSE, PAUSES = 40, 5  # from so many words on, one distance in so many is passed with scenes
PARAGRAPH = 6  # turns in a paragraph of it


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


def story(seed: int, index: int, *, near: int = NEAR, far: int = FAR) -> Story:
    """Tell story `index` of the world `seed`; `near` and `far` bound the words that are to pass
    from a fact to its use, drawn alike in each doubling. In a story for beginners each use draws
    its own. Scenes pass the time, and stop when it is over; where the plot's own sentences take
    longer, so does it."""
    assert 1 <= near <= far and index >= 0
    distance, plot, world = _begin(seed, index, near, far)
    if plot == PRIMER:
        paragraphs = _tell_primer(world, near, min(far, SHORT))
    else:
        frame = world.draw.choose(_prose("frames")).beats
        around = frame.index(_GAP)
        kept: dict[str, str] = {}
        paragraphs = [_tell(world, frame[:around], kept)]
        paragraphs += _tell_plot(world, _plots()[plot], distance)
        paragraphs.append(_tell(world, frame[around + 1 :], kept))
    return _unmark("\n\n".join(paragraphs), world.candidates)


def combination(seed: int, index: int, *, near: int = NEAR, far: int = FAR) -> tuple[str, str, str]:
    """Name the plot, the hero and the thing of a story: no two splits share all three."""
    _, plot, world = _begin(seed, index, near, far)
    return plot, str(world["A"]), world["k"].noun  # type: ignore[attr-defined]


def _begin(seed: int, index: int, near: int, far: int) -> tuple[int, str, World]:
    """Draw how far a fact is from its use, and by that a plot, and a world for it."""
    draw = Draw(seed, index)
    distance = draw.distance(near, far)
    plots = (PRIMER,) if distance < SHORT else tuple(_plots())
    return distance, *cast(draw, split_of(index), plots)


@cache
def world_fingerprint() -> str:
    """Hash all that stories are made of: equal hash, equal stories."""
    here = Path(__file__).parent
    code = [here / name for name in ("telling.py", "world.py", "lexicon.py")]
    parts = [*code, *sorted((here / "prose").glob("*.txt"))]
    return hashlib.sha256(b"\0".join(part.read_bytes() for part in parts)).hexdigest()


# ---------------------------------------------------------------------------- the prose


_Way = tuple[tuple[str, ...], ...]  # sentences, and of each its variants


class _Beat(NamedTuple):
    """What happens, and the ways to tell it."""

    events: tuple[str, ...]
    ways: tuple[_Way, ...]


_GAP, _BREAK = _Beat(("...",), ()), _Beat(("--",), ())


class _Plot(NamedTuple):
    name: str
    beats: tuple[_Beat, ...]


@cache
def _prose(name: str) -> tuple[_Plot, ...]:
    """Read the plots of a file of prose; prose/plots.txt says how they are written."""
    plots = []
    for part in re.split(r"^== ", _file(name), flags=re.MULTILINE)[1:]:
        title, _, body = part.partition("\n")
        beats = tuple(map(_beat, re.split(r"\n{2,}", body.strip())))
        plots.append(_Plot(title.strip(), beats))
    return tuple(plots)


@cache
def _plots() -> dict[str, _Plot]:
    return {plot.name: plot for plot in _prose("plots")}


def written() -> list[tuple[tuple[str, ...], str]]:
    """List each way to tell a beat as it is written in prose/, with the beat's events."""
    ways = []
    for name in ("plots", "scenes", "frames", PRIMER):
        text = re.sub(r"^== .*\n|^#.*\n", "", _file(name), flags=re.MULTILINE)
        for block in re.split(r"\n{2,}", text):
            if block.strip():
                events, lines = _parts(block)
                ways += [(events, line) for line in lines]
    return ways


def sentences(text: str) -> list[str]:
    """Split at the ends of sentences, and of paragraphs."""
    return [part for part in re.split(r'(?<=[.!?])\s+|(?<=[.!?]")\s+|\n+', text) if part]


def _file(name: str) -> str:
    """Read a file of prose; a word that has others like it becomes a choice, except in choices."""
    text = (Path(__file__).parent / "prose" / f"{name}.txt").read_text(encoding="utf-8")
    return _ALIKE.sub(_choice, text)


_LIKE = {group.partition("|")[0]: group for group in lexicon.ALIKE}
_ALIKE = re.compile(r"^[@#=].*|\([^()\n]*\)|\{[^}]*\}|\b(?:" + "|".join(_LIKE) + r")\b(?! of\b)",
                    re.MULTILINE | re.IGNORECASE)  # fmt: skip


def _choice(match: re.Match[str]) -> str:
    word = match[0]
    if word in _LIKE:
        return f"({_LIKE[word]})"
    if word[0].isupper() and (group := _LIKE.get(word[0].lower() + word[1:])):
        return "(" + "|".join(map(capital, group.split("|"))) + ")"
    return word


def _beat(block: str) -> _Beat:
    events, lines = _parts(block)
    return _Beat(events, tuple(tuple(map(_variants, sentences(line))) for line in lines))


def _parts(block: str) -> tuple[tuple[str, ...], list[str]]:
    """Divide a beat into its events and the ways to tell it."""
    lines = block.strip().splitlines()
    if lines[0] in ("...", "--"):
        return (lines[0],), lines[1:]
    events = ";".join(line[1:] for line in lines if line.startswith("@"))
    told = [line for line in lines if not line.startswith("@")]
    return tuple(event.strip() for event in events.split(";") if event), told


def _variants(sentence: str) -> tuple[str, ...]:
    """Spell out every choice of (this|that); what grammar asks for is left to the fields."""
    parts = re.split(r"\(([^()]*\|[^()]*)\)", _fields(sentence))
    choices = [part.split("|") if number % 2 else [part] for number, part in enumerate(parts)]
    return tuple(_articles("".join(chosen)) for chosen in product(*choices))


def _fields(text: str) -> str:
    """Turn "{x}s" into a field that knows plurals, "{says} {x}" into one that knows how something
    may be said."""
    text = re.sub(r"\{(says|replies|asks)\} \{(\w)\}(?!, (?:\{|who))", r"{\1 \2}", text)
    text = re.sub(r"\{(\w)\.noun\}s\b", r"{\1.nouns}", text)
    return re.sub(r"\{(\w{2,})\}s\b", r"{+\1}", text)


def _articles(text: str) -> str:
    """Turn "a {x}" into a field that knows a from an, and mend the article before a plain word."""
    text = re.sub(r"(?<!\{)\b([Aa]) (?=[aeiou])(?!use|one)", r"\1n ", text)
    return re.sub(r"\b([Aa]) \{(\w+)\}", r"{\1 \2}", text)


# ---------------------------------------------------------------------------- telling


def _say(world: World, way: _Way) -> str:
    return " ".join([world.draw.choose(variants) for variants in way]).format_map(world)


def _tell_beat(world: World, beat: _Beat) -> str:
    for event in beat.events:
        world.happen(event)
    return _say(world, world.draw.choose(beat.ways))


def _tell(world: World, beats: tuple[_Beat, ...], kept: dict[str, str]) -> str:
    """Tell beats without gaps, as one paragraph, with words kept of its own."""
    outer, world.kept = world.kept, kept
    text = " ".join([_tell_beat(world, beat) for beat in beats])
    world.kept = outer
    return text


def _tell_plot(world: World, plot: _Plot, distance: int) -> list[str]:
    """Tell a plot in paragraphs; its gap is filled until `distance` words lie behind the fact."""
    paragraphs: list[str] = []
    told: list[str] = []
    words, scenes = 0, _scenes(world.draw)
    for beat in plot.beats:
        if beat.events in (_GAP.events, _BREAK.events):
            paragraphs.append(" ".join(told))
            told = []
            if beat.events == _GAP.events:
                paragraphs += _meanwhile(world, scenes, distance - words, beat.ways)
        else:
            sentence = _tell_beat(world, beat)
            told.append(sentence)
            words += _length(sentence)
            if "<" in sentence:
                words = sentence.count(" ", sentence.rindex("<")) + 1
    return [*paragraphs, " ".join(told)]


def _scenes(draw: Draw) -> Iterator[_Plot]:
    """Give scenes for ever, in an order that is drawn: none comes twice before all have come once,
    and one in which a thing is left lying about never comes again."""
    scenes = _prose("scenes")
    place, step = draw.below(len(scenes)), 1 + draw.below(len(scenes) - 1)
    while gcd(step, len(scenes)) > 1:
        step += 1
    for told in count():
        scene = scenes[(place + told * step) % len(scenes)]
        if told < len(scenes) or not any(beat.events for beat in scene.beats):
            yield scene


def _meanwhile(
    world: World, scenes: Iterator[_Plot], words: int, refrains: tuple[_Way, ...] = ()
) -> list[str]:
    """Tell scenes of `words` words in all, and after some of them how the plot stands."""
    paragraphs: list[str] = []
    refrain = world.draw.below(12)
    while words > 0:
        paragraphs.append(_tell(world, next(scenes).beats, {}))
        if refrains and len(paragraphs) % 3 == 0:
            refrain += 1
            paragraphs[-1] += " " + _say(world, refrains[refrain % len(refrains)])
        words -= _length(paragraphs[-1])
    return paragraphs


def _length(text: str) -> int:
    """Count words."""
    return text.count(" ") + 1


class _Move(NamedTuple):
    """What a story for beginners may go on with: a beat, the fact that it is about, as "k.place",
    and those that must have been told before."""

    beat: _Beat
    about: str
    needs: frozenset[str]


_FACTS = {"n": "n.number", "t": "t.treat", "w": "w.word"}  # the facts of letters that have one
_PARTS = {"put": "place", "found": "place"}  # what else is said of a thing is about its colour


@cache
def _moves(part: str) -> tuple[_Move, ...]:
    """Read the beats of a part of prose/primer.txt; what they need is seen from their fields."""
    (plot,) = (plot for plot in _prose(PRIMER) if plot.name == part)
    moves = []
    for beat in plot.beats:
        told, needed = [], set()
        for thing, field in re.findall(r"\{([krntw])\.(\w+)\}", str(beat.ways).lower()):
            fact = _FACTS.get(thing) or f"{thing}.{_PARTS.get(field, 'colour')}"
            if field in ("seen", "put", "told"):
                told.append(fact)
            else:
                needed.add(fact)
        about = [*told, *sorted(needed - {"k.colour"}), "k.colour"][0]
        asked = {event.split()[1] for event in beat.events if event.startswith("need")}
        moves.append(_Move(beat, about, frozenset(needed - set(told) | asked)))
    return tuple(moves)


def _tell_primer(world: World, near: int, far: int) -> list[str]:
    """Tell facts, and soon after a fact its uses, each at a distance of its own: the use is told of
    which the fact was mentioned about as long ago. Now and then scenes pass that time, and no fact
    is mentioned."""
    draw, words, scenes = world.draw, 0, _scenes(world.draw)
    said: dict[str, int] = {}  # where each fact was mentioned last, in words
    companion = draw.choose(tuple(_FACTS.values()))  # one more fact, beside those of the thing
    news = [move for move in _moves("news") if move.about == companion or move.about[0] in "kr"]
    uses = [(move, list(move.beat.ways)) for move in _moves("uses")]
    paragraphs = [_tell_beat(world, draw.choose(_moves("begin")).beat)]
    for _ in range(TURNS + draw.below(TURNS)):
        wanted = draw.distance(near, far)
        begun = len(said) >= 3  # the thing, where it lies and the companion are known; rare news
        pause = begun and wanted >= PAUSE and not draw.below(PAUSES)
        if pause:
            paragraphs += (passed := _meanwhile(world, scenes, wanted))
            words += sum(map(_length, passed))
        usable = [use for use in uses if use[1] and use[0].needs <= said.keys()]
        fresh = [move for move in news if move.needs <= said.keys()]
        if usable and (not fresh or draw.below(6 if begun else 2)):
            ages = [words - said[move.about] for move, _ in usable]
            ratios = [max(age, wanted) / max(1, min(age, wanted)) for age in ages]
            move, ways = usable[ratios.index(min(ratios))]
            sentence = _say(world, ways.pop(draw.below(len(ways))))
        elif fresh:
            move = draw.choose(fresh if begun else fresh[:2])
            news.remove(move)
            sentence = _tell_beat(world, move.beat)
        else:
            break
        for mark in _MARK.finditer(sentence):
            said[mark[1]] = words + sentence.count(" ", 0, mark.start())
        words += _length(sentence)
        if pause or not draw.below(PARAGRAPH):
            paragraphs.append(sentence)
        else:
            paragraphs[-1] += " " + sentence
    ends = [move for move in _moves("end") if move.needs <= said.keys()]
    return [*paragraphs, _tell_beat(world, draw.choose(ends).beat)]


_MARK = re.compile(r"[<\[]([\w.]+):([^>\]]+)([>\]])")


def _unmark(marked: str, candidates: Callable[[str], tuple[str, ...]]) -> Story:
    """Take the marks of facts and their uses out of the text, and make probes of them.

    A use whose word was mentioned since its fact, by chance, is no probe: the fact is not needed.
    """
    pieces = _MARK.split(marked)
    facts: dict[str, tuple[int, int]] = {}
    text, uses, length = pieces[::4], [], 0
    parts = []
    for number, plain in enumerate(text):
        parts.append(plain)
        length += len(plain)
        if number == len(text) - 1:
            break
        key, word, bracket = pieces[4 * number + 1 : 4 * number + 4]
        span = (length, length + len(word))
        parts.append(word)
        length += len(word)
        if bracket == "]" and key in facts:
            uses.append((key, facts[key], span, word))
        facts[key] = span
    told = "".join(parts)
    lower = told.lower()
    probes = []
    for key, fact, use, word in uses:
        if not _mentioned(word.lower(), lower[fact[1] : use[0]]):
            kind = key.rpartition(".")[2]
            probes.append(Probe(kind, fact, use, word, _others(candidates(key), word)))
    return Story(told, tuple(probes))


def _mentioned(word: str, text: str) -> bool:
    return word in text and re.search(rf"\b{re.escape(word)}\b", text) is not None


@lru_cache(maxsize=10_000)
def _others(words: tuple[str, ...], word: str) -> tuple[str, ...]:
    """List the words but one, with a capital if it has one."""
    if word[0].isupper():
        words = tuple(map(capital, words))
    return tuple(other for other in words if other != word)
