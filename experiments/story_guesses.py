"""True stories whose facts are wrong: what the judge says of them shows what a score is worth.

In such a story every word that the judge compares with a fact is replaced, and every name but the
first mention of each. The sentences stay. A writer of good sentences who remembers nothing would
score like this.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from data.stories import lexicon
from data.stories.judge import NAMES, judge, named_people
from data.stories.probes import Span
from data.stories.world import article, capital

Frequencies = Mapping[str, Counter[str]]  # by kind: how often each word is used
Choice = Callable[[str, str], str]  # the word for a kind and the true word, in lower case

_WORDS: dict[str, Sequence[str]] = {
    "colour": lexicon.COLOURS,
    "noun": lexicon.TOYS,
    "number": lexicon.LISTS["number"],
    "treat": lexicon.TREATS,
    "word": lexicon.SECRETS,
    "people": sorted(name.lower() for name in NAMES),
}
_PLACES = [[place.rpartition(" ")[2] for place in places] for places in lexicon.SETTINGS.values()]


def shuffled(texts: Iterable[str], seed: int = 0) -> list[str]:
    """Replace each used word by another word that could stand there, all equally likely."""
    draw = random.Random(seed)

    def choose(kind: str, true: str) -> str:
        words = _WORDS.get(kind) or next(places for places in _PLACES if true in places)
        return draw.choice([word for word in words if word != true])

    return [_replace(text, choose) for text in texts]


def guessed(texts: Iterable[str], frequencies: Frequencies, seed: int = 0) -> list[str]:
    """Replace each used word by a draw from the words of its kind, as frequent as in
    `frequencies`. The draw may be right by chance. A kind without frequencies stays true."""
    draw = random.Random(seed)
    tables = {kind: (list(count), list(count.values())) for kind, count in frequencies.items()}

    def choose(kind: str, true: str) -> str:
        words, weights = tables.get(kind, ([true], [1]))
        return draw.choices(words, weights)[0]

    return [_replace(text, choose) for text in texts]


def count_words(texts: Iterable[str]) -> dict[str, Counter[str]]:
    """Count the words that `guessed` and `shuffled` would replace, by kind."""
    counts: dict[str, Counter[str]] = {}
    for text in texts:
        for (start, stop), kind in _uses(text).items():
            counts.setdefault(kind, Counter())[text[start:stop].lower()] += 1
    return counts


def _uses(text: str) -> dict[Span, str]:
    """Return the spans to replace and their kinds. A holder is a person, too."""
    uses = {check.use: check.kind for check in judge(text).checks if check.kind in _REPLACED}
    named: set[str] = set()
    for name, span in named_people(text):
        if name in named:
            uses[span] = "people"
        named.add(name)
    return dict(sorted(uses.items()))


_REPLACED = {*_WORDS, "place"} - {"people"}


def _replace(text: str, choose: Choice) -> str:
    """Replace the uses of a text by chosen words, with the right capitals and articles."""
    pieces, end = [], 0
    for (start, stop), kind in _uses(text).items():
        before, true = text[end:start], text[start:stop]
        word = choose(kind, true.lower())
        for old in (" a ", " an "):
            if before.endswith(old):
                before = before.removesuffix(old) + f" {article(word).removesuffix(word)}"
                break
        pieces += [before, capital(word) if true[0].isupper() else word]
        end = stop
    return "".join([*pieces, text[end:]])
