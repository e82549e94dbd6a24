"""The world that stories are told of: chance, grammar, and the state of people and things.

A `World` is what the fields of prose are looked up in (prose/plots.txt lists them). Events change
it, and a sentence that says something about a thing asks it: so prose cannot contradict itself.
What a sentence says of a fact is marked, <key:word> where it is told and [key:word] where it is
needed; data/stories/telling.py takes the marks out again and makes probes of them.

Everything is drawn by 64-bit integer arithmetic of our own: the same for the same seed and index
on every machine, for ever.
"""

from collections.abc import Sequence
from functools import cache
from typing import TypeVar

from data.stories import lexicon

SPLITS = 18 * ("train",) + ("val", "test")  # of an index, modulo their number

T = TypeVar("T")


def split_of(index: int) -> str:
    """Say which split a story belongs to."""
    return SPLITS[index % len(SPLITS)]


# ---------------------------------------------------------------------------- chance

_WORD = (1 << 64) - 1
_PRIME = (1 << 61) - 1


def _mix(word: int) -> int:
    """Scatter a 64-bit word (splitmix64's finalizer: Steele, Lea and Flood, 2014)."""
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 & _WORD
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB & _WORD
    return word ^ (word >> 31)


@cache
def _octaves(near: int, far: int) -> tuple[int, ...]:
    octaves = [near]
    while octaves[-1] * 2 < far:
        octaves.append(octaves[-1] * 2)
    return tuple(octaves)


class Draw:
    """A linear congruential generator of 64 bits (Knuth's MMIX constants), read from its top."""

    __slots__ = ("_state",)

    def __init__(self, seed: int, index: int) -> None:
        self._state = _mix((_mix(seed & _WORD) + index * 0x9E3779B97F4A7C15) & _WORD)

    def below(self, n: int) -> int:
        """Draw from 0 to n - 1; n is below 2^32."""
        self._state = state = (self._state * 6364136223846793005 + 1442695040888963407) & _WORD
        return (state >> 32) * n >> 32

    def choose(self, items: Sequence[T]) -> T:
        """Draw one of these."""
        return items[self.below(len(items))]

    def distance(self, near: int, far: int) -> int:
        """Draw from `near` to `far`, as likely from `near` to 2 `near` as from 2 to 4 `near`..."""
        low = self.choose(_octaves(near, far))
        return low + self.below(min(low * 2, far + 1) - low)


# ---------------------------------------------------------------------------- grammar

_PLURALS = {
    "mouse": "mice", "goose": "geese", "sheep": "sheep", "deer": "deer", "ox": "oxen",
    "calf": "calves", "postman": "postmen",
}  # fmt: skip


def article(noun: str) -> str:
    """Put a or an before a noun, or before what describes it."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


@cache
def plural(noun: str) -> str:
    """Form the plural of a noun of the lexicon, whatever describes it."""
    before, space, last = noun.rpartition(" ")
    if last in _PLURALS:
        return before + space + _PLURALS[last]
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("s", "x", "ch", "sh", "ato")) else "s")


def capital(text: str) -> str:
    """Begin a text with a capital."""
    return text[:1].upper() + text[1:]


# ---------------------------------------------------------------------------- the world


class Person:
    """Someone in the story, and how to speak of them."""

    def __init__(self, name: str, kind: str, small: str) -> None:
        self.name, self.kind, self.who = name, kind, f"{article(small)} {kind}"
        female = name in _GIRLS
        self.he, self.him, self.his = ("she", "her", "her") if female else ("he", "him", "his")
        self.He, self.His = capital(self.he), capital(self.his)


_GIRLS = frozenset(lexicon.GIRLS)


class Fact:
    """A word to be remembered: `told` marks it as a fact, `said` as a probe of it."""

    def __init__(self, key: str, word: str, before: str = "") -> None:
        self.told, self.said = f"{before}<{key}:{word}>", f"[{key}:{word}]"
        self.Told = f"{capital(before)}<{key}:{word if before else capital(word)}>"
        self.Said = f"[{key}:{capital(word)}]"


class Thing:
    """Something with a colour, and with a place or a holder. The attributes are the words that
    prose asks for (see prose/plots.txt); what is not yet known is not there to be told."""

    def __init__(self, key: str, colour: str, noun: str) -> None:
        self._key, self.noun, self.nouns = key, noun, plural(noun)
        self.phrase = f"{colour} {noun}"
        self.a = article(self.phrase)
        self.A = capital(self.a)
        self.seen = f"{self.a.split()[0]} <{key}.colour:{colour}> {noun}"
        self.Seen = capital(self.seen)
        self.known = f"[{key}.colour:{colour}]"

    def lay(self, place: str) -> None:
        """Let it lie there, as in "in the barn"."""
        where, _, noun = place.rpartition(" ")
        self.put = f"{where} <{self._key}.place:{noun}>"
        self.found = f"{where} [{self._key}.place:{noun}]"
        self.Found = capital(self.found)

    def give(self, name: str) -> None:
        """Let somebody have it."""
        self.given = f"<{self._key}.holder:{name}>"
        self.holder = f"[{self._key}.holder:{name}]"


class World(dict[str, object]):
    """The state, which is also what the fields of prose are looked up in. A field that is not part
    of the state is a word of a list (`lexicon.LISTS`): another each time, or, with a digit, the
    same throughout the plot or scene. It is never one of the `secrets`, the words that a probe
    may ask for: a use far from its fact would not need it, had the word been said in between."""

    def __init__(self, draw: Draw, setting: str) -> None:
        self.draw, self.setting = draw, setting
        self.kept: dict[str, str] = {}
        self.lists = dict(lexicon.LISTS)
        self.secrets: set[str] = set()

    def happen(self, event: str) -> None:
        """Change the state: put THING PLACE, give THING PERSON. What else is written, take THING
        PERSON, leave PERSON, come PERSON, need FACT, is for readers."""
        verb, *what = event.split()
        if verb == "put":
            self[what[0]].lay(self[what[1]])  # type: ignore[attr-defined]
        elif verb == "give":
            self[what[0]].give(self[what[1]])  # type: ignore[attr-defined]

    def __missing__(self, field: str) -> str:
        if field[0] == "+":
            return plural(self[field[1:]])  # type: ignore[arg-type]
        if field[:2] in ("a ", "A "):
            phrase = article(str(self[field[2:]]))
            return phrase if field[0] == "a" else capital(phrase)
        if field[-2] == " ":
            return self._spoken(*field.split())
        if field[-1].isdigit():
            if field not in self.kept:
                self.kept[field] = str(self[field[:-1]])
            return self.kept[field]
        if field[0].isupper():
            return capital(str(self[field.lower()]))
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
            return _PLACES[self.setting]
        if kind == "holder":
            return str(self["A"]), str(self["B"]), str(self["C"])
        return _POOLS[kind]


_PLACES = {
    setting: tuple(place.rpartition(" ")[2] for place in places)
    for setting, places in lexicon.SETTINGS.items()
}
_POOLS = {
    "colour": lexicon.COLOURS,
    "number": lexicon.LISTS["number"],
    "treat": lexicon.TREATS,
    "word": lexicon.SECRETS,
}


def cast(draw: Draw, split: str, plots: tuple[str, ...]) -> tuple[str, World]:
    """Draw one of `plots` and a world for it, so that plot, hero and thing belong to `split`."""
    while True:
        plot = draw.choose(plots)
        name = draw.choose(draw.choose((lexicon.GIRLS, lexicon.BOYS)))
        noun = draw.choose(lexicon.TOYS)
        combination = int.from_bytes(f"{plot} {name} {noun}".encode(), "little")
        if split_of(_mix(combination % _PRIME)) == split:
            break
    setting = draw.choose(tuple(lexicon.SETTINGS))
    world = World(draw, setting)
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
        world[key] = person = Person(name, kind, small)
        world[key.upper()] = person.name
    _furnish(world, draw, noun)
    return plot, world


def _furnish(world: World, draw: Draw, noun: str) -> None:
    """Draw what the story may need: things, places, neighbours, and words to remember."""
    first = draw.below(len(lexicon.COLOURS))
    step = 1 + draw.below(len(lexicon.COLOURS) - 1)
    colours = [lexicon.COLOURS[(first + n * step) % len(lexicon.COLOURS)] for n in range(4)]
    for key, its, colour in zip(
        "krm", (noun, noun, draw.choose(lexicon.TOYS)), colours[1:], strict=True
    ):
        thing = Thing(key, colour, its)
        world[key], world[key.upper()] = thing, thing.phrase
    places = list(lexicon.SETTINGS[world.setting])
    for key in "pqs":
        world[key] = places.pop(draw.below(len(places)))
    neighbours = list(lexicon.NEIGHBOURS[world.setting])
    known = [neighbours.pop(draw.below(len(neighbours))) for _ in range(4)]
    known = [f"{draw.choose(lexicon.MANNERS)} {job}" if draw.below(2) else job for job in known]
    world.lists |= {"where": tuple(places), "job": tuple(known)}
    world["d"] = Fact("d.colour", colours[0])
    world.secrets = {*colours[:2], *(world[key].rpartition(" ")[2] for key in "pq")}  # type: ignore[attr-defined]
    for kind, keys, pool in (
        ("treat", "tf", lexicon.TREATS),
        ("number", "ni", lexicon.LISTS["number"]),
        ("word", "wv", lexicon.SECRETS),
    ):
        at = draw.below(len(pool))
        for key in keys:
            before = article(pool[at]).removesuffix(pool[at]) if kind == "treat" else ""
            world[key] = Fact(f"{key}.{kind}", pool[at], before)
            world.secrets.add(pool[at])
            at = (at + 1 + draw.below(len(pool) - 1)) % len(pool)
