"""The words of the story world, read from words/*.txt.

The order of a list is part of the world: another order gives other stories for the same
(seed, index). The first lines of each file describe its content.
"""

from pathlib import Path

_FOLDER = Path(__file__).parent / "words"


def _lines(name: str) -> list[str]:
    """Return the lines of a file of words, without comments and empty lines."""
    lines = (_FOLDER / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def _phrases(name: str) -> dict[str, tuple[str, ...]]:
    """Return the lists of a file by name: `== name` begins a list, each line below is an entry."""
    lists: dict[str, list[str]] = {}
    for line in _lines(name):
        if line.startswith("== "):
            entries = lists[line.removeprefix("== ")] = []
        else:
            entries.append(line)
    return {name: tuple(entries) for name, entries in lists.items()}


def _words(name: str) -> dict[str, tuple[str, ...]]:
    """Return the lists of a file by name: the entries are words, separated by spaces."""
    return {name: tuple(" ".join(lines).split()) for name, lines in _phrases(name).items()}


_PEOPLE, _FACTS = _words("people"), _words("facts")

GIRLS, BOYS = _PEOPLE["girl"], _PEOPLE["boy"]
CREATURES = _PEOPLE["creature"]
MANNERS = _PEOPLE["manner"]  # words that describe a neighbour

COLOURS, TOYS, TREATS = _FACTS["colour"], _FACTS["toy"], _FACTS["treat"]
SECRETS = _FACTS["secret"]  # passwords, and names of cats and boats

# By setting, as "farm": places ("in the barn"), {lives} ("on a farm"), trades of neighbours.
SETTINGS = _phrases("places")
LIVES = {setting: phrase for setting, (phrase,) in _phrases("lives").items()}
NEIGHBOURS = _words("neighbours")

# By name: the lists that fields such as {animal} draw from.
LISTS = {name: _FACTS[name] for name in ("colour", "toy", "treat", "number")}
LISTS |= _words("lists") | _phrases("phrases")

# By name of a list: the adjectives that may describe its words.
DESCRIBED = _words("described")

# Groups of expressions with the same meaning, as "nobody|no one".
ALIKE = tuple(_lines("alike"))
