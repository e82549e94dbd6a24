"""A judge of stories: does a text of the story world (data/stories/telling.py) contradict itself?

    judge(text) -> Verdict(checked, contradictions, slips)

It reads with the prose's own sentences. A sentence of a plot that tells a fact ("the {K} was left
{k.put}") or needs one ("it was {k.found}") becomes a pattern, and what a text says in such a
sentence is compared with what it said before. So it understands what the world can say and no more:
a sentence that the world would not write is passed over, as is one that could mean two things.

A contradiction is a word that an earlier fact denies (the kite was in the barn, and is found in the
well), somebody who speaks after leaving, or a fourth person in a story of three. A slip is a fault
of grammar, or a word that the world does not have.
"""

import re
from collections.abc import Iterable
from functools import cache, lru_cache
from typing import NamedTuple

from data.stories import lexicon
from data.stories.telling import sentences, written
from data.stories.world import plural

PEOPLE = frozenset(lexicon.GIRLS + lexicon.BOYS)
CAST = 3  # people in a story


class Verdict(NamedTuple):
    """What is wrong with a text, in words; `checked` facts were needed and known."""

    checked: int
    contradictions: tuple[str, ...]
    slips: tuple[str, ...]


def judge(text: str) -> Verdict:
    """Read a story from beginning to end."""
    known: dict[str, str] = {}
    gone: set[str] = set()
    checked, contradictions = 0, list(_strangers(text))
    for sentence in sentences(text):
        contradictions += [f"{name} speaks, who has left" for name in _speakers(sentence) & gone]
        reading = _read(sentence)
        if reading is None:
            continue
        for key, word in reading.needed:
            if key in known:
                checked += 1
                if known[key] != word:
                    contradictions.append(f"{known[key]} was told, {word} is said: {sentence}")
        known |= dict(reading.needed) | dict(reading.told)
        gone = set() if reading.came else gone | set(reading.left)
    return Verdict(checked, tuple(contradictions), tuple(slips(text)))


# ---------------------------------------------------------------------------- facts


class _Reading(NamedTuple):
    """What a sentence says: facts by what they are about, as k.place or n.word."""

    told: tuple[tuple[str, str], ...]
    needed: tuple[tuple[str, str], ...]
    left: tuple[str, ...]
    came: bool


class _Pattern(NamedTuple):
    literal: str  # what a sentence must have in it, to be worth a look
    expression: re.Pattern[str]
    groups: tuple[tuple[str, bool], ...]  # what each group says, and whether it is news
    came: bool


def _one_of(words: Iterable[str]) -> str:
    """Match one of these, with a small letter or a capital."""
    return "((?i:" + "|".join(words) + "))"


_PLACE = r"(?:[Ii]n|[Oo]n|[Uu]nder|[Bb]ehind|[Bb]eside) the " + _one_of(
    place.rpartition(" ")[2] for places in lexicon.SETTINGS.values() for place in places
)
_COLOUR, _TOY = _one_of(lexicon.COLOURS), _one_of(lexicon.TOYS)
_NAME, _HOW = "([A-Z][a-z]+)", "(?: [a-z]+ly)?"  # "said Mia", "said Mia softly"
_SOMETHING = r"[\w' -]+?"
_SECRETS = {
    **dict.fromkeys("tf", _one_of(lexicon.TREATS)),
    **dict.fromkeys("ni", _one_of(lexicon.LISTS["number"])),
    **dict.fromkeys("wv", _one_of(lexicon.SECRETS)),
    "d": _one_of(lexicon.COLOURS),
}
# Of a field's last part: what it looks like in a text, the facts in it, and whether they are news.
_FACTS: dict[str, tuple[str, tuple[str, ...], bool]] = {
    "put": (_PLACE, ("place",), True),
    "found": (_PLACE, ("place",), False),
    "given": (_NAME, ("holder",), True),
    "holder": (_NAME, ("holder",), False),
    "thing": (f"{_COLOUR} {_TOY}", ("colour", "noun"), False),
    "seen": (f"[Aa]n? {_COLOUR} {_TOY}", ("colour", "noun"), False),
    "a": (f"[Aa]n? {_COLOUR} {_TOY}", ("colour", "noun"), False),
    "known": (_COLOUR, ("colour",), False),
    "noun": (_TOY, ("noun",), False),
    "told": ("(?:[Aa]n? )?{}", ("word",), True),
    "said": ("{}", ("word",), False),
    "he": ("(?:[Ss]he|[Hh]e)", (), False),
    "him": ("(?:him|her)", (), False),
    "his": ("(?:[Hh]is|[Hh]er)", (), False),
}


@lru_cache(maxsize=10_000)
def _read(sentence: str) -> _Reading | None:
    """Say what a sentence means, or None if it is nothing that is known, or ambiguous."""
    readings = set()
    for literal, expression, groups, came in _patterns():
        if literal in sentence and (match := expression.fullmatch(sentence)):
            said = [(key, word.lower(), news)
                    for (key, news), word in zip(groups, match.groups(), strict=True)]  # fmt: skip
            readings.add(
                _Reading(
                    tuple((key, word) for key, word, news in said if news and key != "left"),
                    tuple((key, word) for key, word, news in said if not news),
                    tuple(word.capitalize() for key, word, _ in said if key == "left"),
                    came,
                )
            )
    return readings.pop() if len(readings) == 1 else None


@cache
def _patterns() -> tuple[_Pattern, ...]:
    """Make a pattern of every sentence of the prose that states or needs a fact."""
    patterns = []
    for events, line in written():
        leaver = next((event[-1] for event in events if event.startswith("leave")), "")
        came = any(event.startswith("come") for event in events)
        for number, sentence in enumerate(sentences(line)):
            groups: list[tuple[str, bool]] = []
            expression = _expression(sentence, groups, leaver if number == 0 else "")
            if groups or came:
                plain = re.split(r"\([^()]*\)|\{[^}]*\}|\b[Aa] ", sentence)
                literal = max(plain, key=len)
                patterns.append(_Pattern(literal, re.compile(expression), tuple(groups), came))
    return tuple(patterns)


def _expression(sentence: str, groups: list[tuple[str, bool]], leaver: str) -> str:
    """Write a regular expression for a sentence of the prose, and name its groups."""
    expression = ""
    for field, mark, literal in re.findall(r"\{([^}]+)\}|([()|])|([^{}()|]+)", sentence):
        if field:
            if re.search(r"\b[Aa] $", expression) and len(field) > 1:
                expression = expression[:-1] + "n? "
            expression += _field(field, groups, leaver)
        elif mark:
            expression += "(?:" if mark == "(" else mark
        else:
            expression += re.escape(literal).replace(r"\ ", " ")
    return expression


def _field(field: str, groups: list[tuple[str, bool]], leaver: str) -> str:
    """Write the expression of a field; `leaver` is the one who leaves in this sentence, if any."""
    if field in ("A", "B", "C"):
        if field == leaver:
            groups.append(("left", True))
            return _NAME
        return "[A-Z][a-z]+" + _HOW
    if len(field) == 1:
        field = f"{field.lower()}.thing"
    thing, dot, part = field.partition(".")
    if not dot or part.lower() not in _FACTS:
        return _SOMETHING
    expression, facts, news = _FACTS[part.lower()]
    groups += [(f"{thing}.{fact}", news) for fact in facts]
    return expression.format(_SECRETS.get(thing))


# ---------------------------------------------------------------------------- people

_VERBS = "|".join(sorted({*lexicon.LISTS["says"], *lexicon.LISTS["asks"]}))


def _speakers(sentence: str) -> set[str]:
    return set(re.findall(rf"\b(?:{_VERBS}) ([A-Z][a-z]+)", sentence))


def _strangers(text: str) -> Iterable[str]:
    """Name those who come as a fourth, a fifth, ... in a story of three."""
    names = [word for word in re.findall(r"\b[A-Z][a-z]+", text) if word in PEOPLE]
    for name in list(dict.fromkeys(names))[CAST:]:
        yield f"{name} is one too many: a story has {CAST} people"


# ---------------------------------------------------------------------------- grammar


def slips(text: str) -> Iterable[str]:
    """Find faults of grammar, and words that the world does not have."""
    for match in re.finditer(
        r"\b(?:[Aa] (?!use)[aeiou]|[Aa]n (?:(?!hour)[^aeiou\W]|use))\w*", text
    ):
        yield f"article: {match[0]}"
    for match in re.finditer(r"\b(\w+) \1\b", text):
        yield f"twice: {match[0]}"
    for match in re.finditer(r"[.!?] [a-z]\w*", text):
        yield f"small letter: {match[0]}"
    for paragraph in text.split("\n\n"):
        if paragraph.count('"') % 2:
            yield f"quotation marks: {paragraph[:40]}"
        if not re.search(r'[.!?]"?$', paragraph):
            yield f"no end: {paragraph[-40:]}"
    for word in re.findall(r"[A-Za-z]+(?:-[a-z]+)*", re.sub(r"'s\b", "", text)):
        if word.lower() not in _vocabulary():
            yield f"no word: {word}"


@cache
def _vocabulary() -> frozenset[str]:
    """All words that the world has."""
    lists = [
        *lexicon.LISTS.values(),
        *lexicon.DESCRIBED.values(),
        lexicon.TOYS,
        lexicon.CREATURES,
        lexicon.SECRETS,
        lexicon.MANNERS,
        *lexicon.NEIGHBOURS.values(),
    ]
    nouns = [noun for words in lists for noun in words]
    prose = [re.sub(r"\{[^}]*\}", " ", line.replace("'s", "")) for _, line in written()]
    places = [place for setting in lexicon.SETTINGS.values() for place in setting]
    texts = [*nouns, *map(plural, nouns), *prose, *places, *lexicon.LIVES.values(), *PEOPLE,
             *map(plural, lexicon.TREATS), "a an he she him her his girl boy"]  # fmt: skip
    return frozenset(re.findall(r"[a-z]+(?:-[a-z]+)*", " ".join(texts).lower()))
