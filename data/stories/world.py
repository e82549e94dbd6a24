"""The world of a story: chance, grammar, and the state of people and things.

A `World` is the mapping that the fields of a template are looked up in (docs/stories.md lists the
fields). Events change it. What it returns for a fact or a use is marked (data/stories/probes.py).

All draws are 64-bit integer arithmetic of our own: the same for the same seed and index on every
machine and with every version of Python.
"""

from collections.abc import Sequence
from functools import cache
from typing import TypeVar

from data.stories import lexicon
from data.stories.probes import mark_fact, mark_use

SPLITS = 18 * ("train",) + ("val", "test")  # of a story, by its index modulo 20

T = TypeVar("T")


def split_of(index: int) -> str:
    """Return the split that a story belongs to: train, val or test."""
    return SPLITS[index % len(SPLITS)]


# ---------------------------------------------------------------------------- chance

_WORD = (1 << 64) - 1
_PRIME = (1 << 61) - 1


def _mix(word: int) -> int:
    """Hash a 64-bit word (splitmix64's finalizer: Steele, Lea and Flood, 2014)."""
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 & _WORD
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB & _WORD
    return word ^ (word >> 31)


@cache
def _octaves(near: int, far: int) -> tuple[int, ...]:
    """Return near, 2 near, 4 near, ... below far."""
    octaves = [near]
    while octaves[-1] * 2 < far:
        octaves.append(octaves[-1] * 2)
    return tuple(octaves)


class Draw:
    """A 64-bit linear congruential generator (Knuth's MMIX constants); only its upper half is used.

    The state begins as a hash of seed and index.
    """

    __slots__ = ("_state",)

    def __init__(self, seed: int, index: int) -> None:
        self._state = _mix((_mix(seed & _WORD) + index * 0x9E3779B97F4A7C15) & _WORD)

    def below(self, n: int) -> int:
        """Draw a whole number from 0 to n - 1; n < 2**32."""
        self._state = state = (self._state * 6364136223846793005 + 1442695040888963407) & _WORD
        return (state >> 32) * n >> 32

    def choose(self, items: Sequence[T]) -> T:
        """Draw one of `items`. `below` is written out here, where most draws are made."""
        self._state = state = (self._state * 6364136223846793005 + 1442695040888963407) & _WORD
        return items[(state >> 32) * len(items) >> 32]

    def distance(self, near: int, far: int) -> int:
        """Draw a whole number from `near` to `far`: each doubling of `near` is equally likely."""
        low = self.choose(_octaves(near, far))
        return low + self.below(min(low * 2, far + 1) - low)


# ---------------------------------------------------------------------------- grammar

_PLURALS = {
    "mouse": "mice", "goose": "geese", "sheep": "sheep", "deer": "deer", "ox": "oxen",
    "calf": "calves", "postman": "postmen",
}  # fmt: skip


def article(noun: str) -> str:
    """Return a noun, or an adjective, with a or an before it."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


@cache
def plural(noun: str) -> str:
    """Return the plural of a noun of the lexicon, which adjectives may precede."""
    adjectives, space, last = noun.rpartition(" ")
    if last in _PLURALS:
        return adjectives + space + _PLURALS[last]
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("s", "x", "ch", "sh", "ato")) else "s")


def capital(text: str) -> str:
    """Return a text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


# ---------------------------------------------------------------------------- the world


class Person:
    """A person and the words for them. The attributes are fields, as in {a.he}."""

    def __init__(self, name: str, kind: str, size: str) -> None:
        self.name, self.kind, self.who = name, kind, f"{article(size)} {kind}"
        female = name in _GIRLS
        self.he, self.him, self.his = ("she", "her", "her") if female else ("he", "him", "his")
        self.He, self.His = capital(self.he), capital(self.his)


_GIRLS = frozenset(lexicon.GIRLS)


class Word:
    """A number, a treat, a name or a password: one fact. The attributes are fields, as in
    {n.fact}."""

    def __init__(self, key: str, word: str, before: str = "") -> None:
        self.fact, self.use = before + mark_fact(key, word), mark_use(key, word)
        self.Fact = capital(before) + mark_fact(key, word if before else capital(word))
        self.Use = mark_use(key, capital(word))


class Thing:
    """Something with a colour, and with a place or a holder. The attributes are fields, as in
    {k.noun}; those of the place and the holder do not exist before they are set."""

    def __init__(self, key: str, colour: str, noun: str) -> None:
        self._key, self.noun, self.nouns = key, noun, plural(noun)
        self.phrase = f"{colour} {noun}"
        self.a = article(self.phrase)
        self.A = capital(self.a)
        self.colour_fact = f"{self.a.split()[0]} {mark_fact(f'{key}.colour', colour)} {noun}"
        self.Colour_fact = capital(self.colour_fact)
        self.colour_use = mark_use(f"{key}.colour", colour)

    def set_place(self, place: str) -> None:
        """Put the thing somewhere, as "in the barn"."""
        preposition, _, noun = place.rpartition(" ")
        self.place_fact = f"{preposition} {mark_fact(f'{self._key}.place', noun)}"
        self.place_use = f"{preposition} {mark_use(f'{self._key}.place', noun)}"
        self.Place_use = capital(self.place_use)

    def set_holder(self, name: str) -> None:
        """Give the thing to a person."""
        self.holder_fact = mark_fact(f"{self._key}.holder", name)
        self.holder_use = mark_use(f"{self._key}.holder", name)


class World(dict[str, object]):
    """The state of a story, in which the fields of templates are looked up.

    A field that is not part of the state is drawn from the list of that name (`lexicon.LISTS`):
    {bird} is another word each time, {bird1} the same throughout the plot, scene or frame. No such
    word is one of the `reserved` words, those that a probe may ask for. Otherwise the word could
    stand between a fact and its use by chance, and the use would not need the fact.
    """

    def __init__(self, draw: Draw, setting: str) -> None:
        self.draw, self.setting = draw, setting
        self.numbered: dict[str, str] = {}  # words of fields such as {bird1}
        self.lists = dict(lexicon.LISTS)
        self.reserved: set[str] = set()

    def apply(self, event: str) -> None:
        """Change the state: put THING PLACE, or give THING PERSON.

        All other events change nothing here: the judge reads leave and come, the primer need.
        """
        verb, *arguments = event.split()
        if verb == "put":
            self._thing(arguments[0]).set_place(str(self[arguments[1]]))
        elif verb == "give":
            self._thing(arguments[0]).set_holder(str(self[arguments[1]]))

    def _thing(self, key: str) -> Thing:
        thing = self[key]
        assert isinstance(thing, Thing)
        return thing

    def __missing__(self, field: str) -> str:
        """Return the text of a field that is not part of the state: a word of a list."""
        words = self.lists.get(field)
        if words is None:
            return self._derived(field)
        word = self.draw.choose(words)
        while word in self.reserved:
            word = self.draw.choose(words)
        if field in lexicon.DESCRIBED and self.draw.below(2):
            return f"{self.draw.choose(lexicon.DESCRIBED[field])} {word}"
        return word

    def _derived(self, field: str) -> str:
        """Return the text of a field that is made of another: {+bird}, {a bird}, {says A}, {bird1},
        {Bird}. Raises `KeyError` for a field that does not exist."""
        if field[0] == "+":
            return plural(str(self[field[1:]]))
        if field[:2] in ("a ", "A "):
            phrase = article(str(self[field[2:]]))
            return phrase if field[0] == "a" else capital(phrase)
        if field[-2:-1] == " ":
            return self._speech(*field.split())
        if field[-1].isdigit():
            if field not in self.numbered:
                self.numbered[field] = str(self[field[:-1]])
            return self.numbered[field]
        if field[0].isupper():
            return capital(str(self[field.lower()]))
        raise KeyError(field)

    def _speech(self, verb: str, person: str) -> str:
        """Return who speaks and how: said Mia, answered Mia, said Mia softly."""
        verb = self.draw.choose(lexicon.LISTS[verb])
        if verb not in ("said", "asked") or self.draw.below(2):
            return f"{verb} {self[person]}"
        return f"{verb} {self[person]} {self['softly' if verb == 'said' else 'politely']}"

    def candidates(self, key: str) -> tuple[str, ...]:
        """Return the words that could stand in the place of the fact `key`."""
        kind = key.rpartition(".")[2]
        if kind == "place":
            return _PLACES[self.setting]
        if kind == "holder":
            return str(self["A"]), str(self["B"]), str(self["C"])
        return _CANDIDATES[kind]


_PLACES = {
    setting: tuple(place.rpartition(" ")[2] for place in places)
    for setting, places in lexicon.SETTINGS.items()
}
_CANDIDATES = {
    "colour": lexicon.COLOURS,
    "number": lexicon.LISTS["number"],
    "treat": lexicon.TREATS,
    "word": lexicon.SECRETS,
}


# ---------------------------------------------------------------------------- drawing a world


def draw_world(draw: Draw, split: str, plots: Sequence[str]) -> tuple[str, World]:
    """Draw one of `plots` and a world for it.

    Plot, hero and thing are drawn again until their combination belongs to `split`.
    """
    while True:
        plot = draw.choose(plots)
        hero = _draw_name(draw)
        noun = draw.choose(lexicon.TOYS)
        combination = int.from_bytes(f"{plot} {hero} {noun}".encode(), "little")
        if split_of(_mix(combination % _PRIME)) == split:
            break
    setting = draw.choose(tuple(lexicon.SETTINGS))
    world = World(draw, setting)
    world["lives"] = lexicon.LIVES[setting]
    _add_people(world, hero)
    colours = _draw_colours(draw)
    _add_things(world, noun, colours)
    _add_places_and_neighbours(world)
    world["d"] = Word("d.colour", colours[0])
    world.reserved = {*colours[:2], *(str(world[key]).rpartition(" ")[2] for key in "pq")}
    _add_words(world)
    return plot, world


def _draw_name(draw: Draw) -> str:
    return draw.choose(draw.choose((lexicon.GIRLS, lexicon.BOYS)))


def _add_people(world: World, hero: str) -> None:
    """Add the hero and two others, as a, b, c, and their names, as A, B, C."""
    draw, names = world.draw, [hero]
    while len(names) < 3:
        name = _draw_name(draw)
        if name not in names:
            names.append(name)
    animals = draw.below(3) == 0
    for key, name in zip("abc", names, strict=True):
        kind = "girl" if name in _GIRLS else "boy"
        if animals:
            kind = draw.choose(lexicon.CREATURES)
        world[key] = Person(name, kind, draw.choose(lexicon.LISTS["small"]))
        world[key.upper()] = name


def _draw_colours(draw: Draw) -> list[str]:
    """Draw four colours: of the door, and of the things k, r and m."""
    first = draw.below(len(lexicon.COLOURS))
    step = 1 + draw.below(len(lexicon.COLOURS) - 1)
    return [lexicon.COLOURS[(first + n * step) % len(lexicon.COLOURS)] for n in range(4)]


def _add_things(world: World, noun: str, colours: Sequence[str]) -> None:
    """Add the thing of the story, k, another of the same noun, r, and any other, m."""
    nouns = (noun, noun, world.draw.choose(lexicon.TOYS))
    for key, name, colour in zip("krm", nouns, colours[1:], strict=True):
        thing = Thing(key, colour, name)
        world[key], world[key.upper()] = thing, thing.phrase


def _add_places_and_neighbours(world: World) -> None:
    """Add the places p, q, s. The other places and four neighbours become lists, where and job."""
    draw = world.draw
    places = list(lexicon.SETTINGS[world.setting])
    for key in "pqs":
        world[key] = places.pop(draw.below(len(places)))
    jobs = list(lexicon.NEIGHBOURS[world.setting])
    jobs = [jobs.pop(draw.below(len(jobs))) for _ in range(4)]
    jobs = [f"{draw.choose(lexicon.MANNERS)} {job}" if draw.below(2) else job for job in jobs]
    world.lists |= {"where": tuple(places), "job": tuple(jobs)}


def _add_words(world: World) -> None:
    """Add the facts that are single words, two of a kind: one for the plot, one for the frame."""
    draw = world.draw
    for kind, keys in (("treat", "tf"), ("number", "ni"), ("word", "wv")):
        pool = _CANDIDATES[kind]
        place = draw.below(len(pool))
        for key in keys:
            word = pool[place]
            before = article(word).removesuffix(word) if kind == "treat" else ""
            world[key] = Word(f"{key}.{kind}", word, before)
            world.reserved.add(word)
            place = (place + 1 + draw.below(len(pool) - 1)) % len(pool)
