"""The judge of stories: does a text of the story world contradict itself?

    judge(text) -> Verdict(checks, sentences, sentences_read, language_errors)

The judge makes a pattern of every template sentence that states or uses a fact, such as "The {K}
was left {k.place_fact}.". It reads a text sentence by sentence. What a matching sentence says is
compared with what earlier sentences said. The judge knows only sentences of the world: a
sentence that matches no pattern, or matches two with different meanings, is skipped.

A check compares a use with its fact. It is wrong, a contradiction, if they differ: the kite was
left in the barn and is found in the well. People are checked, too: a person who speaks must not
have left, and a story has three people at most, of whom the third is introduced by more than a
"said Otto".
"""

import re
from collections.abc import Iterable, Iterator
from functools import cache, lru_cache
from typing import NamedTuple

from data.stories import lexicon
from data.stories.language import language_errors
from data.stories.probes import Span
from data.stories.templates import Sentence, split_sentences, tellings

KINDS = ("colour", "noun", "place", "holder", "number", "treat", "word", "people")
NAMES = frozenset(lexicon.GIRLS + lexicon.BOYS)
PEOPLE = 3  # in a story


class Check(NamedTuple):
    """A use that was compared with its fact. Spans are characters of the text."""

    kind: str  # what the fact is about: one of KINDS
    fact: Span | None  # the last mention before the use; None where a person is named first
    use: Span
    error: str  # what is wrong, in words; empty if the use is right

    @property
    def right(self) -> bool:
        """Whether the use agrees with its fact."""
        return not self.error


class Verdict(NamedTuple):
    """What the judge finds in a text; errors are described in words."""

    checks: tuple[Check, ...]  # in the order of their uses
    sentences: int
    sentences_read: int  # those that state or use a fact, in words that the judge knows
    language_errors: tuple[str, ...]

    @property
    def contradictions(self) -> tuple[str, ...]:
        """The errors of the wrong checks."""
        return tuple(check.error for check in self.checks if check.error)


def judge(text: str) -> Verdict:
    """Read a story from beginning to end."""
    known: dict[str, tuple[str, Span]] = {}  # the word of each fact, and its last mention
    people = _People()
    checks = list(_first_namings(text))
    sentences = list(_located_sentences(text))
    read = 0
    for start, sentence in sentences:
        checks += people.speeches(sentence, start)
        reading = _read(sentence)
        if reading is None:
            continue
        read += 1
        mentions = [mention.moved(start) for mention in reading.mentions]
        for role, key, word, span in mentions:
            if role == "use" and key in known:
                checks.append(_compare(text, key, *known[key], word, span, sentence))
        known |= {m.key: (m.word, m.span) for m in mentions if m.role == "use"}
        known |= {m.key: (m.word, m.span) for m in mentions if m.role == "fact"}
        people.leave_and_return(text, mentions, reading.returned)
    checks.sort(key=lambda check: check.use)
    return Verdict(tuple(checks), len(sentences), read, tuple(language_errors(text)))


def _located_sentences(text: str) -> Iterator[tuple[int, str]]:
    """Yield each sentence with the position of its first character."""
    position = 0
    for sentence in split_sentences(text):
        position = text.index(sentence, position)
        yield position, sentence
        position += len(sentence)


def _compare(
    text: str, key: str, fact: str, fact_span: Span, word: str, use: Span, sentence: str
) -> Check:
    """Compare a use with its fact. The last mention may be in a sentence that was not read."""
    after = fact_span[1]
    for match in re.finditer(rf"\b{re.escape(fact)}\b", text[after : use[0]].lower()):
        fact_span = after + match.start(), after + match.end()
    error = "" if word == fact else f"{word} contradicts {fact}: {sentence}"
    return Check(key.rpartition(".")[2], fact_span, use, error)


# ---------------------------------------------------------------------------- facts


class _Group(NamedTuple):
    """What a group of a regular expression captures."""

    role: str  # fact, use or left
    key: str  # the thing and the kind of the fact, as k.place


class _Mention(NamedTuple):
    """A word that a group captured. The span counts from the beginning of the sentence."""

    role: str
    key: str
    word: str  # in lower case
    span: Span

    def moved(self, start: int) -> "_Mention":
        """Return the mention with a span that counts from `start` characters earlier."""
        return self._replace(span=(self.span[0] + start, self.span[1] + start))


class _Reading(NamedTuple):
    """What a sentence says."""

    mentions: tuple[_Mention, ...]
    returned: bool  # somebody comes back


class _Pattern(NamedTuple):
    literal: str  # the longest text that every matching sentence contains: a quick first test
    expression: re.Pattern[str]
    groups: tuple[_Group, ...]
    returned: bool


def _one_of(words: Iterable[str]) -> str:
    """Return a capturing group that matches one of these words, capitalised or not."""
    return "((?i:" + "|".join(words) + "))"


_PLACE = "[Ii]n the " + _one_of(
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
_KIND_OF_WORD = {"t": "treat", "f": "treat", "n": "number", "i": "number", "d": "colour"}
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
            mentions = tuple(
                _Mention(role, key, match[number].lower(), match.span(number))
                for number, (role, key) in enumerate(groups, start=1)
            )
            readings.add(_Reading(mentions, returned))
    return readings.pop() if len(readings) == 1 else None


@cache
def _patterns() -> tuple[_Pattern, ...]:
    """Make a pattern of every template sentence that says something of a fact."""
    patterns = []
    for events, telling in tellings():
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
    if kinds == ("word",):
        kinds = (_KIND_OF_WORD.get(thing, "word"),)
    groups += [_Group(role, f"{thing}.{kind}") for kind in kinds]
    return expression.format(_WORDS.get(thing))


# ---------------------------------------------------------------------------- people

_VERBS = "|".join(sorted({w for verb in ("says", "asks", "replies") for w in lexicon.LISTS[verb]}))
_SPEAKER = re.compile(rf"\b(?:{_VERBS}) ([A-Z][a-z]+)")
_UNDESCRIBED = re.compile(_SPEAKER.pattern + r"\b(?!, an? )")


class _People:
    """Who has left, while a text is read."""

    def __init__(self) -> None:
        self._left: dict[str, Span] = {}  # where the text says that a person leaves
        self._absent: set[str] = set()

    def speeches(self, sentence: str, start: int) -> Iterator[Check]:
        """Check each speaker who has left before: the person must have come back."""
        for match in _SPEAKER.finditer(sentence):
            name, use = match[1], (start + match.start(1), start + match.end(1))
            if name in self._left:
                error = f"{name} speaks after leaving" if name in self._absent else ""
                yield Check("people", self._left[name], use, error)

    def leave_and_return(self, text: str, mentions: Iterable[_Mention], returned: bool) -> None:
        """Note what a sentence says of people who leave or come back."""
        left = {text[slice(*m.span)]: m.span for m in mentions if m.role == "left"}
        self._left |= left
        self._absent = set() if returned else self._absent | set(left)


def named_people(text: str) -> Iterator[tuple[str, Span]]:
    """Yield each name in a text with its span, as often as it is there."""
    for match in re.finditer(r"\b[A-Z][a-z]+", text):
        if match[0] in NAMES:
            yield match[0], match.span()


def _first_namings(text: str) -> Iterator[Check]:
    """Check each person where the text names the person first.

    The first two may speak at once. A third is told of before, or described: "said Otto, a boy".
    """
    first: dict[str, Span] = {}
    undescribed = {match.span(1) for match in _UNDESCRIBED.finditer(text)}
    for name, span in named_people(text):
        if name in first:
            continue
        first[name] = span
        error = ""
        if len(first) > PEOPLE:
            error = f"{name} is person {len(first)}: a story has {PEOPLE}"
        elif len(first) == PEOPLE and span in undescribed:
            error = f"{name} speaks before the story introduces {name}"
        yield Check("people", None, span, error)
