"""The parser of the template language that prose/*.txt are written in (docs/stories.md).

    == lost                                            a script: a plot, a scene, a frame, ...

    {A} had {k.colour_fact}.                           a beat: two tellings, one per line
    {A} owned {k.colour_fact}. {a.He} (liked|loved) it.

    @put k p                                           a beat with an event
    {A} left the {k.noun} {k.place_fact}.

A telling is a line of sentences; a sentence has choices, (liked|loved), and fields, {A}. Lines that
begin with # are comments.
"""

import re
from collections.abc import Iterator
from functools import cache
from itertools import product
from pathlib import Path
from typing import NamedTuple

from data.stories import lexicon

FILES = ("plots", "scenes", "frames", "primer")

# Two special events, each a line of its own. The tellings below TIME_PASSES are refrains.
TIME_PASSES, PARAGRAPH_ENDS = ("...",), ("--",)


class Sentence(NamedTuple):
    """A sentence as written, and every way to resolve its choices."""

    parts: tuple[tuple[str, ...], ...]  # the alternatives of each part; plain text has one
    variants: tuple[str, ...]  # for `str.format_map`, with the grammar of articles and plurals


Telling = tuple[Sentence, ...]


class Beat(NamedTuple):
    """What happens, and the ways to tell it."""

    events: tuple[str, ...]
    tellings: tuple[Telling, ...]


class Script(NamedTuple):
    """A plot, a scene, a frame or a part of the primer."""

    name: str
    beats: tuple[Beat, ...]


@cache
def read_scripts(name: str) -> tuple[Script, ...]:
    """Parse prose/NAME.txt; `name` is one of `FILES`."""
    path = Path(__file__).parent / "prose" / f"{name}.txt"
    return parse(path.read_text(encoding="utf-8"))


def tellings() -> Iterator[tuple[tuple[str, ...], Telling]]:
    """Yield every telling of the prose, with the events of its beat."""
    for name in FILES:
        for script in read_scripts(name):
            for beat in script.beats:
                for telling in beat.tellings:
                    yield beat.events, telling


def parse(text: str) -> tuple[Script, ...]:
    """Parse the scripts of a file. Text before the first `== name` is ignored."""
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)
    text = _EXPRESSION.sub(_expression_choice, text)
    scripts = []
    for part in re.split(r"^== ", text, flags=re.MULTILINE)[1:]:
        title, _, body = part.partition("\n")
        beats = tuple(map(_parse_beat, re.split(r"\n{2,}", body.strip())))
        scripts.append(Script(title.strip(), beats))
    return tuple(scripts)


def split_sentences(text: str) -> list[str]:
    """Split at the ends of sentences and of paragraphs."""
    return [part for part in re.split(r'(?<=[.!?])\s+|(?<=[.!?]")\s+|\n+', text) if part]


def fields_of(telling: Telling) -> list[str]:
    """Return the fields of a telling as written, in order: `k.noun` for {k.noun}."""
    texts = (text for sentence in telling for part in sentence.parts for text in part)
    return [field for text in texts for field in re.findall(r"\{([^}]+)\}", text)]


def _parse_beat(block: str) -> Beat:
    """Parse the lines of one beat: events first, then tellings."""
    lines = block.strip().splitlines()
    if (lines[0],) in (TIME_PASSES, PARAGRAPH_ENDS):
        events: tuple[str, ...] = (lines[0],)
        lines = lines[1:]
    else:
        listed = ";".join(line[1:] for line in lines if line.startswith("@")).split(";")
        events = tuple(event.strip() for event in listed if event)
        lines = [line for line in lines if not line.startswith("@")]
    tellings = (tuple(map(_parse_sentence, split_sentences(line))) for line in lines)
    return Beat(events, tuple(tellings))


def _parse_sentence(text: str) -> Sentence:
    """Split a sentence at its choices, and resolve the choices in every way."""
    pieces = re.split(r"\(([^()]*\|[^()]*)\)", text)  # plain, choice, plain, choice, ..., plain
    parts = tuple(
        tuple(piece.split("|")) if number % 2 else (piece,) for number, piece in enumerate(pieces)
    )
    return Sentence(parts, tuple(_add_grammar("".join(chosen)) for chosen in product(*parts)))


# ---------------------------------------------------------------------------- grammar


def _add_grammar(text: str) -> str:
    """Move the grammar around a field into the field, which is filled when the word is known.

    "{x}s" becomes a plural, "{says} {A}" one field that may add an adverb, "a {x}" one that chooses
    between a and an. The article before a plain word is corrected at once.
    """
    text = re.sub(r"\{(says|replies|asks)\} \{(\w)\}(?!, (?:\{|who))", r"{\1 \2}", text)
    text = re.sub(r"\{(\w)\.noun\}s\b", r"{\1.nouns}", text)
    text = re.sub(r"\{(\w{2,})\}s\b", r"{+\1}", text)
    text = re.sub(r"(?<!\{)\b([Aa]) (?=[aeiou])(?!use|one)", r"\1n ", text)
    return re.sub(r"\b([Aa]) \{(\w+)\}", r"{\1 \2}", text)


# ---------------------------------------------------------------------------- expressions

# The first expression of a group, as "nobody", stands for the group: "nobody|no one".
_GROUPS = {group.partition("|")[0]: group for group in lexicon.ALIKE}

# Events, titles, choices and fields match first, so that expressions in them are left alone.
_EXPRESSION = re.compile(
    r"^[@=].*|\([^()\n]*\)|\{[^}]*\}|\b(?:" + "|".join(_GROUPS) + r")\b(?! of\b)",
    re.MULTILINE | re.IGNORECASE,
)


def _expression_choice(match: re.Match[str]) -> str:
    """Replace an expression of words/alike.txt by the choice of its group."""
    expression = match[0]
    if expression in _GROUPS:
        return f"({_GROUPS[expression]})"
    lower = expression[0].lower() + expression[1:]
    if expression[0].isupper() and lower in _GROUPS:
        alike = (other[0].upper() + other[1:] for other in _GROUPS[lower].split("|"))
        return f"({'|'.join(alike)})"
    return expression
