"""The judge of stories: no error in true stories, and it finds errors that a test inserts."""

import re
from collections import Counter

import pytest

from data.stories import Story, story
from data.stories.judge import judge
from data.stories.templates import FILES, read_scripts

STORIES = 400
ENOUGH = 400  # wrong words of a kind
SEED = 11  # another world than the one that models are trained on


@pytest.fixture(scope="module")
def stories() -> list[Story]:
    return [story(SEED, index) for index in range(STORIES)]


def test_true_stories_are_true(stories: list[Story]) -> None:
    """No false alarm, and more uses are compared with their facts than there are probes."""
    verdicts = [judge(true.text) for true in stories]
    assert not [found for found in verdicts if found.contradictions or found.language_errors]
    assert sum(found.uses_checked for found in verdicts) > sum(len(s.probes) for s in stories)


@pytest.mark.slow
def test_no_false_alarm_in_ten_thousand() -> None:
    for index in range(10_000):
        verdict = judge(story(SEED + 1, index).text)
        assert not verdict.contradictions and not verdict.language_errors, (index, verdict)


def test_wrong_words_are_found(stories: list[Story]) -> None:
    """A wrong word in the place of a use is found in at least 95 of 100 cases of every kind."""
    inserted, found = Counter[str](), Counter[str]()
    for number, (text, probes) in enumerate(stories):
        for kind, _, (start, stop), _, wrong in probes:
            if inserted[kind] == ENOUGH:
                continue
            changed = text[:start] + wrong[number % len(wrong)] + text[stop:]
            inserted[kind] += 1
            found[kind] += bool(judge(changed).contradictions)
    assert inserted.total() > 1000
    assert set(inserted) == {"place", "colour", "holder", "number", "treat", "word"}
    assert all(found[kind] >= 0.95 * inserted[kind] for kind in inserted), (found, inserted)


def test_other_contradictions() -> None:
    """A fourth person, a person who speaks after leaving, a fact that is overwritten."""
    left = (
        "In the end Bess stamped home in a rage. The drum stayed on the pier, where it had fallen. "
    )
    assert judge(left + '"Ah," said Kit.').contradictions == ()
    assert judge(left + '"Ah," said Bess.').contradictions == ("Bess speaks after leaving",)
    back = (
        'Kit could not sit still. Then there was a soft knock, and there was Bess. "Ah," said Bess.'
    )
    assert judge(left + back).contradictions == ()
    crowd = "Ada, Ben and Otto went home. Zoe came too."
    assert judge(crowd).contradictions == ("Zoe is person 4: a story has 3",)
    moved = "So Kit hid the drum under the cart, where Bess never went. And so it was. "
    used = "It was still {}, with only one cobweb on it."
    assert judge(moved + used.format("under the cart")).contradictions == ()
    (found,) = judge(moved + used.format("in the barn")).contradictions
    assert found.startswith("barn contradicts cart: ")


def test_two_things_of_one_noun() -> None:
    """Of a red kite and a blue one, each keeps its own colour and place."""
    first = "Kit owned a red kite. She had saved up for it since May. "
    rival = "There was another kite, to be exact: a blue kite, which the miller had won in a raffle"
    rival += " and put on the pier. "
    used = "It had never been so {}."
    assert judge(first + rival + used.format("red")).contradictions == ()
    (found,) = judge(first + rival + used.format("blue")).contradictions
    assert found.startswith("blue contradicts red: ")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("It was a eclair.", "wrong article: a eclair"),
        ("It was an tart.", "wrong article: an tart"),
        ("It was the the tart.", "repeated word: the the"),
        ("It rained. then it stopped.", "no capital: . then"),
        ('"It rained.', 'unpaired quotation mark: "It rained.'),
        ("It was", "unfinished sentence: It was"),
        ("It was a guessasy.", "unknown word: guessasy"),
    ],
)
def test_language_errors(text: str, error: str) -> None:
    assert judge(text).language_errors == (error,)


def test_no_choice_is_split_between_sentences() -> None:
    """The pattern of half a choice would match nothing, and no error would say so."""
    for name in FILES:
        for script in read_scripts(name):
            for beat in script.beats:
                for telling in beat.tellings:
                    texts = [text for s in telling for part in s.parts for text in part]
                    assert not re.search("[()|]", "".join(texts)), texts
