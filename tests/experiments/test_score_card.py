"""The score card of stories: distances, ratios and their intervals, and the guesses beside it."""

import random
import re
from collections import Counter
from typing import cast

import numpy as np
import pytest

from data.stories import lexicon, story
from data.stories.judge import judge
from data.tokenizer import Tokenizer
from experiments.score_card import Judged, read_stories, score
from experiments.story_guesses import count_words, guessed, shuffled
from model.window import Window, reach, visible

FACT = "So Kit hid the drum in the stable, where Bess never went. "
FILLER = "And so it was. "
USE = "It was still in the {}, with only one cobweb on it."
STORIES = 60


class _Words:
    """A tokenizer whose tokens are words."""

    def encode(self, text: str) -> list[str]:
        return text.split()


WORDS = cast(Tokenizer, _Words())


@pytest.fixture(scope="module")
def true() -> list[str]:
    return [story(21, index).text for index in range(STORIES)]


def read(texts: list[str], windows: tuple[Window, ...] = (64, 64)) -> list[Judged]:
    return read_stories(texts, WORDS, windows)


@pytest.mark.parametrize("windows", [(8,), (8, 8, 8), (4, 20), (1, 9), (16, None), (None,)])
@pytest.mark.parametrize("fillers", range(7))
def test_distance(windows: tuple[Window, ...], fillers: int) -> None:
    """The query is the word before the use. It sees the fact in the window of the widest layer, and
    through the layers within their reach, as model/window.py defines both."""
    text = FACT + fillers * FILLER + USE.format("tunnel")
    words = text.split()
    fact, query = words.index("stable,"), words.index("tunnel,") - 1
    widest = None if None in windows else max(w for w in windows if w is not None)
    expected = "beyond"
    if visible(query, fact, reach(windows)):
        expected = "reach"
    if visible(query, fact, widest):
        expected = "window"
    (judged,) = read([text], windows)
    (place,) = [
        distance
        for check, distance in zip(judged.verdict.checks, judged.distances, strict=True)
        if check.kind == "place"
    ]
    assert place == expected
    ratio = score([[judged]]).right_by_kind_and_distance["place"][expected]
    assert (ratio.part, ratio.whole) == (0, 1)


def test_all_three_distances_occur() -> None:
    """The test above would also pass if every check were in the window."""
    texts = [FACT + n * FILLER + USE.format("stable") for n in range(7)]
    card = score([read(texts, (12, 12))])
    assert all(card.right_by_distance[name].part > 0 for name in ("window", "reach", "beyond"))
    assert sum(ratio.whole for ratio in card.right_by_distance.values()) == 7


def test_a_story_that_says_nothing_scores_nothing() -> None:
    """It has no contradiction, but no right check either, and is not counted as consistent."""
    silent = score([read(["Kit and Bess went home. " + 50 * FILLER])])
    assert silent.stories_without_contradiction.part == 0
    assert silent.sentences_read.part == 0
    telling = score([read([FACT + USE.format("stable")])])
    assert telling.stories_without_contradiction.part == 1
    assert (telling.sentences_read.part, telling.sentences_read.whole) == (2, 2)
    assert telling.right_per_word.value is not None and silent.right_per_word.value is not None
    assert telling.right_per_word.value > 5 * silent.right_per_word.value


def test_interval_is_the_bootstrap_over_stories() -> None:
    """Against a loop that draws stories; few draws, so the ends agree roughly."""
    texts = [
        FACT + FILLER * n + USE.format(word) for n, word in enumerate(["stable", "tunnel"] * 10)
    ]
    judged = read(texts)
    ratio = score([judged]).right_by_kind["place"]
    draw = random.Random(1)
    right = [n % 2 == 0 for n in range(20)]
    means = [sum(draw.choices(right, k=20)) / 20 for _ in range(4000)]
    low, high = np.percentile(means, (2.5, 97.5))
    assert ratio.value == 0.5
    assert ratio.low == pytest.approx(low, abs=0.05) and ratio.high == pytest.approx(high, abs=0.05)
    assert score([judged]) == score([judged])  # seeded


def test_runs_that_differ_widen_the_interval() -> None:
    """Runs are drawn as well: with one run all right and one all wrong, any share is possible."""
    right, wrong = (read(10 * [FACT + USE.format(word)]) for word in ("stable", "tunnel"))
    pooled = score([[*right, *wrong]]).right_by_kind["place"]
    apart = score([right, wrong]).right_by_kind["place"]
    assert pooled.value == apart.value == 0.5
    assert (apart.low, apart.high) == (0, 1)
    assert pooled.low is not None and pooled.high is not None
    assert 0.2 < pooled.low < pooled.high < 0.8


def test_guesses_are_told_from_the_truth(true: list[str]) -> None:
    """Shuffled and guessed facts score far below true ones, in every kind that is common."""
    frequencies = count_words(story(22, index).text for index in range(STORIES))
    cards = [score([read(t)]) for t in (true, guessed(true, frequencies), shuffled(true))]
    assert cards[0].right.value == 1 and cards[0].right.low == 1
    for card in cards[1:]:
        assert card.right.high is not None and card.right.high < 0.25
        assert card.stories_without_contradiction.part <= STORIES // 20
        assert card.language_errors_per_word.part == 0  # only the facts are wrong
        assert card.sentences_read.whole == cards[0].sentences_read.whole
        for kind in ("colour", "noun", "place", "number", "treat", "word"):
            ratio = card.right_by_kind[kind]
            assert ratio.whole > 0 and ratio.part < 0.4 * ratio.whole, kind


def test_shuffled_changes_every_used_word_and_nothing_else(true: list[str]) -> None:
    """The judge's uses and the later mentions of names; articles follow the words."""
    assert shuffled(true) == shuffled(true, seed=0) != shuffled(true, seed=1)
    for before, after in zip(true, shuffled(true), strict=True):
        old, new = (re.findall(r"[\w-]+|[^\w\s]", text) for text in (before, after))
        assert len(old) == len(new)
        changed = {a.lower() for a, b in zip(old, new, strict=True) if a != b} - {"a", "an"}
        used = {before[slice(*c.use)].lower() for c in judge(before).checks if c.fact is not None}
        names = {name.lower() for name in (*lexicon.GIRLS, *lexicon.BOYS)}
        assert used <= changed <= used | names


def test_guesses_follow_the_frequencies() -> None:
    text = FACT + USE.format("stable")
    (certain,) = guessed([text], {"place": Counter(well=3)})
    assert certain == FACT + USE.format("well")
    mixed = guessed(400 * [text], {"place": Counter(well=3, stable=1)})
    assert 60 < mixed.count(text) < 140
