"""A judge of stories: does a text of the story world contradict itself?

    judge(text) -> Verdict(uses_checked, contradictions, language_errors)

The judge makes a pattern of every template sentence that states or uses a fact, such as "The {K}
was left {k.place_fact}.". It reads a text sentence by sentence. What a matching sentence says is
compared with what earlier sentences said. The judge knows only sentences of the world: a
sentence that matches no pattern, or matches two with different meanings, is skipped.

A contradiction is a use that differs from its fact (the kite was left in the barn and is found in
the well), a person who speaks after leaving, or a fourth person in a story of three. A language
error is an error of grammar or a word that the world does not have.
"""

import re
from collections.abc import Iterable, Iterator
from functools import cache, lru_cache
from typing import NamedTuple

from data.stories import lexicon
from data.stories.templates import FILES, Sentence, Telling, read_scripts, split_sentences
from data.stories.world import plural

NAMES = frozenset(lexicon.GIRLS + lexicon.BOYS)
PEOPLE = 3  # in a story
UNKNOWN_WORD = "unknown word"  # begins the language errors of this kind


class Verdict(NamedTuple):
    """What the judge finds in a text; errors are described in words."""

    uses_checked: int  # uses that could be compared with a fact that the text states
    contradictions: tuple[str, ...]
    language_errors: tuple[str, ...]


def judge(text: str) -> Verdict:
    """Read a story from beginning to end."""
    known: dict[str, str] = {}  # the word of each fact
    absent: set[str] = set()  # people who have left
    uses_checked, contradictions = 0, list(_surplus_people(text))
    for sentence in split_sentences(text):
        contradictions += [f"{name} speaks after leaving" for name in _speakers(sentence) & absent]
        reading = _read(sentence)
        if reading is None:
            continue
        for key, word in reading.uses:
            if key in known:
                uses_checked += 1
                if known[key] != word:
                    contradictions.append(f"{word} contradicts {known[key]}: {sentence}")
        known |= dict(reading.uses) | dict(reading.facts)
        absent = set() if reading.returned else absent | set(reading.left)
    return Verdict(uses_checked, tuple(contradictions), tuple(language_errors(text)))


# ---------------------------------------------------------------------------- facts


class _Reading(NamedTuple):
    """What a sentence says. Facts and uses are pairs of a key, as k.place, and a word."""

    facts: tuple[tuple[str, str], ...]
    uses: tuple[tuple[str, str], ...]
    left: tuple[str, ...]  # people who leave
    returned: bool  # somebody comes back


class _Group(NamedTuple):
    """What a group of a regular expression captures."""

    role: str  # fact, use or left
    key: str


class _Pattern(NamedTuple):
    literal: str  # the longest text that every matching sentence contains: a quick first test
    expression: re.Pattern[str]
    groups: tuple[_Group, ...]
    returned: bool


def _one_of(words: Iterable[str]) -> str:
    """Return a capturing group that matches one of these words, capitalised or not."""
    return "((?i:" + "|".join(words) + "))"


_PLACE = r"(?:[Ii]n|[Oo]n|[Uu]nder|[Bb]ehind|[Bb]eside) the " + _one_of(
    place.rpartition(" ")[2] for places in lexicon.SETTINGS.values() for place in places
)
_COLOUR, _TOY = _one_of(lexicon.COLOURS), _one_of(lexicon.TOYS)
_NAME, _ADVERB = "([A-Z][a-z]+)", "(?: [a-z]+ly)?"  # said Mia softly
_ANY_WORDS = r"[\w' -]+?"
_WORDS = {  # of the things whose only fact is a word
    **dict.fromkeys("tf", _one_of(lexicon.TREATS)),
    **dict.fromkeys("ni", _one_of(lexicon.LISTS["number"])),
    **dict.fromkeys("wv", _one_of(lexicon.SECRETS)),
    "d": _one_of(lexicon.COLOURS),
}
# By the last part of a field: its regular expression, the kinds of its facts, fact or use.
_FIELDS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "place_fact": (_PLACE, ("place",), "fact"),
    "place_use": (_PLACE, ("place",), "use"),
    "holder_fact": (_NAME, ("holder",), "fact"),
    "holder_use": (_NAME, ("holder",), "use"),
    "phrase": (f"{_COLOUR} {_TOY}", ("colour", "noun"), "use"),
    "colour_fact": (f"[Aa]n? {_COLOUR} {_TOY}", ("colour", "noun"), "use"),
    "a": (f"[Aa]n? {_COLOUR} {_TOY}", ("colour", "noun"), "use"),
    "colour_use": (_COLOUR, ("colour",), "use"),
    "noun": (_TOY, ("noun",), "use"),
    "fact": ("(?:[Aa]n? )?{}", ("word",), "fact"),
    "use": ("{}", ("word",), "use"),
    "he": ("(?:[Ss]he|[Hh]e)", (), "use"),
    "him": ("(?:him|her)", (), "use"),
    "his": ("(?:[Hh]is|[Hh]er)", (), "use"),
}  # A colour never changes, so a second statement of it counts as a use.


@lru_cache(maxsize=10_000)
def _read(sentence: str) -> _Reading | None:
    """Return what a sentence says; None if it says nothing of a fact or could mean two things."""
    readings = set()
    for literal, expression, groups, returned in _patterns():
        if literal in sentence and (match := expression.fullmatch(sentence)):
            words = list(zip(groups, match.groups(), strict=True))
            facts = tuple((key, word.lower()) for (role, key), word in words if role == "fact")
            uses = tuple((key, word.lower()) for (role, key), word in words if role == "use")
            left = tuple(word for (role, _), word in words if role == "left")
            readings.add(_Reading(facts, uses, left, returned))
    return readings.pop() if len(readings) == 1 else None


def _tellings() -> Iterator[tuple[tuple[str, ...], Telling]]:
    """Yield every telling of the prose, with the events of its beat."""
    for name in FILES:
        for script in read_scripts(name):
            for beat in script.beats:
                for telling in beat.tellings:
                    yield beat.events, telling


@cache
def _patterns() -> tuple[_Pattern, ...]:
    """Make a pattern of every template sentence that says something of a fact."""
    patterns = []
    for events, telling in _tellings():
        leaver = next((event[-1] for event in events if event.startswith("leave")), "")
        returned = any(event.startswith("come") for event in events)
        for number, sentence in enumerate(telling):
            groups: list[_Group] = []
            expression = _expression(sentence, groups, leaver if number == 0 else "")
            if groups or returned:
                literal = max(_literals(sentence), key=len)
                patterns.append(_Pattern(literal, re.compile(expression), tuple(groups), returned))
    return tuple(patterns)


def _literals(sentence: Sentence) -> list[str]:
    """Return the texts of a sentence outside of choices, fields and articles."""
    plain = [part[0] for part in sentence.parts if len(part) == 1]
    return [text for part in plain for text in re.split(r"\{[^}]*\}|\b[Aa] ", part)]


def _expression(sentence: Sentence, groups: list[_Group], leaver: str) -> str:
    """Return a regular expression for a template sentence; append its groups to `groups`."""
    expression = ""
    for part in sentence.parts:
        alternatives = []
        for text in part:
            alternative = ""
            for field, literal in re.findall(r"\{([^}]+)\}|([^{}]+)", text):
                if literal:
                    alternative += re.escape(literal).replace(r"\ ", " ")
                else:
                    if len(field) > 1:
                        alternative = re.sub(r"\b([Aa]) $", r"\1n? ", alternative)
                    alternative += _field(field, groups, leaver)
            alternatives.append(alternative)
        expression += alternatives[0] if len(part) == 1 else f"(?:{'|'.join(alternatives)})"
    return expression


def _field(field: str, groups: list[_Group], leaver: str) -> str:
    """Return the expression of a field. `leaver` is the person who leaves in this sentence."""
    if field in ("A", "B", "C"):
        if field == leaver:
            groups.append(_Group("left", field))
            return _NAME
        return "[A-Z][a-z]+" + _ADVERB
    if len(field) == 1:  # {K} is short for {k.phrase}: red kite
        field = f"{field.lower()}.phrase"
    thing, dot, part = field.partition(".")
    if not dot or part.lower() not in _FIELDS:
        return _ANY_WORDS
    expression, kinds, role = _FIELDS[part.lower()]
    groups += [_Group(role, f"{thing}.{kind}") for kind in kinds]
    return expression.format(_WORDS.get(thing))


# ---------------------------------------------------------------------------- people

_VERBS = "|".join(sorted({*lexicon.LISTS["says"], *lexicon.LISTS["asks"]}))


def _speakers(sentence: str) -> set[str]:
    return set(re.findall(rf"\b(?:{_VERBS}) ([A-Z][a-z]+)", sentence))


def _surplus_people(text: str) -> Iterator[str]:
    """Report each person after the third."""
    names = [word for word in re.findall(r"\b[A-Z][a-z]+", text) if word in NAMES]
    for number, name in enumerate(dict.fromkeys(names), start=1):
        if number > PEOPLE:
            yield f"{name} is person {number}: a story has {PEOPLE}"


# ---------------------------------------------------------------------------- language


def language_errors(text: str) -> Iterator[str]:
    """Report errors of grammar and words that the world does not have."""
    for match in re.finditer(
        r"\b(?:[Aa] (?!use)[aeiou]|[Aa]n (?:(?!hour)[^aeiou\W]|use))\w*", text
    ):
        yield f"wrong article: {match[0]}"
    for match in re.finditer(r"\b(\w+) \1\b", text):
        yield f"repeated word: {match[0]}"
    for match in re.finditer(r"[.!?] [a-z]\w*", text):
        yield f"no capital: {match[0]}"
    for paragraph in text.split("\n\n"):
        if paragraph.count('"') % 2:
            yield f"unpaired quotation mark: {paragraph[:40]}"
        if not re.search(r'[.!?]"?$', paragraph):
            yield f"unfinished sentence: {paragraph[-40:]}"
    for word in re.findall(r"[A-Za-z]+(?:-[a-z]+)*", re.sub(r"'s\b", "", text)):
        if word.lower() not in _vocabulary():
            yield f"{UNKNOWN_WORD}: {word}"


@cache
def _vocabulary() -> frozenset[str]:
    """Return all words of the world, in lower case."""
    lists = [
        *lexicon.LISTS.values(),
        *lexicon.DESCRIBED.values(),
        *lexicon.NEIGHBOURS.values(),
        lexicon.TOYS,
        lexicon.CREATURES,
        lexicon.SECRETS,
        lexicon.MANNERS,
    ]
    nouns = [noun for words in lists for noun in words]
    prose = [
        re.sub(r"\{[^}]*\}", " ", text.replace("'s", ""))
        for _, telling in _tellings()
        for sentence in telling
        for part in sentence.parts
        for text in part
    ]
    places = [place for setting in lexicon.SETTINGS.values() for place in setting]
    texts = [*nouns, *map(plural, nouns), *prose, *places, *lexicon.LIVES.values(), *NAMES,
             *map(plural, lexicon.TREATS), "a an he she him her his girl boy"]  # fmt: skip
    return frozenset(re.findall(r"[a-z]+(?:-[a-z]+)*", " ".join(texts).lower()))
