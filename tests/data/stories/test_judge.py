"""The judge of stories: silent on true ones, and not fooled by those that were tampered with."""

import re
from collections import Counter

import pytest

from data.stories.judge import judge
from data.stories.telling import Story, sentences, story, written

TRUE = 400
WORLD = 11  # not the one that models are trained on


@pytest.fixture(scope="module")
def stories() -> list[Story]:
    return [story(WORLD, index) for index in range(TRUE)]


def test_true_stories_are_true(stories: list[Story]) -> None:
    """No false alarm, and most probes are seen to be needed and known."""
    verdicts = [judge(told.text) for told in stories]
    assert [verdict for verdict in verdicts if verdict.contradictions or verdict.slips] == []
    assert sum(verdict.checked for verdict in verdicts) > sum(len(s.probes) for s in stories)


@pytest.mark.slow
def test_no_false_alarm_in_ten_thousand() -> None:
    for index in range(10_000):
        verdict = judge(story(WORLD + 1, index).text)
        assert not verdict.contradictions and not verdict.slips, (index, verdict)


def test_wrong_words_are_found(stories: list[Story]) -> None:
    """Of every kind of probe, each wrong word in turn: 95 of 100 at the least."""
    planted, found = Counter[str](), Counter[str]()
    for number, (text, probes) in enumerate(stories):
        for kind, _, (start, stop), _, wrong in probes:
            told = text[:start] + wrong[number % len(wrong)] + text[stop:]
            planted[kind] += 1
            found[kind] += bool(judge(told).contradictions)
    assert planted.total() > 300
    assert set(planted) == {"place", "colour", "holder", "number", "treat", "word"}
    assert all(found[kind] >= 0.95 * planted[kind] for kind in planted), (found, planted)


def test_other_contradictions() -> None:
    """A fourth person, somebody who speaks after leaving, a fact told anew."""
    left = (
        "In the end Bess stamped home in a rage. The drum stayed on the pier, where it had fallen. "
    )
    assert judge(left + '"Ah," said Kit.').contradictions == ()
    assert judge(left + '"Ah," said Bess.').contradictions == ("Bess speaks, who has left",)
    back = (
        'Kit could not sit still. Then there was a soft knock, and there was Bess. "Ah," said Bess.'
    )
    assert judge(left + back).contradictions == ()
    crowd = "Ada, Ben and Otto went home. Zoe came too."
    assert "Zoe" in judge(crowd).contradictions[0]
    moved = "So Kit hid the drum under the cart, where Bess never went. And so it was. "
    used = "It was still {}, with only one cobweb on it."
    assert judge(moved + used.format("under the cart")).contradictions == ()
    assert "barn is said" in judge(moved + used.format("in the barn")).contradictions[0]


def test_two_things_of_one_noun() -> None:
    """Of a red kite and a blue one, each keeps its own colour and place."""
    told = "Kit owned a red kite. She had saved up for it since May. "
    rival = "There was another kite, to be exact: a blue kite, which the miller had won in a raffle"
    rival += " and put on the pier. "
    used = "It had never been so {}."
    assert judge(told + rival + used.format("red")).contradictions == ()
    assert "blue is said" in judge(told + rival + used.format("blue")).contradictions[0]


@pytest.mark.parametrize(
    ("text", "slip"),
    [
        ("It was a eclair.", "article: a eclair"),
        ("It was an tart.", "article: an tart"),
        ("It was the the tart.", "twice: the the"),
        ("It rained. then it stopped.", "small letter: . then"),
        ('"It rained.', 'quotation marks: "It rained.'),
        ("It was", "no end: It was"),
        ("It was a guessasy.", "no word: guessasy"),
    ],
)
def test_slips(text: str, slip: str) -> None:
    assert judge(text).slips == (slip,)


def test_every_sentence_with_a_choice_stays_whole() -> None:
    """A pattern made of half a choice would match nothing, in silence."""
    for _, line in written():
        for sentence in sentences(line):
            assert sentence.count("(") == sentence.count(")"), sentence
            assert not re.search(r"^[^(]*\)", sentence), sentence
