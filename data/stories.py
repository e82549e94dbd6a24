"""The story world: small worlds that are simulated first and told second, in plain English.

    story(seed, index) -> Story(text, probes)

A plot (prose/plots.txt) says what happens, in order: the kite is put in the barn, it is moved, it
is found. Each event changes the `World`; then a sentence is chosen, and what it says about a thing
it asks the world. So a story cannot contradict itself. Between a fact and its use time passes:
scenes of prose/scenes.txt, until the distance that was drawn is reached, and now and then a word
about how the plot stands. Around it all goes a frame (prose/frames.txt), beginning and ending.

A *probe* is a word that only an earlier fact can tell: where it stands, where the fact stands, the
right word, and others that would fit the sentence. A fact may be overwritten before it is needed.

Everything is drawn by 64-bit integer arithmetic of our own: the same bytes for the same seed and
index on every machine, for ever. One story in 20 is `val`, one `test`; the three share no
combination of hero, thing and plot: these are drawn again until they fall into the story's split.
"""

import hashlib
import re
from collections.abc import Callable
from functools import cache
from itertools import product
from math import gcd
from pathlib import Path
from typing import NamedTuple, TypeVar

from data import lexicon

NEAR, FAR = 5, 1000  # words between a fact and its use
SPLITS = 18 * ("train",) + ("val", "test")  # of an index, modulo their number

T = TypeVar("T")


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
    """Tell story `index` of the world `seed`; `near` and `far` bound the words that are to pass
    from a fact to its use, drawn alike in each doubling. Scenes pass the time, and stop when it is
    over; where the plot's own sentences take longer, so does it: often 60 words and more."""
    assert 1 <= near <= far and index >= 0
    draw = _Draw(seed, index)
    plot, world = _cast(draw, split_of(index))
    distance = _distance(draw, near, far)
    frame = draw.choose(_prose("frames")).beats
    around = frame.index(_GAP)
    kept: dict[str, str] = {}
    paragraphs = [_tell(world, frame[:around], kept)]
    paragraphs += _tell_plot(world, plot, distance)
    paragraphs.append(_tell(world, frame[around + 1 :], kept))
    return _unmark("\n\n".join(paragraphs), world.candidates)


@cache
def world_fingerprint() -> str:
    """Hash all that stories are made of: equal hash, equal stories."""
    here = Path(__file__).parent
    parts = [Path(__file__), here / "lexicon.py", *sorted((here / "prose").glob("*.txt"))]
    return hashlib.sha256(b"\0".join(part.read_bytes() for part in parts)).hexdigest()


# ---------------------------------------------------------------------------- chance

_WORD = (1 << 64) - 1
_PRIME = (1 << 61) - 1


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

    def choose(self, items: tuple[T, ...]) -> T:
        return items[self.below(len(items))]


def _distance(draw: _Draw, near: int, far: int) -> int:
    """Draw a number of words, as likely from `near` to 2 `near` as from 2 to 4 `near`, and on."""
    octaves = [near]
    while octaves[-1] * 2 < far:
        octaves.append(octaves[-1] * 2)
    low = draw.choose(tuple(octaves))
    return low + draw.below(min(low * 2, far + 1) - low)


# ---------------------------------------------------------------------------- grammar

_PLURALS = {
    "mouse": "mice", "goose": "geese", "sheep": "sheep", "deer": "deer", "ox": "oxen",
    "calf": "calves", "postman": "postmen",
}  # fmt: skip


def _article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


@cache
def plural(noun: str) -> str:
    before, space, last = noun.rpartition(" ")
    if last in _PLURALS:
        return before + space + _PLURALS[last]
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("s", "x", "ch", "sh", "ato")) else "s")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


# ---------------------------------------------------------------------------- the world


class _Person:
    """Someone in the story, and how to speak of them."""

    def __init__(self, name: str, kind: str, small: str) -> None:
        self.name, self.kind, self.who = name, kind, f"{_article(small)} {kind}"
        female = name in _GIRLS
        self.he, self.him, self.his = ("she", "her", "her") if female else ("he", "him", "his")
        self.He, self.His = _capital(self.he), _capital(self.his)


_GIRLS = frozenset(lexicon.GIRLS)


class _Fact:
    """A word to be remembered: `told` marks it as a fact, `said` as a probe of it."""

    def __init__(self, key: str, word: str, before: str = "") -> None:
        self.told, self.said = f"{before}<{key}:{word}>", f"[{key}:{word}]"
        capital = _capital(word)
        self.Told = f"{_capital(before)}<{key}:{word if before else capital}>"
        self.Said = f"[{key}:{capital}]"


class _Thing:
    """Something with a colour, and with a place or a holder. The attributes are the words that
    prose asks for (see prose/plots.txt); what is not yet known is not there to be told."""

    def __init__(self, key: str, colour: str, noun: str) -> None:
        self._key, self.noun, self.nouns = key, noun, plural(noun)
        self.phrase = f"{colour} {noun}"
        self.a = _article(self.phrase)
        self.A = _capital(self.a)
        self.seen = f"{self.a.split()[0]} <{key}.colour:{colour}> {noun}"
        self.Seen = _capital(self.seen)
        self.known = f"[{key}.colour:{colour}]"

    def lay(self, place: str) -> None:
        where, _, noun = place.rpartition(" ")
        self.put = f"{where} <{self._key}.place:{noun}>"
        self.found = f"{where} [{self._key}.place:{noun}]"
        self.Found = _capital(self.found)

    def give(self, name: str) -> None:
        self.given = f"<{self._key}.holder:{name}>"
        self.holder = f"[{self._key}.holder:{name}]"


class _World(dict[str, object]):
    """The state, which is also what the fields of prose are looked up in. A field that is not part
    of the state is a word of a list (`lexicon.LISTS`): another each time, or, with a digit, the
    same throughout the plot or scene. It is never one of the `secrets`, the words that a probe
    may ask for: a use far from its fact would not need it, had the word been said in between."""

    def __init__(self, draw: _Draw, setting: str) -> None:
        self.draw, self.setting = draw, setting
        self.kept: dict[str, str] = {}
        self.lists = dict(lexicon.LISTS)
        self.secrets: set[str] = set()

    def happen(self, event: str) -> None:
        """Change the state: put THING PLACE, give THING PERSON. What else happens, take THING
        PERSON, leave PERSON, come PERSON, is for readers (data/judge.py)."""
        verb, *what = event.split()
        if verb == "put":
            self[what[0]].lay(self[what[1]])  # type: ignore[attr-defined]
        elif verb == "give":
            self[what[0]].give(self[what[1]])  # type: ignore[attr-defined]

    def __missing__(self, field: str) -> str:
        if field[0] == "+":
            return plural(self[field[1:]])  # type: ignore[arg-type]
        if field[:2] in ("a ", "A "):
            phrase = _article(str(self[field[2:]]))
            return phrase if field[0] == "a" else _capital(phrase)
        if field[-2] == " ":
            return self._spoken(*field.split())
        if field[-1].isdigit():
            if field not in self.kept:
                self.kept[field] = str(self[field[:-1]])
            return self.kept[field]
        if field[0].isupper():
            return _capital(str(self[field.lower()]))
        word = self.draw.choose(self.lists[field])
        while word in self.secrets:
            word = self.draw.choose(self.lists[field])
        if field in lexicon.DESCRIBED and self.draw.below(2):
            return f"{self.draw.choose(lexicon.DESCRIBED[field])} {word}"
        return word

    def _spoken(self, verb: str, who: str) -> str:
        """Say who speaks: said Mia, answered Mia, said Mia softly."""
        verb = self.draw.choose(lexicon.LISTS[verb])
        if verb not in ("said", "asked") or self.draw.below(2):
            return f"{verb} {self[who]}"
        return f"{verb} {self[who]} {self['softly' if verb == 'said' else 'politely']}"

    def candidates(self, key: str) -> tuple[str, ...]:
        """List what could stand in the place of the fact `key`."""
        kind = key.rpartition(".")[2]
        if kind == "place":
            return tuple(place.rpartition(" ")[2] for place in lexicon.SETTINGS[self.setting])
        if kind == "holder":
            return str(self["A"]), str(self["B"]), str(self["C"])
        return _POOLS[kind]


_POOLS = {
    "colour": lexicon.COLOURS,
    "number": lexicon.LISTS["number"],
    "treat": lexicon.TREATS,
    "word": lexicon.SECRETS,
}


def _cast(draw: _Draw, split: str) -> "tuple[_Plot, _World]":
    """Draw a plot, and a world for it, of which the combination belongs to `split`."""
    while True:
        plot = draw.choose(_prose("plots"))
        name = draw.choose(draw.choose((lexicon.GIRLS, lexicon.BOYS)))
        noun = draw.choose(lexicon.TOYS)
        combination = int.from_bytes(f"{plot.name} {name} {noun}".encode(), "little")
        if split_of(_mix(combination % _PRIME)) == split:
            break
    setting = draw.choose(tuple(lexicon.SETTINGS))
    world = _World(draw, setting)
    world["lives"] = lexicon.LIVES[setting]
    names = [name]
    while len(names) < 3:
        other = draw.choose(draw.choose((lexicon.GIRLS, lexicon.BOYS)))
        if other not in names:
            names.append(other)
    animals = draw.below(3) == 0
    for key, name in zip("abc", names, strict=True):
        kind = "girl" if name in _GIRLS else "boy"
        if animals:
            kind = draw.choose(lexicon.CREATURES)
        small = draw.choose(lexicon.LISTS["small"])
        world[key] = person = _Person(name, kind, small)
        world[key.upper()] = person.name
    _furnish(world, draw, noun)
    return plot, world


def _furnish(world: _World, draw: _Draw, noun: str) -> None:
    """Draw what the story may need: things, places, neighbours, and words to remember."""
    first = draw.below(len(lexicon.COLOURS))
    step = 1 + draw.below(len(lexicon.COLOURS) - 1)
    colours = [lexicon.COLOURS[(first + n * step) % len(lexicon.COLOURS)] for n in range(4)]
    for key, its, colour in zip(
        "krm", (noun, noun, draw.choose(lexicon.TOYS)), colours[1:], strict=True
    ):
        thing = _Thing(key, colour, its)
        world[key], world[key.upper()] = thing, thing.phrase
    places = list(lexicon.SETTINGS[world.setting])
    for key in "pqs":
        world[key] = places.pop(draw.below(len(places)))
    neighbours = list(lexicon.NEIGHBOURS[world.setting])
    known = [neighbours.pop(draw.below(len(neighbours))) for _ in range(4)]
    known = [f"{draw.choose(lexicon.MANNERS)} {job}" if draw.below(2) else job for job in known]
    world.lists |= {"where": tuple(places), "job": tuple(known)}
    world["d"] = _Fact("d.colour", colours[0])
    world.secrets = {*colours[:2], *(world[key].rpartition(" ")[2] for key in "pq")}  # type: ignore[attr-defined]
    for kind, keys, pool in (
        ("treat", "tf", lexicon.TREATS),
        ("number", "ni", lexicon.LISTS["number"]),
        ("word", "wv", lexicon.SECRETS),
    ):
        at = draw.below(len(pool))
        for key in keys:
            article = _article(pool[at]).removesuffix(pool[at]) if kind == "treat" else ""
            world[key] = _Fact(f"{key}.{kind}", pool[at], article)
            world.secrets.add(pool[at])
            at = (at + 1 + draw.below(len(pool) - 1)) % len(pool)


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


def written(name: str) -> list[tuple[tuple[str, ...], str]]:
    """List each way to tell a beat of prose/NAME.txt as it is written, with the beat's events."""
    beats = re.split(r"\n{2,}", re.sub(r"^== .*\n|^#.*\n", "", _file(name), flags=re.MULTILINE))
    parts = [_parts(block) for block in beats if block.strip()]
    return [(events, line) for events, lines in parts for line in lines]


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
        return "(" + "|".join(map(_capital, group.split("|"))) + ")"
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


def _say(world: _World, way: _Way) -> str:
    return " ".join([world.draw.choose(variants) for variants in way]).format_map(world)


def _tell_beat(world: _World, beat: _Beat) -> str:
    for event in beat.events:
        world.happen(event)
    return _say(world, world.draw.choose(beat.ways))


def _tell(world: _World, beats: tuple[_Beat, ...], kept: dict[str, str]) -> str:
    """Tell beats without gaps, as one paragraph, with words kept of its own."""
    outer, world.kept = world.kept, kept
    text = " ".join([_tell_beat(world, beat) for beat in beats])
    world.kept = outer
    return text


def _tell_plot(world: _World, plot: _Plot, distance: int) -> list[str]:
    """Tell a plot in paragraphs; its gap is filled until `distance` words lie behind the fact."""
    paragraphs: list[str] = []
    told: list[str] = []
    words = 0
    for beat in plot.beats:
        if beat.events in (_GAP.events, _BREAK.events):
            paragraphs.append(" ".join(told))
            told = []
            if beat.events == _GAP.events:
                paragraphs += _meanwhile(world, distance - words, beat.ways)
        else:
            sentence = _tell_beat(world, beat)
            told.append(sentence)
            words += sentence.count(" ") + 1
            if "<" in sentence:
                words = sentence.count(" ", sentence.rindex("<")) + 1
    return [*paragraphs, " ".join(told)]


def _meanwhile(world: _World, words: int, refrains: tuple[_Way, ...]) -> list[str]:
    """Tell scenes of `words` words in all, and after some of them how the plot stands; no scene
    comes twice before all have come once."""
    scenes, paragraphs = _prose("scenes"), []
    place, step = world.draw.below(len(scenes)), 1 + world.draw.below(len(scenes) - 1)
    while gcd(step, len(scenes)) > 1:
        step += 1
    refrain, told = world.draw.below(12), 0
    while words > 0:
        scene = scenes[place]
        place, told = (place + step) % len(scenes), told + 1
        if told > len(scenes) and any(beat.events for beat in scene.beats):
            continue  # a thing is left lying about once
        paragraphs.append(_tell(world, scene.beats, {}))
        if refrains and told % 3 == 0:
            refrain += 1
            paragraphs[-1] += " " + _say(world, refrains[refrain % len(refrains)])
        words -= paragraphs[-1].count(" ") + 1
    return paragraphs


_MARK = re.compile(r"[<\[]([\w.]+):([^>\]]+)([>\]])")


def _unmark(marked: str, candidates: Callable[[str], tuple[str, ...]]) -> Story:
    """Take the marks of facts and their uses out of the text, and make probes of them.

    A use whose word was mentioned since its fact, by chance, is no probe: the fact is not needed.
    """
    pieces = _MARK.split(marked)
    text, facts, uses, length = pieces[::4], {}, [], 0
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
        if bracket == ">":
            facts[key] = span
        elif key in facts:
            uses.append((key, facts[key], span, word))
    told = "".join(parts)
    lower = told.lower()
    probes = []
    for key, fact, use, word in uses:
        if not _mention(word.lower()).search(lower, fact[1], use[0]):
            wrong = [other for other in candidates(key) if other != word.lower() and other != word]
            if word[0].isupper():
                wrong = [_capital(other) for other in wrong]
            probes.append(Probe(key.rpartition(".")[2], fact, use, word, tuple(wrong)))
    return Story(told, tuple(probes))


@cache
def _mention(word: str) -> re.Pattern[str]:
    return re.compile(rf"\b{re.escape(word)}\b")
