"""The story world: the same bytes everywhere, disjoint splits, probes at the right places."""

import hashlib
import itertools
import os
import re
import subprocess
import sys

import pytest

from data.sources.open import open_source
from data.stories import FAR, NEAR, VERSION, Story, combination, lexicon, story
from data.stories.primer import PAUSE, PRIMER
from data.stories.templates import read_scripts
from data.stories.world import split_of

MANY = 2000
LONGEST_SCENE = 120  # words
LONGEST_LINE = 30  # words from the beginning of a telling to its last use
# VERSION, and the SHA-256 of the first 2,000 stories and their probes.
GOLDEN = (2, "d5741c2c8895789c254d74ac9a970351a53158035956ee6461003d9d1101bc02")


@pytest.fixture(scope="module")
def stories() -> list[Story]:
    return [story(0, index) for index in range(MANY)]


def test_the_version_stands_for_these_bytes(stories: list[Story]) -> None:
    """A prepared corpus is used again while VERSION is the same, so its stories must be too."""
    digest = hashlib.sha256()
    for text, probes in stories:
        digest.update(text.encode())
        digest.update(repr([tuple(probe) for probe in probes]).encode())
    assert (VERSION, digest.hexdigest()) == GOLDEN, (
        "The bytes of the stories or VERSION have changed. If the bytes changed on purpose, raise "
        "VERSION in data/stories/__init__.py, and write it and this hash into GOLDEN: "
        + digest.hexdigest()
    )


def test_bytes_are_the_same_in_every_process(stories: list[Story]) -> None:
    """Neither the order of a set nor the hash of a str may reach the text."""
    code = (
        "import hashlib; from data.stories import story;"
        "print(hashlib.sha256(repr([story(0, i) for i in range(200)]).encode()).hexdigest())"
    )
    expected = hashlib.sha256(repr(stories[:200]).encode()).hexdigest()
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True,
            env=os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": "."},
        )  # fmt: skip
        assert done.stdout.strip() == expected


def test_a_story_does_not_depend_on_the_others(stories: list[Story]) -> None:
    """No state may remain from one story to the next."""
    assert story(0, 7) == stories[7]
    assert story(1, 7) != stories[7]


def test_no_two_stories_are_alike(stories: list[Story]) -> None:
    assert len({text for text, _ in stories}) == MANY


def test_probes_point_at_fact_and_use(stories: list[Story]) -> None:
    """A probe whose spans are off by one would measure another word."""
    n_probes = 0
    for text, probes in stories:
        for probe in probes:
            n_probes += 1
            fact, use = text[slice(*probe.fact)], text[slice(*probe.use)]
            assert use == probe.right and fact.lower() == use.lower()
            assert probe.fact[1] < probe.use[0]
            assert probe.right not in probe.wrong and len(probe.wrong) >= 2
            between = text[probe.fact[1] : probe.use[0]]
            assert not re.search(rf"\b{re.escape(use)}\b", between, re.IGNORECASE)
    assert n_probes > 2.5 * MANY


def test_a_probe_of_an_overwritten_fact_has_the_last_value() -> None:
    """The plot `moved` puts a thing in two places; the probe is about the second."""
    drawn = (story(0, index) for index in range(3000))
    moved = [one for one in drawn if "empty" in one.text and "moved it" in one.text]
    assert len(moved) > 10
    for text, probes in moved:
        places = {noun for where in itertools.chain(*lexicon.SETTINGS.values())
                  for noun in [where.split()[-1]]}  # fmt: skip
        last = [probe for probe in probes if probe.kind == "place" and probe.right in places]
        for probe in last:
            *_, mention = re.finditer(rf"\b{probe.right}\b", text[: probe.use[0]])
            assert mention.span() == probe.fact


@pytest.mark.parametrize(("near", "far"), [(5, 20), (200, 400)])
def test_distances_are_between_near_and_far(near: int, far: int) -> None:
    """The words from a plot's fact to its use are at least `near`, and seldom much above `far`."""
    longest = []
    for index in range(300):
        text, probes = story(3, index, near=near, far=far)
        words = [text.count(" ", probe.fact[1], probe.use[0]) + 1
                 for probe in probes if probe.kind == "place"]  # fmt: skip
        longest += [max(words)] if words else []
    longest.sort()
    median = longest[len(longest) // 2]
    assert near <= median <= far + 80, median


@pytest.mark.parametrize(("near", "far"), [(5, 20), (20, 80)])
def test_stories_for_beginners_keep_the_drawn_distances(near: int, far: int) -> None:
    """Each use has its own distance; the middle half of them is within the drawn range."""
    short = [story(3, index, near=near, far=far) for index in range(100)]
    assert {combination(3, index, near=near, far=far)[0] for index in range(100)} == {PRIMER}
    words = sorted(text.count(" ", probe.fact[1], probe.use[0]) + 1
                   for text, probes in short for probe in probes)  # fmt: skip
    assert len(words) > 2000
    assert near / 2 <= words[len(words) // 4] and words[len(words) * 3 // 4] <= far


def test_facts_too_far_back_are_not_used_by_stories_for_beginners() -> None:
    """A use of a fact that is further back than `far` is guessed by a model with a narrow window.
    With longer distances, several uses in a story need a window of more than 64 words."""
    for far, least, most in ((150, 2, 20), (39, 0, 0)):
        distances = [
            text.count(" ", probe.fact[1], probe.use[0]) + 1
            for text, probes in (story(3, index, far=far) for index in range(100))
            for probe in probes
        ]
        pauses = PAUSE + far + LONGEST_SCENE if far >= PAUSE else far
        assert max(distances) <= pauses + LONGEST_LINE
        assert 100 * least <= sum(words > 64 for words in distances) <= 100 * most


def test_default_distances_reach_from_near_to_far(stories: list[Story]) -> None:
    words = [text.count(" ", probe.fact[1], probe.use[0]) + 1
             for text, probes in stories for probe in probes]  # fmt: skip
    assert min(words) <= 2 * NEAR
    assert max(words) >= 0.9 * FAR


def test_splits_share_no_combination(stories: list[Story]) -> None:
    """A combination of hero, thing and plot is held out, not only an index."""
    assert [split_of(index) for index in (0, 17, 18, 19, 20)] == [
        "train", "train", "val", "test", "train",
    ]  # fmt: skip
    seen: dict[tuple[str, str, str], str] = {}
    for index in range(4000):
        assert seen.setdefault(combination(0, index), split_of(index)) == split_of(index)


def test_every_plot_is_used(stories: list[Story]) -> None:
    """At least 2,000 words and 40 plots; no field and no mark is left in the text."""
    plots = {plot.name for plot in read_scripts("plots")}
    assert len(plots) >= 40
    assert {combination(0, index)[0] for index in range(MANY)} == {*plots, PRIMER}
    words = set(re.findall(r"[a-z]+", " ".join(text.lower() for text, _ in stories)))
    assert len(words) >= 2000
    assert not any(re.search(r"[{}<>\[\]|@_]", text) for text, _ in stories)


def test_articles_and_quotation_marks(stories: list[Story]) -> None:
    """A stands before a consonant, an before a vowel and "hour"; quotation marks come in pairs."""
    wrong = re.compile(r"\b[Aa] (?!use)[aeiou]|\b[Aa]n (?!hour)(?:[^aeiouAEIOU]|use)")
    for text, _ in stories:
        assert not wrong.search(text), text
        assert "  " not in text
        assert all(part.count('"') % 2 == 0 for part in text.split("\n\n")), text


def test_the_source_stories_gives_these(stories: list[Story]) -> None:
    source = open_source("stories", stories=40)
    documents = list(source.documents())
    assert [document.text for document in documents] == [text for text, _ in stories[:40]]
    assert [document.split for document in documents].count("val") == 2
    assert source.fingerprint() != open_source("stories", stories=41).fingerprint()
