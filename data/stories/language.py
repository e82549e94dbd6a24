"""Language errors of a story: errors of grammar, and words that the world does not have."""

import re
from collections.abc import Iterator
from functools import cache

from data.stories import lexicon
from data.stories.templates import tellings
from data.stories.world import plural

UNKNOWN_WORD = "unknown word"  # begins the errors of this kind


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
        for _, telling in tellings()
        for sentence in telling
        for part in sentence.parts
        for text in part
    ]
    places = [place for setting in lexicon.SETTINGS.values() for place in setting]
    names = [*lexicon.GIRLS, *lexicon.BOYS]
    texts = [*nouns, *map(plural, nouns), *prose, *places, *lexicon.LIVES.values(), *names,
             *map(plural, lexicon.TREATS), "a an he she him her his girl boy"]  # fmt: skip
    return frozenset(re.findall(r"[a-z]+(?:-[a-z]+)*", " ".join(texts).lower()))
