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

HIDDEN = "So Kit hid the drum in the stable, where Bess never went. "
STILL = "It was still in the {}, with only one cobweb on it."
KINDS_WRITTEN = [  # a kind, a text that states a fact, one that uses it, a right and a wrong word
    ("colour", "Kit owned a red kite. ", "It had never been so {}.", "red", "blue"),
    ("noun", "Kit owned a red kite. ", "Kit put the red {} in the barn.", "kite", "drum"),
    ("place", HIDDEN, STILL, "stable", "tunnel"),
    ("holder", "One day Kit lent the drum to Bess. ", "There sat {} and waved it.", "Bess", "Kit"),
    (
        "number",
        "Kit, a girl, lived on a farm with seven brothers and sisters, so it was never quiet. ",
        "When Kit came home, {} brothers and sisters sat at the table and wanted to know "
        "everything.",
        "seven",
        "nine",
    ),
    (
        "treat",
        "Kit was a tall girl who lived on a farm and loved nothing in the world so much as a bun. ",
        "For supper there was a surprise: one {} each, still warm.",
        "bun",
        "tart",
    ),
    (
        "word",
        "The crow was called Pippin, and it ruled the house. ",
        "When they came home, {} was asleep on the lamp and had missed it all.",
        "Pippin",
        "Humbug",
    ),
]


@pytest.fixture(scope="module")
def stories() -> list[Story]:
    return [story(SEED, index) for index in range(STORIES)]


def test_true_stories_are_true(stories: list[Story]) -> None:
    """No false alarm, and more uses are compared with their facts than there are probes."""
    verdicts = [judge(true.text) for true in stories]
    assert not [found for found in verdicts if found.contradictions or found.language_errors]
    compared = sum(check.fact is not None for found in verdicts for check in found.checks)
    assert compared > sum(len(s.probes) for s in stories)


def test_the_judge_knows_the_probes(stories: list[Story]) -> None:
    """Nearly every probe is a check of its kind with the spans that the world itself wrote down."""
    probes, found = 0, 0
    for text, its_probes in stories:
        checks = {(c.kind, c.fact, c.use) for c in judge(text).checks}
        probes += len(its_probes)
        found += sum((probe.kind, probe.fact, probe.use) in checks for probe in its_probes)
    assert found >= 0.95 * probes > 0, (found, probes)


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


@pytest.mark.parametrize(("kind", "fact", "use", "right", "wrong"), KINDS_WRITTEN)
def test_each_kind(kind: str, fact: str, use: str, right: str, wrong: str) -> None:
    """A right and a wrong use of each kind, near its fact and after text that says nothing."""
    for filler in ("", 100 * "And so it was. "):
        for word in (right, wrong):
            begun = fact + filler + use.partition("{")[0]
            text = fact + filler + use.format(word)
            (check,) = [check for check in judge(text).checks if check.kind == kind]
            assert check.right is (word == right), text
            assert check.fact is not None
            assert text[slice(*check.fact)] == right and check.fact[1] <= len(fact)
            assert check.use == (len(begun), len(begun) + len(word))


def test_the_last_mention_may_be_in_a_sentence_that_is_not_read() -> None:
    text = HIDDEN + "A stable is a stable. And so it was. " + STILL.format("stable")
    (check,) = [check for check in judge(text).checks if check.kind == "place"]
    assert check.fact == (text.index("stable. And"), text.index(". And"))


def test_what_is_read() -> None:
    """Of three sentences one states a fact. Without sentences there is nothing."""
    verdict = judge(HIDDEN + "And so it was. The cow flew. ")
    assert (verdict.sentences, verdict.sentences_read) == (3, 1)
    assert judge("") == ((), 0, 0, ("unfinished sentence: ",))


def test_a_third_person_who_was_not_introduced() -> None:
    """The first two may begin by speaking; a third is described, or told of before."""
    friends = "Toby and Jonas were friends. "
    (error,) = judge(friends + '"Ah," said Otto.').contradictions
    assert error == "Otto speaks before the story introduces Otto"
    for text in (
        friends + '"Ah," said Otto, a boy.',
        friends + 'Otto came. "Ah," said Otto.',
        friends + '"Ah," answered Jonas.',
        'Toby came. "Ah," said Jonas.',
    ):
        assert judge(text).contradictions == (), text
    errors = judge(friends + '"Ah," said Otto. "Oh," said Piet. "Oh," said Piet.').contradictions
    assert len(errors) == 2 and errors[1] == "Piet is person 4: a story has 3"


def test_other_contradictions() -> None:
    """A fourth person, a person who speaks after leaving, a fact that is overwritten."""
    left = (
        "In the end Bess stamped home in a rage. "
        "The drum stayed in the tavern, where it had fallen. "
    )
    assert judge(left + '"Ah," said Kit.').contradictions == ()
    assert judge(left + '"Ah," said Bess.').contradictions == ("Bess speaks after leaving",)
    back = (
        'Kit could not sit still. Then there was a soft knock, and there was Bess. "Ah," said Bess.'
    )
    assert judge(left + back).contradictions == ()
    *_, speech = judge(left + back).checks
    assert speech.right and speech.kind == "people"
    assert speech.fact == (11, 15) and (left + back)[slice(*speech.use)] == "Bess"
    crowd = "Ada, Ben and Otto went home. Zoe came too."
    assert judge(crowd).contradictions == ("Zoe is person 4: a story has 3",)
    moved = "So Kit hid the drum in the stable, where Bess never went. And so it was. "
    used = "It was still {}, with only one cobweb on it."
    assert judge(moved + used.format("in the stable")).contradictions == ()
    (found,) = judge(moved + used.format("in the barn")).contradictions
    assert found.startswith("barn contradicts stable: ")


def test_two_things_of_one_noun() -> None:
    """Of a red kite and a blue one, each keeps its own colour and place."""
    first = "Kit owned a red kite. She had saved up for it since May. "
    rival = "There was another kite, to be exact: a blue kite, which the miller had won in a raffle"
    rival += " and put in the tavern. "
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
